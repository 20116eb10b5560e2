"""
sb3_strl beside Stable-Baselines3, sb3-contrib, rsl_rl and skrl, in one run: ``strl bench``.

``python benchmarks/peers.py --json runs/peers.json --markdown runs/peers.md``: perceptrons of usual
size (``standard``) and so small that only overhead counts (``tiny``), LSTMs with long and short
episodes (``long``, ``short``), and what a motion prior adds to our own PPO (``appo``). Times with
collection and update apart, ratios within rounds, operators and host transfers, memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch as th

from benchmarks import comparison, recurrent
from benchmarks.learners.common import Setup
from benchmarks.tables import Row

FEED_FORWARD = comparison.Comparison(
    title="Iteration times of feed-forward policies, side by side.",
    workloads={"standard": {"hidden": (256, 128, 64)}, "tiny": {"hidden": (8, 8, 8)}},
    peers={
        "sb3": ("benchmarks.learners.sb3_peer", "Sb3Peer"),
        "rsl_rl": ("benchmarks.learners.rsl_rl_peer", "RslRlPeer"),
        "skrl": ("benchmarks.learners.skrl_peer", "SkrlPeer"),
        "sb3_strl_eager": ("benchmarks.learners.strl_peer", "EagerPeer"),
        "sb3_strl": ("benchmarks.learners.strl_peer", "CompiledPeer"),
    },
    envs=(64, 1024, 4096),
    uncounted=("sb3_strl",),
)
MOTION_PRIOR = comparison.Comparison(
    title="What a motion prior adds to an iteration.",
    workloads={"appo": FEED_FORWARD.workloads["standard"]},
    peers={
        "sb3_strl_ppo": ("benchmarks.learners.motion_peer", "PlainPeer"),
        "sb3_strl_appo": ("benchmarks.learners.motion_peer", "PriorPeer"),
        "sb3_strl_appo_16th": ("benchmarks.learners.motion_peer", "SubsetPeer"),
    },
    envs=(1024,),
    references={**comparison.REFERENCES, "ppo": "sb3_strl_ppo"},
)
COMPARISONS = (FEED_FORWARD, recurrent.COMPARISON, MOTION_PRIOR)
EVERYTHING = comparison.Comparison(
    title="Iteration times of sb3_strl, Stable-Baselines3, sb3-contrib, rsl_rl and skrl.",
    workloads={name: row for part in COMPARISONS for name, row in part.workloads.items()},
    peers={name: place for part in COMPARISONS for name, place in part.peers.items()},
    envs=(),
)

EXAMPLES = """\
examples:
  strl bench --smoke
  strl bench --workloads standard --envs 64 1024 --threads 2 --markdown runs/peers.md
  strl bench --peers rsl_rl sb3_strl --workloads tiny --rounds 11 --json runs/peers.json
  strl bench --workloads appo --discriminator 128 64 --device cuda"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options; ``envs`` is empty where every workload takes its own default
    """
    parser = comparison.build_parser(EVERYTHING)
    parser.prog, parser.epilog = "strl bench", EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(ops=True, memory=None)
    widths = list(Setup.discriminator)
    text = "hidden layers of the motion prior's discriminator"
    parser.add_argument("--discriminator", type=int, nargs="+", default=widths, help=text)
    options = comparison.parse_arguments(parser, arguments)
    if options.memory is None:
        options.memory = not options.smoke
    return options


def measure(options: argparse.Namespace) -> list[Row]:
    """
    Time the workloads, each with the peers that it knows.

    :param options: of the command line
    :return: one row per peer, workload and number of environments
    :raises ValueError: if none of the peers that were named knows any of the workloads
    """
    rows: list[Row] = []
    parts = (FEED_FORWARD, recurrent.COMPARISON, _with_discriminator(tuple(options.discriminator)))
    for part in parts:
        own = argparse.Namespace(**vars(options))
        own.workloads = [name for name in options.workloads if name in part.workloads]
        own.peers = options.peers and [name for name in options.peers if name in part.peers]
        own.envs = options.envs or list(part.envs)
        if own.workloads and (own.peers or options.peers is None):
            rows.extend(comparison.measure(part, own))
    if not rows:
        raise ValueError(
            f"benchmarks: none of the peers {options.peers} knows any of the workloads "
            f"{options.workloads}. Expected peers of these workloads: "
            f"{ {name: list(part.peers) for part in COMPARISONS for name in part.workloads} }."
        )
    return rows


def _with_discriminator(widths: tuple[int, ...]) -> comparison.Comparison:
    workloads = MOTION_PRIOR.workloads.items()
    return replace(
        MOTION_PRIOR, workloads={name: {**row, "discriminator": widths} for name, row in workloads}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param arguments: of the command line
    """
    options = parse_arguments(arguments)
    if options.threads is not None:
        th.set_num_threads(options.threads)
    comparison.report(measure(options), options)


if __name__ == "__main__":
    main()
