"""Speed over time, and a film strip, of the course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.mutex_env import Stretch
from examples.mutex_evaluation import Run
from sb3_strl.envs.walker_render import draw_film_strip
from sb3_strl.envs.walker_task import FEATURE_NAMES

COLOURS = {
    "stand": (118, 134, 94),
    "walk": (204, 102, 51),
    "fast": (148, 84, 148),
    "mutex": (38, 118, 168),
}
_HEIGHT, _PITCH = FEATURE_NAMES.index("root_pos/z"), FEATURE_NAMES.index("root_pitch/pitch")
_HALF = 7  # steps on either side that the drawn speed is averaged over
_JOINTS = [i for i, name in enumerate(FEATURE_NAMES) if name.startswith("joint_pos/")]


def write_speeds(
    runs: Mapping[str, Run], course: Sequence[Stretch], names: Sequence[str], path: Path
) -> None:
    """
    Draw the speed over time: the median of the robots and the middle half of them.

    :param runs: by name of the policy; those named after ``"..., clipped"`` are left out
    :param course: the stretches
    :param names: of the skills, written over the stretches they are meant for
    :param path: of a PNG file
    """
    from matplotlib.figure import Figure  # no pyplot: nothing looks for a display

    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, suffix in zip(panels, ("", ", clipped"), strict=True):
        begin = 0.0
        top = max(part.speed for part in course) + 0.55
        for part in course:
            end = begin + part.seconds
            axis.axvspan(begin, end, color=_colour(names[part.skill]), alpha=0.08, linewidth=0)
            axis.text(begin + part.seconds / 2, top, names[part.skill], ha="center", va="bottom")
            begin = end
        shown = {name: runs[name + suffix] for name in names} | {"mutex": runs["mutex"]}
        for name, run in shown.items():
            _draw_speed(axis, name, run)
        commands = runs["mutex"].commands
        times = np.arange(len(commands)) * runs["mutex"].dt
        axis.plot(times, commands, color="black", linewidth=1.2, linestyle="--", label="command")
        axis.set_xlabel("time (s)")
        axis.set_ylim(-0.5, top + 0.3)
        axis.set_xlim(0.0, begin)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("every command as it is")
    panels[1].set_title("skills alone: commands clipped to their training")
    panels[0].set_ylabel("forward speed (m/s)\nmedian; a fallen robot counts as 0")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=120)


def _draw_speed(axis: object, name: str, run: Run) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    # A stride's ups and downs would hide the rest.
    padded = np.pad(run.speeds, ((_HALF, _HALF), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF + 1, axis=0).mean(axis=-1)
    low, middle, high = np.percentile(smooth, (25, 50, 75), axis=1)
    times = np.arange(len(middle)) * run.dt
    axis.fill_between(times, low, high, color=_colour(name), alpha=0.18, linewidth=0)
    width = 2.2 if name == "mutex" else 1.3
    axis.plot(times, middle, color=_colour(name), linewidth=width, label=name)


def _colour(name: str) -> tuple[float, float, float]:
    red, green, blue = COLOURS[name]
    return red / 255, green / 255, blue / 255


def write_film_strip(run: Run, course: Sequence[Stretch], names: Sequence[str], path: Path) -> None:
    """
    Draw poses of the robot with the median error, one row for each stretch of the course.

    :param run: of the mutex policy
    :param course: the stretches
    :param names: of the skills
    :param path: of a PNG file
    """
    errors = np.abs(run.speeds - run.commands[:, None]).mean(axis=0)
    robot = int(np.argsort(errors)[len(errors) // 2])
    rows, begin = [], 0
    for part in course:
        end = begin + round(part.seconds / run.dt)
        # The first second, where one skill takes over from another, in steps of 0.1 s.
        shown = np.arange(begin, min(begin + 60, end), 5)
        frames = run.frames[shown, robot]
        place = np.stack((np.zeros(len(shown)), frames[:, _HEIGHT]), axis=1)
        strip = draw_film_strip(
            place,
            frames[:, _PITCH],
            frames[:, _JOINTS],
            size=(1200, 190),
            color=COLOURS[names[part.skill]],
        )
        title = f"{names[part.skill]}: {part.speed:.1f} m/s commanded from {begin * run.dt:.0f} s"
        rows += [_title(1200, title, COLOURS[names[part.skill]]), strip]
        begin = end
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def _title(width: int, text: str, colour: tuple[int, int, int]) -> np.ndarray:
    strip = Image.new("RGB", (width, 26), (255, 255, 255))
    font = ImageFont.load_default(size=16)
    ImageDraw.Draw(strip).text((10, 3), text, fill=colour, font=font)
    return np.asarray(strip, dtype=np.uint8)
