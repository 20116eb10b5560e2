"""
Motion files of other programs, read as :class:`~sb3_strl.data.motion.Motion`.

==================  ==================================================================
DeepMimic           ``.txt``/``.json``, each frame begins with its duration
AMP for robots      ``.txt``/``.json`` with ``FrameDuration``
retargeted LAFAN1   ``.csv``, 30 frames per second, root pose and joint angles
st_gym              ``.pkl``, a dictionary with ``Fields`` and ``Frames``
Isaac Lab           ``.npz`` with ``dof_positions``
==================  ==================================================================

Whatever the file says: metres, radians, z up, quaternions wxyz.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.legacy import load_legacy_pickle
from sb3_strl.data.motion import Motion, read_arrays
from sb3_strl.data.motion_layouts import (
    LAFAN_JOINTS,
    LAYOUTS,
    Layout,
    default_layout,
)

_Array = npt.NDArray[np.float64]
_FRAMED_COMPONENT = re.compile(r"^(.+)_([xyz])(_[bw])$")
_COMPONENT = re.compile(r"^(.+)_([wxyz])$")
_JOINT = re.compile(r"^(.+)_dof_(pos|vel)$")
_QUATERNION = "wxyz"
# Published clips hold quaternions that were interpolated linearly and never normalised.
_SHORTEST = 0.1
_USUAL_ERROR = 0.1


def load_motion(
    path: str | Path, layout: str | Layout | None = None, loop: bool | None = None
) -> Motion:
    """
    Read a motion file of any known kind, told by its suffix.

    :param path: ``.npz``, ``.json``, ``.txt``, ``.csv``, ``.pkl`` or ``.pickle``
    :param layout: what the columns of a ``.json``, ``.txt`` or ``.csv`` file are, see there
    :param loop: whether the clip goes on with its first frame after its last; by default what the
        file says
    :return: the clip
    :raises FileNotFoundError: if there is no such file
    :raises StrlValueError: if the file is damaged or of an unknown kind
    :raises NonFiniteError: if it holds NaN or infinity
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".json", ".txt"):
        return read_amp_json(path, layout, loop)
    if suffix == ".csv":
        return read_lafan_csv(path, layout if isinstance(layout, str) else None, loop=bool(loop))
    if suffix in (".pkl", ".pickle"):
        return read_st_gym(path, loop)
    if suffix == ".npz":
        return read_npz(path, loop)
    raise StrlValueError(
        f"load_motion: '{path}' has the suffix '{suffix}'. Expected .npz, .json, .txt, .csv, .pkl "
        "or .pickle."
    )


def read_amp_json(
    path: str | Path, layout: str | Layout | None = None, loop: bool | None = None
) -> Motion:
    """
    Read a clip in the layout of DeepMimic (Peng et al. 2018) or of AMP for robots.

    With ``FrameDuration`` in the file all columns are data; otherwise the first one is the duration
    of the frame. In DeepMimic's humanoid clips the y axis points up: positions and rotations are
    turned so that z does. Frames of different durations are interpolated to equal ones near their
    median, from the first frame to the last; quaternions are brought to unit length, which some of
    them have not.

    :param path: the text file
    :param layout: a known layout's name, or the fields in order with their widths, e.g.
        ``[("root_pos", 3), ("root_quat_xyzw", 4), ("joint_pos", 12)]``; by default told by the
        number of columns, or by ``Fields`` in the file
    :param loop: by default what ``Loop`` or ``LoopMode`` says
    :return: the clip; fields ``*_quat`` are wxyz
    :raises StrlValueError: if the file is damaged or its layout unknown
    """
    where = f"read_amp_json('{path}')"
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise StrlValueError(
            f"{where}: this is no JSON text ({error}). Expected an object with 'Frames'."
        ) from error
    name = Path(path).stem
    frames = _frames(where, data)
    if "Fields" in data:
        return _from_columns(where, name, data, frames, loop)
    durations = None
    if "FrameDuration" not in data:
        durations, frames = frames[:, 0], frames[:, 1:]
    chosen = _layout(where, layout, frames.shape[1], durations is not None)
    fields = _split(where, frames, chosen)
    y_up = chosen is LAYOUTS["humanoid"]
    if durations is None:
        fps = _fps(where, data)
    else:
        fields, fps = _evenly(where, fields, durations)
    return _motion(
        name, {k: _z_up(k, v) if y_up else v for k, v in fields.items()}, fps, data, loop
    )


