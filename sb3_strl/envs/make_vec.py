"""One way to any environment: by id, from Gymnasium, from an SB3 VecEnv, from a simulator."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest
from sb3_strl.envs.numpy_bridge import NumpyBridge
from sb3_strl.envs.registration import (
    find_simulator,
    make_adapter,
    make_tensor_env,
    register_gym_ids,
    tensor_env_ids,
)
from sb3_strl.envs.simulator_tasks import register_simulator_task
from sb3_strl.envs.tensor_vec_env import TensorVecEnv


def make_vec(
    env: Any,
    n_envs: int | None = None,
    device: th.device | str | None = None,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None = None,
    **env_options: Any,
) -> TensorVecEnv:
    """
    Make a tensor environment of whatever is given.

    .. code-block:: python

        make_vec("sb3_strl/Walker-v0", n_envs=64, seed=0, max_episode_length=300)
        make_vec("Pendulum-v1", n_envs=4, g=9.81)
        make_vec("mjlab/Mjlab-Velocity-Flat-Unitree-Go1", n_envs=4096, device="cuda:0")
        make_vec(SubprocVecEnv([make_robot] * 8), device="cuda")
        make_vec(gymnasium.make("Isaac-Velocity-Flat-Anymal-D-v0", cfg=cfg))
        make_vec(brax.envs.get_environment("ant"), n_envs=2048, episode_length=500)

    :param env: the id of a batched environment (:func:`register_tensor_env`), of a Gymnasium
        environment or of a simulator's task (``"mjlab/..."``, ``"isaaclab/..."``,
        ``"playground/..."``); a Gymnasium environment; an SB3 ``VecEnv``; a ``gymnasium.vector``
        environment; an environment of Isaac Lab, mjlab, rsl_rl, ManiSkill, Genesis, Brax, MuJoCo
        Playground or EnvPool, recognised without importing the simulator; a tensor environment is
        returned as it is
    :param n_envs: number of environments, default 1; of something that exists, it may only confirm
        the number that it has
    :param device: where the tensors live, default the CPU; likewise
    :param seed: of all random numbers of the environment; ``None`` takes any
    :param env_kwargs: options of the environment's constructor, or of the simulator's adapter
    :param vec_env_cls: SB3 class that runs Gymnasium environments, default ``DummyVecEnv``
    :param env_options: further options of the environment's constructor
    :raises StrlTypeError: if ``env`` is something else, or an option is unknown to the environment
    :raises StrlValueError: if the id is unknown, or a number or option contradicts what is given
    """
    if n_envs is not None and n_envs < 1:
        raise StrlValueError(f"make_vec: n_envs is {n_envs}. Expected at least 1 environment.")
    options = _merge_options(env_kwargs, env_options)
    if isinstance(env, str):
        return _from_id(env, n_envs or 1, device, seed, options, vec_env_cls)
    simulator = None if isinstance(env, VecEnv) else find_simulator(env)
    if simulator is not None:
        return _from_simulator(simulator, env, n_envs, device, seed, options, vec_env_cls)
    venv = _as_vec_env(env)
    _check_existing(venv, n_envs, device, options, vec_env_cls)
    if seed is not None:
        venv.seed(seed)
    return venv if isinstance(venv, TensorVecEnv) else NumpyBridge(venv, device or "cpu")


def _merge_options(
    env_kwargs: dict[str, Any] | None, env_options: dict[str, Any]
) -> dict[str, Any]:
    twice = sorted(set(env_kwargs or {}) & set(env_options))
    if twice:
        raise StrlValueError(
            f"make_vec: {twice} are given twice. Expected each option once, in env_kwargs or as a "
            "keyword."
        )
    return {**(env_kwargs or {}), **env_options}


def _from_id(
    env_id: str,
    n_envs: int,
    device: th.device | str | None,
    seed: int | None,
    options: dict[str, Any],
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None,
) -> TensorVecEnv:
    if register_simulator_task(env_id) or env_id in tensor_env_ids():
        if vec_env_cls is not None:
            raise StrlValueError(
                f"make_vec: vec_env_cls={vec_env_cls.__name__} with '{env_id}', which is a batch "
                "already. Expected none. Leave out vec_env_cls."
            )
        return make_tensor_env(env_id, n_envs, device or "cpu", seed, options)
    register_gym_ids()
    # With "module:id", Gymnasium imports the module before it looks.
    if ":" not in env_id and env_id not in gym.registry:
        known = [*tensor_env_ids(), *gym.registry]
        raise StrlValueError(
            f"make_vec: there is no environment '{env_id}'.{suggest(env_id, known)} Expected one "
            f"of {tensor_env_ids()} or an id that gymnasium.make knows "
            "(gymnasium.pprint_registry() lists them). Import the package that registers it."
        )
    try:
        venv = make_vec_env(env_id, n_envs, seed=seed, env_kwargs=options, vec_env_cls=vec_env_cls)
    except TypeError as error:
        raise StrlTypeError(
            f"make_vec('{env_id}'): the environment refuses its options {sorted(options)}: {error}"
        ) from error
    return NumpyBridge(venv, device or "cpu")


def _from_simulator(
    simulator: str,
    env: Any,
    n_envs: int | None,
    device: th.device | str | None,
    seed: int | None,
    options: dict[str, Any],
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None,
) -> TensorVecEnv:
    wishes = {"n_envs": n_envs, "device": device, "seed": seed}
    venv = make_adapter(simulator, env, {**options, **wishes})
    _check_existing(venv, n_envs, device, {}, vec_env_cls)
    if seed is not None:
        venv.seed(seed)
    return venv


def _as_vec_env(env: Any) -> VecEnv:
    if isinstance(env, VecEnv):
        return env
    if getattr(env, "is_vector_env", False):
        raise StrlTypeError(
            f"make_vec: env is a {type(env).__name__}, a batch of a kind that is not known. "
            "Expected an id, a gymnasium.Env, a stable_baselines3 VecEnv, a TensorVecEnv or an "
            "environment of a simulator that has an adapter. Derive from TensorVecEnv, or pass the "
            "id of the single environment and n_envs."
        )
    if isinstance(env, gym.Env):
        monitored: gym.Env[Any, Any] = env if _has_monitor(env) else Monitor(env)
        return DummyVecEnv([lambda: monitored])
    raise StrlTypeError(
        f"make_vec: env is a {type(env).__name__} ({env!r:.80}). Expected an id, a gymnasium.Env, "
        "a stable_baselines3 VecEnv, a TensorVecEnv or an environment of a simulator. Pass an "
        "instance, not a class or a function."
    )


def _has_monitor(env: gym.Env[Any, Any]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, Monitor):
            return True
        env = env.env
    return False


def _check_existing(
    venv: VecEnv,
    n_envs: int | None,
    device: th.device | str | None,
    options: dict[str, Any],
    vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv] | None,
) -> None:
    """Refuse wishes that come too late, because the environment exists."""
    name = type(venv).__name__
    if n_envs not in (None, venv.num_envs):
        raise StrlValueError(
            f"make_vec: n_envs is {n_envs}, but the {name} has {venv.num_envs}. Expected the same. "
            "Leave out n_envs, or pass an id."
        )
    if options or vec_env_cls is not None:
        given = sorted(options) + (["vec_env_cls"] if vec_env_cls is not None else [])
        raise StrlValueError(
            f"make_vec: options {given} with a {name} that exists already. Expected none. Pass "
            "them to its constructor, or pass an id."
        )
    if device is None or not isinstance(venv, TensorVecEnv):
        return
    wanted = th.device(device)
    if wanted.type != venv.device.type or wanted.index not in (None, venv.device.index):
        raise StrlValueError(
            f"make_vec: device is '{wanted}', but the {name} lives on '{venv.device}'. Expected "
            "the same. Leave out device."
        )
