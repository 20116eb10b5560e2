"""One recorded motion: named fields over time, stored without pickle."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import (
    NonFiniteError,
    StrlKeyError,
    StrlValueError,
    suggest,
)

_FORMAT = "sb3_strl.motion.v1"
_META_KEYS = ("name", "fps", "loop", "columns", "source", "license", "accumulate")
_FIELD_PREFIX = "fields/"
_HORIZONTAL = ("root_pos/x", "root_pos/y")


@dataclass(frozen=True, eq=False)
class Motion:
    """
    A motion clip: named fields sampled at a uniform rate.

    ``T`` frames span ``T - 1`` intervals, so the clip lasts ``(T - 1) / fps`` seconds. A looping
    clip repeats its first frame at the end: its last frame is the first one of the next cycle.

    :param name: what the clip is called in errors and tables
    :param fields: arrays ``(T, d)`` by field name, SI units; quaternions are wxyz
    :param fps: frames per second, > 0
    :param loop: whether the clip goes on with its first frame after its last
    :param columns: names of the ``d`` columns by field, ``"0", "1", ...`` where a field has no
        entry; a field of four columns ``w, x, y, z`` is a unit quaternion
    :param source: where the data comes from
    :param license: what the data may be used for
    :param accumulate: columns ``"field/column"`` that grow by ``last - first`` in every loop
        instead of jumping back; by default the horizontal ``root_pos/x`` and ``root_pos/y``
    :raises StrlValueError: if a field has the wrong shape, or ``fps`` is not positive
    :raises NonFiniteError: if a field holds NaN or infinity
    """

    name: str
    fields: Mapping[str, npt.NDArray[np.float64]]
    fps: float
    loop: bool = False
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: str = ""
    license: str = ""
    accumulate: Sequence[str] | None = None

    def __post_init__(self) -> None:
        where = f"Motion '{self.name}'"
        if not math.isfinite(self.fps) or self.fps <= 0:
            raise StrlValueError(
                f"{where}: fps is {self.fps}. Expected a positive number of frames per second."
            )
        object.__setattr__(self, "fps", float(self.fps))
        object.__setattr__(self, "fields", _checked_fields(where, self.fields))
        object.__setattr__(self, "columns", _checked_columns(where, self.fields, self.columns))
        known = self.feature_names()
        if self.accumulate is None:
            object.__setattr__(self, "accumulate", tuple(n for n in _HORIZONTAL if n in known))
        for column in self.accumulate or ():
            if column not in known:
                raise StrlKeyError(
                    f"{where}: unknown column '{column}' in accumulate.{suggest(column, known)} "
                    f"Known columns: {known}."
                )

    @property
    def n_frames(self) -> int:
        """Number of frames ``T``."""
        return len(next(iter(self.fields.values())))

    @property
    def duration(self) -> float:
        """Length of the clip in seconds, ``(T - 1) / fps``; the period of a looping clip."""
        return (self.n_frames - 1) / self.fps

    def feature_names(self) -> list[str]:
        """Return all columns as ``"field/column"``, in the order of the fields."""
        return [f"{name}/{column}" for name, columns in self.columns.items() for column in columns]

    def loop_advance(self, name: str) -> npt.NDArray[np.float64]:
        """
        Return what a field gains per loop: ``last - first`` in accumulating columns, else 0.

        :param name: the field
        :return: ``(d,)``
        """
        values = self.fields[name]
        accumulates = [
            f"{name}/{column}" in (self.accumulate or ()) for column in self.columns[name]
        ]
        advance = np.where(accumulates, values[-1] - values[0], 0.0)
        return advance if self.loop else np.zeros_like(advance)

    def save(self, path: str | Path) -> None:
        """
        Write the clip as a compressed ``.npz`` that holds numbers and one JSON text, no pickle.

        :param path: the file; written under this very name
        """
        meta = {
            "name": self.name,
            "fps": self.fps,
            "loop": self.loop,
            "columns": {name: list(columns) for name, columns in self.columns.items()},
            "source": self.source,
            "license": self.license,
            "accumulate": list(self.accumulate or ()),
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{_FIELD_PREFIX}{name}": values for name, values in self.fields.items()
        }
        arrays["format"] = np.array(_FORMAT)
        arrays["meta"] = np.array(json.dumps(meta))
        # Not numpy.savez: it would pickle an array of objects where this refuses to.
        with zipfile.ZipFile(path, "w") as archive:
            for name, values in arrays.items():
                entry = zipfile.ZipInfo(
                    f"{name}.npy"
                )  # a fixed date: the same clip, the same bytes
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w") as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """
        Read a clip that :meth:`save` wrote.

        :param path: the ``.npz`` file
        :return: the clip
        :raises FileNotFoundError: if there is no such file
        :raises StrlValueError: if the file is damaged, is no motion, or would need pickle
        :raises StrlKeyError: if a field that the file announces is missing
        """
        where = f"Motion.load('{path}')"
        arrays = read_arrays(where, Path(path))
        if str(arrays.get("format")) != _FORMAT or "meta" not in arrays:
            raise StrlValueError(
                f"{where}: this file is no motion, it holds {sorted(arrays)}. Expected the entries "
                f"'format' ('{_FORMAT}'), 'meta' and '{_FIELD_PREFIX}<name>'. "
                "Write it with Motion.save."
            )
        meta = _read_meta(where, str(arrays["meta"]))
        fields: dict[str, npt.NDArray[np.float64]] = {}
        for name in meta["columns"]:
            if _FIELD_PREFIX + name not in arrays:
                raise StrlKeyError(
                    f"{where}: the field '{name}' is missing. The file holds {sorted(arrays)}. "
                    "Write it again with Motion.save."
                )
            fields[name] = arrays[_FIELD_PREFIX + name]
        return cls(fields=fields, **meta)


def check_feature_names(
    expected: Sequence[str], given: Sequence[str], where: str = "check_feature_names"
) -> None:
    """
    Refuse features in another order: a discriminator would compare columns of different meaning.

    :param expected: the names in the order of the one side, e.g. of the environment's ``ref_obs``
    :param given: the names in the order of the other side, e.g. of the motion library
    :param where: who complains
    :raises StrlValueError: naming the first position at which the two differ
    """
    pairs = itertools.zip_longest(expected, given, fillvalue="nothing")
    for position, (wanted, got) in enumerate(pairs):
        if wanted != got:
            raise StrlValueError(
                f"{where}: feature {position} is '{got}' where '{wanted}' is expected. The "
                f"expected order is {list(expected)}, given is {list(given)}. Name them alike."
            )


def _checked_fields(
    where: str, fields: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return float64 copies of ``(T, d)`` fields that share ``T >= 2`` and are finite."""
    if not fields:
        raise StrlValueError(f"{where}: no field was given. Expected arrays (T, d) by name.")
    checked: dict[str, npt.NDArray[np.float64]] = {}
    n_frames = len(next(iter(fields.values())))
    for name, values in fields.items():
        array = np.array(values, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] < 1:
            raise StrlValueError(
                f"{where}: field '{name}' has shape {array.shape}. Expected (T, d): one row per "
                "frame, one column per quantity."
            )
        if len(array) != n_frames or n_frames < 2:
            raise StrlValueError(
                f"{where}: field '{name}' has {len(array)} frames. Expected at least 2, and as "
                f"many as the field '{next(iter(fields))}' ({n_frames})."
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"{where}: field '{name}' holds NaN or infinity, first in frame {bad[0]} "
                f"({bad.size} of {n_frames} frames). Expected finite numbers. Cut or mend the clip."
            )
        checked[name] = array
    return checked


