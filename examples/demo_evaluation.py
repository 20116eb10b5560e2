"""What a trained walker does when nothing disturbs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.data import Motion
from sb3_strl.data.pose_error import Array, cut_windows, pose_error, reference_cycle
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_options import MOTIONS
from sb3_strl.envs.walker_task import FEATURE_NAMES
from sb3_strl.policies import AMPDiscriminator, StrlPolicy

REFERENCE = MOTIONS / "walk.npz"
N_ROBOTS, N_STEPS = 16, 500
ROBOT: dict[str, Any] = {
    "n_frames": 5,  # 0.1 s, in which a discriminator sees the rhythm of a gait
    "action_scale": (0.7, 0.9, 0.5),
    "min_height": 0.7,
    "max_pitch": 0.7,
}
"""What training and evaluation have in common."""
_WARM_UP = 1.0  # s until the initial pose no longer counts
_JOINTS = [i for i, name in enumerate(FEATURE_NAMES) if name.startswith("joint_pos/")]
_HEIGHT, _PITCH = FEATURE_NAMES.index("root_pos/z"), FEATURE_NAMES.index("root_pitch/pitch")
_SPEED = FEATURE_NAMES.index("root_vel/x")


@dataclass(frozen=True)
class Gait:
    """
    One episode of several robots; one that has fallen keeps its last pose.

    :param frames: ``(time, robots, F)``, style features of each step
    :param windows: ``(time, robots, K, F)``, what the discriminator looks at
    :param expert: ``(time, robots, K, F)``, the same of the reference
    :param rewards: ``(time, robots)``, of the task
    :param up: ``(time, robots)``, whether the robot had not fallen before the step
    :param valid: ``(time, robots)``, whether the window lies inside the episode
    :param dt: time between two frames, s
    """

    frames: th.Tensor
    windows: th.Tensor
    expert: th.Tensor
    rewards: th.Tensor
    up: th.Tensor
    valid: th.Tensor
    dt: float

    @property
    def joint_pos(self) -> Array:
        """Joint angles ``(time, robots, 6)``, rad."""
        return self.frames[:, :, _JOINTS].numpy().astype(np.float64)

    @property
    def root_pitch(self) -> Array:
        """Lean of the torso ``(time, robots)``, rad."""
        return self.frames[:, :, _PITCH].numpy().astype(np.float64)

    @property
    def root_pos(self) -> Array:
        """Position of the hip ``(time, robots, 2)``, m."""
        moved = self.frames[:, :, _SPEED] * self.up * self.dt
        place = th.stack((moved.cumsum(0), self.frames[:, :, _HEIGHT]), dim=-1)
        return place.numpy().astype(np.float64)


def make_evaluation_env(n_robots: int, n_steps: int, seed: int) -> WalkerVecEnv:
    """
    Make robots that are all alike and that nothing disturbs.

    Half of the episodes begin in a state of the reference and half standing; the command is the
    reference's speed.

    :param n_robots: number of robots
    :param n_steps: length of an episode
    :param seed: of the initial states
    """
    clip = Motion.load(REFERENCE)
    speed = float(np.ptp(clip.fields["root_pos"][:, 0]) / clip.duration)
    return WalkerVecEnv(
        n_robots,
        seed=seed,
        motion=clip,
        command_range=(speed, speed),
        domain_randomization=False,
        rsi_prob=0.5,
        max_episode_length=n_steps,
        n_threads=1,
        **ROBOT,
    )


def walk(
    policy: StrlPolicy, n_robots: int = N_ROBOTS, n_steps: int = N_STEPS, seed: int = 1000
) -> Gait:
    """
    Record one episode of every robot, with the policy's mean action.

    :param policy: what acts
    :param n_robots: number of robots
    :param n_steps: steps of 0.02 s
    :param seed: of the initial states
    """
    env = make_evaluation_env(n_robots, n_steps, seed)
    obs = env.reset_tensor()
    up = th.ones(n_robots, dtype=th.bool)
    last = obs["ref_obs"]
    records: list[tuple[th.Tensor, ...]] = []
    for _ in range(n_steps):
        actions, _ = policy.predict(obs, deterministic=True)
        step = env.step_tensor(actions)
        assert step.final_obs is not None
        last = th.where(up[:, None, None], step.final_obs["ref_obs"], last)
        valid = step.extras["amp_valid"] & up
        expert = step.final_obs["ref_motion"].clone()
        records.append((last[:, -1], last, expert, step.rewards * up, up, valid))
        up = up & ~step.terminated
        obs = step.obs
    env.close()
    frames, windows, experts, rewards, ups, valids = map(th.stack, zip(*records, strict=True))
    return Gait(frames, windows, experts, rewards, ups, valids, env.dt)


def task_return(gait: Gait) -> float:
    """Return the mean return of an episode."""
    return float(gait.rewards.sum(dim=0).mean())


def survival(gait: Gait) -> float:
    """Return the share of the robots that did not fall."""
    return float(gait.up[-1].float().mean())


def robot_errors(gait: Gait) -> Array:
    """
    Return the DTW distance to the reference of every robot, mean over windows of one cycle.

    :param gait: the poses after the first second count
    :return: ``(robots,)``, degrees
    """
    cycle = reference_cycle(Motion.load(REFERENCE), gait.dt)
    angles = np.rad2deg(gait.joint_pos)
    windows = cut_windows(angles, len(cycle), round(_WARM_UP / gait.dt))
    errors = pose_error(windows, cycle).reshape(angles.shape[1], -1)
    return np.asarray(errors.mean(axis=1))


def gait_error(gait: Gait) -> float:
    """Return the mean of :func:`robot_errors`, degrees."""
    return float(robot_errors(gait).mean())


@th.no_grad()
def judge(gait: Gait, discriminator: AMPDiscriminator) -> dict[str, float]:
    """
    Return what a discriminator makes of a gait.

    :param gait: the motion
    :param discriminator: the judge
    :return: mean style reward per step and shares of windows that it classifies correctly
    """
    discriminator.eval()
    logits = _logits(discriminator, gait.windows[gait.valid])
    expert = _logits(discriminator, gait.expert.flatten(0, 1))
    # A robot on the ground earns no style.
    style = discriminator.style_reward(gait.windows[gait.valid].flatten(1))
    return {
        "style_reward": float(style.sum() / gait.up.numel()),
        "policy_accuracy": float((logits < 0.0).float().mean()),
        "expert_accuracy": float((expert > 0.0).float().mean()),
    }


def _logits(discriminator: AMPDiscriminator, windows: th.Tensor) -> th.Tensor:
    logits: th.Tensor = discriminator(discriminator.normalize(windows.flatten(1)))
    return logits.squeeze(-1)


def reference_poses(
    n_frames: int, dt: float, start: float = 0.0
) -> dict[str, npt.NDArray[np.float64]]:
    """
    Return poses of the reference, cycle after cycle.

    :param n_frames: how many
    :param dt: time between two, s
    :param start: time of the first one, s
    :return: ``root_pos`` ``(n, 2)``, ``root_pitch`` ``(n,)`` and ``joint_pos`` ``(n, 6)``
    """
    clip = Motion.load(REFERENCE)
    times = start + np.arange(n_frames) * dt
    loops, phases = np.divmod(times, clip.duration)
    recorded = np.arange(len(clip.fields["joint_pos"])) / clip.fps
    poses = {
        name: np.stack([np.interp(phases, recorded, c) for c in clip.fields[name].T], axis=-1)
        for name in ("root_pos", "root_pitch", "joint_pos")
    }
    poses["root_pos"][:, 0] += loops * np.ptp(clip.fields["root_pos"][:, 0])
    poses["root_pitch"] = poses["root_pitch"][:, 0]
    return poses
