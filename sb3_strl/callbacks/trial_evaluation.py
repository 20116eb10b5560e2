"""Trials of Optuna that end early when they promise little."""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_strl.callbacks.motion_evaluation import MotionEvalCallback
from sb3_strl.callbacks.tensor_evaluation import TensorEvalCallback
from sb3_strl.common.errors import StrlTypeError


class Trial(Protocol):
    """What is needed of ``optuna.Trial``."""

    def report(self, value: float, step: int) -> None:
        """Take an intermediate value."""

    def should_prune(self) -> bool:
        """Tell whether to stop."""


class TrialReportCallback(BaseCallback):
    """
    Report every evaluation to a trial and stop the training when its pruner says so.

    For ``callback_after_eval`` of any ``EvalCallback``. The mean reward is reported, for a study
    that maximises; after :class:`~sb3_strl.callbacks.MotionEvalCallback` the pose error in degrees,
    for a study that minimises. Afterwards :attr:`is_pruned` says whether to raise
    ``optuna.TrialPruned`` and :attr:`last_value` is what the objective returns.

    :param trial: of Optuna
    :param verbose: 0 silent, 1 info
    """

    def __init__(self, trial: Trial, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.trial = trial
        self.eval_idx = 0
        self.is_pruned = False
        self.last_value = math.nan

    def _on_step(self) -> bool:
        parent = self.parent
        if not isinstance(parent, EvalCallback):
            raise StrlTypeError(
                f"TrialReportCallback: its parent is {type(parent).__name__}. Expected an "
                "EvalCallback: pass it as callback_after_eval=TrialReportCallback(trial)."
            )
        if isinstance(parent, MotionEvalCallback):
            self.last_value = parent.last_pose_error
        else:
            self.last_value = parent.last_mean_reward
        self.eval_idx += 1
        self.trial.report(self.last_value, self.eval_idx)
        self.is_pruned = self.trial.should_prune()
        return not self.is_pruned


class TrialEvalCallback(TensorEvalCallback):
    """
    Evaluate and report to a trial, with the interface of RL Zoo's class of this name.

    :param eval_env: environment to evaluate on, a :class:`~sb3_strl.envs.TensorVecEnv` or any other
    :param trial: of Optuna
    :param n_eval_episodes: episodes per evaluation
    :param eval_freq: calls between two evaluations, as in SB3
    :param deterministic: take the mode of the distribution
    :param verbose: 0 silent, 1 info
    :param best_model_save_path: folder for ``best_model.zip``
    :param log_path: folder for ``evaluations.npz``
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        trial: Trial,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        deterministic: bool = True,
        verbose: int = 0,
        best_model_save_path: str | None = None,
        log_path: str | None = None,
    ) -> None:
        self.trial = trial
        self.report = TrialReportCallback(trial)
        super().__init__(
            eval_env,
            callback_after_eval=self.report,
            n_eval_episodes=n_eval_episodes,
            eval_freq=eval_freq,
            deterministic=deterministic,
            verbose=verbose,
            best_model_save_path=best_model_save_path,
            log_path=log_path,
        )

    @property
    def is_pruned(self) -> bool:
        """Whether the pruner has stopped the training."""
        return self.report.is_pruned

    @property
    def eval_idx(self) -> int:
        """Evaluations so far."""
        return self.report.eval_idx
