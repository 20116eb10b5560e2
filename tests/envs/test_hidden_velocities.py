"""Tasks whose velocities only the critic sees."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_strl import make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs.hidden_velocities import HiddenVelocities, hidden_env_ids

PLAIN = {
    "sb3_strl/CartPoleHidden-v1": ("CartPole-v1", [1, 3]),
    "sb3_strl/PendulumHidden-v1": ("Pendulum-v1", [2]),
    "sb3_strl/AcrobotHidden-v1": ("Acrobot-v1", [4, 5]),
    "sb3_strl/MountainCarContinuousHidden-v0": ("MountainCarContinuous-v0", [1]),
}


def test_the_ids_are_those_of_the_zoo() -> None:
    assert set(hidden_env_ids()) == set(PLAIN)


@pytest.mark.parametrize("env_id", list(PLAIN))
def test_the_policy_sees_no_velocity_and_the_critic_does(env_id: str) -> None:
    plain_id, hidden = PLAIN[env_id]
    plain, env = gym.make(plain_id), make_vec(env_id, 1, seed=7)
    seen = [i for i in range(plain.observation_space.shape[0]) if i not in hidden]
    obs = env.reset_tensor()
    expected, _ = plain.reset(seed=7)
    for action in [env.action_space.sample() for _ in range(4)]:
        np.testing.assert_array_equal(obs["policy"][0].numpy(), expected[seen])
        np.testing.assert_array_equal(obs["critic"][0].numpy(), expected[[*seen, *hidden]])
        result, _rewards, dones, _infos = env.step(np.asarray([action]))
        assert not dones.any()
        assert env.observation_space.contains({name: value[0] for name, value in result.items()})
        obs = {name: th.as_tensor(value) for name, value in result.items()}
        expected, *_ = plain.step(action)
    assert env.max_episode_length == plain.spec.max_episode_steps


def test_what_cannot_be_split_is_refused() -> None:
    env = gym.make("CartPole-v1")
    with pytest.raises(StrlValueError, match=r"velocities is \[0, 4\] of 4 columns"):
        HiddenVelocities(env, [0, 4])
    with pytest.raises(StrlValueError, match=r"Expected some, but not all"):
        HiddenVelocities(env, [0, 1, 2, 3])
    with pytest.raises(StrlTypeError, match=r"the observation is Dict.*Flatten it"):
        HiddenVelocities(HiddenVelocities(env, [1, 3]), [0])
