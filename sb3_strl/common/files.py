"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path


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
