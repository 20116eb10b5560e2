"""What Optuna draws for each algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rl_zoo3.hyperparams_opt as search

from sb3_strl.algorithms import APPO, PPO, TPPO, EstimatorPPO


def make_sampler(algorithm: type[PPO]) -> Any:
    """
    Return what draws an algorithm's hyperparameters: PPO's as the zoo draws them for SB3's, and
    those of each objective.

    :param algorithm: class
    :return: a function of Optuna's trial and the zoo's arguments
    """

    def sample(
        trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]
    ) -> dict[str, Any]:
        drawn = search.sample_ppo_params(trial, n_actions, n_envs, additional_args)
        return {**fit_sizes(drawn, n_envs), **sample_objectives(trial, algorithm)}

    return sample


def sample_objectives(trial: Any, algorithm: type[PPO]) -> dict[str, Any]:
    """
    Draw the keywords of an algorithm's objectives.

    :param trial: Optuna's
    :param algorithm: class; its bases say which objectives it has
    """
    drawn: dict[str, Any] = {}
    if issubclass(algorithm, APPO):
        name = "discriminator_learning_rate"
        drawn[name] = trial.suggest_float(name, 1e-5, 3e-3, log=True)
    if issubclass(algorithm, TPPO):
        name = "distillation_loss_coef"
        drawn[name] = trial.suggest_float(name, 0.1, 10.0, log=True)
        name = "update_times_scale"
        drawn[name] = trial.suggest_float(name, 10.0, 500.0, log=True)
    if issubclass(algorithm, EstimatorPPO):
        name = "estimator_loss_coef"
        drawn[name] = trial.suggest_float(name, 0.05, 5.0, log=True)
    return drawn


def fit_sizes(drawn: Mapping[str, Any], n_envs: int | None = None) -> dict[str, Any]:
    """
    Return drawn keywords whose sizes fit one another, which the zoo draws one by one.

    :param drawn: keywords of the algorithm
    :param n_envs: environments; ``None`` leaves the size of minibatches
    """
    fitted = dict(drawn)
    if "batch_size" in fitted:
        steps = int(fitted.get("n_steps", fitted["batch_size"]))
        if n_envs is not None:
            fitted["batch_size"] = min(int(fitted["batch_size"]), steps * n_envs)
        fitted["n_minibatches"] = None  # what a configuration may say instead
        # A minibatch of a policy with memory holds at least one sequence.
        fitted["sequence_length"] = min(steps, int(fitted["batch_size"]))
    return fitted


def convert_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a stored trial into keywords.

    :param sampled_params: as Optuna stored them
    :return: keywords of the algorithm
    """
    return fit_sizes(search.convert_onpolicy_params(sampled_params))
