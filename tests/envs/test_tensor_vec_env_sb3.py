"""What SB3 does with a tensor environment: wrappers, evaluation and training."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from tests.envs.toy import Balance, CounterEnv, DiscreteToy, ImageToy, PointMass

pytestmark = pytest.mark.filterwarnings(
    "ignore:The environment is already wrapped with a `Monitor`"
)

TRAINABLE = {
    "point": lambda: PointMass(5, max_episode_length=4, termination_prob=0.1),
    "image": lambda: ImageToy(2, max_episode_length=4),
    "discrete": lambda: DiscreteToy(spaces.Discrete(4), 3),
    "multi_discrete": lambda: DiscreteToy(spaces.MultiDiscrete([2, 3]), 3),
    "multi_binary": lambda: DiscreteToy(spaces.MultiBinary(3), 3),
}


def test_returns_and_lengths_are_those_of_vec_monitor() -> None:
    env = PointMass(4, max_episode_length=7, termination_prob=0.1)
    wrapped = VecMonitor(PointMass(4, max_episode_length=7, termination_prob=0.1))
    env.seed(1), wrapped.seed(1)
    env.reset(), wrapped.reset()
    n_episodes = 0
    for _ in range(40):
        actions = np.random.uniform(-1, 1, (4, 2))  # noqa: NPY002
        mine, theirs = env.step(actions)[3], wrapped.step(actions)[3]
        for a, b in zip(mine, theirs, strict=True):
            assert ("episode" in a) == ("episode" in b)
            if "episode" in a:
                n_episodes += 1
                assert a["episode"]["r"] == b["episode"]["r"]
                assert a["episode"]["l"] == b["episode"]["l"]
                assert "terminal_observation" in b
    assert n_episodes > 20


def test_vec_normalize_normalises_terminal_observations() -> None:
    env = VecNormalize(CounterEnv(2, plain=True))
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros((2, 1)))
    assert dones.tolist() == [True, False]
    raw = np.array([0.0, 0.0, 3.0], np.float32)
    np.testing.assert_allclose(infos[0]["terminal_observation"], env.normalize_obs(raw))
    assert not np.allclose(infos[0]["terminal_observation"], raw)


def test_frame_stack_and_extraction_see_terminal_observations() -> None:
    env = VecFrameStack(VecExtractDictObs(CounterEnv(2), "policy"), 2)
    env.reset()
    for _ in range(3):
        _, _, _, infos = env.step(np.zeros((2, 1)))
    assert infos[0]["terminal_observation"].tolist() == [0, 0, 2, 0, 0, 3]


def test_evaluate_policy_uses_our_episodes() -> None:
    class Idle:
        def predict(self, obs: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(obs), 1), np.float32), None

    env = CounterEnv(2, plain=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            Idle(), env, n_eval_episodes=4, return_episode_rewards=True
        )
    assert sorted(lengths) == [3, 3, 4, 4]
    assert sorted(returns) == pytest.approx([0.06, 0.06, 4.10, 4.10])


@pytest.mark.integration
def test_sb3_ppo_trains_on_it() -> None:
    env = Balance(8)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=2, device="cpu", seed=0)
    model.learn(1024)
    assert model.get_env() is env
    assert len(model.ep_info_buffer) > 8
    assert all(info["l"] >= 1 for info in model.ep_info_buffer)


@pytest.mark.integration
@pytest.mark.parametrize("name", TRAINABLE)
def test_sb3_ppo_takes_every_space(name: str) -> None:
    env = TRAINABLE[name]()
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    PPO(policy, env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)


@pytest.mark.integration
def test_sb3_ppo_bootstraps_time_outs() -> None:
    """Reward 1 for ever, cut after 5 steps: values exceed 5 only if time-outs are bootstrapped."""
    env = VecMonitor(Balance(4, max_episode_length=5))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, gamma=0.5, device="cpu")
    model.policy.predict_values = lambda obs: th.full((len(obs), 1), 100.0)  # type: ignore[method-assign]
    model.learn(32)
    assert model.rollout_buffer.rewards.max() == pytest.approx(51.0)


def test_video_recorder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("moviepy") is None:  # the frames are ours, the film is not
        monkeypatch.setitem(sys.modules, "moviepy", types.ModuleType("moviepy"))
    monkeypatch.setattr(VecVideoRecorder, "_stop_recording", lambda self: None)
    env = VecVideoRecorder(
        CounterEnv(2, render_mode="rgb_array"), str(tmp_path), lambda step: step == 0, 3
    )
    env.reset()
    for _ in range(2):
        env.step(np.zeros((2, 1)))
    assert [int(frame.max()) for frame in env.recorded_frames] == [0, 1, 2]
    assert env.recorded_frames[0].shape == (32, 16, 3)
    env.recorded_frames = []
    env.recording = False
