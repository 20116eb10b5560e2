"""Errors that say what was given, what was expected and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class StrlError(Exception):
    """Base of every error that this library raises for a user's mistake."""


class StrlValueError(StrlError, ValueError):
    """A value that cannot work."""


class StrlTypeError(StrlError, TypeError):
    """An argument of the wrong type, or one that does not exist."""


class StrlKeyError(StrlError, KeyError):
    """A name that is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NonFiniteError(StrlValueError):
    """The environment or the optimisation produced NaN or infinity."""


class PeerError(StrlError, RuntimeError):
    """Another process of the same training failed or died."""


def suggest(name: str, known: Iterable[str]) -> str:
    """
    Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, else an empty
    string.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def check_known(where: str, kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """
    Refuse names that nobody knows.

    :param where: who complains, e.g. ``"APPO"``
    :param kind: what the names are, e.g. ``"option"``
    :param given: the names that were given
    :param known: the names that exist
    :raises StrlTypeError: if a given name is not among the known ones
    """
    for name in given:
        if name not in known:
            raise StrlTypeError(
                f"{where}: unknown {kind} '{name}'.{suggest(name, known)} Known {kind}s: "
                f"{sorted(known)}."
            )
