"""PPO's own losses as pure functions of tensors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch as th

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class LossSettings(NamedTuple):
    r"""
    The numbers in PPO's loss.

    :param clip_range: :math:`\epsilon`
    :param value_clip: :math:`\epsilon` of the max-form value clip, ``None`` for off
    :param sb3_value_clip: :math:`\epsilon` of SB3's form, ``None`` for off; wins over the max form
    :param ent_coef: :math:`c_e`
    :param vf_coef: :math:`c_v`
    """

    clip_range: float
    value_clip: float | None
    sb3_value_clip: float | None
    ent_coef: float
    vf_coef: float


class PPOTargets(NamedTuple):
    """
    What a minibatch compares the policy with, ``(B,)`` each but the actions.

    :param actions: ``(B, A)`` or ``(B,)``
    :param old_log_prob: log-probability when the actions were taken
    :param advantages: normalised if wanted
    :param old_values: value when the actions were taken
    :param returns: what the value should be
    """

    actions: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    old_values: th.Tensor
    returns: th.Tensor


STAT_NAMES = (
    "policy_gradient_loss",
    "value_loss",
    "entropy_loss",
    "loss",
    "approx_kl",
    "clip_fraction",
)


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
    :math:`\mathrm{mean} \max((V-R)^2, (V_c-R)^2)`; SB3's ``clip_range_vf`` keeps only the second
    term, whose gradient is zero outside the clip even where :math:`V` is on the wrong side.

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


def ppo_loss(
    log_prob: th.Tensor,
    entropy: th.Tensor,
    values: th.Tensor,
    targets: PPOTargets,
    settings: LossSettings,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Surrogate, value and entropy loss for any distribution.

    :return: the loss, and the statistics of :data:`STAT_NAMES` in one detached tensor
    """
    surrogate = surrogate_loss(
        log_prob, targets.old_log_prob, targets.advantages, settings.clip_range
    )
    value = value_loss(
        values,
        targets.old_values,
        targets.returns,
        settings.value_clip,
        settings.sb3_value_clip,
    )
    entropy_loss = -entropy.mean()
    loss = surrogate.loss + settings.ent_coef * entropy_loss + settings.vf_coef * value
    with th.no_grad():
        approx_kl = (surrogate.ratio - 1.0 - surrogate.log_ratio).mean()
        is_clipped = (surrogate.ratio - 1.0).abs() > settings.clip_range
        stats = th.stack(
            [surrogate.loss, value, entropy_loss, loss, approx_kl, is_clipped.float().mean()]
        )
    return loss, stats


class _GaussianLoss(th.autograd.Function):
    """:func:`ppo_loss` of a diagonal Gaussian with its gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any,
        mean: th.Tensor,
        std: th.Tensor,
        values: th.Tensor,
        targets: PPOTargets,
        settings: LossSettings,
    ) -> tuple[th.Tensor, th.Tensor]:
        scale = 1.0 / len(values)
        inverse = std.reciprocal()
        log_norm = std.log().sum()
        z = (targets.actions - mean).mul_(inverse)
        z_squared = z.square()
        log_ratio = z_squared.sum(-1).mul_(-0.5).sub_(targets.old_log_prob)
        log_ratio.sub_(log_norm + len(std) * _HALF_LOG_2PI)
        ratio = log_ratio.exp()
        clip = settings.clip_range
        clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
        gain = targets.advantages * ratio
        pessimistic = targets.advantages * clipped
        chosen = th.min(gain, pessimistic)
        # Where the clipped term is the smaller one it is constant.
        grad_log_prob = th.where(gain <= pessimistic, gain, 0.0).mul_(-scale)
        grad_mean = z.mul_(inverse).mul_(grad_log_prob.unsqueeze(-1))
        grad_std = (grad_log_prob @ z_squared - grad_log_prob.sum() - settings.ent_coef) * inverse
        errors, grad_values = _value_errors(values, targets, settings)
        surrogate, value = -chosen.mean(), errors.mean()
        entropy_loss = -(log_norm + len(std) * (0.5 + _HALF_LOG_2PI))
        loss = surrogate + settings.ent_coef * entropy_loss + settings.vf_coef * value
        approx_kl = (ratio - log_ratio).mean() - 1.0
        clip_fraction = clipped.ne_(ratio).mean()
        ctx.save_for_backward(grad_mean, grad_std, grad_values.mul_(2.0 * scale * settings.vf_coef))
        stats = th.stack([surrogate, value, entropy_loss, loss, approx_kl, clip_fraction])
        ctx.mark_non_differentiable(stats)
        return loss, stats

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> Any:
        grad_mean, grad_std, grad_values = ctx.saved_tensors
        factor = grad_outputs[0]
        return grad_mean * factor, grad_std * factor, grad_values * factor, None, None


def _value_errors(
    values: th.Tensor, targets: PPOTargets, settings: LossSettings
) -> tuple[th.Tensor, th.Tensor]:
    """Return squared errors and half their gradients, ``(B,)`` each."""
    error = values - targets.returns
    squared = error.square()
    sb3 = settings.sb3_value_clip is not None
    clip = settings.sb3_value_clip if sb3 else settings.value_clip
    if clip is None:
        return squared, error
    change = values - targets.old_values
    clipped_change = change.clamp(-clip, clip)
    clipped_error = clipped_change - change + error
    clipped_squared = clipped_error.square()
    clipped_grad = th.where(clipped_change == change, clipped_error, 0.0)
    if sb3:
        return clipped_squared, clipped_grad
    is_free = squared >= clipped_squared
    return th.max(squared, clipped_squared), th.where(is_free, error, clipped_grad)


def gaussian_ppo_loss(
    mean: th.Tensor,
    std: th.Tensor,
    values: th.Tensor,
    targets: PPOTargets,
    settings: LossSettings,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Return what :func:`ppo_loss` returns for a diagonal Gaussian, in a third of the operations.

    :param mean: ``(B, A)``
    :param std: ``(A,)``
    :param values: ``(B,)``
    :param targets: of the minibatch
    :param settings: numbers in the loss
    """
    result: tuple[th.Tensor, th.Tensor] = _GaussianLoss.apply(  # type: ignore[no-untyped-call]
        mean, std, values, targets, settings
    )
    return result
