"""The three skills of the course, each trained for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch as th

from examples.mutex_env import ROBOT
from sb3_strl import APPO, PPO
from sb3_strl.data import Motion, MotionLibrary
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_options import MOTIONS
from sb3_strl.envs.walker_physics import DomainRandomization
from sb3_strl.envs.walker_task import WalkerRewards
from sb3_strl.policies import save_policy

RUN_TEMPO = 0.65
"""The run is replayed at this tempo, at 2.3 m/s; the original is a sprint at 3.6 m/s."""

COMMON: dict[str, Any] = {
    "n_steps": 32,
    "n_epochs": 5,
    "n_minibatches": 4,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "gamma": 0.97,
    "ent_coef": 0.0,
    "device": "cpu",
}
POLICY: dict[str, Any] = {
    "net_arch": [256, 128],
    "empirical_normalization": True,
    "encoder": {"output_size": 32, "kwargs": {"hidden_sizes": [64]}},
}
APPO_OPTIONS: dict[str, Any] = {"discriminator_learning_rate": 1e-4, "amp_replay_size": 50_000}
DISCRIMINATOR: dict[str, Any] = {
    "hidden_dims": [256, 128],
    "task_reward_lerp": 0.4,
    "style_reward_coef": 2.0,
    "discriminator_grad_pen": 30.0,
}


@dataclass(frozen=True)
class Skill:
    """
    What a policy is trained for.

    :param name: of the skill
    :param style: whether a motion prior demands the style of the clips (APPO) or not (PPO)
    :param commands: range of the commanded speed, m/s
    :param action_scale: for hip, knee and ankle, rad
    :param clips: clips in whose states episodes begin, with their weights
    :param rsi_prob: share of the episodes that do; the others begin standing
    :param sigma: squared velocity error at which tracking pays 1/e, (m/s)^2
    :param steps: environment steps
    :param init_noise_std: initial standard deviation of the actions
    :param desired_kl: of the adaptive learning rate
    :param push_velocity: largest push in training, m/s; on the course it is 0.3
    :param max_episode_length: steps; short, for it is the beginning that decides on a course
    """

    name: str
    style: bool
    commands: tuple[float, float]
    action_scale: tuple[float, float, float]
    clips: tuple[tuple[str, float], ...]
    rsi_prob: float
    sigma: float
    steps: int
    init_noise_std: float = 0.5
    desired_kl: float = 0.02
    push_velocity: float = 0.6
    max_episode_length: int = 250

    def shortened(self, steps: int | None) -> Skill:
        """Return the skill with another number of steps, ``None`` for its own."""
        return self if steps is None else replace(self, steps=steps)


# Whoever takes over from somebody must be able to begin where that one is: the walk brakes from the
# run, and the stand from the walk.
SKILLS = (
    Skill(
        "stand",
        style=False,
        commands=(0.0, 0.0),
        action_scale=(0.7, 0.9, 0.5),
        clips=(("walk", 1.0),),
        rsi_prob=0.6,
        sigma=0.25,
        steps=1_500_000,
        # Standing takes less noise, and is unlearnt again at larger steps.
        init_noise_std=0.3,
        desired_kl=0.01,
    ),
    Skill(
        "walk",
        style=True,
        commands=(0.8, 1.2),
        action_scale=(0.7, 0.9, 0.5),
        clips=(("walk", 0.6), ("run", 0.4)),
        rsi_prob=0.6,
        sigma=0.25,
        steps=1_000_000,
    ),
    Skill(
        "fast",
        style=True,
        commands=(1.9, 2.7),
        action_scale=(1.0, 1.2, 0.7),
        clips=(("run", 0.75), ("walk", 0.25)),
        rsi_prob=0.6,
        sigma=0.4,
        steps=1_000_000,
    ),
)


def load_clip(name: str) -> Motion:
    """Return a reference clip, the run at a slower tempo."""
    clip = Motion.load(MOTIONS / f"{name}.npz")
    return clip if name == "walk" else replace(clip, name="slow run", fps=clip.fps * RUN_TEMPO)


def make_env(skill: Skill, n_envs: int, seed: int) -> WalkerVecEnv:
    """
    Make the environment in which a skill is trained.

    :param skill: which
    :param n_envs: number of robots
    :param seed: of every random number
    """
    clips = [load_clip(name) for name, _ in skill.clips]
    return WalkerVecEnv(
        n_envs,
        seed=seed,
        motion=MotionLibrary(clips, weights=[weight for _, weight in skill.clips]),
        command_range=skill.commands,
        action_scale=skill.action_scale,
        rewards=WalkerRewards(velocity_sigma=skill.sigma),
        rsi_prob=skill.rsi_prob,
        domain_randomization=DomainRandomization(push_velocity=skill.push_velocity),
        max_episode_length=skill.max_episode_length,
        **ROBOT,
    )


def train(skill: Skill, seed: int, n_envs: int, path: Path) -> Path:
    """
    Train one skill and write its policy.

    :param skill: which
    :param seed: of every random number
    :param n_envs: robots that train at the same time
    :param path: of the policy's file
    :return: the same
    """
    th.set_num_threads(1)
    env = make_env(skill, n_envs, seed)
    options = {**COMMON, "seed": seed, "desired_kl": skill.desired_kl}
    policy = {**POLICY, "init_noise_std": skill.init_noise_std}
    if skill.style:
        policy["amp_discriminator"] = DISCRIMINATOR
        model: PPO = APPO("EncoderAmpPolicy", env, **APPO_OPTIONS, policy_kwargs=policy, **options)
    else:
        model = PPO("EncoderPolicy", env, policy_kwargs=policy, **options)
    model.learn(skill.steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_policy(model.policy, path)
    env.close()
    return path
