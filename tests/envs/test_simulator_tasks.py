"""Tasks of simulators by name, with doubles of the simulators."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch as th

from sb3_strl import make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import registration, simulator_tasks
from sb3_strl.envs.simulator_tasks import register_simulator_task, split_task
from tests.envs.toy import PointMass


@pytest.fixture(autouse=True)
def _clean_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict(registration._TENSOR_ENTRY_POINTS)
    monkeypatch.setattr(registration, "_TENSOR_ENTRY_POINTS", table)


def install(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Put doubles where imports look."""
    for name, content in modules.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(simulator_tasks, "find_spec", lambda name: object())


def catch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Note what goes to the adapter, and give a toy instead."""
    seen: list[tuple[Any, ...]] = []

    def adapter(simulator: str, made: Any, wishes: dict[str, Any]) -> Any:
        seen.append((simulator, made, wishes))
        return PointMass(2)

    monkeypatch.setattr(simulator_tasks, "make_adapter", adapter)
    return seen


def test_names_are_split() -> None:
    assert split_task("mjlab/A-B") == ("mjlab", "A-B")
    assert split_task("playground/X") == ("playground", "X")
    for name in ("Pendulum-v1", "sb3_strl/Walker-v0", "mjlab/", "mjlab", "--env"):
        assert split_task(name) is None
        assert not register_simulator_task(name)


def test_mjlab(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = SimpleNamespace(scene=SimpleNamespace(num_envs=1), seed=None)
    made: dict[str, Any] = {}

    def environment(cfg: Any, device: str, render_mode: str | None) -> str:
        made.update(cfg=cfg, device=device, render_mode=render_mode)
        return "the environment"

    registry = {"list_tasks": lambda: ["Go", "Stop"], "load_env_cfg": lambda task: cfg}
    install(
        monkeypatch,
        mjlab={},
        mjlab__tasks={},
        mjlab__tasks__registry=registry,
        mjlab__envs={"ManagerBasedRlEnv": environment},
    )
    seen = catch(monkeypatch)
    make_vec("mjlab/Go", 64, device="cpu", seed=3, env_kwargs={"adapter": {"final_obs": False}})
    assert (cfg.scene.num_envs, cfg.seed, made["device"]) == (64, 3, "cpu")
    assert made["cfg"] is cfg
    assert seen == [("mjlab", "the environment", {"final_obs": False, "seed": 3})]
    with pytest.raises(StrlValueError, match=r"mjlab has no task 'Stopp'. Did you mean 'Stop'"):
        make_vec("mjlab/Stopp", 1)
    with pytest.raises(StrlTypeError, match=r"Did you mean 'adapter'"):
        make_vec("mjlab/Go", 1, env_kwargs={"adaptr": {}})


def test_isaaclab_starts_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    cfg = SimpleNamespace(seed=None, compute_final_obs=False)

    def parse(task: str, device: str, num_envs: int) -> Any:
        order.append((task, device, num_envs))
        return cfg

    install(
        monkeypatch,
        isaaclab={},
        isaaclab__app={"AppLauncher": lambda **options: order.append(options)},
        isaaclab_tasks={},
        isaaclab_tasks__utils={"parse_env_cfg": parse},
    )
    env = SimpleNamespace(close=lambda: order.append("closed"))
    monkeypatch.setitem(gym.registry, "Robot-v0", None)
    monkeypatch.setattr(gym, "make", lambda task, **options: env)
    seen = catch(monkeypatch)
    make_vec("isaaclab/Robot-v0", 8, device="cuda:0", seed=5)
    assert order[0] == {"headless": True, "device": "cuda:0", "enable_cameras": False}
    assert order[1] == ("Robot-v0", "cuda:0", 8)
    assert cfg.compute_final_obs
    assert cfg.seed == 5
    assert seen[0][:2] == ("isaaclab", env)

    def refuse(simulator: str, made: Any, wishes: dict[str, Any]) -> Any:
        raise StrlTypeError("adapter: no. Expected yes. Do it.")

    monkeypatch.setattr(simulator_tasks, "make_adapter", refuse)
    with pytest.raises(StrlTypeError, match="adapter: no"):
        make_vec("isaaclab/Robot-v0", 8, device="cuda:0")
    assert order[-1] == "closed"


def test_playground(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def load(task: str, config_overrides: Any) -> str:
        loaded.append((task, config_overrides))
        return "robot"

    registry = SimpleNamespace(
        ALL_ENVS=("Go1", "G1"),
        load=load,
        get_default_config=lambda task: SimpleNamespace(episode_length=250),
    )
    install(monkeypatch, mujoco_playground={"registry": registry})
    seen = catch(monkeypatch)
    make_vec("playground/Go1", 16, seed=1, impl="jax")
    assert loaded == [("Go1", {"impl": "jax"})]
    wishes = {"episode_length": 250, "seed": 1, "n_envs": 16, "device": "cpu"}
    assert seen == [("brax", "robot", wishes)]
    with pytest.raises(StrlTypeError, match=r"render_mode is 'rgb_array'. Expected none"):
        make_vec("playground/Go1", 1, render_mode="rgb_array")


def test_a_simulator_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_tasks, "find_spec", lambda name: None)
    for name, package in (("mjlab", "mjlab"), ("isaaclab", "isaaclab"), ("playground", "playgr")):
        with pytest.raises(StrlTypeError, match=rf"{package}.* is not installed.*Install it"):
            make_vec(f"{name}/Task", 1)


@pytest.mark.sim
@pytest.mark.parametrize("task", ["mjlab/Mjlab-Cartpole-Balance", "playground/CartpoleBalance"])
def test_real_simulators(task: str) -> None:
    pytest.importorskip({"mjlab": "mjlab", "playground": "mujoco_playground"}[task.split("/")[0]])
    env = make_vec(task, 4, device="cpu", seed=0)
    obs = env.reset_tensor()
    step = env.step_tensor(th.zeros(4, *env.action_space.shape))
    assert obs["policy"].shape[0] == step.rewards.shape[0] == 4
    env.close()
