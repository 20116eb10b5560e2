"""Several training runs side by side, one process each."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, NamedTuple

from examples.demo_training import Job, train

if TYPE_CHECKING:
    Number = Synchronized[int]


class Plan(NamedTuple):
    """
    What all processes know.

    :param jobs: in the order in which they are taken, seed by seed
    :param ticket: index of the next job, shared
    :param end: jobs that are taken at all, shared
    :param begin: when the first began, s since the epoch
    :param budget: within how many seconds all jobs should end
    """

    jobs: Sequence[Job]
    ticket: Number
    end: Number
    begin: float
    budget: float

    def take(self) -> Job | None:
        """Return the next job; a seed that would end too late is left out, with all after it."""
        with self.ticket.get_lock():
            number = self.ticket.value
            if number >= self.end.value:
                return None
            job = self.jobs[number]
            elapsed = time.time() - self.begin
            begins_a_seed = job.seed > 0 and self.jobs[number - 1].seed < job.seed
            # A seed from now on takes longer than the mean: what runs beside it is not done yet.
            if begins_a_seed and elapsed * (1.0 + 1.6 / job.seed) > self.budget:
                self.end.value = number
                return None
            self.ticket.value = number + 1
            return job


def n_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(jobs: Sequence[Job], n_processes: int, budget: float) -> Sequence[Job]:
    """
    Train; this process shows a progress bar of the jobs that it takes itself.

    :param jobs: in the order in which they are taken, seed by seed, the longer one first
    :param n_processes: how many at a time
    :param budget: seconds; a further seed that would end later is not begun
    :return: the jobs that were done
    :raises RuntimeError: if a run in another process failed
    """
    context = mp.get_context("spawn")  # a fork would copy torch's locked threads
    plan = Plan(jobs, context.Value("i", 0), context.Value("i", len(jobs)), time.time(), budget)
    workers: list[BaseProcess] = [
        context.Process(target=_work_aside, args=(plan,), daemon=True)
        for _ in range(min(n_processes, len(jobs)) - 1)
    ]
    try:
        _start(workers)
        _work(plan, progress_bar=True)
        waiting = [worker for worker in workers if worker.is_alive()]
        if waiting:
            print(f"waiting for {len(waiting)} run(s) in the background ...", flush=True)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    failed = [worker.exitcode for worker in workers if worker.exitcode != 0]
    if failed:
        raise RuntimeError(
            f"demo: {len(failed)} background process(es) ended with {failed}; what went wrong "
            "stands above. Everything in one process: --processes 1"
        )
    return jobs[: plan.end.value]


def _start(workers: Sequence[BaseProcess]) -> None:
    """Start the workers with one thread each, whatever library they load."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    for worker in workers:
        worker.start()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


def _work(plan: Plan, progress_bar: bool) -> None:
    """Train one job after the other as long as there is one."""
    while (job := plan.take()) is not None:
        if progress_bar:
            print(f"{job.name}:", flush=True)
        train(job, progress_bar=progress_bar)


def _work_aside(plan: Plan) -> None:
    """Work without a progress bar; Ctrl-C is the foreground's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work(plan, progress_bar=False)
