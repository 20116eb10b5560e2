"""How policies fare on the course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy

from examples.mutex_env import COURSE, ENV_ACTION_SCALE, CourseVecEnv, Stretch
from examples.mutex_skills import SKILLS
from sb3_strl.envs.walker_task import FEATURE_NAMES

Array = npt.NDArray[np.float64]
_SPEED = FEATURE_NAMES.index("root_vel/x")


@dataclass(frozen=True)
class Run:
    """
    One episode of several robots on the course; one that has fallen stands still.

    :param frames: ``(time, robots, F)``, style features of each step
    :param commands: ``(time,)``, m/s
    :param speeds: ``(time, robots)``, m/s
    :param up: ``(time, robots)``, whether the robot has not fallen
    :param rewards: ``(time, robots)``
    :param dt: time of a step, s
    """

    frames: Array
    commands: Array
    speeds: Array
    up: npt.NDArray[np.bool_]
    rewards: Array
    dt: float

    def summary(self) -> dict[str, float]:
        """Return mean tracking error, m/s, mean return and the share of robots that fell."""
        error = np.abs(self.speeds - self.commands[:, None])
        return {
            "tracking_error": float(error.mean()),
            "task_return": float(self.rewards.sum(axis=0).mean()),
            "falls": float(1.0 - self.up[-1].mean()),
        }


def run_course(
    policy: BasePolicy,
    n_robots: int,
    seed: int,
    action_scale: tuple[float, float, float] = ENV_ACTION_SCALE,
    limits: tuple[float, float] | None = None,
    course: Sequence[Stretch] = COURSE,
) -> Run:
    """
    Send robots along the course once, with noise, pushes and randomised bodies.

    :param policy: what acts
    :param n_robots: number of robots
    :param seed: of every random number
    :param action_scale: of the environment; that of the policy's training
    :param limits: the policy sees commands clipped to these, m/s
    :param course: the stretches
    """
    env = CourseVecEnv(n_robots, seed, action_scale, course, limits)
    obs = env.reset_tensor()
    up = th.ones(n_robots, dtype=th.bool)
    starts = th.ones(n_robots, dtype=th.bool)
    state = None
    records: list[tuple[th.Tensor, ...]] = []
    last = obs["ref_obs"][:, -1]
    for _ in range(env.max_episode_length):
        actions, state = policy.predict(obs, state, starts, deterministic=True)  # type: ignore[arg-type]
        step = env.step_tensor(th.as_tensor(actions))
        assert step.final_obs is not None
        up = up & ~step.terminated
        last = th.where(up[:, None], step.final_obs["ref_obs"][:, -1], last)
        speeds = th.where(up, last[:, _SPEED], 0.0)
        records.append((last, speeds, up, step.rewards * up))
        obs, starts = step.obs, step.terminated | step.truncated
    env.close()
    frames, moving, ups, rewards = [th.stack(part).numpy() for part in zip(*records, strict=True)]
    return Run(frames, env.speeds.numpy(), moving, ups, rewards, env.dt)


def run_all(
    skills: Sequence[BasePolicy],
    mutex: BasePolicy,
    course: Sequence[Stretch],
    n_robots: int,
    seed: int,
) -> dict[str, Run]:
    """
    Send every skill alone and the mutex policy along the same course.

    A skill alone is tried twice: with the commands as they are, of which it was trained on a part
    only, and with commands clipped to what it was trained on.

    :param skills: in the order of ``SKILLS``
    :param mutex: the selector over them
    :param course: the stretches
    :param n_robots: number of robots
    :param seed: of every random number
    """
    runs: dict[str, Run] = {}
    for skill, policy in zip(SKILLS, skills, strict=True):
        for name, limits in ((skill.name, None), (f"{skill.name}, clipped", skill.commands)):
            runs[name] = run_course(policy, n_robots, seed, skill.action_scale, limits, course)
    runs["mutex"] = run_course(mutex, n_robots, seed, course=course)
    return runs
