"""Is this policy one of this environment?"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.policies import MutexPolicy
from sb3_strl.policies.mutex_sources import acting_groups


def check_fits(where: str, policy: BasePolicy, env: VecEnv, by_group: bool = False) -> None:
    """
    Refuse an environment whose observations or actions the policy does not know.

    :param where: who complains
    :param policy: what shall act
    :param env: in what
    :param by_group: whether groups are handed over by name, so that a policy of a single vector may
        have the group ``"policy"`` of several, and groups that it does not know are left out
    :raises StrlValueError: if they do not fit
    """
    theirs, ours = policy.observation_space, env.observation_space
    needed = policy.groups if isinstance(policy, MutexPolicy) else acting_groups(policy)
    known, given = group_spaces(theirs), group_spaces(ours)
    fits = all(name in given and _alike(known[name], given[name]) for name in needed)
    if not by_group:
        # predict() takes the whole observation, and looks up every group in the policy's space.
        both = isinstance(theirs, spaces.Dict) == isinstance(ours, spaces.Dict)
        fits = fits and both and given.keys() <= known.keys()
    for what, one, other, good in (
        ("observes", theirs, ours, fits),
        ("acts in", policy.action_space, env.action_space, _acts_alike(policy, env)),
    ):
        if not good:
            raise StrlValueError(
                f"{where}: the policy {what} {_brief(one)}, the environment has {_brief(other)}. "
                "Expected the environment that it was trained in, or one of the same spaces. Name "
                "another environment or another model."
            )


def _acts_alike(policy: BasePolicy, env: VecEnv) -> bool:
    return _alike(policy.action_space, env.action_space)


def _alike(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Whether what is valid in one is of the right kind in the other; bounds may differ."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape
    return one == other


def _brief(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        parts = (f"{name}: {_brief(part)}" for name, part in space.spaces.items())
        return f"{{{', '.join(parts)}}}"
    return f"Box of shape {space.shape}" if isinstance(space, spaces.Box) else str(space)
