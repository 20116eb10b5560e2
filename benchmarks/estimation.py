"""
An estimator of the base velocity on the walker whose actor cannot sense it.

``python benchmarks/estimation.py`` trains five arms, five seeds each, one process per run:

``frame``       PPO whose actor sees the noisy proprioception of the moment
``without``     PPO whose actor sees its history, too, through an encoder
``estimator``   EstimatorPPO whose actor sees the same, and an estimate of the base velocity that is
                regressed on both
``recomputed``  the same without ``reuse_estimates``: updates compute estimates anew
``oracle``      PPO whose actor sees the same, and the true velocity, for scale

R squared is that of the estimator, over all steps before a fall of episodes of robots that nobody
trained on, driven by the policy itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.hidden_walker import (
    EPISODE_LENGTH,
    EVALUATION_SEED,
    GROUPS,
    evaluate,
    group_sets,
    make_robots,
)
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
from benchmarks.teacher_student import COMMON, N_ENVS, POLICY, Progress
from sb3_strl import PPO, EstimatorPPO
from sb3_strl.policies import StrlPolicy

SEES = {
    "frame": ("policy",),
    "without": ("policy", "history"),
    "estimator": ("policy", "history", "velocity"),
    "recomputed": ("policy", "history", "velocity"),
    "oracle": ("policy", "history", "velocity"),
}
"""Groups of the actors; of ``velocity`` the arms with an estimator read their estimate."""

ESTIMATORS = ("recomputed", "estimator")
ARMS = tuple(SEES)
STEPS, N_POINTS = 1_200_000, 12
ROBOTS: dict[str, Any] = {
    "randomized": False,
    "speeds": (0.4, 1.6),
    "noise": 0.1,
    "velocity_sigma": 0.12,
}
VELOCITY = ("forward", "vertical")
ESTIMATOR: dict[str, Any] = {
    "obs_components": [*GROUPS["policy"], "history"],
    "target_components": ["base_lin_vel"],
    "kwargs": {"hidden_sizes": [256, 64]},
    # The true velocity never reaches the actor, neither in training nor afterwards.
    "replace_prob": 1.0,
}
ENCODER: dict[str, Any] = {
    "component_names": ["history"],
    "output_size": 8,
    "kwargs": {"hidden_sizes": [64]},
}


def make_model(run: Run) -> PPO:
    """
    Build an arm; all have the same critic, which knows the velocity.

    :param run: which
    """
    env = make_robots(N_ENVS, run.seed, **ROBOTS)
    options = {**COMMON, "seed": run.seed}
    policy = {**POLICY, "obs_groups": group_sets(SEES[run.arm])}
    if run.arm != "frame":
        policy["encoder"] = ENCODER
    if run.arm in ESTIMATORS:
        policy["estimator"] = {**ESTIMATOR, "reuse_estimates": run.arm == "estimator"}
        return EstimatorPPO("EncoderEstimatorPolicy", env, policy_kwargs=policy, **options)
    return PPO(
        "MlpPolicy" if run.arm == "frame" else "EncoderPolicy", env, policy_kwargs=policy, **options
    )


@th.no_grad()
def r_squared(
    policy: StrlPolicy, n_robots: int = 256, n_steps: int = EPISODE_LENGTH
) -> list[float]:
    r"""
    Return :math:`R^2 = 1 - \sum (v - \hat v)^2 / \sum (v - \bar v)^2` by component.

    :param policy: with an estimator; its mode acts
    :param n_robots: number of robots, one episode each
    :param n_steps: steps of 0.02 s
    """
    env = make_robots(n_robots, EVALUATION_SEED + 1, **ROBOTS)
    obs, state = env.reset_tensor(), policy.initial_state(n_robots)
    starts, up = th.ones(n_robots, dtype=th.bool), th.ones(n_robots, dtype=th.bool)
    true, estimated = [], []
    for _ in range(n_steps):
        before = state.reset(starts)
        true.append(obs["velocity"][up])
        estimated.append(policy.estimate(obs, before)["estimator"][up])
        actions, state = policy.act(obs, state, starts, deterministic=True)
        step = env.step_tensor(actions)
        up &= ~step.terminated
        starts, obs = step.terminated | step.truncated, step.obs
    env.close()
    target, guess = th.cat(true), th.cat(estimated)
    error = (target - guess).square().sum(0)
    spread = (target - target.mean(0)).square().sum(0)
    return [float(value) for value in 1.0 - error / spread]


def train(run: Run, place: Place, smoke: bool) -> Row:
    """
    Train one arm.

    :param run: which
    :param place: unused: nothing is needed afterwards
    :param smoke: hardly at all
    :return: what was reached
    """
    del place
    if run.arm not in ARMS:
        raise ValueError(f"estimation: unknown arm '{run.arm}'. Known: {list(ARMS)}.")
    th.set_num_threads(1)
    steps = 2 * 24 * N_ENVS if smoke else STEPS
    size = {"n_robots": 8, "n_steps": 10} if smoke else {"n_robots": 64}
    model = make_model(run)
    progress = Progress(steps // N_POINTS, size, **ROBOTS)
    model.learn(steps, callback=progress)
    full = size if smoke else {}
    final = evaluate(model.policy, **full, **ROBOTS)
    row: Row = {
        "steps": steps,
        "return": float(final.returns.mean()),
        "survived": float(final.survived.float().mean()),
        "curve": progress.curve,
    }
    if run.arm in ESTIMATORS:
        each = r_squared(model.policy, **full)
        row.update({f"r2_{name}": value for name, value in zip(VELOCITY, each, strict=True)})
    return row


def table(rows: Sequence[Row]) -> str:
    """Return a table of the arms."""
    lines = []
    for arm in ARMS:
        returns = values_of(rows, arm, "return")
        if not returns:
            continue
        cells = [arm, f"{interval(returns):.1f}", ", ".join(f"{value:.1f}" for value in returns)]
        cells.append(f"{interval(values_of(rows, arm, 'survived')):.2f}")
        for name in VELOCITY:
            known = arm in ESTIMATORS
            cells.append(f"{interval(values_of(rows, arm, f'r2_{name}')):.3f}" if known else "-")
        cells.append(f"{np.mean(values_of(rows, arm, 'cpu_s')):.0f}")
        lines.append(cells)
    head = ("arm", "return", "by seed", "did not fall", "R² forward", "R² vertical", "s")
    return markdown_table(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what has not been trained yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    add_arguments(parser, "runs/estimation")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args(arguments)
    stages = [[Run(arm, seed) for seed in options.seeds for arm in options.arms]]
    rows = run_or_report(options, __file__, stages, train)
    if rows is None:
        return
    sys.stdout.write(table(rows) + "\n")
    if options.markdown:
        write_section(options.markdown, "estimation", table(rows))
    if options.plot:
        bars = {arm: values_of(rows, arm, "return") for arm in ARMS}
        curves = {arm: [row["curve"] for row in rows if row["arm"] == arm] for arm in ARMS}
        labels = ("return on nominal robots", "return on nominal robots")
        draw_bars_and_curves(options.plot, bars, curves, labels=labels)


if __name__ == "__main__":
    main()
