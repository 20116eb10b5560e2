"""Is a motion clip fit to be imitated? A report, and a drawing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest
from sb3_strl.common.tables import format_table
from sb3_strl.data.motion import Motion

_Array = npt.NDArray[np.float64]
_QUATERNION = ["w", "x", "y", "z"]
_FPS_RANGE = (20.0, 500.0)
# A step this many times larger than three quarters of all steps, and faster than this, is a jump.
_JUMP_FACTOR = 8.0
_JUMP_SPEED = 2.0
_SLIDE_SPEED = 0.3
# MotionLibrary draws the same line.
_SEAM_FACTOR = 3.0
_PLOTTED_COLUMNS = 12


@dataclass(frozen=True)
class Finding:
    """
    One line of a report.

    :param check: what was looked at
    :param value: what was seen
    :param passed: whether that is as it should be
    :param expected: how it should be
    """

    check: str
    value: str
    passed: bool
    expected: str


@dataclass(frozen=True)
class MotionReport:
    """
    What :func:`validate_motion` found; printing it gives a table.

    :param name: of the clip
    :param findings: one per check
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        rows = [(f.check, f.value, "ok" if f.passed else "BAD", f.expected) for f in self.findings]
        return format_table(f"Motion '{self.name}'", ("check", "seen", "", "expected"), rows)


def validate_motion(
    motion: Motion,
    limits: Mapping[str, tuple[float, float]] | None = None,
    foot: Mapping[str, str | _Array] | None = None,
    contact_height: float = 0.02,
) -> MotionReport:
    """
    Look for what makes a clip hard or impossible to imitate.

    Checked are the frame rate, jumps from one frame to the next (and over the seam of a looping
    clip), the length of quaternions, joint limits, and feet that slide while they are on the
    ground: the median of the horizontal speed over the frames in which a foot is no higher than
    ``contact_height`` above its lowest point (the median, since a foot that is just being lifted
    may move).

    :param motion: the clip
    :param limits: lowest and highest value by column, ``"joint_pos/left_knee"`` or, of
        ``joint_pos``, just ``"left_knee"``
    :param foot: position of each foot in the frame of the world, height last: the name of a field,
        or an array ``(T, d)`` in metres
    :param contact_height: metres
    :return: the report
    :raises StrlKeyError: if a column or field is unknown
    :raises StrlValueError: if a foot's array has not one row per frame
    """
    low, high = _FPS_RANGE
    findings = [
        Finding(
            "frame rate",
            f"{motion.fps:.6g} Hz, {motion.n_frames} frames, {motion.duration:.3g} s",
            low <= motion.fps <= high,
            f"{low:g} to {high:g} Hz",
        )
    ]
    findings += [_jumps(motion, name) for name in motion.fields]
    findings += [_unit(motion, name) for name in motion.fields if _is_quaternion(motion, name)]
    if motion.loop:
        findings += [_seam(motion, name) for name in motion.fields]
    findings += [_limit(motion, name, *span) for name, span in (limits or {}).items()]
    findings += [
        _slide(motion, name, where, contact_height) for name, where in (foot or {}).items()
    ]
    return MotionReport(motion.name, tuple(findings))


