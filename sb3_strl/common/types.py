"""Value types that every room shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th

TensorDict = dict[str, th.Tensor]
"""Observation groups by name, each of shape ``(n_envs, *group_shape)``."""


class TensorStep(NamedTuple):
    """
    What one call of ``step_tensor`` returns; every tensor lives on the environment's device.

    The tensors are only valid until the next step: whoever keeps one clones it.

    :param obs: observation groups after the step; rows that finished hold the first observation of
        their next episode (same-step automatic reset)
    :param rewards: ``(n_envs,)``, float32
    :param terminated: ``(n_envs,)``, bool, the episode reached a terminal state
    :param truncated: ``(n_envs,)``, bool, the episode was cut (time limit); where both are true,
        ``terminated`` wins and nothing is bootstrapped
    :param final_obs: observation groups *before* the reset, valid in rows that finished (other rows
        hold anything finite); ``None`` if the simulator cannot supply them
    :param extras: ``"log"`` holds scalars to average into the logger, ``"infos"`` SB3's list of
        info dicts where the step came from a NumPy environment
    """

    obs: TensorDict
    rewards: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    final_obs: TensorDict | None
    extras: dict[str, Any]
