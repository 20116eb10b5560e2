"""``strl play``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled

from sb3_strl.cli.console import progress, say
from sb3_strl.cli.running import (
    add_device_argument,
    add_model_arguments,
    check_target,
    checked_device,
    load,
    make_env,
    statistics,
)
from sb3_strl.cli.window import Image, Window, open_window
from sb3_strl.common.errors import StrlTypeError, StrlValueError

_SUFFIXES = (".gif", ".png", ".mp4")
_PICTURE_FRAMES = 8
_DEFAULT_FPS = 30
_EXAMPLES = """\
examples:
  strl play runs/walk/model.zip --out walk.gif
  strl play runs/walk/model.zip --window                            (live, on a screen)
  strl play model.zip --env Pendulum-v1 --steps 200 --out swing.mp4 (needs sb3_strl[video])
  strl play runs/walk/model.zip --out walk.png                      (a strip of pictures)

films need no screen"""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "play",
        help="watch a policy: window, video, GIF or picture",
        description="Let a policy act, and show or film it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add_device_argument(parser)
    add = parser.add_argument
    add("--steps", type=int, default=300, help="environment steps, default 300")
    add("--n-envs", type=int, default=1, help="environments, side by side, default 1")
    add("--stochastic", action="store_true", help="sample actions")
    add("--window", action="store_true", help="show it live, with --out film it as well")
    add("--out", help=".gif, .mp4 or .png, default play.gif, with --window none")
    add("--fps", type=float, help="default the environment's")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show or film."""
    out = _target(args)
    device = checked_device(args.device)
    policy = load(args, device)
    normalizer = statistics(args, policy)
    env = make_env(
        args, args.n_envs, policy, normalizer=normalizer, device=device, render_mode="rgb_array"
    )
    frames: list[Image] = []
    rewards: list[float] = []
    window: Window | None = None
    try:
        known: Any = env.unwrapped.metadata.get("render_fps")
        fps = args.fps or float(known or _DEFAULT_FPS)
        window = open_window(fps) if args.window else None
        with progress(args.steps, "steps", args.quiet) as advance:
            for frame, reward in _act(env, policy, args):
                rewards.append(reward)
                if out is not None:
                    frames.append(frame)
                advance(1)
                if window is not None and not window.show(frame):
                    break
    finally:
        if window is not None:
            window.close()
        env.close()
    told = f"{len(rewards)} steps, reward per step {np.mean(rewards):.3f}"
    if out is None:
        say(f"Shown: {told}")
        return 0
    out.parent.mkdir(parents=True, exist_ok=True)
    write_film(frames, out, fps)
    say(f"Wrote {out}: {told}")
    return 0


def _act(env: Any, policy: Any, args: argparse.Namespace) -> Iterator[tuple[Image, float]]:
    """Yield the picture before every step, and its mean reward."""
    obs: Any = env.reset()
    starts = np.ones(args.n_envs, dtype=bool)
    state: Any = None
    for _ in range(args.steps):
        frame = _frame(_draw(env))
        actions, state = policy.predict(obs, state, starts, deterministic=not args.stochastic)
        obs, rewards, starts, _infos = env.step(np.asarray(actions))
        yield frame, float(rewards.mean())


def _draw(env: Any) -> Any:
    """Return the pictures; Gymnasium misses the packages for them only here."""
    try:
        return env.get_images()
    except DependencyNotInstalled as error:
        ours = " Install it with pip install 'sb3_strl[video]'." if "pygame" in str(error) else ""
        raise StrlTypeError(
            f"strl play: this environment cannot be drawn without a package.{ours} Gymnasium "
            f"says: {error}."
        ) from error


def _target(args: argparse.Namespace) -> Path | None:
    """Return the file to write, ``None`` for a window alone; check it before anything is loaded."""
    if args.steps < 1:
        raise StrlValueError(f"strl play: --steps is {args.steps}. Expected at least 1.")
    if args.fps is not None and args.fps <= 0:
        raise StrlValueError(f"strl play: --fps is {args.fps:g}. Expected more than 0.")
    if args.out is None and args.window:
        return None
    out = Path(args.out or "play.gif")
    _check(out)
    return out


def _check(out: Path) -> None:
    suffix = out.suffix.lower()
    if suffix not in _SUFFIXES:
        raise StrlValueError(
            f"strl play: --out is {out}. Expected a name that ends in {_SUFFIXES}."
        )
    check_target("strl play: --out", out)
    needed = ("imageio_ffmpeg", "cv2") if suffix == ".mp4" else ("PIL",)
    if all(find_spec(name) is None for name in needed):
        others = "pip install 'imageio[ffmpeg]'" if suffix == ".mp4" else "pip install pillow"
        raise StrlTypeError(
            f"strl play: {suffix} files need {' or '.join(needed)}, which is not installed. "
            f"Install it with pip install 'sb3_strl[video]' (or {others}), or write another kind "
            f"of file: {_SUFFIXES}."
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
        write = _write_ffmpeg if find_spec("imageio_ffmpeg") is not None else _write_cv
        height, width = (2 * (size // 2) for size in frames[0].shape[:2])
        write([np.ascontiguousarray(frame[:height, :width]) for frame in frames], path, fps)
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


def _write_ffmpeg(frames: list[Image], path: Path, fps: float) -> None:
    ffmpeg: Any = import_module("imageio_ffmpeg")
    height, width = frames[0].shape[:2]
    writer = ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


def _write_cv(frames: list[Image], path: Path, fps: float) -> None:
    cv2: Any = import_module("cv2")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():  # OpenCV itself would write nothing and say nothing
        raise StrlTypeError(
            f"strl play: this OpenCV cannot write {path}. Expected one with the codec mp4v. "
            "Install another writer with pip install 'sb3_strl[video]', or write a .gif."
        )
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
