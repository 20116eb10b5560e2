"""Verdicts on discriminators: by their numbers, and on runs that are broken on purpose."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, NamedTuple

import pytest
import torch as th

from sb3_strl import APPO, PPO
from sb3_strl.callbacks import DiscriminatorDoctor
from sb3_strl.callbacks.discriminator_doctor import probe_accuracy
from sb3_strl.callbacks.discriminator_verdicts import (
    DoctorReport,
    Measures,
    Settings,
    advise,
    diagnose,
)
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.toy import PointMass

FIT = Measures(0.9, 0.8, 1.0, 0.3, 0.5, 0.6, 0.9, 0.9, 0.88, 0.0, 0.01)
SETTINGS = Settings(3e-4, 5.0, 0.0, 1.0, False)


class Arc(NamedTuple):
    """Windows of the expert's circle between two angles."""

    begin: float
    end: float

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        phase = self.begin + (self.end - self.begin) * th.rand(n, 1, generator=generator)
        phase = phase + th.tensor([-0.2, 0.0])
        cos, sin = phase.cos(), phase.sin()
        return th.stack([cos, sin, -0.2 * sin, 0.2 * cos], dim=-1).flatten(1)


CASES: dict[str, dict[str, Any]] = {
    "healthy": {"disc": {"discriminator_grad_pen": 5.0}},
    "saturated": {
        "disc": {"discriminator_grad_pen": 0.0},
        "discriminator_learning_rate": 1e-2,
        "speed": 1.5,  # faster than the point can be
    },
    "collapsed": {"disc": {"discriminator_grad_pen": 1e4}},
    "underfit": {"discriminator_learning_rate": 1e-8},
    "overfit on expert": {
        "disc": {"discriminator_grad_pen": 0.0},
        "discriminator_learning_rate": 1e-2,
        "expert_source": Arc(0.0, 0.5),
        "held_out": Arc(1.0, 6.0),
    },
}


