"""Loading what was trained, and the environment that it acts in."""

from __future__ import annotations

import argparse
import ast
import os
import re
from pathlib import Path
from typing import Any

import torch as th
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device, set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl import make_vec
from sb3_strl.cli.config import config_beside, read_options, whole_number
from sb3_strl.common.errors import StrlError, StrlTypeError, StrlValueError
from sb3_strl.envs import NumpyBridge, TensorVecEnv
from sb3_strl.export.fit import check_fits
from sb3_strl.export.normalizer import check_statistics, load_vec_normalize
from sb3_strl.migrate.plain_yaml import read_config
from sb3_strl.policies import load_policy

_STATISTICS = "vecnormalize.pkl"
_CHECKPOINT = re.compile(r"(.+)_(\d+_steps)(\.zip)?")
_ORDERED = "!!python/object/apply:collections.OrderedDict\n"
"""What the files of rl_zoo3 begin with; lists of pairs follow."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all commands on a trained model share."""
    add = parser.add_argument
    add("model", help="model or policy file, e.g. runs/walk/model.zip")
    add("--env", help="id of an environment; default that of config.yml beside the model")
    add("--env-kwargs", metavar="YAML", help="its options, e.g. '{max_episode_length: 500}'")
    add("--seed", type=int, default=0, help="of the environment and what is sampled, default 0")
    add(
        "--vec-normalize",
        metavar="FILE",
        help="statistics that the model was trained behind, e.g. vecnormalize.pkl of rl_zoo3 (a "
        "pickle: name only one that you trust); 'none' if observations were not normalised",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add where to compute."""
    parser.add_argument(
        "--device", default="cpu", help="of policy and tensors: cpu, cuda, auto; default cpu"
    )


# ---------------------------------------------------------------------- before the work


def checked_device(name: str) -> th.device:
    """
    Return a device that is there; ``"auto"`` takes a GPU if there is one.

    :param name: e.g. ``"cuda:1"``
    :raises StrlValueError: if it is not there
    """
    try:
        device = get_device("auto") if name == "auto" else th.device(name)
        # SB3 would take the CPU in silence where there is no GPU. The number has to come back:
        # PyTorch's device "meta" has tensors without numbers.
        th.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition(". ")[0] or type(error).__name__
        there = ["auto", "cpu", *(f"cuda:{i}" for i in range(th.cuda.device_count()))]
        raise StrlValueError(
            f"--device is '{name}', which cannot be used here ({reason}). Expected one of {there}."
        ) from error
    return device


def check_target(option: str, path: Path) -> None:
    """
    Refuse a file that cannot be written, before the work that it is for.

    :param option: which names it
    :param path: the file; folders that are missing are made when it is written
    :raises StrlValueError: if it is a folder, or no folder is above it
    """
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        raise StrlValueError(f"{option} is {path}, which is a folder. Expected the name of a file.")
    if not above.is_dir():
        raise StrlValueError(
            f"{option} is {path}, but {above} is a file. Expected a file in a folder."
        )
    if not os.access(path if path.exists() else above, os.W_OK):
        raise StrlValueError(
            f"{option} is {path}, where nothing can be written. Expected a folder of yours."
        )


# ---------------------------------------------------------------------- model and environment


def load(args: argparse.Namespace, device: th.device | str = "cpu") -> BasePolicy:
    """
    Load the policy of a command, and let everything random begin at ``--seed``.

    No code in the file is run.

    :param args: of the command line
    :param device: of the policy
    :raises StrlValueError: if the seed is out of its range; see also the loader
    """
    set_random_seed(whole_number(f"strl {args.command}", "seed", args.seed, "--seed"))
    return load_policy(args.model, device)


def make_env(
    args: argparse.Namespace,
    n_envs: int,
    policy: BasePolicy,
    *,
    normalizer: VecNormalize | None = None,
    device: th.device | str = "cpu",
    render_mode: str | None = None,
    by_group: bool = False,
) -> TensorVecEnv:
    """
    Make the environment of a command.

    :param args: of the command line
    :param n_envs: environments
    :param policy: what shall act there
    :param normalizer: what the policy's observations pass through
    :param device: of the tensors
    :param render_mode: of the environment
    :param by_group: see :func:`~sb3_strl.export.fit.check_fits`
    :raises StrlValueError: if nobody says which, or policy or statistics do not fit
    :raises StrlTypeError: if a package is missing
    """
    config = config_beside(args.model)
    env_id = args.env or config.get("env")
    if env_id is None:
        raise StrlValueError(
            f"strl {args.command}: no environment, and no config.yml beside {args.model} that "
            "names one. Expected --env, e.g. --env sb3_strl/Walker-v0."
        )
    known = config.get("env_kwargs") if env_id == config.get("env") else None
    given = {} if args.env_kwargs is None else read_options("--env-kwargs", args.env_kwargs)
    options = {**(known or {}), **given}
    if render_mode is not None:
        options["render_mode"] = render_mode
    try:
        env = make_vec(env_id, n_envs, device, args.seed, options)
    except DependencyNotInstalled as error:
        raise StrlTypeError(
            f"strl {args.command}: the environment '{env_id}' needs a package: {error}."
        ) from error
    try:
        check_fits(f"strl {args.command}: {args.model} in '{env_id}'", policy, env, by_group)
        return env if normalizer is None else _normalized(args, env, normalizer)
    except StrlError:
        env.close()
        raise


def _normalized(
    args: argparse.Namespace, env: TensorVecEnv, normalizer: VecNormalize
) -> TensorVecEnv:
    try:
        normalizer.set_venv(env)
    except AssertionError as error:  # SB3's comparison of the spaces
        raise StrlValueError(
            f"strl {args.command}: the statistics in {args.vec_normalize} do not fit the "
            f"environment ({error}). Expected those of this environment."
        ) from error
    return NumpyBridge(normalizer, env.device)


# ---------------------------------------------------------------------- statistics of observations


def statistics(args: argparse.Namespace, policy: BasePolicy) -> VecNormalize | None:
    """
    Return the normaliser that a command names.

    :param args: of the command line
    :param policy: what was trained behind it
    :return: without an environment; ``None`` if observations were not normalised
    :raises StrlValueError: if none is named, but one lies where the training left it
    """
    given = args.vec_normalize
    if given is not None and given.lower() != "none":
        normalizer = load_vec_normalize(given)
        check_statistics(f"strl {args.command}: {given}", normalizer, policy.observation_space)
        return normalizer
    found = _statistics_beside(Path(args.model)) if given is None else None
    if found is not None:
        raise StrlValueError(
            f"strl {args.command}: {args.model} was trained behind VecNormalize, whose statistics "
            f"are in {found}; without them it acts on numbers that it never saw. Expected "
            f"--vec-normalize {found} (a pickle, which runs what it says: do so if you trust it), "
            "or --vec-normalize none if its observations were not normalised."
        )
    return None


def _statistics_beside(model: Path) -> Path | None:
    """Return the file where rl_zoo3 and SB3's checkpoints leave it, if observations need it."""
    folder = model.parent
    beside = [folder / _STATISTICS]
    checkpoint = _CHECKPOINT.fullmatch(model.name)
    if checkpoint is not None:
        beside.insert(0, folder / f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}.pkl")
    files = [file for file in beside if file.is_file()] + sorted(folder.glob(f"*/{_STATISTICS}"))
    return next((file for file in files if not _left_raw(file)), None)


def _left_raw(file: Path) -> bool:
    """Whether rl_zoo3's ``config.yml`` beside statistics says that they are of rewards alone."""
    try:
        text = file.with_name("config.yml").read_text(encoding="utf-8") + "\n"
        if text.startswith(_ORDERED):
            (pairs,) = read_config(f"entries:\n{text.removeprefix(_ORDERED)}")["entries"]
            config = dict(pairs)
        else:
            config = read_config(text)
        given = config.get("normalize")
        given = _plain(given) if isinstance(given, str) else given
    except (StrlError, OSError, ValueError, TypeError, SyntaxError):
        return False  # what cannot be read says nothing
    return given is False or (isinstance(given, dict) and given.get("norm_obs") is False)


def _plain(text: str) -> Any:
    """Return what rl_zoo3 would evaluate: a literal, or ``dict(norm_obs=False)``."""
    node = ast.parse(text.strip(), mode="eval").body
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {word.arg: ast.literal_eval(word.value) for word in node.keywords}
    return ast.literal_eval(node)
