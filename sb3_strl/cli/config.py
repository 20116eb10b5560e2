"""Configurations of training runs: yaml, checked before anything is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sb3_strl import algorithms
from sb3_strl.algorithms import PPO
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
        check_known(where, "key", given, [item.name for item in fields(cls)])
        config = cls(**given)
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        known = known_algorithms()
        if self.algorithm not in known:
            raise StrlValueError(
                f"{where}: unknown algorithm '{self.algorithm}'.{suggest(self.algorithm, known)} "
                f"Known algorithms: {list(known)}."
            )
        counts: dict[str, Any] = {"total_timesteps": self.total_timesteps, "n_envs": self.n_envs}
        for name, value in counts.items():
            if not isinstance(value, int | float) or value != int(value) or value < 1:
                raise StrlValueError(f"{where}: {name} is {value!r}. Expected a whole number > 0.")
        self.total_timesteps, self.n_envs = int(self.total_timesteps), int(self.n_envs)
        mappings: dict[str, Any] = {
            "env_kwargs": self.env_kwargs,
            "hyperparameters": self.hyperparameters,
        }
        for name, mapping in mappings.items():
            if not isinstance(mapping, dict):
                raise StrlTypeError(f"{where}: {name} is {mapping!r}. Expected a mapping.")
        check_hyperparameters(where, known[self.algorithm], self.hyperparameters)

    def save(self, path: Path) -> None:
        """Write the configuration as yaml."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False), encoding="utf-8")


def check_hyperparameters(
    where: str, algorithm: type[PPO], given: Mapping[str, Any], also: Sequence[str] = ()
) -> None:
    """
    Refuse keywords that an algorithm or its policy does not have.

    :param where: who complains
    :param algorithm: class
    :param given: keywords of the algorithm, ``policy_kwargs`` among them
    :param also: further names to suggest from
    :raises StrlTypeError: on an unknown one; the nearest one is named
    """
    allowed = [*keywords_of(algorithm, PPO, _BUILT_BY_US), *also]
    check_known(f"{where}: hyperparameters", "option", given, allowed)
    allowed = keywords_of(StrlPolicy, StrlPolicy, _BUILT_FOR_POLICY)
    check_known(f"{where}: policy_kwargs", "option", given.get("policy_kwargs") or {}, allowed)


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
    if not file.is_file():
        raise StrlValueError(f"config: there is no file {file}. Expected a yaml file.")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StrlValueError(f"config: {file} is no yaml: {error}. Mend that line.") from error
    if not isinstance(data, dict):
        raise StrlValueError(
            f"config: {file} holds a {type(data).__name__}. Expected a mapping: 'env: ...', "
            "'algorithm: ...'."
        )
    numbers: dict[str, Any] = with_numbers(data)
    return numbers


def with_numbers(data: Any) -> Any:
    """Return plain data in which texts such as ``1e-3`` are numbers."""
    if isinstance(data, dict):
        return {key: with_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [with_numbers(value) for value in data]
    if isinstance(data, str) and _SCIENTIFIC.fullmatch(data):
        return float(data)
    return data


def apply_overrides(hyperparameters: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """
    Return hyperparameters with ``key=value`` applied; dots go into mappings.

    :param hyperparameters: not changed
    :param given: e.g. ``["n_steps=32", "policy_kwargs.net_arch=[64, 64]"]``, values as in yaml
    :raises StrlValueError: if one has no ``=``, or goes into something that is no mapping
    """
    result: dict[str, Any] = dict(hyperparameters)
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
        target[last] = with_numbers(yaml.safe_load(value))
    return result


def config_beside(model: str | Path) -> dict[str, Any]:
    """Return what ``strl train`` wrote beside a model, ``{}`` if there is nothing."""
    file = Path(model).parent / CONFIG_FILE
    return read_yaml(file) if file.is_file() else {}
