"""What a resumed training goes on with: the settings of its model, and which of them may change."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import (
    ConstantSchedule,
    FloatSchedule,
    LinearSchedule,
    check_for_correct_spaces,
)

from sb3_strl.algorithms import PPO
from sb3_strl.cli.config import (
    CONFIG_FILE,
    TrainConfig,
    config_beside,
    keywords_of,
    known_algorithms,
)
from sb3_strl.cli.values import SCHEDULES, built
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import TensorVecEnv
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.aliases import resolve_policy_name

_CHANGEABLE = {
    *("n_steps", "batch_size", "n_minibatches", "n_epochs", "gamma", "gae_lambda"),
    *("learning_rate", "clip_range", "clip_range_vf", "use_clipped_value_loss"),
    *("normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm", "desired_kl", "target_kl"),
    *("clip_min_std", "timeout_bootstrap", "compile", "autocast", "storage_device", "verbose"),
}
"""What PPO reads anew in every iteration: no network, optimizer or stored state depends on it."""
_TEACHERS = {"teacher", "teacher_policy", "teacher_policy_class_name", "teacher_ac_path"}
_NOT_SETTINGS = ("seed", "device", "tensorboard_log")


@dataclass(frozen=True)
class Checkpoint:
    """
    A saved model.

    :param file: where it lies
    :param algorithm: name of its algorithm
    :param data: its attributes
    """

    file: Path
    algorithm: str
    data: Mapping[str, Any]

    @property
    def algorithm_class(self) -> type[PPO]:
        """Class of its algorithm."""
        return known_algorithms()[self.algorithm]


@dataclass(frozen=True)
class Resumption:
    """
    A training that goes on.

    :param checkpoint: with which model
    :param config: what holds from now on; the model's hyperparameters are written out
    :param attributes: of the model, that are replaced while it is loaded
    :param changes: names, what they were and what they are now
    """

    checkpoint: Checkpoint
    config: TrainConfig
    attributes: dict[str, Any]
    changes: dict[str, tuple[Any, Any]]

    def load(self, env: TensorVecEnv, device: Any) -> PPO:
        """
        Load the model.

        :param env: to train on
        :param device: of networks and tensors
        :raises StrlValueError: if the environment is not of the model's kind
        """
        data, file = self.checkpoint.data, self.checkpoint.file
        try:
            check_for_correct_spaces(env, data["observation_space"], data["action_space"])
        except ValueError as error:
            raise StrlValueError(
                f"strl train: {file} does not fit '{self.config.env}': {error}. Expected the "
                "environment that it was trained on. Name it with --env."
            ) from error
        algorithm = self.checkpoint.algorithm_class
        return algorithm.load(file, env=env, device=device, **self.attributes)


def read_checkpoint(path: str) -> Checkpoint:
    """
    Read what a model was trained with.

    :param path: of the model; ``.zip`` may be left out
    :raises StrlValueError: if there is none, or it is not of this library
    """
    given = Path(path)
    file = given if given.exists() else given.with_name(f"{given.name}.zip")
    if given.is_dir():
        raise StrlValueError(
            f"strl train: --resume {given} is a folder. Expected a model, e.g. "
            f"{given / 'model.zip'}."
        )
    if not file.is_file():
        raise StrlValueError(
            f"strl train: --resume: there is no file {given}. Expected a model that strl train "
            "saved, e.g. runs/walk/model.zip."
        )
    data = load_from_zip_file(file, device="cpu")[0] if zipfile.is_zipfile(file) else None
    policy_class = (data or {}).get("policy_class")
    is_ours = isinstance(policy_class, type) and issubclass(policy_class, StrlPolicy)
    if data is None or not is_ours:
        raise StrlValueError(
            f"strl train: --resume {file} is not a whole model of this library. Expected a file "
            "that strl train saved, not cut off while it was copied. Take an earlier checkpoint."
        )
    return Checkpoint(file, _algorithm_of(data), data)


def _algorithm_of(data: Mapping[str, Any]) -> str:
    """Return the algorithm whose attributes a file has; one more or less is another version."""

    def agreement(name: str) -> int:
        probe = _unbuilt(known_algorithms()[name], {})
        saved = vars(probe).keys() - set(probe._excluded_save_params())
        return len(saved & data.keys()) - len(saved - data.keys())

    return max(known_algorithms(), key=agreement)


def _unbuilt(algorithm: type[PPO], hyperparameters: Mapping[str, Any]) -> PPO:
    """Return an algorithm without networks: what its constructor makes of its keywords."""
    make: Any = algorithm
    model: PPO = make(
        "MlpPolicy", None, device="cpu", _init_setup_model=False, **built(hyperparameters)
    )
    return model


def plan(path: str, given: Mapping[str, Any], where: str) -> Resumption:
    """
    Bring a model, the configuration beside it and what is given now together.

    The model's hyperparameters hold. What is given wins where it can be applied to a trained model.

    :param path: of the model
    :param given: keys of a configuration, of ``--config`` and the command line
    :param where: who complains
    :raises StrlValueError: if something is given that cannot change; it is named
    """
    checkpoint = read_checkpoint(path)
    beside = _beside(checkpoint, given)
    soft = _of_hyperparameters(beside)
    if _TEACHERS & _of_hyperparameters(given).keys():
        soft = {name: value for name, value in soft.items() if name not in _TEACHERS}
    # Files do not hold teachers, data sets and the like, so these come from the configuration.
    outside = {name: value for name, value in soft.items() if name not in checkpoint.data}
    _refuse_other_algorithm(checkpoint, given)
    config = TrainConfig.from_dict({**_basis(checkpoint, beside), **given}, where)
    hard = config.hyperparameters if "hyperparameters" in given else {}
    changes = _changes(checkpoint, config, given, hard)
    _refuse_fixed(checkpoint, changes)
    config.hyperparameters = _merged({**_written(checkpoint, soft), **outside}, hard)
    attributes = {name: now for name, (_, now) in changes.items()}
    unsaved = _unsaved(checkpoint, {**outside, **hard})
    if checkpoint.data.get("seed") is None:
        unsaved["seed"] = config.seed
    return Resumption(checkpoint, config, {**unsaved, **attributes}, changes)


def _beside(checkpoint: Checkpoint, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration beside a model, without the options of another environment."""
    known = {item.name for item in fields(TrainConfig)}
    beside = {key: value for key, value in config_beside(checkpoint.file).items() if key in known}
    if given.get("env", beside.get("env")) != beside.get("env"):
        beside.pop("env_kwargs", None)
    return beside


