"""Policy keywords: synonyms brought together, parts checked against the alias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.activations import get_activation_cls
from sb3_strl.policies.discriminator import DiscriminatorSpec
from sb3_strl.policies.stages import EncoderSpec

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

    :raises StrlValueError: if two synonyms disagree
    :raises StrlTypeError: if ``net_arch`` has keys other than ``pi`` and ``vf``
    """
    arch: dict[str, tuple[int, ...]] = {}
    if isinstance(net_arch, Mapping):
        unknown = sorted(set(net_arch) - {"pi", "vf"})
        if unknown:
            raise StrlTypeError(
                f"Policy: net_arch has unknown keys {unknown}. Known keys: ['pi', 'vf']."
            )
        arch = {key: tuple(int(width) for width in value) for key, value in net_arch.items()}
    elif net_arch is not None:
        arch = {key: tuple(int(width) for width in net_arch) for key in ("pi", "vf")}
    pi = None if actor_hidden_dims is None else tuple(int(width) for width in actor_hidden_dims)
    vf = None if critic_hidden_dims is None else tuple(int(width) for width in critic_hidden_dims)
    first = None if activation is None else get_activation_cls(activation)
    std = None if log_std_init is None else math.exp(log_std_init)
    return NetOptions(
        pi=_agree(("net_arch['pi']", arch.get("pi")), ("actor_hidden_dims", pi), _DEFAULT_HIDDEN),
        vf=_agree(("net_arch['vf']", arch.get("vf")), ("critic_hidden_dims", vf), _DEFAULT_HIDDEN),
        activation=_agree(("activation", first), ("activation_fn", activation_fn), nn.ELU),
        init_noise_std=_agree(("init_noise_std", init_noise_std), ("exp(log_std_init)", std), 1.0),
    )


def check_parts(
    policy: str,
    alias_parts: frozenset[str] | None,
    encoder: Mapping[str, Any] | None,
    amp_discriminator: Mapping[str, Any] | None,
) -> tuple[EncoderSpec | None, DiscriminatorSpec | None]:
    """
    Return the specs of the parts that exist.

    A part that the alias names is on with its defaults; a part whose keyword is given to an alias
    that does not name it is an error, because it is far more often a slip than a wish.

    :raises StrlTypeError: for a keyword of a part that the alias does not name
    """
    given = {"encoder": encoder, "amp_discriminator": amp_discriminator}
    part_of = {"encoder": "encoder", "amp_discriminator": "amp"}
    if alias_parts is not None:
        for keyword, value in given.items():
            if value is not None and part_of[keyword] not in alias_parts:
                raise StrlTypeError(
                    f"{policy}: '{keyword}' was given, but this policy has no {part_of[keyword]} "
                    f"part. Its parts: {sorted(alias_parts)}. Use a policy whose name has "
                    f"'{part_of[keyword].title()}', or 'StrlPolicy', which takes any parts."
                )
    has_encoder = encoder is not None or (alias_parts is not None and "encoder" in alias_parts)
    has_amp = amp_discriminator is not None or (alias_parts is not None and "amp" in alias_parts)
    return (
        EncoderSpec.from_dict(encoder or {}) if has_encoder else None,
        DiscriminatorSpec.from_dict(amp_discriminator or {}) if has_amp else None,
    )
