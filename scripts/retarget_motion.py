"""
Retarget a DeepMimic motion of a humanoid to the planar walker of ``sb3_strl/Walker-v0``.

The input is the JSON layout of DeepMimic (Peng et al. 2018, https://arxiv.org/abs/1804.02717):
``Frames`` of 44 numbers, y up, x forward, z to the right, quaternions wxyz relative to the parent.
The joint angles of the planar robot come from the directions of the segments in the sagittal plane,
not from the Euler angles of the joints, so nothing depends on an order of rotations:

- torso pitch from the direction pelvis -> neck, thigh from hip -> knee, shank from knee -> ankle,
  foot from the long axis of the foot;
- ``hip = thigh + pitch`` (flexion > 0), ``knee = thigh - shank`` (flexion > 0),
  ``ankle = foot - shank`` (dorsiflexion > 0).

The cycle is then fitted by a truncated Fourier series, which closes the seam of the recording,
takes out the jitter and gives any rate. The two clips of the package were made by::

    python scripts/retarget_motion.py humanoid3d_walk.txt walk.npz
    python scripts/retarget_motion.py humanoid3d_run.txt run.npz --harmonics 6
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.common.rotations import (
    quat_from_axis_angle,
    quat_multiply,
    quat_normalize,
    quat_rotate,
)
from sb3_strl.data.motion import Motion

Array = npt.NDArray[np.float64]
logger = logging.getLogger("retarget_motion")

# Source skeleton (pybullet_data/humanoid/humanoid.urdf at scale 0.25), metres.
SOURCE_CHEST, SOURCE_NECK = 0.236151, 0.223894
SOURCE_THIGH, SOURCE_SHANK, SOURCE_SOLE = 0.421546, 0.409870, 0.05
# Planar robot, metres.
THIGH, SHANK = 0.42, 0.41
ANKLE_HEIGHT, HEEL, TOE = 0.06, 0.06, 0.16

# Columns of a frame: duration, root position, root rotation, chest, neck, then the limbs.
ROOT_POS, ROOT_QUAT, CHEST_QUAT = slice(1, 4), slice(4, 8), slice(8, 12)
LEGS = {"right": (slice(16, 20), 20, slice(21, 25)), "left": (slice(30, 34), 34, slice(35, 39))}
JOINTS = [f"{side}_{joint}" for side in LEGS for joint in ("hip", "knee", "ankle")]
N_FRAME_NUMBERS = 44


class Planar(NamedTuple):
    """
    Poses of the planar robot.

    :param joint_pos: ``(T, 6)``, rad, in the order of ``JOINTS``
    :param root_pos: ``(T, 2)``, forward and up, m
    :param root_pitch: ``(T, 1)``, rad, positive leans forward
    """

    joint_pos: Array
    root_pos: Array
    root_pitch: Array


def read_frames(path: Path) -> tuple[Array, Array]:
    """
    Read a DeepMimic file.

    :param path: the JSON text
    :return: times ``(T,)`` in s that start at 0, and frames ``(T, 44)``
    :raises ValueError: if the frames are not those of the DeepMimic humanoid
    """
    frames = np.asarray(json.loads(path.read_text())["Frames"], dtype=np.float64)
    if frames.ndim != 2 or frames.shape[1] != N_FRAME_NUMBERS:
        raise ValueError(f"{path}: frames have shape {frames.shape}. Expected (T, 44).")
    # A duration is the time until the next frame; the last frame has none.
    times = np.concatenate(([0.0], np.cumsum(frames[:-1, 0])))
    return times, frames


def uniform(times: Array, pose: Planar) -> Planar:
    """
    Interpolate poses whose frames may last unequally at as many equally spaced times.

    :param times: ``(T,)``, s
    :param pose: ``T`` poses
    :return: ``T`` poses
    """
    even = np.linspace(0.0, times[-1], len(times))

    def resampled(values: Array) -> Array:
        return np.stack([np.interp(even, times, column) for column in values.T], axis=1)

    return Planar(*(resampled(values) for values in pose))


def to_planar(frames: Array) -> Planar:
    """
    Project the humanoid on its sagittal plane.

    :param frames: ``(T, 44)``
    :return: the poses of the planar robot; the root still has the height of the source, scaled
    """
    data = th.from_numpy(frames)
    pos = data[:, ROOT_POS]
    heading = pos[-1] - pos[0]
    forward = th.stack((heading[0], th.zeros(()).double(), heading[2]))
    forward = forward / forward.norm()
    up = th.tensor([0.0, 1.0, 0.0]).double()

    def sagittal(vectors: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return vectors @ forward, vectors @ up

    root = quat_normalize(data[:, ROOT_QUAT])
    chest = quat_multiply(root, quat_normalize(data[:, CHEST_QUAT]))
    ahead, above = sagittal(
        quat_rotate(root, SOURCE_CHEST * up) + quat_rotate(chest, SOURCE_NECK * up)
    )
    pitch = th.atan2(ahead, above)
    joints: list[th.Tensor] = []
    for hip_cols, knee_col, ankle_cols in LEGS.values():
        hip = quat_multiply(root, quat_normalize(data[:, hip_cols]))
        # The knee turns about z only; a negative angle is flexion in this data.
        knee_axis = th.zeros(len(data), 3).double()
        knee_axis[:, 2] = data[:, knee_col]
        knee = quat_multiply(hip, quat_from_axis_angle(knee_axis))
        foot = quat_multiply(knee, quat_normalize(data[:, ankle_cols]))
        ahead, above = sagittal(quat_rotate(hip, -up))
        thigh = th.atan2(ahead, -above)
        ahead, above = sagittal(quat_rotate(knee, -up))
        shank = th.atan2(ahead, -above)
        ahead, above = sagittal(quat_rotate(foot, th.tensor([1.0, 0.0, 0.0]).double()))
        sole = th.atan2(above, ahead)
        joints += [thigh + pitch, thigh - shank, sole - shank]

    scale = (THIGH + SHANK) / (SOURCE_THIGH + SOURCE_SHANK)
    ahead, above = sagittal(pos - pos[0])
    height = (above + pos[0, 1] - SOURCE_SOLE) * scale + ANKLE_HEIGHT
    return Planar(
        th.stack(joints, dim=1).numpy(),
        th.stack((ahead * scale, height), dim=1).numpy(),
        pitch.unsqueeze(1).numpy(),
    )


def foot_points(pose: Planar) -> Array:
    """
    Forward kinematics of the planar robot.

    :param pose: ``T`` poses
    :return: ``(T, 2, 3, 2)``: side (right, left), point (heel, ankle, toe), coordinate (x, z), m
    """
    sides: list[Array] = []
    for hip, knee, ankle in (pose.joint_pos[:, 0:3].T, pose.joint_pos[:, 3:6].T):
        thigh = hip - pose.root_pitch[:, 0]
        shank = thigh - knee
        foot = shank + ankle
        ankle_pos = pose.root_pos + np.stack(
            (
                THIGH * np.sin(thigh) + SHANK * np.sin(shank),
                -THIGH * np.cos(thigh) - SHANK * np.cos(shank),
            ),
            axis=1,
        )
        along = np.stack((np.cos(foot), np.sin(foot)), axis=1)
        down = np.stack((np.sin(foot), -np.cos(foot)), axis=1)
        heel = ankle_pos - HEEL * along + ANKLE_HEIGHT * down
        toe = ankle_pos + TOE * along + ANKLE_HEIGHT * down
        sides.append(np.stack((heel, ankle_pos, toe), axis=1))
    return np.stack(sides, axis=1)


def close_cycle(times: Array, pose: Planar) -> tuple[float, Planar]:
    """
    Make one gait cycle symmetric and closed.

    The last frame of a recorded cycle only nearly repeats the first one, so it is replaced by it.
    Half a cycle after any frame a gait shows the same pose with left and right exchanged; the
    answer is the mean of every frame and its mirror image half a cycle away.

    :param times: ``(T,)``, s, equally spaced, with ``T`` odd
    :param pose: ``T`` poses, the last frame being the first one of the next cycle
    :return: the period in s, and ``T`` poses whose last is the first one, one stride ahead
    :raises ValueError: if the number of intervals is odd
    """
    if len(times) % 2 == 0:
        raise ValueError(f"{len(times)} frames. Expected an odd number: half a cycle is whole.")
    half = len(times) // 2
    # What the root does beside its mean velocity is periodic, the way itself is not.
    stride = pose.root_pos[-1] * (1.0, 0.0)
    trend = np.linspace(0.0, 1.0, len(times))[:, None] * stride

    def symmetric(values: Array, mirror: list[int]) -> Array:
        once = values[:-1]
        mean = 0.5 * (once + np.roll(once, -half, axis=0)[:, mirror])
        return np.concatenate((mean, mean[:1]))

    return float(times[-1]), Planar(
        symmetric(pose.joint_pos, [3, 4, 5, 0, 1, 2]),
        symmetric(pose.root_pos - trend, [0, 1]) + trend,
        symmetric(pose.root_pitch, [0]),
    )


def fit_periodic(values: Array, n_harmonics: int, n_out: int) -> Array:
    """
    Fit a truncated Fourier series to one closed cycle and evaluate it at another rate.

    :param values: ``(T, d)``, the last row being the first one of the next cycle; what a column
        gains over the cycle is kept as a linear trend
    :param n_harmonics: harmonics to keep
    :param n_out: intervals of the answer
    :return: ``(n_out + 1, d)``
    """
    gain = values[-1] - values[0]
    phase = np.linspace(0.0, 1.0, len(values))[:, None]
    spectrum = np.fft.rfft((values - phase * gain)[:-1], axis=0)[: n_harmonics + 1]
    out_phase = np.linspace(0.0, 1.0, n_out + 1)[:, None]
    fitted = np.fft.irfft(spectrum * (n_out / (len(values) - 1)), n=n_out, axis=0)
    closed: Array = np.concatenate((fitted, fitted[:1])) + out_phase * gain
    return closed


def ground(pose: Planar, contact_height: float, n_harmonics: int) -> Planar:
    """
    Raise or lower the root so that the lowest point of the feet rests on the ground in stance.

    :param pose: one closed cycle
    :param contact_height: feet lower than this (after the mean error is removed) are in stance, m;
        in flight the correction is interpolated between the neighbouring stances
    :param n_harmonics: harmonics of the smoothed height
    :return: the poses with another height
    """
    lowest = foot_points(pose)[..., 1].min(axis=(1, 2))[:-1]
    lowest_of_all = lowest.min()
    frames = np.arange(len(lowest))
    stance = lowest < lowest_of_all + contact_height
    correction = np.interp(frames, frames[stance], -lowest[stance], period=len(lowest))
    height = pose.root_pos[:-1, 1] + correction
    height = np.append(height, height[0])[:, None]
    root = pose.root_pos - pose.root_pos[0] * (1.0, 0.0)
    root[:, 1:] = fit_periodic(height, n_harmonics, len(root) - 1)
    return pose._replace(root_pos=root)


def retarget(path: Path, fps: float, n_harmonics: int, contact_height: float) -> Motion:
    """
    Retarget one gait cycle.

    :param path: DeepMimic file of the humanoid
    :param fps: wished rate; the nearest one at which the cycle is a whole number of frames is taken
    :param n_harmonics: harmonics of the Fourier series of one cycle
    :param contact_height: see :func:`ground`
    :return: a looping clip with the fields ``joint_pos``, ``root_pos`` and ``root_pitch``
    """
    times, frames = read_frames(path)
    period, cycle = close_cycle(times, uniform(times, to_planar(frames)))
    n_out = round(period * fps)
    cycle = Planar(*(fit_periodic(values, n_harmonics, n_out) for values in cycle))
    cycle = ground(cycle, contact_height, n_harmonics)
    return Motion(
        name=path.stem.removeprefix("humanoid3d_"),
        fields={
            "joint_pos": cycle.joint_pos,
            "root_pos": cycle.root_pos,
            "root_pitch": cycle.root_pitch,
        },
        columns={"joint_pos": JOINTS, "root_pos": ["x", "z"], "root_pitch": ["pitch"]},
        fps=n_out / period,
        loop=True,
        source=f"{path.name} from pybullet_data (pybullet 3.2.7), motion capture in the layout of "
        "DeepMimic, retargeted by scripts/retarget_motion.py",
        license="zlib (pybullet 3.2.7); see README.md beside this file",
    )


def main() -> None:
    """Read the command line and write the clip."""
    parser = argparse.ArgumentParser(description="Retarget a DeepMimic gait to the planar walker.")
    parser.add_argument("input", type=Path, help="DeepMimic file of the humanoid, .txt")
    parser.add_argument("output", type=Path, help="the clip to write, .npz")
    parser.add_argument("--fps", type=float, default=60.0, help="frames per second")
    parser.add_argument("--harmonics", type=int, default=8, help="harmonics to keep per cycle")
    parser.add_argument("--contact-height", type=float, default=0.03, help="stance threshold, m")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    motion = retarget(args.input, args.fps, args.harmonics, args.contact_height)
    motion.save(args.output)
    speed = motion.loop_advance("root_pos")[0] / motion.duration
    logger.info(
        "%s: %d frames at %.3f Hz, period %.3f s, mean speed %.2f m/s -> %s",
        motion.name,
        motion.n_frames,
        motion.fps,
        motion.duration,
        speed,
        args.output,
    )


if __name__ == "__main__":
    main()
