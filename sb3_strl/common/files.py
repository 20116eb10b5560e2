"""Files that are either whole or not there."""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BufferedRandom]:
    """
    Open a file beside the target and move it over the target once it is complete.

    A crash, an exception or a full disk leaves the previous file as it was.

    :param path: target; its folder is created if need be
    :return: context manager that yields a binary stream, readable and seekable
    :raises OSError: if the disk is full or the folder cannot be written
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class FolderLock:
    """
    Holds a folder for one owner among all processes of this machine; leaves no file behind.

    It ends with :meth:`release`, with this object, or with the process, however that dies. Where
    the system or the file system knows no locks, nothing is held.

    :param folder: the folder
    :raises BlockingIOError: if somebody else holds it
    """

    def __init__(self, folder: Path) -> None:
        self._close: weakref.finalize[[int], FolderLock] | None = None
        if sys.platform != "win32":
            handle = os.open(folder, os.O_RDONLY)
            self._handle = handle
            self._close = weakref.finalize(self, os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._close()
                raise
            except OSError:
                self._close()

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        if sys.platform != "win32" and self._close is not None and self._close.alive:
            # Closing alone would leave it to processes that were forked meanwhile.
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self._close()
