"""``strl doctor``."""

from __future__ import annotations

import argparse
import os
import platform
import time
from importlib.util import find_spec
from typing import Any

import torch as th

from sb3_strl import PPO, __version__, make_vec
from sb3_strl.cli.console import has_progress_bar, say
from sb3_strl.common.tables import format_table
from sb3_strl.export.metadata import installed_version

_REQUIRED = {
    "torch": (2, 8),
    "stable-baselines3": (2, 9, 2),
    "gymnasium": (1, 1),
    "numpy": (1, 26),
}
_OPTIONAL = {
    "mujoco": "the embedded walker: sb3_strl[mujoco]",
    "pillow": "pictures and GIFs: sb3_strl[demo]",
    "imageio-ffmpeg": "videos: sb3_strl[video]",
    "tensorboard": "TensorBoard logs: sb3_strl[demo]",
    "tqdm": "progress bars: sb3_strl[demo]",
    "rich": "progress bars: sb3_strl[demo]",
    "matplotlib": "curves: sb3_strl[demo]",
    "onnx": "export: sb3_strl[export]",
    "onnxruntime": "export: sb3_strl[export]",
    "rl_zoo3": "strl zoo: sb3_strl[zoo]",
    "imitation": "demonstrations: sb3_strl[imitation]",
}


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "doctor",
        help="check the installation",
        description="Check versions, devices and a few steps of everything; 1 if something that "
        "is needed is missing, too old or does not run.",
        epilog="examples:\n  strl doctor\n  strl doctor --device cuda",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="where to try a training step")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check; return 1 if something needed is wrong."""
    say(f"sb3_strl {__version__}, Python {platform.python_version()}, {platform.platform()}")
    faults: list[str] = []
    say(format_table("required", ("package", "version", "verdict"), _check_required(faults)))
    rows = [
        (name, installed_version(name) or "missing", purpose) for name, purpose in _OPTIONAL.items()
    ]
    say(format_table("optional", ("package", "version", "what for"), rows))
    say(format_table("devices", ("device", "what"), _devices()))
    say(f"progress bars: {'yes' if has_progress_bar() else 'no'}")
    for name, try_it in (("training", _try_training), ("walker", _try_walker)):
        say(_attempt(name, try_it, args.device, faults))
    say("Everything needed is in order." if not faults else f"Wrong: {'; '.join(faults)}")
    return 1 if faults else 0


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, ``(2, 13, 0)`` for ``"2.13.0+cpu"``."""
    found: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _check_required(faults: list[str]) -> list[tuple[str, str, str]]:
    rows = []
    for name, lowest in _REQUIRED.items():
        version = installed_version(name)
        wanted = ".".join(map(str, lowest))
        verdict = "ok"
        if version is None or numbers(version) < lowest:
            verdict = f"needs {wanted}"
            faults.append(f"{name} is {version or 'missing'}, needs {wanted}")
        rows.append((name, version or "missing", verdict))
    return rows


def _devices() -> list[tuple[str, str]]:
    cores = os.cpu_count()
    rows = [("cpu", f"{cores} cores, torch uses {th.get_num_threads()} threads")]
    for index in range(th.cuda.device_count()):
        properties = th.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        rows.append((f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB"))
    if th.backends.mps.is_available():
        rows.append(("mps", "Apple GPU"))
    return rows


def _attempt(name: str, try_it: Any, device: str, faults: list[str]) -> str:
    begin = time.perf_counter()
    try:
        result = try_it(device)
    except Exception as error:  # noqa: BLE001 -- whatever is wrong is the finding
        faults.append(f"{name}: {type(error).__name__}: {error}")
        return f"{name}: FAILED"
    return f"{name}: {result} in {time.perf_counter() - begin:.1f} s"


def _try_training(device: str) -> str:
    env = make_vec("Pendulum-v1", 2, device=device)
    PPO("MlpLstmPolicy", env, n_steps=8, device=device, seed=0).learn(16)
    env.close()
    return f"one update on {device}"


def _try_walker(device: str) -> str:
    if find_spec("mujoco") is None:
        return "skipped, mujoco is not installed"
    env = make_vec("sb3_strl/Walker-v0", 2, device=device, seed=0)
    env.reset_tensor()
    for _ in range(5):
        env.step_tensor(th.zeros(2, 6, device=device))
    env.close()
    return "five steps"
