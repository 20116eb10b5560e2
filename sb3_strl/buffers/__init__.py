"""Rollout storage with named fields."""

from sb3_strl.buffers.dilated_queue import DilatedQueue
from sb3_strl.buffers.feature_replay import AmpReplayBuffer, FeatureReplay
from sb3_strl.buffers.presets import (
    ActionLabelRolloutBuffer,
    EstimatorRolloutBuffer,
    RefMotionRolloutBuffer,
    SarsaRolloutBuffer,
)
from sb3_strl.buffers.queue_buffer import QueueRolloutBuffer
from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer

__all__ = [
    "ActionLabelRolloutBuffer",
    "AmpReplayBuffer",
    "DilatedQueue",
    "EstimatorRolloutBuffer",
    "FeatureReplay",
    "FieldSpec",
    "QueueRolloutBuffer",
    "RefMotionRolloutBuffer",
    "RolloutBatch",
    "RolloutBuffer",
    "SarsaRolloutBuffer",
]
