"""``strl play``."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_strl.cli.console import progress, say
from sb3_strl.cli.running import add_model_arguments, load, make_env
from sb3_strl.common.errors import StrlTypeError, StrlValueError

_SUFFIXES = (".gif", ".png", ".mp4")
_PICTURE_FRAMES = 8
_DEFAULT_FPS = 30
_EXAMPLES = """\
examples:
  strl play runs/walk/model.zip --out walk.gif
  strl play model.zip --env Pendulum-v1 --steps 200 --out swing.mp4     (needs imageio-ffmpeg)
  strl play runs/walk/model.zip --out walk.png                          (a strip of pictures)

needs no screen"""

Image = npt.NDArray[np.uint8]


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "play",
        help="film a policy: GIF, video or picture",
        description="Let a policy act and film it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add("--steps", type=int, default=300, help="environment steps, default 300")
    add("--n-envs", type=int, default=1, help="environments, side by side, default 1")
    add("--stochastic", action="store_true", help="sample actions")
    add("--out", default="play.gif", help=".gif, .mp4 or .png, default play.gif")
    add("--fps", type=float, help="default the environment's")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Film."""
    out = Path(args.out)
    _check(out, args.steps)
    policy = load(args)
    env = make_env(args, args.n_envs, render_mode="rgb_array")
    frames: list[Image] = []
    total = 0.0
    try:
        fps = args.fps or float(env.metadata.get("render_fps") or _DEFAULT_FPS)
        obs: Any = env.reset()
        starts = np.ones(args.n_envs, dtype=bool)
        state: Any = None
        with progress(args.steps, "steps", args.quiet) as advance:
            for _ in range(args.steps):
                frames.append(_frame(env.get_images()))
                actions, state = policy.predict(
                    obs, state, starts, deterministic=not args.stochastic
                )
                obs, rewards, starts, _infos = env.step(np.asarray(actions))
                total += float(rewards.mean())
                advance(1)
    finally:
        env.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_film(frames, out, fps)
    say(f"Wrote {out}: {len(frames)} steps, reward per step {total / len(frames):.3f}")
    return 0


def _check(out: Path, steps: int) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise StrlValueError(
            f"strl play: --out is {out}. Expected a name that ends in {_SUFFIXES}."
        )
    if steps < 1:
        raise StrlValueError(f"strl play: --steps is {steps}. Expected at least 1.")
    needed = "imageio_ffmpeg" if out.suffix.lower() == ".mp4" else "PIL"
    if find_spec(needed) is None:
        package = "imageio[ffmpeg]" if needed == "imageio_ffmpeg" else "pillow"
        raise StrlTypeError(
            f"strl play: {out.suffix} files need {needed}, which is not installed. Install it with "
            f"pip install '{package}', or write another kind of file: {_SUFFIXES}."
        )


def _frame(images: Any) -> Image:
    """Put the pictures of all environments side by side."""
    seen = [np.asarray(image, dtype=np.uint8) for image in images if image is not None]
    if not seen:
        raise StrlValueError(
            "strl play: the environment draws nothing. Expected one with render_mode='rgb_array'."
        )
    return np.concatenate(seen, axis=1)


def write_film(frames: list[Image], path: Path, fps: float) -> None:
    """
    Write frames as a GIF, a video or a strip of some of them.

    :param frames: ``(H, W, 3)`` each
    :param path: the suffix says what
    :param fps: frames per second
    """
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        ffmpeg: Any = import_module("imageio_ffmpeg")
        height, width = (2 * (size // 2) for size in frames[0].shape[:2])
        writer = ffmpeg.write_frames(str(path), (width, height), fps=fps)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame[:height, :width]).tobytes())
        writer.close()
        return
    from PIL import Image as Pillow

    if suffix == ".png":
        count = min(_PICTURE_FRAMES, len(frames))
        chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
        Pillow.fromarray(np.concatenate([frames[i] for i in chosen], axis=1)).save(path)
        return
    # A GIF counts in hundredths of a second, and viewers slow down below two of them.
    each = max(1, round(fps / 50.0))
    pictures = [Pillow.fromarray(frame).quantize(64) for frame in frames[::each]]
    duration = 10 * max(2, round(100.0 * each / fps))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0)
