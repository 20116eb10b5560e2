"""Configurations as plain data: nothing that a file says is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sb3_strl.common.errors import StrlTypeError, StrlValueError

_MAX_BYTES = 4 * 2**20
_MAX_NODES = 100_000
_MAX_DEPTH = 32
_FLOAT = re.compile(
    r"^[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\.inf|\.Inf|\.nan|\.NaN)$"
)


@dataclass(frozen=True)
class Tagged:
    """
    What stands where a file had a tag that this library does not follow.

    :param tag: e.g. ``"!!python/object/apply:builtins.slice"``
    :param line: its line
    """

    tag: str
    line: int

    def __str__(self) -> str:
        return f"{self.tag} (line {self.line})"


class _TupleLoader(yaml.SafeLoader):
    """The safe loader; Python's tuples are tuples, every other foreign tag a :class:`Tagged`."""


def _tuple(loader: _TupleLoader, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.SequenceNode):
        return _tagged(loader, "", node)
    return tuple(loader.construct_sequence(node, deep=True))


def _tagged(loader: _TupleLoader, suffix: str, node: yaml.Node) -> Tagged:
    del loader, suffix
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    return Tagged(tag, node.start_mark.line + 1)


_TupleLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_TupleLoader.add_multi_constructor("tag:yaml.org,2002:", _tagged)
_TupleLoader.add_multi_constructor("!", _tagged)
# YAML 1.1 takes 1e-3 for text.
_TupleLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_config(source: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """
    Return a configuration as plain data.

    Of YAML's tags only ``!!python/tuple`` and the standard ones are followed. Where a file has
    another one, e.g. ``!!python/object/apply``, a :class:`Tagged` stands in its place and nothing
    is run.

    :param source: a mapping, which is copied; the path of a yaml file; or text with line breaks
    :raises StrlTypeError: if it is something else, or holds no mapping
    :raises StrlValueError: if there is no such file, or it is no yaml or unreasonably large
    """
    name = "the configuration"
    data: Any = source
    if isinstance(source, str | Path):
        text = source if isinstance(source, str) and "\n" in source else None
        if text is None:
            name = str(source)
            text = _read_file(Path(source))
        data = _parse(name, text)
    if not isinstance(data, Mapping):
        raise StrlTypeError(
            f"migrate: {name} holds a {type(data).__name__}. Expected a mapping, the path of an "
            "agent.yaml or its text."
        )
    _check_size(name, data, 0, [0])
    return {str(key): value for key, value in data.items()}


def _read_file(path: Path) -> str:
    if not path.is_file():
        raise StrlValueError(
            f"migrate: there is no file {path}. Expected the agent.yaml of a run (usually "
            "logs/.../params/agent.yaml)."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise StrlValueError(
            f"migrate: {path} has {path.stat().st_size} bytes. Expected a configuration of less "
            f"than {_MAX_BYTES}. Name the agent.yaml."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StrlValueError(
            f"migrate: {path} is no text ({error}). Expected a yaml file; a checkpoint goes to "
            "--checkpoint."
        ) from error


def _parse(name: str, text: str) -> Any:
    try:
        loader = _TupleLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise StrlValueError(f"migrate: {name} is no yaml: {error}. Mend that line.") from error


def _check_size(name: str, data: Any, depth: int, count: list[int]) -> None:
    """Refuse data that aliases blow up or make endless."""
    count[0] += 1
    if depth > _MAX_DEPTH or count[0] > _MAX_NODES:
        raise StrlValueError(
            f"migrate: {name} nests more than {_MAX_DEPTH} levels or holds more than {_MAX_NODES} "
            "values. Expected a configuration. Write its aliases out."
        )
    values = data.values() if isinstance(data, Mapping) else data
    if isinstance(data, Mapping | list | tuple | set):
        for value in values:
            _check_size(name, value, depth + 1, count)


def find_tagged(value: Any) -> Tagged | None:
    """Return the first tag in plain data that was not followed."""
    if isinstance(value, Tagged):
        return value
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    else:
        parts = list(value) if isinstance(value, list | tuple | set) else []
    return next((found for part in parts if (found := find_tagged(part)) is not None), None)


def to_plain(value: Any, where: str) -> Any:
    """
    Return data that yaml's safe dumper writes: tuples become lists.

    :param where: who complains
    :raises StrlValueError: if something is no plain data, e.g. a class
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner, where) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise StrlValueError(
        f"migrate: {where} is {value!r}, which yaml cannot hold. Expected plain data. Use "
        "Migration.build(env) in Python instead of a configuration file."
    )
