"""The student's world as a teacher was trained to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.segments import ObsLayout, Segment, group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.objectives.perceptron import PerceptronTeacher
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.mutex_sources import ActingPolicy, acting_groups, own_layout


class _Piece(NamedTuple):
    group: str
    start: int
    stop: int


class TeacherView:
    """
    Make a teacher's groups out of the student's.

    Every segment that the teacher reads is looked up by name among the groups it may see; if the
    names are others and the teacher reads a single group of the same total width, those groups are
    handed over side by side. A teacher that reads several groups may also find them by their names
    among all groups of the environment; a mutex policy always does.

    :param where: who complains
    :param policy: the teacher
    :param layout: of the environment
    :param groups: that the teacher may see
    :raises StrlValueError: if the teacher reads something else
    """

    def __init__(
        self,
        where: str,
        policy: BasePolicy | PerceptronTeacher,
        layout: ObsLayout,
        groups: Sequence[str],
    ) -> None:
        self.groups = tuple(groups)
        self.layout = layout
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        if isinstance(policy, PerceptronTeacher):
            self._side_by_side(where, "policy", (policy.input_size,))
            return
        shapes = {
            name: tuple(space.shape or ())
            for name, space in group_spaces(policy.observation_space).items()
        }
        if not isinstance(policy, StrlPolicy) and isinstance(policy, ActingPolicy):
            self._by_group({group: shapes[group] for group in shapes if group in layout.spaces})
            return
        theirs, needed = own_layout(policy), acting_groups(policy)
        found = {segment.name: segment for segment in layout.of(groups, where)}
        wanted = [segment for group in needed for segment in theirs.segments[group]]
        if all(s.name in found and found[s.name].shape == s.shape for s in wanted):
            for group in needed:
                self._shapes[group] = shapes[group]
                self._pieces[group] = [
                    _piece(found[segment.name]) for segment in theirs.segments[group]
                ]
        elif len(needed) == 1:
            self._side_by_side(where, needed[0], shapes[needed[0]])
        elif all(_shape_of(layout, group) == shapes[group] for group in needed):
            self._by_group({group: shapes[group] for group in needed})
        else:
            self._refuse(where, [f"{group} of shape {shapes[group]}" for group in needed])

    def _by_group(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes.update(shapes)
        for group in shapes:
            segments = self.layout.segments[group]
            self._pieces[group] = [_Piece(group, 0, sum(s.size for s in segments))]

    def _side_by_side(self, where: str, group: str, shape: tuple[int, ...]) -> None:
        available = self.layout.of(self.groups, where)
        width = sum(segment.size for segment in available)
        if th.Size(shape).numel() != width:
            self._refuse(where, [f"{group} of shape {shape}"])
        self._shapes[group] = shape
        self._pieces[group] = [_piece(segment) for segment in available]

    def _refuse(self, where: str, wanted: Sequence[str]) -> None:
        available = self.layout.of(self.groups, where)
        raise StrlValueError(
            f"{where}: the teacher reads {list(wanted)}, but the groups {list(self.groups)} that "
            f"it is shown have {[(s.name, s.shape) for s in available]}. Choose what it is shown: "
            "label_action_with_critic_obs=False for the actor's groups, or "
            'policy_kwargs=dict(obs_groups={"teacher": [...]}).'
        )

    def sources(self) -> list[str]:
        """Return the environment's groups that the teacher's are made of."""
        return list({piece.group: 0 for pieces in self._pieces.values() for piece in pieces})

    def __call__(self, obs: TensorDict) -> TensorDict:
        """Return the teacher's groups ``(N, ...)`` for groups ``(N, ...)`` of the environment."""
        seen: TensorDict = {}
        for group, pieces in self._pieces.items():
            shape = self._shapes[group]
            first = pieces[0]
            whole = obs[first.group]
            if len(pieces) == 1 and tuple(whole.shape[1:]) == shape:
                seen[group] = whole
                continue
            parts = [obs[p.group].flatten(1)[:, p.start : p.stop] for p in pieces]
            seen[group] = th.cat(parts, -1).view(-1, *shape)
        return seen


def _piece(segment: Segment) -> _Piece:
    return _Piece(segment.group, segment.start, segment.stop)


def _shape_of(layout: ObsLayout, group: str) -> tuple[int, ...] | None:
    space = layout.spaces.get(group)
    return None if space is None else tuple(space.shape or ())
