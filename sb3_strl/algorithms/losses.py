"""PPO's own losses as pure functions of tensors."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch as th

from sb3_strl.common import distributed

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
    :param on_policy: whether the policy chose the action itself; ``None`` if it chose all
    """

    actions: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    old_values: th.Tensor
    returns: th.Tensor
    on_policy: th.Tensor | None = None


STAT_NAMES = (
    "policy_gradient_loss",
    "value_loss",
    "entropy_loss",
    "loss",
    "approx_kl",
    "clip_fraction",
)
_LOSS = STAT_NAMES.index("loss")


def masked_mean(values: th.Tensor, mask: th.Tensor | None) -> th.Tensor:
    """
    Return the mean of some rows, 0 if there are none.

    With several processes the divisor is the mean number of rows that count, so that the mean of
    the results over the processes is the mean over all their rows.

    :param values: ``(B,)``
    :param mask: ``(B,)`` bool, ``None`` for all
    """
    if mask is None:
        return values.mean()
    return values.masked_fill(~mask, 0.0).sum() / distributed.divisor(mask.sum())[1]


def standardize(values: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Subtract the mean and divide by the unbiased standard deviation plus 1e-8, both over all
    processes.

    :param values: any shape
    :param mask: the same shape, bool: rows that count; the others become 0
    """
    if mask is None and not distributed.is_active():
        return (values - values.mean()) / (values.std() + 1e-8)
    if mask is None:
        mask = th.ones_like(values, dtype=th.bool)
    count = distributed.sum_(mask.sum())
    mean = distributed.sum_(values.masked_fill(~mask, 0.0).sum()) / count.clamp_min(1)
    change = (values - mean).masked_fill(~mask, 0.0)
    variance = distributed.sum_(change.square().sum()) / (count - 1).clamp_min(1)
    return change / (variance.sqrt() + 1e-8)


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
    log_prob: th.Tensor,
    old_log_prob: th.Tensor,
    advantages: th.Tensor,
    clip_range: float,
    mask: th.Tensor | None = None,
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
    :param mask: ``(B,)`` bool, rows whose action the policy chose; the others have ratio 1
    """
    log_ratio = log_prob - old_log_prob
    if mask is not None:
        # Before the exponential: far from the policy it overflows, and 0 times infinity is NaN.
        log_ratio = log_ratio.masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = -masked_mean(th.min(advantages * ratio, advantages * clipped), mask)
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
    mask = targets.on_policy
    surrogate = surrogate_loss(
        log_prob, targets.old_log_prob, targets.advantages, settings.clip_range, mask
    )
    value = value_loss(
        values,
        targets.old_values,
        targets.returns,
        settings.value_clip,
        settings.sb3_value_clip,
    )
    entropy_loss = -masked_mean(entropy, mask)
    loss = surrogate.loss + settings.ent_coef * entropy_loss + settings.vf_coef * value
    with th.no_grad():
        approx_kl = masked_mean(surrogate.ratio - 1.0 - surrogate.log_ratio, mask)
        is_clipped = (surrogate.ratio - 1.0).abs() > settings.clip_range
        clip_fraction = masked_mean(is_clipped.float(), mask)
        stats = th.stack([surrogate.loss, value, entropy_loss, loss, approx_kl, clip_fraction])
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
        precision = inverse.square()
        log_norm = std.log().sum()
        change = targets.actions - mean
        squared = change.square()
        log_ratio = (squared @ precision).mul_(-0.5).sub_(targets.old_log_prob)
        log_ratio.sub_(log_norm + len(std) * _HALF_LOG_2PI)
        ratio = log_ratio.exp()
        clip = settings.clip_range
        clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
        gain = targets.advantages * ratio
        pessimistic = targets.advantages * clipped
        # Where the clipped term is the smaller one it is constant.
        grad_log_prob = gain.masked_fill(gain > pessimistic, 0.0).mul_(-scale)
        grad_mean = change.mul_(th.outer(grad_log_prob, precision))
        grad_std = (grad_log_prob @ squared).mul_(precision).sub_(grad_log_prob.sum())
        grad_std = grad_std.sub_(settings.ent_coef).mul_(inverse)
        errors, grad_values = _value_errors(values, targets, settings)
        grad_values.mul_(2.0 * scale * settings.vf_coef)
        ctx.save_for_backward(grad_mean, grad_std, grad_values)
        per_sample = th.stack(
            [
                th.min(gain, pessimistic, out=gain),
                errors,
                log_norm.expand(len(values)),
                ratio - log_ratio,
                clipped.ne_(ratio),
            ]
        )
        weights, offset = _statistics_of_means(settings, len(std), values.dtype, values.device)
        stats = th.addmv(offset, weights, per_sample.mean(1))
        ctx.mark_non_differentiable(stats)
        return stats[_LOSS].clone(), stats

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> Any:
        return *th._foreach_mul(ctx.saved_tensors, grad_outputs[0]), None, None


@lru_cache(maxsize=8)
def _statistics_of_means(
    settings: LossSettings, action_dim: int, dtype: th.dtype, device: th.device
) -> tuple[th.Tensor, th.Tensor]:
    r"""
    Return :data:`STAT_NAMES` as an affine function of five means over the minibatch.

    The means are those of the surrogate gain, the squared value error, :math:`\sum \ln \sigma`,
    :math:`\rho - \ln \rho` and the clip indicator.

    :return: weights ``(6, 5)`` and offset ``(6,)``
    """
    constant = action_dim * (0.5 + _HALF_LOG_2PI)  # of the entropy
    ent_coef, vf_coef = settings.ent_coef, settings.vf_coef
    weights = [
        [-1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, -1.0, 0.0, 0.0],
        [-1.0, vf_coef, -ent_coef, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
    offset = [0.0, 0.0, -constant, -ent_coef * constant, -1.0, 0.0]
    return (
        th.tensor(weights, dtype=dtype, device=device),
        th.tensor(offset, dtype=dtype, device=device),
    )


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
    clipped_error = (clipped_change - change).add_(error)
    clipped_squared = clipped_error.square()
    if sb3:
        return clipped_squared, clipped_error.masked_fill_(clipped_change != change, 0.0)
    # Inside the clip both errors are the same; where the clipped one is larger it is constant.
    grad = error.masked_fill_(clipped_squared > squared, 0.0)
    return th.max(squared, clipped_squared, out=squared), grad


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
