"""What the columns of motion files without names are."""

from __future__ import annotations

from collections.abc import Sequence

Layout = Sequence[tuple[str, int]]
"""Fields in order with their widths; ``*_quat`` is wxyz, ``*_quat_xyzw`` the other order."""

LAYOUTS: dict[str, Layout] = {
    # DeepMimic's humanoid (https://github.com/xbpeng/DeepMimic), behind the duration; y is up.
    "humanoid": [
        ("root_pos", 3),
        ("root_quat", 4),
        ("chest_quat", 4),
        ("neck_quat", 4),
        ("right_hip_quat", 4),
        ("right_knee_pos", 1),
        ("right_ankle_quat", 4),
        ("right_shoulder_quat", 4),
        ("right_elbow_pos", 1),
        ("left_hip_quat", 4),
        ("left_knee_pos", 1),
        ("left_ankle_quat", 4),
        ("left_shoulder_quat", 4),
        ("left_elbow_pos", 1),
    ],
    # Peng et al. 2020, Learning Agile Robotic Locomotion Skills by Imitating Animals.
    "quadruped": [("root_pos", 3), ("root_quat_xyzw", 4), ("joint_pos", 12)],
    # Escontrela et al. 2022, Adversarial Motion Priors Make Good Substitutes for Complex Rewards.
    "amp_quadruped": [
        ("root_pos", 3),
        ("root_quat_xyzw", 4),
        ("joint_pos", 12),
        ("foot_pos_b", 12),
        ("root_vel_b", 3),
        ("root_ang_vel_b", 3),
        ("joint_vel", 12),
        ("foot_vel_b", 12),
    ],
}


def default_layout(width: int, timed: bool) -> Layout | None:
    """
    Return the layout that a number of columns stands for, ``None`` if it stands for none.

    :param width: columns of data
    :param timed: whether each frame began with its duration, as DeepMimic's do
    """
    names = ["humanoid", "quadruped"] if timed else ["quadruped", "amp_quadruped"]
    fitting = [LAYOUTS[name] for name in names if sum(n for _, n in LAYOUTS[name]) == width]
    return fitting[0] if fitting else None


def _both(parts: Sequence[str]) -> list[str]:
    return [f"{side}_{part}_joint" for side in ("left", "right") for part in parts]


_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow")
_WRIST = ("wrist_roll", "wrist_pitch", "wrist_yaw")

# The order of configuration in the LAFAN1 retargeting dataset for Unitree's robots.
LAFAN_JOINTS: dict[str, list[str]] = {
    "g1": [
        *_both(("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")),
        "waist_yaw_joint",
        "waist_roll_joint",
        "waist_pitch_joint",
        *_both(_ARM + _WRIST),
    ],
    "h1_2": [
        *_both(("hip_yaw", "hip_pitch", "hip_roll", "knee", "ankle_pitch", "ankle_roll")),
        "torso_joint",
        *_both(_ARM + _WRIST),
    ],
    "h1": [
        *_both(("hip_yaw", "hip_roll", "hip_pitch", "knee", "ankle")),
        "torso_joint",
        *_both(_ARM),
    ],
}
