"""Curves, a film strip and an animation: the reference, PPO and APPO one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.demo_evaluation import REFERENCE, Gait, reference_poses, robot_errors
from examples.demo_training import Curve
from sb3_strl.data import Motion
from sb3_strl.data.pose_error import Array, pose_distances
from sb3_strl.envs.walker_render import Picture, draw_film_strip, draw_walker

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "Reference": (96, 103, 115),
    "PPO": (204, 102, 51),
    "APPO": (38, 118, 168),
}
_GREY: Colour = (90, 94, 102)
_STRIP_SIZE, _STRIP_POSES = (1200, 230), 11
_GIF_SIZE, _GIF_STRIDE = (380, 190), 2


@dataclass(frozen=True)
class Film:
    """
    One motion, frame by frame.

    :param title: name and colour of the row
    :param note: what is said beside the name
    :param root_pos: ``(n, 2)``, m
    :param root_pitch: ``(n,)``, rad
    :param joint_pos: ``(n, 6)``, rad
    """

    title: str
    note: str
    root_pos: Array
    root_pitch: Array
    joint_pos: Array


def make_films(gaits: Mapping[str, Gait], n_cycles: int) -> list[Film]:
    """
    Bring the reference and the gaits of several algorithms into step.

    Of every algorithm the robot with the median pose error is shown, from the moment on where its
    poses are closest to the reference's, frame by frame: the same rule for all.

    :param gaits: by name of the algorithm
    :param n_cycles: length, in cycles of the reference
    """
    clip = Motion.load(REFERENCE)
    dt = next(iter(gaits.values())).dt
    n_frames = round(n_cycles * clip.duration / dt)
    poses = reference_poses(n_frames, dt)
    speed = float(np.ptp(clip.fields["root_pos"][:, 0]) / clip.duration)
    films = [Film("Reference", f"motion capture, {speed:.2f} m/s", **poses)]
    for name, gait in gaits.items():
        errors = robot_errors(gait)
        robot = int(np.argsort(errors)[len(errors) // 2])
        start = _best_start(gait.joint_pos[:, robot], poses["joint_pos"])
        shown = slice(start, start + n_frames)
        place = gait.root_pos[shown, robot]
        pace = (place[-1, 0] - place[0, 0]) / ((len(place) - 1) * dt)
        note = f"pose error {errors[robot]:.1f}°, {pace:.2f} m/s"
        pitch, joints = gait.root_pitch[shown, robot], gait.joint_pos[shown, robot]
        films.append(Film(name, note, place, pitch, joints))
    return films


def _best_start(joint_pos: Array, reference: Array, first: int = 100) -> int:
    """Return the frame from which on the motion is closest to the reference in step with it."""
    n = len(reference)
    starts = range(min(first, len(joint_pos) - n), len(joint_pos) - n + 1)
    distances = pose_distances(joint_pos, reference)
    return min(starts, key=lambda s: float(np.trace(distances[s : s + n])))


def write_film_strip(films: Sequence[Film], dt: float, path: Path) -> None:
    """
    Draw one cycle of every film, one above the other.

    :param films: in step
    :param dt: time between two frames, s
    :param path: of a PNG file
    """
    cycle = Motion.load(REFERENCE).duration / dt
    shown = np.linspace(0, cycle, _STRIP_POSES, endpoint=False).round().astype(int)
    rows = []
    for film in films:
        kept = np.minimum(shown, len(film.root_pos) - 1)
        rows.append(
            draw_film_strip(
                film.root_pos[kept],
                film.root_pitch[kept],
                film.joint_pos[kept],
                size=_STRIP_SIZE,
                color=COLOURS[film.title],
            )
        )
    footer = f"one gait cycle of the reference, {cycle * dt:.2f} s, from left to right"
    Image.fromarray(_stacked(films, rows, footer)).save(path, optimize=True)


def write_animation(films: Sequence[Film], dt: float, path: Path) -> None:
    """
    Draw the films one above the other; the camera goes along with each.

    :param films: in step
    :param dt: time between two frames, s
    :param path: of a GIF file
    """
    n_frames = min(len(film.root_pos) for film in films)
    frames = [
        Image.fromarray(
            _stacked(
                films,
                [
                    draw_walker(
                        film.root_pos[i],
                        film.root_pitch[i],
                        film.joint_pos[i],
                        size=_GIF_SIZE,
                        color=COLOURS[film.title],
                    )
                    for film in films
                ],
            )
        )
        for i in range(0, n_frames, _GIF_STRIDE)
    ]
    # One palette for all frames, else colours flicker.
    palette = frames[0].quantize(128, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = round(1000 * dt * _GIF_STRIDE)
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=milliseconds, loop=0, optimize=True
    )


def _stacked(films: Sequence[Film], rows: Sequence[Picture], footer: str = "") -> Picture:
    """Put pictures one above the other, each under its title, with a line of text below all."""
    width = rows[0].shape[1]
    parts: list[Picture] = []
    for film, row in zip(films, rows, strict=True):
        parts += [_text(width, film.title, COLOURS[film.title], film.note), row]
    if footer:
        parts.append(_text(width, "", _GREY, footer))
    return np.concatenate(parts)


def _text(width: int, title: str, colour: Colour, note: str) -> Picture:
    """Draw a line of text: a title in colour and a note."""
    strip = Image.new("RGB", (width, 30), (255, 255, 255))
    draw = ImageDraw.Draw(strip)
    bold, plain = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    draw.text((10, 4), title, fill=colour, font=bold, stroke_width=0.4, stroke_fill=colour)
    place = 10 + (draw.textlength(title, font=bold) + 14 if title else 0)
    draw.text((place, 7), note, fill=_GREY, font=plain)
    return np.asarray(strip, dtype=np.uint8)


def write_curves(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """
    Draw the learning curves: the mean over the seeds, a thin line for each seed.

    :param curves: of every seed, by name of the algorithm
    :param path: of a PNG file
    """
    from matplotlib.figure import Figure  # no pyplot: nothing looks for a display

    panels = {
        "task_return": "task return",
        "pose_error_deg": "DTW pose error to the reference (°)",
    }
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for name, runs in curves.items():
            colour = tuple(channel / 255 for channel in COLOURS[name])
            steps = np.array([point["steps"] for point in runs[0]]) / 1e6
            values = np.array([[point[key] for point in run] for run in runs])
            if len(values) > 1:
                axis.plot(steps, values.T, color=colour, alpha=0.35, linewidth=1.0)
            axis.plot(steps, values.mean(axis=0), color=colour, linewidth=2.2, label=name)
        axis.set_title(title)
        axis.set_xlabel("environment steps (millions)")
        axis.set_ylim(bottom=0.0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=130)
