"""Mutex policies for obstacle courses: the observation says which obstacle is being engaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.mutex import MutexPolicy
from sb3_strl.policies.mutex_options import CommandMapping, ResetMode, Velocity
from sb3_strl.policies.mutex_sources import SubPolicySource
from sb3_strl.policies.mutex_view import check_columns, find_segments

JUMP = 3
"""Obstacle id of the jump, of which there is an upward and a downward kind."""


class FieldMutexPolicy(MutexPolicy):
    """
    Mutex policy that reads the id of the obstacle from the observation.

    A segment holds a one-hot id: id k selects sub-policy k, and all zeros select sub-policy 0, the
    one for open ground. Robots on such courses: Zhuang et al. 2023, "Robot Parkour Learning",
    https://arxiv.org/abs/2309.05665

    :param sub_policies: see :class:`~sb3_strl.policies.mutex.MutexPolicy`, as the other arguments
        that are not described here; the first is the one for open ground
    :param observation_space: see there
    :param action_space: see there
    :param obs_segments: see there
    :param engaging_block: segment with the obstacle's id
    :param id_slice: first and one past the last column of the one-hot id in ``engaging_block``
    :param env_action_scale: see there
    :param cmd_vel_mapping: see there
    :param command_segment: see there
    :param command_index: see there
    :param last_action_segment: see there
    :param last_action_size: see there
    :param action_smoothing_buffer_len: see there
    :param reset_non_selected: see there
    :param clip_sub_actions: see there
    :param device: see there
    :raises StrlValueError: if a sub-policy has no id, or as there
    :raises StrlKeyError: if a segment is missing
    """

    def __init__(
        self,
        sub_policies: Sequence[SubPolicySource],
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Box | None = None,
        obs_segments: Any = None,
        *,
        engaging_block: str = "engaging_block",
        id_slice: Sequence[int] = (1, 6),
        env_action_scale: float | Sequence[float] = 0.5,
        cmd_vel_mapping: CommandMapping | None = None,
        command_segment: str = "proprioception",
        command_index: int = 9,
        last_action_segment: str | None = "proprioception",
        last_action_size: int | None = None,
        action_smoothing_buffer_len: int = 1,
        reset_non_selected: ResetMode | bool | None = "all",
        clip_sub_actions: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        super().__init__(
            sub_policies,
            None,
            observation_space,
            action_space,
            obs_segments,
            env_action_scale=env_action_scale,
            cmd_vel_mapping=cmd_vel_mapping,
            command_segment=command_segment,
            command_index=command_index,
            last_action_segment=last_action_segment,
            last_action_size=last_action_size,
            action_smoothing_buffer_len=action_smoothing_buffer_len,
            reset_non_selected=reset_non_selected,
            clip_sub_actions=clip_sub_actions,
            device=device,
        )
        name = type(self).__name__
        found = find_segments(self.layout, engaging_block, name)
        read = [group for group in found if group in super(FieldMutexPolicy, self).groups]
        self.block = found[(read or list(found))[0]]
        self.first_id, self.last_id = int(id_slice[0]), int(id_slice[1])
        check_columns(self.block, self.first_id, self.last_id, "the obstacle's id", name)
        n_ids, needed = self.last_id - self.first_id, self._n_ids_needed()
        if needed > n_ids:
            raise StrlValueError(
                f"{name}: {self.n_sub_policies} sub-policies need {needed} ids, but id_slice "
                f"{tuple(id_slice)} has {n_ids}. Widen id_slice or leave sub-policies out."
            )

    def _n_ids_needed(self) -> int:
        return self.n_sub_policies - 1

    def _get_constructor_parameters(self) -> dict[str, Any]:
        given = super()._get_constructor_parameters()
        del given["selector"]
        ids = [self.first_id, self.last_id]
        return {**given, "engaging_block": self.block.name, "id_slice": ids}

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups that the sub-policies and the selection read."""
        return tuple(dict.fromkeys((*super().groups, self.block.group)))

    def _block(self, obs: TensorDict) -> th.Tensor:
        return obs[self.block.group][:, self.block.start : self.block.stop]

    def _by_id(self, block: th.Tensor) -> th.Tensor:
        """Return one-hot rows ``(N, 1 + number of ids)``; column 0 stands for open ground."""
        ids = block[:, self.first_id : self.last_id]
        nobody = (ids == 0.0).all(dim=1, keepdim=True)
        return th.cat((nobody.to(ids.dtype), ids), dim=1)

    def _fit(self, rows: th.Tensor, n_columns: int) -> th.Tensor:
        """Cut rows to the sub-policies there are; an id beyond them becomes invalid, not zero."""
        excess = rows[:, n_columns:].abs().sum(dim=1, keepdim=True)
        return rows[:, :n_columns] + th.where(excess == 0.0, 0.0, th.nan)

    def select(self, obs: TensorDict) -> th.Tensor:
        """
        Return the one-hot id of the obstacle.

        :param obs: groups ``(N, ...)``
        :return: ``(N, P)``
        """
        return self._fit(self._by_id(self._block(obs)), self.n_sub_policies)


