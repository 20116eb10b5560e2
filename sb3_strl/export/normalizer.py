"""SB3's ``VecNormalize``: read from the file that the user names, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import SINGLE_GROUP, group_spaces
from sb3_strl.policies import StrlPolicy

Statistics = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""Mean and variance, or standard deviation, by observation group."""


def load_vec_normalize(path: str | Path) -> VecNormalize:
    """
    Read the statistics that ``VecNormalize.save`` wrote.

    SB3 writes them by pickle, which runs what a file says: name only files that you trust.

    :param path: e.g. rl_zoo3's ``vecnormalize.pkl``
    :return: without an environment; it normalises, and learns no more
    :raises StrlValueError: if there is no such file, or it cannot be read
    :raises StrlTypeError: if it holds something else
    """
    file = Path(path)
    if not file.is_file():
        raise StrlValueError(
            f"VecNormalize: there is no file '{path}'. Expected what VecNormalize.save wrote, e.g. "
            "the vecnormalize.pkl of rl_zoo3."
        )
    try:
        found = load_from_pkl(file)
    except Exception as error:  # what a damaged pickle raises depends on the byte that is wrong
        raise StrlValueError(
            f"VecNormalize: {file} cannot be read ({type(error).__name__}: {error}). Expected what "
            "VecNormalize.save wrote, with versions of its packages that fit."
        ) from error
    if not isinstance(found, VecNormalize):
        raise StrlTypeError(
            f"VecNormalize: {file} holds a {type(found).__name__}. Expected what VecNormalize.save "
            "wrote, e.g. the vecnormalize.pkl of rl_zoo3."
        )
    found.training = found.norm_reward = False
    return found


def statistics_of(normalizer: VecNormalize) -> Statistics:
    """Return mean and variance of the groups that are normalised; none if rewards alone are."""
    if not normalizer.norm_obs:
        return {}
    rms: Any = normalizer.obs_rms
    by_group = rms if isinstance(rms, dict) else {SINGLE_GROUP: rms}
    return {group: (item.mean, item.var) for group, item in by_group.items()}


def known_ranges(policy: BasePolicy, normalizer: VecNormalize | None) -> Statistics:
    """
    Return where raw observations lie: what is subtracted from them, and what divides them.

    :param policy: with ``empirical_normalization`` or without
    :param normalizer: what the policy's observations pass through
    :return: mean and standard deviation by group, NaN for columns that the policy does not read;
        groups that nobody normalises are left out
    """
    known: Statistics = {}
    reader = policy.actor_reader if isinstance(policy, StrlPolicy) else None
    if reader is not None and reader.normalizer is not None:
        own = reader.normalizer
        widths = [reader.layout.segments[group][-1].stop for group in reader.vector_groups]
        whole = np.full((2, sum(widths)), np.nan)
        whole[:, reader.columns] = th.stack((own.mean, own.std + own.eps)).cpu().numpy()
        parts = np.split(whole, np.cumsum(widths)[:-1], axis=1)
        known = {g: (part[0], part[1]) for g, part in zip(reader.vector_groups, parts, strict=True)}
    if normalizer is not None:
        for group, (mean, var) in statistics_of(normalizer).items():
            known[group] = (mean, np.sqrt(var + normalizer.epsilon))
    return known


def check_statistics(where: str, normalizer: VecNormalize, space: spaces.Space[Any]) -> None:
    """
    Refuse statistics of other observations.

    :param where: who complains
    :param normalizer: what the policy was trained behind
    :param space: what the policy observes
    :raises StrlValueError: if a group is of another shape, or there are groups on one side only
    """
    if not normalizer.norm_obs:
        return
    rms: Any = normalizer.obs_rms
    shapes = {name: part.shape for name, part in group_spaces(space).items()}
    found = {name: np.shape(mean) for name, (mean, _) in statistics_of(normalizer).items()}
    fits = isinstance(rms, dict) == isinstance(space, spaces.Dict)
    if not fits or any(shapes.get(name) != shape for name, shape in found.items()):
        raise StrlValueError(
            f"{where}: the statistics of VecNormalize are of observations of shape {found}, but "
            f"the policy observes {shapes}. Expected those of its own training."
        )
