"""Episodes that do not all end together."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback


class RandomStarts(BaseCallback):
    """
    Pretend, when training begins, that episodes have been running for random times.

    Without it the robots of a freshly reset batch run out of time in the same step, and the first
    rollouts hold nothing but first halves of episodes. Calls
    :meth:`~sb3_strl.envs.TensorVecEnv.randomize_episode_lengths` after the reset that begins
    training. A run that continues from a restored state of the environment is left alone.

    :param verbose: 0 silent, 1 info
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)

    def _on_training_start(self) -> None:
        env = self.training_env
        if self.model.num_timesteps == 0 or env.env_method("get_state")[0] is None:
            env.env_method("randomize_episode_lengths")

    def _on_step(self) -> bool:
        return True
