"""What the networks are: stages, policies and their aliases."""

from sb3_strl.policies.actor_critic import PolicyOutput, StrlPolicy
from sb3_strl.policies.aliases import (
    POLICY_ALIASES,
    AmpPolicy,
    EncoderAmpPolicy,
    EncoderPolicy,
    MlpPolicy,
)
from sb3_strl.policies.discriminator import AMPDiscriminator, DiscriminatorSpec
from sb3_strl.policies.stages import EncoderSpec

__all__ = [
    "POLICY_ALIASES",
    "AMPDiscriminator",
    "AmpPolicy",
    "DiscriminatorSpec",
    "EncoderAmpPolicy",
    "EncoderPolicy",
    "EncoderSpec",
    "MlpPolicy",
    "PolicyOutput",
    "StrlPolicy",
]
