"""
Robot learning in Stable-Baselines3's idiom.

``APPO`` is PPO with an adversarial motion prior, not Asynchronous PPO; ``AMPPPO`` is the same
class.
"""

from sb3_strl.algorithms import (
    AMPPPO,
    APPO,
    ATPPO,
    PPO,
    TPPO,
    EstimatorAPPO,
    EstimatorATPPO,
    EstimatorPPO,
    EstimatorTPPO,
)
from sb3_strl.envs import make_vec, register_gym_ids

__version__ = "0.1.0"

register_gym_ids()

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
    "__version__",
    "make_vec",
]
