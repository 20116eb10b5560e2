"""
How much memory does a dataset need that is larger than memory?

Writes trajectories of random numbers until the dataset has the size asked for, then, in a process
of its own, walks through all of it, or trains a student on all of it, and prints the most memory
that process ever held::

    python benchmarks/dataset_memory.py --gigabytes 4
    python benchmarks/dataset_memory.py --gigabytes 4 --train
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl import TPPO
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.data import RolloutDataset, RolloutWriter
from sb3_strl.envs import TensorVecEnv

OBS, CRITIC, ACTIONS = 512, 640, 32
STEPS, RECORDED_ENVS, FLUSH = 1000, 64, 250


def write_dataset(folder: Path, gigabytes: float) -> int:
    """
    Write random trajectories.

    :param folder: the dataset's
    :param gigabytes: size at which to stop, 1e9 bytes each
    :return: number of frames
    """
    rng = np.random.default_rng(0)

    def draw(width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.random((FLUSH, RECORDED_ENVS, width), dtype=np.float32)

    frames = 0
    frame_bytes = 4 * (OBS + CRITIC + ACTIONS + 1) + 2
    with RolloutWriter(folder, RECORDED_ENVS) as writer:
        while frames * frame_bytes < gigabytes * 1e9:
            for part in range(STEPS // FLUSH):
                obs = {"policy": draw(OBS), "critic": draw(CRITIC)}
                ends = np.zeros((FLUSH, RECORDED_ENVS), np.bool_)
                ends[-1] = part == STEPS // FLUSH - 1
                rewards = draw(1)[..., 0]
                writer.write(obs, draw(ACTIONS), rewards, np.zeros_like(ends), ends, obs)
                frames += ends.size
    return frames


def walk(folder: Path, num_envs: int) -> dict[str, float]:
    """
    Walk through a dataset once.

    :param folder: the dataset's
    :param num_envs: rows of a batch
    :return: frames, seconds, a checksum, and this process's peak memory before and after
    """
    th.set_num_threads(1)
    before = peak_memory()
    start = time.perf_counter()
    frames, total = 0, 0.0
    for batch in RolloutDataset(folder, num_envs, device="cpu", seed=0):
        frames += num_envs - int(batch.padding.sum())
        total += float(batch.observation.sum())  # every number is looked at
    return {
        "frames": frames,
        "seconds": time.perf_counter() - start,
        "checksum": total,
        "imports_mb": before / 1e6,
        "peak_mb": peak_memory() / 1e6,
    }


class Recorded(TensorVecEnv):
    """
    The spaces of what was recorded; it stands still while a dataset is played.

    :param num_envs: number of robots
    """

    def __init__(self, num_envs: int) -> None:
        widths = {"policy": OBS, "critic": CRITIC}
        groups: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(-np.inf, np.inf, (n,)) for name, n in widths.items()
        }
        actions = spaces.Box(-1.0, 1.0, (ACTIONS,))
        super().__init__(num_envs, spaces.Dict(groups), actions, th.device("cpu"))
        self.obs: TensorDict = {name: th.zeros(num_envs, n) for name, n in widths.items()}

    def reset_tensor(self) -> TensorDict:
        """Return zeros."""
        return self.obs

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Return zeros."""
        del actions
        none = th.zeros(self.num_envs, dtype=th.bool)
        return TensorStep(self.obs, none.float(), none, none, None, {})


def train(folder: Path, num_envs: int) -> dict[str, float]:
    """
    Let a student imitate as many frames as there are, in random order of trajectories.

    :param folder: the dataset's
    :param num_envs: robots of a rollout
    :return: frames, seconds, the last loss, and this process's peak memory before and after
    """
    th.set_num_threads(1)
    import_module("torch._dynamo")  # optimizers do, of their own accord
    before = peak_memory()
    start = time.perf_counter()
    model = TPPO(
        "MlpPolicy",
        Recorded(num_envs),
        pretrain_dataset=folder,
        pretrain_iterations=-1,
        using_ppo=False,
        distill_target="mse_sum",
        n_steps=24,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [256, 128, 64]},
    )
    rows = 24 * num_envs
    model.learn(max(count_frames(folder) // rows, 1) * rows)
    return {
        "frames": model.num_timesteps,
        "seconds": time.perf_counter() - start,
        "loss": model.logger.name_to_value["distill/loss"],
        "imports_mb": before / 1e6,
        "peak_mb": peak_memory() / 1e6,
    }


def count_frames(folder: Path) -> int:
    """Return the number of frames of a dataset."""
    metadata = json.loads((folder / "metadata.json").read_text())
    return int(metadata["total_timesteps"])


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # not ru_maxrss: on Linux it begins with the parent's
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def measure(
    folder: Path, num_envs: int, task: Callable[[Path, int], dict[str, float]] = walk
) -> dict[str, float]:
    """
    Run :func:`walk` or :func:`train` in a fresh process.

    :param folder: the dataset's
    :param num_envs: rows of a batch
    :param task: which of them
    :return: what it found
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(task, folder, num_envs).result()


def main() -> None:
    """Write, walk or train, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--train", action="store_true", help="train on it instead of walking")
    parser.add_argument(
        "--folder", type=Path, help="keep the dataset here; default: a temporary one"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    folder = options.folder or Path(tempfile.mkdtemp(prefix="strl_dataset_"))
    try:
        start = time.perf_counter()
        if not any(folder.glob("trajectory_*")):
            write_dataset(folder, options.gigabytes)
        written_s = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.rglob("*.npz"))
        found = measure(folder, options.num_envs, train if options.train else walk)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)

    report = {
        "dataset_gb": round(size / 1e9, 3),
        "write_s": round(written_s, 1),
        "num_envs": options.num_envs,
        **{name: round(value, 1) for name, value in found.items()},
    }
    for name, value in report.items():
        print(f"{name:>12}  {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
