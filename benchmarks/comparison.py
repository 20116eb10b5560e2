"""Iteration times of several libraries side by side: what the programs here have in common."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch as th

from benchmarks.learners.common import MissingPeerError, Peer, Setup
from benchmarks.memory import MemoryUse, measure_memory
from benchmarks.operators import OperatorReport, count_operators
from benchmarks.tables import Row, format_memory, format_operators, format_rows, hardware
from benchmarks.timing import Iteration, paired_ratios, quartiles, run_rounds

REFERENCES = {"rsl_rl": "rsl_rl", "sb3": "sb3"}

PeerMaker = Callable[[Setup], Peer]


@dataclass(frozen=True)
class Comparison:
    """
    One program: who is compared on what.

    :param title: for ``--help``
    :param workloads: by name, the fields of :class:`~benchmarks.learners.common.Setup` that differ
    :param peers: by name, module and class of everybody
    :param envs: default numbers of environments
    :param references: who is meant by ``rsl_rl`` and ``sb3`` in ``ratio_to_rsl_rl`` and
        ``ratio_to_sb3``, and by any further name
    :param uncounted: peers whose compiled code hides its operators
    """

    title: str
    workloads: dict[str, Row]
    peers: dict[str, tuple[str, str]]
    envs: tuple[int, ...]
    references: Mapping[str, str] = field(default_factory=lambda: dict(REFERENCES))
    uncounted: tuple[str, ...] = ()


def build_parser(comparison: Comparison) -> argparse.ArgumentParser:
    """
    Build the command line.

    :param comparison: what can be chosen from
    :return: its parser
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
    add("--markdown", type=Path, help="write the tables there")
    switch = argparse.BooleanOptionalAction
    add("--ops", action=switch, default=False, help="count operators and host transfers")
    add("--memory", action=switch, default=False, help="measure memory, a process for each peer")
    add("--smoke", action="store_true", help="does it run? 8 environments, one round, counts too")
    return parser


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """
    Read the command line.

    :param parser: of :func:`build_parser`
    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options
    """
    options = parser.parse_args(arguments)
    for path in (options.json, options.markdown):
        if path is not None:
            check_writable(path, parser)  # before minutes of measuring
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
    results: Mapping[str, list[Iteration]],
    operators: Mapping[str, OperatorReport],
    memory: Mapping[str, MemoryUse],
    shared: Row,
    references: Mapping[str, str],
) -> list[Row]:
    """
    Summarise the rounds of one workload and number of environments.

    :param results: iterations of every peer
    :param operators: counts of every peer, or nothing
    :param memory: needs of every peer, or nothing
    :param shared: columns that all rows have in common
    :param references: whom the ratios refer to, by the name in the column
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
        for reference, peer in references.items():
            row.update(_compare(reference, iterations, results.get(peer)))
        if name in operators:
            row["operators"] = asdict(operators[name])
        if name in memory:
            row.update(asdict(memory[name]))
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


def measure(comparison: Comparison, options: argparse.Namespace) -> list[Row]:
    """
    Time every workload at every number of environments.

    :param comparison: what can be chosen from
    :param options: of the command line
    :return: one row per peer, workload and number of environments
    """
    makers = find_peers(comparison.peers, options.peers)
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
            rows.extend(_measure_setup(comparison, makers, workload, setup, options))
            print(f"measured {workload}, {n_envs} environments", file=sys.stderr)
    return rows


def _measure_setup(
    comparison: Comparison,
    makers: Mapping[str, PeerMaker],
    workload: str,
    setup: Setup,
    options: argparse.Namespace,
) -> list[Row]:
    peers = [make(setup) for make in makers.values()]
    check_equal_size(peers)
    device = th.device(options.device)
    results = run_rounds(peers, options.rounds, options.warmup, device, options.seed)
    del peers
    counts, memory = {}, {}
    if options.ops:
        counts = {
            name: count_operators(make, setup)
            for name, make in makers.items()
            if name not in comparison.uncounted
        }
    if options.memory:
        memory = {
            name: measure_memory(*comparison.peers[name], setup, options.threads) for name in makers
        }
    machine = hardware(options.device)
    shared = {"workload": workload, **asdict(setup), **machine, "rounds": options.rounds}
    return make_rows(results, counts, memory, shared, comparison.references)


def run(comparison: Comparison, arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print and write.

    :param comparison: who is compared on what
    :param arguments: of the command line
    """
    options = parse_arguments(build_parser(comparison), arguments)
    if options.threads is not None:
        th.set_num_threads(options.threads)
    report(measure(comparison, options), options)


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """
    Print the tables, and write the files that were asked for.

    :param rows: of :func:`measure`
    :param options: of the command line
    """
    tables = [format_rows(rows)]
    if options.ops:
        tables.append(format_operators(rows))
    if options.memory:
        tables.append(format_memory(rows))
    text = "\n\n".join(tables) + "\n"
    print(text, end="")
    if options.markdown is not None:
        write_text(options.markdown, text)
    if options.json is not None:
        write_text(options.json, json.dumps(rows, indent=1) + "\n")


def check_writable(path: Path, parser: argparse.ArgumentParser) -> None:
    """
    End the program if a file cannot be written.

    :param path: the file; folders above it are made, an old one stays as it is
    :param parser: which says so
    """
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        parser.error(f"{path} cannot be written: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
