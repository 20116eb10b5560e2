"""What the adapters of simulators share: everything that crosses the border is copied here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest
from sb3_strl.common.segments import SINGLE_GROUP
from sb3_strl.common.types import TensorDict
from sb3_strl.envs.conversion import to_tensor
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

FINAL_KEYS = ("terminal_obs", "final_obs", "final_observation")
"""Where simulators put the observations from before the reset, in order of preference."""

UNCLIPPED = 100.0
"""Bound of actions that the simulator itself leaves unbounded: no policy ever gets there."""

_OUR_NAMES = {SINGLE_GROUP: ("actor", "state", "obs"), "critic": ("privileged_state", "privileged")}
_PASSED_ON = ("amp_valid",)


class SimulatorVecEnv(TensorVecEnv):
    """
    Common ground of the adapters: names, copies, flags, logs and the way to the simulator's own
    attributes.

    A simulator may overwrite what it returned in its next step, so every tensor is copied once.
    Floating-point numbers become float32, images (uint8) stay as they are, everything else becomes
    float32 too. Nested observations are flattened to ``"group/term"``.

    Groups are called alike in all simulators, so that one policy file fits all: without ``groups``,
    ``actor`` or ``state`` becomes ``policy``, and ``privileged_state`` becomes ``critic``, if these
    names are free.

    :meth:`get_attr`, :meth:`set_attr` and :meth:`env_method` reach the simulator's attributes, e.g.
    its curriculum: ``env.env_method("set_command_range", 2.0)``.

    :param sim: the simulator
    :param num_envs: number of environments
    :param example: observation groups by our names, as the simulator returned them once
    :param action_space: of one environment
    :param device: where the simulator's tensors live
    :param observation_space: if the simulator describes it better than ``example`` does
    :param groups: ``{our name: the simulator's name}``; groups left out are not passed on
    :param render_mode: ``"rgb_array"`` if the simulator can draw
    """

    def __init__(
        self,
        sim: Any,
        num_envs: int,
        example: TensorDict | None,
        action_space: spaces.Space[Any],
        device: th.device | str,
        observation_space: spaces.Space[Any] | None = None,
        groups: Mapping[str, str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.sim = sim
        self.inner = find_inner(sim)
        self.groups = None if groups is None else dict(groups)
        self._warned: set[str] = set()
        self._logs = FreshLogs()
        self._is_closed = False
        if observation_space is None:
            observation_space = derive_space(example or {})
        TensorVecEnv.__init__(self, num_envs, observation_space, action_space, device, render_mode)
        self.max_episode_length = read_limit(self.inner)

    # ------------------------------------------------------------------ crossing the border

    def read_groups(self, obs: Any) -> TensorDict:
        """Copy what the simulator calls an observation to groups by our names."""
        return copy_groups(obs, self.device, self.groups)

    def read_rewards(self, rewards: Any) -> th.Tensor:
        """Copy rewards to float32, ``(n_envs,)``."""
        return copy_tensor(rewards, self.device).to(th.float32).reshape(self.num_envs)

    def read_flags(self, flags: Any) -> th.Tensor:
        """Copy flags of any type (bool, int64, float) to bool, ``(n_envs,)``."""
        return copy_tensor(flags, self.device).ne(0).reshape(self.num_envs)

    def read_final(self, extras: Mapping[str, Any], obs: TensorDict) -> TensorDict | None:
        """
        Return the observations from before the reset, if the simulator keeps them.

        :param extras: the simulator's; what an earlier step left in it does no harm, because only
            the rows of finished environments count
        :param obs: groups after the reset
        """
        for key in FINAL_KEYS:
            if extras.get(key) is not None:
                return match_groups(self.read_groups(extras[key]), obs)
        terminal = extras.get("terminal")
        if isinstance(terminal, Mapping) and "env_ids" in terminal:
            rows = copy_tensor(terminal["env_ids"], self.device).long()
            part = match_groups(self.read_groups(terminal["observations"]), obs)
            if part is not None:
                return {name: obs[name].index_copy(0, rows, value) for name, value in part.items()}
        return None

    def read_extras(self, extras: Mapping[str, Any]) -> dict[str, Any]:
        """Return the extras that algorithms know: scalars to log, masks to obey."""
        result: dict[str, Any] = {"log": self._logs.read(extras, self.device)}
        for key in _PASSED_ON:
            if extras.get(key) is not None:
                result[key] = self.read_flags(extras[key])
        return result

    def warn_once(self, topic: str, message: str) -> None:
        """Warn, unless this topic had its warning."""
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(f"{type(self).__name__}: {message}", stacklevel=4)

    # ------------------------------------------------------------------ the simulator's own

    @property
    def episode_length_buf(self) -> th.Tensor | None:  # type: ignore[override]
        """Steps since the last reset, ``(n_envs,)``; the simulator's own tensor."""
        value = getattr(self.inner, "episode_length_buf", None)
        return value if isinstance(value, th.Tensor) else None

    @property
    def common_step_counter(self) -> int | None:
        """Steps of the whole batch so far, which the simulator's curricula follow."""
        value = getattr(self.inner, "common_step_counter", None)
        return None if value is None else int(value)

    @common_step_counter.setter
    def common_step_counter(self, value: int) -> None:
        if self.common_step_counter is None:
            raise StrlValueError(
                f"{type(self).__name__}: common_step_counter cannot be set to {value}. Expected a "
                "simulator with that attribute. This one has no such counter."
            )
        self.inner.common_step_counter = value

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the adapter or of the simulator, once for each environment."""
        owner = self._owner(attr_name)
        return [getattr(owner, attr_name) for _ in self._check_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of the adapter or of the simulator, whoever has it.

        :raises StrlValueError: if only some environments are meant, which share their attributes
        """
        if len(set(self._check_indices(indices))) != self.num_envs or hasattr(self, attr_name):
            super().set_attr(attr_name, value, indices)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the adapter or of the simulator once; return its result for each."""
        positions = self._check_indices(indices)
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        return [result for _ in positions]

    def _owner(self, name: str) -> Any:
        """Return the outermost object that has the attribute; the innermost if none has."""
        for owner in (self, self.sim):
            if hasattr(owner, name):
                return owner
        return self.inner

    def seed_simulator(self, seed: int | None) -> None:
        """Pass a seed on to a simulator whose ``reset`` takes none."""
        if seed is None:
            return
        method = getattr(self.sim, "seed", None)
        if callable(method):
            method(seed)
        else:
            self.warn_once(
                "seed",
                f"the simulator has no seed(), so seed={seed} only reaches torch's global "
                "generator. Seed the simulator where you make it.",
            )
            th.manual_seed(seed)

    def close(self) -> None:
        """Close the simulator, once."""
        method = getattr(self.sim, "close", None)
        if callable(method) and not self._is_closed:
            method()
        self._is_closed = True


class FreshLogs:
    """
    Scalars that the simulator logs, once each.

    Most simulators rebuild their log when some environment is reset and leave it lying until the
    next reset. It is read when it changed: another dict, another value, or a tensor written to.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, list[tuple[Any, int]]]] = {}

    def read(self, extras: Mapping[str, Any], device: th.device) -> dict[str, th.Tensor]:
        """
        Return what is new in ``extras["log"]`` and, as older simulators have it,
        ``extras["episode"]``, as scalars on the device.
        """
        result = {}
        for key, prefix in (("log", ""), ("episode", "episode/")):
            log = extras.get(key)
            if isinstance(log, Mapping) and self._is_fresh(key, log):
                for name, value in log.items():
                    scalar = as_scalar(value, device)
                    if scalar is not None:
                        result[prefix + str(name).lstrip("/")] = scalar
        return result

    def _is_fresh(self, key: str, log: Mapping[str, Any]) -> bool:
        values = [(value, version(value)) for value in log.values()]
        before = self._seen.get(key)
        self._seen[key] = (log, values)  # kept alive, so identities are not used again
        if before is None or before[0] is not log or len(before[1]) != len(values):
            return True
        pairs = zip(values, before[1], strict=True)
        return any(new is not old or v_new != v_old for (new, v_new), (old, v_old) in pairs)


