"""Rows of measurements as Markdown tables, under a line about the machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

Row = dict[str, Any]

REFERENCE_TITLES = {"rsl_rl": "rsl_rl", "sb3": "SB3", "ppo": "our PPO"}


def hardware(device: str = "cpu") -> Row:
    """
    Describe the machine.

    :param device: where the peers compute
    :return: model of the processor, threads in use, versions, name of the accelerator if it is used
    """
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    on_gpu = th.device(device).type == "cuda"
    return {
        "cpu": models[0] if models else cpu,
        "cores": len(models) or None,
        "threads": th.get_num_threads(),
        "torch": th.__version__,
        "python": platform.python_version(),
        "gpu": th.cuda.get_device_name(device) if on_gpu else None,
    }


def format_hardware(row: Row) -> str:
    """
    Write one line about the machine.

    :param row: with the columns of :func:`hardware`
    :return: processor, cores, threads, versions, accelerator
    """
    return (
        f"{row['cpu']}, {row['cores']} cores, {row['threads']} threads, torch {row['torch']}, "
        f"Python {row['python']}, {row['gpu'] or 'no GPU'}"
    )


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]], n_texts: int) -> str:
    """
    Write a Markdown table.

    :param titles: of the columns
    :param rows: cells of every row
    :param n_texts: how many columns from the left are text; the others are set to the right
    :return: the table
    """
    marks = ["---"] * n_texts + ["---:"] * (len(titles) - n_texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows))


def format_rows(rows: Sequence[Row]) -> str:
    """
    Write iteration times.

    :param rows: of :func:`benchmarks.comparison.measure`
    :return: the table under a line about the machine
    """
    first = rows[0]
    references = [key for key in REFERENCE_TITLES if any(f"ratio_to_{key}" in row for row in rows)]
    head = (
        f"{format_hardware(first)}; {first['n_steps']} steps, {first['n_epochs']} epochs of "
        f"{first['n_minibatches']} minibatches, {first['rounds']} rounds; median [quartiles]"
    )
    titles = ["workload", "peer", "envs", "iteration, ms", "collect", "update", "CPU, ms"]
    titles += [f"to {REFERENCE_TITLES[key]}" for key in references]
    titles += [f"CPU to {REFERENCE_TITLES[key]}" for key in references]
    cells = []
    for row in rows:
        spread = f"[{1e3 * row['iteration_q25']:.1f}, {1e3 * row['iteration_q75']:.1f}]"
        cells.append(
            [
                row["workload"],
                row["peer"],
                str(row["n_envs"]),
                f"{1e3 * row['iteration_s']:.1f} {spread}",
                f"{1e3 * row['collect_s']:.1f}",
                f"{1e3 * row['update_s']:.1f}",
                f"{1e3 * row['cpu_s']:.1f}",
                *(
                    _format_ratio(row, f"{kind}_to_{key}")
                    for kind in ("ratio", "cpu_ratio")
                    for key in references
                ),
            ]
        )
    return f"{head}\n\n{format_table(titles, cells, 2)}"


def _format_ratio(row: Row, key: str) -> str:
    if row.get(key) is None:
        return "-"
    return f"{row[key]:.2f} [{row[key + '_q25']:.2f}, {row[key + '_q75']:.2f}]"


def format_operators(rows: Sequence[Row]) -> str:
    """
    Write the counts of operators and host transfers.

    :param rows: of :func:`benchmarks.comparison.measure`, with counts
    :return: the table
    """
    titles = ["workload", "peer", "envs", "per env step: operators", "without views", "to host"]
    titles += ["from host", "per minibatch: operators", "without views", "in optimizer"]
    titles += ["to host", "from host"]
    cells = []
    for row in rows:
        if "operators" not in row:
            continue
        counts = row["operators"]
        per_step = {key: value for key, value in counts["per_step"].items() if key != "optimizer"}
        values = [*per_step.values(), *counts["per_minibatch"].values()]
        numbers = [f"{value:.1f}" for value in values]
        cells.append([row["workload"], row["peer"], str(row["n_envs"]), *numbers])
    return format_table(titles, cells, 2)


def format_memory(rows: Sequence[Row]) -> str:
    """
    Write what the peers need.

    :param rows: of :func:`benchmarks.comparison.measure`, with memory
    :return: the table
    """
    titles = ["workload", "peer", "envs", "peak, MB", "of which rollout storage, MB"]
    cells = [
        [
            row["workload"],
            row["peer"],
            str(row["n_envs"]),
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['storage_bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]
    return format_table(titles, cells, 2)
