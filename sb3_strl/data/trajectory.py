"""One demonstration in memory: the form in which formats of other libraries are exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data.rollout_writer import RolloutWriter
from sb3_strl.data.shards import Array
from sb3_strl.data.stored_trajectory import (
    OBS_PREFIX,
    FrameReader,
    StoredTrajectory,
    field_specs,
    read_dataset_directory,
)

Obs = Array | Mapping[str, Array]
_FRAMES_PER_FILE = 256


@dataclass(frozen=True, eq=False)
class Trajectory:
    """
    A demonstration of ``T`` steps, with the field names of imitation's ``Trajectory``.

    :param obs: ``(T + 1, ...)``, the last one after the last action; by name if there are several
    :param acts: ``(T, ...)``
    :param rews: ``(T,)``, float; ``None`` if unknown
    :param terminal: whether it ended in a terminal state; false where it was cut, by a time limit
        or by the end of the recording
    :param infos: ``T`` dictionaries, or ``None``
    :raises StrlValueError: if lengths disagree
    :raises StrlTypeError: if an array holds Python objects
    :raises NonFiniteError: if a number is NaN or infinite
    """

    obs: Obs
    acts: Array
    rews: Array | None = None
    terminal: bool = True
    infos: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        arrays = {**self._named_obs(), "acts": self.acts}
        if self.rews is not None:
            arrays["rews"] = self.rews
        steps = len(self.acts)
        for name, values in arrays.items():
            if values.dtype.kind not in "fiub":
                raise StrlTypeError(
                    f"Trajectory: '{name}' is of type {values.dtype}. Expected real numbers."
                )
            rows = steps + 1 if name.startswith("obs") else steps
            if steps < 1 or values.ndim < 1 or len(values) != rows:
                raise StrlValueError(
                    f"Trajectory: '{name}' has shape {values.shape} beside {steps} actions. "
                    f"Expected {rows} rows: one observation more than actions, and at least one "
                    "action."
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise NonFiniteError(
                    f"Trajectory: '{name}' holds NaN or infinity. Expected finite numbers."
                )
        if self.rews is not None and (self.rews.shape != (steps,) or self.rews.dtype.kind != "f"):
            raise StrlValueError(
                f"Trajectory: 'rews' is {self.rews.dtype} {self.rews.shape}. Expected floating "
                f"numbers of shape ({steps},)."
            )
        if self.infos is not None and len(self.infos) != steps:
            raise StrlValueError(
                f"Trajectory: there are {len(self.infos)} infos. Expected {steps}, or None."
            )

    def __len__(self) -> int:
        return len(self.acts)

    def _named_obs(self) -> dict[str, Array]:
        if isinstance(self.obs, Mapping):
            return {f"obs['{name}']": values for name, values in self.obs.items()}
        return {"obs": self.obs}


def read_rollouts(
    data_dir: str | Path | Sequence[str | Path],
    groups: str | Sequence[str] = "policy",
    actions: str = "actions",
) -> Iterator[Trajectory]:
    """
    Load the trajectories of a rollout dataset one after another.

    Where the observation after the last action was not recorded, that action is left out and the
    trajectory counts as cut.

    :param data_dir: folder or folders of :class:`~sb3_strl.data.rollout_dataset.RolloutDataset`
    :param groups: the group that becomes ``obs``, or several that become a dictionary
    :param actions: the field that becomes ``acts``, e.g. a teacher's labels
    :return: an iterator; one trajectory is in memory at a time
    """
    for stored in read_dataset_directory(data_dir):
        trajectory = _load(stored, [groups] if isinstance(groups, str) else list(groups), actions)
        if trajectory is None:
            continue
        if isinstance(groups, str) and isinstance(trajectory.obs, Mapping):
            obs = trajectory.obs[groups]
            yield Trajectory(obs, trajectory.acts, trajectory.rews, trajectory.terminal)
        else:
            yield trajectory


def write_rollouts(
    trajectories: Iterable[Trajectory], save_dir: str | Path, group: str = "policy"
) -> Path:
    """
    Write demonstrations as a rollout dataset; infos have no place there and are left out.

    :param trajectories: the demonstrations; unknown rewards become 0
    :param save_dir: folder, made if need be; what is there is continued
    :param group: name of an observation that is a plain array
    :return: the folder
    """
    with RolloutWriter(save_dir, num_envs=1) as writer:
        for trajectory in trajectories:
            obs = trajectory.obs
            groups = dict(obs) if isinstance(obs, Mapping) else {group: obs}
            steps = len(trajectory)
            rewards = np.zeros(steps, np.float32) if trajectory.rews is None else trajectory.rews
            for start in range(0, steps, _FRAMES_PER_FILE):
                here = slice(start, min(start + _FRAMES_PER_FILE, steps))
                after = slice(here.start + 1, here.stop + 1)
                last = np.arange(here.start, here.stop)[:, None] == steps - 1
                writer.write(
                    {name: values[here, None] for name, values in groups.items()},
                    trajectory.acts[here, None],
                    rewards[here, None],
                    last & trajectory.terminal,
                    last & (not trajectory.terminal),
                    {name: values[after, None] for name, values in groups.items()},
                )
    return Path(save_dir)


def _load(stored: StoredTrajectory, groups: list[str], actions: str) -> Trajectory | None:
    """Read a whole trajectory with its groups by name; ``None`` if no complete step is left."""
    reader = FrameReader(stored)
    specs = field_specs(reader)
    names = [*(OBS_PREFIX + group for group in groups), actions]
    for name in names:
        if name not in specs:
            raise StrlValueError(
                f"read_rollouts: '{stored.folder}' has no field '{name}'. Expected one of "
                f"{sorted(specs)}. Choose with groups= and actions=."
            )
    wanted = [*names, *(name for name in ("rewards", "dones", "timeouts") if name in specs)]
    rows = {name: np.empty((stored.length + 1, *specs[name][0]), specs[name][1]) for name in wanted}
    reader.read({name: values[:-1] for name, values in rows.items()}, 0)
    finals = [reader.final(group, rows[OBS_PREFIX + group][-1:]) for group in groups]
    known = all(finals)
    steps = stored.length if known else stored.length - 1
    if steps < 1:
        return None
    terminal = known
    if "dones" in rows:
        terminal &= bool(rows["dones"][stored.length - 1])
    if "timeouts" in rows:
        terminal &= not rows["timeouts"][stored.length - 1]
    rewards = rows["rewards"][:steps].astype(np.float32) if "rewards" in rows else None
    obs = {group: rows[OBS_PREFIX + group][: steps + 1] for group in groups}
    return Trajectory(obs, rows[actions][:steps], rewards, terminal)
