"""
Names of policies; declarations only.

Grammar: ``[Encoder][Amp](Mlp)?Policy``. Every alias is :class:`StrlPolicy` with its parts named, so
that ``APPO("EncoderAmpPolicy", env)`` needs no ``policy_kwargs`` and a keyword for another part is
recognised as a slip.
"""

from __future__ import annotations

from sb3_strl.policies.actor_critic import StrlPolicy


class MlpPolicy(StrlPolicy):
    """Separate multilayer perceptrons for actor and critic."""

    alias_parts = frozenset()


class EncoderPolicy(StrlPolicy):
    """MlpPolicy with an encoder on named observation segments."""

    alias_parts = frozenset({"encoder"})


class AmpPolicy(StrlPolicy):
    """MlpPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"amp"})


class EncoderAmpPolicy(StrlPolicy):
    """EncoderPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"encoder", "amp"})


POLICY_ALIASES: dict[str, type[StrlPolicy]] = {
    "StrlPolicy": StrlPolicy,
    "MlpPolicy": MlpPolicy,
    "EncoderPolicy": EncoderPolicy,
    "AmpPolicy": AmpPolicy,
    "EncoderAmpPolicy": EncoderAmpPolicy,
}