def train(
    held_out: Any = None,
    disc: dict[str, Any] | None = None,
    n_rollouts: int = 20,
    speed: float = 0.2,
    **options: Any,
) -> tuple[APPO, DiscriminatorDoctor]:
    spec = {"task_reward_lerp": 0.2, "hidden_dims": [32], **(disc or {})}
    settings = {"n_steps": 16, "seed": 0, "schedule": "adaptive", **options}
    kwargs = {"net_arch": [32], "amp_discriminator": spec}
    env = PointMass(32, max_episode_length=80, speed=speed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = APPO("AmpPolicy", env, policy_kwargs=kwargs, **settings)
    doctor = DiscriminatorDoctor(held_out)
    model.learn(n_rollouts * 32 * 16, callback=doctor, log_interval=None)
    return model, doctor


@pytest.mark.integration
@pytest.mark.parametrize("verdict", list(CASES))
def test_a_broken_run_is_recognised(verdict: str) -> None:
    model, doctor = train(**CASES[verdict])
    report = doctor.report
    assert report.verdict == verdict, str(report)
    assert report.advice
    assert model.logger.name_to_value["discriminator/verdict"] == verdict


@pytest.mark.parametrize(
    ("verdict", "changes"),
    [
        ("healthy", {}),
        ("healthy", {"expert_accuracy": 1.0, "policy_accuracy": 1.0}),
        ("saturated", {"expert_accuracy": 1.0, "policy_accuracy": 0.96, "style_share": 0.05}),
        ("healthy", {"expert_accuracy": 1.0, "policy_accuracy": 0.94, "style_share": 0.05}),
        ("collapsed", {"style_span": 0.01}),
        ("collapsed", {"margin": math.nan}),
        ("collapsed", {"style_share": math.nan}),
        ("overfit on expert", {"seen_accuracy": 0.9, "unseen_accuracy": 0.7}),
        ("healthy", {"seen_accuracy": 0.7, "unseen_accuracy": 0.9}),
        ("underfit", {"expert_accuracy": 0.6, "policy_accuracy": 0.6, "probe_accuracy": 0.8}),
        # A policy as good as the expert: nobody can tell them apart.
        ("healthy", {"expert_accuracy": 0.5, "policy_accuracy": 0.5, "probe_accuracy": 0.55}),
    ],
)
def test_verdicts_by_numbers(verdict: str, changes: dict[str, float]) -> None:
    assert diagnose(FIT._replace(**changes)) == verdict


@pytest.mark.parametrize("n_broken", [1, 2, 3])
def test_a_rollout_of_nan_shows_whenever_it_was(n_broken: int) -> None:
    broken = Measures(0.0, 0.0, *[math.nan] * 9)
    for order in set(itertools.permutations([broken] * n_broken + [FIT] * (5 - n_broken))):
        medians = Measures.median(order)
        assert math.isnan(medians.margin)
        assert medians.expert_accuracy == (0.0 if n_broken == 3 else 0.9)
        assert diagnose(medians) == "collapsed"
        assert "NaN" in advise("collapsed", medians, SETTINGS)[0]


def test_advice_names_settings_and_evidence() -> None:
    old = FIT._replace(replay_age=80.0, normalizer_drift=0.3)
    text = " ".join(advise("saturated", old, SETTINGS))
    assert "discriminator_grad_pen, now 5" in text
    assert "80 updates" in text
    assert "normalizer_until" in text
    assert "updates" not in " ".join(advise("saturated", FIT, SETTINGS))
    assert "set it to 1" in advise("underfit", FIT, SETTINGS._replace(loss_coef=0.0))[1]
    assert "NaN" in advise("collapsed", FIT._replace(margin=math.nan), SETTINGS)[0]
    assert "held_out" in advise("healthy", FIT, SETTINGS)[0]
    held_out = SETTINGS._replace(has_held_out=True)
    assert advise("healthy", FIT, held_out) == ["Nothing."]
    # Evidence is told whatever the verdict.
    assert "normalizer_until" in advise("healthy", old, held_out)[-1]
    steep = FIT._replace(margin=2.0, grad_norm=25.0)
    assert "within 0.08 standard deviations" in advise("healthy", steep, held_out)[0]
    assert advise("healthy", FIT._replace(margin=2.0, grad_norm=15.0), held_out) == ["Nothing."]


def test_the_report_counts_verdicts_and_prints() -> None:
    report = DoctorReport.build(["saturated", "healthy", "healthy", "healthy"], FIT, SETTINGS)
    assert report.verdict == "healthy"
    assert report.shares == {"healthy": 0.75, "saturated": 0.25}
    text = str(report)
    assert "discriminator: healthy" in text
    assert "healthy 75%, saturated 25%" in text
    assert "style_share       0.5" in text


def test_the_report_comes_at_the_end_if_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    _, doctor = train(n_rollouts=3, verbose=1)
    doctor.on_training_end()  # as rl_zoo3 does
    text = capsys.readouterr().out
    assert text.count("over the run:") == 1


def test_the_training_is_not_disturbed() -> None:
    model, _ = train(held_out=Arc(0.0, 6.0), n_rollouts=4)
    plain = APPO(
        "AmpPolicy",
        PointMass(32, max_episode_length=80),
        policy_kwargs=model.policy_kwargs,
        n_steps=16,
        seed=0,
        schedule="adaptive",
    )
    plain.learn(4 * 32 * 16)
    for a, b in zip(plain.policy.parameters(), model.policy.parameters(), strict=True):
        th.testing.assert_close(a, b, rtol=0, atol=0)


def test_replay_age_and_drift() -> None:
    model, doctor = train(n_rollouts=6, amp_replay_size=10**6)
    # The replay holds the windows of 5 updates, of mean age 2.5, when the sixth rollout ends.
    assert doctor._recent[-1].replay_age == pytest.approx(2.5, rel=0.05)
    normalizer = model.motion_prior.discriminator.normalizer
    assert normalizer is not None
    doctor._remember_statistics()
    normalizer.mean += 0.5 * (normalizer.std + normalizer.eps)
    assert float(doctor._drift()) == pytest.approx(0.5)


def test_a_line_is_found_where_there_is_one() -> None:
    th.manual_seed(0)
    a, b = th.randn(400, 6), th.randn(400, 6)
    assert float(probe_accuracy(a, b)) == pytest.approx(0.5, abs=0.1)
    assert float(probe_accuracy(a, b + th.eye(6)[0] * 6.0)) > 0.97
    # Fitted to the first halves only: what differs there alone is not seen.
    half = b.clone()
    half[:200, 0] += 20.0
    assert float(probe_accuracy(a, half)) < 0.6


def test_bad_use() -> None:
    with pytest.raises(StrlValueError, match=r"window is 0. Expected at least one"):
        DiscriminatorDoctor(window=0)
    with pytest.raises(StrlValueError, match=r"nothing was examined yet. Train"):
        _ = DiscriminatorDoctor().report
    model = PPO("MlpPolicy", PointMass(4), n_steps=4, n_minibatches=1)
    with pytest.raises(StrlTypeError, match=r"PPO has no motion prior to examine. Expected APPO"):
        model.learn(4, callback=DiscriminatorDoctor())

    class Narrow:
        def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
            return th.zeros(n, 3)

    with pytest.raises(StrlValueError, match=r"windows have 3 features. Expected 8"):
        train(held_out=Narrow(), n_rollouts=1)
