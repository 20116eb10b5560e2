"""The loop, and the algorithms that declare objectives for it."""

from sb3_strl.algorithms.appo import AMPPPO, APPO
from sb3_strl.algorithms.estimator_ppo import EstimatorPPO
from sb3_strl.algorithms.ppo import PPO

__all__ = ["AMPPPO", "APPO", "PPO", "EstimatorPPO"]
