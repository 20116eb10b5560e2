"""Pictures of the comparisons of learning; matplotlib is imported when one is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import interval

_COLORS = ("#9aa5b1", "#5b7fb4", "#2f9e77", "#c4622d", "#7b4fa3")


def draw_bars(axis: Any, bars: Mapping[str, Sequence[float]], label: str) -> None:
    """
    Draw interquartile means with intervals, and every seed as a dot.

    :param axis: of matplotlib
    :param bars: values of the seeds by arm
    :param label: of the value
    """
    known = {name: values for name, values in bars.items() if len(values)}
    for place, (name, values) in enumerate(known.items()):
        estimate = interval(values)
        spread = [[estimate.point - estimate.low], [estimate.high - estimate.point]]
        color = _COLORS[place % len(_COLORS)]
        axis.bar(place, estimate.point, color=color, width=0.6, yerr=spread, capsize=4, label=name)
        axis.plot([place] * len(values), values, "k.", markersize=4)
    axis.set_xticks(range(len(known)), list(known))
    axis.set_ylabel(label)


def draw_curves(
    axis: Any,
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    label: str,
    colors: Mapping[str, str],
) -> None:
    """
    Draw interquartile means over seeds with intervals against environment steps.

    :param axis: of matplotlib
    :param curves: of the seeds by arm, ``(steps, value)`` each
    :param label: of the value
    :param colors: by arm, for those that have one already
    """
    for place, (name, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        steps = [point[0] for point in seeds[0]]
        points = [interval([curve[i][1] for curve in seeds]) for i in range(len(steps))]
        color = colors.get(name, _COLORS[2 + place % 3])
        axis.plot(steps, [p.point for p in points], color=color, label=name)
        low, high = [p.low for p in points], [p.high for p in points]
        axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    axis.set_xlabel("environment steps")
    axis.set_ylabel(label)


def draw_bars_and_curves(
    path: Path,
    bars: Mapping[str, Sequence[float]],
    curves: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    goal: float | None = None,
    labels: tuple[str, str] = ("return on randomised robots", "return on randomised robots"),
) -> None:
    """
    Write a picture with arms at the left and learning curves at the right.

    :param path: of the picture
    :param bars: see :func:`draw_bars`
    :param curves: see :func:`draw_curves`
    :param goal: value to mark among the curves
    :param labels: of both values
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    draw_bars(left, bars, labels[0])
    drawn = [name for name, values in bars.items() if len(values)]
    draw_curves(right, curves, labels[1], dict(zip(drawn, itertools.cycle(_COLORS), strict=False)))
    if goal is not None and np.isfinite(goal):
        right.axhline(goal, color="k", linestyle=":", linewidth=1, label="goal")
    if any(curves.values()):
        right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
