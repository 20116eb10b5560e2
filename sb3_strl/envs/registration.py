"""Names of environments, and which adapter takes which simulator."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known
from sb3_strl.envs.hidden_velocities import hidden_env_ids
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

EntryPoint = str | Callable[..., TensorVecEnv]

WALKER_ID = "sb3_strl/Walker-v0"

_HIDDEN = "sb3_strl.envs.hidden_velocities:make_hidden"
_GYM_ENTRY_POINTS = {WALKER_ID: "sb3_strl.envs.walker_env:WalkerEnv"}
_TENSOR_ENTRY_POINTS: dict[str, EntryPoint] = {WALKER_ID: "sb3_strl.envs.walker:WalkerVecEnv"}

_ADAPTERS: dict[str, str] = {
    "rsl_rl": "sb3_strl.envs.rsl_rl:RslRlVecEnv",
    "isaaclab": "sb3_strl.envs.isaaclab:IsaacLabVecEnv",
    "mjlab": "sb3_strl.envs.mjlab:MjlabVecEnv",
    "mani_skill": "sb3_strl.envs.maniskill:ManiSkillVecEnv",
    "envpool": "sb3_strl.envs.envpool:EnvPoolVecEnv",
    "brax": "sb3_strl.envs.brax:BraxVecEnv",
    "genesis": "sb3_strl.envs.genesis:GenesisVecEnv",
    "gymnasium.vector": "sb3_strl.envs.gymnasium_vector:GymnasiumVecEnv",
}
_PACKAGES = {
    "rsl_rl": "rsl_rl",
    "isaaclab": "isaaclab",
    "omni": "isaaclab",  # omni.isaac.lab, Isaac Lab 1
    "mjlab": "mjlab",
    "mani_skill": "mani_skill",
    "envpool": "envpool",
    "brax": "brax",
    "mujoco_playground": "brax",
}
"""Which simulator a class belongs to, by the package of its nearest base class that tells."""
_RSL_RL_NEEDS = ("num_envs", "num_actions", "device", "get_observations", "step")


def register_gym_ids() -> None:
    """Make ``gymnasium.make`` know our ids; imports nothing, and may be called again."""
    for env_id, entry_point in _GYM_ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point)
    for env_id in hidden_env_ids():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=_HIDDEN, kwargs={"task": env_id})


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
    entry_point = _load(_TENSOR_ENTRY_POINTS[env_id])
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


def find_simulator(thing: Any) -> str | None:
    """
    Recognise an environment of a simulator, without importing that simulator.

    Its class, or a base class, belongs to the simulator's package. Failing that, it looks like what
    rsl_rl's runner asks for, where a scene of Genesis inside makes it Genesis's.

    :param thing: anything
    :return: ``"mjlab"``, ``"gymnasium.vector"``, ...; ``None`` if it is none that is known
    """
    if isinstance(thing, type):
        return None
    inner = getattr(thing, "unwrapped", thing)
    for owner in (thing, inner):  # an outer class decides: rsl_rl's wrapper around Isaac Lab's
        for cls in type(owner).__mro__:
            simulator = _PACKAGES.get(cls.__module__.split(".")[0])
            if simulator is not None:
                return simulator
    if isinstance(thing, gym.vector.VectorEnv):
        return "gymnasium.vector"
    if all(hasattr(thing, name) for name in _RSL_RL_NEEDS):
        scene = type(getattr(thing, "scene", None))
        return "genesis" if scene.__module__.split(".")[0] == "genesis" else "rsl_rl"
    return None


def make_adapter(simulator: str, thing: Any, wishes: dict[str, Any]) -> TensorVecEnv:
    """
    Wrap a simulator's environment.

    :param simulator: what :func:`find_simulator` returned
    :param thing: the environment
    :param wishes: options of the adapter; ``n_envs``, ``device`` and ``seed`` are passed on if the
        adapter chooses them
    :raises StrlTypeError: if the adapter does not take one of the options
    """
    adapter = _load(_ADAPTERS[simulator])
    known = [name for name in inspect.signature(adapter).parameters if name != "env"]
    general = ("n_envs", "device", "seed")
    options = {
        name: value for name, value in wishes.items() if name not in general or name in known
    }
    check_known(f"make_vec({adapter.__name__})", "option", options, known)
    env: TensorVecEnv = adapter(thing, **options)
    return env


def _load(entry_point: EntryPoint) -> Any:
    """Import what an entry point names."""
    if not isinstance(entry_point, str):
        return entry_point
    module, name = entry_point.split(":")
    return getattr(importlib.import_module(module), name)
