"""Adversarial motion prior: a network that tells the expert's motion from the policy's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as nnf

from sb3_strl.common import distributed
from sb3_strl.common.errors import StrlValueError, check_known, suggest
from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.policies.networks import MlpModel

LOSSES = ("lsgan", "bce", "wgan")
"""Discriminator losses; in each of them a high logit means expert."""
PENALISED = ("expert", "policy", "both")
"""Rows whose gradient is penalised."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSpec:
    """
    What a discriminator is built from.

    :param style_reward_coef: scale of the style reward, not negative
    :param hidden_dims: widths of the hidden layers; empty: a linear discriminator
    :param task_reward_lerp: share of the task reward in the mixture, in [0, 1]; 0 discards it
    :param discriminator_grad_pen: ``g``, weight of the gradient penalty; 0 skips its computation
    :param loss: ``"lsgan"``, ``"bce"`` or ``"wgan"``, see :class:`AMPDiscriminator`
    :param grad_pen_on: rows whose gradient is penalised, ``"expert"``, ``"policy"`` or ``"both"``
    :param activation: activation of the hidden layers; with ReLU the gradient penalty needs no
        second-order differentiation
    :param normalize: normalise the features of both sides with one running statistic
    :param normalizer_until: freeze that statistic after so many samples; ``None``: never
    :param normalizer_eps: as ``eps`` of :class:`EmpiricalNormalization`
    :param wgan_eta: slope of the bound ``tanh(eta d)`` of ``"wgan"``, positive
    :raises StrlValueError: if a value is out of its range or nobody knows a name
    """

    style_reward_coef: float = 1.0
    hidden_dims: tuple[int, ...] = (512, 256)
    task_reward_lerp: float = 0.0
    discriminator_grad_pen: float = 5.0
    loss: str = "lsgan"
    grad_pen_on: str = "expert"
    activation: str | type[nn.Module] = "relu"
    normalize: bool = True
    normalizer_until: int | None = None
    normalizer_eps: float = 1e-2
    wgan_eta: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        _check_range("style_reward_coef", self.style_reward_coef)
        _check_range("task_reward_lerp", self.task_reward_lerp, high=1.0)
        _check_range("discriminator_grad_pen", self.discriminator_grad_pen)
        _check_range("wgan_eta", self.wgan_eta, low=math.ulp(0.0))
        _check_name("loss", self.loss, LOSSES)
        _check_name("grad_pen_on", self.grad_pen_on, PENALISED)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> DiscriminatorSpec:
        """
        Build the specification from options, all of which may be left out.

        :param options: values by name
        :raises StrlTypeError: if nobody knows a name
        """
        check_known("DiscriminatorSpec", "option", options, [field.name for field in fields(cls)])
        return cls(**options)


class DiscriminatorLosses(NamedTuple):
    """
    Losses of one minibatch, 0-d tensors; all but ``total`` are detached.

    :param expert_loss: ``L_E``, mean over the expert's rows
    :param policy_loss: ``L_pi``, mean over the policy's valid rows
    :param grad_pen: ``g mean |grad D|^2``, the weight included
    :param total: ``coef (L_E / 2 + L_pi / 2 + grad_pen)``, to differentiate; 0 where one side has
        no valid row
    :param expert_logit: mean logit of the expert's rows
    :param policy_logit: mean logit of the policy's valid rows
    :param expert_accuracy: share of the expert's rows with a positive logit
    :param policy_accuracy: share of the policy's valid rows with a negative logit
    :param grad_norm: mean Euclidean norm of the penalised gradients
    """

    expert_loss: th.Tensor
    policy_loss: th.Tensor
    grad_pen: th.Tensor
    total: th.Tensor
    expert_logit: th.Tensor
    policy_logit: th.Tensor
    expert_accuracy: th.Tensor
    policy_accuracy: th.Tensor
    grad_norm: th.Tensor


