"""How well a gait follows a reference: dynamic time warping on joint angles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_strl.data.motion import Motion

Array = npt.NDArray[np.float64]


def dtw(cost: npt.ArrayLike) -> Array:
    r"""
    Mean cost along the cheapest warping path (Sakoe and Chiba 1978, symmetric form).

    .. math:: g_{ij} = \min(g_{i-1,j} + c_{ij}, \; g_{i-1,j-1} + 2 c_{ij}, \; g_{i,j-1} + c_{ij}),
              \qquad d = g_{nm} / (n + m)

    The weights along every path add up to ``n + m``, so that paths of different lengths compare and
    a constant cost is returned as it is.

    :param cost: ``(..., n, m)``, cost of pairing frame i of one motion with frame j of the other
    :return: ``(...,)``, in the unit of ``cost``
    """
    cost = np.asarray(cost, dtype=np.float64)
    n, m = cost.shape[-2:]
    shape = cost.shape[:-2]
    above = np.full((*shape, m + 1), np.inf)
    above[..., 0] = 0.0
    for i in range(n):
        row = np.full((*shape, m + 1), np.inf)
        for j in range(m):
            c = cost[..., i, j]
            straight = np.minimum(above[..., j + 1], row[..., j]) + c
            row[..., j + 1] = np.minimum(straight, above[..., j] + 2.0 * c)
        above = row
    return np.asarray(above[..., m] / (n + m))


def pose_distances(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """
    Mean absolute difference of the joint angles for every pair of frames.

    :param first: ``(..., n, joints)``
    :param second: ``(..., m, joints)``
    :return: ``(..., n, m)``, in the unit of the angles
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.asarray(np.abs(a[..., :, None, :] - b[..., None, :, :]).mean(axis=-1))


def reference_cycle(motion: Motion, dt: float) -> Array:
    """
    Joint angles of one cycle of a looping clip, the first frame not repeated at the end.

    :param motion: with the field ``joint_pos``, rad
    :param dt: time between two frames of the result, s
    :return: ``(frames, joints)``, degrees
    """
    n_frames = max(2, round(motion.duration / dt))
    times = np.arange(n_frames) * (motion.duration / n_frames)
    recorded = np.arange(len(motion.fields["joint_pos"])) / motion.fps
    columns = np.asarray(motion.fields["joint_pos"], dtype=np.float64).T
    angles = np.stack([np.interp(times, recorded, column) for column in columns], axis=-1)
    return np.asarray(np.rad2deg(angles))


def pose_error(windows: npt.ArrayLike, cycle: npt.ArrayLike, n_phases: int = 12) -> Array:
    """
    DTW distance of windows to a cyclic reference, the best of several phases to begin at.

    :param windows: ``(n, length, joints)``
    :param cycle: ``(frames, joints)``, repeated as often as a window needs
    :param n_phases: phases to try, spread evenly over the cycle
    :return: ``(n,)``, mean absolute difference per joint and frame, in the unit of the angles
    """
    angles = np.asarray(windows, dtype=np.float64)
    reference = np.asarray(cycle, dtype=np.float64)
    length, frames = angles.shape[1], len(reference)
    starts = np.unique(np.arange(n_phases) * frames // n_phases)
    distances = pose_distances(angles, reference)  # (n, length, frames), of every pair once
    rows = (starts[:, None] + np.arange(length)) % frames  # (phases, length)
    cost = np.moveaxis(distances[:, :, rows], 2, 1)  # (n, phases, length, length)
    return np.asarray(dtw(cost).min(axis=1))


def cut_windows(angles: npt.ArrayLike, length: int, first: int) -> Array:
    """
    Cut motions into windows that follow one another.

    Where there is no room for one, the last pose is kept until it is full.

    :param angles: ``(time, n, joints)``
    :param length: frames per window
    :param first: frames to leave out at the beginning
    :return: ``(n * windows, length, joints)``; what is left at the end is dropped
    """
    frames = np.asarray(angles, dtype=np.float64)
    missing = max(0, first + length - len(frames))
    frames = np.concatenate((frames, np.repeat(frames[-1:], missing, axis=0)))
    n_windows = (len(frames) - first) // length
    kept = frames[first : first + n_windows * length]
    split = kept.reshape(n_windows, length, *frames.shape[1:])
    return np.asarray(np.moveaxis(split, 2, 0).reshape(-1, length, frames.shape[2]))