def read_lafan_csv(
    path: str | Path, robot: str | None = None, fps: float = 30.0, loop: bool = False
) -> Motion:
    """
    Read a retargeted clip in the layout of the LAFAN1 retargeting dataset.

    Each line is a frame: root position (3), root rotation (4, xyzw), then the joints in radians. A
    first line of names, where there is one, names the joints; where its names of the rotation end
    in ``w``, ``x``, ``y`` and ``z``, their order holds.

    :param path: the file
    :param robot: ``"g1"``, ``"h1_2"`` or ``"h1"``; by default told by the number of columns
    :param fps: frames per second; the dataset has 30
    :param loop: whether the clip goes on with its first frame after its last
    :return: the clip with ``root_pos``, ``root_quat`` and ``joint_pos``
    :raises StrlValueError: if a line has another length, holds no numbers, or the names of the root
        are those of something else
    """
    where = f"read_lafan_csv('{path}')"
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StrlValueError(f"{where}: this is no text ({error}). Expected commas.") from error
    names: list[str] | None = None
    if rows and not _is_number(rows[0][0]):
        names = [cell.strip() for cell in rows.pop(0)]
    frames = _table(where, rows)
    joints = names[7:] if names else _lafan_joints(where, robot, frames.shape[1] - 7)
    if frames.shape[1] != 7 + len(joints) or not joints:
        raise StrlValueError(
            f"{where}: a line has {frames.shape[1]} numbers. Expected {7 + len(joints)}: root "
            f"position, root rotation and the joints {joints}."
        )
    frames[:, 3:7] = frames[:, _rotation_columns(where, names or [])]
    fields = _split(where, frames, [("root_pos", 3), ("root_quat", 4), ("joint_pos", -1)])
    columns = {"root_pos": list("xyz"), "root_quat": list(_QUATERNION), "joint_pos": joints}
    return Motion(Path(path).stem, fields, fps, loop, columns, str(Path(path).name))


def read_st_gym(path: str | Path, loop: bool | None = None) -> Motion:
    """
    Read st_gym's pickled motion with the reader that executes nothing.

    The dictionary names a quantity for every column: ``<joint>_dof_pos`` and ``_dof_vel`` become
    columns of ``joint_pos`` and ``joint_vel``; ``root_rot_w`` to ``_z`` become ``root_quat``; other
    names that end in an axis are gathered likewise, ``root_vel_x_b`` in ``root_vel_b``.

    :param path: the ``.pkl`` file
    :param loop: by default what ``LoopMode`` says
    :return: the clip
    :raises StrlValueError: if the file is damaged, asks for code, or is no motion
    """
    where = f"read_st_gym('{path}')"
    data = load_legacy_pickle(path)
    frames = _frames(where, data)
    return _from_columns(where, Path(path).stem, data, frames, loop)


def read_npz(path: str | Path, loop: bool | None = None) -> Motion:
    """
    Read a clip of ours, or of Isaac Lab's motion loader.

    Of the latter, ``joint_pos``, ``joint_vel`` and the first body's pose as ``root_pos`` and
    ``root_quat`` are kept, and the positions of all bodies as ``body_pos``.

    :param path: the ``.npz`` file
    :param loop: whether Isaac Lab's clip goes on with its first frame; ours say so themselves
    :return: the clip
    :raises StrlValueError: if the file is damaged or no motion
    """
    where = f"read_npz('{path}')"
    arrays = read_arrays(where, Path(path))
    if "dof_positions" not in arrays:
        return Motion.load(path)
    fps = np.append(np.asarray(arrays.get("fps", ())).reshape(-1), np.nan)
    fields = {"joint_pos": arrays["dof_positions"]}
    if "dof_velocities" in arrays:
        fields["joint_vel"] = arrays["dof_velocities"]
    joints = [
        str(name) for name in arrays.get("dof_names", np.arange(fields["joint_pos"].shape[-1]))
    ]
    columns = dict.fromkeys(fields, joints)
    positions, rotations = arrays.get("body_positions"), arrays.get("body_rotations")
    if positions is not None and rotations is not None and positions.ndim == rotations.ndim == 3:
        fields |= {"root_pos": positions[:, 0], "root_quat": rotations[:, 0]}
        columns |= {"root_pos": list("xyz"), "root_quat": list(_QUATERNION)}
        bodies = [str(name) for name in arrays.get("body_names", np.arange(positions.shape[1]))]
        fields["body_pos"] = positions.reshape(len(positions), -1)
        columns["body_pos"] = [f"{body}_{axis}" for body in bodies for axis in "xyz"]
    return Motion(Path(path).stem, fields, float(fps[0]), bool(loop), columns, Path(path).name)


