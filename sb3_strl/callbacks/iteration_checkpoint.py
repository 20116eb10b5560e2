"""Checkpoints that are named after iterations."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm
from sb3_strl.common.errors import StrlTypeError, StrlValueError


class IterationCheckpointCallback(CheckpointCallback):
    """
    Save ``model_<iteration>.zip`` after every ``save_interval`` iterations.

    SB3's ``CheckpointCallback`` counts steps of the environment and may save in the middle of a
    rollout, which a resumed run then collects again. This one saves between the update of an
    iteration and the next rollout, as rsl_rl's ``save_interval``.

    :param save_interval: iterations (rollout and update) between two checkpoints
    :param save_path: folder
    :param name_prefix: of the files
    :param save_vecnormalize: save the statistics of ``VecNormalize``, too
    :param verbose: 2 announces every checkpoint
    :raises StrlValueError: if ``save_interval`` is not positive
    :raises StrlTypeError: if the algorithm counts no iterations
    """

    def __init__(
        self,
        save_interval: int,
        save_path: str | Path,
        name_prefix: str = "model",
        save_vecnormalize: bool = False,
        verbose: int = 0,
    ) -> None:
        if save_interval < 1:
            raise StrlValueError(
                f"IterationCheckpointCallback: save_interval is {save_interval}. Expected at least "
                "1 iteration."
            )
        super().__init__(
            save_interval,
            str(save_path),
            name_prefix,
            save_vecnormalize=save_vecnormalize,
            verbose=verbose,
        )
        self._last_saved = 0

    @property
    def _iteration(self) -> int:
        model = self.model
        if not isinstance(model, TensorOnPolicyAlgorithm):
            raise StrlTypeError(
                f"IterationCheckpointCallback: {type(model).__name__} counts no iterations. "
                "Expected an algorithm of this library; use SB3's CheckpointCallback."
            )
        return model.n_iterations

    def _checkpoint_path(self, checkpoint_type: str = "", extension: str = "") -> str:
        name = f"{self.name_prefix}_{checkpoint_type}{self._iteration}.{extension}"
        return str(Path(self.save_path) / name)

    def _on_training_start(self) -> None:
        self._last_saved = self._iteration

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._save_if_due()

    def _on_training_end(self) -> None:
        self._save_if_due()

    def _save_if_due(self) -> None:
        iteration = self._iteration
        if iteration == self._last_saved or iteration % self.save_freq != 0:
            return
        self._last_saved = iteration
        self.n_calls = self.save_freq  # SB3's callback saves when the number of calls divides
        super()._on_step()
