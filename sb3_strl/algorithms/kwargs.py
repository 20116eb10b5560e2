"""Keywords of the algorithms that declare several objectives, as types."""

from __future__ import annotations

from sb3_strl.algorithms.appo import MotionPriorKwargs
from sb3_strl.algorithms.estimator_ppo import EstimationKwargs
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from sb3_strl.algorithms.tppo import TeacherKwargs


class ATPPOKwargs(PPOKwargs, MotionPriorKwargs, TeacherKwargs, total=False):
    """Keyword arguments of :class:`~sb3_strl.algorithms.ATPPO`."""


class EstimatorTPPOKwargs(PPOKwargs, EstimationKwargs, TeacherKwargs, total=False):
    """Keyword arguments of :class:`~sb3_strl.algorithms.EstimatorTPPO`."""


class EstimatorAPPOKwargs(PPOKwargs, EstimationKwargs, MotionPriorKwargs, total=False):
    """Keyword arguments of :class:`~sb3_strl.algorithms.EstimatorAPPO`."""


class EstimatorATPPOKwargs(ATPPOKwargs, EstimationKwargs, total=False):
    """Keyword arguments of :class:`~sb3_strl.algorithms.EstimatorATPPO`."""
