"""The tensor face of a batched environment, with SB3's NumPy face on the same object."""

from __future__ import annotations

from abc import abstractmethod

import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_strl.common.types import TensorDict, TensorStep


class TensorVecEnv(VecEnv):
    """Placeholder of the interface; see docs/design for the contract."""

    device: th.device
    max_episode_length: int | None = None
    obs_segments: dict[str, dict[str, tuple[int, ...]]] | None = None
    feature_names: dict[str, list[str]] | None = None

    @abstractmethod
    def reset_tensor(self) -> TensorDict:
        """Reset every environment."""

    @abstractmethod
    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment."""

    def get_state(self) -> TensorDict | None:
        """Return everything that the next step depends on, or None if the simulator cannot."""
        return None

    def set_state(self, state: TensorDict) -> None:
        """Restore what get_state returned."""
