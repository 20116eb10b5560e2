"""Loading what was trained, and the environment that it acts in."""

from __future__ import annotations

import argparse
from typing import Any

from stable_baselines3.common.policies import BasePolicy

from sb3_strl import make_vec
from sb3_strl.cli.config import config_beside, with_numbers
from sb3_strl.common.errors import StrlValueError
from sb3_strl.envs import TensorVecEnv
from sb3_strl.policies import load_policy


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all commands on a trained model share."""
    add = parser.add_argument
    add("model", help="model or policy file, e.g. runs/walk/model.zip")
    add("--env", help="id of an environment; default that of config.yml beside the model")
    add("--env-kwargs", metavar="YAML", help="its options, e.g. '{max_episode_length: 500}'")
    add("--seed", type=int, default=0, help="default 0")


def make_env(args: argparse.Namespace, n_envs: int, **options: Any) -> TensorVecEnv:
    """
    Make the environment of a command.

    :param args: of the command line
    :param n_envs: environments
    :param options: of the environment, over those that were given
    :raises StrlValueError: if nobody says which
    """
    import yaml

    config = config_beside(args.model)
    env_id = args.env or config.get("env")
    if env_id is None:
        raise StrlValueError(
            f"strl {args.command}: no environment, and no config.yml beside {args.model} that "
            "names one. Expected --env, e.g. --env sb3_strl/Walker-v0."
        )
    known = config.get("env_kwargs") if env_id == config.get("env") else None
    given = {} if args.env_kwargs is None else with_numbers(yaml.safe_load(args.env_kwargs))
    return make_vec(
        env_id, n_envs, seed=args.seed, env_kwargs={**(known or {}), **given, **options}
    )


def load(args: argparse.Namespace) -> BasePolicy:
    """Load the policy of a command; no code in the file is run."""
    return load_policy(args.model, "cpu")
