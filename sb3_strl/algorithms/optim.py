"""Gradient plumbing without host synchronisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

LR_MIN = 1e-5
LR_MAX = 1e-2
LR_FACTOR = 1.5


@th.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> th.Tensor:
    """
    Scale all gradients so that their global L2 norm is at most ``max_norm``.

    :param parameters: parameters without a gradient are skipped
    :param max_norm: bound on the norm
    :return: the norm before, a 0-d tensor
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: th.Tensor = th.linalg.vector_norm(th.stack(th._foreach_norm(grads)))
    th._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
    return norm


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
