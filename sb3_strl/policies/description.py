"""
Constructor arguments as plain data, so that a policy can be built again without running code.

Everything becomes JSON: numbers, strings, lists and mappings as they are, the few other things
that policies take (spaces, classes, arrays, other policies) as a mapping with the key ``"@"``.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known, suggest

FORMAT = 1
_TAG = "@"
_SET_TWICE = re.compile(r"multiple values for keyword argument '(\w+)'")
_CLASS_ROOTS: tuple[type, ...] = (nn.Module, th.optim.Optimizer)


def no_learning(progress_remaining: float) -> float:
    """Return the learning rate of a policy that is built to act, 0."""
    return 0.0 * progress_remaining


# ---------------------------------------------------------------------- classes by name


def _subclasses(root: type) -> Iterator[type]:
    below: list[type] = root.__subclasses__()
    for cls in below:
        yield cls
        yield from _subclasses(cls)


def class_name(cls: type) -> str:
    """Return the import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def find_class(name: str, root: type) -> type | None:
    """
    Return the class of that import path among those already imported, ``None`` if there is none.

    Nothing is imported on the word of a file: a name can only pick what the program already has.

    :param name: as :func:`class_name` returns it
    :param root: the class is this one or derived from it
    """
    found = [cls for cls in (root, *_subclasses(root)) if class_name(cls) == name]
    return found[-1] if found else None


def _decode_class(given: Mapping[str, Any]) -> type:
    for root in _CLASS_ROOTS:
        cls = find_class(str(given["name"]), root)
        if cls is not None:
            return cls
    raise StrlValueError(
        f"Policy description: there is no module or optimizer class '{given['name']}'. Import the "
        "module that defines it before loading."
    )


# ---------------------------------------------------------------------- values


def _encode_array(value: np.ndarray) -> dict[str, Any]:
    flat = [encode(item) for item in value.ravel().tolist()]
    # Bounds of images are one number, thousands of times.
    same = len(flat) > 1 and all(item == flat[0] for item in flat)
    return {
        _TAG: "array",
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "values": flat[:1] if same else flat,
    }


def _decode_array(given: Mapping[str, Any]) -> np.ndarray:
    values = np.asarray([decode(item) for item in given["values"]], dtype=given["dtype"])
    shape = tuple(int(size) for size in given["shape"])
    return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)


def _encode_box(space: spaces.Box) -> dict[str, Any]:
    low, high = _encode_array(space.low), _encode_array(space.high)
    return {_TAG: "Box", "low": low, "high": high, "dtype": np.dtype(space.dtype).name}


def _decode_box(given: Mapping[str, Any]) -> spaces.Box:
    low, high = _decode_array(given["low"]), _decode_array(given["high"])
    dtype: Any = np.dtype(given["dtype"]).type
    return spaces.Box(low, high, dtype=dtype)


def _encode_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    if _TAG not in value and all(isinstance(key, str) for key in value):
        return {key: encode(item) for key, item in value.items()}
    return {_TAG: "mapping", "items": [[encode(k), encode(v)] for k, v in value.items()]}


def _encode_class(cls: type) -> dict[str, Any]:
    if not issubclass(cls, _CLASS_ROOTS):
        raise StrlTypeError(
            f"Policy description: the class {class_name(cls)} is neither a module nor an optimizer "
            "and cannot be stored as plain data. Pass its name, if the policy knows one."
        )
    return {_TAG: "class", "name": class_name(cls)}


_ENCODERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((bool, int, str, type(None)), lambda value: value),
    (float, lambda value: value if math.isfinite(value) else {_TAG: "float", "value": str(value)}),
    (np.generic, lambda value: encode(value.item())),
    (np.ndarray, _encode_array),
    (th.device, str),
    (list, lambda value: [encode(item) for item in value]),
    (tuple, lambda value: {_TAG: "tuple", "items": [encode(item) for item in value]}),
    (type, _encode_class),
    (spaces.Box, _encode_box),
    (
        spaces.Discrete,
        lambda space: {_TAG: "Discrete", "n": int(space.n), "start": int(space.start)},
    ),
    (
        spaces.MultiDiscrete,
        lambda space: {
            _TAG: "MultiDiscrete",
            "nvec": _encode_array(space.nvec),
            "start": _encode_array(space.start),
        },
    ),
    (spaces.MultiBinary, lambda space: {_TAG: "MultiBinary", "shape": list(space.shape)}),
    (
        spaces.Dict,
        lambda space: {_TAG: "Dict", "items": [[k, encode(v)] for k, v in space.spaces.items()]},
    ),
    (BasePolicy, lambda policy: {_TAG: "policy", "description": describe_constructor(policy)}),
    (Mapping, _encode_mapping),
)

_DECODERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "float": lambda given: float(given["value"]),
    "array": _decode_array,
    "tuple": lambda given: tuple(decode(item) for item in given["items"]),
    "mapping": lambda given: {decode(key): decode(item) for key, item in given["items"]},
    "class": _decode_class,
    "Box": _decode_box,
    "Discrete": lambda given: spaces.Discrete(given["n"], start=given["start"]),
    "MultiDiscrete": lambda given: spaces.MultiDiscrete(
        _decode_array(given["nvec"]), start=_decode_array(given["start"])
    ),
    "MultiBinary": lambda given: spaces.MultiBinary(
        given["shape"][0] if len(given["shape"]) == 1 else given["shape"]
    ),
    # An OrderedDict, because gymnasium sorts the keys of a plain dict.
    "Dict": lambda given: spaces.Dict(OrderedDict((k, decode(v)) for k, v in given["items"])),
    "schedule": lambda _: no_learning,
    "policy": lambda given: policy_from_description(given["description"]),
}


