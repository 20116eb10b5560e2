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
