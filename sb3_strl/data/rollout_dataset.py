"""Recorded trajectories streamed from disk: larger than memory, many environments abreast."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch.utils.data import get_worker_info

from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlValueError, suggest
from sb3_strl.data.rollout_files import RolloutFileBase, Transition
from sb3_strl.data.shards import Array, fits_type, get_frame_range
from sb3_strl.data.stored_trajectory import (
    OBS_PREFIX,
    FrameReader,
    Layout,
    StoredTrajectory,
    assemble_obs_components,
    field_specs,
    read_dataset_directory,
)
from sb3_strl.data.walk_plan import Span, WalkPlan

_NEXT_PREFIX = "next_obs/"
_DEFAULTS = {"rewards": np.float32, "dones": np.bool_, "timeouts": np.bool_, "padding": np.bool_}
_MAX_AHEAD = 64
_MAX_AHEAD_BYTES = 64 * 2**20


class RolloutDataset(RolloutFileBase):
    """
    Plays recorded trajectories back in ``num_envs`` environments side by side.

    Every environment walks through a trajectory frame by frame; at its end it takes the next one
    that nobody has walked. Frames are read from the files in small blocks ahead of time, so that
    memory does not grow with the dataset. In a ``DataLoader`` every worker takes its own share of
    the trajectories and no two the same one.

    ``done`` is true in the last frame of a trajectory and nowhere else. ``next_observation`` of the
    last frame is the recorded one; where none was recorded it is the observation itself, and a
    recording that was cut there says ``timeout``.

    :param data_dir: folder or folders; each holds ``trajectory_*`` folders, at any depth
    :param num_envs: rows N of a batch
    :param dataset_loops: passes over the trajectories; below 1 without end. Folders are looked
        through again before each pass
    :param random_shuffle_traj_order: shuffle the trajectories anew for each pass
    :param keep_latest_n_trajs: use the newest ones only, this many; 0 uses all
    :param starting_frame_range: half-open range from which the first frame of every walk is drawn;
        where it is beyond the trajectory, the walk begins at frame 0
    :param device: where batches are put
    :param seed: of shuffling and first frames; ``None`` draws one
    :param drop_last: end as soon as an environment finds no new trajectory; by default the others
        go on to their ends and the idle row repeats old frames, marked as ``padding``
    :param poll_interval: seconds between two looks at the folders while trajectories are missing
    :param max_wait: seconds to wait for the first, or the ``keep_latest_n_trajs``, trajectories
    :param groups: which recorded groups are ``observation`` and ``privileged_observation``
    :raises StrlValueError: if an option cannot work, or trajectories are missing or damaged
    """

    def __init__(
        self,
        data_dir: str | Path | Sequence[str | Path],
        num_envs: int,
        dataset_loops: int = 1,
        random_shuffle_traj_order: bool = False,
        keep_latest_n_trajs: int = 0,
        starting_frame_range: Sequence[int] = (0, 1),
        device: th.device | str = "auto",
        seed: int | None = None,
        drop_last: bool = False,
        poll_interval: float = 1.0,
        max_wait: float = 0.0,
        groups: tuple[str, str] = ("policy", "critic"),
    ) -> None:
        super().__init__(data_dir, num_envs, device)
        low, high = starting_frame_range
        if not 0 <= low < high:
            raise StrlValueError(
                f"RolloutDataset: starting_frame_range is [{low}, {high}). Expected "
                "0 <= low < high; (0, 1) always begins at the first frame."
            )
        if keep_latest_n_trajs < 0 or poll_interval <= 0 or max_wait < 0:
            raise StrlValueError(
                f"RolloutDataset: keep_latest_n_trajs={keep_latest_n_trajs}, poll_interval="
                f"{poll_interval}, max_wait={max_wait}. Expected numbers >= 0, and "
                "poll_interval > 0."
            )
        self.dataset_loops = dataset_loops
        self.random_shuffle_traj_order = random_shuffle_traj_order
        self.keep_latest_n_trajs = keep_latest_n_trajs
        self.starting_frame_range = (int(low), int(high))
        self.drop_last = drop_last
        self.poll_interval = poll_interval
        self.max_wait = max_wait
        self.groups = groups
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._rng = np.random.default_rng(self.seed)
        self._specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._host: dict[str, Array] = {}
        self._block: dict[str, th.Tensor] = {}
        self._rng_at_reset: dict[str, Any] = {}

    @staticmethod
    def get_frame_range(name: str | Path) -> tuple[int, int]:
        """Return the half-open range of frames that a file's name announces."""
        return get_frame_range(name)

    @staticmethod
    def assemble_obs_components(
        components: Mapping[str, Array], layout: Layout, group: str
    ) -> Array:
        """Put a group of observations, stored in segments, together: ``(n, obs_dim)``."""
        return assemble_obs_components(components, layout, group)

    def read_dataset_directory(self) -> list[StoredTrajectory]:
        """
        Find the trajectories to walk, oldest first; wait for them if that was asked for.

        :raises StrlValueError: if there are not enough of them in time
        """
        wanted = max(self.keep_latest_n_trajs, 1)
        deadline = time.monotonic() + self.max_wait
        while len(found := read_dataset_directory(self.data_dirs)) < wanted:
            if time.monotonic() >= deadline:
                raise StrlValueError(
                    f"RolloutDataset: {[str(d) for d in self.data_dirs]} holds {len(found)} "
                    f"trajectories. Expected at least {wanted} folders 'trajectory_<n>' with "
                    "'traj_<start>_<end>.npz'. Pass max_wait=<seconds> to wait for more."
                )
            time.sleep(min(self.poll_interval, max(deadline - time.monotonic(), 0.0)))
        return found[-self.keep_latest_n_trajs :]

    def reset_all(self) -> None:
        """Look through the folders and begin the first pass."""
        worker = get_worker_info()
        rng = self._rng
        rng_at_reset = dict(rng.bit_generator.state)
        if worker is not None:
            # The same in every worker, and another one in every epoch.
            rng = np.random.default_rng([self.seed, worker.seed - worker.id])
            self.device = th.device("cpu")

        def draw_pass() -> list[StoredTrajectory]:
            found = self.read_dataset_directory()
            if self.random_shuffle_traj_order:
                found = [found[i] for i in rng.permutation(len(found))]
            if worker is None:
                return found
            # By number, not by place in the list: it holds while new trajectories arrive.
            return [t for t in found if t.number % worker.num_workers == worker.id]

        self._plan = WalkPlan(
            self.num_envs,
            draw_pass,
            self.dataset_loops,
            self.starting_frame_range,
            rng,
            self.drop_last,
        )
        self._readers: list[FrameReader | None] = [None] * self.num_envs
        self._rng_at_reset = rng_at_reset
        self._time = self._begin = self._stop = 0

    def recorded_groups(self) -> tuple[str, ...]:
        """Return the names of the observation groups that are in the files."""
        self._start()
        self._plan.extend(self._time + 1)
        self._allocate()
        names = (name for name in self._specs if name.startswith(OBS_PREFIX))
        return tuple(name.removeprefix(OBS_PREFIX) for name in names)

    def state_dict(self) -> dict[str, Any]:
        """Return where the walk is: plain containers, no frames."""
        self._start()
        return {"random": self._rng_at_reset, "step": self._time}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Continue a walk, exactly if the folders hold the same trajectories and the options are the
        same, and nobody was sent away in between.

        :param state: what :meth:`state_dict` returned
        """
        self._rng.bit_generator.state = state["random"]
        self.reset()
        self._time = self._begin = self._stop = int(state["step"])

    def refresh_handlers(self, env_ids: Sequence[int]) -> None:
        """Send some environments to their next trajectories; the others walk on."""
        self._plan.leave(env_ids, self._time)
        if self._time < self._stop:
            self._plan.extend(self._stop)
            self._fill(env_ids, self._time)

    def get_buffer(self, n: int) -> Transition:
        """Return fresh tensors ``(n, N, ...)``."""
        self._prepare()
        shapes = self._transition(self._block)
        return shapes.map(lambda block: block.new_empty((n, *block.shape[:1], *block.shape[2:])))

    def fill_transition(self, buffer: Transition, step: int) -> None:
        """Write the next frame of every environment into row ``step``."""
        self._prepare()
        now = self._transition({k: v[:, self._time - self._begin] for k, v in self._block.items()})
        for target, source in zip(buffer[:-1], now[:-1], strict=True):
            target[step] = source
        for name, value in now.extras.items():
            buffer.extras[name][step] = value
        self._time += 1

    def _prepare(self) -> None:
        """Have the block at hand in which the next frame lies."""
        if self._time >= self._stop:
            self._plan.forget(self._time)
            self._plan.extend(self._time + 1)
            if self._plan.end is None or self._time < self._plan.end:
                self._allocate()
                self._begin, self._stop = self._time, self._time + self._ahead
                self._plan.extend(self._stop)
                self._fill(range(self.num_envs), self._begin)
        if self._plan.end is not None and self._time >= self._plan.end:
            raise StopIteration

    def _allocate(self) -> None:
        """Make room for a block, once it is known what a frame looks like."""
        if self._host:
            return
        self._specs = self._field_specs(FrameReader(self._plan.spans[0][0].trajectory))
        frame = sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in self._specs.values())
        fitting = _MAX_AHEAD_BYTES // max(frame * self.num_envs, 1)
        self._ahead = int(np.clip(fitting, 1, _MAX_AHEAD))
        self._host = {
            name: np.zeros((self.num_envs, self._ahead, *shape), dtype)
            for name, (shape, dtype) in self._specs.items()
        }

    def _field_specs(self, reader: FrameReader) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and type of a frame's fields, floating ones as float32."""
        stored = field_specs(reader)
        for needed in (OBS_PREFIX + self.groups[0], "actions"):
            if needed not in stored:
                raise StrlKeyError(
                    f"RolloutDataset: '{reader.trajectory.folder}' has no field '{needed}'."
                    f"{suggest(needed, stored)} It holds {sorted(stored)}. Name the recorded "
                    "groups with groups=(observation, privileged_observation)."
                )
        specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name, (shape, dtype) in stored.items():
            floating = np.issubdtype(dtype, np.floating)
            specs[name] = shape, np.dtype(np.float32) if floating else dtype
            if name.startswith(OBS_PREFIX):
                specs[_NEXT_PREFIX + name.removeprefix(OBS_PREFIX)] = specs[name]
        for name, kind in _DEFAULTS.items():
            specs[name] = (), np.dtype(kind)
        return specs

    def _fill(self, envs: Sequence[int], since: int) -> None:
        """Read the frames of the block from a step on and put them on the device."""
        for env in envs:
            for span in self._plan.spans[env]:
                begin, stop = max(span.begin, since), min(span.stop, self._stop)
                if begin < stop:
                    self._read(env, span, begin, stop)
        self._check_finite()
        blocks = {name: th.from_numpy(values) for name, values in self._host.items()}
        self._block = {name: values.to(self.device) for name, values in blocks.items()}

    def _read(self, env: int, span: Span, begin: int, stop: int) -> None:
        """Read what an environment meets from step ``begin`` to ``stop`` of one span."""
        reader = self._readers[env]
        if reader is None or reader.trajectory is not span.trajectory:
            reader = self._readers[env] = FrameReader(span.trajectory)
            self._check_specs(reader)
        here = slice(begin - self._begin, stop - self._begin)
        frame = span.start + begin - span.begin
        rows = {name: values[env, here] for name, values in self._host.items()}
        stored = [name for name in field_specs(reader) if name in rows]
        for name in _DEFAULTS:
            rows[name][:] = 0
        reader.read({name: rows[name] for name in stored}, frame)
        rows["padding"][:] = span.padding
        self._set_ends(reader, rows, frame, stored)

    def _check_specs(self, reader: FrameReader) -> None:
        """Compare what a trajectory stores with the first one."""
        given = field_specs(reader)
        for name, (shape, kind) in self._specs.items():
            found, found_kind = given.get(name, (shape, kind))
            if found != shape:
                problem = f"has shape {found} in a frame. Expected {shape}"
            elif name not in _DEFAULTS and not fits_type(found_kind, kind):
                problem = f"is of type {found_kind}. Expected {kind}"
            elif name not in given and not name.startswith(_NEXT_PREFIX) and name not in _DEFAULTS:
                problem = "is missing. Expected it"
            else:
                continue
            raise StrlValueError(
                f"RolloutDataset: '{reader.trajectory.folder}': field '{name}' {problem}, as in "
                "the first trajectory. Keep recordings of different robots in different folders."
            )

    def _set_ends(
        self, reader: FrameReader, rows: dict[str, Array], frame: int, stored: Sequence[str]
    ) -> None:
        """Derive the next observations and the flags of the last frame."""
        trajectory = reader.trajectory
        count = len(rows["actions"])
        after = frame + count
        last = after == trajectory.length
        inner = rows["dones"][: count - 1] if last else rows["dones"]
        if inner.any():
            raise StrlValueError(
                f"RolloutDataset: '{trajectory.folder}' is done at frame "
                f"{frame + int(inner.argmax())} of {trajectory.length}. Expected one episode per "
                "folder. Record it again with RolloutWriter, which divides at every end."
            )
        for name in (n for n in stored if n.startswith(OBS_PREFIX)):
            group = name.removeprefix(OBS_PREFIX)
            following = rows[_NEXT_PREFIX + group]
            following[:-1] = rows[name][1:]
            if not last:
                reader.read({name: following[-1:]}, after)
            elif not reader.final(group, following[-1:]):
                following[-1] = rows[name][-1]
        if last:
            cut = "dones" in stored and not rows["dones"][-1]
            rows["timeouts"][-1] |= cut
            rows["dones"][-1] = True
        rows["timeouts"][: count - 1 if last else count] = False

    def _check_finite(self) -> None:
        for name, values in self._host.items():
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                env, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values))[:2])
                step = self._begin + column
                where = next(s for s in self._plan.spans[env] if s.begin <= step < s.stop)
                raise NonFiniteError(
                    f"RolloutDataset: '{where.trajectory.folder}' holds NaN or infinity in '{name}'"
                    f", frame {where.start + step - where.begin}. Expected finite numbers. Delete "
                    "the folder to go on without it."
                )

    def _transition(self, fields: Mapping[str, th.Tensor]) -> Transition:
        """Name fields as a transition does."""
        group, privileged = self.groups
        if OBS_PREFIX + privileged not in fields:
            privileged = group
        named = {
            "observation": OBS_PREFIX + group,
            "privileged_observation": OBS_PREFIX + privileged,
            "action": "actions",
            "reward": "rewards",
            "done": "dones",
            "timeout": "timeouts",
            "next_observation": _NEXT_PREFIX + group,
            "next_privileged_observation": _NEXT_PREFIX + privileged,
            "padding": "padding",
        }
        extras = {k: v for k, v in fields.items() if k not in named.values()}
        return Transition(**{k: fields[name] for k, name in named.items()}, extras=extras)
