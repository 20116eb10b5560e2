"""The loop, and the algorithms that declare objectives for it."""

from sb3_strl.algorithms.appo import AMPPPO, APPO
from sb3_strl.algorithms.atppo import ATPPO
from sb3_strl.algorithms.estimator_appo import EstimatorAPPO, EstimatorATPPO
from sb3_strl.algorithms.estimator_ppo import EstimatorPPO
from sb3_strl.algorithms.estimator_tppo import EstimatorTPPO
from sb3_strl.algorithms.ppo import PPO
from sb3_strl.algorithms.tppo import TPPO

__all__ = [
    "AMPPPO",
    "APPO",
    "ATPPO",
    "PPO",
    "TPPO",
    "EstimatorAPPO",
    "EstimatorATPPO",
    "EstimatorPPO",
    "EstimatorTPPO",
]
