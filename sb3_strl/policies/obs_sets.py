"""Which observation groups and segments each part of a policy reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest
from sb3_strl.common.segments import SINGLE_GROUP, ObsLayout, Segment

_OPTIONAL_SETS = {"amp": "ref_obs", "expert": "ref_motion"}
_SETS = ("actor", "critic", *_OPTIONAL_SETS, "teacher")


def resolve_sets(
    where: str, layout: ObsLayout, obs_groups: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """
    Return the groups of every set.

    Only ``critic`` falls back silently: to the group of its name, else to the actor's groups.

    :param where: who complains
    :param layout: the environment's layout
    :param obs_groups: what the user wants, by set
    :raises StrlKeyError: if there is no such set, the actor has no group, or a named one does not
        exist
    """
    _check_names(where, obs_groups)
    sets = {
        key: [value] if isinstance(value, str) else list(value) for key, value in obs_groups.items()
    }
    available = list(layout.spaces)
    if "actor" not in sets and SINGLE_GROUP not in available:
        raise StrlKeyError(
            f"{where}: the environment has no group '{SINGLE_GROUP}'. It has: {available}. Say "
            f"which ones the actor reads: "
            f'policy_kwargs=dict(obs_groups={{"actor": {available}}}).'
        )
    sets.setdefault("actor", [SINGLE_GROUP])
    sets.setdefault("critic", ["critic"] if "critic" in available else sets["actor"])
    for key, group in _OPTIONAL_SETS.items():
        if key not in sets and group in available:
            sets[key] = [group]
    for key, groups in sets.items():
        layout.of(groups, f"{where}: obs_groups['{key}']")
    return sets


def _check_names(where: str, obs_groups: Mapping[str, Sequence[str]]) -> None:
    for name in obs_groups:
        if name not in _SETS:
            # rsl_rl calls the actor's set as both call its usual group.
            hint = " Did you mean 'actor'?" if name == SINGLE_GROUP else suggest(name, _SETS)
            raise StrlKeyError(
                f"{where}: obs_groups has an unknown set '{name}'.{hint} Known sets: "
                f"{list(_SETS)}; rsl_rl's 'policy' is 'actor' here. Write "
                'obs_groups={"actor": [...], "critic": [...]}.'
            )


def select_segments(
    layout: ObsLayout, groups: Sequence[str], wanted: Mapping[str, Any]
) -> tuple[Segment, ...]:
    """
    Return the segments of the given names, in the given order.

    :raises StrlKeyError: if a segment does not exist
    :raises StrlValueError: if its declared size is another
    """
    chosen = []
    for name, shape in wanted.items():
        segment = layout.find(name, groups, "critic_obs_segments")
        size = int(np.prod(shape))
        if size != segment.size:
            raise StrlValueError(
                f"critic_obs_segments: '{name}' is declared with {size} columns, but the layout "
                f"gives it {segment.size}. Declare it once, in obs_segments."
            )
        chosen.append(segment)
    return tuple(chosen)
