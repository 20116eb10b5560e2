"""What the tests of the walker share."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th

from sb3_strl.common.types import TensorDict, TensorStep

pytest.importorskip("mujoco")

from sb3_strl.envs.walker import WalkerVecEnv

GROUPS = ("policy", "critic", "ref_obs", "ref_motion")


def make(n_envs: int = 4, **options: Any) -> WalkerVecEnv:
    options.setdefault("seed", 0)
    options.setdefault("n_threads", 0)
    return WalkerVecEnv(n_envs, **options)


def actions(env: WalkerVecEnv, step: int, scale: float = 0.5) -> th.Tensor:
    generator = th.Generator().manual_seed(step)
    return scale * (2 * th.rand(env.num_envs, 6, generator=generator) - 1)


def segment(env: WalkerVecEnv, obs: TensorDict, group: str, name: str) -> th.Tensor:
    assert env.obs_segments is not None
    start = 0
    for key, shape in env.obs_segments[group].items():
        if key == name:
            return obs[group][:, start : start + math.prod(shape)]
        start += math.prod(shape)
    raise KeyError(name)


def run(env: WalkerVecEnv, n_steps: int, first: int = 0) -> list[TensorStep]:
    return [env.step_tensor(actions(env, first + i)) for i in range(n_steps)]
