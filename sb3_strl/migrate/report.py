"""What became of every key of a foreign configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest
from sb3_strl.common.tables import format_table
from sb3_strl.migrate.plain_yaml import Tagged, find_tagged

Status = Literal["mapped", "default", "differs", "dropped", "unknown", "loaded"]
"""
``mapped``: the same thing under our name; ``default``: not given, and their default is not ours;
``differs``: kept, but it means something else here; ``dropped``: has no effect here; ``unknown``:
nobody knows the key; ``loaded``: a tensor of a checkpoint.
"""

_SHOWN = 48


@dataclass(frozen=True)
class Row:
    """
    One key.

    :param key: theirs, with its section, e.g. ``"algorithm.clip_param"``
    :param status: what became of it
    :param ours: our name, empty where there is none
    :param value: its value here
    :param note: why
    """

    key: str
    status: Status
    ours: str = ""
    value: Any = None
    note: str = ""


@dataclass
class Report:
    """
    All keys, in the order in which they were looked at; ``print`` shows a table.

    :param source: whose configuration it is
    :param rows: one per key
    """

    source: str
    rows: list[Row] = field(default_factory=list)

    def add(
        self, key: str, status: Status, ours: str = "", value: Any = None, note: str = ""
    ) -> None:
        """Add a row, see :class:`Row`."""
        self.rows.append(Row(key, status, ours, value, note))

    def of(self, status: Status) -> dict[str, Row]:
        """Return the rows of a status by key."""
        return {row.key: row for row in self.rows if row.status == status}

    def __str__(self) -> str:
        rows = [
            (row.status, row.key, row.ours, _short(row.value), row.note)
            for row in sorted(self.rows, key=lambda row: _ORDER.index(row.status))
        ]
        return format_table(
            f"{self.source} -> sb3_strl", ("", "theirs", "ours", "value", "why"), rows
        )

    def check_unknown(self, strict: bool) -> None:
        """
        Refuse keys that nobody knows.

        :param strict: raise; otherwise they stay in the report
        :raises StrlTypeError: naming all of them, each with the nearest known key
        """
        unknown = self.of("unknown")
        if strict and unknown:
            named = "; ".join(f"'{key}'{row.note}" for key, row in unknown.items())
            raise StrlTypeError(
                f"migrate: {self.source} has no key {named}. A key that is left out may change "
                "what is trained: mend or remove it, or pass strict=False (--lenient) to have it "
                "reported."
            )


_ORDER: tuple[Status, ...] = ("unknown", "differs", "dropped", "default", "mapped", "loaded")


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class Section:
    """
    A mapping of a configuration whose keys are taken out one by one.

    :param name: its path, ``""`` for the top
    :param given: its keys
    :param report: where the keys are reported
    :raises StrlTypeError: if it is no mapping
    """

    def __init__(self, name: str, given: Any, report: Report) -> None:
        if given is not None and not isinstance(given, Mapping):
            raise StrlTypeError(
                f"migrate: '{name or 'the configuration'}' is {given!r}. Expected a mapping of "
                "keys. Pass the whole agent.yaml."
            )
        self.name = name
        self.given: dict[str, Any] = {str(key): value for key, value in (given or {}).items()}
        self.seen: set[str] = set()
        self.report = report

    def path(self, key: str) -> str:
        """Return the key with its section."""
        return f"{self.name}.{key}" if self.name else key

    def __contains__(self, key: str) -> bool:
        return key in self.given

    def take(self, key: str, default: Any = None) -> Any:
        """
        Return a value and take its key out.

        :raises StrlValueError: if it holds a YAML tag that stands for code
        """
        self.seen.add(key)
        if key not in self.given:
            return default
        value = self.given.pop(key)
        tagged = find_tagged(value)
        if tagged is not None:
            raise StrlValueError(
                f"migrate: '{self.path(key)}' is {tagged}, which stands for Python code and was "
                "not run. Expected plain data. Write the value itself."
            )
        return value

    def section(self, key: str) -> Section:
        """Take out a mapping."""
        self.seen.add(key)
        value = self.given.pop(key, None)
        if isinstance(value, Tagged):
            raise StrlValueError(
                f"migrate: '{self.path(key)}' is {value}, which stands for Python code and was "
                "not run. Expected a mapping. Write its keys."
            )
        return Section(self.path(key), value, self.report)

    def move(
        self, key: str, into: dict[str, Any], ours: str, *, shown: str = "", note: str = ""
    ) -> None:
        """Put a value that was given under our name."""
        self.seen.add(key)
        if key in self.given:
            into[ours] = self.take(key)
            self.report.add(self.path(key), "mapped", shown or ours, into[ours], note)

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Take out keys without effect; ``{key: why}``."""
        for key, reason in reasons.items():
            self.seen.add(key)
            if key in self.given:
                self.report.add(self.path(key), "dropped", "", self.given.pop(key), reason)

    def drop_unset(self, *keys: str) -> None:
        """Take out those of the keys that nobody set: null, or ``{}`` as Isaac Lab writes it."""
        unset = [key for key in keys if key in self.given and self.given[key] in (None, {})]
        self.drop(dict.fromkeys(unset, "an unset field"))

    def finish(self, known: Iterable[str] = ()) -> None:
        """
        Report what is left as unknown; what stands for code is dropped.

        :param known: further keys to suggest
        """
        names: Collection[str] = {*self.seen, *known}
        for key, value in self.given.items():
            tagged = find_tagged(value)
            if tagged is not None:
                note = f"{tagged} stands for Python code and was not run"
                self.report.add(self.path(key), "dropped", "", None, note)
            else:
                self.report.add(self.path(key), "unknown", "", value, suggest(key, names))