class StyleReward(NamedTuple):
    """
    Rewards of a batch, each ``(n,)``.

    :param style: the discriminator's
    :param task: the environment's
    :param total: ``(1 - lerp) style + lerp task``
    """

    style: th.Tensor
    task: th.Tensor
    total: th.Tensor


class AMPDiscriminator(nn.Module):
    """
    Discriminator of an adversarial motion prior; a high logit ``d`` means expert.

    =====  ==========================  ===========================  =============================
    loss   ``L_E`` (mean over expert)  ``L_pi`` (mean over policy)  style reward, times the coef
    =====  ==========================  ===========================  =============================
    lsgan  ``(d - 1)^2``               ``(d + 1)^2``                ``max(0, 1 - (d - 1)^2 / 4)``
    bce    ``-log sigmoid(d)``         ``-log(1 - sigmoid(d))``     ``-log(1 - sigmoid(d))``
    wgan   ``-tanh(eta d)``            ``tanh(eta d)``              ``exp(tanh(eta d))``
    =====  ==========================  ===========================  =============================

    Sources: lsgan, Peng et al. 2021, https://arxiv.org/abs/2104.02180; bce, Ho and Ermon 2016,
    https://arxiv.org/abs/1606.03476; wgan with the bound that keeps the critic's scale finite, Tang
    et al. 2023, https://arxiv.org/abs/2309.14225. The penalty ``g mean |grad_x D(x)|^2`` pulls the
    gradient to zero for every loss (Mescheder et al. 2018, https://arxiv.org/abs/1801.04406); it is
    taken at the normalised features.

    One normaliser serves both sides. Two of them would whiten each side by itself, and a
    difference in mean or scale could not be seen any more. :meth:`forward` and :meth:`grad_pen`
    take normalised features, every other method takes raw ones.

    :param input_dim: number of features, ``n_frames * frame_features``
    :param spec: what to build, ``None``: the defaults
    :raises StrlValueError: if ``input_dim`` or a hidden width is not positive
    """

    def __init__(self, input_dim: int, spec: DiscriminatorSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = DiscriminatorSpec() if spec is None else spec
        self.input_dim = input_dim
        self.trunk = MlpModel(input_dim, spec.hidden_dims, None, spec.activation)
        self.head = nn.Linear(self.trunk.output_size, 1)
        self.normalizer: EmpiricalNormalization | None = None
        if spec.normalize:
            self.normalizer = EmpiricalNormalization(
                input_dim, spec.normalizer_eps, spec.normalizer_until
            )
        self._linears = [layer for layer in self.trunk.model if isinstance(layer, nn.Linear)]
        self._is_piecewise_linear = all(
            isinstance(layer, nn.Linear | nn.ReLU) for layer in self.trunk.model
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Return the logits; high means expert.

        :param x: ``(..., input_dim)``, normalised
        :return: ``(..., 1)``
        """
        logits_expert_is_high: th.Tensor = self.head(self.trunk(x))
        return logits_expert_is_high

    def normalize(self, x: th.Tensor) -> th.Tensor:
        """
        Normalise with frozen statistics.

        :param x: ``(..., input_dim)``, raw
        :return: the same shape
        """
        return x if self.normalizer is None else self.normalizer.forward(x)

    def update_normalizer(
        self,
        policy_x: th.Tensor,
        expert_x: th.Tensor,
        policy_mask: th.Tensor | None = None,
        expert_mask: th.Tensor | None = None,
    ) -> None:
        """
        Learn the statistics of both sides together, in training mode only.

        :param policy_x: ``(..., input_dim)``, raw
        :param expert_x: ``(..., input_dim)``, raw, of about the same size
        :param policy_mask: ``(...,)``, bool, valid rows; ``None``: all
        :param expert_mask: ``(...,)``, bool, valid rows; ``None``: all
        """
        if self.normalizer is not None:
            # Two merges give the statistics of the concatenation and need no copy of it.
            self.normalizer.update(policy_x, policy_mask)
            self.normalizer.update(expert_x, expert_mask)

    def grad_pen(self, x: th.Tensor) -> th.Tensor:
        """
        Return ``g mean |grad_x D(x)|^2``.

        :param x: ``(n, input_dim)``, normalised
        :return: scalar
        """
        # The clone makes an ordinary tensor of one that was made in inference mode.
        _, gradients = self._logits_and_gradients(x.detach().clone(), slice(None))
        return _mean(gradients.square().sum(-1), None) * self.spec.discriminator_grad_pen

    def losses(
        self,
        policy_x: th.Tensor,
        expert_x: th.Tensor,
        policy_mask: th.Tensor | None = None,
        expert_mask: th.Tensor | None = None,
        coef: float | th.Tensor = 1.0,
    ) -> DiscriminatorLosses:
        """
        Losses of one minibatch; gradients reach the discriminator only.

        :param policy_x: ``(n, input_dim)``, raw; rows that are not valid hold anything finite
        :param expert_x: ``(m, input_dim)``, raw
        :param policy_mask: ``(n,)``, bool, valid rows; ``None``: all
        :param expert_mask: ``(m,)``, bool, valid rows; ``None``: all
        :param coef: scale of the total
        """
        n_policy, n_rows = policy_x.shape[0], policy_x.shape[0] + expert_x.shape[0]
        with th.no_grad():
            x = self.normalize(th.cat((policy_x, expert_x)))  # (n + m, input_dim), one pass
            policy = _side(slice(0, n_policy), policy_mask, x)
            expert = _side(slice(n_policy, n_rows), expert_mask, x)
            penalised = self._penalised(policy, expert, x)

        logits, gradients = self._logits_and_gradients(x, penalised.rows)
        policy_logits, expert_logits = logits[policy.rows], logits[expert.rows]
        expert_loss = _mean(self._loss(expert_logits, is_expert=True), expert.weights)
        policy_loss = _mean(self._loss(policy_logits, is_expert=False), policy.weights)
        squared_norms = gradients.square().sum(-1)
        grad_pen = _mean(squared_norms, penalised.weights) * self.spec.discriminator_grad_pen
        total = (0.5 * (expert_loss + policy_loss) + grad_pen) * coef
        for side in (policy, expert):
            total = total if side.exists is None else total * side.exists
        with th.no_grad():
            return DiscriminatorLosses(
                expert_loss=expert_loss.detach(),
                policy_loss=policy_loss.detach(),
                grad_pen=grad_pen.detach(),
                total=total,
                expert_logit=_mean(expert_logits, expert.weights),
                policy_logit=_mean(policy_logits, policy.weights),
                expert_accuracy=_mean((expert_logits > 0.0).to(x.dtype), expert.weights),
                policy_accuracy=_mean((policy_logits < 0.0).to(x.dtype), policy.weights),
                grad_norm=_mean(squared_norms.sqrt(), penalised.weights),
            )

    def _penalised(self, policy: _Side, expert: _Side, x: th.Tensor) -> _Side:
        if self.spec.discriminator_grad_pen == 0.0:
            return _Side(slice(0, 0))
        if self.spec.grad_pen_on != "both":
            return policy if self.spec.grad_pen_on == "policy" else expert
        if policy.valid is None and expert.valid is None:
            return _Side(slice(None))
        n_policy = policy.rows.stop
        valid = x.new_ones(x.shape[0], dtype=th.bool)
        for side, rows in ((policy, valid[:n_policy]), (expert, valid[n_policy:])):
            if side.valid is not None:
                rows.copy_(side.valid)
        return _side(slice(0, x.shape[0]), valid, x)

    @th.no_grad()
    def style_reward(self, x: th.Tensor) -> th.Tensor:
        """
        Style reward, see the class for the formula of each loss.

        :param x: ``(..., input_dim)``, raw
        :return: ``(...,)``
        """
        # squeeze(-1): a bare squeeze would drop the batch dimension of a single environment, too.
        d = self.forward(self.normalize(x)).squeeze(-1)
        if self.spec.loss == "lsgan":
            reward = d.sub_(1.0).square_().mul_(-0.25).add_(1.0).clamp_min_(0.0)
        elif self.spec.loss == "bce":
            reward = nnf.softplus(d)  # -log(1 - sigmoid(d)) without overflow
        else:
            reward = d.mul_(self.spec.wgan_eta).tanh_().exp_()
        return reward.mul_(self.spec.style_reward_coef)

    @th.no_grad()
    def predict_style_reward(self, x: th.Tensor, task: th.Tensor) -> StyleReward:
        """
        Style reward and its mixture with the task's.

        :param x: ``(n, input_dim)``, raw
        :param task: ``(n,)``, rewards of the environment
        """
        style = self.style_reward(x)
        lerp = self.spec.task_reward_lerp
        return StyleReward(style, task, (1.0 - lerp) * style + lerp * task)

    def _loss(self, logits: th.Tensor, is_expert: bool) -> th.Tensor:
        if self.spec.loss == "lsgan":
            return (logits - (1.0 if is_expert else -1.0)).square()
        if self.spec.loss == "bce":
            return nnf.softplus(-logits if is_expert else logits)
        eta = self.spec.wgan_eta
        return (logits * (-eta if is_expert else eta)).tanh()  # tanh is odd

    def _logits_and_gradients(self, x: th.Tensor, rows: slice) -> tuple[th.Tensor, th.Tensor]:
        """Return the logits ``(n,)`` and, for the given rows, their gradients to the features."""
        if not self._is_piecewise_linear:
            x = x.requires_grad_()
            logits = self.forward(x).squeeze(-1)
            return logits, th.autograd.grad(logits[rows].sum(), x, create_graph=True)[0][rows]
        # The chain rule by hand: the slope of ReLU is a constant 0 or 1, so that the penalty is an
        # ordinary first-order graph, cheaper than a double backward and open to torch.compile.
        hidden, slopes = x, []
        for linear in self._linears:
            hidden = linear(hidden).relu()
            slopes.append(hidden[rows].detach() > 0.0)
        gradients = self.head.weight.expand(x[rows].shape[0], -1)
        for linear, slope in zip(reversed(self._linears), reversed(slopes), strict=True):
            gradients = (gradients * slope) @ linear.weight
        return self.head(hidden).squeeze(-1), gradients


class _Side(NamedTuple):
    """Rows of one side, weights that sum to 1 over its valid ones, and whether there are any."""

    rows: slice
    valid: th.Tensor | None = None
    weights: th.Tensor | None = None
    exists: th.Tensor | None = None


def _side(rows: slice, valid: th.Tensor | None, x: th.Tensor) -> _Side:
    if valid is None:
        is_empty = rows.start == rows.stop
        return _Side(rows, exists=x.new_zeros(()) if is_empty else None)
    weights = valid.to(x.dtype)
    # With several processes: weights whose mean over them is that over all rows.
    n_valid, share = distributed.divisor(weights.sum())
    return _Side(rows, valid, weights / share, n_valid.clamp_max(1.0))


def _mean(values: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
    # A sum over no rows is 0, a mean over no rows is NaN.
    if weights is not None:
        return th.dot(values, weights)
    return values.mean() if values.shape[0] > 0 else values.sum()


def _check_range(name: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        expected = "positive" if low > 0.0 else f"in [0, {high:g}]".replace("inf]", "infinity)")
        raise StrlValueError(
            f"DiscriminatorSpec: {name} is {value}. Expected a number {expected}."
            f" Change {name}, or leave it out for the default."
        )


def _check_name(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StrlValueError(
            f"DiscriminatorSpec: unknown {option} '{value}'.{suggest(value, known)}"
            f" Expected one of {sorted(known)}."
        )