def _frames(where: str, data: Any) -> _Array:
    """Return the table of frames of a dictionary."""
    if not isinstance(data, Mapping) or "Frames" not in data:
        found = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise StrlValueError(f"{where}: the file holds {found}. Expected an object with 'Frames'.")
    return _table(where, data["Frames"])


def _table(where: str, rows: Any) -> _Array:
    try:
        frames = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise StrlValueError(
            f"{where}: the frames are no table of numbers ({error}). Expected lines of one length."
        ) from error
    if frames.ndim != 2 or len(frames) < 2 or frames.shape[1] < 2:
        raise StrlValueError(
            f"{where}: the frames have shape {frames.shape}. Expected at least 2 frames (T, d)."
        )
    return frames


def _from_columns(
    where: str, name: str, data: Mapping[str, Any], frames: _Array, loop: bool | None
) -> Motion:
    """Gather columns that have names into fields."""
    labels = data.get("Fields", ())
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, list | tuple):
        raise StrlValueError(f"{where}: 'Fields' is {labels!r}. Expected a list of names.")
    given = [str(label) for label in labels]
    if len(given) != frames.shape[1] or len(set(given)) != len(given):
        raise StrlValueError(
            f"{where}: 'Fields' names {len(given)} columns ({len(set(given))} different). Expected "
            f"{frames.shape[1]} different names, one per column of 'Frames'."
        )
    places: dict[str, dict[str, int]] = {}
    for column, label in enumerate(given):
        field, part = _field_of(label)
        places.setdefault(field, {})[part] = column
    fields: dict[str, _Array] = {}
    columns: dict[str, list[str]] = {}
    for field, parts in places.items():
        axes = set(parts) <= set(_QUATERNION)
        order = sorted(parts, key=_QUATERNION.index) if axes else list(parts)
        columns[field] = order
        values = frames[:, [parts[part] for part in order]]
        if order == list(_QUATERNION) and not field.endswith("_vel"):
            values = _unit(where, field, values, "name them otherwise in 'Fields'.")
        fields[field] = values
    return _motion(name, fields, _fps(where, data), data, loop, columns)


def _field_of(label: str) -> tuple[str, str]:
    """Return field and column of a name like ``left_knee_dof_pos`` or ``root_vel_x_b``."""
    if match := _JOINT.match(label):
        return f"joint_{match[2]}", match[1]
    if match := _FRAMED_COMPONENT.match(label):
        return match[1] + match[3], match[2]
    if match := _COMPONENT.match(label):
        return re.sub(r"_rot$", "_quat", match[1]), match[2]
    return label, "0"


def _fps(where: str, data: Mapping[str, Any]) -> float:
    duration = data.get("FrameDuration")
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
        raise StrlValueError(
            f"{where}: 'FrameDuration' is {duration!r}. Expected a positive number of seconds."
        )
    return 1.0 / duration


def _evenly(
    where: str, fields: Mapping[str, _Array], durations: _Array
) -> tuple[dict[str, _Array], float]:
    """
    Return fields at one rate, as near to the median duration as divides the whole clip.

    The last frame's duration means nothing. It stays the last: a looping clip closes with it.
    """
    spans = durations[:-1]
    if not np.all(spans > 0):
        raise StrlValueError(
            f"{where}: frames last between {spans.min()} and {spans.max()} s. Expected positive "
            "durations. Pass a layout if the first column is no duration."
        )
    step = float(np.median(spans))
    if spans.max() <= spans.min() * 1.001:
        return dict(fields), 1.0 / step
    times = np.append(0.0, np.cumsum(spans))
    intervals = round(times[-1] / step)
    grid = np.linspace(0.0, times[-1], intervals + 1)
    even: dict[str, _Array] = {}
    for name, given in fields.items():
        values = given
        if name.endswith("_quat"):  # q and -q are one rotation, and nothing lies between them
            flips = np.where((values[1:] * values[:-1]).sum(axis=1) < 0, -1.0, 1.0)
            values = values * np.append(1.0, np.cumprod(flips))[:, None]
        values = np.stack([np.interp(grid, times, column) for column in values.T], axis=1)
        if name.endswith("_quat"):
            values = values / np.linalg.norm(values, axis=1, keepdims=True)
        even[name] = values
    return even, intervals / float(times[-1])


