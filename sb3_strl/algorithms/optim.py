"""Gradient plumbing without host synchronisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_strl.common import distributed
from sb3_strl.common.flat_adam import FlatAdam, clip_gradients

LR_MIN = 1e-5
LR_MAX = 1e-2
LR_FACTOR = 1.5


def clip_and_step(
    optimizer: th.optim.Optimizer, parameters: Sequence[nn.Parameter], max_norm: float
) -> None:
    """
    Average all gradients over the processes, scale them to a global L2 norm of at most
    ``max_norm`` and take a step.
    """
    if isinstance(optimizer, FlatAdam):
        optimizer.clip_and_step(max_norm)
        return
    distributed.mean_gradients_(parameters)
    clip_gradients(parameters, max_norm)
    optimizer.step()


def adapt_learning_rate(lr: th.Tensor, kl: th.Tensor, desired_kl: float) -> None:
    r"""
    Move the learning rate towards a desired policy change, in place and on the device.

    :math:`\alpha \leftarrow \max(10^{-5}, \alpha / 1.5)` if :math:`KL > 2 KL^*`, and
    :math:`\alpha \leftarrow \min(10^{-2}, 1.5 \alpha)` if :math:`0 < KL < KL^* / 2` (the rule of
    rsl_rl, Rudin et al. 2022, https://arxiv.org/abs/2109.11978).

    :param lr: 0-d tensor
    :param kl: 0-d tensor, exact :math:`KL(\pi_{old} \| \pi)` of the minibatch
    :param desired_kl: :math:`KL^*`
    """
    slower = (lr / LR_FACTOR).clamp_(min=LR_MIN)
    faster = (lr * LR_FACTOR).clamp_(max=LR_MAX)
    changed = th.where(kl > 2.0 * desired_kl, slower, lr)
    lr.copy_(th.where((kl > 0.0) & (kl < 0.5 * desired_kl), faster, changed))
