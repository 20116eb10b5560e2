"""
How much memory a peer needs: the growth of a fresh process that runs nobody else.

``python benchmarks/memory.py '{"module": ..., "attribute": ..., "setup": {...}}'`` is what
:func:`measure_memory` starts; it prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch as th

from benchmarks.learners.common import Peer, Setup

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
N_ITERATIONS = 2


@dataclass(frozen=True)
class MemoryUse:
    """
    What a peer needs.

    :param peak_bytes: largest growth while it is built and runs two iterations: of the resident set
        on a CPU, of what torch has allocated on a GPU
    :param storage_bytes: what holds a rollout
    """

    peak_bytes: int
    storage_bytes: int


def measure_memory(
    module: str, attribute: str, setup: Setup, threads: int | None = None
) -> MemoryUse:
    """
    Run a peer in a process of its own.

    :param module: where the peer is defined
    :param attribute: its class
    :param setup: what all peers share
    :param threads: threads of torch, ``None`` for its own choice
    :return: what it needed
    :raises RuntimeError: if the process fails
    """
    order = {"module": module, "attribute": attribute, "setup": asdict(setup), "threads": threads}
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(order)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise RuntimeError(
            f"benchmarks: the process that measures the memory of {attribute} ended with "
            f"{child.returncode}: {child.stderr[-2000:]}"
        )
    return MemoryUse(**json.loads(child.stdout.splitlines()[-1]))


def run_alone(make: Callable[[Setup], Peer], setup: Setup) -> MemoryUse:
    """
    Measure a peer in this process, which should have run nothing else.

    A tiny peer goes first, so that what is loaded once per process is not counted.

    :param make: builds the peer
    :param setup: what all peers share
    :return: what it needed
    """
    device = th.device(setup.device)
    _iterate(make(replace(setup, n_envs=4, n_steps=4, n_epochs=1)), 1)
    gc.collect()
    _return_free_memory()
    before = _start_watching(device)
    peer = make(setup)
    _iterate(peer, N_ITERATIONS)
    return MemoryUse(_read_peak(device) - before, peer.storage_bytes())


def _iterate(peer: Peer, times: int) -> None:
    for _ in range(times):
        peer.collect()
        peer.update()


def _return_free_memory() -> None:
    """Make the allocator give back what it keeps, else the peer would reuse it unseen."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _start_watching(device: th.device) -> int:
    if device.type == "cuda":
        th.cuda.synchronize(device)
        th.cuda.reset_peak_memory_stats(device)
        return th.cuda.memory_allocated(device)
    with suppress(OSError):  # without it the peak so far stays, which was low
        CLEAR_REFS.write_text(RESET_PEAK)
    return _read_status("VmRSS") if STATUS.exists() else _read_peak(device)


def _read_peak(device: th.device) -> int:
    if device.type == "cuda":
        return th.cuda.max_memory_allocated(device)
    if STATUS.exists():
        return _read_status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _read_status(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"benchmarks: {STATUS} has no field '{field}'. A Linux kernel has it.")


def main() -> None:
    """Do what :func:`measure_memory` asks for."""
    order = json.loads(sys.argv[1])
    if order["threads"] is not None:
        th.set_num_threads(order["threads"])
    warnings.simplefilter("ignore")
    fields: dict[str, Any] = order["setup"]
    for name, value in fields.items():
        if isinstance(value, list):  # JSON knows no tuples
            fields[name] = tuple(value)
    make = vars(importlib.import_module(order["module"]))[order["attribute"]]
    print(json.dumps(asdict(run_alone(make, Setup(**fields)))))


if __name__ == "__main__":
    main()
