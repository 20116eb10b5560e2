"""What the networks are: stages, policies and their aliases."""

from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.aliases import (
    POLICY_ALIASES,
    AmpLstmPolicy,
    AmpPolicy,
    EncoderAmpLstmPolicy,
    EncoderAmpPolicy,
    EncoderEstimatorAmpLstmPolicy,
    EncoderEstimatorLstmPolicy,
    EncoderEstimatorPolicy,
    EncoderLstmPolicy,
    EncoderPolicy,
    EstimatorAmpLstmPolicy,
    EstimatorLstmPolicy,
    EstimatorPolicy,
    MlpGruPolicy,
    MlpLstmPolicy,
    MlpPolicy,
    PrivilegeEstimatorLstmPolicy,
    PrivilegeEstimatorPolicy,
    VisualDeterministicLstmPolicy,
    VisualDeterministicPolicy,
    VisualLstmPolicy,
    VisualPolicy,
    resolve_policy_name,
)
from sb3_strl.policies.discriminator import AMPDiscriminator, DiscriminatorSpec
from sb3_strl.policies.loading import load_policy, read_policy_file, save_policy
from sb3_strl.policies.mutex import MutexPolicy
from sb3_strl.policies.mutex_field import ClimbMutexPolicy, FieldMutexPolicy
from sb3_strl.policies.mutex_sources import SubPolicy
from sb3_strl.policies.mutex_state import MutexState
from sb3_strl.policies.outputs import PolicyOutput
from sb3_strl.policies.stages import EncoderSpec

__all__ = [
    "POLICY_ALIASES",
    "AMPDiscriminator",
    "AmpLstmPolicy",
    "AmpPolicy",
    "ClimbMutexPolicy",
    "DiscriminatorSpec",
    "EncoderAmpLstmPolicy",
    "EncoderAmpPolicy",
    "EncoderEstimatorAmpLstmPolicy",
    "EncoderEstimatorLstmPolicy",
    "EncoderEstimatorPolicy",
    "EncoderLstmPolicy",
    "EncoderPolicy",
    "EncoderSpec",
    "EstimatorAmpLstmPolicy",
    "EstimatorLstmPolicy",
    "EstimatorPolicy",
    "FieldMutexPolicy",
    "MlpGruPolicy",
    "MlpLstmPolicy",
    "MlpPolicy",
    "MutexPolicy",
    "MutexState",
    "PolicyOutput",
    "PrivilegeEstimatorLstmPolicy",
    "PrivilegeEstimatorPolicy",
    "StrlPolicy",
    "SubPolicy",
    "VisualDeterministicLstmPolicy",
    "VisualDeterministicPolicy",
    "VisualLstmPolicy",
    "VisualPolicy",
    "load_policy",
    "read_policy_file",
    "resolve_policy_name",
    "save_policy",
]
