"""Training the state estimator and the privilege adaptor by regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch as th
from torch.nn import functional

from sb3_strl.buffers.presets import estimator_target_fields, target_field
from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest
from sb3_strl.common.types import TensorDict
from sb3_strl.objectives.base import Context, Objective
from sb3_strl.policies.estimation import Estimator
from sb3_strl.policies.outputs import PolicyOutput

NAME = "estimation"
_SUFFIX = "_loss"


@dataclass(frozen=True, kw_only=True)
class EstimationOptions:
    """
    Options of :class:`Estimation`.

    :param loss_func: name of an elementwise loss in :mod:`torch.nn.functional`, e.g.
        ``"mse_loss"``, ``"l1_loss"``, ``"smooth_l1_loss"`` or ``"huber_loss"``
    :param loss_kwargs: its further arguments, e.g. ``{"delta": 0.5}``
    :param coefs: factor on the loss by estimator, ``"estimator"`` and ``"adaptor"``
    """

    loss_func: str = "mse_loss"
    loss_kwargs: Mapping[str, Any] = field(default_factory=dict)
    coefs: Mapping[str, float] = field(default_factory=dict)


class _Errors:
    """Sums over the minibatches of one update for one estimator, ``(E,)`` each."""

    def __init__(self, targets: th.Tensor) -> None:
        self.variance = targets.flatten(0, -2).var(0, unbiased=False)
        self.squared = th.zeros_like(self.variance)
        self.absolute = th.zeros_like(self.variance)
        self.loss = self.variance.new_zeros(())
        self.rows = 0
        self.batches = 0

    def add(self, error: th.Tensor, loss: th.Tensor) -> None:
        """Add one minibatch of errors ``(B, E)``."""
        self.squared.add_(error.square().sum(0))
        self.absolute.add_(error.abs().sum(0))
        self.loss.add_(loss)
        self.rows += len(error)
        self.batches += 1


class Estimation(Objective):
    r"""
    Regress privileged quantities from what the robot senses (Ji et al. 2022,
    https://arxiv.org/abs/2202.05481; the adaptor as in Kumar et al. 2021,
    https://arxiv.org/abs/2107.04034).

    .. math:: L = \sum_{e} c_e \, \mathrm{mean}_{samples} \sum_j \ell(\hat y_{e,j}, y_{e,j})

    Targets :math:`y` come from the critic's groups at the same step, in the units of the running
    statistics of the target, which are frozen during an update. The estimate comes from the pass
    that also yields the log-probabilities, so it uses the same hidden states. It enters the actor's
    observation without gradient: this loss trains the estimators alone, and PPO's losses never do;
    with ``use_actor_rnn`` both train the actor's memory. The sum over j makes the loss grow with
    the number of targets.

    :param options: see :class:`EstimationOptions`
    :param where: name of the algorithm, for messages
    """

    def __init__(self, options: EstimationOptions, where: str = "EstimatorPPO") -> None:
        super().__init__(NAME)
        self.options = options
        self.where = where
        self._estimators: list[tuple[str, Estimator]] = []
        self._errors: dict[str, _Errors] = {}

    def setup(self, ctx: Context) -> None:
        """
        Bind to the policy's estimators.

        :raises StrlTypeError: if the policy has none, or the loss or its arguments do not exist
        :raises StrlValueError: if a coefficient is negative or the loss is not elementwise
        """
        self._estimators = ctx.policy.each_estimator()
        if not self._estimators:
            raise StrlTypeError(
                f"{self.where}: the policy {type(ctx.policy).__name__} has no estimator. Use a "
                "policy whose name has 'Estimator' or 'Privilege', e.g. 'EstimatorPolicy'."
            )
        for name, coef in self.options.coefs.items():
            if not coef >= 0.0:
                raise StrlValueError(
                    f"{self.where}: {name}_loss_coef is {coef}. It must not be negative."
                )
        self._loss = self._resolve_loss()

    def _resolve_loss(self) -> Callable[..., th.Tensor]:
        name, kwargs = self.options.loss_func, dict(self.options.loss_kwargs)
        known = [key for key in vars(functional) if key.endswith(_SUFFIX) and key[0] != "_"]
        if name not in known:
            raise StrlTypeError(
                f"{self.where}: unknown estimator_loss_func '{name}'.{suggest(name, known)} "
                "Expected an elementwise loss of torch.nn.functional: 'mse_loss', 'l1_loss', "
                "'smooth_l1_loss' or 'huber_loss'."
            )
        function: Callable[..., th.Tensor] = vars(functional)[name]
        sample = th.zeros(2, 3)
        try:
            shape = tuple(function(sample, sample, reduction="none", **kwargs).shape)
        except (TypeError, ValueError, RuntimeError) as error:
            raise StrlTypeError(
                f"{self.where}: estimator_loss_func '{name}' with estimator_loss_kwargs={kwargs} "
                f"does not work: {error}. Expected an elementwise loss such as 'mse_loss', and its "
                "own arguments."
            ) from error
        if shape != (2, 3):
            raise StrlValueError(
                f"{self.where}: estimator_loss_func '{name}' is not elementwise. Use 'mse_loss', "
                "'l1_loss', 'smooth_l1_loss' or 'huber_loss'."
            )
        return lambda prediction, target: function(prediction, target, reduction="none", **kwargs)

    def buffer_fields(self) -> Mapping[str, FieldSpec]:
        """Return a field of targets for every estimator."""
        return estimator_target_fields({name: e.output_size for name, e in self._estimators})

    @th.no_grad()
    def start_update(self, buffer: RolloutBuffer) -> None:
        """Fill the targets of the whole rollout."""
        targets_of = {t.group for _, e in self._estimators for t in e.targets}
        obs = buffer.obs_here(targets_of)
        for name, estimator in self._estimators:
            targets = buffer[target_field(name)]
            targets.copy_(estimator.standardized_target(obs))
            self._errors[name] = _Errors(targets)

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> th.Tensor | None:
        """Return the weighted regression losses of all estimators."""
        total: th.Tensor | None = None
        for name, _ in self._estimators:
            estimate, target = out.estimates[name], batch.extras[target_field(name)]
            loss = self._loss(estimate, target).sum(-1).mean()
            self._errors[name].add((estimate.detach() - target), loss.detach())
            coef = self.options.coefs.get(name, 1.0)
            if coef == 0.0:
                continue
            loss = loss * coef
            total = loss if total is None else total + loss
        return total

    @th.no_grad()
    def stats(self) -> TensorDict:
        r"""
        Return for every estimator its loss, the share of variance explained, and errors in raw
        units.

        :math:`R^2 = 1 - \mathrm{mean}_B (\hat y - y)^2 / \mathrm{Var}_{rollout}(y)`, averaged over
        those targets that vary; NaN if none does.
        """
        stats: TensorDict = {}
        for name, estimator in self._estimators:
            errors = self._errors.get(name)
            if errors is None or not errors.batches:
                continue
            squared, absolute = errors.squared / errors.rows, errors.absolute / errors.rows
            scale = _raw_scale(estimator, squared)
            r2 = th.where(errors.variance > 1e-8, 1.0 - squared / errors.variance, th.nan)
            stats[f"{name}/loss"] = errors.loss / errors.batches
            stats[f"{name}/r2"] = r2.nanmean()
            stats[f"{name}/rmse"] = (squared * scale.square()).mean().sqrt()
            stats[f"{name}/mae"] = (absolute * scale).mean()
        return stats

    def describe(self) -> tuple[str, str, str]:
        """Return name, coefficients and hooks."""
        coefs = {name: self.options.coefs.get(name, 1.0) for name, _ in self._estimators}
        return (self.name, str(coefs or "-"), super().describe()[2])


def _raw_scale(estimator: Estimator, like: th.Tensor) -> th.Tensor:
    """Return raw units per unit of the estimate, ``(E,)``."""
    ones, zeros = th.ones_like(like), th.zeros_like(like)
    return estimator.raw(ones) - estimator.raw(zeros)
