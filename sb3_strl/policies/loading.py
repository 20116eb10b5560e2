"""
Files of policies: a description and weights, loaded alone and without executing anything.

A policy file is an archive with two entries, ``policy.json`` (see
:mod:`sb3_strl.policies.description`) and ``policy.pth`` (tensors). A model that an algorithm saved
has both among its entries, so it serves as a policy file too.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, overload

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.files import atomic_file
from sb3_strl.policies.description import describe_constructor, policy_from_description, unwrap

DESCRIPTION = "policy.json"
WEIGHTS = "policy.pth"

PolicyT = TypeVar("PolicyT", bound=BasePolicy)
Source = str | Path | IO[bytes] | io.BufferedIOBase


class PolicyFile(NamedTuple):
    """
    What a policy file holds.

    :param description: see :func:`~sb3_strl.policies.description.describe_constructor`
    :param state_dict: weights and statistics by name, on the CPU
    """

    description: dict[str, Any]
    state_dict: dict[str, th.Tensor]


def add_description(archive: IO[bytes] | io.BufferedIOBase, policy: BasePolicy) -> None:
    """
    Add the policy's description to the archive of a model, so that the policy can be loaded alone.

    A policy that plain data cannot describe leaves the archive as it is, with a warning: a
    checkpoint is worth more than the convenience.

    :param archive: readable and writable stream of a zip archive
    :param policy: the model's policy
    """
    try:
        description = json.dumps(describe_constructor(policy), allow_nan=False)
    except StrlTypeError as error:
        warnings.warn(
            f"The model is saved, but load_policy will not read its policy alone. {error}",
            stacklevel=3,
        )
        return
    with zipfile.ZipFile(archive, "a") as entries:
        entries.writestr(DESCRIPTION, description)


def save_policy(policy: BasePolicy, path: Source) -> None:
    """
    Write a policy to a file that :func:`load_policy` reads.

    A file is written beside the target and moved over it, so that the previous one stays whole if
    something goes wrong.

    :param policy: the policy
    :param path: file name, used as it is, or a binary stream
    :raises StrlTypeError: if an argument of the policy cannot be stored as plain data
    :raises OSError: if the disk is full or the folder cannot be written
    """
    if isinstance(path, (str, Path)):
        with atomic_file(path) as stream:
            _write(policy, stream)
    else:
        _write(policy, path)


def _write(policy: BasePolicy, stream: IO[bytes] | io.BufferedIOBase) -> None:
    description = json.dumps(describe_constructor(policy), allow_nan=False, indent=1)
    with zipfile.ZipFile(stream, "w") as entries:
        entries.writestr(DESCRIPTION, description)
        with entries.open(WEIGHTS, "w", force_zip64=True) as weights:
            th.save(unwrap(policy).state_dict(), weights)


def _find(path: str | Path) -> Path:
    file = Path(path)
    for candidate in (file, file.with_name(f"{file.name}.zip")):
        if candidate.is_file():
            return candidate
    if file.is_dir():
        raise StrlValueError(
            f"load_policy: {file} is a folder. Expected a file in it, e.g. {file / 'model.zip'}."
        )
    raise StrlValueError(
        f"load_policy: there is no file {file}. Expected a policy or a model saved by this library."
    )


def read_policy_file(path: Source) -> PolicyFile:
    """
    Read the description and the weights of a policy or model file; no code in it is executed.

    :param path: file name (``.zip`` may be left out), or a binary stream
    :raises StrlValueError: if there is no such file, it is cut off or damaged, or not ours
    """
    file = _find(path) if isinstance(path, (str, Path)) else path
    name = str(file) if isinstance(file, Path) else "the stream"
    if not zipfile.is_zipfile(file):
        raise StrlValueError(
            f"load_policy: {name} is no archive. Expected a policy or a model saved by this "
            "library; it may have been cut off while it was copied or written."
        )
    with zipfile.ZipFile(file) as entries:
        missing = {DESCRIPTION, WEIGHTS} - set(entries.namelist())
        if missing:
            raise StrlValueError(
                f"load_policy: {name} has no {sorted(missing)}. Expected a policy or a model saved "
                "by this library. Files of Stable-Baselines3 and of older versions need pickle, "
                "which runs what a file says: load a trusted one with its own class, then save it "
                "again."
            )
        try:
            description = json.loads(entries.read(DESCRIPTION))
            state_dict = th.load(
                io.BytesIO(entries.read(WEIGHTS)), map_location="cpu", weights_only=True
            )
        except Exception as error:
            raise StrlValueError(
                f"load_policy: {name} is damaged or not ours, and nothing in it was executed "
                f"({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
                "). Take an earlier file."
            ) from error
    if not isinstance(description, dict) or not _is_state_dict(state_dict):
        raise StrlValueError(
            f"load_policy: {name} holds no description or no weights. Expected a mapping in "
            f"{DESCRIPTION} and tensors by name in {WEIGHTS}. Save the policy again."
        )
    return PolicyFile(description, state_dict)


def _is_state_dict(given: object) -> bool:
    return isinstance(given, dict) and all(
        isinstance(key, str) and isinstance(value, th.Tensor) for key, value in given.items()
    )


@overload
def load_policy(
    path: Source, device: th.device | str = ..., policy_class: None = ...
) -> BasePolicy: ...


@overload
def load_policy(
    path: Source, device: th.device | str = ..., *, policy_class: type[PolicyT]
) -> PolicyT: ...


def load_policy(
    path: Source,
    device: th.device | str = "auto",
    policy_class: type[BasePolicy] | None = None,
) -> BasePolicy:
    """
    Load a policy alone: no environment, no teacher, no motion files, no code from the file.

    :param path: what :func:`save_policy` or ``model.save`` wrote (``.zip`` may be left out), or a
        binary stream
    :param device: where to put it; ``"auto"`` takes a GPU if there is one
    :param policy_class: the class that is expected, e.g. one of your own; default the file's
    :return: the policy, ready for ``predict``
    :raises StrlValueError: if the file is missing, damaged, foreign, or of another class
    """
    description, state_dict = read_policy_file(path)
    policy = policy_from_description(description, policy_class)
    try:
        policy.load_state_dict(state_dict)
    except RuntimeError as error:
        raise StrlValueError(
            f"load_policy: the weights do not fit the {type(policy).__name__} that the file "
            f"describes. {error} Save the policy again."
        ) from error
    policy.set_training_mode(False)
    return policy.to(get_device(device))