def _of_hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("hyperparameters")
    return dict(found) if isinstance(found, Mapping) else {}


def _basis(checkpoint: Checkpoint, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds unless something is given: the model knows better than the file."""
    data = checkpoint.data
    truth = {
        "algorithm": checkpoint.algorithm,
        "policy": data["policy_class"].__name__,
        "seed": data.get("seed"),
        "n_envs": beside.get("n_envs", data.get("n_envs")),
    }
    known = {key: value for key, value in truth.items() if value is not None}
    return {**beside, "hyperparameters": {}, **known}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged


# ---------------------------------------------------------------------- what changes


def _refuse_other_algorithm(checkpoint: Checkpoint, given: Mapping[str, Any]) -> None:
    wanted = given.get("algorithm", checkpoint.algorithm)
    if isinstance(wanted, str) and wanted in known_algorithms():
        _refuse_fixed(
            checkpoint,
            {"algorithm": (checkpoint.algorithm, wanted)} if wanted != checkpoint.algorithm else {},
        )


def _changes(
    checkpoint: Checkpoint, config: TrainConfig, given: Mapping[str, Any], hard: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what is given otherwise than the model has it: was and is."""
    data, algorithm = checkpoint.data, checkpoint.algorithm_class
    found: dict[str, tuple[Any, Any]] = {}
    if "policy" in given:
        policy = resolve_policy_name(config.policy, algorithm.__name__, algorithm.policy_aliases)
        if policy is not data["policy_class"]:
            found["policy"] = (data["policy_class"].__name__, config.policy)
    if "seed" in given and data.get("seed") not in (None, config.seed):
        found["seed"] = (data["seed"], config.seed)
    if hard.get("policy_kwargs"):
        kept = {"policy_kwargs": data["policy_kwargs"]}
        hard = {**hard, **_merged(kept, {"policy_kwargs": hard["policy_kwargs"]})}
    default, wanted = vars(_unbuilt(algorithm, {})), vars(_unbuilt(algorithm, hard))
    for name in wanted.keys() & data.keys():
        # A keyword may set another attribute, e.g. 'ppo: {gamma: 0.9}'.
        is_given = name in hard or not _same(name, wanted[name], default[name])
        if is_given and not _same(name, wanted[name], data[name]):
            found[name] = (data[name], wanted[name])
    return found


def _refuse_fixed(checkpoint: Checkpoint, changes: Mapping[str, tuple[Any, Any]]) -> None:
    data = checkpoint.data
    changeable = set(_CHANGEABLE)
    steered = data.get("schedule") == "adaptive" or data.get("lr_scheduler_class") is not None
    # The discriminator's optimizer took its rate from learning_rate, and keeps it.
    inherited = "discriminator_learning_rate" in data and not data["discriminator_learning_rate"]
    if steered or inherited:
        changeable.remove("learning_rate")
    fixed = {name: change for name, change in changes.items() if name not in changeable}
    if fixed:
        named = ", ".join(
            f"{name.lstrip('_')} (is {was}, given {now})" for name, (was, now) in fixed.items()
        )
        raise StrlValueError(
            f"strl train: --resume {checkpoint.file} goes on with that model's settings, and these "
            f"cannot change in it: {named}. Expected the same, or none. Leave them out to go on; "
            "to start anew with them, leave out --resume and name another folder with --out."
        )


def _unsaved(checkpoint: Checkpoint, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a file does not hold, e.g. the teacher."""
    algorithm = checkpoint.algorithm_class
    default, wanted = vars(_unbuilt(algorithm, {})), vars(_unbuilt(algorithm, hyperparameters))
    names = wanted.keys() - checkpoint.data.keys() - set(_NOT_SETTINGS)
    return {name: wanted[name] for name in names if not _same(name, wanted[name], default[name])}


def _same(name: str, first: Any, second: Any) -> bool:
    if name in SCHEDULES and first is not None and second is not None:
        one, other = FloatSchedule(first), FloatSchedule(second)
        return all(one(progress) == other(progress) for progress in (1.0, 0.5, 0.0))
    return bool(_listed(first) == _listed(second))


def _listed(value: Any) -> Any:
    """Return data with lists for tuples, which yaml does not have."""
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------- what is written


def _written(checkpoint: Checkpoint, soft: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's hyperparameters as yaml holds them: those named before, and no default."""
    data, algorithm = checkpoint.data, checkpoint.algorithm_class
    default, named = vars(_unbuilt(algorithm, {})), built(soft)
    found: dict[str, Any] = {}
    for name in keywords_of(algorithm, PPO, ("self", "policy", "env", *_NOT_SETTINGS)):
        attribute = name if name in data else f"_{name}"  # SB3 hides stats_window_size
        if attribute not in data or attribute not in default:
            continue
        value = data[attribute]
        if name in soft and _same(name, named[name], value):
            found[name] = soft[name]
        elif name in soft or not _same(name, value, default[attribute]):
            found.update(_as_yaml(name, value))
    return found


def _as_yaml(name: str, value: Any) -> dict[str, Any]:
    """Return a setting that yaml can hold, else nothing and a warning: what a file leaves out."""
    try:
        return {name: _plain(name, value)}
    except StrlTypeError as error:
        warnings.warn(f"{CONFIG_FILE} will lack a setting of the model: {error}", stacklevel=2)
    return {}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, FloatSchedule):
        value = value.value_schedule
    if isinstance(value, ConstantSchedule):
        value = value.val
    if isinstance(value, LinearSchedule) and value.end == 0.0 and value.end_fraction == 1.0:
        return f"lin_{value.start}"
    if isinstance(value, Mapping):
        return {key: _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StrlTypeError(f"{name} is {value!r}, which yaml cannot hold.")
