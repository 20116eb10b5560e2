"""Stand-ins for trained policies, with observations that can be written by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.segments import ObsLayout

SEGMENTS = {"policy": {"proprioception": (14,), "engaging_block": (8,)}}
"""Command in column 9 and last action in columns 12 and 13 of ``proprioception``."""
SPACE = spaces.Dict({"policy": spaces.Box(-np.inf, np.inf, (22,), np.float32)})
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
N_IDS = 5


class Memory(NamedTuple):
    """Of a stand-in with a recurrent network; ``(L, N, H)``."""

    actor: th.Tensor
    critic: None = None


class FixedPolicy(BasePolicy):
    """Always the same action."""

    def __init__(
        self,
        value: float | list[float] = 0.0,
        space: spaces.Space[Any] = SPACE,
        segments: dict[str, Any] | None = SEGMENTS,
        actions: spaces.Space[Any] = ACTIONS,
    ) -> None:
        super().__init__(space, actions)
        self.layout = ObsLayout(space, segments)
        value = [value] * 2 if isinstance(value, float) else value
        self.value = th.nn.Parameter(th.tensor(value))

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        obs = observation["policy"] if isinstance(observation, dict) else observation
        return self.value.expand(len(obs), -1)


class EchoPolicy(FixedPolicy):
    """Two columns of the observation, and the observation itself on the side."""

    def __init__(self, columns: tuple[int, int], **options: Any) -> None:
        super().__init__(0.0, **options)
        self.columns = list(columns)

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return observation["policy"][:, self.columns]


class CountingPolicy(FixedPolicy):
    """Hundredths of the number of steps since its memory was cleared."""

    is_recurrent = True

    def initial_state(self, n_envs: int) -> Memory:
        return Memory(actor=th.zeros(1, n_envs, 1, device=self.value.device))

    def act(
        self,
        obs_groups: dict[str, th.Tensor],
        state: Memory,
        episode_starts: th.Tensor,
        deterministic: bool = True,
    ) -> tuple[th.Tensor, Memory]:
        memory = state.actor * (~episode_starts)[None, :, None] + 1.0
        action = 0.01 * memory[0] + self.value.detach()
        return action.expand(-1, 2), state._replace(actor=memory)


def observations(
    ids: list[int], command: float = 0.0, last_action: float = 0.0, height: float = 0.0
) -> dict[str, th.Tensor]:
    """Observations whose ``engaging_block`` holds some ids; 0 stands for open ground."""
    obs = th.zeros(len(ids), 22)
    obs[:, 9], obs[:, 12:14], obs[:, 21] = command, last_action, height
    for row, number in enumerate(ids):
        if number > 0:
            obs[row, 14 + number] = 1.0
    return {"policy": obs}
