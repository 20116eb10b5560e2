"""Real pools of EnvPool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import EnvPoolVecEnv, TensorVecEnv, check_tensor_env

envpool = pytest.importorskip("envpool")

GO1 = "Go1JoystickFlatTerrain-v1"


def pool(name: str = "CartPole-v1", n_envs: int = 4, **options: Any) -> Any:
    options = {"env_type": "gymnasium", "num_threads": 1, "seed": 3, **options}
    return envpool.make(name, num_envs=n_envs, **options)


def test_recognised() -> None:
    env = make_vec(pool())
    assert isinstance(env, EnvPoolVecEnv)
    assert env.max_episode_length == 500
    assert isinstance(env.action_space, spaces.Discrete)


def test_promises() -> None:
    with pytest.warns(UserWarning, match="seeds are fixed when the pool is made, so seed=1234"):
        check_tensor_env(make_vec(pool()), n_steps=80, seeding=False)


def finished(env: TensorVecEnv, actions: th.Tensor, n_steps: int) -> Any:
    """Yield steps in which somebody finished."""
    env.reset_tensor()
    for _ in range(n_steps):
        step = env.step_tensor(actions)
        dones = step.terminated | step.truncated
        if dones.any():
            yield step, dones


def test_no_step_is_a_reset_in_disguise() -> None:
    env = make_vec(pool())
    n = 0
    for step, dones in finished(env, th.ones(4, dtype=th.int64), 60):
        n += int(dones.sum())
        assert step.final_obs is not None
        last, first = step.final_obs["policy"][dones], step.obs["policy"][dones]
        assert (last[:, 2].abs() > 0.2).all()  # the pole has fallen
        assert (first.abs() <= 0.05).all()  # CartPole begins near zero
        assert th.equal(step.final_obs["policy"][~dones], step.obs["policy"][~dones])
        assert (step.rewards == 1.0).all()
    assert n >= 8


def test_time_outs_are_apart() -> None:
    env = make_vec(pool("Pendulum-v1", max_episode_steps=5))
    steps = list(finished(env, th.zeros(4, 1), 12))
    assert len(steps) == 2
    for step, dones in steps:
        assert dones.all()
        assert step.truncated.all()
        assert not step.terminated.any()
        assert not th.equal(step.obs["policy"], step.final_obs["policy"])


def test_samples_equal_those_of_a_pool_by_itself() -> None:
    env = make_vec(pool("Pendulum-v1", max_episode_steps=5))
    alone = pool("Pendulum-v1", max_episode_steps=5)
    obs, _ = alone.reset()
    assert np.allclose(env.reset_tensor()["policy"].numpy(), obs)
    for t in range(1, 18):
        actions = np.full((4, 1), 0.1 * t, np.float32)
        obs, rewards, _, truncated, _ = alone.step(actions)
        step = env.step_tensor(th.tensor(actions))
        assert step.final_obs is not None
        assert np.allclose(step.final_obs["policy"].numpy(), obs)
        assert np.allclose(step.rewards.numpy(), rewards)
        if truncated.any():  # by itself, it would now spend a step on the reset
            obs = alone.step(actions)[0]
            assert np.allclose(step.obs["policy"].numpy(), obs)


def test_numbers_to_log() -> None:
    env = make_vec(pool(), log_keys=["elapsed_step"])
    env.reset_tensor()
    assert env.step_tensor(th.ones(4)).extras["log"]["info/elapsed_step"].item() == 1.0
    env = make_vec(pool(), log_keys=["elapsed"])
    env.reset_tensor()
    with pytest.raises(StrlValueError, match="names 'elapsed', which info does not have"):
        env.step_tensor(th.ones(4))


def test_other_interfaces_are_refused() -> None:
    with pytest.raises(StrlTypeError, match='Pass env_type="gymnasium"'):
        EnvPoolVecEnv(envpool.make("CartPole-v1", env_type="dm", num_envs=2))
    with pytest.raises(StrlValueError, match="batch_size is 2 of num_envs=4"):
        make_vec(pool(batch_size=2))


@pytest.mark.integration
def test_training_a_real_robot() -> None:
    env = make_vec(pool(GO1, 8))
    assert isinstance(env.observation_space, spaces.Dict)
    shapes = {name: part.shape for name, part in env.observation_space.spaces.items()}
    assert shapes == {"policy": (48,), "critic": (123,)}
    assert env.action_space.shape == (12,)
    model = PPO("MlpPolicy", env, n_steps=24, batch_size=96, n_epochs=1, seed=0)
    with pytest.warns(UserWarning, match="seeds are fixed"):
        model.learn(3 * 24 * 8)
    assert model.num_timesteps == 576
    assert model.collector.has_final_obs
