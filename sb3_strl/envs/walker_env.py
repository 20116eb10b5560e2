"""One walker as an ordinary Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from typing_extensions import Unpack

from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_options import WalkerOptions

_Obs = dict[str, npt.NDArray[np.float32]]


class WalkerEnv(gym.Env[_Obs, npt.NDArray[np.float32]]):
    """
    The walker of :class:`~sb3_strl.envs.walker.WalkerVecEnv`, one robot with Gymnasium's interface.

    Made by ``gymnasium.make("sb3_strl/Walker-v0")``. Many robots are stepped far faster by one
    ``sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=...)`` than by many of these.

    :param options: the options of ``WalkerVecEnv``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, **options: Unpack[WalkerOptions]) -> None:
        self.robots = WalkerVecEnv(1, **options)
        self.render_mode = self.robots.render_mode
        self.metadata = self.robots.metadata
        self.observation_space = self.robots.observation_space
        self.action_space = self.robots.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Obs, dict[str, Any]]:
        """
        Start an episode.

        :param seed: restarts all random numbers; None goes on with them
        :param options: none are known
        :return: observation groups and an empty info
        """
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.robots.seed(seed)
        return _first(self.robots.reset_tensor()), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[_Obs, float, bool, bool, dict[str, Any]]:
        """
        Advance by one step; after the end of an episode, the observation is its last one.

        :param action: ``(6,)``, clipped to [-1, 1]
        :return: observation, reward, terminated, truncated, info with ``amp_valid``
        """
        actions = th.as_tensor(np.asarray(action, dtype=np.float32)).unsqueeze(0)
        step = self.robots.step_tensor(actions)
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        # Without a finished episode, final_obs is obs.
        assert step.final_obs is not None
        info = {"amp_valid": bool(step.extras["amp_valid"][0])}
        return _first(step.final_obs), float(step.rewards[0]), terminated, truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Draw the robot if ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        return self.robots.render_images([0])[0]

    def close(self) -> None:
        """Stop the physics."""
        self.robots.close()


def _first(groups: dict[str, th.Tensor]) -> _Obs:
    return {name: values[0].cpu().numpy().copy() for name, values in groups.items()}
