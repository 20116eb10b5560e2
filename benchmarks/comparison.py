"""Iteration times of several libraries side by side: what the programs here have in common."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.learners.common import MissingPeerError, Peer, Setup
from benchmarks.operators import OperatorReport, count_operators
from benchmarks.timing import Iteration, paired_ratios, quartiles, run_rounds

REFERENCES = ("rsl_rl", "sb3")

Row = dict[str, Any]
PeerMaker = Callable[[Setup], Peer]


@dataclass(frozen=True)
class Comparison:
    """
    One program: who is compared on what.

    :param title: for ``--help``
    :param workloads: by name, the fields of :class:`~benchmarks.learners.common.Setup` that differ
    :param peers: by name, module and class of everybody
    :param envs: default numbers of environments
    :param family: the peer that stands for Stable-Baselines3 in ``ratio_to_sb3``
    """

    title: str
    workloads: dict[str, Row]
    peers: dict[str, tuple[str, str]]
    envs: tuple[int, ...]
    family: str = "sb3"


def parse_arguments(
    comparison: Comparison, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """
    Read the command line.

    :param comparison: what can be chosen from
    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options
    """
    workloads = list(comparison.workloads)
    parser = argparse.ArgumentParser(description=comparison.title)
    add = parser.add_argument
    add("--envs", type=int, nargs="+", default=list(comparison.envs), help="numbers of robots")
    add("--peers", nargs="+", choices=list(comparison.peers), help="default: all installed ones")
    add("--workloads", nargs="+", choices=workloads, default=workloads)
    add("--rounds", type=int, default=21, help="rounds that count")
    add("--warmup", type=int, default=3, help="rounds before them")
    add("--n-steps", type=int, default=24, help="environment steps per iteration")
    add("--n-epochs", type=int, default=5)
    add("--n-minibatches", type=int, default=4)
    add("--adaptive-kl", action="store_true", help="adapt the step size in rsl_rl and sb3_strl")
    add("--threads", type=int, help="threads of torch; default: torch's own choice")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the rows there")
    add("--ops", action="store_true", help="also count operators and host transfers")
    add("--smoke", action="store_true", help="does it run? 8 environments, one round, counts too")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.envs, options.rounds, options.warmup, options.ops = [8], 1, 0, True
    return options


def find_peers(
    peers: dict[str, tuple[str, str]], names: Sequence[str] | None
) -> dict[str, PeerMaker]:
    """
    Import the peers.

    :param peers: module and class by name
    :param names: which; ``None`` for all, warning about those that are not installed
    :return: how to make them, by name
    :raises MissingPeerError: if one that was named is not installed
    """
    found: dict[str, PeerMaker] = {}
    for name in names or peers:
        module, attribute = peers[name]
        try:
            found[name] = vars(importlib.import_module(module))[attribute]
        except MissingPeerError as error:
            if names is not None:
                raise
            warnings.warn(f"{error} It is left out.", stacklevel=2)
    return found


def check_equal_size(peers: Sequence[Peer]) -> None:
    """
    Refuse to compare networks of different sizes.

    :param peers: who is compared
    :raises ValueError: if their numbers of parameters differ
    """
    sizes = {peer.name: peer.n_parameters() for peer in peers}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"benchmarks: the peers have different numbers of parameters ({sizes}). Equal networks "
            "are expected. Bring the layers of benchmarks/learners/ into line."
        )


def make_rows(
    results: dict[str, list[Iteration]],
    operators: dict[str, OperatorReport],
    shared: Row,
    family: str = "sb3",
) -> list[Row]:
    """
    Summarise the rounds of one workload and number of environments.

    :param results: iterations of every peer
    :param operators: counts of every peer, or nothing
    :param shared: columns that all rows have in common
    :param family: whom ``ratio_to_sb3`` refers to
    :return: one row per peer
    """
    rows = []
    for name, iterations in results.items():
        wall = quartiles([iteration.iteration_s for iteration in iterations])
        row: Row = {
            "peer": name,
            **shared,
            "iteration_s": wall.median,
            "iteration_q25": wall.q25,
            "iteration_q75": wall.q75,
            "collect_s": quartiles([iteration.collect_s for iteration in iterations]).median,
            "update_s": quartiles([iteration.update_s for iteration in iterations]).median,
            "cpu_s": quartiles([iteration.cpu_s for iteration in iterations]).median,
        }
        for reference in REFERENCES:
            theirs = results.get(family if reference == "sb3" else reference)
            row.update(_compare(reference, iterations, theirs))
        report = operators.get(name)
        if report is not None:
            row["operators"] = asdict(report)
        rows.append(row)
    return rows


def _compare(reference: str, ours: list[Iteration], theirs: list[Iteration] | None) -> Row:
    costs: dict[str, Callable[[Iteration], float]] = {
        "ratio": lambda iteration: iteration.iteration_s,
        "cpu_ratio": lambda iteration: iteration.cpu_s,
        "collect_ratio": lambda iteration: iteration.collect_s,
        "update_ratio": lambda iteration: iteration.update_s,
    }
    row: Row = {}
    for label, cost in costs.items():
        key = f"{label}_to_{reference}"
        spread = None if theirs is None else paired_ratios(ours, theirs, cost)
        row[key] = None if spread is None else spread.median
        if label in ("ratio", "cpu_ratio"):
            row[f"{key}_q25"] = None if spread is None else spread.q25
            row[f"{key}_q75"] = None if spread is None else spread.q75
    return row


def hardware() -> Row:
    """
    Describe the machine.

    :return: model of the processor, threads in use, versions
    """
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else cpu,
        "cores": len(models) or None,
        "threads": th.get_num_threads(),
        "torch": th.__version__,
        "python": platform.python_version(),
    }


def measure(comparison: Comparison, options: argparse.Namespace) -> list[Row]:
    """
    Time every workload at every number of environments.

    :param comparison: what can be chosen from
    :param options: of the command line
    :return: one row per peer, workload and number of environments
    """
    makers = find_peers(comparison.peers, options.peers)
    machine = hardware()
    rows: list[Row] = []
    for workload in options.workloads:
        for n_envs in options.envs:
            setup = Setup(
                n_envs=n_envs,
                n_steps=options.n_steps,
                n_epochs=options.n_epochs,
                n_minibatches=options.n_minibatches,
                adaptive_kl=options.adaptive_kl,
                device=options.device,
                seed=options.seed,
                **comparison.workloads[workload],
            )
            peers = [make(setup) for make in makers.values()]
            check_equal_size(peers)
            device = th.device(options.device)
            results = run_rounds(peers, options.rounds, options.warmup, device, options.seed)
            counts = {}
            if options.ops:
                counts = {name: count_operators(make, setup) for name, make in makers.items()}
            shared = {"workload": workload, **asdict(setup), **machine, "rounds": options.rounds}
            rows.extend(make_rows(results, counts, shared, comparison.family))
            print(f"measured {workload}, {n_envs} environments", file=sys.stderr)
    return rows


def format_rows(rows: Sequence[Row]) -> str:
    """
    Write the rows as a Markdown table.

    :param rows: of :func:`measure`
    :return: the table under a line about the machine
    """
    first = rows[0]
    lines = [
        f"{first['cpu']}, {first['cores']} cores, {first['threads']} threads, "
        f"torch {first['torch']}, Python {first['python']}, {first['device']}; "
        f"{first['n_steps']} steps, {first['n_epochs']} epochs of {first['n_minibatches']} "
        f"minibatches, {first['rounds']} rounds; median [quartiles]",
        "",
        "| workload | envs | peer | iteration, ms | collect | update | CPU, ms "
        "| to rsl_rl | to SB3 | CPU to rsl_rl | CPU to SB3 |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spread = f"[{1e3 * row['iteration_q25']:.1f}, {1e3 * row['iteration_q75']:.1f}]"
        cells = [
            row["workload"],
            str(row["n_envs"]),
            row["peer"],
            f"{1e3 * row['iteration_s']:.1f} {spread}",
            f"{1e3 * row['collect_s']:.1f}",
            f"{1e3 * row['update_s']:.1f}",
            f"{1e3 * row['cpu_s']:.1f}",
            *(
                _format_ratio(row, f"{kind}_to_{reference}")
                for kind in ("ratio", "cpu_ratio")
                for reference in REFERENCES
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_ratio(row: Row, key: str) -> str:
    if row[key] is None:
        return "-"
    return f"{row[key]:.2f} [{row[key + '_q25']:.2f}, {row[key + '_q75']:.2f}]"


def format_operators(rows: Sequence[Row]) -> str:
    """
    Write the counts as a Markdown table; they do not depend on the number of environments.

    :param rows: of :func:`measure`, with counts
    :return: the table
    """
    lines = [
        "| workload | envs | peer | per env step: operators | without views | to host | from host "
        "| per minibatch: operators | without views | in optimizer | to host | from host |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        counts = row["operators"]
        per_step = {key: value for key, value in counts["per_step"].items() if key != "optimizer"}
        values = [*per_step.values(), *counts["per_minibatch"].values()]
        numbers = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {row['workload']} | {row['n_envs']} | {row['peer']} | {numbers} |")
    return "\n".join(lines)


def run(comparison: Comparison, arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param comparison: who is compared on what
    :param arguments: of the command line
    """
    options = parse_arguments(comparison, arguments)
    if options.threads is not None:
        th.set_num_threads(options.threads)
    rows = measure(comparison, options)
    print(format_rows(rows))
    if options.ops:
        print(f"\n{format_operators(rows)}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
