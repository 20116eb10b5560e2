"""Many motions on one device: states at any time, windows of features, initial states."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest
from sb3_strl.common.rotations import (
    quat_conjugate,
    quat_continuous,
    quat_multiply,
    quat_normalize,
    quat_slerp,
    quat_to_axis_angle,
)
from sb3_strl.data.motion import Motion, check_feature_names

_QUATERNION = ["w", "x", "y", "z"]
# A seam this many times larger than the largest step inside the clip is no part of the motion.
_SEAM_FACTOR = 3.0
_ROUNDING = 1e-6

_Arrays = dict[str, npt.NDArray[np.float64]]


class MotionLibrary:
    """
    Samples and interpolates motion clips, vectorised over samples, on one device.

    A state between two frames is interpolated linearly, quaternion fields (four columns
    ``w, x, y, z``) spherically. Times are continuous and count from a clip's first frame; ``T``
    frames span ``T - 1`` intervals. A looping clip accepts any time: its phase wraps, its
    accumulating columns (the horizontal root position) go on. In a clip that does not loop, times
    are clamped to the clip.

    Fields that a clip does not store are derived: ``<x>_vel`` of ``<x>_pos``, ``<x>_vel`` of any
    other field ``<x>``, and the angular velocity ``<x>_ang_vel`` in the frame of the world of a
    quaternion field ``<x>_quat``. They are central differences at the frames (across the seam of a
    looping clip, one-sided at the ends of the others).

    A name of fields may be a field or one column, ``"joint_pos"`` or ``"root_pos/z"``.

    :param motions: clips or paths of clips; all have the same fields and columns
    :param weights: relative frequency of each clip in sampling; by default proportional to the
        number of frames at which a window can end, so that every frame is equally likely
    :param device: where the library keeps its data and answers
    :param dtype: floating type of the answers
    :raises StrlValueError: if no clip was given, the columns or weights do not fit, or a quaternion
        is zero
    :raises StrlKeyError: if a clip lacks a field that another one has
    """

    def __init__(
        self,
        motions: Motion | str | Path | Sequence[Motion | str | Path],
        weights: Sequence[float] | None = None,
        device: th.device | str = "cpu",
        dtype: th.dtype = th.float32,
    ) -> None:
        given = [motions] if isinstance(motions, Motion | str | Path) else list(motions)
        if not given:
            raise StrlValueError("MotionLibrary: no motion was given. Pass clips or their paths.")
        self.motions = [m if isinstance(m, Motion) else Motion.load(m) for m in given]
        self.device = th.device(device)
        self.dtype = dtype
        self.weights = _checked_weights(weights, len(self.motions))
        _check_same_fields(self.motions)

        # Not a list comprehension: before Python 3.12 it would count as a caller to be warned.
        clips = list(map(_with_velocities, self.motions))
        self._columns = _column_names(self.motions[0], clips[0])
        self._slices: dict[str, slice] = {}
        start = 0
        for name, columns in self._columns.items():
            self._slices[name] = slice(start, start + len(columns))
            start += len(columns)
        self._quaternions = [
            self._slices[name]
            for name, columns in self._columns.items()
            if columns == _QUATERNION and not name.endswith("_vel")
        ]

        # All clips lie in one table, one below the other; a clip is an offset into it.
        order = list(self._columns)
        self._frames = self._tensor(
            np.vstack([np.hstack([c[name] for name in order]) for c in clips])
        )
        lengths = [motion.n_frames for motion in self.motions]
        self._offsets = th.as_tensor(np.cumsum([0, *lengths[:-1]]), device=self.device)
        self._last_intervals = th.as_tensor(np.array(lengths) - 2, device=self.device)
        self._advance = self._tensor(
            [
                np.concatenate([_advance(motion, name, clip[name]) for name in order])
                for motion, clip in zip(self.motions, clips, strict=True)
            ]
        )
        self._fps = self._tensor([motion.fps for motion in self.motions])
        self._loops = th.as_tensor([motion.loop for motion in self.motions], device=self.device)
        self.durations = self._tensor([motion.duration for motion in self.motions])
        self._sampling: dict[tuple[int, float], tuple[th.Tensor, th.Tensor, th.Tensor]] = {}
        self._selections: dict[tuple[str, ...], th.Tensor] = {}

    @property
    def fields(self) -> list[str]:
        """Names of the stored and derived fields."""
        return list(self._columns)

    def feature_names(self, fields: Sequence[str]) -> list[str]:
        """
        Return the flat column names of a window's features.

        :param fields: fields (``"joint_pos"``) or columns (``"root_pos/z"``), in the order wished
        :return: ``"field/column"``, ``F`` of them
        :raises StrlKeyError: if a field or column is unknown
        """
        names: list[str] = []
        for wanted in fields:
            field, slash, column = wanted.partition("/")
            if field not in self._columns:
                raise StrlKeyError(
                    f"MotionLibrary: unknown field '{field}'.{suggest(field, self._columns)} "
                    f"Known fields: {self.fields}."
                )
            columns = self._columns[field]
            if slash and column not in columns:
                raise StrlKeyError(
                    f"MotionLibrary: unknown column '{wanted}'.{suggest(column, columns)} "
                    f"Known columns of '{field}': {columns}."
                )
            names += [f"{field}/{c}" for c in ([column] if slash else columns)]
        return names

    def sample(
        self,
        n: int,
        generator: th.Generator | None = None,
        n_frames: int = 1,
        frame_dt: float = 0.0,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Draw clips by weight and times uniformly.

        :param n: number of samples
        :param generator: source of randomness, on the library's device
        :param n_frames: length of the window that shall end at the times; in clips that do not
            loop, only times with a whole window before them are drawn
        :param frame_dt: seconds between the frames of that window
        :return: clip ids ``(n,)``, int64, and times ``(n,)``, s
        :raises StrlValueError: if no window of that length fits into a clip that does not loop
        """
        cdf, earliest, spans = self._sampling_table(n_frames, frame_dt)
        draws = th.rand(2, n, generator=generator, device=self.device, dtype=cdf.dtype)
        # Not th.multinomial: a single draw would make it check its input on the host.
        clip_ids = th.searchsorted(cdf, draws[0], right=True)
        return clip_ids, earliest[clip_ids] + draws[1] * spans[clip_ids]

    def state_at(self, clip_ids: th.Tensor, times: th.Tensor) -> dict[str, th.Tensor]:
        """
        Interpolate every field.

        :param clip_ids: ``(n,)``, int64
        :param times: ``(n,)``, s
        :return: ``(n, d)`` by field
        """
        rows = self._interpolate(clip_ids, times)
        return {name: rows[:, columns] for name, columns in self._slices.items()}

    def windows(
        self,
        clip_ids: th.Tensor,
        times: th.Tensor,
        fields: Sequence[str],
        n_frames: int,
        frame_dt: float,
    ) -> th.Tensor:
        """
        Return the features of the ``n_frames`` moments that end at the given times, oldest first.

        A window stays in its clip: in a looping clip it wraps in phase, and accumulating columns
        count on through the seam; in the others times before the first frame show the first frame.

        :param clip_ids: ``(n,)``, int64
        :param times: ``(n,)``, time of the newest frame, s
        :param fields: fields or columns, see :meth:`feature_names`
        :param n_frames: ``K`` >= 1
        :param frame_dt: seconds between two frames of a window
        :return: ``(n, K, F)``
        :raises StrlValueError: if ``n_frames`` or ``frame_dt`` is not positive
        :raises StrlKeyError: if a field or column is unknown
        """
        _check_window("windows", n_frames, frame_dt)
        ages = th.arange(n_frames - 1, -1, -1, device=self.device, dtype=times.dtype) * frame_dt
        moments = times.unsqueeze(1) - ages
        rows = self._interpolate(clip_ids.repeat_interleave(n_frames), moments.flatten())
        features = rows.index_select(1, self._selection(fields))
        return features.view(-1, n_frames, features.shape[1])

    def sample_windows(
        self,
        n: int,
        fields: Sequence[str],
        n_frames: int,
        frame_dt: float,
        generator: th.Generator | None = None,
    ) -> th.Tensor:
        """
        Draw windows, see :meth:`sample` and :meth:`windows`.

        :return: ``(n, K, F)``
        """
        clip_ids, times = self.sample(n, generator, n_frames, frame_dt)
        return self.windows(clip_ids, times, fields, n_frames, frame_dt)

    def sample_init_states(
        self, n: int, generator: th.Generator | None = None
    ) -> dict[str, th.Tensor]:
        """
        Draw states to start episodes from (reference-state initialisation, Peng et al. 2018).

        :param n: number of states
        :param generator: source of randomness, on the library's device
        :return: ``(n, d)`` by field
        """
        return self.state_at(*self.sample(n, generator))

    def _tensor(self, values: object) -> th.Tensor:
        return th.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def _interpolate(self, clip_ids: th.Tensor, times: th.Tensor) -> th.Tensor:
        """Return all columns at ``times``: ``(n, D)``."""
        durations = self.durations[clip_ids]
        loops = self._loops[clip_ids]
        laps = th.where(loops, th.floor(times / durations), 0.0)
        position = (times - laps * durations) * self._fps[clip_ids]
        last_intervals = self._last_intervals[clip_ids]
        interval = position.long().clamp_(min=0).minimum(last_intervals)
        fractions = (position - interval).clamp_(0.0, 1.0).to(self.dtype)
        first = self._offsets[clip_ids] + interval
        start, end = self._frames[first], self._frames[first + 1]
        rows = th.lerp(start, end, fractions.unsqueeze(1))
        for columns in self._quaternions:
            rows[:, columns] = quat_slerp(start[:, columns], end[:, columns], fractions)
        return rows + laps.to(self.dtype).unsqueeze(1) * self._advance[clip_ids]

    def _selection(self, fields: Sequence[str]) -> th.Tensor:
        """Return the indices of the features in a row of the table, kept on the device."""
        key = tuple(fields)
        if key not in self._selections:
            every = self.feature_names(self.fields)
            indices = [every.index(name) for name in self.feature_names(fields)]
            self._selections[key] = th.tensor(indices, device=self.device)
        return self._selections[key]

    def _sampling_table(
        self, n_frames: int, frame_dt: float
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return the cumulative weights, the earliest time and the span of times of each clip."""
        key = (n_frames, frame_dt)
        if key not in self._sampling:
            if n_frames != 1:
                _check_window("sample", n_frames, frame_dt)
            length = (n_frames - 1) * frame_dt
            earliest, spans, counts = [], [], []
            for i, motion in enumerate(self.motions):
                earliest.append(0.0 if motion.loop else length)
                span = motion.duration - earliest[-1]
                drawn = self.weights is None or self.weights[i] > 0.0
                if drawn and span < -_ROUNDING:
                    raise StrlValueError(
                        f"MotionLibrary: a window of {n_frames} frames every {frame_dt} s lasts "
                        f"{length:g} s, longer than the clip '{motion.name}' "
                        f"({motion.duration:g} s), which does not loop. Expected a shorter window, "
                        "or a weight of 0 for the clip."
                    )
                spans.append(max(span, 0.0))
                # A looping clip's last frame is its first one and counts once.
                ends = math.floor(span * motion.fps + _ROUNDING) + (0 if motion.loop else 1)
                counts.append(ends)
            cumulative = np.cumsum(counts if self.weights is None else self.weights)
            self._sampling[key] = (
                self._tensor(cumulative / cumulative[-1]),
                self._tensor(earliest),
                self._tensor(spans),
            )
        return self._sampling[key]


def _check_window(method: str, n_frames: int, frame_dt: float) -> None:
    """Refuse windows without frames or with frames at one moment."""
    if n_frames < 1:
        raise StrlValueError(
            f"MotionLibrary.{method}: n_frames is {n_frames}. Expected at least 1 frame."
        )
    if not (frame_dt > 0.0 and np.isfinite(frame_dt)):
        raise StrlValueError(
            f"MotionLibrary.{method}: frame_dt is {frame_dt}. Expected a positive number of "
            "seconds between two frames."
        )


def _checked_weights(weights: Sequence[float] | None, n_clips: int) -> list[float] | None:
    """Return the weights as floats."""
    if weights is None:
        return None
    values = [float(weight) for weight in weights]
    if len(values) != n_clips:
        raise StrlValueError(
            f"MotionLibrary: {len(values)} weights for {n_clips} motions. Expected one per motion."
        )
    if any(not np.isfinite(w) or w < 0.0 for w in values) or sum(values) <= 0.0:
        raise StrlValueError(
            f"MotionLibrary: weights are {values}. Expected finite numbers >= 0, one of them > 0."
        )
    return values


def _check_same_fields(motions: list[Motion]) -> None:
    """Refuse clips whose fields or columns differ: their features would not be comparable."""
    first = motions[0]
    for motion in motions[1:]:
        for one, other in ((first, motion), (motion, first)):
            for name in one.fields:
                if name not in other.fields:
                    raise StrlKeyError(
                        f"MotionLibrary: the clip '{other.name}' lacks the field '{name}' that the "
                        f"clip '{one.name}' has. It has {list(other.fields)}. Give all clips the "
                        "same fields."
                    )
        for name, columns in first.columns.items():
            where = f"MotionLibrary: field '{name}' of the clip '{motion.name}'"
            check_feature_names(columns, motion.columns[name], where)


def _is_quaternion(motion: Motion, name: str) -> bool:
    return list(motion.columns[name]) == _QUATERNION


def _velocity_name(motion: Motion, name: str) -> str:
    """Return what the derivative of a field is called."""
    if _is_quaternion(motion, name):
        return name.removesuffix("_quat") + "_ang_vel"
    return name.removesuffix("_pos") + "_vel"


def _column_names(motion: Motion, fields: _Arrays) -> dict[str, list[str]]:
    """Return the columns of stored and derived fields, in the order of ``fields``."""
    columns = {name: list(names) for name, names in motion.columns.items()}
    for name in motion.columns:
        derived = ["x", "y", "z"] if _is_quaternion(motion, name) else columns[name]
        columns.setdefault(_velocity_name(motion, name), derived)
    return {name: columns[name] for name in fields}


def _advance(motion: Motion, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what a stored or derived field gains per loop; a derived velocity gains nothing."""
    return motion.loop_advance(name) if name in motion.fields else np.zeros(values.shape[1])


def _with_velocities(motion: Motion) -> _Arrays:
    """Return the stored fields, made continuous, and behind them the derived ones."""
    fields: _Arrays = {}
    for name, values in motion.fields.items():
        if _is_quaternion(motion, name):
            _check_directions(motion, name)
            quats = quat_continuous(quat_normalize(th.from_numpy(values)))
            fields[name] = quats.numpy()
        else:
            fields[name] = values
        if motion.loop:
            _warn_of_seam(motion, name, fields[name])
    for name in motion.fields:
        velocity = _velocity_name(motion, name)
        if name.endswith("_vel") or velocity in fields:
            continue
        fields[velocity] = _derivative(motion, name, fields[name])
    return fields


def _check_directions(motion: Motion, name: str) -> None:
    """Refuse quaternions of length zero: they are no rotation, and dividing by it gives NaN."""
    zero = np.flatnonzero(np.linalg.norm(motion.fields[name], axis=1) < _ROUNDING)
    if zero.size:
        raise StrlValueError(
            f"MotionLibrary: the quaternion '{name}' of the clip '{motion.name}' is zero, first in "
            f"frame {zero[0]} ({zero.size} of {motion.n_frames} frames). Expected rotations of "
            "length 1. Cut or mend the clip."
        )


def _warn_of_seam(motion: Motion, name: str, values: npt.NDArray[np.float64]) -> None:
    """Warn where a looping clip jumps from its last frame to its first."""
    if _is_quaternion(motion, name):
        steps = np.linalg.norm(_turns(values[:-1], values[1:]), axis=1)
        jump = float(np.linalg.norm(_turns(values[-1:], values[:1])))
        size, remedy = f"{jump:.3g} rad", "make a clip that does not loop"
    else:
        steps = np.abs(np.diff(values, axis=0))
        jump = float(np.abs(values[-1] - values[0] - motion.loop_advance(name)).max())
        size, remedy = f"{jump:.3g}", "name the column in accumulate if it goes on growing"
    if jump > _SEAM_FACTOR * steps.max() + 1e-6:
        warnings.warn(
            f"MotionLibrary: the looping clip '{motion.name}' jumps by {size} in '{name}' from its "
            f"last frame to its first. Repeat the first frame at the end, or {remedy}.",
            stacklevel=4,
        )


def _turns(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rotations between quaternions as axis times angle: ``(n, 3)``, rad."""
    inverse = quat_conjugate(th.from_numpy(start))
    turns = quat_to_axis_angle(quat_multiply(th.from_numpy(end), inverse)).numpy()
    return np.asarray(turns)


def _derivative(
    motion: Motion, name: str, values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Differentiate a field at the frames: ``(x[t+1] - x[t-1]) / (2 dt)``, by frames of a clip."""
    advance = motion.loop_advance(name)
    if motion.loop:
        # The last frame is the first one of the next cycle, so its neighbour is the second frame.
        before, after = values[-2:-1] - advance, values[1:2] + advance
    else:
        before, after = values[:1], values[-1:]
    padded = np.concatenate((before, values, after))
    steps = np.full((len(values), 1), 2.0)
    if not motion.loop:
        steps[[0, -1]] = 1.0
    if _is_quaternion(motion, name):
        turns = _turns(padded[:-2], padded[2:])
    else:
        turns = padded[2:] - padded[:-2]
    return np.asarray(turns * motion.fps / steps)
