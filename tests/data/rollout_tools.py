"""Recordings whose every number says where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sb3_strl.data.rollout_writer import RolloutWriter


def frame(trajectory: int, step: int) -> float:
    """The number that identifies one frame."""
    return 1000.0 * trajectory + step


def write_trajectory(
    save_dir: Path, number: int, length: int, truncated: bool = False, shard: int = 3, **options
) -> None:
    """Append one trajectory in files of ``shard`` frames; its observations count."""
    with RolloutWriter(save_dir, 1, **options) as writer:
        for start in range(0, length, shard):
            steps = np.arange(start, min(start + shard, length))
            last = steps == length - 1
            obs = frame(number, 0) + steps.astype(np.float32)
            writer.write(
                {"policy": np.stack((obs, -obs), 1)[:, None], "critic": obs[:, None, None] + 0.5},
                (obs * 10)[:, None, None],
                (obs / 10)[:, None],
                (last & (not truncated))[:, None],
                (last & truncated)[:, None],
                {
                    "policy": np.stack((obs + 1, -obs - 1), 1)[:, None],
                    "critic": obs[:, None, None] + 1.5,
                },
            )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Trajectories 0, 1, 2 of 5, 2 and 4 frames; the second one was cut by a time limit."""
    return make_dataset(tmp_path / "data", (5, 2, 4), (1,))


def make_dataset(folder: Path, lengths: Sequence[int], truncated: Sequence[int] = ()) -> Path:
    for number, length in enumerate(lengths):
        write_trajectory(folder, number, length, number in truncated)
    return folder
