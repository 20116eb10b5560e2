"""What measurements of a discriminator mean, and what to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

from sb3_strl.common.tables import format_table

Verdict = Literal["healthy", "saturated", "collapsed", "underfit", "overfit on expert"]

MIN_SPAN = 0.02
MIN_GAP = 0.15
GUESSING = 0.65
CERTAIN = 0.95
MIN_SHARE = 0.1
MIN_WIDTH = 0.1
MAX_DRIFT = 0.1
MAX_AGE = 50.0


class Measures(NamedTuple):
    """
    One examination of a discriminator, or the median of several.

    :param expert_accuracy: share of the expert's windows with a positive logit
    :param policy_accuracy: share of the policy's windows with a negative logit
    :param margin: mean logit of the expert minus mean logit of the policy
    :param grad_norm: mean norm of the logit's gradient to the normalised features, at the expert
    :param style_share: what the policy earns of what the expert would, ``(s_pi - s_min) / (s_E -
        s_min)``
    :param style_span: from the 5th to the 95th percentile of the style reward over both sides, in
        units of the reward's scale
    :param probe_accuracy: balanced accuracy of a linear classifier fitted to other environments
    :param seen_accuracy: share of the expert's windows of the last update with a positive logit
    :param unseen_accuracy: the same of windows that were not trained on
    :param replay_age: mean age of the policy's windows in the replay, updates
    :param normalizer_drift: how far the normaliser moved in one update, standard deviations
    """

    expert_accuracy: float
    policy_accuracy: float
    margin: float
    grad_norm: float
    style_share: float
    style_span: float
    probe_accuracy: float
    seen_accuracy: float
    unseen_accuracy: float
    replay_age: float
    normalizer_drift: float

    @property
    def accuracy(self) -> float:
        """Balanced accuracy of the discriminator."""
        return (self.expert_accuracy + self.policy_accuracy) / 2.0

    @classmethod
    def median(cls, several: Sequence[Measures]) -> Measures:
        """Return the median of every number; NaN if one of them is, since it has no rank."""
        return cls(*(_median(values) for values in zip(*several, strict=True)))

    @property
    def is_finite(self) -> bool:
        """Whether the logits are finite, and no number is NaN."""
        return math.isfinite(self.margin) and not any(map(math.isnan, self))


class Settings(NamedTuple):
    """
    Options of the run that advice refers to.

    :param learning_rate: of the discriminator
    :param grad_pen: weight of its gradient penalty
    :param weight_decay: of its trunk
    :param loss_coef: factor on its loss
    :param has_held_out: whether windows were held out for the examination
    """

    learning_rate: float
    grad_pen: float
    weight_decay: float
    loss_coef: float
    has_held_out: bool


def diagnose(m: Measures) -> Verdict:
    """
    Return what is wrong, the first that holds of the rows.

    :param m: preferably a median, single rollouts are noisy
    """
    if not m.is_finite or m.style_span < MIN_SPAN:
        return "collapsed"
    if m.seen_accuracy - m.unseen_accuracy > MIN_GAP:
        return "overfit on expert"
    if m.accuracy < GUESSING and m.probe_accuracy - m.accuracy > MIN_GAP:
        return "underfit"
    if min(m.expert_accuracy, m.policy_accuracy) >= CERTAIN and m.style_share < MIN_SHARE:
        return "saturated"
    return "healthy"


def advise(verdict: Verdict, m: Measures, settings: Settings) -> list[str]:
    """
    Return what to change, the likeliest first.

    :param verdict: of :func:`diagnose`
    :param m: the evidence
    :param settings: of the run
    """
    of_verdict = {
        "healthy": _keep,
        "saturated": _calm_down,
        "collapsed": _let_go,
        "underfit": _teach,
        "overfit on expert": _generalise,
    }[verdict](m, settings)
    return of_verdict + _sharp(m) + _stale(m) or ["Nothing."]


def _keep(m: Measures, settings: Settings) -> list[str]:
    del m
    if settings.has_held_out:
        return []
    return ["Pass held_out= to see overfitting to few recorded motions, too; else nothing."]


def _calm_down(m: Measures, settings: Settings) -> list[str]:
    return [
        f"Raise discriminator_grad_pen, now {settings.grad_pen:g} (gradient norm "
        f"{m.grad_norm:.2g}); 5 to 30 keep the style reward smooth.",
        f"Lower discriminator_learning_rate, now {settings.learning_rate:.1g}, or "
        f"discriminator_loss_coef, now {settings.loss_coef:g}.",
        "Compare the features of both sides: noise, a constant, or an order that only one side has "
        "gives it away.",
    ]


def _let_go(m: Measures, settings: Settings) -> list[str]:
    if not m.is_finite:
        return [
            "Its logits, style rewards or gradients are NaN or infinite: lower "
            "discriminator_learning_rate."
        ]
    return [
        f"Lower discriminator_grad_pen, now {settings.grad_pen:g}, and "
        f"discriminator_weight_decay, now {settings.weight_decay:g}: they outweigh what there is "
        f"to learn (gradient norm {m.grad_norm:.2g}).",
        f"If the gradient norm is exactly 0, hidden units are dead: lower "
        f"discriminator_learning_rate, now {settings.learning_rate:.1g}, and start anew.",
    ]


def _teach(m: Measures, settings: Settings) -> list[str]:
    found = f"A line separates the sides at {m.probe_accuracy:.0%}, the discriminator at "
    advice = [f"{found}{m.accuracy:.0%}."]
    if settings.loss_coef == 0.0:
        advice.append("discriminator_loss_coef is 0, so it never learns: set it to 1.")
    advice.append(
        f"Raise discriminator_learning_rate, now {settings.learning_rate:.1g}; 1e-4 to 1e-3 are "
        "usual. Then more n_epochs, or larger hidden_dims."
    )
    return advice


def _generalise(m: Measures, settings: Settings) -> list[str]:
    return [
        f"It knows {m.seen_accuracy:.0%} of the windows it trained on and {m.unseen_accuracy:.0%} "
        "of the others: add recorded motions.",
        f"Raise discriminator_grad_pen, now {settings.grad_pen:g}, with grad_pen_on='both', or "
        f"discriminator_weight_decay, now {settings.weight_decay:g}.",
        "Fewer hidden_dims, fewer n_epochs.",
    ]


def _median(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else median(values)


def _sharp(m: Measures) -> list[str]:
    width = m.margin / m.grad_norm if m.margin > 0.0 and m.grad_norm > 0.0 else math.inf
    if width >= MIN_WIDTH:
        return []
    return [
        f"The logit climbs from the policy's to the expert's within {width:.2g} standard "
        f"deviations of the features (gradient norm {m.grad_norm:.2g}, margin {m.margin:.2g}): "
        "raise discriminator_grad_pen, or the style reward is a step."
    ]


def _stale(m: Measures) -> list[str]:
    advice = []
    if m.replay_age > MAX_AGE:
        advice.append(
            f"Lower amp_replay_size: the mean window of the policy is {m.replay_age:.0f} updates "
            "old."
        )
    if m.normalizer_drift > MAX_DRIFT:
        advice.append(
            f"Set normalizer_until: the normaliser moves {m.normalizer_drift:.2f} standard "
            "deviations per update, and the features with it."
        )
    return advice


class DoctorReport(NamedTuple):
    """
    What the doctor found.

    :param verdict: on the last rollouts
    :param measures: their medians
    :param shares: share of the rollouts by verdict, the commonest first
    :param advice: what to change
    """

    verdict: Verdict
    measures: Measures
    shares: dict[Verdict, float]
    advice: list[str]

    @classmethod
    def build(
        cls, verdicts: Sequence[Verdict], measures: Measures, settings: Settings
    ) -> DoctorReport:
        """Sum up a run from its verdicts in order and the last medians."""
        shares = {v: n / len(verdicts) for v, n in Counter(verdicts).most_common()}
        last = verdicts[-1]
        return cls(last, measures, shares, advise(last, measures, settings))

    def __str__(self) -> str:
        rows: list[tuple[str, str]] = [
            (name, f"{value:.3g}") for name, value in self.measures._asdict().items()
        ]
        history = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        table = format_table(f"discriminator: {self.verdict}", ("measure", "median"), rows)
        return "\n".join([table, f"  over the run: {history}", *(f"- {a}" for a in self.advice)])