def plot_motion(motion: Motion, path: str | Path) -> Path:
    """
    Draw every field over time; needs matplotlib.

    :param motion: the clip
    :param path: picture, ``.png``, ``.pdf`` or ``.svg``
    :return: the path
    :raises ImportError: if matplotlib is missing
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plot_motion needs matplotlib ({error}): pip install matplotlib"
        ) from error
    figure = Figure(figsize=(9, 2.2 * len(motion.fields) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(motion.fields), 1, sharex=True, squeeze=False)[:, 0]
    times = np.arange(motion.n_frames) / motion.fps
    for axis, (name, values) in zip(axes, motion.fields.items(), strict=True):
        lines = axis.plot(times, values, linewidth=1)
        axis.set_ylabel(name)
        axis.grid(visible=True, alpha=0.3)
        if len(lines) <= _PLOTTED_COLUMNS:
            axis.legend(
                lines, motion.columns[name], fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5)
            )
    axes[-1].set_xlabel("time in s")
    figure.suptitle(f"{motion.name}: {motion.n_frames} frames at {motion.fps:g} Hz")
    figure.savefig(path, dpi=110)
    return Path(path)


def _is_quaternion(motion: Motion, name: str) -> bool:
    return list(motion.columns[name]) == _QUATERNION and not name.endswith("_vel")


def _steps(motion: Motion, name: str) -> _Array:
    """Return how far each column, or the rotation, goes from frame to frame: ``(T - 1, d)``."""
    values = motion.fields[name]
    if not _is_quaternion(motion, name):
        return np.abs(np.diff(values, axis=0))
    return _angles(values[:-1], values[1:])[:, None]


def _angles(one: _Array, other: _Array) -> _Array:
    """Return angles between rotations; both signs of a quaternion are one rotation."""
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines = np.abs((one * other).sum(axis=-1)) / np.maximum(lengths, 1e-12)
    angles: _Array = 2.0 * np.arccos(np.clip(cosines, 0.0, 1.0))
    return angles


def _threshold(motion: Motion, steps: _Array) -> _Array:
    usual = np.quantile(steps, 0.75, axis=0)
    return np.maximum(_JUMP_FACTOR * usual, _JUMP_SPEED / motion.fps)


def _jumps(motion: Motion, name: str) -> Finding:
    steps = _steps(motion, name)
    # Velocities change as fast as a foot hits the ground.
    relative = steps / _threshold(motion, steps)
    found = np.argwhere(relative > 1.0)
    if name.endswith("_vel") or not len(found):
        found = found[:0]
        return Finding(f"jumps in {name}", "none", True, "none")
    frame, column = np.unravel_index(int(relative.argmax()), relative.shape)
    label = "rotation" if _is_quaternion(motion, name) else motion.columns[name][int(column)]
    size = steps[frame, column]
    text = f"{len(found)}, largest {size:.3g} after frame {frame} in {label}"
    return Finding(f"jumps in {name}", text, False, "none")


def _unit(motion: Motion, name: str) -> Finding:
    error = float(np.abs(np.linalg.norm(motion.fields[name], axis=1) - 1.0).max())
    return Finding(f"length of {name}", f"wrong by {error:.2g}", error < 1e-3, "1 within 0.001")


def _seam(motion: Motion, name: str) -> Finding:
    values = motion.fields[name]
    if _is_quaternion(motion, name):
        gap = _angles(values[-1:], values[:1])
    else:
        gap = np.abs(values[-1] - motion.loop_advance(name) - values[0])
    usual = _SEAM_FACTOR * _steps(motion, name).max(axis=0)
    allowed = np.maximum(usual, _JUMP_SPEED / motion.fps)
    worst = int((gap / allowed).argmax())
    text = f"{gap[worst]:.3g}"
    return Finding(
        f"seam of {name}", text, bool((gap <= allowed).all()), f"<= {allowed[worst]:.3g}"
    )


def _limit(motion: Motion, name: str, low: float, high: float) -> Finding:
    field, slash, column = name.partition("/")
    if not slash:
        field, column = "joint_pos", name
    known = motion.feature_names()
    if f"{field}/{column}" not in known:
        raise StrlKeyError(
            f"validate_motion: limits name the unknown column '{name}'."
            f"{suggest(f'{field}/{column}', known)} Known columns: {known}."
        )
    values = motion.fields[field][:, list(motion.columns[field]).index(column)]
    outside = (values < low) | (values > high)
    text = f"{values.min():.3g} to {values.max():.3g}"
    if outside.any():
        text += f", {int(outside.sum())} frames outside, first {int(outside.argmax())}"
    return Finding(f"limits of {name}", text, not outside.any(), f"{low:.3g} to {high:.3g}")


def _slide(motion: Motion, name: str, where: str | _Array, contact_height: float) -> Finding:
    if isinstance(where, str):
        if where not in motion.fields:
            raise StrlKeyError(
                f"validate_motion: foot '{name}' is in the unknown field '{where}'."
                f"{suggest(where, motion.fields)} Known fields: {list(motion.fields)}."
            )
        where = motion.fields[where]
    if where.ndim != 2 or len(where) != motion.n_frames or where.shape[1] not in (2, 3):
        raise StrlValueError(
            f"validate_motion: foot '{name}' has shape {where.shape}. Expected "
            f"({motion.n_frames}, 2 or 3): a position per frame, height last."
        )
    low = where[:, -1] <= where[:, -1].min() + contact_height
    planted = low[:-1] & low[1:]
    speeds = np.linalg.norm(np.diff(where[:, :-1], axis=0), axis=1) * motion.fps
    usual = float(np.median(speeds[planted])) if planted.any() else 0.0
    text = f"{usual:.3g} m/s over {int(planted.sum())} steps on the ground"
    return Finding(f"sliding of {name}", text, usual <= _SLIDE_SPEED, f"<= {_SLIDE_SPEED} m/s")
