"""The observation as a sub-policy of a mutex policy was trained to see it."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest
from sb3_strl.common.segments import ObsLayout, Segment
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.mutex_sources import column_map


def find_segments(layout: ObsLayout, name: str, where: str) -> dict[str, Segment]:
    """
    Return a segment in every group that has it.

    :param layout: of the observations
    :param name: of the segment
    :param where: who complains
    :return: segments by group, at least one
    :raises StrlKeyError: if no group has it; the message lists what there is
    """
    found = {
        group: segment
        for group, segments in layout.segments.items()
        for segment in segments
        if segment.name == name
    }
    if not found:
        known = {group: [s.name for s in parts] for group, parts in layout.segments.items()}
        names = [segment for parts in known.values() for segment in parts]
        raise StrlKeyError(
            f"{where}: unknown segment '{name}'.{suggest(name, names)} The observations have: "
            f"{known}. Name the segment in the constructor, or declare obs_segments."
        )
    return found


def check_columns(segment: Segment, start: int, stop: int, what: str, where: str) -> None:
    """
    Refuse columns outside a segment.

    :raises StrlValueError: if they are
    """
    if not 0 <= start < stop <= segment.size:
        raise StrlValueError(
            f"{where}: {what} is columns {start} to {stop - 1} of segment '{segment.name}', which "
            f"has {segment.size}. Name other columns or another segment."
        )


class SubPolicyView(nn.Module):
    r"""
    Rewrite observations into the units and the layout of one sub-policy; never in place.

    The last action a becomes :math:`a \, s_{env} / s_i`, and the command a given velocity.

    :param layout: of the observations that arrive
    :param policy: the sub-policy
    :param where: who complains
    """

    def __init__(self, layout: ObsLayout, policy: BasePolicy, where: str) -> None:
        super().__init__()
        self.layout, self.where = layout, where
        self.groups: tuple[str, ...] = ()
        self._command_columns: dict[str, int] = {}
        self._gains: dict[str, str] = {}
        self._columns: dict[str, str] = {}
        columns = column_map(layout, policy, where)
        self.groups = tuple(columns)
        for number, (group, index) in enumerate(columns.items()):
            if index is not None:
                self._columns[group] = f"columns_{number}"
                self.register_buffer(f"columns_{number}", index, persistent=False)

    def recover_last_action(self, segment: str, gain: th.Tensor) -> None:
        """
        Let the sub-policy see the last action in its own units.

        :param segment: its last A columns are the last action
        :param gain: ``(A,)``, :math:`s_{env} / s_i`
        """
        for group, found in find_segments(self.layout, segment, self.where).items():
            if group not in self.groups:
                continue
            first = found.size - len(gain)
            check_columns(found, first, found.size, "the last action", self.where)
            factors = th.ones(sum(part.size for part in self.layout.segments[group]))
            factors[found.start + first : found.stop] = gain
            name = f"gain_{self.groups.index(group)}"
            self._gains[group] = name
            self.register_buffer(name, factors, persistent=False)

    def override_command(self, segment: str, index: int) -> None:
        """
        Let the sub-policy see the command that it is given.

        :param segment: of the command
        :param index: column in it
        """
        for group, found in find_segments(self.layout, segment, self.where).items():
            if group in self.groups:
                check_columns(found, index, index + 1, "the command", self.where)
                self._command_columns[group] = found.start + index

    def forward(self, obs: TensorDict, commands: th.Tensor) -> TensorDict:
        """
        Return the groups that the sub-policy reads.

        :param obs: ``(N, ...)`` by group, left as they are
        :param commands: ``(N,)``, in the units of the observation
        """
        seen = {group: obs[group] for group in self.groups}
        for group, name in self._gains.items():
            seen[group] = seen[group] * self.get_buffer(name)
        for group, column in self._command_columns.items():
            values = seen[group].clone() if group not in self._gains else seen[group]
            values[:, column] = commands
            seen[group] = values
        for group, name in self._columns.items():
            seen[group] = seen[group].index_select(1, self.get_buffer(name))
        return seen


def common_groups(views: Sequence[SubPolicyView]) -> tuple[str, ...]:
    """Return the groups that the sub-policies read, each once."""
    return tuple(dict.fromkeys(group for view in views for group in view.groups))
