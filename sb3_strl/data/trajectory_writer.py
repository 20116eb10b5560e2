"""Writes one trajectory of a rollout dataset, file by file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.shards import Array, compress_normalized_image, shard_name, write_shard
from sb3_strl.data.stored_trajectory import FINAL_PREFIX, Layout


class TrajectoryWriter:
    """
    Writes one trajectory, file by file, into a hidden folder that is shown once it is complete.

    :param save_dir: folder of the dataset
    :param number: of the trajectory
    :param layout: which segments of the observations are compressed
    """

    def __init__(self, save_dir: Path, number: int, layout: Layout) -> None:
        self.folder = save_dir / f".trajectory_{number}.partial"
        self.target = save_dir / f"trajectory_{number}"
        self.length = 0
        self.total_reward = 0.0
        self._layout = layout

    def write(self, fields: Mapping[str, Array], final_obs: Mapping[str, Array]) -> None:
        """
        Append frames as one file.

        :param fields: ``(n, ...)`` by name, groups of observations as ``"obs/<group>"``
        :param final_obs: observation after the last of them, ``(...)`` by group
        """
        arrays = self._encode(fields)
        for group, value in final_obs.items():
            arrays |= self._encode({FINAL_PREFIX + group: value[None]})
        count = len(fields["rewards"])
        write_shard(self.folder / shard_name(self.length, self.length + count), arrays)
        self.length += count
        self.total_reward += float(fields["rewards"].sum(dtype=np.float64))

    def finish(self) -> Path:
        """Show the trajectory under its name."""
        return show_trajectory(self.folder, self.target)

    def discard(self) -> None:
        """Remove what has been written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _encode(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        """Take groups apart that have a compressed segment."""
        arrays: dict[str, Array] = {}
        for name, values in fields.items():
            prefix, _, group = name.partition("/")
            parts = self._layout.parts(group) if prefix in ("obs", "final_obs") else []
            rows = values.reshape(len(values), -1)
            column = 0
            for part in parts:
                width = self._layout.width(group, part)
                segment = rows[:, column : column + width]
                compressed = part in self._layout.obs_disassemble_mapping
                encoded = compress_normalized_image(segment) if compressed else segment
                arrays[f"{name}/{part}"] = encoded
                column += width
            if not parts:
                arrays[name] = values
        return arrays


def show_trajectory(folder: Path, target: Path) -> Path:
    """Give a hidden trajectory its name."""
    if target.exists():
        raise StrlValueError(
            f"RolloutWriter: '{folder}' cannot become '{target.name}', which is there already. "
            "Expected one of them: two programs wrote into this folder. Move or delete one."
        )
    return folder.rename(target)
