"""
Teacher and student on the walker with hidden friction and mass; valid against invalid ratios.

``python benchmarks/teacher_student.py`` trains five arms on the walker whose friction and mass are
drawn for every episode, five seeds each, one process per run:

``plain``     PPO on the nominal robot, all others on randomised ones
``dr``        PPO that sees what the robot senses now (domain randomisation)
``teacher``   PPO that sees everything, without noise
``student``   EstimatorTPPO that sees the last second of what ``dr`` sees, estimates velocity,
              height, friction and mass from it, and learns from reward and that seed's teacher
``invalid``   the same with the probability ratios of the reference implementation, see
              :class:`ReferenceCollector`

Returns are those of the mode on 256 randomised robots that nobody trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.hidden_walker import TRUTH, evaluate, group_sets, make_robots
from benchmarks.learning import (
    Place,
    Row,
    Run,
    add_arguments,
    interval,
    markdown_table,
    run_or_report,
    values_of,
    write_section,
)
from benchmarks.pictures import draw_bars_and_curves
from sb3_strl import PPO, EstimatorTPPO
from sb3_strl.algorithms.rollout import RolloutCollector
from sb3_strl.buffers.presets import ON_POLICY
from sb3_strl.common.types import TensorDict
from sb3_strl.policies import StrlPolicy, load_policy, save_policy

SENSED = ("policy",)
ESTIMATED = ("velocity", "height", "parameters")
REMEMBERED = (*SENSED, "history", *ESTIMATED)
"""Of the last three the student reads its own estimates, never the truth."""
PPO_ARMS = {"plain": SENSED, "dr": SENSED, "teacher": TRUTH}
STUDENT_ARMS = ("student", "invalid")
ARMS = (*PPO_ARMS, *STUDENT_ARMS)
SHARE = 0.9
"""Share of the teacher's return that a student has to reach."""

N_ENVS = 128
TEACHER_STEPS, STUDENT_STEPS, N_POINTS = 600_000, 1_000_000, 20
PPO_STEPS = TEACHER_STEPS + STUDENT_STEPS
"""Steps of the arms without a teacher: as many as student and teacher together."""

COMMON: dict[str, Any] = {
    "n_steps": 24,
    "n_epochs": 5,
    "n_minibatches": 4,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "desired_kl": 0.02,
    "gamma": 0.985,
    "ent_coef": 0.0,
    "device": "cpu",
}
POLICY: dict[str, Any] = {
    "net_arch": [256, 128],
    "empirical_normalization": True,
    "init_noise_std": 0.5,
}


def falling(remaining: float) -> float:
    """Return a learning rate that falls to 0."""
    return 1e-3 * remaining


def fading(updates: int) -> float:
    """Return a weight of the imitation that fades until reward rules, and does not vanish."""
    return 10.0 * max(0.01, 1.0 - updates / 150)


STUDENT: dict[str, Any] = {
    "teacher_act_prob": "linear",
    "update_times_scale": 25,
    "distillation_loss_coef": fading,
    "distill_target": "mse_sum",
    # A teacher leads far in few steps; a falling rate lets the student settle there.
    "schedule": "fixed",
    "learning_rate": falling,
}
STUDENT_POLICY: dict[str, Any] = {
    **POLICY,
    "init_noise_std": 0.3,
    "estimator": {
        "obs_components": ["history"],
        "target_components": ["base_lin_vel", "base_height", "friction", "added_mass"],
        "kwargs": {"hidden_sizes": [256, 64]},
        # The truth never reaches the actor, neither in training nor afterwards.
        "replace_prob": 1.0,
        "reuse_estimates": False,
    },
}


