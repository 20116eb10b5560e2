"""Do the values of a configuration have the types that a constructor declares?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch as th
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_strl.common.errors import StrlTypeError, StrlValueError

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
"""Hyperparameters that may change while training: numbers, or texts such as ``lin_0.001``."""

_LINEAR = re.compile(r"lin_(\d+\.?\d*(?:[eE][-+]?\d+)?)")
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
    Path: "a path",
    Mapping: "a mapping",
    dict: "a mapping",
    Sequence: "a list",
    tuple: "a list",
    type: "a class, in Python alone",
    Callable: "a schedule such as lin_0.001",
}


class _Misfit:
    """Stands for a value that does not fit; ``None`` is a value."""


_MISFIT = _Misfit()


def check_text_keys(where: str, given: Mapping[Any, Any]) -> None:
    """
    Refuse keys that are no text.

    :raises StrlTypeError: naming one
    """
    for key in given:
        if not isinstance(key, str):
            raise StrlTypeError(
                f"{where}: the key {key!r} is no text. Expected the name of an option. Write "
                "'name: value'."
            )


def fitting(where: str, name: str, value: Any, hint: Any) -> Any:
    """
    Return a value as an annotation wants it: ``10.0`` is 10 where whole numbers are wanted.

    :param where: who complains
    :param name: of the value
    :param value: from yaml
    :param hint: annotation
    :raises StrlTypeError: if it does not fit
    """
    found = _fit(value, hint)
    if isinstance(found, _Misfit):
        raise StrlTypeError(f"{where}: {name} is {value!r}. Expected {describe(hint)}.")
    return found


def check_values(where: str, given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return options whose values fit what a constructor declares.

    :param where: who complains
    :param given: by name
    :param hints: annotation by name, see :func:`hints_of`
    :raises StrlTypeError: naming the first that does not fit
    :raises StrlValueError: for a schedule below 0
    """
    found = {name: fitting(where, name, value, hints[name]) for name, value in given.items()}
    for name in SCHEDULES:
        number = found.get(name)
        if isinstance(number, int | float) and not 0 <= number < math.inf:
            raise StrlValueError(f"{where}: {name} is {number}. Expected a number of at least 0.")
    return found


def hints_of(cls: type, base: type) -> dict[str, Any]:
    """
    Return the annotations of a constructor, with those of its bases.

    :param cls: the class
    :param base: the last class to look at
    """
    found: dict[str, Any] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is not None:
            # SB3 names VecEnv in a text, which not every module that uses its alias imports.
            hints = get_type_hints(constructor, localns={"VecEnv": VecEnv})
            found = {**hints, **found}
        if owner is base:
            break
    found.pop("return", None)
    return found


def built(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as the algorithm takes them: texts of schedules became schedules."""
    schedules = {
        name: LinearSchedule(float(hyperparameters[name].removeprefix("lin_")), 0.0, 1.0)
        for name in SCHEDULES
        if isinstance(hyperparameters.get(name), str)
    }
    return {**hyperparameters, **schedules}


def describe(hint: Any) -> str:
    """Return an annotation in words."""
    if get_origin(hint) in (Union, UnionType):
        words = [describe(part) for part in get_args(hint)]
        return " or ".join(dict.fromkeys(word for word in words if word))
    if get_origin(hint) is Literal:
        return f"one of {list(get_args(hint))}"
    kind = get_origin(hint) or hint
    items = get_args(hint)
    word = _WORDS.get(kind, "")
    if word == "a list" and items:
        return _describe_list(kind, items)
    return word  # what yaml cannot hold has no word


def _describe_list(kind: Any, items: tuple[Any, ...]) -> str:
    plural = {int: "whole numbers", float: "numbers", str: "texts"}.get(items[0], "")
    if kind is tuple and items[-1] is not ...:
        return f"a list of {len(items)} {plural or 'values'}"
    return f"a list of {plural}" if plural else "a list"


def _fit(value: Any, hint: Any) -> Any:
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        fits = (_fit(value, part) for part in items)
        return next((found for found in fits if not isinstance(found, _Misfit)), _MISFIT)
    if origin is Literal:
        return value if value in items else _MISFIT
    if origin in (Mapping, dict) or hint in (Mapping, dict):
        return _fit_mapping(value, items)
    if origin in (Sequence, list, tuple):
        return _fit_list(value, origin, items)
    if origin is Callable:
        return value if _is_schedule(value, items) else _MISFIT
    return _fit_plain(value, origin or hint)


def _fit_mapping(value: Any, items: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return _MISFIT
    found = {key: _fit(inner, items[1] if items else Any) for key, inner in value.items()}
    return _MISFIT if _any_misfit(found.values()) else found


def _fit_list(value: Any, origin: Any, items: tuple[Any, ...]) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _MISFIT
    as_many = origin is not tuple or items[-1:] == (...,)
    hints = items[:1] * len(value) if as_many else items
    if len(value) != len(hints):
        return _MISFIT
    found = [_fit(inner, hint) for inner, hint in zip(value, hints, strict=True)]
    return _MISFIT if _any_misfit(found) else found


def _any_misfit(values: Iterable[Any]) -> bool:
    return any(isinstance(value, _Misfit) for value in values)


def _fit_number(value: Any, hint: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return _MISFIT
    if hint is float:
        return value
    return int(value) if math.isfinite(value) and value == int(value) else _MISFIT


def _fit_plain(value: Any, hint: Any) -> Any:
    if hint in (int, float):
        return _fit_number(value, hint)
    if hint in (Path, th.device):
        return value if isinstance(value, str | hint) else _MISFIT
    return value if hint is Any or isinstance(value, hint) else _MISFIT


def _is_schedule(value: Any, items: tuple[Any, ...]) -> bool:
    """Tell whether a value is a function, or the text of a schedule of the remaining progress."""
    is_text = isinstance(value, str) and _LINEAR.fullmatch(value) is not None
    return callable(value) or (is_text and items[:1] == ([float],))
