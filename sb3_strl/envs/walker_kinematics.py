"""Geometry of the planar walker: sizes, joint order and forward kinematics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

JOINT_NAMES = (
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
)
THIGH_LENGTH = 0.42
SHANK_LENGTH = 0.41
ANKLE_HEIGHT = 0.06
TORSO_LENGTH = 0.55
STANDING_HEIGHT = THIGH_LENGTH + SHANK_LENGTH + ANKLE_HEIGHT
HEEL_LENGTH = 0.06  # sole behind the ankle
TOE_LENGTH = 0.16  # sole ahead of the ankle
SOLE_RADIUS = 0.03  # the contact spheres of the model

_HEEL_CENTRE = (-HEEL_LENGTH + SOLE_RADIUS, -ANKLE_HEIGHT + SOLE_RADIUS)
_TOE_CENTRE = (TOE_LENGTH - SOLE_RADIUS, -ANKLE_HEIGHT + SOLE_RADIUS)


def _rotated(angle: FloatArray, x: float, z: float) -> FloatArray:
    """Rotate ``(x, z)`` about +y, which turns +z towards +x: ``(n, 2)``."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((x * cos + z * sin, -x * sin + z * cos), axis=-1)


def forward_kinematics(
    root_pos: npt.ArrayLike, root_pitch: npt.ArrayLike, joint_pos: npt.ArrayLike
) -> dict[str, FloatArray]:
    """
    Return points of the body in the world.

    :param root_pos: ``(n, 2)``, hip position ``(x forward, z up)``, m
    :param root_pitch: ``(n,)`` or ``(n, 1)``, rad, positive leans forward
    :param joint_pos: ``(n, 6)``, rad, in the order of ``JOINT_NAMES``; flexion and dorsiflexion are
        positive
    :return: ``(n, 2)`` by name: ``hip``, ``neck`` and, for ``right_`` and ``left_``, ``knee``,
        ``ankle``, ``heel`` and ``toe`` (centres of the contact spheres)
    """
    hip = np.asarray(root_pos, dtype=np.float64).reshape(-1, 2)
    pitch = np.asarray(root_pitch, dtype=np.float64).reshape(-1)
    joints = np.asarray(joint_pos, dtype=np.float64).reshape(-1, 6)
    points = {"hip": hip, "neck": hip + _rotated(pitch, 0.0, TORSO_LENGTH)}
    for side, first in (("right", 0), ("left", 3)):
        thigh = pitch - joints[:, first]
        shank = thigh + joints[:, first + 1]
        foot = shank - joints[:, first + 2]
        knee = hip + _rotated(thigh, 0.0, -THIGH_LENGTH)
        ankle = knee + _rotated(shank, 0.0, -SHANK_LENGTH)
        points[f"{side}_knee"] = knee
        points[f"{side}_ankle"] = ankle
        points[f"{side}_heel"] = ankle + _rotated(foot, *_HEEL_CENTRE)
        points[f"{side}_toe"] = ankle + _rotated(foot, *_TOE_CENTRE)
    return points


def sole_height(
    root_pos: npt.ArrayLike, root_pitch: npt.ArrayLike, joint_pos: npt.ArrayLike
) -> FloatArray:
    """
    Return the height of the lowest point of both soles, negative where a foot is in the ground.

    :param root_pos: ``(n, 2)``, m
    :param root_pitch: ``(n,)`` or ``(n, 1)``, rad
    :param joint_pos: ``(n, 6)``, rad
    :return: ``(n,)``, m
    """
    points = forward_kinematics(root_pos, root_pitch, joint_pos)
    ends = [points[f"{side}_{end}"][:, 1] for side in ("right", "left") for end in ("heel", "toe")]
    return np.asarray(np.min(ends, axis=0) - SOLE_RADIUS)
