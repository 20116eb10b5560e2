"""How far a student's actions or latents are from a teacher's, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from torch.nn import functional

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.action_head import ActionHead

ACTION_DISTANCES = ("real", "mse_sum", "l1", "tanh", "scaled_tanh", "max_log_prob", "kl")
LATENT_DISTANCES = ("real", "mse_sum", "l1", "tanh", "scaled_tanh")
BOUNDED = ("tanh", "scaled_tanh")
"""Distances of numbers in (-1, 1)."""
PROBABILISTIC = ("max_log_prob", "kl")
"""Distances of a distribution, for discrete actions too."""

_EDGE = 1.0 - 1e-6


def check_distance(where: str, option: str, name: str, known: Sequence[str]) -> None:
    """
    Refuse an unknown distance.

    :param where: who complains
    :param option: the keyword
    :param name: its value
    :param known: what it may be
    :raises StrlValueError: naming the closest one
    """
    if name not in known:
        raise StrlValueError(
            f"{where}: unknown {option} '{name}'.{suggest(name, known)} Known: {list(known)}."
        )


def bounded_logits(values: th.Tensor) -> th.Tensor:
    r"""Return :math:`2 \, \mathrm{artanh}(x)`, the logit of :math:`(x + 1) / 2`."""
    return 2.0 * values.clamp(-_EDGE, _EDGE).atanh()


def vector_distance(
    name: str, output: th.Tensor, target: th.Tensor, logits: th.Tensor | None = None
) -> th.Tensor:
    r"""
    Return the distance of vectors, with :math:`\delta = x - x^*` over the last of D columns.

    ``real`` :math:`\|\delta\|_2` (its gradient has length one however close they are, prefer
    ``mse_sum``), ``mse_sum`` :math:`\sum_j \delta_j^2`, ``l1`` :math:`\sum_j |\delta_j|`,

    .. math::
        \texttt{tanh} = 2 \, \mathrm{mean}_j \, \mathrm{BCE}(\tfrac{x_j+1}{2}, \tfrac{x^*_j+1}{2}),
        \quad \texttt{scaled\_tanh} = \texttt{tanh} \cdot \|\delta\|_1 / D

    The last two take numbers in :math:`[-1, 1]`; the target is clipped to them. Their minimum over
    x is not zero, see :func:`target_entropy`.

    :param name: see above
    :param output: ``(..., D)``, of the student
    :param target: ``(..., D)``, of the teacher
    :param logits: ``(..., D)``, logit of :math:`(x + 1) / 2`, which for :math:`x = \tanh z` is
        :math:`2 z`; given, it spares computing it from x, where saturation has no gradient
    :return: ``(...,)``
    """
    gap = output - target
    if name == "real":
        norm: th.Tensor = th.linalg.vector_norm(gap, dim=-1)
        return norm
    if name == "mse_sum":
        return gap.square().sum(-1)
    if name == "l1":
        return gap.abs().sum(-1)
    wanted = (target.clamp(-1.0, 1.0) + 1.0) / 2.0
    logits = bounded_logits(output) if logits is None else logits
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    distance = 2.0 * entropy.mean(-1)
    return distance * gap.abs().mean(-1) if name == "scaled_tanh" else distance


def target_entropy(target: th.Tensor) -> th.Tensor:
    r"""
    Return what ``tanh`` measures where student and teacher agree, ``(...,)``.

    :math:`-2 \, \mathrm{mean}_j (p_j \ln p_j + (1 - p_j) \ln (1 - p_j))`,
    :math:`p = (x^* + 1) / 2`; subtracted from ``tanh`` it leaves a Kullback-Leibler divergence.

    :param target: ``(..., D)``
    """
    p = (target.clamp(-1.0, 1.0) + 1.0) / 2.0
    return -2.0 * (th.xlogy(p, p) + th.xlogy(1.0 - p, 1.0 - p)).mean(-1)


def action_distance(
    name: str,
    head: ActionHead,
    params: TensorDict,
    labels: th.Tensor,
    label_params: Mapping[str, th.Tensor],
) -> th.Tensor:
    r"""
    Return the distance of a student's action distribution from a teacher's label.

    The vector distances compare the mean, ``max_log_prob`` is :math:`-\ln \pi(a^*)`, ``kl`` is
    :math:`KL(\pi^* \| \pi)`.

    :param name: one of :data:`ACTION_DISTANCES`
    :param head: of the student
    :param params: of the student's distribution, ``(B, ...)``
    :param labels: ``(B, A)`` or ``(B,)``
    :param label_params: of the teacher's distribution, needed for ``kl``
    :return: ``(B,)``
    """
    if name == "max_log_prob":
        return -head.log_prob(params, labels)
    if name == "kl":
        return head.kl(dict(label_params), params)
    pre = params.get("pre_tanh")
    return vector_distance(name, head.mode(params), labels, None if pre is None else 2.0 * pre)


def check_action_distance(where: str, name: str, policy: Any, is_continuous: bool) -> None:
    """
    Refuse a distance that a policy's actions do not have.

    :param where: who complains
    :param name: of the distance
    :param policy: the student
    :param is_continuous: whether actions are vectors of numbers
    :raises StrlValueError: for an unknown one, a vector distance of discrete actions, or a bounded
        one of an unbounded mean
    """
    check_distance(where, "distill_target", name, ACTION_DISTANCES)
    if not is_continuous and name not in PROBABILISTIC:
        raise StrlValueError(
            f"{where}: distill_target '{name}' compares vectors, but the actions are "
            f"{policy.action_space}. Use one of {list(PROBABILISTIC)}."
        )
    if name in BOUNDED and not isinstance(policy.mu_activation, th.nn.Tanh):
        raise StrlValueError(
            f"{where}: distill_target '{name}' compares means in [-1, 1]. Pass "
            "policy_kwargs=dict(mu_activation='tanh'), or use 'mse_sum'."
        )
