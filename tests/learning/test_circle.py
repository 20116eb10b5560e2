"""A motion prior bends the path of a point mass towards the expert's circle."""

import pytest
import torch as th

from sb3_strl import APPO, PPO
from tests.envs.toy import PointMass

pytestmark = pytest.mark.learning

N_ENVS, N_STEPS, N_ROLLOUTS = 64, 24, 120


@th.no_grad()
def distance_to_circle(model: PPO) -> float:
    """Return the mean of ``| |pos| - 1 |`` and the lack of speed along it, after settling in."""
    env = PointMass(N_ENVS, seed=11, max_episode_length=80)
    obs = env.reset_tensor()
    gaps = []
    for t in range(79):
        actions, _ = model.predict(obs, deterministic=True)
        obs = env.step_tensor(actions).obs
        if t >= 30:
            radius = env.pos.norm(dim=-1)
            turning = env.pos[:, 0] * env.vel[:, 1] - env.pos[:, 1] * env.vel[:, 0]
            gaps.append((radius - 1.0).abs() + (turning - env.speed).abs())
    return float(th.stack(gaps).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_style_brings_the_point_to_the_circle(seed: int) -> None:
    options = {"n_steps": N_STEPS, "seed": seed, "schedule": "adaptive"}
    disc = {"task_reward_lerp": 0.2, "hidden_dims": [64, 32]}
    gaps = {}
    few = {"discriminator_batch_size": N_ENVS * N_STEPS // 4 // 16}
    for key, cls, alias, extra, more in (
        ("ppo", PPO, "MlpPolicy", {}, {}),
        ("appo", APPO, "AmpPolicy", {"amp_discriminator": disc}, {}),
        ("few rows", APPO, "AmpPolicy", {"amp_discriminator": disc}, few),
    ):
        env = PointMass(N_ENVS, seed=seed, max_episode_length=80)
        kwargs = {"net_arch": [64, 64], **extra}
        model = cls(alias, env, policy_kwargs=kwargs, **options, **more)
        model.learn(N_ENVS * N_STEPS * N_ROLLOUTS)
        gaps[key] = distance_to_circle(model)
    assert max(gaps["appo"], gaps["few rows"]) < 0.7 * gaps["ppo"], gaps