def _checked_columns(
    where: str,
    fields: Mapping[str, npt.NDArray[np.float64]],
    columns: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """Return one distinct column name per column of each field, ``"0", "1", ...`` by default."""
    for name in columns:
        if name not in fields:
            raise StrlKeyError(
                f"{where}: columns are named for the unknown field '{name}'."
                f"{suggest(name, fields)} Known fields: {list(fields)}."
            )
    checked: dict[str, list[str]] = {}
    for name, values in fields.items():
        width = values.shape[1]
        names = [str(n) for n in columns.get(name, range(width))]
        if len(names) != width or len(set(names)) != width:
            raise StrlValueError(
                f"{where}: the column names of field '{name}' are {names}. Expected {width} "
                "different names, one per column."
            )
        checked[name] = names
    return checked


def read_arrays(where: str, path: Path) -> dict[str, npt.NDArray[Any]]:
    """
    Read every entry of an ``.npz`` without pickle.

    :param where: who asks, for messages
    :param path: the file
    :raises FileNotFoundError: if there is no such file
    :raises StrlValueError: if it is damaged, is no ``.npz`` or would need pickle
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise StrlValueError(
                    f"{where}: this file holds one array. Expected an .npz from Motion.save."
                )
            return {name: archive[name] for name in archive.files}
    # What a damaged archive raises depends on the byte that is wrong.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, FileNotFoundError | StrlValueError):
            raise
        raise StrlValueError(
            f"{where}: the file cannot be read ({error}). Expected an .npz from Motion.save; "
            "a damaged file, or one that holds pickled objects, is refused."
        ) from error


def _read_meta(where: str, text: str) -> dict[str, Any]:
    """Parse the JSON text beside the fields and check that it names all there is to know."""
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise StrlValueError(
            f"{where}: the entry 'meta' is no JSON text ({error}). Write it with Motion.save."
        ) from error
    keys = set(meta) if isinstance(meta, dict) else set()
    if keys != set(_META_KEYS) or not isinstance(meta["columns"], dict):
        raise StrlValueError(
            f"{where}: the entry 'meta' holds {sorted(keys)}. Expected {sorted(_META_KEYS)}. "
            "Write it with Motion.save."
        )
    return dict(meta)
