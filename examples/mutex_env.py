"""A course for the walker: the commanded speed changes during an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.types import TensorDict
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_physics import DomainRandomization

ROBOT: dict[str, Any] = {"n_frames": 5, "min_height": 0.6, "max_pitch": 0.8, "n_threads": 1}
"""What training and the course have in common."""

ENV_ACTION_SCALE = (1.0, 1.2, 0.7)
"""Action scale of the course for hip, knee and ankle, rad; no skill has a larger one."""


class Stretch(NamedTuple):
    """
    Part of a course.

    :param seconds: its length
    :param speed: the command, m/s
    :param skill: index of the skill that is meant for it
    """

    seconds: float
    speed: float
    skill: int


COURSE = (
    Stretch(2.0, 0.0, 0),
    Stretch(4.0, 1.0, 1),
    Stretch(4.0, 2.3, 2),
    Stretch(4.0, 1.0, 1),
    Stretch(3.0, 0.0, 0),
)
"""Stand, walk, run, walk, stand."""


class CourseVecEnv(WalkerVecEnv):
    """
    Walkers that begin standing and are commanded along a course; an episode is the whole of it.

    A further observation group ``engaging_block`` ``(1 + number of skills - 1,)`` tells which skill
    the stretch is meant for, in the form that
    :class:`~sb3_strl.policies.mutex_field.FieldMutexPolicy` reads: column k is 1 where skill k is,
    and all are 0 where skill 0 is.

    :param n_envs: number of robots
    :param seed: of every random number
    :param action_scale: for hip, knee and ankle, rad
    :param course: the stretches
    :param limits: the command in the observation is clipped to this range, m/s; what is rewarded
        is not. ``None`` for no clipping
    """

    def __init__(
        self,
        n_envs: int,
        seed: int | None = None,
        action_scale: tuple[float, float, float] = ENV_ACTION_SCALE,
        course: Sequence[Stretch] = COURSE,
        limits: tuple[float, float] | None = None,
    ) -> None:
        lengths = [round(stretch.seconds / 0.02) for stretch in course]
        self.speeds = th.tensor(np.repeat([part.speed for part in course], lengths)).float()
        self.skills = th.tensor(np.repeat([part.skill for part in course], lengths))
        self.n_skills = max(part.skill for part in course) + 1
        self.limits = limits
        super().__init__(
            n_envs,
            seed=seed,
            action_scale=action_scale,
            rsi_prob=0.0,
            domain_randomization=DomainRandomization(n_models=n_envs),  # no two robots alike
            max_episode_length=sum(lengths),
            **ROBOT,
        )
        assert isinstance(self.observation_space, spaces.Dict)
        block = spaces.Box(0.0, 1.0, (self.n_skills,), np.float32)
        groups = {**self.observation_space.spaces, "engaging_block": block}
        self.observation_space = spaces.Dict(groups)

    def _reset_rows(self, rows: th.Tensor) -> None:
        super()._reset_rows(rows)
        self._commands[rows] = self.speeds[0]

    def _advance_episode(self) -> None:
        super()._advance_episode()
        self._commands = self.speeds[self._stretch_index()].unsqueeze(1)

    def _stretch_index(self) -> th.Tensor:
        return self.episode_length_buf.clamp(max=self.max_episode_length - 1)

    def _observe(self, rows: th.Tensor | slice) -> TensorDict:
        true_commands = self._commands
        if self.limits is not None:
            self._commands = true_commands.clamp(*self.limits)
        obs = super()._observe(rows)
        self._commands = true_commands
        skills = self.skills[self._stretch_index()[rows]]
        ids = th.eq(skills.unsqueeze(1), th.arange(self.n_skills)).float()
        ids[:, 0] = 0.0
        return {**obs, "engaging_block": ids}
