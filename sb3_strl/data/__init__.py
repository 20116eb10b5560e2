"""Recorded data: motions and their library."""

from sb3_strl.data.motion import Motion, check_feature_names
from sb3_strl.data.motion_library import MotionLibrary

__all__ = ["Motion", "MotionLibrary", "check_feature_names"]
