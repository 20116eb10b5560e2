"""Names for parts of an observation: groups of a Dict space, segments inside a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, suggest

SINGLE_GROUP = "policy"
"""Name of the only group of an environment whose observation space is not a Dict."""

_NUMBER = (int, float, np.integer)
SegmentMap = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Segment:
    """
    A named part of a group.

    :param name: unique within its group
    :param group: key of the observation space
    :param start: first column in the flattened group
    :param shape: shape of the part; its product is the number of columns
    """

    name: str
    group: str
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of columns."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.start + self.size


def group_spaces(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Return the groups of a space: its items if it is a Dict, else itself as ``"policy"``."""
    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    return {SINGLE_GROUP: space}


def is_image_group(space: spaces.Space[Any]) -> bool:
    """Tell whether a group is a stack of 2-D channels (``(C, H, W)``), uint8 or float."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _shape(name: str, value: Any) -> tuple[int, ...]:
    sizes = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if not all(isinstance(size, _NUMBER) and float(size).is_integer() for size in sizes):
        raise StrlTypeError(
            f"ObsLayout: segment '{name}' has the shape {value!r}. Expected a whole number, or a "
            "list of whole numbers."
        )
    return tuple(int(size) for size in sizes)


class ObsLayout:
    """
    Where every segment of every group lies: the one place that turns names into columns.

    A group without declared segments is its own single segment of the same name.

    :param observation_space: a flat Dict of groups, or any single space
    :param obs_segments: ``{group: {segment: shape}}``; for a space with a single vector group also
        ``{segment: shape}``; the order is the order of the columns
    :raises StrlKeyError: if a group does not exist
    :raises StrlTypeError: if a shape is no whole number nor a list of them
    :raises StrlValueError: if the sizes of a group's segments do not add up to its width, a size is
        not positive, or a segment is declared for an image group
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        obs_segments: Mapping[str, Any] | None = None,
    ) -> None:
        self.spaces = group_spaces(observation_space)
        self.segments: dict[str, tuple[Segment, ...]] = {}
        declared = self._nested(obs_segments or {})
        for group, space in self.spaces.items():
            if is_image_group(space):
                shape: tuple[int, ...] = tuple(int(size) for size in space.shape or ())
            else:
                shape = (int(get_flattened_obs_dim(space)),)
            self.segments[group] = self._place(group, shape, declared.get(group))

    def _nested(self, given: Mapping[str, Any]) -> dict[str, SegmentMap]:
        if given and not any(isinstance(value, Mapping) for value in given.values()):
            if len(self.spaces) == 1:
                return {next(iter(self.spaces)): dict(given)}
            if SINGLE_GROUP not in self.spaces:
                raise StrlValueError(
                    f"ObsLayout: obs_segments {list(given)} do not say which group they divide. "
                    f"This environment has: {list(self.spaces)}. Pass {{group: {{segment: "
                    "shape}}."
                )
            return {SINGLE_GROUP: dict(given)}
        nested: dict[str, SegmentMap] = {}
        for group, names in given.items():
            if group not in self.spaces:
                raise StrlKeyError(
                    "ObsLayout: obs_segments name the group "
                    f"'{group}'.{suggest(group, self.spaces)} This environment has: "
                    f"{list(self.spaces)}."
                )
            if not isinstance(names, Mapping):
                raise StrlTypeError(
                    f"ObsLayout: obs_segments of group '{group}' are {names!r}. Expected "
                    "{segment: shape}."
                )
            nested[group] = names
        return nested

    @staticmethod
    def _place(
        group: str, shape: tuple[int, ...], declared: SegmentMap | None
    ) -> tuple[Segment, ...]:
        if declared is None:
            return (Segment(group, group, 0, shape),)
        if len(shape) != 1:
            raise StrlValueError(
                f"ObsLayout: group '{group}' of shape {shape} is an image and cannot be divided "
                f"into segments {list(declared)}. Leave it out of obs_segments."
            )
        placed: list[Segment] = []
        start = 0
        for name, value in declared.items():
            segment = Segment(str(name), group, start, _shape(name, value))
            if segment.size <= 0:
                raise StrlValueError(
                    f"ObsLayout: segment '{name}' of group '{group}' has shape {segment.shape}. "
                    "Every size must be positive."
                )
            placed.append(segment)
            start = segment.stop
        if start != shape[0]:
            sizes = {segment.name: segment.size for segment in placed}
            raise StrlValueError(
                f"ObsLayout: the segments of group '{group}' {sizes} add up to {start} columns, "
                f"but the group has {shape[0]}. Declare every column once, in order."
            )
        return tuple(placed)

    def of(self, groups: Sequence[str], where: str = "ObsLayout") -> tuple[Segment, ...]:
        """
        Return the segments of some groups, in order.

        :raises StrlKeyError: if a group does not exist
        :raises StrlValueError: if two groups have a segment of the same name
        """
        found: list[Segment] = []
        for group in groups:
            if group not in self.segments:
                raise StrlKeyError(
                    f"{where}: there is no observation group "
                    f"'{group}'.{suggest(group, self.spaces)} This environment has: "
                    f"{list(self.spaces)}."
                )
            found.extend(self.segments[group])
        names = [segment.name for segment in found]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise StrlValueError(
                f"{where}: the groups {list(groups)} share the segment names {twice}. Names must "
                "be unique within one set of groups: rename them in obs_segments."
            )
        return tuple(found)

    def find(self, name: str, groups: Sequence[str], where: str = "ObsLayout") -> Segment:
        """
        Return one segment by name.

        :raises StrlKeyError: if no group has it; the message lists what there is
        """
        found = self.of(groups, where)
        for segment in found:
            if segment.name == name:
                return segment
        names = [segment.name for segment in found]
        raise StrlKeyError(
            f"{where}: unknown segment '{name}'.{suggest(name, names)} The groups {list(groups)} "
            f"have: {names}."
        )

    def to_dict(self) -> dict[str, dict[str, list[int]]]:
        """Return the layout as JSON-able ``{group: {segment: shape}}``, vector groups only."""
        return {
            group: {segment.name: list(segment.shape) for segment in segments}
            for group, segments in self.segments.items()
            if not is_image_group(self.spaces[group])
        }


def get_subobs(obs: th.Tensor, segment: Segment) -> th.Tensor:
    """Return the columns ``(..., size)`` of a segment in a flattened group ``(..., group_dim)``."""
    return obs[..., segment.start : segment.stop]