def _layout(where: str, layout: str | Layout | None, width: int, timed: bool) -> Layout:
    if layout is None:
        layout = default_layout(width, timed)
    if isinstance(layout, str):
        layout = LAYOUTS.get(layout)
    if layout is None or sum(n for _, n in layout) != width:
        known = {name: sum(n for _, n in fields) for name, fields in LAYOUTS.items()}
        raise StrlValueError(
            f"{where}: a frame has {width} columns. Expected a layout with as many; known are "
            f"{known}. Pass layout=[(field, width), ...]."
        )
    return layout


def _split(where: str, frames: _Array, layout: Layout) -> dict[str, _Array]:
    """Cut frames into fields; quaternions become wxyz and of unit length."""
    fields: dict[str, _Array] = {}
    start = 0
    for name, width in layout:
        stop = frames.shape[1] if width < 0 else start + width
        values = frames[:, start:stop]
        start = stop
        if name.endswith(("_quat", "_quat_xyzw")):
            if name.endswith("_xyzw"):
                values = values[:, [3, 0, 1, 2]]
            values = _unit(where, name, values, "pass layout=[(field, width), ...].")
        fields[name.removesuffix("_xyzw")] = values
    return fields


def _unit(where: str, name: str, values: _Array, remedy: str) -> _Array:
    """Return quaternions of unit length; refuse what are none."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if lengths.min() < _SHORTEST or np.median(np.abs(lengths - 1.0)) > _USUAL_ERROR:
        raise StrlValueError(
            f"{where}: '{name}' has lengths from {lengths.min():.3g} to {lengths.max():.3g}. "
            f"Expected unit quaternions; the shortest is in frame {lengths.argmin()}. If these "
            f"columns are something else: {remedy}"
        )
    return np.asarray(values / lengths)


def _z_up(name: str, values: _Array) -> _Array:
    """Turn vectors and rotations from y up to z up: x stays, y becomes z, z becomes -y."""
    if name.endswith("_quat"):
        w, x, y, z = values.T
        return np.stack((w, x, -z, y), axis=1)
    if name == "root_pos":
        x, y, z = values.T
        return np.stack((x, -z, y), axis=1)
    return values


def _motion(
    name: str,
    fields: Mapping[str, _Array],
    fps: float,
    data: Mapping[str, Any],
    loop: bool | None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Motion:
    """Make the clip with what the file says about its repetition."""
    said = str(data.get("LoopMode", data.get("Loop", ""))).lower()
    wraps = said in ("wrap", "true") if loop is None else loop
    named = dict(columns or {})
    for field, values in fields.items():
        if field.endswith("_quat"):
            named.setdefault(field, list(_QUATERNION))
        elif field.startswith("root_") and values.shape[1] == 3:
            named.setdefault(field, list("xyz"))
    advances = bool(data.get("EnableCycleOffsetPosition", True))
    return Motion(name, fields, fps, wraps, named, accumulate=None if advances else ())


def _lafan_joints(where: str, robot: str | None, count: int) -> list[str]:
    if robot is None:
        fitting = [name for name, joints in LAFAN_JOINTS.items() if len(joints) == count]
        robot = fitting[0] if fitting else None
    if robot not in LAFAN_JOINTS:
        known = {name: len(joints) for name, joints in LAFAN_JOINTS.items()}
        raise StrlValueError(
            f"{where}: robot is {robot!r} and a line has {count} joints. Expected one of {known}, "
            "or a first line that names the columns."
        )
    return list(LAFAN_JOINTS[robot])


def _rotation_columns(where: str, names: Sequence[str]) -> list[int]:
    """Return where w, x, y and z of the root stand; xyzw where the names do not say."""
    letters = [name[-1:].lower() for name in names[:7]]
    rotation = "".join(c for c in letters[3:] if c in _QUATERNION) or "xyzw"
    pairs = zip(letters[:3], "xyz", strict=False)
    other = any(letter in _QUATERNION and letter != axis for letter, axis in pairs)
    if other or sorted(rotation) != sorted(_QUATERNION):
        raise StrlValueError(
            f"{where}: the first columns are named {list(names[:7])}. Expected the root's position "
            "x, y, z and then its rotation, names that end in w, x, y, z in any order. Sort the "
            "columns."
        )
    return [3 + rotation.index(part) for part in _QUATERNION]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
