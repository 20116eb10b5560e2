"""Evaluation during training without leaving the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_strl.common.action_bounds import action_bounds
from sb3_strl.common.files import atomic_file
from sb3_strl.common.types import TensorStep
from sb3_strl.envs import TensorVecEnv
from sb3_strl.policies.contract import TensorActorCritic

Watch = Callable[[TensorStep, th.Tensor], None]
"""Called with every step and with ``(n_envs,)``, whether it belongs to an episode that counts."""

_CHECK_EVERY = 16
"""Steps between two looks at whether all episodes are over; each look waits for the device."""


class Evaluation(NamedTuple):
    """
    What an evaluation found.

    :param returns: undiscounted return of every episode
    :param lengths: its steps
    :param successes: ``info["is_success"]`` of every episode, where the environment says so
    :param metrics: further results by logger key
    """

    returns: list[float]
    lengths: list[int]
    successes: list[bool]
    metrics: dict[str, float]

    @property
    def mean_reward(self) -> float:
        """Mean return of an episode."""
        return float(np.mean(self.returns))


@th.no_grad()
def run_episodes(
    policy: TensorActorCritic,
    env: TensorVecEnv,
    n_episodes: int,
    deterministic: bool = True,
    watch: Watch | None = None,
) -> tuple[list[float], list[int]]:
    """
    Run whole episodes on the environment's tensor face.

    Every environment contributes the same number of episodes, or one more than others, so that
    short episodes are not counted more often (as SB3's ``evaluate_policy``).

    :param policy: what acts; put in evaluation mode
    :param env: is reset first
    :param n_episodes: over all environments
    :param deterministic: take the mode of the distribution
    :param watch: sees every step
    :return: returns and lengths of the episodes, environment by environment
    """
    policy.set_training_mode(False)
    n_envs, device = env.num_envs, policy.device
    quota = (n_episodes + th.arange(n_envs, device=device)) // n_envs  # (n_envs,)
    n_rows = -(-n_episodes // n_envs)
    # One row more than is read: episodes beyond the quota are written there.
    table = th.zeros(2, n_rows + 1, n_envs, device=device)
    running, counts = th.zeros(2, n_envs, device=device), th.zeros_like(quota)
    obs = {group: value.to(device) for group, value in env.reset_tensor().items()}
    starts = th.ones(n_envs, dtype=th.bool, device=device)
    state = policy.initial_state(n_envs)
    bounds = action_bounds(env.action_space, device)
    step_number = 0
    while True:
        actions, state = policy.act(obs, state, starts, deterministic)
        result = env.step_tensor(actions if bounds is None else actions.clamp(*bounds))
        obs = {group: value.to(device) for group, value in result.obs.items()}
        starts = (result.terminated | result.truncated).to(device)
        counted = counts < quota
        if watch is not None:
            watch(result, counted)
        running[0].add_(result.rewards.to(device))
        running[1].add_(1.0)
        rows = th.where(starts & counted, counts, n_rows)
        table.scatter_(1, rows.expand(2, 1, -1), running.unsqueeze(1))
        running.masked_fill_(starts, 0.0)
        counts.add_(starts)
        step_number += 1
        if step_number % _CHECK_EVERY == 0 and bool((counts >= quota).all()):
            break
    returns, lengths = table[:, :-1].cpu()
    kept = th.arange(n_rows).unsqueeze(1) < quota.cpu()
    return returns.T[kept.T].tolist(), [int(length) for length in lengths.T[kept.T]]


class TensorEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback``, on tensors where policy and environment have them.

    Thousands of environments are evaluated without a NumPy copy in any step; with any other
    ``VecEnv`` or policy, SB3's ``evaluate_policy`` runs. Logger keys, files, ``best_mean_reward``,
    ``last_mean_reward`` and the callbacks are SB3's. Messages go to the logger.

    :param eval_env: environment to evaluate on, not the training environment
    :param callback_on_new_best: called when the score is the best so far
    :param callback_after_eval: called after every evaluation
    :param n_eval_episodes: episodes per evaluation
    :param eval_freq: steps of all training environments together between two evaluations, as in
        SB3: ``eval_freq`` calls, each of ``n_envs`` steps
    :param log_path: folder for ``evaluations.npz``
    :param best_model_save_path: folder for ``best_model.zip``
    :param deterministic: take the mode of the distribution
    :param eval_seed: seed of every evaluation, so that all see the same episodes; ``None``: go on
        with the generators of ``eval_env``
    :param verbose: 0 silent, 1 info
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool = True,
        eval_seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            eval_env,
            callback_on_new_best,
            callback_after_eval,
            n_eval_episodes,
            eval_freq,
            log_path,
            best_model_save_path,
            deterministic,
            verbose=verbose,
            warn=False,
        )
        self.eval_seed = eval_seed
        self.best_score = self.last_score = -np.inf
        self.evaluations_metrics: dict[str, list[float]] = {}

    def evaluate(self) -> Evaluation:
        """Run the episodes of one evaluation."""
        policy = self.model.policy
        if isinstance(self.eval_env, TensorVecEnv) and isinstance(policy, TensorActorCritic):
            returns, lengths = run_episodes(
                policy, self.eval_env, self.n_eval_episodes, self.deterministic
            )
            return Evaluation(returns, lengths, [], {})
        self._is_success_buffer = []
        result: Any = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            self.deterministic,
            return_episode_rewards=True,
            warn=False,
            callback=self._log_success_callback,
        )
        returns, lengths = result
        return Evaluation(returns, lengths, list(self._is_success_buffer), {})

    def score(self, evaluation: Evaluation) -> float:
        """Return what the best model has the most of."""
        return evaluation.mean_reward

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return True
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        if self.eval_seed is not None:
            self.eval_env.seed(self.eval_seed)
        evaluation = self.evaluate()
        self.last_mean_reward = evaluation.mean_reward
        self.last_score = self.score(evaluation)
        self._write(evaluation)
        self._log(evaluation)
        keep_on = True
        if self.last_score > self.best_score:
            keep_on = self._on_new_best()
        if self.callback is not None:
            keep_on = keep_on and self._on_event()
        return keep_on

    def _on_new_best(self) -> bool:
        self.best_score, self.best_mean_reward = self.last_score, self.last_mean_reward
        if self.best_model_save_path is not None:
            self.model.save(Path(self.best_model_save_path) / "best_model")
        if self.callback_on_new_best is not None:
            return self.callback_on_new_best.on_step()
        return True

    def _log(self, evaluation: Evaluation) -> None:
        record = self.logger.record
        record("eval/mean_reward", self.last_mean_reward)
        record("eval/mean_ep_length", float(np.mean(evaluation.lengths)))
        if evaluation.successes:
            record("eval/success_rate", float(np.mean(evaluation.successes)))
        for key, value in evaluation.metrics.items():
            record(key, value)
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose and self.last_score > self.best_score:
            message = f"new best after {self.num_timesteps} steps: {self.last_score:.4g}"
            self.logger.info(message)

    def _write(self, evaluation: Evaluation) -> None:
        """Extend ``evaluations.npz``: SB3's arrays and one more for every metric."""
        if self.log_path is None:
            return
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(evaluation.returns)
        self.evaluations_length.append(evaluation.lengths)
        arrays: dict[str, Any] = {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
        }
        if evaluation.successes:
            self.evaluations_successes.append(evaluation.successes)
            arrays["successes"] = self.evaluations_successes
        for key, value in evaluation.metrics.items():
            self.evaluations_metrics.setdefault(key, []).append(value)
            arrays[key.rpartition("/")[2]] = self.evaluations_metrics[key]
        with atomic_file(f"{self.log_path}.npz") as file:
            np.savez(file, **arrays)
