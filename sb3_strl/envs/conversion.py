"""From tensors to NumPy and back, without ever sharing memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import SINGLE_GROUP
from sb3_strl.common.types import TensorDict

NumpyObs = np.ndarray | dict[str, np.ndarray]
"""An observation as SB3's NumPy interface has it: one array, or one per key of a Dict space."""


def tensor_dtype(dtype: np.dtype[Any]) -> th.dtype:
    """Return how numbers of a NumPy type live in a tensor: float32, int64, uint8 or bool."""
    if dtype.kind == "f":
        return th.float32
    if dtype == np.uint8:
        return th.uint8
    return th.bool if dtype.kind == "b" else th.int64


def to_tensor(array: Any, device: th.device | str) -> th.Tensor:
    """
    Copy an array to a tensor of the matching type of :func:`tensor_dtype`.

    :param array: anything that NumPy understands
    :param device: where the tensor lives
    :return: a new tensor, which never shares the array's memory
    """
    array = np.asarray(array)
    return th.tensor(array, dtype=tensor_dtype(array.dtype), device=device)


def to_array(tensor: th.Tensor, dtype: Any = None) -> np.ndarray:
    """
    Copy a tensor to an array.

    :param tensor: on any device
    :param dtype: type of the array; default the tensor's
    :return: a new array, which never shares the tensor's memory
    """
    return np.array(tensor.detach().cpu().numpy(), dtype=dtype)


def obs_to_tensors(obs: Any, device: th.device | str) -> TensorDict:
    """
    Copy a NumPy observation to observation groups.

    :param obs: an array, which becomes the group ``"policy"``, or arrays by key
    :param device: where the tensors live
    :raises StrlTypeError: if the observation is a tuple
    """
    if isinstance(obs, tuple):
        raise StrlTypeError(
            "obs_to_tensors: the observation is a tuple. Expected an array or a dict of arrays. "
            "Did you pass the (obs, info) pair of a Gymnasium reset()? Pass its first item."
        )
    if isinstance(obs, Mapping):
        return {str(key): to_tensor(value, device) for key, value in obs.items()}
    return {SINGLE_GROUP: to_tensor(obs, device)}


def obs_to_numpy(obs: TensorDict, space: spaces.Space[Any]) -> NumpyObs:
    """
    Copy observation groups to what the observation space describes.

    :param obs: groups; a space that is no Dict has the single group ``"policy"``
    :param space: the observation space, which also names the types
    """
    if isinstance(space, spaces.Dict):
        return {key: to_array(obs[key], part.dtype) for key, part in space.spaces.items()}
    return to_array(obs[SINGLE_GROUP], space.dtype)


def check_spaces(
    where: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    """
    Refuse spaces that no algorithm here can use.

    :param where: who complains
    :raises StrlTypeError: if the observation space is nested or a Tuple, or the action space is of
        an unknown kind
    :raises StrlValueError: if actions are unbounded
    """
    parts = (
        dict(observation_space.spaces)
        if isinstance(observation_space, spaces.Dict)
        else {SINGLE_GROUP: observation_space}
    )
    leaves = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    for name, part in parts.items():
        if not isinstance(part, leaves):
            raise StrlTypeError(
                f"{where}: observation group '{name}' is a {type(part).__name__} space. Expected "
                "Box, Discrete, MultiDiscrete or MultiBinary. Flatten nested spaces to keys such "
                "as 'group/term'."
            )
    if not isinstance(action_space, leaves):
        raise StrlTypeError(
            f"{where}: the action space is a {type(action_space).__name__} space. Expected Box, "
            "Discrete, MultiDiscrete or MultiBinary."
        )
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded("both"):
        raise StrlValueError(
            f"{where}: the action space {action_space} is unbounded. Expected finite bounds, which "
            "the algorithm clips to. Give the environment a Box with finite low and high."
        )
