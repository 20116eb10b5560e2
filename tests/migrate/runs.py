"""Runs of rsl_rl on a tiny environment, made by its own runner."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.types import TensorDict
from sb3_strl.migrate import Spaces
from tests.envs.toy import ToyVecEnv, box

ACTIONS = 3
GROUPS = {"policy": (5,), "extra": (2,), "depth": (1, 12, 10), "rgb": (3, 12, 10)}
SPACES = Spaces(
    spaces.Dict({name: box(*shape) for name, shape in GROUPS.items()}), box(ACTIONS, bound=100.0)
)


class Noise(ToyVecEnv):
    """Random observations of every kind; the reward is for small actions."""

    def __init__(self, n_envs: int = 4, **options: Any) -> None:
        super().__init__(n_envs, *SPACES, max_episode_length=5, **options)
        self.last = th.zeros(n_envs, ACTIONS)
        self.step_dt = 0.02

    def restart(self, mask: th.Tensor) -> None:
        """Nothing begins."""

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        self.last = actions
        return -actions.square().sum(-1), actions[:, 0] > 3.0

    def observe(self) -> TensorDict:
        return {
            name: 2.0 * self.rand(int(np.prod(shape))).view(-1, *shape) - 0.7
            for name, shape in GROUPS.items()
        }


def make_theirs(n_envs: int = 4) -> Any:
    """Return the environment as rsl_rl wants it."""
    from rsl_rl.env import VecEnv
    from tensordict import TensorDict as Td

    class Theirs(VecEnv):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inner = Noise(n_envs)
            self.num_envs, self.num_actions, self.device = n_envs, ACTIONS, "cpu"
            self.max_episode_length = 5
            self.episode_length_buf = th.zeros(n_envs)
            self.cfg: dict[str, Any] = {}
            self.step_dt = 0.02
            self.obs = self.inner.reset_tensor()

        @property
        def unwrapped(self) -> Any:
            return self

        def get_observations(self) -> Any:
            return Td(self.obs, [n_envs])

        def step(self, actions: th.Tensor) -> Any:
            step = self.inner.step_tensor(actions)
            self.obs = step.obs
            dones = (step.terminated | step.truncated).long()
            return Td(step.obs, [n_envs]), step.rewards, dones, {"time_outs": step.truncated}

    return Theirs()


def train(
    config: dict[str, Any], folder: Path, iterations: int = 2, teacher: Path | None = None
) -> tuple[Any, Path]:
    """Train with rsl_rl; return its runner and the checkpoint that it wrote."""
    from rsl_rl.runners import DistillationRunner, OnPolicyRunner

    with redirect_stdout(io.StringIO()):
        th.manual_seed(0)
        cls = OnPolicyRunner if teacher is None else DistillationRunner
        runner = cls(make_theirs(), copy.deepcopy(config), None, "cpu")
        if teacher is not None:
            runner.load(str(teacher))
        runner.learn(iterations)
        path = folder / "model_1.pt"
        runner.logger.writer = None
        runner.save(str(path))
    runner.alg.eval_mode()
    return runner, path


def observations(n_envs: int = 4) -> TensorDict:
    """Return groups of observations."""
    return Noise(n_envs, seed=7).reset_tensor()
