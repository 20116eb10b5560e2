"""Gradient plumbing without host synchronisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch as th
from torch import nn

LR_MIN = 1e-5
LR_MAX = 1e-2
LR_FACTOR = 1.5


class FlatGradients:
    """
    One flat tensor behind the gradients of many parameters.

    Clearing, measuring and clipping become one operation each instead of one per parameter.

    :param parameters: all of one dtype and device
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        size = sum(parameter.numel() for parameter in self.parameters)
        self.flat = th.zeros(size, dtype=first.dtype, device=first.device)
        self._views = [
            part.view_as(parameter)
            for part, parameter in zip(
                self.flat.split([p.numel() for p in self.parameters]), self.parameters, strict=True
            )
        ]

    def bind(self) -> None:
        """Make the parameters accumulate into the flat tensor (again, if somebody unset them)."""
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view

    def zero(self) -> None:
        """Clear all gradients."""
        self.flat.zero_()

    def clip(self, max_norm: float) -> th.Tensor:
        """
        Scale all gradients so that their global L2 norm is at most ``max_norm``.

        :return: the norm before, a 0-d tensor
        """
        norm = th.linalg.vector_norm(self.flat)
        self.flat.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
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