class ClimbMutexPolicy(FieldMutexPolicy):
    """
    Field mutex policy with two sub-policies for the jump: up (id 3) and down (the last one).

    Where the obstacle is the jump, the last entry of ``engaging_block`` decides: above 0 it goes
    up, else down.

    :param sub_policies: the last is the one for jumping down; see
        :class:`~sb3_strl.policies.mutex.MutexPolicy`, as for the arguments not described here
    :param observation_space: see there
    :param action_space: see there
    :param obs_segments: see there
    :param jump_down_vel: forward velocity given to the last sub-policy, a number or
        ``(low, high)``; ``None`` takes that of id 3
    :param engaging_block: see :class:`FieldMutexPolicy`
    :param id_slice: see :class:`FieldMutexPolicy`
    :param env_action_scale: see there
    :param cmd_vel_mapping: see there
    :param command_segment: see there
    :param command_index: see there
    :param last_action_segment: see there
    :param last_action_size: see there
    :param action_smoothing_buffer_len: see there
    :param reset_non_selected: see there
    :param clip_sub_actions: see there
    :param device: see there
    :raises StrlValueError: if there is no velocity for jumping down or no sub-policy for jumping,
        or as there
    """

    def __init__(
        self,
        sub_policies: Sequence[SubPolicySource],
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Box | None = None,
        obs_segments: Any = None,
        *,
        jump_down_vel: Velocity | None = None,
        engaging_block: str = "engaging_block",
        id_slice: Sequence[int] = (1, 6),
        env_action_scale: float | Sequence[float] = 0.5,
        cmd_vel_mapping: CommandMapping | None = None,
        command_segment: str = "proprioception",
        command_index: int = 9,
        last_action_segment: str | None = "proprioception",
        last_action_size: int | None = None,
        action_smoothing_buffer_len: int = 1,
        reset_non_selected: ResetMode | bool | None = "all",
        clip_sub_actions: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        mapping: dict[Any, Velocity] = {
            int(index): value for index, value in (cmd_vel_mapping or {}).items()
        }
        n_sub_policies = len(sub_policies)
        if n_sub_policies < JUMP + 2:
            raise StrlValueError(
                f"ClimbMutexPolicy: there are {n_sub_policies} sub-policies. Expected at least "
                f"{JUMP + 2}: open ground, the ids up to {JUMP} (jump up), and jump down as the "
                "last."
            )
        if jump_down_vel is None and JUMP not in mapping:
            raise StrlValueError(
                f"ClimbMutexPolicy: jump_down_vel is None, but cmd_vel_mapping {mapping} has no "
                f"velocity of id {JUMP} to copy. Give one of both."
            )
        mapping[n_sub_policies - 1] = mapping[JUMP] if jump_down_vel is None else jump_down_vel
        super().__init__(
            sub_policies,
            observation_space,
            action_space,
            obs_segments,
            engaging_block=engaging_block,
            id_slice=id_slice,
            env_action_scale=env_action_scale,
            cmd_vel_mapping=mapping,
            command_segment=command_segment,
            command_index=command_index,
            last_action_segment=last_action_segment,
            last_action_size=last_action_size,
            action_smoothing_buffer_len=action_smoothing_buffer_len,
            reset_non_selected=reset_non_selected,
            clip_sub_actions=clip_sub_actions,
            device=device,
        )

    def _n_ids_needed(self) -> int:
        return self.n_sub_policies - 2

    def _get_constructor_parameters(self) -> dict[str, Any]:
        given = super()._get_constructor_parameters()
        down = given["cmd_vel_mapping"][self.n_sub_policies - 1]
        return {**given, "jump_down_vel": list(down)}

    def select(self, obs: TensorDict) -> th.Tensor:
        """
        Return the one-hot id of the obstacle, the jump split by its direction.

        :param obs: groups ``(N, ...)``
        :return: ``(N, P)``
        """
        block = self._block(obs)
        rows = self._fit(self._by_id(block), self.n_sub_policies - 1)
        up = (block[:, -1] > 0.0).to(rows.dtype)
        jump = rows[:, JUMP : JUMP + 1]
        down = jump * (1.0 - up).unsqueeze(1)
        return th.cat((rows[:, :JUMP], jump - down, rows[:, JUMP + 1 :], down), dim=1)
