"""
APPO beside imitation's GAIL: the same demonstration, generator and steps on the embedded walker.

``python benchmarks/imitation_gail.py --jobs 2 --out runs/imitation_gail`` trains, one process
per run, and prints task return, DTW pose error, share of robots that do not fall, and time.
Finished runs are not repeated. Needs MuJoCo and imitation, see ``docs/guide/imitation.md``.

Arms: ``gail`` and ``appo`` have no other reward than the discriminator's; ``appo_task`` mixes in
the task's, as the demonstration does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
from examples.demo_evaluation import N_ROBOTS, N_STEPS, ROBOT, gait_error, survival, task_return
from examples.demo_evaluation import walk as evaluate
from examples.demo_training import APPO_OPTIONS, COMMON, DISCRIMINATOR, POLICY, TRAINING_ENV
from sb3_strl import APPO, PPO
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.policies import save_policy

ARMS = ("gail", "appo", "appo_task")
STEPS, N_ENVS = 409_600, 64
# Batch, updates and buffer that imitation's authors tuned for Walker2d. The rate is APPO's: with
# imitation's default of 1e-3 no robot of seed 0 stayed up (return 44 instead of 182).
GAIL_OPTIONS: dict[str, Any] = {
    "demo_batch_size": 512,
    "n_disc_updates_per_round": 16,
    "gen_replay_buffer_capacity": 16_384,
    "disc_opt_kwargs": {"lr": APPO_OPTIONS["discriminator_learning_rate"]},
}
COLUMNS = {
    "task_return": ("task return", ".0f"),
    "pose_error_deg": ("pose error (deg)", ".1f"),
    "survival": ("not fallen", ".2f"),
    "train_s": ("training (s)", ".0f"),
    "train_cpu_s": ("processor (s)", ".0f"),
}


def train_model(run: Run, steps: int, n_envs: int) -> PPO:
    """
    Train one arm.

    :param run: arm and seed
    :param steps: environment steps
    :param n_envs: robots
    """
    env = WalkerVecEnv(n_envs, seed=run.seed, n_threads=1, **ROBOT, **TRAINING_ENV)
    options: dict[str, Any] = {**COMMON, "seed": run.seed, "device": "cpu"}
    if run.arm == "gail":
        from benchmarks.gail_walker import train_gail

        options["policy_kwargs"] = POLICY
        return train_gail(env, steps, options, GAIL_OPTIONS, tuple(DISCRIMINATOR["hidden_dims"]))
    discriminator = dict(DISCRIMINATOR)
    if run.arm == "appo":
        discriminator["task_reward_lerp"] = 0.0
    options["policy_kwargs"] = {**POLICY, "amp_discriminator": discriminator}
    model = APPO("EncoderAmpPolicy", env, **APPO_OPTIONS, **options)
    return model.learn(steps)


def train(run: Run, place: Place, smoke: bool) -> Row:
    """
    Train and evaluate one run.

    :param run: arm and seed
    :param place: where the policy goes
    :param smoke: a few thousand steps
    """
    th.set_num_threads(1)
    th.manual_seed(run.seed)
    steps, n_envs = (2048, 16) if smoke else (STEPS, N_ENVS)
    wall, cpu = time.perf_counter(), time.process_time()
    model = train_model(run, steps, n_envs)
    row: Row = {
        "steps": model.num_timesteps,
        "train_s": time.perf_counter() - wall,
        "train_cpu_s": time.process_time() - cpu,
    }
    path = place.policy(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_policy(model.policy, path)
    gait = evaluate(model.policy, *((4, 100) if smoke else (N_ROBOTS, N_STEPS)))
    return {
        **row,
        "task_return": task_return(gait),
        "pose_error_deg": gait_error(gait),
        "survival": survival(gait),
    }


def report(rows: Sequence[Row]) -> str:
    """
    Return the table.

    :param rows: of finished runs
    """
    lines = []
    for arm in ARMS:
        n_runs = len(values_of(rows, arm, "steps"))
        if n_runs:
            cells = [
                format(interval(values_of(rows, arm, key)), spec)
                for key, (_, spec) in COLUMNS.items()
            ]
            lines.append([arm, str(n_runs), *cells])
    return markdown_table(["arm", "seeds", *(title for title, _ in COLUMNS.values())], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run what is missing and print the table.

    :param arguments: of the command line
    """
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    add_arguments(parser, "runs/imitation_gail")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args(arguments)
    runs = [Run(arm, seed) for seed in options.seeds for arm in options.arms]
    rows = run_or_report(options, str(Path(__file__).resolve()), [runs], train)
    if rows is None:
        return
    table = report(rows)
    sys.stdout.write(f"{table}\n")
    if options.markdown is not None:
        write_section(options.markdown, "imitation_gail", table)


if __name__ == "__main__":
    main()
