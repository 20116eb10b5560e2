"""Weights that change between a file and a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch as th
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict

StateDictTransform = Callable[[TensorDict, TensorDict], TensorDict]
"""Returns the weights to load, given those of the file and those of the new policy."""


_SAVED_BY = {"motion_prior": "APPO", "distillation": "TPPO"}


def check_parameters(name: str, given: Collection[str], expected: Collection[str]) -> None:
    """
    Refuse what another algorithm saved.

    :param name: of the algorithm that loads
    :param given: names of the state dicts to load
    :param expected: names of those that the algorithm saves
    :raises StrlValueError: if there are others
    """
    unknown = sorted(set(given) - set(expected))
    if not unknown:
        return
    owners = sorted({_SAVED_BY.get(key.partition(".")[0], "") for key in unknown} - {""})
    by = f", {' or '.join(owners)} or one derived from it" if owners else ""
    raise StrlValueError(
        f"{name}: these are parameters of another algorithm{by}: {unknown} are none of {name}'s. "
        f"Expected {sorted(expected)}. Load the file with the class that saved it."
    )


def transform_parameters(
    parameters: Mapping[str, Any], policy: nn.Module, transform: StateDictTransform
) -> dict[str, Any]:
    """
    Return the parameters of a file with other weights for the policy.

    Optimizers keep their learning rates and forget their moments, which belong to the weights of
    the file.

    :param parameters: state dicts by name, as in SB3's files
    :param policy: what the weights are for, freshly made
    :param transform: gets copies of both sides
    :raises StrlTypeError: if the transform returns no dict
    """
    target = {name: value.clone() for name, value in policy.state_dict().items()}
    weights = transform(dict(parameters["policy"]), target)
    if not isinstance(weights, dict):
        raise StrlTypeError(
            f"load: state_dict_transform returned {type(weights).__name__}. Expected the dict of "
            "weights to load: def transform(source, target): return {**source, ...}."
        )
    changed = {name: dict(value, state={}) for name, value in parameters.items() if _is_adam(value)}
    return {**parameters, **changed, "policy": weights}


def _is_adam(state: object) -> bool:
    return (
        isinstance(state, dict)
        and {"state", "param_groups"} <= set(state)
        and not any(isinstance(value, th.Tensor) for value in state.values())
    )
