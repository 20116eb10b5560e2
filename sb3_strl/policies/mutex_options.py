"""The options of a mutex policy, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sb3_strl.common.errors import StrlTypeError, StrlValueError

ResetMode = Literal["all", "when_skill", "none"]
Velocity = float | Sequence[float]
CommandMapping = Mapping[int, Velocity] | Mapping[str, Velocity]

_RESET_MODES: dict[str | bool | None, ResetMode] = {
    "all": "all",
    True: "all",
    "when_skill": "when_skill",
    "none": "none",
    False: "none",
    None: "none",
}


def velocity_range(name: str, value: Velocity) -> tuple[float, float]:
    """
    Return ``(low, high)``; both are the same for a fixed velocity.

    :param name: of the argument, for the message
    :param value: a number, or a list or tuple of two
    :raises StrlValueError: if it is neither, or the range is empty
    """
    bounds = [value, value] if isinstance(value, (int, float)) else list(value)
    if len(bounds) != 2 or not (
        all(math.isfinite(bound) for bound in bounds) and bounds[0] <= bounds[1]
    ):
        raise StrlValueError(
            f"MutexPolicy: {name} is {value!r}. Expected a velocity, or (low, high) with "
            "low <= high to draw it from."
        )
    return float(bounds[0]), float(bounds[1])


def reset_mode(value: str | bool | None) -> ResetMode:
    """
    Return the name of a mode.

    :raises StrlValueError: if there is no such mode
    """
    if value not in _RESET_MODES:
        raise StrlValueError(
            f"MutexPolicy: reset_non_selected is {value!r}. Expected 'all' (True), 'when_skill' "
            "or 'none' (False)."
        )
    return _RESET_MODES[value]


@dataclass(frozen=True, kw_only=True)
class MutexOptions:
    """
    What :class:`~sb3_strl.policies.mutex.MutexPolicy` describes, in the form that is saved.

    :param env_action_scale: what action 1 means in the environment
    :param cmd_vel_mapping: ``(low, high)`` by index of the sub-policy
    :param command_segment: segment of the command
    :param command_index: column of the forward velocity in it
    :param last_action_segment: segment that ends with the last action
    :param last_action_size: width of the last action
    :param action_smoothing_buffer_len: selections that the weights are averaged over
    :param reset_non_selected: whose memory is cleared
    :param clip_sub_actions: clip the sub-policies' actions to their bounds
    :raises StrlValueError: if a value is out of bounds
    :raises StrlTypeError: if a key of ``cmd_vel_mapping`` is no index
    """

    env_action_scale: float | Sequence[float] = 0.5
    cmd_vel_mapping: CommandMapping = field(default_factory=dict)
    command_segment: str = "proprioception"
    command_index: int = 9
    last_action_segment: str | None = None
    last_action_size: int | None = None
    action_smoothing_buffer_len: int = 1
    reset_non_selected: str | bool | None = "all"
    clip_sub_actions: bool = True

    def __post_init__(self) -> None:
        if self.action_smoothing_buffer_len < 1:
            raise StrlValueError(
                "MutexPolicy: action_smoothing_buffer_len is "
                f"{self.action_smoothing_buffer_len}. Expected at least 1, which does not smooth."
            )
        mode = reset_mode(self.reset_non_selected)
        commands: dict[int, tuple[float, float]] = {}
        for key, value in self.cmd_vel_mapping.items():
            # JSON knows no integer keys.
            if not str(key).isdigit():
                raise StrlTypeError(
                    f"MutexPolicy: cmd_vel_mapping has the key {key!r}. Expected the index of a "
                    "sub-policy, e.g. {1: 0.8}."
                )
            commands[int(key)] = velocity_range(f"cmd_vel_mapping[{key}]", value)
        scale = self.env_action_scale
        plain = float(scale) if isinstance(scale, (int, float)) else [float(s) for s in scale]
        object.__setattr__(self, "reset_non_selected", mode)
        object.__setattr__(self, "cmd_vel_mapping", commands)
        object.__setattr__(self, "env_action_scale", plain)

    @property
    def mode(self) -> ResetMode:
        """Whose memory is cleared."""
        return reset_mode(self.reset_non_selected)

    def commands(self, n_sub_policies: int) -> list[tuple[float, float] | None]:
        """
        Return the range of every sub-policy's command, ``None`` where it keeps what it sees.

        :param n_sub_policies: P
        :raises StrlValueError: if there is a command for a sub-policy that does not exist
        """
        ranges: list[tuple[float, float] | None] = [None] * n_sub_policies
        for index, value in self.cmd_vel_mapping.items():
            if int(index) >= n_sub_policies:
                raise StrlValueError(
                    f"MutexPolicy: cmd_vel_mapping names sub-policy {index}, but there are "
                    f"{n_sub_policies}, numbered from 0."
                )
            ranges[int(index)] = velocity_range(f"cmd_vel_mapping[{index}]", value)
        return ranges
