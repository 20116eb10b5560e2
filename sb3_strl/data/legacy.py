"""
Converts recordings of older libraries, which are pickles, without executing anything in them.

A pickle is a program that may call any function. The reader here knows a fixed list of names, and
behind each of them stands a constructor of its own, numpy's included; any other name is refused.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.rollout_writer import RolloutWriter
from sb3_strl.data.shards import NORMALIZED_IMAGE, Array
from sb3_strl.data.stored_trajectory import Layout, assemble_obs_components

_LEGACY_NAME = re.compile(r"^traj_(\d+)_(\d+)\.(pickle|pkl)$")
_SIMPLE_DTYPE = re.compile(r"^[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d+)$")
_TIMEOUTS = ("timeouts", "timeout", "time_outs")
_DAMAGES = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    MemoryError,
    OverflowError,
    RecursionError,
    UnicodeDecodeError,
)


class _RefusedError(Exception):
    """A pickle asks for a name that is not on the list."""


class _Dtype:
    """Stands for ``numpy.dtype`` while a pickle is read: plain numbers and texts only."""

    def __init__(self, spec: object, *_: object) -> None:
        if not isinstance(spec, str) or not _SIMPLE_DTYPE.match(spec):
            raise _RefusedError(f"numpy.dtype({spec!r})")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, subtype, names, fields = state[1:5]
        if order not in ("<", ">", "|", "=") or any((subtype, names, fields)):
            raise _RefusedError("numpy.dtype with fields")
        self.dtype = self.dtype.newbyteorder(order)


class _Ndarray:
    """Stands for ``numpy.ndarray`` while a pickle is read."""

    def __init__(self, array: Array | None = None) -> None:
        self.array = np.zeros(0) if array is None else array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _reconstruct(kind: object, *_: object) -> _Ndarray:
    if kind is not _Ndarray:
        raise _RefusedError(f"an array of the type {kind!r}")
    return _Ndarray()


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Make an array of bytes, of which there must be exactly as many as it takes."""
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise _RefusedError(f"an array of {dtype!r}")
    text = data.encode("latin1") if isinstance(data, str) else bytes(data)
    flat = np.frombuffer(text, dtype.dtype)
    return np.array(flat.reshape(tuple(int(n) for n in shape), order=order))


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Ndarray:
    return _Ndarray(_from_bytes(data, dtype, shape, order))


def _scalar(dtype: Any, data: Any) -> _Ndarray:
    return _Ndarray(_from_bytes(data, dtype, (), "C"))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"codecs.encode to '{encoding}'")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """What the oldest protocols call for an array without numbers."""
    return b""


_ARRAY_NAMES: dict[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
}
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module in ("multiarray", "numeric")
    for name, function in _ARRAY_NAMES.items()
}
for _module in ("builtins", "__builtin__"):
    _NAMES[_module, "bytes"] = _empty_bytes
    for _kind in (set, frozenset, complex):
        _NAMES[_module, _kind.__name__] = _kind


