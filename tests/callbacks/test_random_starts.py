"""Episodes that do not all end together."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.vec_env import VecMonitor

from sb3_strl import PPO
from sb3_strl.callbacks.random_starts import RandomStarts
from tests.envs.toy import Balance, PointMass


def first_ends(env: Any, toy: Any, callback: Any) -> list[int]:
    """Return the lengths that the environment believed in when training began."""
    seen: list[int] = []
    original = toy.step_tensor

    def step(actions: th.Tensor) -> Any:
        seen.extend(toy.episode_length_buf.tolist() if not seen else [])
        return original(actions)

    toy.step_tensor = step
    model = PPO("MlpPolicy", env, n_steps=4, n_minibatches=1, n_epochs=1, seed=0)
    model.learn(1, callback=callback)
    return seen


def test_lengths_differ() -> None:
    toy = Balance(16)
    lengths = first_ends(toy, toy, RandomStarts())
    assert len(set(lengths)) > 8
    assert all(0 <= length < 100 for length in lengths)


def test_wrappers_pass_it_on() -> None:
    toy = PointMass(8)
    assert len(set(first_ends(VecMonitor(toy), toy, RandomStarts()))) > 3


def test_without_it_all_begin_at_nothing() -> None:
    toy = Balance(16)
    assert first_ends(toy, toy, None) == [0] * 16


def test_a_restored_environment_is_left_alone() -> None:
    toy = PointMass(4, max_episode_length=100)
    model = PPO("MlpPolicy", toy, n_steps=4, n_minibatches=1, n_epochs=1, seed=0)
    model.learn(16)
    model.learn(1, callback=RandomStarts(), reset_num_timesteps=False)
    assert toy.episode_length_buf.tolist() == [8] * 4
