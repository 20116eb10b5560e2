"""One file of a rollout dataset: some frames of one trajectory, readable row by row."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest

Array = npt.NDArray[Any]

NORMALIZED_IMAGE = "normalized_image"
_RANGE = re.compile(r"^traj_(\d+)_(\d+)\.npz$")
_LOCAL_HEADER = struct.Struct("<26xHH")
# What a damaged archive raises depends on the byte that is wrong.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    KeyError,
    struct.error,
    OSError,
    RuntimeError,
    MemoryError,
)


def get_frame_range(name: str | Path) -> tuple[int, int]:
    """
    Return the half-open range of frames that a file's name announces.

    :param name: ``traj_<start>_<end>.npz``, with or without folders
    :return: ``(start, end)``
    :raises StrlValueError: if the name has another form, or the range is empty
    """
    match = _RANGE.match(Path(name).name)
    start, end = (int(match[1]), int(match[2])) if match else (0, 0)
    if end <= start:
        raise StrlValueError(
            f"get_frame_range: '{name}' names no frames. Expected 'traj_<start>_<end>.npz' with "
            "start < end, e.g. 'traj_000000_000064.npz'."
        )
    return start, end


def shard_name(start: int, end: int) -> str:
    """Return the file name for the frames ``start`` to ``end`` (exclusive)."""
    return f"traj_{start:06d}_{end:06d}.npz"


def compress_normalized_image(images: Array) -> npt.NDArray[np.uint8]:
    """
    Store values in [0, 1] in one byte each, ``round(255 x)``: wrong by 1/510 at most.

    :param images: any shape; values outside [0, 1] are clipped
    """
    return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def decompress_normalized_image(images: Array) -> npt.NDArray[np.float32]:
    """
    Undo :func:`compress_normalized_image`.

    :param images: uint8, any shape
    """
    return images.astype(np.float32) / np.float32(255.0)


def fits_type(given: np.dtype[Any], known: np.dtype[Any]) -> bool:
    """
    Return whether numbers of one type can stand among those of another: floating numbers of any
    precision, integers that are no wider.

    :param given: type of the new numbers
    :param known: type of those that are there
    """
    return given.kind == known.kind and (given.kind == "f" or np.can_cast(given, known))


def write_shard(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """
    Write arrays as an uncompressed ``.npz``; the file is there as a whole or not at all.

    :param path: the file
    :param arrays: by name; none may hold Python objects
    :raises StrlValueError: if an array holds Python objects
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise StrlValueError(
                f"write_shard: '{name}' holds Python objects. Expected numbers, which need no "
                "pickle. Convert it with numpy.asarray(values, dtype=numpy.float32)."
            )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not common.files.atomic_file: its fsync per file would cost more than the recording, and what
    # a power failure cuts off is found when the file is read.
    temporary = target.with_name(f".{target.name}.tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: same numbers, same bytes
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    temporary.replace(target)


class Member(NamedTuple):
    """
    Where an array lies in its file.

    :param shape: of the array
    :param dtype: of the array
    :param offset: byte at which its first row begins; -1 if it is compressed
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int


class Shard:
    """
    The arrays of one ``.npz`` file, of which single rows are read without loading the rest.

    Only what :func:`numpy.savez` writes is read that way; a member that is compressed or in
    Fortran's order is loaded as a whole when it is first asked for.

    :param path: the file
    :raises StrlValueError: if the file is truncated, is no ``.npz`` or would need pickle
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._loaded: dict[str, Array] = {}
        try:
            with self.path.open("rb") as stream:
                self.members = _read_directory(stream)
        except FileNotFoundError:
            raise
        except _DAMAGES as error:
            raise self._damaged(error) from error

    def member(self, name: str) -> Member:
        """
        Return where an array lies.

        :param name: of the array
        :raises StrlKeyError: if the file has no such array
        """
        if name not in self.members:
            raise StrlKeyError(
                f"Shard '{self.path}': there is no array '{name}'.{suggest(name, self.members)} "
                f"The file holds {sorted(self.members)}."
            )
        return self.members[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """
        Return the rows ``start`` to ``stop`` of an array as a fresh array.

        :param name: of the array
        :param start: first row
        :param stop: row after the last one; by default all
        """
        member = self.member(name)
        end = member.shape[0] if stop is None else stop
        rows = np.empty((end - start, *member.shape[1:]), member.dtype)
        with self.path.open("rb") as stream:
            self.read_into(stream, name, start, rows)
        return rows

    def read_into(self, stream: BufferedReader, name: str, start: int, out: Array) -> None:
        """
        Fill ``out`` with the rows from ``start`` on.

        :param stream: this file, opened by the caller: one opening serves many arrays
        :param name: of the array
        :param start: first row
        :param out: ``(n, ...)``; cast if its type differs from the stored one
        :raises StrlValueError: if the file ends before these rows do
        """
        member = self.member(name)
        if start + len(out) > member.shape[0] or out.shape[1:] != member.shape[1:]:
            raise StrlValueError(
                f"Shard '{self.path}': '{name}' has shape {member.shape}. Expected rows "
                f"{start} to {start + len(out)} of shape {out.shape[1:]}. Record the file again."
            )
        if member.offset < 0:
            out[:] = self._whole(name)[start : start + len(out)]
            return
        direct = out.dtype == member.dtype and out.flags.c_contiguous and out.size > 0
        rows = out if direct else np.empty(out.shape, member.dtype)
        row_bytes = member.dtype.itemsize * math.prod(member.shape[1:])
        stream.seek(member.offset + start * row_bytes)
        wanted = row_bytes * len(out)
        target = rows.reshape(-1).view(np.uint8).data
        if wanted and stream.readinto(target) != wanted:
            raise self._damaged(EOFError(f"'{name}' ends early"))
        if not direct:
            out[:] = rows

    def _whole(self, name: str) -> Array:
        """Return an array that cannot be read by rows."""
        if name not in self._loaded:
            try:
                with self.path.open("rb") as stream:
                    archive = np.load(stream, allow_pickle=False)
                    self._loaded[name] = archive[name]
            except _DAMAGES as error:
                raise self._damaged(error) from error
        return self._loaded[name]

    def _damaged(self, error: Exception) -> StrlValueError:
        return StrlValueError(
            f"Shard '{self.path}': the file cannot be read ({error}). Expected an .npz of plain "
            "arrays; a damaged file, or one that holds pickled objects, is refused. Delete the "
            "trajectory's folder to go on without it."
        )


def _read_directory(stream: IO[bytes]) -> dict[str, Member]:
    """Find the arrays of an ``.npz`` without reading them."""
    members: dict[str, Member] = {}
    size = stream.seek(0, 2)
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                shape, fortran, dtype, header_bytes = _read_header(file)
            if dtype.hasobject or not shape:
                raise ValueError(f"'{name}' holds {'objects' if dtype.hasobject else 'no rows'}")
            by_rows = entry.compress_type == zipfile.ZIP_STORED and not fortran
            offset = -1
            if by_rows:
                stream.seek(entry.header_offset)
                lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
                offset = entry.header_offset + _LOCAL_HEADER.size + sum(lengths) + header_bytes
                if offset + dtype.itemsize * math.prod(shape) > size:
                    raise EOFError(f"'{name}' is larger than the file")
            members[name] = Member(shape, dtype, offset)
    return members


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, type and the bytes that the header of a ``.npy`` takes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown .npy version {version}")
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()
