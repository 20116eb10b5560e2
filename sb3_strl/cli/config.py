"""Configurations of training runs: yaml, checked before anything is built."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import yaml

from sb3_strl import algorithms
from sb3_strl.algorithms import PPO
from sb3_strl.cli.parts import fitting_parts
from sb3_strl.cli.values import check_text_keys, check_values, fitting, hints_of
from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known, suggest
from sb3_strl.policies import StrlPolicy

CONFIG_FILE = "config.yml"
_CLASSES = {
    "ppo": "PPO",
    "appo": "APPO",
    "estimator_ppo": "EstimatorPPO",
    "tppo": "TPPO",
    "atppo": "ATPPO",
    "estimator_tppo": "EstimatorTPPO",
    "estimator_appo": "EstimatorAPPO",
    "estimator_atppo": "EstimatorATPPO",
}
_MAX_SEED = 2**32 - 1  # NumPy's
_RANGES: dict[str, tuple[int, float, str]] = {
    "total_timesteps": (1, math.inf, "> 0"),
    "n_envs": (1, math.inf, "> 0"),
    "seed": (0, _MAX_SEED, f"from 0 to {_MAX_SEED}"),
    "checkpoint_interval": (0, math.inf, "of at least 0"),
}
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_BUILT_BY_US = ("self", "policy", "env", "_init_setup_model", "seed", "device", "tensorboard_log")
_BUILT_FOR_POLICY = ("self", "observation_space", "action_space", "lr_schedule")


def known_algorithms() -> dict[str, type[PPO]]:
    """Return the algorithms of this library by the name that a configuration gives them."""
    room = vars(algorithms)
    return {name: room[cls] for name, cls in _CLASSES.items() if cls in room}


@dataclass(kw_only=True)
class TrainConfig:
    """
    A training run.

    :param env: id of an environment, see :func:`sb3_strl.make_vec`
    :param algorithm: ``"ppo"``, ``"appo"``, ...
    :param policy: name of a policy
    :param total_timesteps: environment steps
    :param n_envs: environments
    :param env_kwargs: options of the environment
    :param seed: of everything
    :param device: of networks and tensors
    :param checkpoint_interval: environment steps between checkpoints, 0 for none
    :param random_starts: begin the first episodes at random places of their time limit, see
        :class:`~sb3_strl.callbacks.RandomStarts`
    :param hyperparameters: keywords of the algorithm, ``policy_kwargs`` among them
    """

    env: str = "sb3_strl/Walker-v0"
    algorithm: str = "ppo"
    policy: str = "MlpPolicy"
    total_timesteps: int = 1_000_000
    n_envs: int = 16
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    checkpoint_interval: int = 0
    random_starts: bool = False
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "config") -> TrainConfig:
        """
        Build from plain data.

        :param given: by key
        :param where: who complains
        :raises StrlTypeError: on an unknown key anywhere; the nearest one is named
        :raises StrlValueError: on an unknown algorithm, or a number out of range
        """
        check_text_keys(where, given)
        check_known(where, "key", given, [item.name for item in fields(cls)])
        config = cls(**given)
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        values = vars(self)
        for name in _RANGES:
            values[name] = whole_number(where, name, values[name])
        hints = get_type_hints(type(self))
        for name in hints.keys() - _RANGES.keys():
            values[name] = fitting(where, name, values[name], hints[name])
        known = known_algorithms()
        if self.algorithm not in known:
            raise StrlValueError(
                f"{where}: unknown algorithm '{self.algorithm}'.{suggest(self.algorithm, known)} "
                f"Known algorithms: {list(known)}."
            )
        check_text_keys(f"{where}: env_kwargs", self.env_kwargs)
        algorithm = known[self.algorithm]
        check_hyperparameters(where, algorithm, self.hyperparameters)
        self.hyperparameters = _fitting_hyperparameters(where, algorithm, self.hyperparameters)

    def save(self, path: Path) -> None:
        """Write the configuration as yaml."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")


def whole_number(where: str, name: str, value: Any, shown: str | None = None) -> int:
    """
    Return a number of a configuration.

    :param where: who complains
    :param name: ``"total_timesteps"``, ``"n_envs"``, ``"seed"`` or ``"checkpoint_interval"``
    :param value: from yaml or the command line
    :param shown: what it is called there, default its name
    :raises StrlValueError: if it is no whole number, or out of its range
    """
    low, high, words = _RANGES[name]
    try:
        number: int = fitting(where, name, value, int)
    except StrlTypeError:
        number = low - 1
    if not low <= number <= high:
        raise StrlValueError(
            f"{where}: {shown or name} is {value!r}. Expected a whole number {words}."
        )
    return number


def _fitting_hyperparameters(
    where: str, algorithm: type[PPO], given: Mapping[str, Any]
) -> dict[str, Any]:
    where = f"{where}: hyperparameters"
    found = check_values(where, given, hints_of(algorithm, PPO))
    if found.get("policy_kwargs"):
        where = f"{where}: policy_kwargs"
        fitted = check_values(where, found["policy_kwargs"], hints_of(StrlPolicy, StrlPolicy))
        found["policy_kwargs"] = fitting_parts(where, fitted)
    return found


