"""
Names of policies; declarations only.

Grammar: ``[Visual][Encoder][Privilege][Estimator][Amp][Deterministic](Mlp)?(Lstm|Gru)?Policy``.
Every name is :class:`StrlPolicy` with its parts named, so that ``APPO("EncoderAmpPolicy", env)``
needs no ``policy_kwargs`` and a keyword for another part is recognised as a slip. The names that
st_rl's classes had resolve too. Classes that are not spelt out here are made at the end of this
module, under their names, so that they too are found by import path.
"""

from __future__ import annotations

import difflib
import itertools
import re
import types
from collections.abc import Mapping

from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies.actor_critic import StrlPolicy


class MlpPolicy(StrlPolicy):
    """Separate multilayer perceptrons for actor and critic."""

    alias_parts = frozenset()
    alias_rnn = None


class MlpLstmPolicy(StrlPolicy):
    """MlpPolicy with an LSTM before each perceptron."""

    alias_parts = frozenset()
    alias_rnn = "lstm"


class MlpGruPolicy(StrlPolicy):
    """MlpPolicy with a GRU before each perceptron."""

    alias_parts = frozenset()
    alias_rnn = "gru"


class EncoderPolicy(StrlPolicy):
    """MlpPolicy with an encoder on named observation segments."""

    alias_parts = frozenset({"encoder"})
    alias_rnn = None


class EncoderLstmPolicy(StrlPolicy):
    """EncoderPolicy with an LSTM."""

    alias_parts = frozenset({"encoder"})
    alias_rnn = "lstm"


class AmpPolicy(StrlPolicy):
    """MlpPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"amp"})
    alias_rnn = None


class AmpLstmPolicy(StrlPolicy):
    """AmpPolicy with an LSTM."""

    alias_parts = frozenset({"amp"})
    alias_rnn = "lstm"


class EncoderAmpPolicy(StrlPolicy):
    """EncoderPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"encoder", "amp"})
    alias_rnn = None


class EncoderAmpLstmPolicy(StrlPolicy):
    """EncoderAmpPolicy with an LSTM."""

    alias_parts = frozenset({"encoder", "amp"})
    alias_rnn = "lstm"


class EstimatorPolicy(StrlPolicy):
    """MlpPolicy with an estimator of state that the actor cannot observe."""

    alias_parts = frozenset({"estimator"})
    alias_rnn = None


class EstimatorLstmPolicy(StrlPolicy):
    """EstimatorPolicy with an LSTM."""

    alias_parts = frozenset({"estimator"})
    alias_rnn = "lstm"


class EncoderEstimatorPolicy(StrlPolicy):
    """EstimatorPolicy whose (partly estimated) observations then pass encoders."""

    alias_parts = frozenset({"encoder", "estimator"})
    alias_rnn = None


class EncoderEstimatorLstmPolicy(StrlPolicy):
    """EncoderEstimatorPolicy with an LSTM."""

    alias_parts = frozenset({"encoder", "estimator"})
    alias_rnn = "lstm"


class PrivilegeEstimatorPolicy(StrlPolicy):
    """EstimatorPolicy with a second estimator, for privileged observations."""

    alias_parts = frozenset({"adaptor", "estimator"})
    alias_rnn = None


class PrivilegeEstimatorLstmPolicy(StrlPolicy):
    """PrivilegeEstimatorPolicy with an LSTM."""

    alias_parts = frozenset({"adaptor", "estimator"})
    alias_rnn = "lstm"


class VisualPolicy(StrlPolicy):
    """MlpPolicy with a convolutional encoder on images."""

    alias_parts = frozenset({"visual"})
    alias_rnn = None


class VisualLstmPolicy(StrlPolicy):
    """VisualPolicy with an LSTM."""

    alias_parts = frozenset({"visual"})
    alias_rnn = "lstm"


class VisualDeterministicPolicy(StrlPolicy):
    """VisualPolicy that acts with the mean."""

    alias_parts = frozenset({"visual", "deterministic"})
    alias_rnn = None


class VisualDeterministicLstmPolicy(StrlPolicy):
    """VisualDeterministicPolicy with an LSTM."""

    alias_parts = frozenset({"visual", "deterministic"})
    alias_rnn = "lstm"