def version(value: Any) -> int:
    """Return how often a tensor was written to; zero for everything else."""
    if isinstance(value, th.Tensor) and not value.is_inference():
        return value._version
    return 0


def as_scalar(value: Any, device: th.device) -> th.Tensor | None:
    """Return the mean of a number, array or tensor as a 0-d tensor; ``None`` if it is no number."""
    if isinstance(value, th.Tensor) or hasattr(value, "__array__"):
        tensor = copy_tensor(value, device)
        return tensor.to(th.float32).mean() if tensor.numel() else None
    if isinstance(value, bool | int | float):
        return th.full((), float(value), device=device)
    return None


def copy_tensor(value: Any, device: th.device) -> th.Tensor:
    """
    Copy a tensor or an array of any kind: float32, uint8, bool or int64.

    :param value: of torch, NumPy or anything that NumPy understands
    :param device: where the copy lives
    :return: detached, never the simulator's memory, and no inference tensor
    """
    if not isinstance(value, th.Tensor):
        return to_tensor(value, device)
    if value.is_floating_point():
        dtype = th.float32
    else:
        dtype = value.dtype if value.dtype in (th.uint8, th.bool) else th.int64
    return value.detach().to(device, dtype, copy=True)


def flatten(obs: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts or TensorDicts as one dict with keys ``"group/term"``."""
    if not callable(getattr(obs, "items", None)):
        return {prefix or SINGLE_GROUP: obs}
    result: dict[str, Any] = {}
    for key, value in obs.items():
        result |= flatten(value, f"{prefix}/{key}" if prefix else str(key))
    return result


def copy_groups(obs: Any, device: th.device, groups: Mapping[str, str] | None = None) -> TensorDict:
    """
    Copy an observation of a simulator to groups by our names.

    :param obs: a tensor, an array, or (nested) dicts of them
    :param device: where the copies live
    :param groups: ``{our name: the simulator's}``
    """
    found = rename(flatten(obs), groups)
    copies = {name: copy_tensor(value, device) for name, value in found.items()}
    return {k: v if v.dtype == th.uint8 else v.to(th.float32) for k, v in copies.items()}


def rename(found: dict[str, Any], groups: Mapping[str, str] | None) -> dict[str, Any]:
    """
    Return groups by our names.

    :raises StrlValueError: if the simulator has no group of a name
    """
    if groups is None:
        groups = default_names(list(found))
    missing = [name for name in groups.values() if name not in found]
    if missing:
        raise StrlValueError(
            f"groups: the simulator has no group '{missing[0]}'.{suggest(missing[0], found)} "
            f"Expected some of {sorted(found)}, as {{our name: the simulator's name}}."
        )
    return {ours: found[theirs] for ours, theirs in groups.items()}


def default_names(names: list[str]) -> dict[str, str]:
    """Return ``{our name: the simulator's}``, where common names for ours are translated."""
    theirs: dict[str, str] = {}
    for ours, aliases in _OUR_NAMES.items():
        for alias in aliases:
            if alias in names and ours not in names and ours not in theirs.values():
                theirs[alias] = ours
    return {theirs.get(name, name): name for name in names}


def match_groups(final: TensorDict, obs: TensorDict) -> TensorDict | None:
    """Return the groups of ``obs`` from ``final``; ``None`` if the simulator kept only some."""
    if not set(obs) <= set(final):
        return None
    return {name: final[name] for name in obs}


def derive_space(example: TensorDict) -> spaces.Space[Any]:
    """
    Describe observations by an example: unbounded float32, or uint8 from 0 to 255.

    :param example: groups, ``(n_envs, *group_shape)``
    :return: a Dict, or the single group's own space if it is called ``"policy"``
    """
    parts = {name: _describe(value) for name, value in example.items()}
    if list(parts) == [SINGLE_GROUP]:
        return parts[SINGLE_GROUP]
    return spaces.Dict(parts)


def _describe(value: th.Tensor) -> spaces.Space[Any]:
    shape = tuple(value.shape[1:])
    if value.dtype == th.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def narrow(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return a space whose floating-point numbers are float32, as our tensors are."""
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)
    return space


def bound_actions(space: Any, where: str, bound: float | None) -> spaces.Space[Any]:
    """
    Return an action space with finite bounds.

    :param space: the simulator's, of one environment; of Gymnasium, or anything with ``low``,
        ``high`` and ``shape``
    :param where: who complains
    :param bound: limit of actions where the simulator has none
    :raises StrlTypeError: if it is no space
    :raises StrlValueError: if the bound is not positive
    """
    if bound is not None and not bound > 0:
        raise StrlValueError(f"{where}: action_bound is {bound}. Expected a positive number.")
    if isinstance(space, spaces.Space) and not isinstance(space, spaces.Box):
        return space
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    shape = getattr(space, "shape", None)
    if low is None or high is None or shape is None:
        raise StrlTypeError(
            f"{where}: the action space is a {type(space).__name__}. Expected a Gymnasium space or "
            "something with low, high and shape."
        )
    low = np.broadcast_to(np.asarray(low, dtype=np.float32), shape)
    high = np.broadcast_to(np.asarray(high, dtype=np.float32), shape)
    if bound is not None:
        low = np.where(np.isfinite(low), low, -bound)
        high = np.where(np.isfinite(high), high, bound)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def find_inner(sim: Any) -> Any:
    """Return the simulator without the wrappers around it."""
    return getattr(sim, "unwrapped", sim)


def read_limit(sim: Any) -> int | None:
    """Return the time limit of a simulator in steps; the longest, if environments differ."""
    limit = getattr(sim, "max_episode_length", None)
    if isinstance(limit, th.Tensor):
        return int(limit.max())
    return None if limit is None else int(limit)
