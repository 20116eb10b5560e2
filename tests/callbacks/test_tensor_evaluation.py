"""Evaluation on tensors equals SB3's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_strl import PPO
from sb3_strl.callbacks import TensorEvalCallback
from sb3_strl.callbacks.tensor_evaluation import run_episodes
from tests.envs.toy import Balance, CounterEnv, PointMass


def make(env: Any, policy: str = "MlpPolicy", **options: Any) -> PPO:
    settings = {"n_steps": 4, "n_minibatches": 1, "n_epochs": 1, "seed": 0, **options}
    return PPO(policy, env, **settings)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("n_episodes", [3, 7, 10])
def test_the_same_episodes_as_evaluate_policy(policy: str, n_episodes: int) -> None:
    model = make(Balance(4), policy)
    mine = run_episodes(model.policy, Balance(5, seed=3), n_episodes)
    theirs = evaluate_policy(
        model, Balance(5, seed=3), n_episodes, return_episode_rewards=True, warn=False
    )
    assert sorted(mine[1]) == sorted(theirs[1])
    np.testing.assert_allclose(sorted(mine[0]), sorted(theirs[0]), rtol=1e-5)


def test_short_episodes_do_not_count_more_often() -> None:
    env = CounterEnv(3, first_length=3)  # episodes of 3, 4 and 5 steps
    model = make(CounterEnv(3))
    returns, lengths = run_episodes(model.policy, env, 7)
    assert lengths == [3, 3, 4, 4, 5, 5, 5]  # as SB3, the last environments take the remainder
    # Rewards of environment i: i + t / 100.
    assert returns[0] == pytest.approx(0.06)
    assert returns[-1] == pytest.approx(10.15)


def test_actions_stay_inside_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    env, model, seen = Balance(4), make(Balance(4)), []
    step, low, high = env.step_tensor, env.action_space.low.min(), env.action_space.high.max()
    monkeypatch.setattr(env, "step_tensor", lambda given: [seen.append(given), step(given)][1])
    with th.no_grad():
        for parameter in model.policy.actor.parameters():
            parameter.mul_(50.0)
    run_episodes(model.policy, env, 4, deterministic=False)
    actions = th.stack(seen)
    assert low <= actions.min()
    assert actions.max() <= high
    assert ((actions == low) | (actions == high)).any()


def test_logger_files_and_best_model_are_those_of_sb3(tmp_path: Path) -> None:
    model = make(Balance(4))
    callback = TensorEvalCallback(
        Balance(4, seed=1),
        n_eval_episodes=6,
        eval_freq=4,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path / "best"),
        eval_seed=5,
    )
    model.learn(48, callback=callback, log_interval=None)
    data = np.load(tmp_path / "evaluations.npz", allow_pickle=False)
    assert data["timesteps"].tolist() == [16, 32, 48]
    assert data["results"].shape == data["ep_lengths"].shape == (3, 6)
    means = data["results"].mean(1)
    assert callback.best_mean_reward == pytest.approx(means.max())
    assert callback.last_mean_reward == pytest.approx(means[-1])
    best = PPO.load(tmp_path / "best" / "best_model")
    assert best.num_timesteps == data["timesteps"][means.argmax()]


def test_the_seed_makes_evaluations_alike() -> None:
    class Fixed(BaseCallback):
        def _on_step(self) -> bool:
            assert isinstance(self.parent, TensorEvalCallback)
            seen.append(self.parent.last_mean_reward)
            return True

    for eval_seed, n_different in ((7, 1), (None, 3)):
        seen: list[float] = []
        callback = TensorEvalCallback(
            PointMass(4), None, Fixed(), 4, eval_freq=4, eval_seed=eval_seed
        )
        make(PointMass(4), learning_rate=1e-30).learn(48, callback=callback)
        assert len(set(np.round(seen, 6))) == n_different


def test_a_callback_on_a_new_best_may_stop_the_training() -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    model = make(Balance(4))
    model.learn(1000, callback=TensorEvalCallback(Balance(2), stop, eval_freq=8))
    assert model.num_timesteps == 32


def test_numpy_environments_are_evaluated_by_sb3() -> None:
    class Success(gym.Wrapper):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, _ = self.env.step(action)
            return obs, reward, terminated, truncated, {"is_success": terminated}

    def build() -> gym.Env[Any, Any]:
        return Success(gym.make("CartPole-v1"))

    model = make(DummyVecEnv([build]))
    callback = TensorEvalCallback(DummyVecEnv([build]), n_eval_episodes=2, eval_freq=4)
    model.learn(4, callback=callback, log_interval=None)
    assert callback.last_mean_reward > 1.0


def test_training_is_not_disturbed() -> None:
    plain, watched = make(Balance(4)), make(Balance(4))
    plain.learn(64)
    watched.learn(64, callback=TensorEvalCallback(Balance(3), eval_freq=4))
    for a, b in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        th.testing.assert_close(a, b, rtol=0, atol=0)
