"""
Five discriminators and their doctor: one healthy, four broken on purpose.

Run it with ``python -m examples.discriminator_doctor``; it takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch as th

import sb3_strl
from examples.demo_training import COMMON
from sb3_strl import APPO
from sb3_strl.callbacks import DiscriminatorDoctor, DoctorReport
from sb3_strl.common.tables import format_table
from sb3_strl.data import Motion, MotionLibrary
from sb3_strl.envs.walker_options import MOTIONS

ROBOT: dict[str, Any] = {"action_scale": (0.7, 0.9, 0.5), "min_height": 0.7, "max_pitch": 0.7}
ALGORITHM: dict[str, Any] = {
    **COMMON,
    "discriminator_learning_rate": 3e-4,
    "device": "cpu",
}
DISCRIMINATOR: dict[str, Any] = {
    "hidden_dims": [64, 32],
    "task_reward_lerp": 0.3,
    "discriminator_grad_pen": 10.0,
}


@dataclass(frozen=True)
class Case:
    """
    One run.

    :param verdict: what the doctor should say
    :param cause: what was broken
    :param algorithm: keywords that differ from ``ALGORITHM``
    :param discriminator: options that differ from ``DISCRIMINATOR``
    :param held_out: motions that the run does not train on
    """

    verdict: str
    cause: str
    algorithm: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    held_out: MotionLibrary | None = None


def piece(begin: float, end: float) -> MotionLibrary:
    """
    Cut a piece out of the walking clip.

    :param begin: share of the clip where it begins
    :param end: share of the clip where it ends
    """
    clip = Motion.load(MOTIONS / "walk.npz")
    n_frames = len(clip.fields["joint_pos"])
    part = slice(round(begin * n_frames), round(end * n_frames))
    fields = {name: values[part] for name, values in clip.fields.items()}
    name = f"{clip.name} {begin:.0%} to {end:.0%}"
    return MotionLibrary(
        Motion(name, fields, clip.fps, False, clip.columns, clip.source, clip.license)
    )


def make_cases() -> list[Case]:
    """Return the healthy run and the broken ones."""
    return [
        Case("healthy", "nothing"),
        Case(
            "saturated",
            "no gradient penalty, learning rate 1e-2",
            {"discriminator_learning_rate": 1e-2},
            {"discriminator_grad_pen": 0.0},
        ),
        Case("collapsed", "gradient penalty 1e4", {}, {"discriminator_grad_pen": 1e4}),
        Case("underfit", "learning rate 1e-7", {"discriminator_learning_rate": 1e-7}),
        Case(
            "overfit on expert",
            "a sixth of a stride as expert, no gradient penalty",
            {"expert_source": piece(0.0, 0.15), "discriminator_learning_rate": 1e-3},
            {"discriminator_grad_pen": 0.0, "hidden_dims": [256, 128]},
            piece(0.3, 1.0),
        ),
    ]


def train(case: Case, steps: int, n_robots: int = 64, seed: int = 0) -> DoctorReport:
    """
    Train one policy under the doctor's eyes.

    :param case: what is broken
    :param steps: environment steps
    :param n_robots: robots
    :param seed: of every random number
    """
    env = sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=n_robots, seed=seed, n_threads=1, **ROBOT)
    doctor = DiscriminatorDoctor(held_out=case.held_out)
    policy = {
        "net_arch": [64, 64],
        "empirical_normalization": True,
        "init_noise_std": 0.5,
        "amp_discriminator": {**DISCRIMINATOR, **case.discriminator},
    }
    options = {**ALGORITHM, **case.algorithm, "seed": seed}
    model = APPO("AmpPolicy", env, policy_kwargs=policy, **options)
    model.learn(steps, callback=doctor)
    env.close()
    return doctor.report


def describe(case: Case, report: DoctorReport) -> tuple[str, ...]:
    """Return a row of the table."""
    m = report.measures
    return (
        case.cause,
        report.verdict,
        f"{m.expert_accuracy:.2f} / {m.policy_accuracy:.2f}",
        f"{m.margin:.3f}",
        f"{m.grad_norm:.2g}",
        f"{m.style_share:.2f}",
        f"{m.style_span:.3f}",
        f"{m.probe_accuracy:.2f}",
        f"{m.seen_accuracy:.2f} / {m.unseen_accuracy:.2f}",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run all cases and print what the doctor found.

    :param arguments: of the command line
    :return: 0 if every verdict is the expected one
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60_000, help="of each run, default 60000")
    steps: int = parser.parse_args(arguments).steps
    th.set_num_threads(1)  # the networks are small
    begin = time.monotonic()
    cases = make_cases()
    reports = [train(case, steps) for case in cases]
    header = ["broken", "verdict", "accuracy expert / policy", "margin", "gradient", "share"]
    header += ["span", "probe", "seen / unseen"]
    rows = [describe(case, report) for case, report in zip(cases, reports, strict=True)]
    print(format_table(f"after {steps} steps", header, rows))
    for report in reports:
        print(f"\n{report.verdict}:", *report.advice, sep="\n- ")
    print(f"\n{time.monotonic() - begin:.0f} s")
    found = [report.verdict for report in reports]
    return int(found != [case.verdict for case in cases])


if __name__ == "__main__":
    raise SystemExit(main())
