"""PPO's own losses as pure functions of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch as th


class SurrogateTerms(NamedTuple):
    """
    The clipped surrogate and what is logged about it.

    :param loss: scalar
    :param ratio: ``(B,)``
    :param log_ratio: ``(B,)``
    """

    loss: th.Tensor
    ratio: th.Tensor
    log_ratio: th.Tensor


def surrogate_loss(
    log_prob: th.Tensor, old_log_prob: th.Tensor, advantages: th.Tensor, clip_range: float
) -> SurrogateTerms:
    r"""
    Clipped policy surrogate (Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347).

    .. math::
        \rho = \pi(a) / \pi_{old}(a), \quad
        L = \mathrm{mean} \max(-\hat A \rho, -\hat A \, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon))

    :param log_prob: ``(B,)``, of the current policy
    :param old_log_prob: ``(B,)``, of the policy that acted
    :param advantages: ``(B,)``
    :param clip_range: :math:`\epsilon`
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = -th.min(advantages * ratio, advantages * clipped).mean()
    return SurrogateTerms(loss, ratio, log_ratio)


def value_loss(
    values: th.Tensor,
    old_values: th.Tensor,
    returns: th.Tensor,
    max_form_clip: float | None,
    sb3_clip: float | None,
) -> th.Tensor:
    r"""
    Squared error of the value function, clipped in one of two forms or not at all.

    With :math:`V_c = V_{old} + \mathrm{clip}(V - V_{old}, -\epsilon, \epsilon)` the max form is
    :math:`\mathrm{mean} \max((V-R)^2, (V_c-R)^2)`; SB3's ``clip_range_vf`` keeps only the second term,
    whose gradient is zero outside the clip even where :math:`V` is on the wrong side.

    :param values: ``(B,)``
    :param old_values: ``(B,)``
    :param returns: ``(B,)``
    :param max_form_clip: :math:`\epsilon` of the max form, ``None`` for off
    :param sb3_clip: :math:`\epsilon` of SB3's form, ``None`` for off; wins over the max form
    """
    error = (values - returns).square()
    clip = sb3_clip if sb3_clip is not None else max_form_clip
    if clip is None:
        return error.mean()
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    clipped_error = (clipped - returns).square()
    return clipped_error.mean() if sb3_clip is not None else th.max(error, clipped_error).mean()