def encode(value: Any) -> Any:
    """
    Return a value as JSON-able data.

    :raises StrlTypeError: if it is a function or another object that plain data cannot hold
    """
    for kind, encoder in _ENCODERS:
        if isinstance(value, kind):
            return encoder(value)
    raise StrlTypeError(
        f"Policy description: {value!r} of type {type(value).__name__} cannot be stored as plain "
        "data. Expected numbers, strings, lists, mappings, spaces, module or optimizer classes or "
        "policies."
    )


def decode(value: Any) -> Any:
    """
    Return what :func:`encode` was given.

    :raises StrlValueError: if the data do not come from :func:`encode`
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: decode(item) for key, item in value.items()}
    kind = value[_TAG]
    if kind not in _DECODERS:
        raise StrlValueError(
            f"Policy description: unknown kind of value '{kind}'. Known kinds: "
            f"{sorted(_DECODERS)}. The file is damaged or not ours."
        )
    return _DECODERS[kind](value)


# ---------------------------------------------------------------------- policies


def unwrap(policy: BasePolicy) -> BasePolicy:
    """Return the policy inside ``th.compile(policy)``, or the policy itself."""
    inner = dict(policy.named_children()).get("_orig_mod", policy)
    assert isinstance(inner, BasePolicy)
    return inner


def _encode_argument(policy: str, name: str, value: Any) -> Any:
    if name == "lr_schedule":
        return {_TAG: "schedule"}  # a function; a policy that is loaded alone does not learn
    try:
        return encode(value)
    except StrlTypeError as error:
        raise StrlTypeError(f"{policy}: argument '{name}': {error}") from error


def describe_constructor(policy: BasePolicy) -> dict[str, Any]:
    """
    Return everything that building the policy again needs, as JSON-able data.

    :param policy: any policy whose ``_get_constructor_parameters`` returns its arguments
    :return: ``{"format": ..., "policy": class name, "arguments": {...}}``
    :raises StrlTypeError: if an argument cannot be stored as plain data; the message names it
    """
    policy = unwrap(policy)
    cls = type(policy)
    arguments = {
        name: _encode_argument(cls.__name__, name, value)
        for name, value in policy._get_constructor_parameters().items()
    }
    return {"format": FORMAT, "policy": class_name(cls), "arguments": arguments}


def policy_from_description(
    description: Mapping[str, Any], policy_class: type[BasePolicy] | None = None
) -> BasePolicy:
    """
    Build a policy with fresh weights from what :func:`describe_constructor` returned.

    The program's random numbers are left where they were.

    :param description: the description, e.g. read from JSON
    :param policy_class: the class that is expected; one derived from the described class is built
        instead of it
    :raises StrlValueError: if the description is damaged, from a later version, or names a class
        that is not imported or not the expected one
    """
    cls = _policy_class(description, policy_class)
    try:
        arguments = {key: decode(value) for key, value in description["arguments"].items()}
    except StrlValueError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, IndexError) as error:
        raise StrlValueError(
            f"Policy description: the arguments of {cls.__name__} are damaged "
            f"({type(error).__name__}: {error}). Save the policy again."
        ) from error
    known = inspect.signature(cls).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
        check_known(f"Policy description of {cls.__name__}", "argument", arguments, known)
    with th.random.fork_rng(devices=[]):
        return _construct(cls, arguments)


def _construct(cls: type[BasePolicy], arguments: dict[str, Any]) -> BasePolicy:
    """
    Build a policy, without those arguments that its own constructor sets.

    A subclass such as imitation's ``FeedForward32Policy`` sets its parent's ``net_arch``, which the
    parent then reports among the arguments.
    """
    try:
        return cls(**arguments)
    except TypeError as error:
        fixed = _SET_TWICE.search(str(error))
        if fixed is None or fixed[1] not in arguments:
            raise
    return _construct(cls, {key: value for key, value in arguments.items() if key != fixed[1]})


def _policy_class(
    description: Mapping[str, Any], expected: type[BasePolicy] | None
) -> type[BasePolicy]:
    if description.get("format") != FORMAT:
        raise StrlValueError(
            f"Policy description: format {description.get('format')!r}. Expected {FORMAT}. The "
            "file is damaged or comes from another version: load it there."
        )
    name = str(description.get("policy"))
    found = find_class(name, BasePolicy)
    if found is None and expected is not None and expected.__name__ == name.rpartition(".")[2]:
        found = expected  # the same class, which has moved, or was part of a script
    if found is None:
        names = [class_name(cls) for cls in _subclasses(BasePolicy)]
        raise StrlValueError(
            f"Policy description: there is no policy class '{name}'.{suggest(name, names)} Import "
            "the module that defines it before loading, or pass policy_class=."
        )
    if expected is None or issubclass(found, expected):
        return found
    if issubclass(expected, found):
        return expected
    raise StrlValueError(
        f"Policy description: the file holds a {found.__name__}, not a {expected.__name__}. Use "
        f"{found.__name__}.load or load_policy."
    )