class EstimatorAmpLstmPolicy(StrlPolicy):
    """EstimatorLstmPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"estimator", "amp"})
    alias_rnn = "lstm"


class EncoderEstimatorAmpLstmPolicy(StrlPolicy):
    """EncoderEstimatorLstmPolicy with a discriminator for an adversarial motion prior."""

    alias_parts = frozenset({"encoder", "estimator", "amp"})
    alias_rnn = "lstm"


# ---------------------------------------------------------------------- the grammar

PART_WORDS: dict[str, str] = {
    "Visual": "visual",
    "Encoder": "encoder",
    "Privilege": "adaptor",
    "Estimator": "estimator",
    "Amp": "amp",
    "Deterministic": "deterministic",
}
"""Part by its word in a name, in the order in which words are written."""

_RNN_WORDS = {"": None, "Lstm": "lstm", "Gru": "gru"}

LEGACY_ALIASES: dict[str, str] = {
    "ActorCritic": "MlpPolicy",
    "ActorCriticRecurrent": "MlpLstmPolicy",
    "EncoderStateAc": "EncoderEstimatorPolicy",
    "EncoderStateAcRecurrent": "EncoderEstimatorLstmPolicy",
    "AmpActorCritic": "AmpPolicy",
    "AmpActorCriticRecurrent": "AmpLstmPolicy",
    "EncoderActorCritic": "EncoderPolicy",
    "EncoderActorCriticRecurrent": "EncoderLstmPolicy",
    "EncoderAmpActorCriticRecurrent": "EncoderAmpLstmPolicy",
    "PrivilegeStateAcRecurrent": "PrivilegeEstimatorLstmPolicy",
    "StateAc": "EstimatorPolicy",
    "StateAcRecurrent": "EstimatorLstmPolicy",
    "VisualDeterministicRecurrent": "VisualDeterministicLstmPolicy",
    "VisualDeterministicAC": "VisualDeterministicPolicy",
    "CnnPolicy": "VisualPolicy",
    "CnnLstmPolicy": "VisualLstmPolicy",
}
"""Names of st_rl's classes, and of Stable-Baselines3's policies for images."""

_DICT_NAMES = {"MultiInputPolicy": "MlpPolicy", "MultiInputLstmPolicy": "MlpLstmPolicy"}
"""What Stable-Baselines3 has for Dict observations, which every policy takes here."""

_NOT_TRAINABLE: dict[str, str] = {
    "MutexPolicy": "MutexPolicy",
    "FieldMutexPolicy": "FieldMutexPolicy",
    "ClimbMutexPolicy": "ClimbMutexPolicy",
    "ActorCriticMutex": "MutexPolicy",
    "ActorCriticFieldMutex": "FieldMutexPolicy",
    "ActorCriticClimbMutex": "ClimbMutexPolicy",
}


def _make_alias(name: str, parts: frozenset[str], rnn: str | None) -> type[StrlPolicy]:
    what = ", ".join(sorted(parts)) or "none"
    members = {
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": f"StrlPolicy with these parts: {what}; memory: {rnn or 'none'}.",
        "alias_parts": parts,
        "alias_rnn": rnn,
    }
    cls = types.new_class(
        name, (StrlPolicy,), exec_body=lambda namespace: namespace.update(members)
    )
    assert issubclass(cls, StrlPolicy)
    return cls


def _collect() -> dict[str, type[StrlPolicy]]:
    """Return every name of the grammar with its class, which becomes a name of this module."""
    module = globals()
    known: dict[str, type[StrlPolicy]] = {"StrlPolicy": StrlPolicy}
    choices = itertools.product((False, True), repeat=len(PART_WORDS))
    for chosen, (suffix, rnn) in itertools.product(choices, _RNN_WORDS.items()):
        words = list(itertools.compress(PART_WORDS, chosen))
        prefix = "".join(words)
        name = f"{prefix or 'Mlp'}{suffix}Policy"
        if name not in module:
            parts = frozenset(PART_WORDS[word] for word in words)
            module[name] = _make_alias(name, parts, rnn)
        known[name] = module[name]
        if prefix:
            known[f"{prefix}Mlp{suffix}Policy"] = known[name]
        elif suffix:
            known[f"{suffix}Policy"] = known[name]
    return known | {old: known[new] for old, new in LEGACY_ALIASES.items()}


POLICY_ALIASES: dict[str, type[StrlPolicy]] = _collect()
"""Class by name: every name of the grammar and the older names."""


def _close_names(name: str, known: Mapping[str, type[BasePolicy]]) -> list[str]:
    """Return the right order of the words of a name, if they are known, and similar names."""
    words = re.findall("[A-Z][a-z0-9]*", name)
    order = [*PART_WORDS, "Mlp", "Lstm", "Gru", "Policy"]
    ordered = sorted(words, key=order.index) if set(words) <= set(order) else []
    main_names = [key for key, cls in known.items() if key == cls.__name__ or key in LEGACY_ALIASES]
    close = difflib.get_close_matches(name, main_names, n=3, cutoff=0.6)
    return list(dict.fromkeys(key for key in ("".join(ordered), *close) if key in known))


def resolve_policy_name(
    name: str, where: str = "Policy", known: Mapping[str, type[BasePolicy]] = POLICY_ALIASES
) -> type[BasePolicy]:
    """
    Return the policy class of a name.

    :param name: a name of the grammar, or an older name
    :param where: who asks, for the message
    :param known: class by name
    :raises StrlValueError: if nobody knows the name; the message lists the closest names
    """
    if name in known:
        return known[name]
    if name in _NOT_TRAINABLE:
        cls = _NOT_TRAINABLE[name]
        raise StrlValueError(
            f"{where}: '{name}' chooses among trained policies and cannot be trained itself. Build "
            f"sb3_strl.policies.{cls}([...]) and call its predict, or pass it as a teacher."
        )
    if name in _DICT_NAMES:
        raise StrlValueError(
            f"{where}: unknown policy '{name}'. Use '{_DICT_NAMES[name]}', which takes Dict "
            "observations, too; its actor reads the group 'policy', or those that "
            'policy_kwargs=dict(obs_groups={"actor": [...]}) names.'
        )
    close = _close_names(name, known)
    hint = f" Did you mean {' or '.join(repr(item) for item in close)}?" if close else ""
    raise StrlValueError(
        f"{where}: unknown policy '{name}'.{hint} Expected a policy class, or a name of the form "
        "[Visual][Encoder][Privilege][Estimator][Amp][Deterministic][Mlp][Lstm|Gru]Policy, e.g. "
        "'MlpPolicy', 'EncoderAmpLstmPolicy', 'StrlPolicy'."
    )
