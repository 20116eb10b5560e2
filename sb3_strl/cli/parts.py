"""Are the options of a policy's parts known, and do their values fit?"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

import torch as th

from sb3_strl.cli.values import check_text_keys, check_values, hints_of
from sb3_strl.common.errors import check_known
from sb3_strl.policies.discriminator import DiscriminatorSpec
from sb3_strl.policies.distributions import RSL_RL_OPTIONS, GaussianHead
from sb3_strl.policies.estimation import EstimatorSpec
from sb3_strl.policies.memory import MemorySpec
from sb3_strl.policies.networks import Conv2dHeadModel, MlpModel
from sb3_strl.policies.stages import EncoderSpec
from sb3_strl.policies.visual import NETWORK_KEYS, VisualSpec

_PARTS: dict[str, type] = {
    "encoder": EncoderSpec,
    "visual": VisualSpec,
    "rnn": MemorySpec,
    "estimator": EstimatorSpec,
    "adaptor": EstimatorSpec,
    "amp_discriminator": DiscriminatorSpec,
}
_NETWORKS: dict[str, type] = {"MlpModel": MlpModel, "Conv2dHeadModel": Conv2dHeadModel}
# The policy itself knows these.
_NO_OPTIONS = ("input_size", "image_shape", "output_size", "params", "lr")

Hints = dict[str, Any]


def fitting_parts(where: str, policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a policy's keywords; what its parts, distribution and optimiser are told is known and
    fits.

    ``null`` is left to the parts, most of which take it for "as if it were not there".

    :param where: who complains
    :param policy_kwargs: keywords of :class:`~sb3_strl.policies.StrlPolicy`
    :raises StrlTypeError: on an unknown option, or a value of the wrong kind
    """
    found = dict(policy_kwargs)
    for name, part in _PARTS.items():
        if isinstance(found.get(name), Mapping):
            found[name] = _fitting_part(f"{where}: {name}", name, part, found[name])
    options = found.get("distribution_kwargs")
    if isinstance(options, Mapping) and not isinstance(found.get("distribution_class"), type):
        name = f"{where}: distribution_kwargs"
        found["distribution_kwargs"] = _fitting_distribution(name, options)
    options = found.get("optimizer_kwargs")
    if isinstance(options, Mapping) and found.get("optimizer_class") is None:
        hints = _options_of(th.optim.Adam)
        found["optimizer_kwargs"] = _fitting(f"{where}: optimizer_kwargs", options, hints)
    return found


def _fitting_distribution(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    hints = hints_of(GaussianHead, GaussianHead) | {"std_range": tuple[float, float]}
    del hints["action_dim"]
    hints |= {theirs: hints[ours] for theirs, ours in RSL_RL_OPTIONS.items()}
    check_text_keys(where, given)
    check_known(where, "option", given, list(hints))
    return check_values(where, given, hints)


def _fitting_part(where: str, name: str, part: type, given: Mapping[str, Any]) -> dict[str, Any]:
    network = _network_options(name, given)
    hints = {key: _as_from_dict(hint) for key, hint in hints_of(part, part).items()}
    if name == "visual":  # takes its network's options beside its own, and one name by itself
        hints |= {"component_name": hints["component_names"]}
        hints |= {key: network[key] for key in NETWORK_KEYS}
    found = _fitting(where, given, hints)
    for key in ("kwargs", "critic_kwargs"):
        inner = found.get(key)
        if network and isinstance(inner, Mapping):
            found[key] = _fitting(f"{where}: {key}", inner, network)
        elif network and isinstance(inner, list | tuple):  # one mapping for each component
            found[key] = [_fitting(f"{where}: {key}", one, network) for one in inner]
    return found


def _fitting(where: str, given: Mapping[str, Any], hints: Hints) -> dict[str, Any]:
    check_text_keys(where, given)
    check_known(where, "option", given, list(hints))
    there = {key: value for key, value in given.items() if value is not None}
    return {**given, **check_values(where, there, hints)}


def _network_options(name: str, given: Mapping[str, Any]) -> Hints:
    """Return what the networks of a part may be told; nothing if that is not known here."""
    if name == "visual":
        return _options_of(Conv2dHeadModel)
    if name != "encoder":
        return _options_of(MlpModel)
    names = given.get("class_name"), given.get("critic_class_name")
    if isinstance(names[0], str) and names[0] in _NETWORKS and names[1] in (None, names[0]):
        return _options_of(_NETWORKS[names[0]])
    if names == (None, None):  # a segment's shape decides
        return {**_options_of(Conv2dHeadModel), **_options_of(MlpModel)}
    return {}


def _options_of(cls: type) -> Hints:
    return {name: hint for name, hint in hints_of(cls, cls).items() if name not in _NO_OPTIONS}


def _as_from_dict(hint: Any) -> Any:
    """Return what ``from_dict`` takes for a field: a name by itself is a list of one name."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return hint | str | tuple[str | None, ...] if tuple[str, ...] in parts else hint
