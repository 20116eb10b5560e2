"""What SB3's wrappers around a tensor environment carry from step to step."""

from __future__ import annotations

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_strl.common.types import TensorDict
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

_PREFIX = "wrappers/"
_CARRIED: dict[type[VecEnv], tuple[str, ...]] = {
    VecMonitor: ("episode_returns", "episode_lengths"),
    VecNormalize: ("returns",),  # its statistics are in the file that its user saves
    VecCheckNan: (),
    VecExtractDictObs: (),
    VecTransposeImage: (),
}


def get_wrapped_state(venv: VecEnv) -> TensorDict | None:
    """
    Return the state of a tensor environment and of the wrappers around it.

    :param venv: the outermost wrapper
    :return: tensors by name, ``None`` if the environment offers none, or something unknown is
        around it
    """
    inner = venv.unwrapped
    state = inner.get_state() if isinstance(inner, TensorVecEnv) else None
    arrays = _find_arrays(venv)
    if state is None or arrays is None:
        return None
    return {**state, **{name: th.tensor(array) for name, array in arrays.items()}}


def set_wrapped_state(venv: VecEnv, state: TensorDict) -> None:
    """
    Continue exactly where :func:`get_wrapped_state` was called.

    A wrapper that was not there then starts with nothing.

    :param venv: the outermost wrapper
    :param state: of as many environments
    """
    venv.unwrapped.set_state(state_of_env(state))  # type: ignore[attr-defined]  # has given one
    for name, array in (_find_arrays(venv) or {}).items():
        if name in state:
            array[...] = state[name].cpu().numpy()


def state_of_env(state: TensorDict) -> TensorDict:
    """Return a state without that of the wrappers."""
    return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}


def _known_kind(cls: type[VecEnv]) -> type[VecEnv] | None:
    """Return the wrapper that a class is, or is derived from without doing anything of its own."""
    for kind in cls.__mro__:
        if kind in _CARRIED:
            return kind
        if {"reset", "step_async", "step_wait"} & vars(kind).keys():
            return None
    return None


def _find_arrays(venv: VecEnv) -> dict[str, np.ndarray] | None:
    found = {}
    while isinstance(venv, VecEnvWrapper):
        kind = _known_kind(type(venv))
        if kind is None:
            return None
        for name in _CARRIED[kind]:
            found[f"{_PREFIX}{kind.__name__}/{name}"] = vars(venv)[name]
        venv = venv.venv
    if isinstance(venv, TensorVecEnv):
        found |= {f"{_PREFIX}{name}": array for name, array in venv.episode_counters.items()}
    return found
