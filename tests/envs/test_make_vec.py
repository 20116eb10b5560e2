from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import NumpyBridge, make_vec, register_gym_ids, register_tensor_env, registration
from tests.envs.toy import PointMass

POINT = "toys/Point-v0"


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict(registration._TENSOR_ENTRY_POINTS)
    monkeypatch.setattr(registration, "_TENSOR_ENTRY_POINTS", entries)
    register_tensor_env(POINT, "tests.envs.toy:CounterEnv")


def make_point(n_envs: int, device: Any, seed: int | None, speed: float = 0.1) -> PointMass:
    return PointMass(n_envs, speed=speed, device=device, seed=seed)


# ---------------------------------------------------------------------- what it takes


def test_id_of_a_tensor_environment() -> None:
    env = make_vec(POINT, 3, device="cpu", seed=4, first_length=5)
    assert type(env).__name__ == "CounterEnv"
    assert env.num_envs == 3
    assert env.lengths[0] == 5
    assert env.generator.initial_seed() == 4
    assert make_vec(POINT).num_envs == 1


def test_options_in_a_dict_are_options() -> None:
    env = make_vec(POINT, env_kwargs={"first_length": 5}, plain=True)
    assert env.lengths[0] == 5
    assert env.observation_space.shape == (3,)


def test_entry_point_may_be_a_function() -> None:
    register_tensor_env("toys/Made-v0", make_point)
    env = make_vec("toys/Made-v0", 2, speed=0.3)
    assert isinstance(env, PointMass)
    assert env.speed == 0.3


def test_gymnasium_id() -> None:
    env = make_vec("Pendulum-v1", 2, seed=0, g=5.0)
    assert isinstance(env, NumpyBridge)
    assert env.get_attr("g") == [5.0, 5.0]
    assert env.env_is_wrapped(Monitor) == [True, True]
    again = make_vec("Pendulum-v1", 2, seed=0)
    assert th.equal(env.reset_tensor()["policy"], again.reset_tensor()["policy"])
    assert env.step_tensor(th.zeros(2, 1)).obs["policy"].shape == (2, 3)


@pytest.mark.integration
def test_gymnasium_id_in_subprocesses() -> None:
    env = make_vec("CartPole-v1", 2, vec_env_cls=SubprocVecEnv)
    try:
        assert env.reset_tensor()["policy"].shape == (2, 4)
    finally:
        env.close()


def test_gymnasium_environment() -> None:
    inner = gym.make("CartPole-v1")
    env = make_vec(inner, seed=3)
    assert isinstance(env, NumpyBridge)
    assert env.num_envs == 1
    assert env.env_is_wrapped(Monitor) == [True]
    first = env.reset_tensor()["policy"]
    env.seed(3)
    assert th.equal(env.reset_tensor()["policy"], first)


def test_monitor_is_not_doubled() -> None:
    monitored = Monitor(gym.make("CartPole-v1"))
    env = make_vec(monitored)
    assert env.venv.envs[0] is monitored
    wrapped = gym.wrappers.RecordEpisodeStatistics(monitored)
    assert make_vec(wrapped).venv.envs[0] is wrapped


def test_vec_env() -> None:
    venv = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    env = make_vec(venv, n_envs=2, device="cpu", seed=1)
    assert isinstance(env, NumpyBridge)
    assert env.venv is venv
    assert venv._seeds == [1, 2]


def test_tensor_environment() -> None:
    env = PointMass(2)
    assert make_vec(env, n_envs=2, device="cpu") is env
    make_vec(env, seed=9)
    first = env.reset_tensor()["policy"]
    assert th.equal(make_vec(PointMass(2), seed=9).reset_tensor()["policy"], first)


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
def test_wrapped_tensor_environment() -> None:
    assert isinstance(make_vec(VecMonitor(PointMass(2))), NumpyBridge)


# ---------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("sb3_strl/Walker-v1", "sb3_strl/Walker-v0"), ("Pendulm-v1", "Pendulum-v1")],
)
def test_unknown_id(typo: str, meant: str) -> None:
    with pytest.raises(
        StrlValueError, match=rf"there is no environment '{typo}'. Did you mean '{meant}'\?"
    ):
        make_vec(typo)


