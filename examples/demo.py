"""
Train PPO and APPO on the embedded walker and show how each of them walks.

``python examples/demo.py --out runs/demo`` writes the model, TensorBoard logs, learning curves, and
the reference, PPO and APPO one above the other as an animation and as a film strip.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.demo_evaluation import Gait, gait_error, judge, survival, task_return, walk
from examples.demo_pictures import make_films, write_animation, write_curves, write_film_strip
from examples.demo_runs import n_processors, run_all
from examples.demo_training import Algorithm, Curve, Job
from sb3_strl import APPO, PPO
from sb3_strl.common.tables import format_table

ALGORITHMS: tuple[Algorithm, ...] = ("PPO", "APPO")
COLUMNS = {
    "task_return": ("task return", "{:.0f}"),
    "style_reward": ("style reward", "{:.2f}"),
    "pose_error_deg": ("pose error (deg)", "{:.1f}"),
    "survival": ("not fallen", "{:.2f}"),
    "policy_accuracy": ("D on policy", "{:.2f}"),
    "expert_accuracy": ("D on expert", "{:.2f}"),
}
Metrics = dict[str, float]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options
    """
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/demo"), help="folder of the results (%(default)s)")
    add("--steps", type=_positive, help="environment steps of each run (default 900000)")
    add("--seeds", type=_positive, help="runs of each algorithm (default 3, where time allows)")
    add("--minutes", type=float, help="begin no further seed that would end later (default 8)")
    add("--n-envs", type=_positive, help="robots that walk at the same time (default 64)")
    add("--processes", type=_positive, help="runs at the same time (default: one per processor)")
    add("--smoke", action="store_true", help="a few thousand steps: does everything run?")
    options = parser.parse_args(arguments)
    if options.minutes is None:
        # Who names the seeds wants them all.
        options.minutes = 8.0 if options.seeds is None else math.inf
    defaults = (6_000, 1, 32) if options.smoke else (900_000, 3, 64)
    for name, value in zip(("steps", "seeds", "n_envs"), defaults, strict=True):
        if vars(options)[name] is None:
            setattr(options, name, value)
    return options


def _positive(text: str) -> int:
    """Read a positive whole number; 2e6 and 2_000_000 are welcome."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(number)


def make_jobs(options: argparse.Namespace) -> list[Job]:
    """
    Return the runs, seed by seed, the longer one first.

    :param options: of the command line
    """
    n_jobs = options.seeds * len(ALGORITHMS)
    threads = max(1, n_processors() // min(n_jobs, options.processes or n_processors()))
    points = 2 if options.smoke else 12
    return [
        Job(algorithm, seed, options.steps, options.n_envs, threads, options.out, points)
        for seed in range(options.seeds)
        for algorithm in reversed(ALGORITHMS)
    ]


def evaluate(jobs: Sequence[Job]) -> tuple[dict[str, list[Metrics]], dict[str, Gait]]:
    """
    Let every model walk, and APPO's discriminator of the same seed judge both algorithms.

    :param jobs: that are done
    :return: metrics of every seed and the gait of the first seed, by name of the algorithm
    """
    metrics: dict[str, list[Metrics]] = {name: [] for name in ALGORITHMS}
    gaits: dict[str, Gait] = {}
    paths = {(job.algorithm, job.seed): job.model_path for job in jobs}
    for seed in range(len(jobs) // len(ALGORITHMS)):
        appo = APPO.load(paths["APPO", seed], device="cpu")
        policies = {
            "PPO": PPO.load(paths["PPO", seed], device="cpu").policy,
            "APPO": appo.policy,
        }
        for name in ALGORITHMS:
            gait = walk(policies[name])
            gaits.setdefault(name, gait)
            metrics[name].append(
                {
                    "task_return": task_return(gait),
                    "pose_error_deg": gait_error(gait),
                    "survival": survival(gait),
                    **judge(gait, appo.motion_prior.discriminator),
                }
            )
    return metrics, gaits


def table(metrics: Mapping[str, Sequence[Metrics]], steps: int) -> str:
    """
    Return the comparison as text.

    :param metrics: of every seed, by name of the algorithm
    :param steps: of every run
    """
    rows = []
    for name, runs in metrics.items():
        cells = [name]
        for key, (_, form) in COLUMNS.items():
            values = np.array([run[key] for run in runs])
            spread = f" ± {form.format(values.std())}" if len(values) > 1 else ""
            cells.append(form.format(values.mean()) + spread)
        rows.append(cells)
    n_seeds = len(metrics[ALGORITHMS[0]])
    title = f"after {steps:,} environment steps, mean ± standard deviation of {n_seeds} seed(s)"
    return format_table(title, ["", *(title for title, _ in COLUMNS.values())], rows)


def write_results(jobs: Sequence[Job], options: argparse.Namespace) -> str:
    """
    Evaluate, draw and write everything but the models.

    :param jobs: that are done
    :param options: of the command line
    :return: the table
    """
    out: Path = options.out
    metrics, gaits = evaluate(jobs)
    text = table(metrics, options.steps)
    (out / "results.txt").write_text(text + "\n", encoding="utf-8")
    (out / "results.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    curves: dict[str, list[Curve]] = {name: [] for name in ALGORITHMS}
    for job in jobs:
        curves[job.algorithm].append(json.loads(job.curve_path.read_text())["curve"])
    write_curves(curves, out / "curves.png")
    dt = gaits["APPO"].dt
    write_film_strip(make_films(gaits, n_cycles=1), dt, out / "motion.png")
    write_animation(make_films(gaits, n_cycles=2), dt, out / "motion.gif")
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
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    jobs = make_jobs(options)
    n_processes = min(options.processes or n_processors(), len(jobs))
    print(
        f"{len(jobs)} runs of {options.steps:,} environment steps, {n_processes} at a time, "
        f"{options.n_envs} robots each; Ctrl-C stops\n"
        f"  watch: tensorboard --logdir {out / 'tensorboard'}",
        flush=True,
    )
    try:
        done = run_all(jobs, n_processes, 60.0 * options.minutes)
        if len(done) < len(jobs):
            print(f"{len(done)} of {len(jobs)} runs: there was no time for more (see --minutes)")
        print("evaluating and drawing ...", flush=True)
        text = write_results(done, options)
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print("\033[?25h", end="")  # the progress bar had hidden the cursor
        print(f"\nInterrupted. The logs so far, and runs that were complete, are in {out}.")
        return 130
    shutil.copyfile(jobs[0].model_path, out / "model.zip")
    print(f"\n{text}\n")
    for name, what in (
        ("motion.gif", "the reference, PPO and APPO one above the other: look at this first"),
        ("motion.png", "the same as a film strip"),
        ("curves.png", "learning curves"),
        ("model.zip", f'APPO.load("{out / "model.zip"}")'),
        ("results.json", "the table's numbers, per seed"),
    ):
        print(f"  {out / name!s:<28} {what}")
    print(f"  tensorboard --logdir {out / 'tensorboard'}")
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
