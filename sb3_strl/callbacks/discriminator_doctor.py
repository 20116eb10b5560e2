"""A doctor for the discriminator of a motion prior."""

from __future__ import annotations

import math
from collections import deque

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl.algorithms import APPO
from sb3_strl.callbacks.discriminator_verdicts import (
    DoctorReport,
    Measures,
    Settings,
    Verdict,
    diagnose,
)
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data import MotionLibrary
from sb3_strl.objectives.expert import ExpertSource, resolve_expert
from sb3_strl.objectives.motion_prior import AdversarialMotionPrior
from sb3_strl.policies.discriminator import AMPDiscriminator

_MAX_ROWS = 2048
_LOWEST = {"lsgan": 0.0, "bce": 0.0, "wgan": math.exp(-1.0)}
_SCALE = {"lsgan": 1.0, "bce": math.log(2.0), "wgan": math.e - math.exp(-1.0)}
"""Lowest style reward, and its range, or its value for a logit of 0 where it has no bound."""


class DiscriminatorDoctor(BaseCallback):
    r"""
    Examine the discriminator after every rollout of
    :class:`~sb3_strl.algorithms.APPO`, name what is wrong and say what to change.

    Examined are the windows of the rollout before the discriminator trains on them, at most 2048 of
    each side. Medians over ``window`` rollouts are judged; the first row that holds is the verdict:

    ===================== ==================================================================
    ``collapsed``         the style reward spans less than 2 % of its scale over all windows, or
                          a measure of one of the rollouts is NaN
    ``overfit on expert`` accuracy on windows trained on - on others > 0.15
    ``underfit``          accuracy < 0.65, and a linear classifier is better by 0.15
    ``saturated``         accuracy of both sides >= 0.95 and ``style_share < 0.1``
    ``healthy``           otherwise
    ===================== ==================================================================

    Why these numbers. *2 %*: such a span adds to the advantages less than the noise of an ordinary
    return, so everybody is paid alike. *0.15*: with 2048 windows the standard error of an accuracy
    is at most 0.011 and of a difference 0.016; neighbouring windows of a motion are alike, and even
    with one in twenty of them independent (0.07) 0.15 is two standard errors. *0.65*: guessing is
    0.5; a discriminator that cannot tell a good policy from the expert is no patient, so a linear
    classifier (Fisher 1936, fitted to half of the environments and tested on the others) must show
    that there is something to see. *0.95 and 0.1*: certainty alone is how every run begins, when
    the policy stumbles. It is an illness where the policy earns less than a tenth of what the
    expert would: there the reward of a bounded loss is flat (Arjovsky and Bottou 2017,
    https://arxiv.org/abs/1701.04862) and no direction is better than another. One stumble in
    twenty windows, 0.05, is what a policy close to the expert still shows.

    Logged under ``discriminator/``: ``verdict`` and all of
    :class:`~sb3_strl.callbacks.discriminator_verdicts.Measures`. Three of them are evidence for the
    advice, whatever the verdict. Replay age and normaliser drift: a mean window older than 50
    updates, or a normaliser that moves by more than 0.1 standard deviations per update, as in every
    run's first rollouts, has the discriminator chase the past. Gradient norm and margin: a logit
    that climbs its whole margin within 0.1 standard deviations of the features is a step, which no
    policy gradient sees from its foot.

    Random numbers of the training are not touched; the host waits for the device only between
    rollouts.

    :param held_out: motions that the run does not train on, as ``expert_source`` of APPO; ``None``:
        windows of the new rollout stand for them, which cannot show that few clips were memorised
    :param window: rollouts to judge together
    :param verbose: 1 writes the report to the logger when training ends, 0 does not
    :raises StrlTypeError: if the algorithm has no motion prior
    :raises StrlValueError: if ``window`` is not positive or the held-out windows have another width
    """

    discriminator: AMPDiscriminator
    prior: AdversarialMotionPrior

    def __init__(
        self,
        held_out: MotionLibrary | ExpertSource | None = None,
        window: int = 5,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        if window < 1:
            raise StrlValueError(
                f"DiscriminatorDoctor: window is {window}. Expected at least one rollout."
            )
        self.held_out = held_out
        self.verdicts: list[Verdict] = []
        self._recent: deque[Measures] = deque(maxlen=window)
        self._seen: th.Tensor | None = None
        self._statistics: tuple[th.Tensor, th.Tensor] | None = None

    @property
    def report(self) -> DoctorReport:
        """
        What was found so far.

        :raises StrlValueError: before the first examination
        """
        if not self._recent:
            raise StrlValueError(
                "DiscriminatorDoctor: nothing was examined yet. Train for at least two rollouts: "
                "model.learn(..., callback=doctor)."
            )
        medians = Measures.median(list(self._recent))
        return DoctorReport.build(self.verdicts, medians, self._settings())

    def _settings(self) -> Settings:
        options = self.prior.options
        return Settings(
            float(self.prior.optimizer.param_groups[0]["lr"]),
            self.discriminator.spec.discriminator_grad_pen,
            options.discriminator_weight_decay[0],
            options.discriminator_loss_coef,
            self.held_out is not None,
        )

    def _on_training_start(self) -> None:
        prior = next(
            (o for o in _objectives(self) if isinstance(o, AdversarialMotionPrior)),
            None,
        )
        if prior is None:
            raise StrlTypeError(
                f"DiscriminatorDoctor: {type(self.model).__name__} has no motion prior to examine. "
                "Expected APPO, ATPPO or EstimatorAPPO."
            )
        self.prior, self.discriminator = prior, prior.discriminator
        self._has_reported = False
        self._generator = th.Generator(self.model.device).manual_seed(0)
        self._source: ExpertSource | None = None
        if self.held_out is not None:
            self._bind_held_out()

    def _bind_held_out(self) -> None:
        model = self.model
        assert isinstance(model, APPO)
        assert model.tensor_env is not None
        groups = model.policy.obs_sets.get("amp", ())
        self._source = resolve_expert(self.held_out, model.tensor_env, groups)
        assert self._source is not None
        width = int(self._source.sample_features(2, self._generator).shape[-1])
        if width != self.discriminator.input_dim:
            raise StrlValueError(
                f"DiscriminatorDoctor: the held-out windows have {width} features. Expected "
                f"{self.discriminator.input_dim}, as the discriminator sees."
            )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        policy = _rows(buffer["amp/features"], buffer["amp/valid"])
        expert = _rows(buffer["amp/expert"], buffer["amp/expert_valid"])
        seen, self._seen = self._seen, expert
        if seen is not None and min(len(policy), len(expert), len(seen)) > 1:
            n_valid = float(buffer["amp/valid"].sum())
            self._recent.append(self._examine(policy, expert, seen, n_valid))
            self._tell()
        self._remember_statistics()

    def _tell(self) -> None:
        medians = Measures.median(list(self._recent))
        self.verdicts.append(diagnose(medians))
        self.logger.record("discriminator/verdict", self.verdicts[-1])
        for name, value in self._recent[-1]._asdict().items():
            self.logger.record(f"discriminator/{name}", value)

    def _on_training_end(self) -> None:
        # rl_zoo3 ends the training of its first callback twice.
        if self.verbose and self._recent and not self._has_reported:
            self.logger.info(str(self.report))
        self._has_reported = True

    # ------------------------------------------------------------------ examination

    @th.no_grad()
    def _examine(
        self, policy: th.Tensor, expert: th.Tensor, seen: th.Tensor, n_valid: float
    ) -> Measures:
        unseen = expert
        if self._source is not None:
            unseen = self._source.sample_features(_MAX_ROWS, self._generator).to(expert.device)
        doctor = self.discriminator
        logits = {"policy": self._logits(policy), "expert": self._logits(expert)}
        share, span = self._style(policy, expert)
        values = [
            (logits["expert"] > 0.0).float().mean(),
            (logits["policy"] < 0.0).float().mean(),
            logits["expert"].mean() - logits["policy"].mean(),
            _gradient_norm(doctor, expert),
            share,
            span,
            probe_accuracy(doctor.normalize(policy), doctor.normalize(expert)),
            (self._logits(seen) > 0.0).float().mean(),
            (self._logits(unseen) > 0.0).float().mean(),
            self._replay_age(n_valid),
            self._drift(),
        ]
        return Measures(*th.stack(values).tolist())

    def _logits(self, x: th.Tensor) -> th.Tensor:
        logits: th.Tensor = self.discriminator(self.discriminator.normalize(x))
        return logits.squeeze(-1)

    def _style(self, policy: th.Tensor, expert: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return ``style_share`` and ``style_span``."""
        spec = self.discriminator.spec
        coef = max(spec.style_reward_coef, 1e-12)
        own = self.discriminator.style_reward(policy) / coef
        best = self.discriminator.style_reward(expert) / coef
        lowest = _LOWEST[spec.loss]
        share = (own.mean() - lowest) / (best.mean() - lowest).clamp_min(1e-6)
        low, high = th.cat((own, best)).quantile(own.new_tensor([0.05, 0.95])).unbind()
        return share, (high - low) / _SCALE[spec.loss]

    def _replay_age(self, n_valid: float) -> th.Tensor:
        size, replay = self.prior.options.amp_replay_size, self.prior.replay
        if not size or replay is None:
            return th.zeros((), device=self.model.device)
        return replay.count.float() / (2.0 * max(n_valid, 1.0))

    def _remember_statistics(self) -> None:
        normalizer = self.discriminator.normalizer
        if normalizer is not None:
            self._statistics = (normalizer.mean.clone(), normalizer.std.clone())

    def _drift(self) -> th.Tensor:
        """Return how far means or log stds moved, root mean square over features, the larger."""
        normalizer = self.discriminator.normalizer
        if normalizer is None or self._statistics is None:
            return th.zeros((), device=self.model.device)
        mean, std = self._statistics
        shift = (normalizer.mean - mean) / (normalizer.std + normalizer.eps)
        stretch = ((normalizer.std + normalizer.eps) / (std + normalizer.eps)).log()
        return th.maximum(shift.square().mean(), stretch.square().mean()).sqrt()


def _objectives(callback: BaseCallback) -> list[object]:
    model = callback.model
    return list(model.objectives) if isinstance(model, APPO) else []


def _rows(field: th.Tensor, valid: th.Tensor) -> th.Tensor:
    """Return at most ``_MAX_ROWS`` valid rows of ``(T, N, F)``, environment by environment."""
    rows = field.transpose(0, 1)[valid.transpose(0, 1)]  # (n, F); once per rollout, it may wait
    return rows[:: -(-len(rows) // _MAX_ROWS)].clone() if len(rows) else rows.clone()


def _gradient_norm(discriminator: AMPDiscriminator, x: th.Tensor) -> th.Tensor:
    with th.enable_grad():
        inputs = discriminator.normalize(x).detach().requires_grad_()
        (gradients,) = th.autograd.grad(discriminator(inputs).sum(), inputs)
    norms: th.Tensor = gradients.norm(dim=-1)
    return norms.mean()


def probe_accuracy(policy: th.Tensor, expert: th.Tensor) -> th.Tensor:
    r"""
    Return how well a line separates the sides: Fisher's discriminant of the first halves, tested on
    the second ones.

    .. math:: w = (\Sigma + \lambda I)^{-1} (\mu_E - \mu_\pi)

    with :math:`\Sigma` the mean of both covariances and the threshold in the middle.

    :param policy: ``(n, F)``, normalised, environment by environment
    :param expert: ``(m, F)``
    :return: balanced accuracy, 0-d
    """
    fit = [side[: max(1, len(side) // 2)].double() for side in (policy, expert)]
    test = [side[len(side) // 2 :].double() for side in (policy, expert)]
    means = [side.mean(0) for side in fit]
    centred = [side - mean for side, mean in zip(fit, means, strict=True)]
    spread = sum((c.T @ c / len(c) for c in centred), th.zeros_like(means[0].diag())) / 2.0
    ridge = 1e-3 * spread.diagonal().mean() + 1e-6
    spread.diagonal().add_(ridge)
    direction = th.linalg.solve(spread, means[1] - means[0])
    middle = (means[0] + means[1]) @ direction / 2.0
    right = [(test[0] @ direction < middle), (test[1] @ direction > middle)]
    accuracy: th.Tensor = (right[0].float().mean() + right[1].float().mean()) / 2.0
    return accuracy
