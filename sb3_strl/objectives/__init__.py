"""What is optimised beside PPO's own three losses."""

from sb3_strl.objectives.base import (
    Context,
    Decision,
    Objective,
    Proposal,
    RewardTerm,
    RolloutStep,
)
from sb3_strl.objectives.distillation import DistillationOptions, TeacherDistillation
from sb3_strl.objectives.estimation import Estimation, EstimationOptions
from sb3_strl.objectives.expert import ExpertSource, MotionFeatures
from sb3_strl.objectives.motion_prior import AdversarialMotionPrior, MotionPriorOptions
from sb3_strl.objectives.rnd import RandomNetworkDistillation, RNDOptions

__all__ = [
    "AdversarialMotionPrior",
    "Context",
    "Decision",
    "DistillationOptions",
    "Estimation",
    "EstimationOptions",
    "ExpertSource",
    "MotionFeatures",
    "MotionPriorOptions",
    "Objective",
    "Proposal",
    "RNDOptions",
    "RandomNetworkDistillation",
    "RewardTerm",
    "RolloutStep",
    "TeacherDistillation",
]
