"""Folders of recorded trajectories: what is there, in which order, and single frames of it."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.shards import (
    NORMALIZED_IMAGE,
    Array,
    Shard,
    decompress_normalized_image,
    fits_type,
    get_frame_range,
)

METADATA_FORMAT = "sb3_strl.rollouts.v1"
OBS_PREFIX = "obs/"
FINAL_PREFIX = "final_obs/"
_NUMBER = re.compile(r"^trajectory_(\d+)$")

Segments = Mapping[str, Mapping[str, Sequence[int]]]


@dataclass(frozen=True)
class Layout:
    """
    How the observations of a dataset are put together from what its files hold.

    :param obs_segments: shapes of the segments by name, by group, in order
    :param obs_disassemble_mapping: how single segments are compressed, by segment; a group that has
        one of them is stored in segments
    """

    obs_segments: Segments
    obs_disassemble_mapping: Mapping[str, str]

    def __post_init__(self) -> None:
        known = sorted({name for group in self.obs_segments.values() for name in group})
        for segment, codec in self.obs_disassemble_mapping.items():
            if codec != NORMALIZED_IMAGE or segment not in known:
                raise StrlValueError(
                    f"obs_disassemble_mapping: segment '{segment}' is to be stored as '{codec}'. "
                    f"Expected '{NORMALIZED_IMAGE}' and one of the segments {known}. Pass "
                    "obs_segments={group: {segment: shape}} beside it."
                )

    def parts(self, group: str) -> list[str]:
        """Return the segments in which a group is stored; none if it is stored as a whole."""
        segments = self.obs_segments.get(group, {})
        divided = any(name in self.obs_disassemble_mapping for name in segments)
        return list(segments) if divided else []

    def width(self, group: str, segment: str) -> int:
        """Return how many numbers a segment has."""
        return math.prod(self.obs_segments[group][segment])

    def decode(self, segment: str, values: Array) -> npt.NDArray[np.float32]:
        """Return a stored segment as float32 ``(n, width)``."""
        rows = values.reshape(len(values), -1)
        if segment in self.obs_disassemble_mapping:
            return decompress_normalized_image(rows)
        return rows.astype(np.float32)


def assemble_obs_components(
    components: Mapping[str, Array], layout: Layout, group: str
) -> npt.NDArray[np.float32]:
    """
    Put a group of observations together again.

    :param components: ``(n, ...)`` by segment, as stored
    :param layout: order of the segments and which of them are compressed
    :param group: the group
    :return: ``(n, obs_dim)``
    """
    parts = [layout.decode(name, components[name]) for name in layout.obs_segments[group]]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class StoredTrajectory:
    """
    A recorded trajectory: a folder of files that follow one another.

    :param folder: where they lie
    :param files: in order
    :param starts: first frame of each file
    :param length: number of frames of all files together
    :param layout: how its observations are put together
    """

    folder: Path
    files: tuple[Path, ...]
    starts: tuple[int, ...]
    length: int
    layout: Layout

    @classmethod
    def open(cls, folder: Path, layout: Layout) -> StoredTrajectory | None:
        """
        List a trajectory's files; ``None`` if there are none.

        :raises StrlValueError: if frames are missing between two files
        """
        ranges = sorted((get_frame_range(path), path) for path in folder.glob("traj_*.npz"))
        if not ranges:
            return None
        expected = 0
        for (start, end), path in ranges:
            if start != expected:
                raise StrlValueError(
                    f"Trajectory '{folder}': '{path.name}' begins at frame {start}. Expected "
                    f"{expected}: a file is missing or overlaps. Delete the folder to go on "
                    "without it."
                )
            expected = end
        files = tuple(path for _, path in ranges)
        return cls(folder, files, tuple(r[0] for r, _ in ranges), expected, layout)

    @property
    def number(self) -> int:
        """A number that names this trajectory, the same for everybody who reads it."""
        match = _NUMBER.match(self.folder.name)
        return int(match[1]) if match else zlib.crc32(self.folder.name.encode())


def read_layout(data_dir: Path) -> Layout:
    """
    Read how a dataset's observations are stored; without ``metadata.json`` they are whole.

    :param data_dir: folder of the dataset
    :raises StrlValueError: if the file is no metadata of ours
    """
    path = data_dir / "metadata.json"
    if not path.is_file():
        return Layout({}, {})
    metadata = read_metadata(path)
    segments = metadata.get("obs_segments") or {}
    mapping = metadata.get("obs_disassemble_mapping") or {}
    valid = isinstance(mapping, dict) and isinstance(segments, dict)
    if not valid or not all(isinstance(group, dict) for group in segments.values()):
        raise StrlValueError(
            f"'{path}': obs_segments is {segments}. Expected {{group: {{segment: shape}}}}, and "
            "obs_disassemble_mapping {segment: 'normalized_image'}. Restore the file."
        )
    return Layout(segments, mapping)


def read_metadata(path: Path) -> dict[str, Any]:
    """
    Read ``metadata.json``.

    :raises StrlValueError: if it is damaged or describes something else
    """
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StrlValueError(
            f"'{path}': this is no JSON text ({error}). Expected what RolloutWriter writes. "
            "Delete the file if the observations are stored whole."
        ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != METADATA_FORMAT:
        given = metadata.get("format") if isinstance(metadata, dict) else type(metadata).__name__
        raise StrlValueError(
            f"'{path}': the format is {given!r}. Expected '{METADATA_FORMAT}'. Convert recordings "
            "of other libraries first, e.g. with convert_legacy_rollouts."
        )
    return metadata


def read_dataset_directory(data_dir: str | Path | Sequence[str | Path]) -> list[StoredTrajectory]:
    """
    Find all trajectories under one or several folders, oldest first.

    The time is the folder's; equally old ones are sorted by number, then by name. Empty folders,
    and those that are still being written, are left out.

    :param data_dir: folder or folders; each may have its own ``metadata.json``
    :return: the trajectories
    :raises FileNotFoundError: if a folder does not exist
    :raises StrlValueError: if a trajectory or the metadata is damaged
    """
    roots = [data_dir] if isinstance(data_dir, str | Path) else list(data_dir)
    layouts: dict[Path, Layout] = {}
    found: list[tuple[int, int, str, StoredTrajectory]] = []
    for root in map(Path, roots):
        if not root.is_dir():
            raise FileNotFoundError(f"RolloutDataset: there is no folder '{root}'.")
        for folder in root.rglob("trajectory_*"):
            if not folder.is_dir():
                continue
            if folder.parent not in layouts:
                layouts[folder.parent] = _nearest_layout(folder.parent, root)
            stored = StoredTrajectory.open(folder, layouts[folder.parent])
            if stored is not None:
                age = folder.stat().st_mtime_ns
                found.append((age, stored.number, str(folder), stored))
    return [stored for *_, stored in sorted(found, key=lambda entry: entry[:3])]


def _nearest_layout(folder: Path, root: Path) -> Layout:
    """Read the metadata beside the trajectories, or else further up in the dataset."""
    above = [folder, *folder.parents]
    for candidate in above[: above.index(root) + 1]:
        if (candidate / "metadata.json").is_file():
            return read_layout(candidate)
    return Layout({}, {})


class FrameReader:
    """
    Reads frames of one trajectory after another; keeps the current file's directory.

    :param trajectory: the trajectory
    """

    def __init__(self, trajectory: StoredTrajectory) -> None:
        self.trajectory = trajectory
        self._index = -1
        self._shard: Shard | None = None
        self._types: dict[str, np.dtype[Any]] = {}

    def current(self) -> Shard:
        """Return the directory of the file it stands at, the first one before any reading."""
        return self.shard(max(self._index, 0))

    def shard(self, index: int) -> Shard:
        """
        Return one file's directory, checked against the file's name and the files before.

        :param index: which file
        :raises StrlValueError: if an array has not as many rows as the name announces, or is of
            another type than in the other files
        """
        if self._shard is None or index != self._index:
            shard = Shard(self.trajectory.files[index])
            start, end = get_frame_range(shard.path)
            for name, member in shard.members.items():
                rows = 1 if name.startswith(FINAL_PREFIX) else end - start
                if member.shape[0] != rows:
                    raise StrlValueError(
                        f"'{shard.path}': '{name}' has {member.shape[0]} rows. Expected {rows}, as "
                        "the file's name says. Delete the trajectory's folder to go on without it."
                    )
                field = name.replace(FINAL_PREFIX, OBS_PREFIX, 1)
                known = self._types.setdefault(field, member.dtype)
                if not fits_type(member.dtype, known):
                    raise StrlValueError(
                        f"'{shard.path}': '{name}' is of type {member.dtype}. Expected {known}, as "
                        "in the rest of the trajectory. Delete its folder to go on without it."
                    )
            self._index, self._shard = index, shard
        return self._shard

    def read(self, names: Mapping[str, Array], start: int) -> None:
        """
        Fill arrays with frames from ``start`` on.

        :param names: ``(n, ...)`` by name, all with the same ``n``
        :param start: first frame
        """
        count = len(next(iter(names.values())))
        done = 0
        while done < count:
            frame = start + done
            index = int(np.searchsorted(self.trajectory.starts, frame, side="right")) - 1
            shard = self.shard(index)
            first, end = get_frame_range(shard.path)
            n = min(count - done, end - frame)
            with shard.path.open("rb") as stream:
                for name, out in names.items():
                    self._read_field(shard, stream, name, frame - first, out[done : done + n])
            done += n

    def final(self, name: str, out: Array) -> bool:
        """
        Fill ``out`` with the observation after the last frame, where it is known.

        :param name: group
        :param out: ``(1, ...)``
        :return: whether it is known
        """
        shard = self.shard(len(self.trajectory.files) - 1)
        if not any(member.startswith(FINAL_PREFIX) for member in shard.members):
            return False
        with shard.path.open("rb") as stream:
            self._read_field(shard, stream, FINAL_PREFIX + name, 0, out)
        return True

    def _read_field(
        self, shard: Shard, stream: BufferedReader, name: str, row: int, out: Array
    ) -> None:
        prefix, _, group = name.partition("/")
        layout = self.trajectory.layout
        segments = layout.parts(group) if prefix + "/" in (OBS_PREFIX, FINAL_PREFIX) else []
        if not segments:
            shard.read_into(stream, name, row, out)
            return
        column = 0
        for segment in segments:
            member = shard.member(f"{name}/{segment}")
            rows = np.empty((len(out), *member.shape[1:]), member.dtype)
            shard.read_into(stream, f"{name}/{segment}", row, rows)
            width = layout.width(group, segment)
            out[:, column : column + width] = layout.decode(segment, rows)
            column += width


def field_specs(reader: FrameReader) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """
    Return the shape of a frame and the type of every field that a trajectory stores.

    :param reader: reader of the trajectory; the file it stands at speaks for all
    :return: groups as ``"obs/<group>"``, put together; the other fields under their names
    """
    shard = reader.current()
    layout = reader.trajectory.layout
    specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, member in shard.members.items():
        if name.startswith(FINAL_PREFIX):
            continue
        group = name.removeprefix(OBS_PREFIX).partition("/")[0]
        parts = layout.parts(group) if name.startswith(OBS_PREFIX) else []
        if parts:
            width = sum(layout.width(group, part) for part in parts)
            specs[OBS_PREFIX + group] = ((width,), np.dtype(np.float32))
        else:
            specs[name] = (member.shape[1:], member.dtype)
    return specs
