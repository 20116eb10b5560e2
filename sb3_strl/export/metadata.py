"""What a file says about itself, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.common.segments import ObsLayout
from sb3_strl.export.module import Deployment, ExportedPolicy, obs_dtype
from sb3_strl.policies import MutexPolicy, StrlPolicy

FORMAT_VERSION = 1
_PACKAGES = ("sb3_strl", "torch", "stable-baselines3", "gymnasium", "numpy", "onnx", "onnxruntime")


def package_versions(names: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return the installed versions, and Python's; what is not installed is left out."""
    found = {name: installed_version(name) for name in names}
    known = {name: number for name, number in found.items() if number is not None}
    return {"python": platform.python_version(), **known}


def installed_version(name: str) -> str | None:
    """Return the version of a package, ``None`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe(policy: BasePolicy, module: ExportedPolicy) -> dict[str, Any]:
    """
    Return the metadata of an exported policy; JSON-able.

    :param policy: what was exported
    :param module: as what it was exported
    """
    assert isinstance(policy, StrlPolicy | MutexPolicy)
    known: dict[str, Any] = {"policy": type(policy).__name__}
    return {
        "format": "sb3_strl policy",
        "format_version": FORMAT_VERSION,
        **known,
        "inputs": [_group(module, policy.layout, group) for group in module.groups],
        "states": _states(module),
        "outputs": module.output_names,
        "actions": _actions(module),
        "normalizer": _normalizer(policy, module),
        "deployment": _deployment(module.deployment),
        "versions": {"sb3_strl": _own_version(), **package_versions()},
    }


def _own_version() -> str:
    import sb3_strl

    return sb3_strl.__version__


def _group(module: ExportedPolicy, layout: ObsLayout, group: str) -> dict[str, Any]:
    space = module.spaces[group]
    return {
        "name": f"obs_{group}",
        "group": group,
        "dtype": _dtype(obs_dtype(space)),
        "shape": ["n_envs", *(space.shape or ())],
        "segments": [
            {
                "name": segment.name,
                "start": segment.start,
                "stop": segment.stop,
                "shape": list(segment.shape),
            }
            for segment in layout.segments[group]
        ],
    }


def _dtype(dtype: th.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _states(module: ExportedPolicy) -> list[dict[str, Any]]:
    described = []
    for state in module.step.states:
        shape: list[int | str] = list(state.initial.shape)
        shape[state.batch_dim] = "n_envs"
        described.append(
            {
                "input": f"{state.name}_in",
                "output": f"{state.name}_out",
                "dtype": _dtype(state.initial.dtype),
                "shape": shape,
                "initial": state.initial.squeeze(state.batch_dim).tolist()
                if bool(state.initial.any())
                else 0,
            }
        )
    return described


def _actions(module: ExportedPolicy) -> dict[str, Any]:
    space, given = module.action_space, module.deployment
    described: dict[str, Any] = {
        "space": type(space).__name__,
        "shape": ["n_envs", *(space.shape or ())],
        "order": None if given.joint_names is None else list(given.joint_names),
    }
    if isinstance(space, spaces.Box):
        described["low"], described["high"] = _finite(space.low), _finite(space.high)
        described["clipped"] = True
    elif isinstance(space, spaces.Discrete):
        described["start"], described["n"] = int(space.start), int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        described["start"], described["nvec"] = space.start.tolist(), space.nvec.tolist()
    elif isinstance(space, spaces.MultiBinary):
        described["n"] = space.n
    if module.has_targets:
        described["scale"] = module.scale.flatten().tolist()
        described["offset"] = module.offset.flatten().tolist()
    return described


def _finite(bound: np.ndarray[Any, Any]) -> list[float | None]:
    """Return numbers; JSON has no infinity, so an open bound is ``None``."""
    return [float(x) if np.isfinite(x) else None for x in np.ravel(bound)]


def _normalizer(policy: StrlPolicy | MutexPolicy, module: ExportedPolicy) -> dict[str, Any]:
    """Say what normalises inside of the file; the caller passes raw observations."""
    found = _own_normalizer(policy)
    if module.stage is not None:
        found["vec_normalize"] = module.stage.describe()
    return {"inside": bool(found), **found}


def _own_normalizer(policy: Any) -> dict[str, Any]:
    """Return the statistics that a policy keeps; a mutex policy's are those of its sub-policies."""
    if isinstance(policy, MutexPolicy):
        each = {index: _own_normalizer(sub) for index, sub in enumerate(policy.sub_policies)}
        subs = [{"index": index, **found} for index, found in each.items() if found]
        return {"sub_policies": subs} if subs else {}
    own = policy.actor_reader.normalizer if isinstance(policy, StrlPolicy) else None
    if not isinstance(own, EmpiricalNormalization):
        return {}
    return {"mean": own.mean.tolist(), "std": own.std.tolist(), "eps": own.eps}


def _deployment(given: Deployment) -> dict[str, Any]:
    """Return what was given about the robot, plain."""
    numbers = {"stiffness": given.stiffness, "damping": given.damping}
    plain: dict[str, Any] = {
        name: value if isinstance(value, int | float) else [float(x) for x in value]
        for name, value in numbers.items()
        if value is not None
    }
    if given.joint_names is not None:
        plain["joint_names"] = list(given.joint_names)
    if given.control_dt is not None:
        plain["control_dt"] = given.control_dt
    return plain
