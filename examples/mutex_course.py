"""
Train a walker to stand, to walk and to run, and let one mutex policy take it along a course.

``python examples/mutex_course.py --out runs/mutex`` trains three skills separately, builds one
``FieldMutexPolicy`` over them, and compares it with each of the skills alone on a course of
changing commanded speeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.mutex_env import COURSE, ENV_ACTION_SCALE, CourseVecEnv
from examples.mutex_evaluation import Run, run_all
from examples.mutex_pictures import write_film_strip, write_speeds
from examples.mutex_skills import SKILLS, train
from sb3_strl.common.tables import format_table
from sb3_strl.policies import FieldMutexPolicy, SubPolicy, load_policy

COLUMNS = {
    "tracking_error": ("tracking error (m/s)", "{:.2f}"),
    "task_return": ("task return", "{:.0f}"),
    "falls": ("fallen", "{:.2f}"),
}
EVALUATION_SEED = 1000
Summaries = dict[str, list[dict[str, float]]]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param arguments: without the program's name; ``None`` takes the process's own
    """
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/mutex"), help="folder of the results (%(default)s)")
    add("--seeds", type=int, default=2, help="trainings of every skill (%(default)s)")
    add("--steps", type=int, help="environment steps of each training (default: the skill's own)")
    add("--n-envs", type=int, default=64, help="robots that train at the same time (%(default)s)")
    add("--robots", type=int, default=128, help="robots on the course (%(default)s)")
    add("--smoothing", type=int, default=1, help="selections averaged over (%(default)s)")
    add("--processes", type=int, default=2, help="trainings at the same time (%(default)s)")
    add("--evaluate", action="store_true", help="no training: the policies are in --out already")
    add("--smoke", action="store_true", help="a few thousand steps: does everything run?")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.seeds, options.steps, options.robots = 1, options.steps or 2048, 4
        options.n_envs = min(options.n_envs, 16)
    options.course = COURSE
    if options.smoke:
        options.course = [part._replace(seconds=part.seconds / 5) for part in COURSE]
    return options


def policy_path(out: Path, name: str, seed: int) -> Path:
    """Return where the policy of a skill lies."""
    return out / "skills" / f"{name}-seed{seed}.zip"


def train_all(options: argparse.Namespace) -> None:
    """
    Train every skill with every seed, the longest first, some at a time.

    :param options: of the command line
    """
    jobs = [
        (skill.shortened(options.steps), seed, options.n_envs)
        for seed in range(options.seeds)
        for skill in reversed(SKILLS)
    ]
    paths = [policy_path(options.out, skill.name, seed) for skill, seed, _ in jobs]
    n_processes = min(options.processes, len(jobs))
    if n_processes == 1:
        for job, path in zip(jobs, paths, strict=True):
            print(f"  {train(*job, path)}", flush=True)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = mp.get_context("spawn")  # a fork would copy torch's locked threads
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        waiting = [pool.submit(train, *job, path) for job, path in zip(jobs, paths, strict=True)]
        for future in waiting:
            print(f"  {future.result()}", flush=True)


def make_mutex(paths: Sequence[Path], smoothing: int = 1) -> FieldMutexPolicy:
    """
    Build the selector over three saved policies.

    :param paths: of the policies, in the order of ``SKILLS``
    :param smoothing: selections that the weights are averaged over
    """
    env = CourseVecEnv(1)
    policy = FieldMutexPolicy(
        [
            # Hip, knee and ankle of both legs.
            SubPolicy(path, skill.action_scale * 2)
            for path, skill in zip(paths, SKILLS, strict=True)
        ],
        observation_space=env.observation_space,
        action_space=env.action_space,  # type: ignore[arg-type]
        obs_segments=env.obs_segments,
        env_action_scale=ENV_ACTION_SCALE * 2,
        id_slice=(1, len(SKILLS)),
        last_action_segment="last_action",
        action_smoothing_buffer_len=smoothing,
        device="cpu",
    )
    env.close()
    return policy


def table(summaries: Mapping[str, Sequence[Mapping[str, float]]], n_robots: int) -> str:
    """
    Return the comparison as text.

    :param summaries: of every seed, by name of the policy
    :param n_robots: robots of every seed
    """
    rows = []
    for name, runs in summaries.items():
        cells = [name]
        for key, (_, form) in COLUMNS.items():
            values = np.array([run[key] for run in runs])
            spread = f" ± {form.format(values.std())}" if len(values) > 1 else ""
            cells.append(form.format(values.mean()) + spread)
        rows.append(cells)
    n_seeds = len(summaries["mutex"])
    title = f"the course, {n_robots} robots each, mean ± standard deviation of {n_seeds} seed(s)"
    return format_table(title, ["", *(title for title, _ in COLUMNS.values())], rows)


def evaluate(options: argparse.Namespace) -> str:
    """
    Send everybody along the course, write the results and draw the pictures.

    :param options: of the command line
    :return: the table
    """
    out: Path = options.out
    summaries: Summaries = {}
    first: dict[str, Run] = {}
    names = [skill.name for skill in SKILLS]
    for seed in range(options.seeds):
        paths = [policy_path(out, name, seed) for name in names]
        mutex = make_mutex(paths, options.smoothing)
        if seed == 0:
            mutex.save(out / "mutex.zip")
        skills = [load_policy(path, "cpu") for path in paths]
        runs = run_all(skills, mutex, options.course, options.robots, EVALUATION_SEED + seed)
        first = first or runs
        for name, run in runs.items():
            summaries.setdefault(name, []).append(run.summary())
    text = table(summaries, options.robots)
    (out / "results.txt").write_text(text + "\n", encoding="utf-8")
    (out / "results.json").write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")
    write_speeds(first, options.course, names, out / "course.png")
    write_film_strip(first["mutex"], options.course, names, out / "motion.png")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Train, evaluate and draw.

    :param arguments: of the command line
    :return: exit status
    """
    options = parse_arguments(arguments)
    th.set_num_threads(1)
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.evaluate:
        print(f"training {len(SKILLS)} skills with {options.seeds} seed(s) ...", flush=True)
        train_all(options)
    print("on the course ...", flush=True)
    print(f"\n{evaluate(options)}\n")
    for name, what in (
        ("course.png", "speed over time, with the command: look at this first"),
        ("motion.png", "a film strip of the mutex policy, where skills take over"),
        ("mutex.zip", f'FieldMutexPolicy.load("{options.out / "mutex.zip"}")'),
        ("results.json", "the table's numbers, per seed"),
    ):
        print(f"  {options.out / name!s:<28} {what}")
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
