"""Callbacks for training runs."""

from sb3_strl.callbacks.dagger import DaggerCollector
from sb3_strl.callbacks.discriminator_doctor import DiscriminatorDoctor
from sb3_strl.callbacks.discriminator_verdicts import DoctorReport
from sb3_strl.callbacks.git_state import GitStateCallback
from sb3_strl.callbacks.iteration_checkpoint import IterationCheckpointCallback
from sb3_strl.callbacks.locomotion_metrics import LocomotionMetricsCallback
from sb3_strl.callbacks.motion_evaluation import MotionEvalCallback
from sb3_strl.callbacks.random_starts import RandomStarts
from sb3_strl.callbacks.recorder import DemonstrationRecorder
from sb3_strl.callbacks.tensor_evaluation import TensorEvalCallback
from sb3_strl.callbacks.trial_evaluation import TrialEvalCallback, TrialReportCallback

__all__ = [
    "DaggerCollector",
    "DemonstrationRecorder",
    "DiscriminatorDoctor",
    "DoctorReport",
    "GitStateCallback",
    "IterationCheckpointCallback",
    "LocomotionMetricsCallback",
    "MotionEvalCallback",
    "RandomStarts",
    "TensorEvalCallback",
    "TrialEvalCallback",
    "TrialReportCallback",
]
