"""Trials of the real Optuna end early."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_strl import PPO
from sb3_strl.callbacks import TrialEvalCallback, TrialReportCallback
from sb3_strl.common.errors import StrlTypeError
from tests.envs.toy import Balance

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def build(kind: str, n_envs: int = 4) -> Any:
    if kind == "tensor":
        return Balance(n_envs)
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * n_envs)


@pytest.mark.parametrize("kind", ["tensor", "numpy"])
def test_a_bad_trial_is_pruned_and_a_good_one_is_not(kind: str) -> None:
    """The pruner sees the real returns; only the threshold tells the trials apart."""
    steps = {}

    def objective(trial: Any) -> float:
        model = PPO("MlpPolicy", build(kind), n_steps=4, n_minibatches=1, n_epochs=1, seed=0)
        callback = TrialEvalCallback(build(kind, 2), trial, n_eval_episodes=2, eval_freq=4)
        if trial.number == 1:
            trial.study.pruner = optuna.pruners.ThresholdPruner(lower=1e6)
        model.learn(64, callback=callback)
        steps[trial.number] = model.num_timesteps
        if callback.is_pruned:
            raise optuna.TrialPruned
        return callback.last_mean_reward

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    study.optimize(objective, n_trials=2)
    first, second = study.trials
    assert [first.state.name, second.state.name] == ["COMPLETE", "PRUNED"]
    assert steps == {0: 64, 1: 16}
    assert sorted(first.intermediate_values) == [1, 2, 3, 4]
    assert first.value == first.intermediate_values[4] > 0.0


def test_the_report_hangs_on_any_evaluation() -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(0, 0))
    for _ in range(2):
        trial = study.ask()
        report = TrialReportCallback(trial)
        evaluation = EvalCallback(
            build("numpy", 1), callback_after_eval=report, eval_freq=4, verbose=0
        )
        model = PPO("MlpPolicy", build("numpy", 1), n_steps=4, n_minibatches=1, n_epochs=1)
        model.learn(8, callback=evaluation)
        study.tell(trial, report.last_value)
        assert report.eval_idx >= 1
    assert study.trials[0].intermediate_values[1] > 1.0


def test_alone_it_has_nothing_to_report() -> None:
    study = optuna.create_study()
    model = PPO("MlpPolicy", Balance(2), n_steps=4, n_minibatches=1, n_epochs=1)
    with pytest.raises(StrlTypeError, match=r"its parent is NoneType.*callback_after_eval"):
        model.learn(8, callback=TrialReportCallback(study.ask()))
