"""Buffers by the name of what they add; declarations only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBuffer, group_field
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict

ON_POLICY = "on_policy"
"""Where the policy chose the executed action itself; exists if an objective may propose others."""


def ref_motion_fields(feature_dim: int) -> dict[str, FieldSpec]:
    """
    Fields of an adversarial motion prior.

    :param feature_dim: width M of the style features of one window
    """
    return {
        "amp/features": FieldSpec((feature_dim,)),
        "amp/expert": FieldSpec((feature_dim,)),
        "amp/valid": FieldSpec((), th.bool),
        "amp/expert_valid": FieldSpec((), th.bool),
    }


TEACHER_ACTIONS = "teacher/actions"
"""What a teacher would have done."""


def action_label_fields(action_dim: int) -> dict[str, FieldSpec]:
    """
    Fields of a teacher's labels.

    :param action_dim: number of action dimensions
    """
    return {TEACHER_ACTIONS: FieldSpec((action_dim,)), ON_POLICY: FieldSpec((), th.bool)}


def label_fields(action_space: spaces.Space[Any]) -> dict[str, FieldSpec]:
    """
    Return the field of a teacher's labels, shaped like the actions.

    :param action_space: of the environment
    """
    if isinstance(action_space, spaces.Discrete):
        return {TEACHER_ACTIONS: FieldSpec((), th.int64)}
    dtype = th.int64 if isinstance(action_space, spaces.MultiDiscrete) else th.float32
    return {TEACHER_ACTIONS: FieldSpec((int(get_action_dim(action_space)),), dtype)}


def mask_field(estimator: str) -> str:
    """Return the field that says where an estimator's output replaced the observation."""
    return f"{estimator}/mask"


def estimate_field(estimator: str) -> str:
    """Return the field of an estimator's raw output, where updates reuse it."""
    return f"{estimator}/estimates"


def target_field(estimator: str) -> str:
    """Return the field of an estimator's targets."""
    return f"{estimator}/targets"


def estimator_target_fields(widths: Mapping[str, int]) -> dict[str, FieldSpec]:
    """
    Fields of estimators; where they replace observations, :func:`mask_field` and
    :func:`estimate_field` are the algorithm's.

    :param widths: number of target columns E by estimator
    """
    return {target_field(name): FieldSpec((width,)) for name, width in widths.items()}


class RefMotionRolloutBuffer(RolloutBuffer):
    """
    RolloutBuffer with :func:`ref_motion_fields`.

    :param args: as :class:`RolloutBuffer`
    :param feature_dim: width M of the style features of one window
    :param kwargs: as :class:`RolloutBuffer`; unknown ones are refused there
    """

    def __init__(self, *args: Any, feature_dim: int, **kwargs: Any) -> None:
        kwargs["extra_fields"] = {
            **ref_motion_fields(feature_dim),
            **kwargs.get("extra_fields", {}),
        }
        super().__init__(*args, **kwargs)


class ActionLabelRolloutBuffer(RolloutBuffer):
    """
    RolloutBuffer with :func:`action_label_fields`.

    :param args: as :class:`RolloutBuffer`
    :param action_dim: number of action dimensions
    :param kwargs: as :class:`RolloutBuffer`; unknown ones are refused there
    """

    def __init__(self, *args: Any, action_dim: int, **kwargs: Any) -> None:
        kwargs["extra_fields"] = {
            **action_label_fields(action_dim),
            **kwargs.get("extra_fields", {}),
        }
        super().__init__(*args, **kwargs)


class EstimatorRolloutBuffer(RolloutBuffer):
    """
    RolloutBuffer with :func:`estimator_target_fields`.

    :param args: as :class:`RolloutBuffer`
    :param widths: number of target columns E by estimator, e.g. ``{"estimator": 3}``
    :param kwargs: as :class:`RolloutBuffer`; unknown ones are refused there
    """

    def __init__(self, *args: Any, widths: Mapping[str, int], **kwargs: Any) -> None:
        kwargs["extra_fields"] = {
            **estimator_target_fields(widths),
            **kwargs.get("extra_fields", {}),
        }
        super().__init__(*args, **kwargs)


NEXT = "next/"
NEXT_KNOWN = "next/known"


class SarsaRolloutBuffer(RolloutBuffer):
    """
    RolloutBuffer that also holds the true successor of every observation.

    ``next/<group>`` is the observation that followed, the last one of the episode where it ended;
    ``next/known`` is false where the environment does not supply that one.

    :param args: as :class:`RolloutBuffer`
    :param observation_space: as :class:`RolloutBuffer`
    :param groups: as :class:`RolloutBuffer`
    :param kwargs: as :class:`RolloutBuffer`; unknown ones are refused there
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        *args: Any,
        groups: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        available = group_spaces(observation_space)
        self._successors = [g for g in (available if groups is None else groups) if g in available]
        own = {NEXT + group: group_field(available[group]) for group in self._successors}
        kwargs["extra_fields"] = {
            **own,
            NEXT_KNOWN: FieldSpec((), th.bool),
            **kwargs.get("extra_fields", {}),
        }
        kwargs["groups"] = groups
        super().__init__(buffer_size, observation_space, *args, **kwargs)

    def add_successor(
        self, obs: TensorDict, final_obs: TensorDict | None, dones: th.Tensor
    ) -> None:
        """Store what was seen after the last decision."""
        for group in self._successors:
            after = obs[group]
            if final_obs is not None:
                rows = dones.view(-1, *[1] * (after.ndim - 1))
                after = th.where(rows, final_obs[group], after)
            self.put(NEXT + group, after)
        self.put(NEXT_KNOWN, th.ones_like(dones) if final_obs is not None else ~dones)
