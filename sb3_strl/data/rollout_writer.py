"""Writes recorded transitions as the folders that RolloutDataset reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.common.files import FolderLock, atomic_file
from sb3_strl.data.shards import Array, fits_type
from sb3_strl.data.stored_trajectory import (
    FINAL_PREFIX,
    METADATA_FORMAT,
    OBS_PREFIX,
    Layout,
    Segments,
    StoredTrajectory,
    read_metadata,
)
from sb3_strl.data.trajectory_writer import TrajectoryWriter, show_trajectory

_PARTIAL = re.compile(r"^\.trajectory_(\d+)\.partial$")
_COMPLETE = re.compile(r"^trajectory_(\d+)$")
_KEPT = ("obs_segments", "obs_disassemble_mapping")


@dataclass(frozen=True)
class TrajectorySummary:
    """
    What a filter gets to know about a trajectory that has come to its end.

    :param env: which environment it comes from
    :param length: number of frames
    :param total_reward: undiscounted sum of rewards
    :param terminated: whether it ended in a terminal state
    :param truncated: whether a time limit ended it
    """

    env: int
    length: int
    total_reward: float
    terminated: bool
    truncated: bool


Keep = Literal["all", "truncated", "terminated"] | Callable[[TrajectorySummary], bool]


class RolloutWriter:
    """
    Records ``num_envs`` environments, one folder per trajectory.

    A trajectory becomes visible once it has ended, as a whole, and is counted then. What a crash
    left behind is completed, as a cut recording, or removed when the folder is opened again;
    numbering and totals go on from what is there. Until it is closed no other writer may open the
    folder.

    :param save_dir: folder of the dataset, made if need be
    :param num_envs: environments that are recorded side by side
    :param obs_segments: shapes of the segments by name, by group, in order
    :param obs_disassemble_mapping: ``{segment: "normalized_image"}`` stores a segment with values
        in [0, 1] in one byte per number
    :param keep: which trajectories stay: ``"all"``; ``"truncated"``, those that survived until a
        time limit; ``"terminated"``; or a function of :class:`TrajectorySummary`
    :param save_partial: keep the unfinished trajectories at the end, cut where they are; only where
        ``keep`` is ``"all"``, since the others have not earned it yet
    :param config: anything JSON can hold, written beside the data
    :param shapes: of a frame's ``"obs/<group>"`` and ``"actions"`` where they are known already; a
        folder with others is refused at once
    :raises StrlValueError: if an option cannot work, the folder holds another kind of data, or
        another writer has it open
    """

    def __init__(
        self,
        save_dir: str | Path,
        num_envs: int,
        obs_segments: Segments | None = None,
        obs_disassemble_mapping: Mapping[str, str] | None = None,
        keep: Keep = "all",
        save_partial: bool = True,
        config: Mapping[str, Any] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        if num_envs < 1 or (
            isinstance(keep, str) and keep not in ("all", "truncated", "terminated")
        ):
            raise StrlValueError(
                f"RolloutWriter: num_envs={num_envs}, keep={keep!r}. Expected at least 1 "
                "environment, and 'all', 'truncated', 'terminated' or a function for keep."
            )
        self.save_dir = Path(save_dir)
        self.num_envs = num_envs
        self.keep = keep
        self.save_partial = save_partial and keep == "all"
        self.total_trajectories = 0
        self.total_timesteps = 0
        self.discarded_trajectories = 0
        self._layout = Layout(obs_segments or {}, obs_disassemble_mapping or {})
        self._fields: dict[str, tuple[tuple[int, ...], str]] = {}
        self._next_number = 0
        self._writers: list[TrajectoryWriter | None] = [None] * num_envs
        self._metadata: dict[str, Any] = {
            "format": METADATA_FORMAT,
            "config": dict(config or {}),
            "obs_segments": {
                g: {k: list(v) for k, v in s.items()} for g, s in (obs_segments or {}).items()
            },
            "obs_disassemble_mapping": dict(obs_disassemble_mapping or {}),
        }
        self._check_json()
        self.save_dir.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:
            self._resume(shapes)
            self.dump_metadata()
        except BaseException:
            self._lock.release()
            raise
        self._open = True

    @property
    def pending_timesteps(self) -> int:
        """Frames of trajectories that have not ended and will be kept if the recording ends now."""
        return sum(w.length for w in self._writers if w is not None) if self.save_partial else 0

    def write(
        self,
        obs: Mapping[str, Array],
        actions: Array,
        rewards: Array,
        terminated: Array,
        truncated: Array,
        final_obs: Mapping[str, Array] | None,
        extras: Mapping[str, Array] | None = None,
    ) -> None:
        """
        Append ``T`` steps of every environment; trajectories are divided where they end.

        :param obs: ``(T, N, ...)`` by group, before each step
        :param actions: ``(T, N, *action_shape)``
        :param rewards: ``(T, N)``
        :param terminated: ``(T, N)``, bool
        :param truncated: ``(T, N)``, bool
        :param final_obs: ``(T, N, ...)`` by group, after each step and before any reset; looked at
            where an episode ended, and in the last step; ``None`` if unknown
        :param extras: further fields ``(T, N, ...)``, e.g. a teacher's actions
        :raises StrlValueError: if shapes or names differ from one another or from earlier calls
        :raises StrlTypeError: if a field is of another kind of number than before, or of none
        :raises NonFiniteError: if a number is NaN or infinite; nothing of the call is then written
        """
        if not self._open:
            raise StrlValueError(
                f"RolloutWriter: '{self.save_dir}' is written after close(). Expected an open "
                "writer. Make another one, it goes on with the folder."
            )
        fields = {OBS_PREFIX + name: np.asarray(value) for name, value in obs.items()}
        fields |= {name: np.asarray(value) for name, value in (extras or {}).items()}
        dones = np.asarray(terminated, np.bool_) | np.asarray(truncated, np.bool_)
        fields |= {
            "actions": np.asarray(actions),
            "rewards": np.asarray(rewards, np.float32),
            "dones": dones,
            "timeouts": np.asarray(truncated, np.bool_) & ~np.asarray(terminated, np.bool_),
        }
        finals = {name: np.asarray(value) for name, value in (final_obs or {}).items()}
        self._check(fields, finals, obs)
        for env in range(self.num_envs):
            start = 0
            for last in np.flatnonzero(dones[:, env]):
                rows = {name: value[start : last + 1, env] for name, value in fields.items()}
                final = {name: value[last, env] for name, value in finals.items()}
                self._writer(env).write(rows, final)
                self._finish(env, bool(fields["timeouts"][last, env]))
                start = int(last) + 1
            if start < len(dones):
                rows = {name: value[start:, env] for name, value in fields.items()}
                # Known to be the last one only after a crash or at the end of the recording.
                self._writer(env).write(
                    rows, {name: value[-1, env] for name, value in finals.items()}
                )
        self.dump_metadata()

    def close(self) -> None:
        """End the recording, write the totals and let others open the folder."""
        if self._open:
            try:
                self.end_trajectories()
            finally:
                self._open = False
                self._lock.release()

    def end_trajectories(self) -> None:
        """
        Complete or remove the unfinished trajectories and write the totals.

        What is written afterwards begins new ones.
        """
        for env, writer in enumerate(self._writers):
            if writer is None:
                continue
            if self.save_partial:
                self._count(writer)
            else:
                writer.discard()
            self._writers[env] = None
        self.dump_metadata()

    def add_config(self, config: Mapping[str, Any]) -> None:
        """
        Write more configuration beside the data.

        :param config: anything JSON can hold
        :raises StrlTypeError: if it cannot be written as JSON
        """
        before = self._metadata["config"]
        self._metadata["config"] = {**before, **config}
        try:
            self._check_json()
        except StrlTypeError:
            self._metadata["config"] = before
            raise
        self.dump_metadata()

    def dump_metadata(self) -> None:
        """Write totals, layout and configuration as ``metadata.json``."""
        totals = {
            "total_trajectories": int(self.total_trajectories),
            "total_timesteps": int(self.total_timesteps),
            "fields": {name: [list(shape), kind] for name, (shape, kind) in self._fields.items()},
        }
        text = json.dumps(self._metadata | totals, indent=2, allow_nan=False)
        with atomic_file(self.save_dir / "metadata.json") as stream:
            stream.write(text.encode())

    def _writer(self, env: int) -> TrajectoryWriter:
        writer = self._writers[env]
        if writer is None:
            writer = TrajectoryWriter(self.save_dir, self._next_number, self._layout)
            self._writers[env] = writer
            self._next_number += 1
        return writer

    def _finish(self, env: int, truncated: bool) -> None:
        """Keep or discard the trajectory that an environment has completed."""
        writer = self._writer(env)
        summary = TrajectorySummary(
            env, writer.length, writer.total_reward, not truncated, truncated
        )
        if isinstance(self.keep, str):
            wanted = {"all": True, "truncated": truncated, "terminated": not truncated}[self.keep]
        else:
            wanted = self.keep(summary)
        if wanted:
            self._count(writer)
        else:
            writer.discard()
            self.discarded_trajectories += 1
        self._writers[env] = None

    def _count(self, writer: TrajectoryWriter) -> None:
        writer.finish()
        self.total_trajectories += 1
        self.total_timesteps += writer.length

    def _check(
        self, fields: Mapping[str, Array], finals: Mapping[str, Array], obs: Mapping[str, Array]
    ) -> None:
        """Compare shapes and types with one another and with what was recorded before."""
        steps = len(fields["rewards"])
        ends = fields["dones"].copy()
        ends[-1:] = True
        if not obs or (finals and set(finals) != set(obs)):
            raise StrlValueError(
                f"RolloutWriter: obs has the groups {sorted(obs)}, final_obs {sorted(finals)}. "
                "Expected at least one group, and the same ones in both."
            )
        now = {name: (v.shape[2:], str(v.dtype)) for name, v in fields.items()}
        for name, values in [*fields.items(), *((FINAL_PREFIX + k, v) for k, v in finals.items())]:
            field = name.replace(FINAL_PREFIX, OBS_PREFIX, 1)
            shape, kind = self._fields.get(field, now[field])
            if values.shape != (steps, self.num_envs, *shape):
                raise StrlValueError(
                    f"RolloutWriter: '{name}' has shape {values.shape}. Expected ({steps}, "
                    f"{self.num_envs}) and then {shape}."
                )
            if values.dtype.kind not in "fiub":
                raise StrlTypeError(
                    f"RolloutWriter: '{name}' is of type {values.dtype}. Expected real numbers."
                )
            if not fits_type(values.dtype, np.dtype(kind)):
                raise StrlTypeError(
                    f"RolloutWriter: '{name}' is of type {values.dtype}. Expected {kind}, as "
                    "before. Convert it, or record into another folder."
                )
            looked_at = values[ends] if name.startswith(FINAL_PREFIX) else values
            if values.dtype.kind == "f" and not np.isfinite(looked_at).all():
                raise NonFiniteError(
                    f"RolloutWriter: '{name}' holds NaN or infinity. Expected finite numbers; "
                    "nothing of this call was written."
                )
        if self._fields and set(fields) != set(self._fields):
            raise StrlValueError(
                f"RolloutWriter: the fields are {sorted(fields)}. Expected {sorted(self._fields)}, "
                "as before. Record other fields into another folder."
            )
        for group in obs:
            self._check_segments(group, fields[OBS_PREFIX + group].shape[2:])
        if not self._fields:
            self._fields = now

    def _check_segments(self, group: str, shape: tuple[int, ...]) -> None:
        parts = self._layout.parts(group)
        width = sum(self._layout.width(group, part) for part in parts)
        if parts and shape != (width,):
            raise StrlValueError(
                f"RolloutWriter: group '{group}' has shape {shape} in a frame. Expected ({width},),"
                f" the sum of its segments {parts}. Correct obs_segments."
            )

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        known = {
            name: shape
            for name, (shape, _) in self._fields.items()
            if name == "actions" or name.startswith(OBS_PREFIX)
        }
        if shapes is not None and known and known != shapes:
            raise StrlValueError(
                f"RolloutWriter: '{self.save_dir}' holds frames of {known}, now they are of "
                f"{dict(shapes)}. Expected the same. Record into another folder."
            )

    def _check_json(self) -> None:
        try:
            json.dumps(self._metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StrlTypeError(
                f"RolloutWriter: config cannot be written as JSON ({error}). Expected numbers, "
                "texts, lists and dictionaries."
            ) from error

    def _locked(self) -> FolderLock:
        try:
            return FolderLock(self.save_dir)
        except BlockingIOError as error:
            raise StrlValueError(
                f"RolloutWriter: '{self.save_dir}' is open in another writer, of this process or "
                "another one. Expected one at a time. Close that one, or record into another "
                "folder."
            ) from error

    def _resume(self, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
        """Go on with what is in the folder; settle what a crash left behind."""
        path = self.save_dir / "metadata.json"
        if path.is_file():
            before = read_metadata(path)
            for key in _KEPT:
                if before.get(key) != self._metadata[key]:
                    raise StrlValueError(
                        f"RolloutWriter: '{self.save_dir}' was recorded with {key}="
                        f"{before.get(key)}, given is {self._metadata[key]}. Expected the same. "
                        "Record into another folder."
                    )
            fields = before.get("fields") or {}
            self._fields = {name: (tuple(shape), kind) for name, (shape, kind) in fields.items()}
            self._check_shapes(shapes)
        for folder in sorted(self.save_dir.iterdir()):
            match = _COMPLETE.match(folder.name) or _PARTIAL.match(folder.name)
            if match:
                self._adopt(folder, int(match[1]))

    def _adopt(self, folder: Path, number: int) -> None:
        """Count a trajectory of an earlier run."""
        unfinished = folder.name.startswith(".")
        stored = None
        if not unfinished or self.save_partial:
            stored = StoredTrajectory.open(folder, self._layout)
        if unfinished:
            if stored is None:
                shutil.rmtree(folder)
                return
            for half in folder.glob(".*.tmp"):
                half.unlink()
            show_trajectory(folder, self.save_dir / f"trajectory_{number}")
        elif stored is None and not any(folder.iterdir()):
            folder.rmdir()
            return
        self._next_number = max(self._next_number, number + 1)
        if stored is not None:
            self.total_trajectories += 1
            self.total_timesteps += stored.length

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
