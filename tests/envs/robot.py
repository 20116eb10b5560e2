"""A toy that offers everything a policy can read: named segments, images, privileged state."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_strl.common.types import TensorDict
from tests.envs.toy import PointMass, box


class RobotToy(PointMass):
    """
    The point mass with a noisy velocity, a wrong mass and a depth image of its position.

    ``policy`` has the segments ``proprio`` (4), ``velocity`` (2, noisy), ``mass`` (1, a guess) and
    ``depth`` (1, 6, 6); ``critic`` has the true ``velocity`` and ``mass`` before the rest.
    """

    def __init__(self, n_envs: int = 4, **options: Any) -> None:
        super().__init__(n_envs, **options)
        assert isinstance(self.observation_space, spaces.Dict)
        parts = dict(self.observation_space.spaces)
        parts["policy"], parts["critic"] = box(4 + 2 + 1 + 36), box(2 + 1 + 4 + 36)
        self.observation_space = spaces.Dict(parts)
        self.obs_segments = {
            "policy": {"proprio": (4,), "velocity": (2,), "mass": (1,), "depth": (1, 6, 6)},
            "critic": {"velocity": (2,), "mass": (1,), "proprio": (4,), "depth": (1, 6, 6)},
        }
        self.grid = th.linspace(-1, 1, 6, device=self.device)

    def observe(self) -> TensorDict:
        obs = super().observe()
        mass = self.mass.unsqueeze(-1)
        proprio = th.cat([self.pos, self.phase.sin().unsqueeze(-1), mass * self.vel[:, :1]], -1)
        across = (self.grid - self.pos[:, :1]).abs()
        along = (self.grid - self.pos[:, 1:]).abs()
        depth = (across.unsqueeze(1) + along.unsqueeze(2)).flatten(1)
        noise = 0.1 * (self.rand(2) - 0.5)
        guess = th.ones_like(mass)
        obs["policy"] = th.cat([proprio, self.vel + noise, guess, depth], -1)
        obs["critic"] = th.cat([self.vel, mass, proprio, depth], -1)
        return obs
