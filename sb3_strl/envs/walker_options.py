"""The options of the walker, checked, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data.motion import Motion, check_feature_names
from sb3_strl.data.motion_library import MotionLibrary
from sb3_strl.envs import walker_task as task
from sb3_strl.envs.walker_kinematics import JOINT_NAMES
from sb3_strl.envs.walker_physics import DomainRandomization
from sb3_strl.envs.walker_task import WalkerRewards

MOTIONS = Path(__file__).parent / "assets" / "motions"
MotionSource = Motion | str | Path | Sequence[Motion | str | Path] | MotionLibrary


class WalkerOptions(TypedDict, total=False):
    """Keyword arguments of :class:`~sb3_strl.envs.walker.WalkerVecEnv`, which describes them."""

    device: th.device | str
    seed: int | None
    motion: MotionSource | None
    render_mode: str | None
    n_frames: int
    command_range: tuple[float, float] | None
    action_scale: tuple[float, float, float]
    rewards: WalkerRewards | None
    domain_randomization: bool | DomainRandomization
    rsi_prob: float
    max_episode_length: int
    min_height: float
    max_pitch: float
    decimation: int
    n_threads: int | None
    image_size: tuple[int, int]
    render_backend: str


def check_options(
    counts: dict[str, int],
    rsi_prob: float,
    action_scale: Sequence[float],
    render_mode: str | None,
    render_backend: str,
) -> None:
    """Refuse arguments out of bounds."""
    if len(action_scale) != 3 or not all(0.0 < scale < math.inf for scale in action_scale):
        raise StrlValueError(
            f"WalkerVecEnv: action_scale is {action_scale}. Expected three numbers > 0, for hip, "
            "knee and ankle."
        )
    for name, count in counts.items():
        if count < 1:
            raise StrlValueError(f"WalkerVecEnv: {name} is {count}. Expected at least 1.")
    if not 0.0 <= rsi_prob <= 1.0:
        raise StrlValueError(f"WalkerVecEnv: rsi_prob is {rsi_prob}. Expected 0 to 1.")
    if render_mode not in (None, "rgb_array"):
        raise StrlValueError(
            f"WalkerVecEnv: render_mode is '{render_mode}'. Expected 'rgb_array' or None."
        )
    if render_backend not in ("drawing", "mujoco"):
        raise StrlValueError(
            f"WalkerVecEnv: render_backend is '{render_backend}'. Expected 'drawing' or 'mujoco'."
        )


def randomization(given: bool | DomainRandomization) -> DomainRandomization:
    """Return the ranges that True, False or a configuration stand for."""
    if isinstance(given, DomainRandomization):
        return given
    if not isinstance(given, bool):
        raise StrlTypeError(
            f"WalkerVecEnv: domain_randomization is {given!r}. Expected True, False or a "
            "DomainRandomization."
        )
    return DomainRandomization() if given else DomainRandomization.off()


def motion_library(motion: MotionSource | None) -> MotionLibrary:
    """Return a library on the CPU, where the physics is."""
    if motion is None:
        motion = MOTIONS / "walk.npz"
    if isinstance(motion, MotionLibrary):
        return MotionLibrary(motion.motions, weights=motion.weights)
    return MotionLibrary(motion)


def velocity_range(
    given: tuple[float, float] | None, library: MotionLibrary
) -> tuple[float, float]:
    """Return the range of the command; by default 20 % around the mean speed of the clips."""
    if given is None:
        clips = library.motions
        speeds = [np.ptp(clip.fields["root_pos"][:, 0]) / clip.duration for clip in clips]
        return 0.8 * float(np.mean(speeds)), 1.2 * float(np.mean(speeds))
    low, high = given
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise StrlValueError(
            f"WalkerVecEnv: command_range is {given}. Expected (low, high) in m/s, low <= high."
        )
    return float(low), float(high)


def feature_names(library: MotionLibrary) -> dict[str, list[str]]:
    """Return the features of both channels, which must be the same in the same order."""
    names = {
        "ref_obs": list(task.FEATURE_NAMES),
        "ref_motion": library.feature_names(task.FEATURES),
    }
    check_feature_names(names["ref_obs"], names["ref_motion"], "WalkerVecEnv")
    return names


def observation_space(n_frames: int) -> spaces.Dict:
    """Return the space of the observation groups."""
    n_proprioception = sum(shape[0] for shape in task.PROPRIOCEPTION.values())
    n_privileged = sum(shape[0] for shape in task.PRIVILEGED.values())
    window = (n_frames, len(task.FEATURE_NAMES))
    shapes: dict[str, tuple[int, ...]] = {
        "policy": (n_proprioception,),
        "critic": (n_proprioception + n_privileged,),
        "ref_obs": window,
        "ref_motion": window,
    }
    return spaces.Dict(
        {name: spaces.Box(-np.inf, np.inf, shape, np.float32) for name, shape in shapes.items()}
    )


def action_space() -> spaces.Box:
    """Return the space of the actions."""
    return spaces.Box(-1.0, 1.0, (len(JOINT_NAMES),), np.float32)
