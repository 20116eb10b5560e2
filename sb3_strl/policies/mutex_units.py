"""Units of a mutex policy: scales of actions, and the commands that sub-policies are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_strl.common.action_bounds import unsquashed
from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies.mutex_options import MutexOptions
from sb3_strl.policies.mutex_sources import ActingPolicy, SubPolicy


def scale_vector(name: str, value: float | Sequence[float], n_actions: int) -> th.Tensor:
    """
    Return one scale for each action.

    :param name: of the argument, for the message
    :param value: one number or ``n_actions``
    :param n_actions: A
    :return: ``(A,)``
    :raises StrlValueError: if there are more or fewer, or one is not positive
    """
    scale = np.asarray(value, dtype=np.float32)
    if scale.shape not in ((), (1,), (n_actions,)):
        raise StrlValueError(
            f"MutexPolicy: {name} has {scale.size} numbers. Expected one, or {n_actions}, one for "
            "each action."
        )
    if not (np.isfinite(scale).all() and (scale > 0.0).all()):
        raise StrlValueError(f"MutexPolicy: {name} is {value}. Expected finite numbers > 0.")
    return th.from_numpy(np.broadcast_to(scale, (n_actions,)).copy())


def _bounds(boxes: Sequence[spaces.Box]) -> tuple[th.Tensor, th.Tensor]:
    low = [th.as_tensor(box.low, dtype=th.float32).flatten() for box in boxes]
    high = [th.as_tensor(box.high, dtype=th.float32).flatten() for box in boxes]
    return th.stack(low), th.stack(high)


def _is_squashed(policy: BasePolicy | str | Path) -> bool:
    """Tell whether a policy says actions of [-1, 1] whatever its bounds, as SB3's SAC does."""
    if not isinstance(policy, BasePolicy) or isinstance(policy, ActingPolicy):
        return False
    return policy.squash_output


class ActionUnits(nn.Module):
    r"""
    Blend the actions of P sub-policies: :math:`a = \sum_i w_i \, s_i / s_{env} \, a_i`.

    Squashed actions, of SB3's SAC, TD3 or DDPG, are put between the bounds of their policy first.

    :param subs: with the scales :math:`s_i`
    :param env_scale: :math:`s_{env}`
    :param space: actions of the environment
    :param clip: clip :math:`a_i` to the bounds of its sub-policy before
    """

    ratio: th.Tensor
    """``(P, A)``, :math:`s_i / s_{env}`."""
    low: th.Tensor
    high: th.Tensor
    sub_low: th.Tensor
    sub_high: th.Tensor
    squashed: th.Tensor

    def __init__(
        self,
        subs: Sequence[SubPolicy],
        env_scale: float | Sequence[float],
        space: spaces.Box,
        clip: bool,
    ) -> None:
        super().__init__()
        self.clip = clip
        n_actions = int(np.prod(space.shape, dtype=np.int64))
        env = scale_vector("env_action_scale", env_scale, n_actions)
        scales = [
            env
            if sub.action_scale is None
            else scale_vector(f"action_scale of sub-policy {i}", sub.action_scale, n_actions)
            for i, sub in enumerate(subs)
        ]
        low, high = _bounds([space])
        boxes = [sub.box for sub in subs]
        sub_low, sub_high = _bounds(boxes)
        squashed = [_is_squashed(sub.policy) for sub in subs]
        self.has_squashed = any(squashed)
        tensors = {
            "ratio": th.stack(scales) / env,
            "low": low[0],
            "high": high[0],
            "sub_low": sub_low,
            "sub_high": sub_high,
            "squashed": th.tensor(squashed).unsqueeze(1),
        }
        for name, values in tensors.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """
        Return actions in the environment's units, not clipped to its bounds.

        :param actions: ``(N, P, A)``, each as its policy says it
        :param weights: ``(N, P)``
        :return: ``(N, A)``
        """
        if self.has_squashed:
            between = unsquashed(actions, self.sub_low, self.sub_high)
            actions = th.where(self.squashed, between, actions)
        if self.clip:
            actions = actions.clamp(self.sub_low, self.sub_high)
        weights = weights.unsqueeze(2).to(actions.dtype)
        # Whoever is not selected has no say, not even with an infinite action.
        return th.where(weights == 0.0, 0.0, weights * self.ratio * actions).sum(dim=1)

    def bounded(self, actions: th.Tensor) -> th.Tensor:
        """Return actions ``(N, *action_shape)`` inside the environment's bounds."""
        return actions.flatten(1).clamp(self.low, self.high).reshape(actions.shape)


class CommandDraws(nn.Module):
    """
    Velocities that the sub-policies are given instead of the command in the observation.

    :param options: with ``cmd_vel_mapping``
    :param subs: their ``obs_scales["lin_vel"]`` are the units
    """

    low: th.Tensor
    span: th.Tensor

    def __init__(self, options: MutexOptions, subs: Sequence[SubPolicy]) -> None:
        super().__init__()
        ranges = options.commands(len(subs))
        self.given = [bounds is not None for bounds in ranges]
        self.random = any(bounds is not None and bounds[0] < bounds[1] for bounds in ranges)
        factors = [float((sub.obs_scales or {}).get("lin_vel", 1.0)) for sub in subs]
        bounds = th.tensor([bounds or (0.0, 0.0) for bounds in ranges])
        bounds = bounds * th.tensor(factors).unsqueeze(1)
        self.register_buffer("low", bounds[:, 0].clone(), persistent=False)
        self.register_buffer("span", bounds[:, 1] - bounds[:, 0], persistent=False)

    def initial(self, n_envs: int) -> th.Tensor:
        """Return the commands before the first step ``(N, P)``, at the lower end of ranges."""
        return self.low.repeat(n_envs, 1)

    def forward(self, before: th.Tensor, starts: th.Tensor) -> th.Tensor:
        """
        Return the commands, new ones where an episode starts.

        :param before: ``(N, P)``, of the step before
        :param starts: ``(N,)``, bool
        :return: ``(N, P)``
        """
        if not self.random:
            return before
        # One draw per environment: sub-policies with the same range are given the same command.
        fresh = self.low + self.span * th.rand(len(before), 1, device=before.device)
        return th.where(starts.unsqueeze(1), fresh, before)
