"""Names of environments: our own batched ones, and the ids that Gymnasium learns from us."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

EntryPoint = str | Callable[..., TensorVecEnv]

WALKER_ID = "sb3_strl/Walker-v0"

_GYM_ENTRY_POINTS = {WALKER_ID: "sb3_strl.envs.walker_env:WalkerEnv"}
_TENSOR_ENTRY_POINTS: dict[str, EntryPoint] = {WALKER_ID: "sb3_strl.envs.walker:WalkerVecEnv"}


def register_gym_ids() -> None:
    """Make ``gymnasium.make`` know our ids; imports nothing, and may be called again."""
    for env_id, entry_point in _GYM_ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point)


def register_tensor_env(env_id: str, entry_point: EntryPoint) -> None:
    """
    Give a batched environment a name for :func:`make_vec`.

    :param env_id: the name, best as Gymnasium's ``"namespace/Name-v0"``
    :param entry_point: ``"module:Class"``, imported when first used, or the class or function
        itself; called as ``entry_point(n_envs, device=..., seed=..., **options)``
    :raises StrlValueError: if the name belongs to another environment, or the entry point is a
        string of another form
    """
    known = _TENSOR_ENTRY_POINTS.get(env_id, entry_point)
    if known != entry_point:
        raise StrlValueError(
            f"register_tensor_env: '{env_id}' is registered already, as {known!r}. Expected a new "
            "name. Choose another one, or count up its version."
        )
    if isinstance(entry_point, str) and entry_point.count(":") != 1:
        raise StrlValueError(
            f"register_tensor_env: the entry point of '{env_id}' is '{entry_point}'. Expected "
            "'module:Class'."
        )
    _TENSOR_ENTRY_POINTS[env_id] = entry_point


def tensor_env_ids() -> list[str]:
    """Return the names of all batched environments."""
    return sorted(_TENSOR_ENTRY_POINTS)


def make_tensor_env(
    env_id: str, n_envs: int, device: Any, seed: int | None, options: dict[str, Any]
) -> TensorVecEnv:
    """
    Make a registered batched environment.

    :param options: what the environment's constructor takes beside the other three
    :raises StrlTypeError: if it does not take one of the options, or makes something else
    """
    entry_point = _TENSOR_ENTRY_POINTS[env_id]
    if isinstance(entry_point, str):
        module, name = entry_point.split(":")
        entry_point = getattr(importlib.import_module(module), name)
    assert callable(entry_point)
    parameters = inspect.signature(entry_point).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        known = [name for name in parameters if name not in ("n_envs", "device", "seed")]
        check_known(f"make_vec('{env_id}')", "option", options, known)
    env = entry_point(n_envs, device=device, seed=seed, **options)
    if not isinstance(env, TensorVecEnv):
        raise StrlTypeError(
            f"make_vec('{env_id}'): its entry point made a {type(env).__name__}. Expected a "
            "TensorVecEnv. Register a class derived from it."
        )
    return env