@pytest.mark.parametrize("n_envs", [0, -3])
def test_number_must_be_positive(n_envs: int) -> None:
    with pytest.raises(StrlValueError, match=f"make_vec: n_envs is {n_envs}. Expected at least 1"):
        make_vec(POINT, n_envs)


def test_another_number_than_there_is() -> None:
    with pytest.raises(StrlValueError, match="n_envs is 3, but the PointMass has 2"):
        make_vec(PointMass(2), n_envs=3)
    with pytest.raises(StrlValueError, match="n_envs is 2, but the DummyVecEnv has 1"):
        make_vec(gym.make("CartPole-v1"), n_envs=2)


def test_unknown_option_of_a_tensor_environment() -> None:
    register_tensor_env("toys/Made-v0", make_point)
    with pytest.raises(StrlTypeError, match=r"unknown option 'sped'. Did you mean 'speed'\?"):
        make_vec("toys/Made-v0", sped=1.0)


def test_unknown_option_of_a_gymnasium_environment() -> None:
    with pytest.raises(StrlTypeError, match=r"refuses its options \['gravity'\].*gravity"):
        make_vec("Pendulum-v1", gravity=5.0)


def test_option_given_twice() -> None:
    with pytest.raises(StrlValueError, match=r"\['g'\] are given twice"):
        make_vec("Pendulum-v1", env_kwargs={"g": 1.0}, g=2.0)


def test_options_of_something_that_exists() -> None:
    with pytest.raises(StrlValueError, match=r"options \['speed'\] with a PointMass that exists"):
        make_vec(PointMass(2), speed=0.1)
    with pytest.raises(StrlValueError, match=r"options \['vec_env_cls'\] with a PointMass"):
        make_vec(PointMass(2), vec_env_cls=DummyVecEnv)
    with pytest.raises(StrlValueError, match="vec_env_cls=DummyVecEnv with 'toys/Point-v0'"):
        make_vec(POINT, vec_env_cls=DummyVecEnv)


def test_another_device_than_it_lives_on() -> None:
    with pytest.raises(StrlValueError, match="device is 'meta', but the PointMass lives on 'cpu'"):
        make_vec(PointMass(2), device="meta")


def test_batches_of_unknown_kinds() -> None:
    single = gym.make("CartPole-v1")
    single.unwrapped.is_vector_env = True  # type: ignore[attr-defined]
    batch = single.unwrapped
    with pytest.raises(StrlTypeError, match="env is a CartPoleEnv, a batch of a kind that is not"):
        make_vec(batch)


@pytest.mark.parametrize("thing", [None, 3, np.zeros(2), PointMass])
def test_anything_else(thing: Any) -> None:
    with pytest.raises(StrlTypeError, match=r"make_vec: env is a \w+ .*Expected an id"):
        make_vec(thing)


# ---------------------------------------------------------------------- registration


def test_names_are_taken_once() -> None:
    register_tensor_env(POINT, "tests.envs.toy:CounterEnv")  # the same again is no mistake
    with pytest.raises(StrlValueError, match=f"'{POINT}' is registered already"):
        register_tensor_env(POINT, "tests.envs.toy:PointMass")
    with pytest.raises(StrlValueError, match=r"is 'tests.envs.toy'. Expected 'module:Class'"):
        register_tensor_env("toys/Other-v0", "tests.envs.toy")


def test_entry_points_make_tensor_environments() -> None:
    register_tensor_env(
        "toys/Wrong-v0",
        lambda n_envs, device, seed: gym.make("CartPole-v1"),  # type: ignore[arg-type,return-value]
    )
    with pytest.raises(StrlTypeError, match=r"its entry point made a \w+. Expected a TensorVecEnv"):
        make_vec("toys/Wrong-v0")


def test_gymnasium_learns_our_ids() -> None:
    register_gym_ids()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_gym_ids()
    assert gym.spec("sb3_strl/Walker-v0").entry_point == "sb3_strl.envs.walker_env:WalkerEnv"


@pytest.mark.integration
def test_importing_environments_imports_no_simulator() -> None:
    code = (
        "import sys, sb3_strl.envs as e; e.register_gym_ids(); "
        "heavy = ('mujoco', 'imitation', 'rl_zoo3'); "
        "sys.exit(any(m in sys.modules for m in heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
