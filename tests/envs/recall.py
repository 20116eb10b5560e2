"""A task that only a memory solves."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_strl.common.types import TensorDict
from tests.envs.toy import ToyVecEnv, box, put


class Recall(ToyVecEnv):
    """A sign is shown in the first step of an episode; every later action should repeat it."""

    state_names = ("sign",)

    def __init__(self, n_envs: int = 8, **options: Any) -> None:
        options = {"max_episode_length": 8, **options}
        super().__init__(n_envs, spaces.Dict({"policy": box(2)}), spaces.Discrete(2), **options)
        self.sign = th.ones(n_envs, device=self.device)

    def restart(self, mask: th.Tensor) -> None:
        put(self.sign, mask, th.where(self.rand() < 0.5, -1.0, 1.0))

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        said = actions.flatten().float() * 2.0 - 1.0
        return said * self.sign, th.zeros_like(self.sign, dtype=th.bool)

    def observe(self) -> TensorDict:
        is_first = (self.episode_length_buf == 0).float()
        return {"policy": th.stack([is_first * self.sign, is_first], -1)}