class _DataUnpickler(pickle.Unpickler):
    """Reads containers, numbers, texts and arrays; every other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _RefusedError(f"{module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"the external object {pid!r}")


def load_legacy_pickle(path: str | Path) -> Any:
    """
    Read a pickle of plain data: containers, numbers, texts and arrays of them.

    :param path: the file
    :return: what it holds; arrays are numpy arrays, and numpy's single numbers are Python's
    :raises FileNotFoundError: if there is no such file
    :raises StrlValueError: if the file is damaged, or asks for anything else by name
    """
    source = Path(path)
    try:
        with source.open("rb") as stream:
            return _plain(_DataUnpickler(stream, encoding="latin1").load())
    except _RefusedError as error:
        raise StrlValueError(
            f"load_legacy_pickle: '{source}' asks for {error}, which is refused. Expected numbers, "
            "texts, lists, tuples, dictionaries and numpy arrays of numbers. Nothing was executed; "
            "if you trust the file, save its arrays with numpy.savez where it was made."
        ) from error
    except _DAMAGES as error:
        raise StrlValueError(
            f"load_legacy_pickle: '{source}' cannot be read ({type(error).__name__}: {error}). "
            "Expected a pickle of plain data. The file is damaged or something else."
        ) from error


def convert_legacy_rollouts(source: str | Path, target: str | Path) -> RolloutWriter:
    """
    Convert a folder of pickled trajectories, as st_rl and its ancestors record them.

    Each ``trajectory_<n>/traj_<start>_<end>.pickle`` is a dictionary with ``actions``, ``rewards``,
    ``dones`` and either ``observations`` or ``obs_<segment>``; ``privileged_observations`` becomes
    the group ``critic``, a time-out the end of a cut episode, every other array an extra field.
    Compressed segments stay compressed. The source is left as it is.

    :param source: folder with ``trajectory_*`` and ``metadata.json``
    :param target: folder of the new dataset
    :return: the writer, closed, for its totals
    :raises StrlValueError: if a file is damaged, is refused, or holds something else
    """
    folder = Path(source)
    segments, mapping = _legacy_layout(folder)
    obs_segments = {"policy": segments} if segments else {}
    numbered = [(_number(p), p) for p in folder.glob("trajectory_*") if p.is_dir()]
    config = {"converted_from": folder.name}
    with RolloutWriter(target, 1, obs_segments, mapping, config=config) as writer:
        for _, trajectory in sorted(numbered):
            files = [(m, p) for p in trajectory.iterdir() if (m := _LEGACY_NAME.match(p.name))]
            for _, path in sorted(files, key=lambda entry: int(entry[0][1])):
                _convert(path, writer, Layout(obs_segments, mapping))
            writer.end_trajectories()  # what has not ended by itself was cut
    if not writer.total_trajectories:
        raise StrlValueError(
            f"convert_legacy_rollouts: '{folder}' holds no trajectories. Expected "
            "'trajectory_<n>/traj_<start>_<end>.pickle'."
        )
    return writer


def _convert(path: Path, writer: RolloutWriter, layout: Layout) -> None:
    """Append one pickled file."""
    data = load_legacy_pickle(path)
    if not isinstance(data, Mapping) or not {"actions", "rewards", "dones"} <= set(data):
        found = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise StrlValueError(
            f"convert_legacy_rollouts: '{path}' holds {found}. Expected a dictionary with "
            "'actions', 'rewards', 'dones' and observations."
        )
    rows = {str(name): _unwrapped(value) for name, value in data.items()}
    rows = {name: value for name, value in rows.items() if isinstance(value, np.ndarray)}
    policy = _policy_obs(path, rows, layout)
    obs = {"policy": policy}
    if "privileged_observations" in rows:
        obs["critic"] = rows.pop("privileged_observations")
    dones = _flags(rows.pop("dones"))
    timeouts = np.zeros_like(dones)
    for name in _TIMEOUTS:
        timeouts |= _flags(rows.pop(name, timeouts))
    rewards = rows.pop("rewards").reshape(len(dones), -1)
    actions = rows.pop("actions")
    lengths = {name: len(value) for name, value in {**rows, **obs, "actions": actions}.items()}
    if rewards.shape[1] != 1 or set(lengths.values()) != {len(dones)}:
        raise StrlValueError(
            f"convert_legacy_rollouts: '{path}' has {len(dones)} dones and rewards "
            f"{rewards.shape}, beside {lengths}. Expected as many rows everywhere."
        )
    writer.write(
        {name: value[:, None] for name, value in obs.items()},
        actions[:, None],
        rewards,
        (dones & ~timeouts)[:, None],
        (dones & timeouts)[:, None],
        None,
        {name: value[:, None] for name, value in rows.items()},
    )


def _policy_obs(path: Path, rows: dict[str, Array], layout: Layout) -> Array:
    """Take the policy's observations out of a file's arrays."""
    if "observations" in rows:
        return rows.pop("observations")
    segments = layout.obs_segments.get("policy", {})
    missing = [f"obs_{name}" for name in segments if f"obs_{name}" not in rows]
    if missing or not segments:
        raise StrlValueError(
            f"convert_legacy_rollouts: '{path}' has no 'observations' and lacks {missing}. "
            f"Expected one or the other, found {sorted(rows)}; metadata.json names the segments "
            f"{list(segments)}."
        )
    return assemble_obs_components(
        {name: rows.pop(f"obs_{name}") for name in segments}, layout, "policy"
    )


def _legacy_layout(folder: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Read segments and their compression, where there is a ``metadata.json``."""
    path = folder / "metadata.json"
    if not path.is_file():
        return {}, {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        given = metadata.get("obs_segments") or {}
        segments = {str(k): [int(n) for n in np.atleast_1d(v)] for k, v in given.items()}
        mapping = dict(metadata.get("obs_disassemble_mapping") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise StrlValueError(
            f"convert_legacy_rollouts: '{path}' cannot be read ({error}). Expected JSON with "
            f"obs_segments {{name: shape}} and obs_disassemble_mapping {{name: "
            f"'{NORMALIZED_IMAGE}'}}."
        ) from error
    return segments if mapping else {}, mapping


def _number(folder: Path) -> int:
    digits = re.sub(r"\D", "", folder.name)
    return int(digits) if digits else 0


def _unwrapped(value: Any) -> Any:
    """The recorders of that family store uncompressed observations as a tuple of one array."""
    return value[0] if isinstance(value, tuple | list) and len(value) == 1 else value


def _flags(values: Array) -> Array:
    return values.reshape(len(values), -1)[:, 0].astype(np.bool_)


def _plain(value: Any) -> Any:
    """Replace what stands for arrays while a pickle is read."""
    if isinstance(value, _Ndarray):
        return value.array.item() if value.array.ndim == 0 else value.array
    if isinstance(value, _Dtype):
        return str(value.dtype)
    if isinstance(value, dict):
        return type(value)((_plain(k), _plain(v)) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_plain(item) for item in value)
    return value
