"""The single walker as a Gymnasium environment."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("mujoco")

from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_env import WalkerEnv


def test_gymnasium_checker() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_gymnasium(WalkerEnv(render_mode="rgb_array"))
    allowed = ("infinity", "not having a spec")
    assert [str(w.message) for w in caught if not any(a in str(w.message) for a in allowed)] == []


def test_sb3_checker() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_sb3(WalkerEnv(render_mode="rgb_array"))
    # The windows are matrices (K, F), which SB3 remarks on.
    assert [str(w.message) for w in caught if "unconventional shape" not in str(w.message)] == []


def test_reset_with_a_seed_is_reproducible() -> None:
    env = WalkerEnv()
    first, info = env.reset(seed=7)
    steps = [env.step(np.full(6, 0.1, dtype=np.float32)) for _ in range(3)]
    again, _ = env.reset(seed=7)
    assert info == {}
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for step in steps:
        step_again = env.step(np.full(6, 0.1, dtype=np.float32))
        np.testing.assert_array_equal(step[0]["policy"], step_again[0]["policy"])
        assert step[1:] == step_again[1:]
    other, _ = env.reset()
    assert not np.array_equal(first["policy"], other["policy"])


def test_steps_are_those_of_the_batched_environment() -> None:
    env, batch = WalkerEnv(seed=3), WalkerVecEnv(1, seed=3)
    env.reset()
    batch.reset_tensor()
    action = np.full(6, -0.2, dtype=np.float32)
    obs, reward, terminated, truncated, info = env.step(action)
    step = batch.step_tensor(batch.to_tensors(action[None])["policy"])
    np.testing.assert_array_equal(obs["critic"], step.obs["critic"][0].numpy())
    assert (reward, terminated, truncated) == (step.rewards.item(), False, False)
    assert info == {"amp_valid": True}


def test_last_observation_of_an_episode_is_not_the_next_ones() -> None:
    env = WalkerEnv(max_episode_length=2, seed=0)
    env.reset()
    env.step(np.zeros(6, dtype=np.float32))
    obs, _, terminated, truncated, _ = env.step(np.full(6, 0.3, dtype=np.float32))
    assert (terminated, truncated) == (False, True)
    np.testing.assert_allclose(obs["policy"][15:21], 0.3, rtol=1e-6)  # last_action, 0 after a reset


def test_render() -> None:
    env = WalkerEnv(render_mode="rgb_array", image_size=(96, 64))
    env.reset(seed=0)
    image = env.render()
    assert image is not None
    assert image.shape == (64, 96, 3)
    assert WalkerEnv().render() is None
    env.close()
