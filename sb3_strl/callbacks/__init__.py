"""Callbacks for training runs."""

from sb3_strl.callbacks.git_state import GitStateCallback
from sb3_strl.callbacks.locomotion_metrics import LocomotionMetricsCallback
from sb3_strl.callbacks.random_starts import RandomStarts

__all__ = ["GitStateCallback", "LocomotionMetricsCallback", "RandomStarts"]
