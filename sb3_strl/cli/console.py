"""What commands say to a person."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


def say(text: object) -> None:
    """Write a line to the standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: object) -> None:
    """Write a line to the standard error."""
    sys.stderr.write(f"{text}\n")


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show warnings as one line each, without the line of the source that they come from."""
    before = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    del category, filename, lineno, line
    return f"strl: warning: {' '.join(str(message).split())}\n"


def has_progress_bar() -> bool:
    """Whether SB3's progress bar can be shown: its packages are there."""
    return find_spec("tqdm") is not None and find_spec("rich") is not None


@contextmanager
def progress(total: int, what: str, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """
    Show a bar while something long happens.

    :param total: at which number it is full
    :param what: what is counted
    :param quiet: show nothing
    :return: a function to call with how many more are done
    """
    if quiet or find_spec("tqdm") is None:
        yield lambda _: None
        return
    import tqdm

    with tqdm.tqdm(total=total, unit=f" {what}", leave=False, file=sys.stderr) as bar:
        yield bar.update
