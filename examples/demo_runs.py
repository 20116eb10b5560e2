"""Several training runs side by side, one process each."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING

from examples.demo_training import Job, train

if TYPE_CHECKING:
    Ticket = Synchronized[int]


def n_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_all(jobs: Sequence[Job], n_processes: int) -> None:
    """
    Train every job; this process shows a progress bar of those that it takes itself.

    :param jobs: in the order in which they are taken, the longest first
    :param n_processes: how many at a time
    :raises RuntimeError: if a run in another process failed
    """
    context = mp.get_context("spawn")  # a fork would copy torch's locked threads
    ticket: Ticket = context.Value("i", 0)
    workers: list[BaseProcess] = [
        context.Process(target=_work_aside, args=(jobs, ticket), daemon=True)
        for _ in range(min(n_processes, len(jobs)) - 1)
    ]
    try:
        _start(workers)
        _work(jobs, ticket, progress_bar=True)
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
            f"demo: {len(failed)} background process(es) failed with {failed}; what went wrong "
            "stands above. A seed alone, without background processes: --seeds 1 --processes 1"
        )


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


def _work(jobs: Sequence[Job], ticket: Ticket, progress_bar: bool) -> None:
    """Take the next job as long as there is one."""
    while True:
        with ticket.get_lock():
            number = ticket.value
            ticket.value = number + 1
        if number >= len(jobs):
            return
        if progress_bar:
            print(f"{jobs[number].name}:", flush=True)
        train(jobs[number], progress_bar=progress_bar)


def _work_aside(jobs: Sequence[Job], ticket: Ticket) -> None:
    """Work without a progress bar; Ctrl-C is the foreground's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work(jobs, ticket, progress_bar=False)
