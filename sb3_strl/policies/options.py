"""Policy keywords: synonyms brought together, parts checked against the alias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.activations import get_activation_cls

_DEFAULT_HIDDEN = (256, 256, 256)


@dataclass(frozen=True)
class NetOptions:
    """
    What the trunks are made of.

    :param pi: hidden widths of the actor
    :param vf: hidden widths of the critic
    :param activation: hidden activation
    :param init_noise_std: initial standard deviation of the actions
    """

    pi: tuple[int, ...]
    vf: tuple[int, ...]
    activation: type[nn.Module]
    init_noise_std: float


def _agree(first: tuple[str, Any], second: tuple[str, Any], default: Any) -> Any:
    """Return the value of two synonyms."""
    (name, value), (other_name, other) = first, second
    if value is not None and other is not None and value != other:
        raise StrlValueError(
            f"Policy: {name}={value} and {other_name}={other} say two things about one. Give one "
            "of them."
        )
    chosen = value if value is not None else other
    return default if chosen is None else chosen


def refuse_sde(policy: str, use_sde: bool) -> None:
    """
    Refuse what is not there.

    :raises StrlTypeError: if generalised state-dependent exploration is asked for
    """
    if use_sde:
        raise StrlTypeError(
            f"{policy}: generalised state-dependent exploration (use_sde=True) is not supported. "
            "Use stable_baselines3.PPO for it, or leave use_sde out."
        )


def _widths(name: str, given: Any) -> tuple[int, ...]:
    """Return hidden widths."""
    if isinstance(given, list | tuple) and any(isinstance(width, Mapping) for width in given):
        raise StrlTypeError(
            f"Policy: {name} is {given}, as older Stable-Baselines3 spelt it. Write "
            "net_arch=dict(pi=[...], vf=[...]); actor and critic share no layers."
        )
    try:
        widths = [int(width) for width in given]
    except (TypeError, ValueError):
        widths = None
    if widths is None or widths != list(given):
        raise StrlTypeError(
            f"Policy: {name} is {given!r}. Expected a list of whole numbers, e.g. [256, 256]."
        )
    return tuple(widths)


def _exp(log_std_init: float) -> float:
    try:
        return math.exp(log_std_init)
    except (OverflowError, TypeError) as error:
        raise StrlValueError(
            f"Policy: log_std_init is {log_std_init!r}, the logarithm of the actions' standard "
            "deviation. Expected a small number: 0.0 for 1, -1.0 for 0.37."
        ) from error


def resolve_net_options(
    *,
    net_arch: Sequence[int] | Mapping[str, Sequence[int]] | None,
    actor_hidden_dims: Sequence[int] | None,
    critic_hidden_dims: Sequence[int] | None,
    activation: str | type[nn.Module] | None,
    activation_fn: type[nn.Module] | None,
    init_noise_std: float | None,
    log_std_init: float | None,
) -> NetOptions:
    """
    Bring SB3's, rsl_rl's and our names for the same things together.

    :raises StrlValueError: if two synonyms disagree, or ``log_std_init`` is too large
    :raises StrlTypeError: if ``net_arch`` has keys other than ``pi`` and ``vf``, or widths are no
        whole numbers
    """
    arch: dict[str, tuple[int, ...]] = {}
    if isinstance(net_arch, Mapping):
        unknown = sorted(set(net_arch) - {"pi", "vf"})
        if unknown:
            raise StrlTypeError(
                f"Policy: net_arch has unknown keys {unknown}. Known keys: ['pi', 'vf']."
            )
        arch = {key: _widths(f"net_arch['{key}']", value) for key, value in net_arch.items()}
    elif net_arch is not None:
        arch = dict.fromkeys(("pi", "vf"), _widths("net_arch", net_arch))
    pi = None if actor_hidden_dims is None else _widths("actor_hidden_dims", actor_hidden_dims)
    vf = None if critic_hidden_dims is None else _widths("critic_hidden_dims", critic_hidden_dims)
    first = None if activation is None else get_activation_cls(activation)
    std = None if log_std_init is None else _exp(log_std_init)
    return NetOptions(
        pi=_agree(("net_arch['pi']", arch.get("pi")), ("actor_hidden_dims", pi), _DEFAULT_HIDDEN),
        vf=_agree(("net_arch['vf']", arch.get("vf")), ("critic_hidden_dims", vf), _DEFAULT_HIDDEN),
        activation=_agree(("activation", first), ("activation_fn", activation_fn), nn.ELU),
        init_noise_std=_agree(("init_noise_std", init_noise_std), ("exp(log_std_init)", std), 1.0),
    )


@dataclass(frozen=True)
class PartOptions:
    """
    Keywords of the parts that a policy has; ``None`` for a part that it has not.

    :param encoder: see :class:`~sb3_strl.policies.stages.EncoderSpec`
    :param visual: see :class:`~sb3_strl.policies.visual.VisualSpec`
    :param rnn: keywords of the memory; ``"type"`` is always there
    :param estimator: keywords of the state estimator
    :param adaptor: keywords of the privilege adaptor
    :param amp: see :class:`~sb3_strl.policies.discriminator.DiscriminatorSpec`
    :param deterministic: act with the mean
    """

    encoder: Mapping[str, Any] | None
    visual: Mapping[str, Any] | None
    rnn: Mapping[str, Any] | None
    estimator: Mapping[str, Any] | None
    adaptor: Mapping[str, Any] | None
    amp: Mapping[str, Any] | None
    deterministic: bool


_PART_OF_KEYWORD = {
    "encoder": "encoder",
    "visual": "visual",
    "estimator": "estimator",
    "adaptor": "adaptor",
    "amp_discriminator": "amp",
    "deterministic": "deterministic",
}
_WORD_OF_PART = {"adaptor": "Privilege"}
_NOT_INFERRED = ("estimator", "adaptor")


def _check_named(policy: str, alias_parts: frozenset[str], given: Mapping[str, Any]) -> None:
    """Refuse keywords of parts that the alias does not name, and parts without keywords."""
    for keyword, value in given.items():
        part = _PART_OF_KEYWORD[keyword]
        if value not in (None, False) and part not in alias_parts:
            raise StrlTypeError(
                f"{policy}: '{keyword}' was given, but this policy has no {part} part. Its parts: "
                f"{sorted(alias_parts)}. Use a policy whose name has "
                f"'{_WORD_OF_PART.get(part, part.title())}', or 'StrlPolicy', which takes any "
                "parts."
            )
    for part in _NOT_INFERRED:
        if part in alias_parts and given[part] is None:
            raise StrlTypeError(
                f"{policy}: the {part} part cannot be inferred. Say what it reads and what it "
                f"estimates: policy_kwargs=dict({part}=dict(obs_components=[...], "
                "target_components=[...]))."
            )
    if "deterministic" in alias_parts and given["deterministic"] is False:
        raise StrlTypeError(
            f"{policy}: deterministic=False contradicts the policy's name. Leave it out, or use a "
            "policy whose name lacks 'Deterministic'."
        )


def _check_mappings(policy: str, given: Mapping[str, Any]) -> None:
    for keyword, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise StrlTypeError(
                f"{policy}: {keyword} is {value!r}. Expected a mapping of its keywords, e.g. "
                f"policy_kwargs=dict({keyword}=dict())."
            )


def _rnn_options(
    policy: str, alias_rnn: str | None, rnn: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    if rnn is None:
        return None if alias_rnn is None else {"type": alias_rnn}
    kind = rnn.get("type")
    if alias_rnn is not None and kind is not None and str(kind).lower() != alias_rnn:
        raise StrlValueError(
            f"{policy}: rnn=dict(type='{kind}') contradicts the policy's name, which says "
            f"'{alias_rnn}'. Leave the type out."
        )
    return {**rnn, "type": kind or alias_rnn or "lstm"}


def resolve_parts(
    policy: str,
    alias_parts: frozenset[str] | None,
    alias_rnn: str | None,
    *,
    encoder: Mapping[str, Any] | None = None,
    visual: Mapping[str, Any] | None = None,
    rnn: Mapping[str, Any] | None = None,
    estimator: Mapping[str, Any] | None = None,
    adaptor: Mapping[str, Any] | None = None,
    amp_discriminator: Mapping[str, Any] | None = None,
    deterministic: bool | None = None,
) -> PartOptions:
    """
    Return the keywords of the parts that exist.

    A part exists if its keyword is given or the alias names it. A named part is on with its
    defaults, except an estimator or adaptor, which cannot guess what to estimate. A part whose
    keyword is given to an alias that does not name it is an error, because it is far more often a
    slip than a wish; only ``rnn`` is welcome everywhere.

    :param policy: name of the policy, for messages
    :param alias_parts: parts in that name; ``None`` leaves the choice to the keywords
    :param alias_rnn: kind of memory in that name, ``None`` for none
    :raises StrlTypeError: for keywords of a part that the alias does not name, missing keywords, or
        keywords that are no mapping
    :raises StrlValueError: if ``rnn["type"]`` contradicts the alias
    """
    given: dict[str, Mapping[str, Any] | None] = {
        "encoder": encoder,
        "visual": visual,
        "estimator": estimator,
        "adaptor": adaptor,
        "amp_discriminator": amp_discriminator,
    }
    if alias_parts is not None:
        _check_named(policy, alias_parts, {**given, "deterministic": deterministic})
    named = alias_parts or frozenset()
    _check_mappings(policy, {**given, "rnn": rnn})

    def options(keyword: str) -> Mapping[str, Any] | None:
        if given[keyword] is None and _PART_OF_KEYWORD[keyword] in named:
            return {}
        return given[keyword]

    return PartOptions(
        encoder=options("encoder"),
        visual=options("visual"),
        rnn=_rnn_options(policy, alias_rnn, rnn),
        estimator=options("estimator"),
        adaptor=options("adaptor"),
        amp=options("amp_discriminator"),
        deterministic=bool(deterministic) or "deterministic" in named,
    )


# ---------------------------------------------------------------------- flat names

FLAT_NAMES: dict[str, tuple[str, str]] = {
    "rnn_type": ("rnn", "type"),
    "rnn_hidden_size": ("rnn", "hidden_size"),
    "rnn_hidden_dim": ("rnn", "hidden_size"),
    "lstm_hidden_size": ("rnn", "hidden_size"),
    "rnn_num_layers": ("rnn", "num_layers"),
    "n_lstm_layers": ("rnn", "num_layers"),
    "enable_critic_rnn": ("rnn", "critic"),
    "enable_critic_lstm": ("rnn", "critic"),
    "encoder_component_names": ("encoder", "component_names"),
    "encoder_class_name": ("encoder", "class_name"),
    "encoder_kwargs": ("encoder", "kwargs"),
    "encoder_output_size": ("encoder", "output_size"),
    "encoder_normalize_images": ("encoder", "normalize_images"),
    "critic_encoder_component_names": ("encoder", "critic_component_names"),
    "critic_encoder_class_name": ("encoder", "critic_class_name"),
    "critic_encoder_kwargs": ("encoder", "critic_kwargs"),
    "adaptor_obs_components": ("adaptor", "obs_components"),
    "adaptor_target_components": ("adaptor", "target_components"),
    "adaptor_kwargs": ("adaptor", "kwargs"),
    "privilege_replace_state_prob": ("adaptor", "replace_prob"),
    "estimator_obs_components": ("estimator", "obs_components"),
    "estimator_target_components": ("estimator", "target_components"),
    "estimator_kwargs": ("estimator", "kwargs"),
    "estimator_rnn": ("estimator", "rnn"),
    "use_actor_rnn": ("estimator", "use_actor_rnn"),
    "replace_state_prob": ("estimator", "replace_prob"),
    "inference_replace": ("estimator", "inference_replace"),
    "visual_component_name": ("visual", "component_names"),
    "visual_component_names": ("visual", "component_names"),
    "visual_latent_size": ("visual", "latent_size"),
    "visual_critic": ("visual", "critic"),
    "visual_kwargs": ("visual", "kwargs"),
}
"""Part and option by flat name, see :func:`fold_legacy_kwargs`."""


def fold_legacy_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Turn flat keywords into those of parts: ``rnn_type="gru"`` into ``rnn=dict(type="gru")``.

    The flat names are those of st_rl (``encoder_output_size``, ...), rsl_rl (``rnn_hidden_dim``)
    and sb3_contrib (``lstm_hidden_size``, ``n_lstm_layers``, ``enable_critic_lstm``). A flat name
    whose value is ``None`` says nothing.

    :param kwargs: ``policy_kwargs`` in any mixture of both forms; left as they are
    :return: the same without flat names
    :raises StrlValueError: if a flat name and another keyword give one thing two values
    """
    folded: dict[str, Any] = {key: value for key, value in kwargs.items() if key not in FLAT_NAMES}
    said_by: dict[tuple[str, str], str] = {}
    for name in (key for key in kwargs if key in FLAT_NAMES):
        value = kwargs[name]
        part, key = FLAT_NAMES[name]
        if value is None:
            continue
        options = dict(folded.get(part) or {})
        if key in options and options[key] != value:
            other = said_by.get((part, key), f"{part}['{key}']")
            raise StrlValueError(
                f"Policy: {name}={value} and {other}={options[key]} say two things about one. Give "
                "one of them."
            )
        options[key] = value
        said_by[part, key] = name
        folded[part] = options
    if "privileged_obs_segments" in folded:
        older = ("privileged_obs_segments", folded.pop("privileged_obs_segments"))
        newer = ("critic_obs_segments", folded.get("critic_obs_segments"))
        folded["critic_obs_segments"] = _agree(older, newer, None)
    return folded
