"""
What the comparisons of learning share: runs in processes of their own, rows, intervals, tables.

A comparison is a set of runs, an *arm* and a seed each. Every run is a process with one thread and
appends one row to a JSON-lines file when it is through; a run whose row is there is not run again.

Point estimates are interquartile means and intervals 95 % percentile intervals of a bootstrap over
seeds, stratified by task, as in rliable (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Row = dict[str, Any]


class Interval(NamedTuple):
    """
    An estimate.

    :param point: the interquartile mean
    :param low: lower end of the interval
    :param high: upper end
    """

    point: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.point:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Run:
    """
    One run.

    :param arm: what is trained
    :param seed: of every random number
    """

    arm: str
    seed: int


@dataclass(frozen=True)
class Place:
    """
    Where a comparison leaves what it makes.

    :param folder: of everything
    """

    folder: Path

    @property
    def rows(self) -> Path:
        """Rows of finished runs, JSON lines."""
        return self.folder / "rows.jsonl"

    def policy(self, run: Run) -> Path:
        """Where the trained policy of a run lies."""
        return self.folder / "policies" / f"{run.arm}-seed{run.seed}.zip"

    def log(self, run: Run) -> Path:
        """Where the output of a run goes."""
        return self.folder / "logs" / f"{run.arm}-seed{run.seed}.log"


# ------------------------------------------------------------------ statistics


def iqm(samples: Array) -> Array:
    """
    Return the interquartile mean over runs (and tasks), scipy's ``trim_mean`` with a quarter cut.

    :param samples: ``(..., n)``
    :return: ``(...)``
    """
    n = samples.shape[-1]
    cut = n // 4
    middle: Array = np.sort(samples, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return middle


def bootstrap(scores: Array, reps: int, seed: int = 0) -> Array:
    """
    Draw runs with replacement, for each task anew, and return the interquartile means.

    :param scores: ``(n_runs, n_tasks)``
    :param reps: number of draws
    :param seed: of the draws
    :return: ``(reps,)``
    """
    generator = np.random.default_rng(seed)
    n_runs, n_tasks = scores.shape
    drawn = generator.integers(n_runs, size=(reps, n_runs, n_tasks))
    return iqm(scores[drawn, np.arange(n_tasks)].reshape(reps, -1))


def interval(scores: Sequence[float] | Array, reps: int = 20_000) -> Interval:
    """
    Return interquartile mean and 95 % interval over seeds.

    :param scores: one per run, or ``(n_runs, n_tasks)``
    :param reps: bootstrap samples
    """
    table = np.asarray(scores, dtype=np.float64)
    table = table.reshape(len(table), -1)
    low, high = np.percentile(bootstrap(table, reps), (2.5, 97.5))
    return Interval(float(iqm(table.reshape(-1))), float(low), float(high))


# ------------------------------------------------------------------ rows


def read_rows(path: Path) -> list[Row]:
    """
    Return the rows of finished runs; a last line that was cut off counts as not finished.

    :param path: JSON lines; may be missing
    """
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """
    Add a row in one write, so that processes do not write into one another's lines.

    :param path: JSON lines
    :param row: plain data
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write((json.dumps(row) + "\n").encode())


def values_of(rows: Sequence[Row], arm: str, key: str) -> list[float]:
    """
    Return a quantity of an arm, in the order of the seeds.

    :param rows: of finished runs
    :param arm: which
    :param key: of the quantity
    """
    mine = sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["seed"]))
    return [float(row[key]) for row in mine]


# ------------------------------------------------------------------ running


def add_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """
    Add what every comparison understands.

    :param parser: of the program
    :param folder: default of ``--out``
    """
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path(folder), help="rows, policies, logs")
    parser.add_argument("--smoke", action="store_true", help="does it run? seconds")
    parser.add_argument("--markdown", type=Path, help="page to write the tables into")
    parser.add_argument("--plot", type=Path, help="picture to write")
    parser.add_argument("--report", action="store_true", help="run nothing, read the rows")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)


def run_processes(
    script: str, stages: Sequence[Sequence[Run]], place: Place, jobs: int, extra: Sequence[str]
) -> None:
    """
    Run what has no row yet, each in a process of its own; a stage begins when the last is through.

    :param script: path of the program, which understands ``--one ARM SEED``
    :param stages: runs; those of a stage do not need one another
    :param place: where rows and logs go
    :param jobs: processes at a time
    :param extra: further arguments
    :raises RuntimeError: if a run failed
    """
    for stage in stages:
        finished = {(row["arm"], row["seed"]) for row in read_rows(place.rows)}
        missing = [run for run in stage if (run.arm, run.seed) not in finished]
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            codes = list(pool.map(lambda run: _run_process(script, run, place, extra), missing))
        failed = [str(place.log(run)) for run, code in zip(missing, codes, strict=True) if code]
        if failed:
            raise RuntimeError(f"{script}: runs failed. See {failed}.")


def _run_process(script: str, run: Run, place: Place, extra: Sequence[str]) -> int:
    command = [sys.executable, script, "--one", run.arm, str(run.seed)]
    command += ["--out", str(place.folder), *extra]
    place.log(run).parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with place.log(run).open("w") as log:
        code = subprocess.run(
            command, check=False, stdout=log, stderr=log, env=environment
        ).returncode
    seconds = time.perf_counter() - start
    sys.stderr.write(
        f"{run.arm} seed {run.seed}: {'failed' if code else 'done'}, {seconds:.0f} s\n"
    )
    return code


def run_or_report(
    options: argparse.Namespace,
    script: str,
    stages: Sequence[Sequence[Run]],
    train: Callable[[Run, Place, bool], Row],
    more: Sequence[str] = (),
) -> list[Row] | None:
    """
    Do what the arguments of :func:`add_arguments` ask for.

    :param options: the arguments
    :param script: path of the program
    :param stages: all runs
    :param train: trains one and returns its row without arm, seed and times
    :param more: arguments of the program that the processes of the runs need, too
    :return: rows of all runs, ``None`` in the process of one run
    """
    place = Place(options.out)
    if options.one:
        run = Run(options.one[0], int(options.one[1]))
        wall, cpu = time.perf_counter(), time.process_time()
        row = train(run, place, options.smoke)
        times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        append_row(place.rows, {"arm": run.arm, "seed": run.seed, **row, **times})
        return None
    if not options.report:
        extra = [*more, *(["--smoke"] if options.smoke else [])]
        run_processes(script, stages, place, options.jobs, extra)
    wanted = {(run.arm, run.seed) for stage in stages for run in stage}
    return [row for row in read_rows(place.rows) if (row["arm"], row["seed"]) in wanted]


# ------------------------------------------------------------------ reporting


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """
    Return a table.

    :param header: names of the columns
    :param lines: cells
    """
    parts = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in parts)


def write_section(path: Path, name: str, text: str) -> None:
    """
    Put text between ``<!-- name -->`` and ``<!-- /name -->`` of a page.

    :param path: of the page; made, or extended, if it lacks the marks
    :param name: of the section
    :param text: what to write
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text() if path.exists() else ""
    if begin not in page:
        page += f"\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
