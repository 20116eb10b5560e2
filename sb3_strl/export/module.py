"""The module that is written to files: tensors in and out, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.export.normalizer import check_statistics, statistics_of
from sb3_strl.export.steps import ActorStep, VecNormalizeStage, make_step
from sb3_strl.policies import MutexPolicy, StrlPolicy


@dataclass(frozen=True, kw_only=True)
class Deployment:
    r"""
    What a policy cannot know about the robot; all of it is optional, and goes into the metadata.

    With ``action_scale`` or ``action_offset`` the files have a second output, ``targets``
    :math:`= offset + scale \cdot clip(a)`.

    :param joint_names: in the order of the actions
    :param action_scale: one number or one per action, e.g. rad
    :param action_offset: likewise, e.g. the nominal pose, rad
    :param stiffness: gain of the position controller of every joint, N m / rad
    :param damping: its damping, N m s / rad
    :param control_dt: time between two steps, s
    """

    joint_names: Sequence[str] | None = None
    action_scale: float | Sequence[float] | None = None
    action_offset: float | Sequence[float] | None = None
    stiffness: float | Sequence[float] | None = None
    damping: float | Sequence[float] | None = None
    control_dt: float | None = None

    def vector(self, name: str, value: float | Sequence[float], n_actions: int) -> list[float]:
        """
        Return one number for every action.

        :raises StrlTypeError: if they are no numbers
        :raises StrlValueError: if there are more or fewer
        """
        if not _are_numbers(value):
            raise StrlTypeError(
                f"Deployment: {name} is {value!r}. Expected a finite number, or {n_actions} of "
                "them, one for each action."
            )
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
        if numbers.shape not in ((1,), (n_actions,)):
            raise StrlValueError(
                f"Deployment: {name} has {numbers.size} numbers. Expected one, or {n_actions}, one "
                "for each action."
            )
        return [float(x) for x in np.broadcast_to(numbers, (n_actions,))]

    def check(self, n_actions: int) -> None:
        """
        Refuse what is no number or no name, and lists of another length.

        :param n_actions: A
        :raises StrlTypeError: if something is of the wrong type
        :raises StrlValueError: if a list does not fit
        """
        self._check_types()
        if self.joint_names is not None and len(self.joint_names) != n_actions:
            raise StrlValueError(
                f"Deployment: there are {len(self.joint_names)} joint_names. Expected {n_actions}, "
                "one for each action, in the order of the actions."
            )
        given = {
            "action_scale": self.action_scale,
            "action_offset": self.action_offset,
            "stiffness": self.stiffness,
            "damping": self.damping,
        }
        for name, value in given.items():
            if value is not None:
                self.vector(name, value, n_actions)

    def _check_types(self) -> None:
        """Refuse what a file can say and no robot can have."""
        names: Any = self.joint_names
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        if names is not None and not (is_list and all(isinstance(name, str) for name in names)):
            raise StrlTypeError(
                f"Deployment: joint_names is {names!r}. Expected a list of names, in the order of "
                "the actions."
            )
        dt: Any = self.control_dt
        if dt is not None and not (np.ndim(dt) == 0 and _are_numbers(dt) and dt > 0):
            raise StrlTypeError(
                f"Deployment: control_dt is {dt!r}. Expected the time between two steps in "
                "seconds, e.g. 0.02."
            )


def _are_numbers(value: Any) -> bool:
    """Whether something is a finite number or a flat row of them; no text, no truth values."""
    is_row = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    row = list(value) if is_row else [value]
    numbers = (int, float, np.integer, np.floating)
    return all(
        isinstance(x, numbers) and not isinstance(x, bool) and bool(np.isfinite(x)) for x in row
    )


class ExportedPolicy(nn.Module):
    """
    A policy as one function of tensors, states explicit.

    :param policy: one of this library's
    :param deployment: what is known about the robot
    :param normalizer: statistics that the policy was trained behind, folded in
    :raises StrlTypeError: if the policy is of another library
    """

    low: th.Tensor
    high: th.Tensor
    scale: th.Tensor
    offset: th.Tensor

    def __init__(
        self,
        policy: BasePolicy,
        deployment: Deployment | None = None,
        normalizer: VecNormalize | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(policy, StrlPolicy | MutexPolicy):
            raise StrlTypeError(
                f"export_policy: got a {type(policy).__name__}. Expected a policy of "
                "sb3_strl.policies, or a model or file that has one."
            )
        self.step: ActorStep = make_step(policy)
        self.stage: VecNormalizeStage | None = None
        if normalizer is not None:
            check_statistics("export_policy", normalizer, policy.observation_space)
            self.stage = _stage(normalizer, self.groups)
        self.spaces = {name: group_spaces(policy.observation_space)[name] for name in self.groups}
        self.action_space = policy.action_space
        self.deployment = Deployment() if deployment is None else deployment
        self._set_units()

    def _set_units(self) -> None:
        space, given = self.action_space, self.deployment
        self.is_continuous = isinstance(space, spaces.Box)
        n_actions = int(np.prod(space.shape or (1,), dtype=np.int64))
        given.check(n_actions)
        scaled = given.action_scale is not None or given.action_offset is not None
        if scaled and not self.is_continuous:
            raise StrlValueError(
                f"Deployment: action_scale or action_offset with the actions {space}. Expected "
                "continuous actions. Leave them out."
            )
        self.has_targets = scaled
        if isinstance(space, spaces.Box):
            self.register_buffer("low", th.as_tensor(space.low, dtype=th.float32))
            self.register_buffer("high", th.as_tensor(space.high, dtype=th.float32))
        if scaled:
            one = 1.0 if given.action_scale is None else given.action_scale
            zero = 0.0 if given.action_offset is None else given.action_offset
            for name, value in (("scale", one), ("offset", zero)):
                numbers = th.tensor(given.vector(f"action_{name}", value, n_actions))
                self.register_buffer(name, numbers.view(space.shape or (1,)))

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups, in the order of the inputs."""
        return self.step.groups

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs: groups, then states."""
        return [
            *(f"obs_{group}" for group in self.groups),
            *(f"{state.name}_in" for state in self.step.states),
        ]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs: actions, targets if there are any, then states."""
        first = ["actions", "targets"] if self.has_targets else ["actions"]
        return [*first, *(f"{state.name}_out" for state in self.step.states)]

    def batch_dims(self) -> dict[str, int]:
        """Return by input and output which dimension counts environments."""
        dims = dict.fromkeys([*(f"obs_{group}" for group in self.groups), "actions"], 0)
        if self.has_targets:
            dims["targets"] = 0
        for state in self.step.states:
            dims[f"{state.name}_in"] = dims[f"{state.name}_out"] = state.batch_dim
        return dims

    def example(self, n_envs: int = 1) -> tuple[th.Tensor, ...]:
        """Return valid inputs: zeros, the first of several choices, and initial states."""
        obs = [_smallest(space, n_envs) for space in self.spaces.values()]
        return (*obs, *(state.for_envs(n_envs) for state in self.step.states))

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Act.

        :param inputs: in the order of :attr:`input_names`
        :return: in the order of :attr:`output_names`
        """
        n_groups = len(self.groups)
        obs: TensorDict = dict(zip(self.groups, inputs[:n_groups], strict=True))
        if self.stage is not None:
            obs = self.stage(obs)
        actions, states = self.step(obs, inputs[n_groups:])
        if self.is_continuous:
            actions = actions.clamp(self.low, self.high)
        if self.has_targets:
            return (actions, self.offset + self.scale * actions, *states)
        return (actions, *states)


def obs_dtype(space: spaces.Space[Any]) -> th.dtype:
    """Return the type of an input: bytes stay bytes, choices are int64, the rest is float32."""
    if isinstance(space, spaces.Box):
        return th.uint8 if space.dtype == np.uint8 else th.float32
    return th.int64 if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else th.float32


def _smallest(space: spaces.Space[Any], n_envs: int) -> th.Tensor:
    value = th.zeros((n_envs, *(space.shape or ())), dtype=obs_dtype(space))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        value += th.as_tensor(space.start, dtype=value.dtype)
    return value


def _stage(normalizer: VecNormalize, groups: Sequence[str]) -> VecNormalizeStage | None:
    """Return what normalises the groups that are read, ``None`` if none of them is."""
    known = statistics_of(normalizer)
    read = {group: known[group] for group in groups if group in known}
    return VecNormalizeStage(read, normalizer.epsilon, normalizer.clip_obs) if read else None