class ReferenceCollector(RolloutCollector):
    r"""
    Make the ratios that the reference implementation makes, for comparison.

    Where the teacher drives, its action :math:`a^*` is executed and stored, but with the
    log-probability of the sample :math:`a_s` that the student had drawn and did not execute, and
    nothing is masked: :math:`\rho = \pi(a^*) / \pi_{old}(a_s)`, which is no ratio of one action's
    probabilities and not 1 before the first gradient step.
    """

    @th.no_grad()
    def value(self, last_obs: TensorDict) -> th.Tensor:
        """
        Fill values and log-probabilities of the whole rollout, those of the student's own samples.

        :param last_obs: observation after the last step
        :return: its value, ``(n_envs,)``
        """
        last_values = super().value(last_obs)
        head, buffer = self.policy.action_head, self.buffer
        dist = {name: stored.flatten(0, 1) for name, stored in buffer.dist().items()}
        own = head.sample(dist, th.cat(self.noise))
        log_probs = buffer["log_probs"]
        log_probs.copy_(head.log_prob(dist, own).view_as(log_probs))
        buffer[ON_POLICY].fill_(True)
        return last_values


class InvalidRatios(EstimatorTPPO):
    """EstimatorTPPO with the ratios of :class:`ReferenceCollector`."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.collector = ReferenceCollector(
            self.policy, self.generator, self.timeout_bootstrap, self.distillation
        )


class Progress(BaseCallback):
    """
    Evaluate now and then between two rollouts, and note clip fractions.

    :param every: environment steps between two evaluations; 0 evaluates at the end only
    :param size: of an evaluation, keywords of :func:`~benchmarks.hidden_walker.evaluate`
    :param where: on which robots, likewise
    """

    def __init__(self, every: int, size: dict[str, int], **where: Any) -> None:
        super().__init__()
        self.every, self.size, self.where = every, size, where
        self.curve: list[tuple[int, float]] = []
        self.clip_fractions: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._note()
        if self.every and self.num_timesteps >= self.every * len(self.curve):
            self._measure()

    def _on_training_end(self) -> None:
        self._note()
        if self.every:
            self._measure()

    def _note(self) -> None:
        value = self.logger.name_to_value.get("train/clip_fraction")
        if value is not None:
            self.clip_fractions.append(float(value))

    def _measure(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, StrlPolicy)
        returns = evaluate(policy, **self.size, **self.where).returns
        self.curve.append((self.num_timesteps, float(returns.mean())))


def make_model(run: Run, place: Place) -> PPO:
    """
    Build an arm.

    :param run: which
    :param place: where its teacher lies
    """
    env = make_robots(N_ENVS, run.seed, randomized=run.arm != "plain")
    options = {**COMMON, "seed": run.seed}
    if run.arm in PPO_ARMS:
        sets = group_sets(PPO_ARMS[run.arm])
        return PPO("MlpPolicy", env, policy_kwargs={**POLICY, "obs_groups": sets}, **options)
    return (EstimatorTPPO if run.arm == "student" else InvalidRatios)(
        "EstimatorPolicy",
        env,
        teacher=place.policy(Run("teacher", run.seed)),
        policy_kwargs={**STUDENT_POLICY, "obs_groups": group_sets(REMEMBERED)},
        **{**options, **STUDENT},
    )


def train(run: Run, place: Place, smoke: bool) -> Row:
    """
    Train one arm.

    :param run: which
    :param place: where policies lie
    :param smoke: hardly at all
    :return: what was reached
    """
    if run.arm not in ARMS:
        raise ValueError(f"teacher_student: unknown arm '{run.arm}'. Known: {list(ARMS)}.")
    th.set_num_threads(1)
    student = run.arm in STUDENT_ARMS
    full = {"teacher": TEACHER_STEPS, "plain": PPO_STEPS, "dr": PPO_STEPS}
    steps = 2 * 24 * N_ENVS if smoke else full.get(run.arm, STUDENT_STEPS)
    size = {"n_robots": 8, "n_steps": 10} if smoke else {"n_robots": 48}
    model = make_model(run, place)
    progress = Progress(steps // N_POINTS if student else 0, size)
    model.learn(steps, callback=progress)
    place.policy(run).parent.mkdir(parents=True, exist_ok=True)
    save_policy(model.policy, place.policy(run))
    final = evaluate(model.policy, **({**size} if smoke else {}))
    row: Row = {
        "steps": steps,
        "return": float(final.returns.mean()),
        "survived": float(final.survived.float().mean()),
        "clip_fraction": float(np.mean(progress.clip_fractions)),
        "curve": progress.curve,
    }
    if student:
        mixed = progress.clip_fractions[: STUDENT["update_times_scale"]]
        row["clip_fraction_mixed"] = float(np.mean(mixed))
        teacher = load_policy(place.policy(Run("teacher", run.seed)), device="cpu")
        assert isinstance(teacher, StrlPolicy)
        row["goal"] = SHARE * float(evaluate(teacher, **size).returns.mean())
        row["steps_to_goal"] = first_crossing(progress.curve, row["goal"])
    return row


def first_crossing(curve: Sequence[tuple[int, float]], goal: float) -> float | None:
    """
    Return after how many steps a curve first reaches a value, interpolated; ``None`` for never.

    :param curve: steps and value
    :param goal: the value
    """
    before: tuple[int, float] | None = None
    for steps, value in curve:
        if value >= goal:
            if before is None:
                return float(steps)
            share = (goal - before[1]) / (value - before[1])
            return before[0] + share * (steps - before[0])
        before = (steps, value)
    return None


# ------------------------------------------------------------------ reporting


def returns_table(rows: Sequence[Row]) -> str:
    """Return a table of the arms' returns."""
    teacher = {row["seed"]: row["return"] for row in rows if row["arm"] == "teacher"}
    lines = []
    for arm in ARMS[:4]:
        returns = values_of(rows, arm, "return")
        mine = [row for row in rows if row["arm"] == arm and row["seed"] in teacher]
        if not returns:
            continue
        shares = [100.0 * row["return"] / teacher[row["seed"]] for row in mine]
        cells = [arm, f"{interval(returns):.1f}", ", ".join(f"{value:.1f}" for value in returns)]
        cells.append(f"{interval(shares):.1f} %" if shares else "-")
        cells.append(f"{interval(values_of(rows, arm, 'survived')):.2f}")
        cells.append(f"{np.mean(values_of(rows, arm, 'cpu_s')):.0f}")
        lines.append(cells)
    head = ("arm", "return", "by seed", "of its teacher's", "did not fall", "s")
    return markdown_table(head, lines)


