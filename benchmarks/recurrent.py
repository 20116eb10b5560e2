"""
Iteration times of policies with memory: sb3_strl, sb3_contrib's ``RecurrentPPO`` and rsl_rl.

``python benchmarks/recurrent.py --json runs/recurrent.json``: an LSTM of 256 for the actor and one
for the critic, episodes of at most 1000 steps (``long``) and of 50 (``short``). How fast sequences
are depends on how many episodes end within a rollout.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import comparison

MEMORY = {"hidden": (256, 128, 64), "memory": 256}
COMPARISON = comparison.Comparison(
    title="Iteration times of policies with memory, side by side.",
    workloads={
        "long": {**MEMORY, "episode_length": 1000},
        "short": {**MEMORY, "episode_length": 50},
    },
    peers={
        "sb3_contrib": ("benchmarks.learners.sb3_peer", "RecurrentPeer"),
        "rsl_rl": ("benchmarks.learners.rsl_rl_peer", "RslRlPeer"),
        "sb3_strl": ("benchmarks.learners.strl_peer", "StrlPeer"),
    },
    envs=(256,),
    references={"rsl_rl": "rsl_rl", "sb3": "sb3_contrib"},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param arguments: of the command line
    """
    comparison.run(COMPARISON, arguments)


if __name__ == "__main__":
    main()
