"""``strl evaluate``."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_strl.cli.console import progress, say
from sb3_strl.cli.running import (
    add_device_argument,
    add_model_arguments,
    check_target,
    checked_device,
    load,
    make_env,
    statistics,
)
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.tables import format_table

_EXAMPLES = """\
examples:
  strl evaluate runs/walk/model.zip
  strl evaluate model.zip --env Pendulum-v1 --episodes 100 --n-envs 10 --json result.json"""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure the return of a policy",
        description="Run whole episodes and report the mean return, its spread and their length.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add_device_argument(parser)
    add = parser.add_argument
    add("--episodes", type=int, default=20, help="default 20")
    add("--n-envs", type=int, default=1, help="environments, default 1")
    add("--stochastic", action="store_true", help="sample actions")
    add("--json", metavar="FILE", help="write the result there, too")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    if args.episodes < 1:
        raise StrlValueError(f"--episodes is {args.episodes}. Expected at least 1.")
    file = None if args.json is None else Path(args.json)
    if file is not None:
        check_target("--json", file)
    device = checked_device(args.device)
    policy = load(args, device)
    normalizer = statistics(args, policy)
    env = make_env(args, args.n_envs, policy, normalizer=normalizer, device=device)
    try:
        with progress(args.episodes, "episodes", args.quiet) as advance, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Evaluation environment is not wrapped")
            result: Any = evaluate_policy(
                policy,
                env,
                args.episodes,
                deterministic=not args.stochastic,
                callback=_counter(advance),
                return_episode_rewards=True,
            )
    finally:
        env.close()
    returns, lengths = (np.asarray(part, dtype=np.float64) for part in result)
    rows = [
        (name, f"{part.mean():.2f}", f"{part.std():.2f}", f"{part.min():.2f}", f"{part.max():.2f}")
        for name, part in (("return", returns), ("length", lengths))
    ]
    say(format_table(f"{len(returns)} episodes", ("", "mean", "std", "min", "max"), rows))
    if file is not None:
        data = {"returns": returns.tolist(), "lengths": lengths.tolist(), "model": args.model}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data), encoding="utf-8")
    return 0


def _counter(advance: Callable[[int], None]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def count(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            advance(1)

    return count
