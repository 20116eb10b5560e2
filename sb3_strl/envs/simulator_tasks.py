"""Tasks of simulators by name: ``"mjlab/..."``, ``"isaaclab/..."``, ``"playground/..."``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import gymnasium as gym

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, suggest
from sb3_strl.envs.registration import make_adapter, register_tensor_env, tensor_env_ids
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

_INSTALL = {
    "mjlab": ("mjlab", "pip install mjlab, in an environment of its own"),
    "isaaclab": ("isaaclab", "see Isaac Lab's installation guide"),
    "playground": ("mujoco_playground", "pip install playground 'sb3_strl[brax]'"),
}
SINGLE_PROCESS = ("isaaclab",)
"""Simulators that can be made once per process, so that a second environment is impossible."""


def split_task(env_id: str) -> tuple[str, str] | None:
    """
    Return simulator and task of a name, ``None`` if it is no simulator's.

    :param env_id: e.g. ``"mjlab/Mjlab-Velocity-Flat-Unitree-Go1"``
    """
    simulator, slash, task = env_id.partition("/")
    return (simulator, task) if slash and task and simulator in _INSTALL else None


def register_simulator_task(env_id: str) -> bool:
    """
    Give a simulator's task a name for :func:`~sb3_strl.make_vec`; imports nothing.

    :param env_id: ``"simulator/task"``
    :return: whether it is a simulator's
    """
    found = split_task(env_id)
    if found is not None and env_id not in tensor_env_ids():
        register_tensor_env(env_id, functools.partial(_MAKERS[found[0]], found[1]))
    return found is not None


def make_mjlab(
    task: str,
    n_envs: int,
    device: Any = "cpu",
    seed: int | None = None,
    render_mode: str | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> TensorVecEnv:
    """
    Make a task of mjlab.

    :param task: e.g. ``"Mjlab-Velocity-Flat-Unitree-Go1"``
    :param n_envs: environments
    :param device: of simulator and tensors
    :param seed: of its random numbers
    :param render_mode: of the simulator
    :param adapter: options of :class:`~sb3_strl.envs.MjlabVecEnv`
    :raises StrlTypeError: if mjlab is not installed
    :raises StrlValueError: if it has no such task
    """
    _need("mjlab")
    importlib.import_module("mjlab.tasks")  # registers the tasks
    registry: Any = importlib.import_module("mjlab.tasks.registry")
    _check_task("mjlab", task, list(registry.list_tasks()))
    cfg = registry.load_env_cfg(task)
    cfg.scene.num_envs = n_envs
    cfg.seed = seed
    envs: Any = importlib.import_module("mjlab.envs")
    made = envs.ManagerBasedRlEnv(cfg, device=str(device), render_mode=render_mode)
    return _wrap("mjlab", made, adapter, seed=seed)


def make_isaaclab(
    task: str,
    n_envs: int,
    device: Any = "cuda:0",
    seed: int | None = None,
    render_mode: str | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> TensorVecEnv:
    """
    Start Isaac Sim without a window, and make a task of Isaac Lab; once per process.

    :param task: e.g. ``"Isaac-Velocity-Flat-Anymal-D-v0"``
    :param n_envs: environments
    :param device: of simulator and tensors
    :param seed: of its random numbers
    :param render_mode: ``"rgb_array"`` switches cameras on
    :param adapter: options of :class:`~sb3_strl.envs.IsaacLabVecEnv`
    :raises StrlTypeError: if Isaac Lab is not installed
    :raises StrlValueError: if it has no such task
    """
    _need("isaaclab")
    app: Any = importlib.import_module("isaaclab.app")
    # Before anything else of Isaac Lab is imported.
    app.AppLauncher(headless=True, device=str(device), enable_cameras=render_mode is not None)
    importlib.import_module("isaaclab_tasks")  # registers the tasks
    _check_task("isaaclab", task, list(gym.registry))
    utils: Any = importlib.import_module("isaaclab_tasks.utils")
    cfg = utils.parse_env_cfg(task, device=str(device), num_envs=n_envs)
    cfg.seed = seed
    if hasattr(cfg, "compute_final_obs"):
        cfg.compute_final_obs = True  # true values of time-outs, where Isaac Lab can
    made: Any = gym.make(task, cfg=cfg, render_mode=render_mode)
    return _wrap("isaaclab", made, adapter, seed=None)


def make_playground(
    task: str,
    n_envs: int,
    device: Any = None,
    seed: int | None = None,
    render_mode: str | None = None,
    impl: str | None = None,
    adapter: Mapping[str, Any] | None = None,
) -> TensorVecEnv:
    """
    Make a task of MuJoCo Playground.

    :param task: e.g. ``"Go1JoystickFlatTerrain"``
    :param n_envs: environments
    :param device: where the tensors live, default where JAX computes
    :param seed: of its random keys
    :param render_mode: not for this simulator
    :param impl: ``"jax"`` or ``"warp"``, default the task's
    :param adapter: options of :class:`~sb3_strl.envs.BraxVecEnv`
    :raises StrlTypeError: if Playground is not installed, or pictures are wanted
    :raises StrlValueError: if it has no such task
    """
    _need("playground")
    if render_mode is not None:
        raise StrlTypeError(
            f"playground/{task}: render_mode is '{render_mode}'. Expected none: this simulator "
            "draws trajectories afterwards. Leave it out, e.g. with --no-render."
        )
    registry: Any = importlib.import_module("mujoco_playground").registry
    _check_task("playground", task, list(registry.ALL_ENVS))
    overrides = None if impl is None else {"impl": impl}
    robot = registry.load(task, config_overrides=overrides)
    options = {"episode_length": int(registry.get_default_config(task).episode_length)}
    options.update(adapter or {})
    return _wrap("brax", robot, options, seed=seed, n_envs=n_envs, device=device)


_MAKERS: dict[str, Callable[..., TensorVecEnv]] = {
    "mjlab": make_mjlab,
    "isaaclab": make_isaaclab,
    "playground": make_playground,
}


def _need(simulator: str) -> None:
    package, how = _INSTALL[simulator]
    if find_spec(package) is None:
        raise StrlTypeError(
            f"make_vec('{simulator}/...'): {package} is not installed. Expected it in this "
            f"environment. Install it: {how}."
        )


def _check_task(simulator: str, task: str, known: list[str]) -> None:
    if task not in known:
        raise StrlValueError(
            f"make_vec('{simulator}/{task}'): {simulator} has no task '{task}'."
            f"{suggest(task, known)} Expected one of its {len(known)} tasks. Import the package "
            "that registers it."
        )


def _wrap(
    simulator: str, made: Any, adapter: Mapping[str, Any] | None, **wishes: Any
) -> TensorVecEnv:
    """Wrap what was made; close it if the adapter refuses its options."""
    options = dict(adapter or {})
    try:
        return make_adapter(simulator, made, {**options, **wishes})
    except (StrlTypeError, StrlValueError, StrlKeyError):
        close = getattr(made, "close", None)
        if callable(close):
            close()
        raise