def check_hyperparameters(
    where: str, algorithm: type[PPO], given: Mapping[str, Any], also: Sequence[str] = ()
) -> None:
    """
    Refuse keywords that an algorithm, its policy or a part of that does not have.

    :param where: who complains
    :param algorithm: class
    :param given: keywords of the algorithm, ``policy_kwargs`` among them
    :param also: further names to suggest from
    :raises StrlTypeError: on an unknown one; the nearest one is named
    """
    check_text_keys(f"{where}: hyperparameters", given)
    allowed = [*keywords_of(algorithm, PPO, _BUILT_BY_US), *also]
    check_known(f"{where}: hyperparameters", "option", given, allowed)
    policy_kwargs = given.get("policy_kwargs") or {}
    if not isinstance(policy_kwargs, Mapping):
        raise StrlTypeError(
            f"{where}: policy_kwargs is {policy_kwargs!r}. Expected a mapping, e.g. "
            "{net_arch: [64, 64]}."
        )
    check_text_keys(f"{where}: policy_kwargs", policy_kwargs)
    allowed = keywords_of(StrlPolicy, StrlPolicy, _BUILT_FOR_POLICY)
    check_known(f"{where}: policy_kwargs", "option", policy_kwargs, allowed)
    fitting_parts(f"{where}: policy_kwargs", policy_kwargs)


def keywords_of(cls: type, base: type, without: Sequence[str]) -> list[str]:
    """
    Return the keywords that a constructor takes, with those that it hands on to its bases.

    :param cls: the class
    :param base: the last class to look at
    :param without: keywords to leave out
    """
    found: dict[str, None] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is not None:
            for name, parameter in inspect.signature(constructor).parameters.items():
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    found[name] = None
        if owner is base:
            break
    return [name for name in found if name not in without]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read a mapping; ``1e-3`` is a number here, which YAML 1.1 takes for text.

    :raises StrlValueError: if there is no such file, it is no yaml or no mapping
    """
    file = Path(path)
    if file.is_dir():
        raise StrlValueError(f"config: {file} is a folder. Expected a yaml file in it.")
    if not file.is_file():
        raise StrlValueError(f"config: there is no file {file}. Expected a yaml file.")
    try:
        data = _read_text_of_yaml(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise StrlValueError(
            f"config: {file} is no text: {error}. Expected a yaml file, e.g. config.yml beside "
            "a model."
        ) from error
    except ValueError as error:
        raise StrlValueError(f"config: {file} is no yaml: {error}. Mend that line.") from error
    if not isinstance(data, dict):
        raise StrlValueError(
            f"config: {file} holds a {type(data).__name__}. Expected a mapping: 'env: ...', "
            "'algorithm: ...'."
        )
    numbers: dict[str, Any] = with_numbers(data)
    return numbers


def _read_text_of_yaml(text: str) -> Any:
    """Read yaml; what is wrong is a ValueError, as a date that does not exist is in PyYAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_options(option: str, text: str) -> dict[str, Any]:
    """
    Read the mapping that an option of the command line holds.

    :param option: its name, e.g. ``"--env-kwargs"``
    :param text: yaml
    :raises StrlValueError: if it is no mapping of names
    """
    example = f"Expected a mapping: {option} '{{max_episode_length: 500}}'."
    try:
        data = _read_text_of_yaml(text)
    except ValueError as error:
        raise StrlValueError(f"{option}: '{text}' is no yaml: {error}. {example}") from error
    if not isinstance(data, dict):
        raise StrlValueError(f"{option}: got '{text}', a {type(data).__name__}. {example}")
    check_text_keys(option, data)
    options: dict[str, Any] = with_numbers(data)
    return options


def with_numbers(data: Any) -> Any:
    """Return plain data in which texts such as ``1e-3`` are numbers."""
    if isinstance(data, dict):
        return {key: with_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [with_numbers(value) for value in data]
    if isinstance(data, str) and _SCIENTIFIC.fullmatch(data):
        return float(data)
    return data


def apply_overrides(
    hyperparameters: Mapping[str, Any] | None, given: Sequence[str]
) -> dict[str, Any]:
    """
    Return hyperparameters with ``key=value`` applied; dots go into mappings.

    :param hyperparameters: not changed; ``None`` for none
    :param given: e.g. ``["n_steps=32", "policy_kwargs.net_arch=[64, 64]"]``, values as in yaml
    :raises StrlValueError: if one has no ``=``, or goes into something that is no mapping
    """
    if not isinstance(hyperparameters, Mapping | NoneType):
        raise StrlValueError(
            f"--set: the configuration's hyperparameters are {hyperparameters!r}. Expected a "
            "mapping to go into."
        )
    result: dict[str, Any] = dict(hyperparameters or {})
    for text in given:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise StrlValueError(
                f"--set: got '{text}'. Expected key=value, e.g. --set n_steps=32 or "
                "--set policy_kwargs.net_arch=[64,64]."
            )
        *parents, last = path.split(".")
        target = result
        for parent in parents:
            inner = target.get(parent) or {}
            if not isinstance(inner, dict):
                raise StrlValueError(
                    f"--set: '{parent}' in '{path}' is {inner!r}. Expected a mapping to go into."
                )
            target[parent] = dict(inner)
            target = target[parent]
        target[last] = _read_value(text, value)
    return result


def _read_value(text: str, value: str) -> Any:
    try:
        return with_numbers(_read_text_of_yaml(value))
    except ValueError as error:
        raise StrlValueError(
            f"--set: the value in '{text}' is no yaml: {error}. Expected e.g. n_steps=32 or "
            "policy_kwargs.net_arch=[64,64]."
        ) from error


def config_beside(model: str | Path) -> dict[str, Any]:
    """Return what ``strl train`` wrote beside a model, ``{}`` if there is nothing."""
    file = Path(model).parent / CONFIG_FILE
    return read_yaml(file) if file.is_file() else {}