def ratios_table(rows: Sequence[Row]) -> str:
    """Return a table of valid and invalid ratios; who never gets there counts with all steps."""
    lines = []
    for arm, name in (("student", "valid"), ("invalid", "as the reference")):
        mine = [row for row in rows if row["arm"] == arm]
        if not mine:
            continue
        needed = [row["steps_to_goal"] for row in mine]
        counted = [
            row["steps"] if row["steps_to_goal"] is None else row["steps_to_goal"] for row in mine
        ]
        arrived = sum(n is not None for n in needed)
        cells = [name, f"{interval(counted):,.0f}", f"{arrived} of {len(needed)}"]
        cells.append(f"{interval(values_of(rows, arm, 'clip_fraction_mixed')):.2f}")
        cells.append(f"{interval(values_of(rows, arm, 'clip_fraction')):.2f}")
        cells.append(f"{interval(values_of(rows, arm, 'return')):.1f}")
        lines.append(cells)
    clipped = ("clip fraction while the teacher drives some", "in all")
    head = ("ratios", "steps to 90 % of the teacher", "arrived", *clipped, "final return")
    return markdown_table(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what has not been trained yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    add_arguments(parser, "runs/teacher_student")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args(arguments)
    stages = [
        [Run(arm, seed) for seed in options.seeds for arm in group if arm in options.arms]
        for group in (tuple(PPO_ARMS), STUDENT_ARMS)
    ]
    rows = run_or_report(options, __file__, stages, train)
    if rows is None:
        return
    text = f"{returns_table(rows)}\n\n{ratios_table(rows)}"
    sys.stdout.write(text + "\n")
    if options.markdown:
        write_section(options.markdown, "teacher_student: returns", returns_table(rows))
        write_section(options.markdown, "teacher_student: ratios", ratios_table(rows))
    if options.plot:
        bars = {arm: values_of(rows, arm, "return") for arm in ARMS[:4]}
        curves = {
            name: [row["curve"] for row in rows if row["arm"] == arm]
            for arm, name in (("student", "valid ratios"), ("invalid", "invalid ratios"))
        }
        goals = [row["goal"] for row in rows if row["arm"] == "student"]
        draw_bars_and_curves(options.plot, bars, curves, float(np.mean(goals)) if goals else None)


if __name__ == "__main__":
    main()
