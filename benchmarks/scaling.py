"""
How sb3_strl scales with the number of environments: time per sample and memory.

``python benchmarks/scaling.py --json runs/scaling.json --plot docs/images/scaling.png``: one
iteration of PPO from 64 to 16384 environments, on a CPU or, with ``--device cuda``, on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch as th

from benchmarks.comparison import write_text
from benchmarks.learners.common import Setup
from benchmarks.learners.strl_peer import StrlPeer
from benchmarks.memory import measure_memory
from benchmarks.tables import Row, format_hardware, format_table, hardware
from benchmarks.timing import Iteration, quartiles, run_rounds

ENVS = (64, 256, 1024, 4096, 16384)
HIDDEN = (256, 128, 64)
MODULE, ATTRIBUTE = "benchmarks.learners.strl_peer", "StrlPeer"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Read the command line.

    :param arguments: without the program's name; ``None`` takes the process's own
    :return: the options
    """
    parser = argparse.ArgumentParser(description="Time per sample and memory of sb3_strl's PPO.")
    add = parser.add_argument
    add("--envs", type=int, nargs="+", default=list(ENVS), help="numbers of robots")
    add("--rounds", type=int, default=11, help="rounds that count")
    add("--warmup", type=int, default=2, help="rounds before them")
    add("--n-steps", type=int, default=24, help="environment steps per iteration")
    add("--n-epochs", type=int, default=5)
    add("--n-minibatches", type=int, default=4)
    add("--memory-cell", type=int, default=0, help="width of an LSTM, 0 for none")
    add("--threads", type=int, help="threads of torch; default: torch's own choice")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the rows there")
    add("--markdown", type=Path, help="write the table there")
    add("--plot", type=Path, help="draw the picture there")
    add("--smoke", action="store_true", help="does it run? 8 and 16 environments, one round")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.envs, options.rounds, options.warmup = [8, 16], 1, 0
    return options


def measure(options: argparse.Namespace) -> list[Row]:
    """
    Time all numbers of environments in one run, in turn, then measure their memory.

    :param options: of the command line
    :return: one row for each number of environments
    """
    setups = {
        str(n_envs): Setup(
            n_envs=n_envs,
            hidden=HIDDEN,
            n_steps=options.n_steps,
            n_epochs=options.n_epochs,
            n_minibatches=options.n_minibatches,
            memory=options.memory_cell,
            device=options.device,
            seed=options.seed,
        )
        for n_envs in options.envs
    }
    peers = []
    for name, setup in setups.items():
        peer = StrlPeer(setup)
        peer.name = name
        peers.append(peer)
    device = th.device(options.device)
    results = run_rounds(peers, options.rounds, options.warmup, device, options.seed)
    machine = {**hardware(options.device), "rounds": options.rounds}
    return [
        {
            **asdict(setup),
            **machine,
            **_per_sample(results[name], setup),
            **asdict(measure_memory(MODULE, ATTRIBUTE, setup, options.threads)),
        }
        for name, setup in setups.items()
    ]


def _per_sample(iterations: Sequence[Iteration], setup: Setup) -> Row:
    n_samples = setup.n_envs * setup.n_steps
    total = quartiles([1e6 * each.iteration_s / n_samples for each in iterations])
    return {
        "iteration_us": total.median,
        "iteration_us_q25": total.q25,
        "iteration_us_q75": total.q75,
        "collect_us": quartiles([1e6 * each.collect_s / n_samples for each in iterations]).median,
        "update_us": quartiles([1e6 * each.update_s / n_samples for each in iterations]).median,
    }


def fit_memory(rows: Sequence[Row]) -> tuple[float, float]:
    """
    Fit a line through memory over the number of environments.

    :param rows: of :func:`measure`, at least two
    :return: bytes for each environment, and the largest deviation from the line as a fraction of
        the largest memory
    """
    envs = np.array([row["n_envs"] for row in rows], dtype=np.float64)
    peaks = np.array([row["peak_bytes"] for row in rows], dtype=np.float64)
    slope, offset = np.polyfit(envs, peaks, 1)
    deviation = np.abs(peaks - (slope * envs + offset)).max() / peaks.max()
    return float(slope), float(deviation)


def format_rows(rows: Sequence[Row]) -> str:
    """
    Write the rows as a Markdown table.

    :param rows: of :func:`measure`
    :return: the table under a line about the machine
    """
    first = rows[0]
    cells = [
        [
            str(row["n_envs"]),
            f"{row['iteration_us']:.2f} [{row['iteration_us_q25']:.2f}, "
            f"{row['iteration_us_q75']:.2f}]",
            f"{row['collect_us']:.2f}",
            f"{row['update_us']:.2f}",
            f"{1e6 / row['iteration_us']:,.0f}",
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['storage_bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]
    titles = ["environments", "time per sample, µs", "collect", "update", "samples per second"]
    titles += ["peak memory, MB", "of which rollout storage, MB"]
    lines = [
        f"{format_hardware(first)}; {first['n_steps']} steps, {first['n_epochs']} epochs of "
        f"{first['n_minibatches']} minibatches, {first['rounds']} rounds; median [quartiles]",
        "",
        format_table(titles, cells, 0),
    ]
    if len(rows) > 2:
        slope, deviation = fit_memory(rows)
        lines += [
            "",
            f"Memory grows by {slope / 1e3:.1f} kB for each environment; the largest deviation "
            f"from a straight line is {100 * deviation:.1f} % of the largest memory.",
        ]
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """
    Draw time per sample and memory over the number of environments.

    :param rows: of :func:`measure`
    :param path: of the picture
    """
    from matplotlib import pyplot as plt

    envs = [row["n_envs"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for key, label in (("iteration", "iteration"), ("update", "update"), ("collect", "collect")):
        left.plot(envs, [row[f"{key}_us"] for row in rows], marker="o", label=label)
    low, high = ([row[f"iteration_us_{q}"] for row in rows] for q in ("q25", "q75"))
    left.fill_between(envs, low, high, alpha=0.2)
    left.set(ylabel="time per sample, µs", ylim=(0.0, None), title="Time")
    left.legend(frameon=False)
    for key, label in (("peak", "peak"), ("storage", "rollout storage")):
        right.plot(envs, [row[f"{key}_bytes"] / 1e6 for row in rows], marker="o", label=label)
    right.set(ylabel="memory, MB", yscale="log", title="Memory")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(envs, [str(count) for count in envs])
        axes.set_xlabel("environments")
        axes.grid(alpha=0.3)
    device = rows[0]["gpu"] or f"{rows[0]['cpu']}, {rows[0]['threads']} threads"
    figure.suptitle(f"sb3_strl PPO on {device}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure, print, write and draw.

    :param arguments: of the command line
    """
    options = parse_arguments(arguments)
    if options.threads is not None:
        th.set_num_threads(options.threads)
    rows = measure(options)
    text = format_rows(rows)
    print(text, end="")
    if options.markdown is not None:
        write_text(options.markdown, text)
    if options.json is not None:
        write_text(options.json, json.dumps(rows, indent=1) + "\n")
    if options.plot is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
