"""Bounds of a Box of actions as tensors."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces


def action_bounds(
    space: spaces.Space[Any], device: th.device
) -> tuple[th.Tensor, th.Tensor] | None:
    """
    Return the lowest and highest actions, ``(*action_shape)`` each, ``None`` for other spaces.

    Each call copies them to the device: keep what it returns.

    :param space: of the actions
    :param device: where the actions are
    """
    if not isinstance(space, spaces.Box):
        return None
    return th.as_tensor(space.low, device=device), th.as_tensor(space.high, device=device)


def unsquashed(actions: th.Tensor, low: th.Tensor, high: th.Tensor) -> th.Tensor:
    """
    Return actions of [-1, 1] between the bounds: SB3's ``unscale_action``, on the device.

    :param actions: ``(..., A)``, of a policy with ``squash_output``
    :param low: ``(A,)``
    :param high: ``(A,)``
    """
    return low + 0.5 * (actions + 1.0) * (high - low)
