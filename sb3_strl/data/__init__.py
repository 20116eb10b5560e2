"""Recorded data: motions, demonstrations, rollout datasets and the files of other libraries."""

from sb3_strl.data.imitation import from_imitation, to_imitation, to_transitions
from sb3_strl.data.imitation_files import read_imitation, write_imitation
from sb3_strl.data.legacy import convert_legacy_rollouts, load_legacy_pickle
from sb3_strl.data.minari import read_minari, write_minari
from sb3_strl.data.motion import Motion, check_feature_names
from sb3_strl.data.motion_formats import load_motion
from sb3_strl.data.motion_library import MotionLibrary
from sb3_strl.data.motion_report import MotionReport, plot_motion, validate_motion
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.data.rollout_files import RolloutFileBase, Transition
from sb3_strl.data.rollout_writer import RolloutWriter, TrajectorySummary
from sb3_strl.data.trajectory import Trajectory, read_rollouts, write_rollouts
from sb3_strl.data.trajectory_features import TrajectoryFeatures

__all__ = [
    "Motion",
    "MotionLibrary",
    "MotionReport",
    "RolloutDataset",
    "RolloutFileBase",
    "RolloutWriter",
    "Trajectory",
    "TrajectoryFeatures",
    "TrajectorySummary",
    "Transition",
    "check_feature_names",
    "convert_legacy_rollouts",
    "from_imitation",
    "load_legacy_pickle",
    "load_motion",
    "plot_motion",
    "read_imitation",
    "read_minari",
    "read_rollouts",
    "to_imitation",
    "to_transitions",
    "validate_motion",
    "write_imitation",
    "write_minari",
    "write_rollouts",
]
