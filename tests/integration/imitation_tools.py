"""Experts that need no training, and the little that imitation's trainers want around them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

Controller = Callable[[np.ndarray], np.ndarray]


def balance(obs: np.ndarray) -> np.ndarray:
    """Keep CartPole's pole up for 500 steps."""
    lean = obs @ np.array([0.1, 0.2, 3.0, 1.0])
    return (lean > 0).astype(np.int64)


def swing_up(obs: np.ndarray) -> np.ndarray:
    """Swing Pendulum up by its energy and hold it there."""
    cos, sin, speed = obs.T
    angle = np.arctan2(sin, cos)
    energy = speed**2 / 6 + 5 * (cos - 1)
    pump = -2.0 * np.sign(energy * speed + 1e-3)
    hold = -(10 * angle + 2.5 * speed)
    return np.clip(np.where(cos > 0.85, hold, pump), -2, 2)[:, None].astype(np.float32)


EXPERTS: dict[str, Controller] = {"CartPole-v1": balance, "Pendulum-v1": swing_up}


def as_policy(controller: Controller) -> Callable[..., tuple[np.ndarray, None]]:
    """Return what imitation calls a policy."""

    def act(obs: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return controller(obs), None

    return act


def make_venv(
    env_id: str,
    n_envs: int = 4,
    wrappers: Sequence[Callable[[gym.Env], gym.Env]] = (),
    seed: int = 0,
) -> VecEnv:
    """Return environments as imitation wants them: raw observations and rewards in the infos."""
    from imitation.data.wrappers import RolloutInfoWrapper

    def make() -> gym.Env:
        env = gym.make(env_id)
        for wrapper in wrappers:
            env = wrapper(env)
        return RolloutInfoWrapper(env)

    venv = DummyVecEnv([make] * n_envs)
    venv.seed(seed)
    return venv


def demonstrate(env_id: str, n_episodes: int = 4, **kwargs: Any) -> list[Any]:
    """Return imitation's trajectories of the expert."""
    from imitation.data import rollout

    return list(
        rollout.rollout(
            as_policy(EXPERTS[env_id]),
            make_venv(env_id, **kwargs),
            rollout.make_sample_until(min_episodes=n_episodes),
            rng=np.random.default_rng(0),
        )
    )


def quiet() -> Any:
    """Return imitation's logger that writes nothing."""
    from imitation.util import logger

    return logger.configure(tempfile.mkdtemp(), [])


def mean_return(policy: Any, env_id: str, n_episodes: int = 8) -> float:
    """Return the mean return of whole episodes, with the mode of the actions."""
    from stable_baselines3.common.evaluation import evaluate_policy

    venv = make_venv(env_id, n_envs=8, seed=99)
    found, _ = evaluate_policy(policy, venv, n_episodes, deterministic=True, warn=False)
    return float(found)
