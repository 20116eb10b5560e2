"""
What a GPU does during an iteration: share of the time inside kernels, and synchronisations.

``python benchmarks/gpu.py --envs 4096 16384 --json runs/gpu.json`` needs a CUDA device. Iteration
times and memory on it are ``python benchmarks/peers.py --device cuda``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch as th

from benchmarks import comparison
from benchmarks.learners.common import Peer, Setup
from benchmarks.peers import FEED_FORWARD
from benchmarks.tables import Row, format_hardware, format_table, hardware
from benchmarks.timing import quartiles, time_iteration

MICROSECOND = 1e-6
WARMUP = 3


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options
    """
    parser = argparse.ArgumentParser(description="Share of the time inside GPU kernels.")
    add = parser.add_argument
    add("--envs", type=int, nargs="+", default=[4096, 16384], help="numbers of robots")
    add("--peers", nargs="+", choices=list(FEED_FORWARD.peers), help="default: all installed ones")
    add("--rounds", type=int, default=5, help="iterations that are profiled")
    add("--device", default="cuda")
    add("--json", type=Path, help="write the rows there")
    add("--markdown", type=Path, help="write the table there")
    return parser.parse_args(arguments)


def busy_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """
    Measure the union of intervals, so that kernels side by side count once.

    :param intervals: start and end of each, in any order, s
    :return: time that is inside at least one of them, s
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def kernel_intervals(trace: dict[str, Any]) -> list[tuple[float, float]]:
    """
    Find the kernels in a trace of ``torch.profiler``; copies and fills of memory are none.

    :param trace: the JSON that ``export_chrome_trace`` writes
    :return: start and end of each, s
    """
    return [
        (MICROSECOND * event["ts"], MICROSECOND * (event["ts"] + event["dur"]))
        for event in trace["traceEvents"]
        if event.get("cat") == "kernel"
    ]


def profile_kernels(action: Callable[[], None]) -> float:
    """
    Measure how long kernels run while something is done.

    :param action: what is done, until the device has finished
    :return: time with at least one kernel running, s
    """
    activities = [th.profiler.ProfilerActivity.CUDA]
    with th.profiler.profile(activities=activities) as profiler:
        action()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return busy_seconds(kernel_intervals(json.loads(path.read_text())))


def count_synchronisations(action: Callable[[], None]) -> int:
    """
    Count how often the host waits for the device.

    :param action: what is done
    :return: warnings of ``torch.cuda.set_sync_debug_mode``
    """
    th.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
    finally:
        th.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def measure_peer(peer: Peer, device: th.device, rounds: int) -> Row:
    """
    Profile a peer.

    :param peer: who runs
    :param device: where it computes
    :param rounds: iterations that count
    :return: times without the profiler, time inside kernels, its share, synchronisations
    """
    for _ in range(WARMUP):
        time_iteration(peer, device)
    walls = [time_iteration(peer, device).iteration_s for _ in range(rounds)]
    wall = quartiles(walls)
    kernels = quartiles(
        [profile_kernels(lambda: _discard(time_iteration(peer, device))) for _ in range(rounds)]
    )
    return {
        "iteration_s": wall.median,
        "iteration_q25": wall.q25,
        "iteration_q75": wall.q75,
        "kernel_s": kernels.median,
        # The profiler slows the host and not the kernels: the time that counts is that without it.
        "kernel_share": kernels.median / wall.median,
        "syncs_per_rollout": count_synchronisations(peer.collect),
        "syncs_per_update": count_synchronisations(peer.update),
    }


def _discard(_: object) -> None:
    """Turn a function with a result into one without."""


def measure(options: argparse.Namespace) -> list[Row]:
    """
    Profile every peer at every number of environments.

    :param options: of the command line
    :return: one row per peer and number of environments
    :raises RuntimeError: if there is no such GPU
    """
    device = th.device(options.device)
    if device.type != "cuda" or not th.cuda.is_available():
        raise RuntimeError(
            f"benchmarks/gpu.py: device '{options.device}' with {th.cuda.device_count()} CUDA "
            "devices to be found. A CUDA device is expected. On a CPU run benchmarks/peers.py."
        )
    makers = comparison.find_peers(FEED_FORWARD.peers, options.peers)
    rows: list[Row] = []
    for n_envs in options.envs:
        setup = Setup(n_envs=n_envs, device=options.device, **FEED_FORWARD.workloads["standard"])
        for name, make in makers.items():
            measured = measure_peer(make(setup), device, options.rounds)
            rows.append({"peer": name, **asdict(setup), **hardware(options.device), **measured})
    return rows


def format_rows(rows: Sequence[Row]) -> str:
    """
    Write the rows as a Markdown table.

    :param rows: of :func:`measure`
    :return: the table under a line about the machine
    """
    titles = ["peer", "envs", "iteration, ms", "inside kernels, ms", "share, %"]
    titles += ["synchronisations per rollout", "per update"]
    cells = [
        [
            row["peer"],
            str(row["n_envs"]),
            f"{1e3 * row['iteration_s']:.1f} [{1e3 * row['iteration_q25']:.1f}, "
            f"{1e3 * row['iteration_q75']:.1f}]",
            f"{1e3 * row['kernel_s']:.1f}",
            f"{100 * row['kernel_share']:.0f}",
            str(row["syncs_per_rollout"]),
            str(row["syncs_per_update"]),
        ]
        for row in rows
    ]
    return f"{format_hardware(rows[0])}\n\n{format_table(titles, cells, 1)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param arguments: of the command line
    """
    options = parse_arguments(arguments)
    rows = measure(options)
    text = format_rows(rows)
    print(text, end="")
    if options.markdown is not None:
        comparison.write_text(options.markdown, text)
    if options.json is not None:
        comparison.write_text(options.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
