"""
Iteration times of sb3_strl, Stable-Baselines3 and rsl_rl side by side.

``python benchmarks/throughput.py --envs 64 1024 4096 --json runs/throughput.json``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import comparison

COMPARISON = comparison.Comparison(
    title="Iteration times of sb3_strl, Stable-Baselines3 and rsl_rl side by side.",
    workloads={"standard": {"hidden": (256, 128, 64)}, "tiny": {"hidden": (8, 8, 8)}},
    peers={
        "sb3": ("benchmarks.learners.sb3_peer", "Sb3Peer"),
        "rsl_rl": ("benchmarks.learners.rsl_rl_peer", "RslRlPeer"),
        "sb3_strl": ("benchmarks.learners.strl_peer", "StrlPeer"),
    },
    envs=(64, 1024, 4096),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param arguments: of the command line
    """
    comparison.run(COMPARISON, arguments)


if __name__ == "__main__":
    main()
