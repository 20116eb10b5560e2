"""What ``Monitor`` writes, of environments whose tensors stay where they are."""

from __future__ import annotations

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter

from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm


class MonitorFile(BaseCallback):
    """
    Write return, length and time of every finished episode to ``0.monitor.csv``, once per rollout.

    The file is that of SB3's ``Monitor``, which rl_zoo3's and SB3's plots read; the time is that of
    the end of the rollout.

    :param folder: where to write
    :param env_id: for the first line of the file
    """

    def __init__(self, folder: str, env_id: str) -> None:
        super().__init__()
        self.path = str(Path(folder) / "0")
        self.env_id = env_id

    def _on_training_start(self) -> None:
        self._begin = time.time()
        self._writer = ResultsWriter(
            self.path, header={"t_start": self._begin, "env_id": self.env_id}
        )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, TensorOnPolicyAlgorithm)
        seconds = round(time.time() - self._begin, 6)
        for episode in self.model.finished_episodes:
            self._writer.write_row({"r": episode["r"], "l": episode["l"], "t": seconds})

    def _on_training_end(self) -> None:
        self._writer.close()
