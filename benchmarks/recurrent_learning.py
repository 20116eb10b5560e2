"""
Learning with memory: classic tasks whose velocities are hidden.

``python benchmarks/recurrent_learning.py --json runs/recurrent_learning.json`` trains ``PPO`` with
``MlpLstmPolicy``; ``--contrib`` trains ``sb3_contrib.RecurrentPPO`` beside it. RL Zoo's published
figures come from generalised state-dependent exploration on the pendulum and the car, which we do
not have; the car holds every action for 8 steps instead, each of which counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sb3_strl import PPO

Array = npt.NDArray[np.float32]


def linear(start: float) -> Callable[[float], float]:
    """Return a schedule that falls from ``start`` to 0."""
    return lambda remaining: remaining * start


@dataclass(frozen=True)
class Task:
    """
    One task and its settings.

    :param env_id: of Gymnasium
    :param seen: columns of the observation that are not velocities
    :param steps: steps of the simulator
    :param zoo: RL Zoo's published return, mean and deviation over episodes
    :param n_envs: environments
    :param repeat: steps of the simulator for which an action is held
    :param scale_rewards: divide rewards by the running deviation of the return
    :param settings: of our algorithm
    :param policy_kwargs: of our policy
    :param contrib: settings of the peer
    """

    env_id: str
    seen: tuple[int, ...]
    steps: int
    zoo: tuple[float, float]
    n_envs: int
    settings: dict[str, Any]
    policy_kwargs: dict[str, Any]
    contrib: dict[str, Any]
    repeat: int = 1
    scale_rewards: bool = False
    contrib_envs: int = field(default=8)


SMALL = {
    "activation": "relu",
    "net_arch": [64],
    "rnn": {"hidden_size": 64},
    "empirical_normalization": True,
    "optimizer_kwargs": {"eps": 1e-5},
}
COMMON = {
    "normalize_advantage": "minibatch",
    "use_clipped_value_loss": False,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "n_epochs": 10,
}
TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        (0, 2),
        100_000,
        (500.0, 0.0),
        8,
        {
            **COMMON,
            "n_steps": 128,
            "n_epochs": 20,
            "batch_size": 256,
            "sequence_length": 64,
            "gamma": 0.99,
            "gae_lambda": 0.9,
            "learning_rate": linear(1.5e-3),
        },
        SMALL,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "learning_rate": linear(1e-3),
            "clip_range": linear(0.2),
        },
    ),
    "pendulum": Task(
        "Pendulum-v1",
        (0, 1),
        100_000,
        (-217.9, 140.1),
        4,
        {
            **COMMON,
            "n_steps": 512,
            "batch_size": 128,
            "sequence_length": 32,
            "gamma": 0.9,
            "gae_lambda": 0.9,
            "learning_rate": linear(2e-3),
        },
        {**SMALL, "ortho_init": True},
        {"n_steps": 1024, "gamma": 0.9, "n_epochs": 10, "learning_rate": 1e-3},
        scale_rewards=True,
        contrib_envs=4,
    ),
    "mountain-car": Task(
        "MountainCarContinuous-v0",
        (0,),
        300_000,
        (91.5, 1.8),
        8,
        {
            **COMMON,
            "n_steps": 128,
            "batch_size": 256,
            "sequence_length": 32,
            "gamma": 0.99,
            "learning_rate": linear(1e-3),
        },
        {
            "activation": "tanh",
            "net_arch": [64],
            "rnn": {"hidden_size": 32},
            "empirical_normalization": True,
            "init_noise_std": 2.0,
            "ortho_init": True,
        },
        {
            "n_steps": 128,
            "batch_size": 256,
            "gamma": 0.99,
            "n_epochs": 10,
            "learning_rate": linear(1e-3),
        },
        repeat=8,
        scale_rewards=True,
    ),
}


class HideVelocities(gym.ObservationWrapper[Array, Any, Array]):
    """Leave only the given columns of the observation."""

    def __init__(self, env: gym.Env[Array, Any], seen: Sequence[int]) -> None:
        super().__init__(env)
        self.seen = list(seen)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[self.seen], space.high[self.seen])

    def observation(self, observation: Array) -> Array:
        """Return the columns."""
        return observation[self.seen]


class HoldActions(gym.Wrapper[Array, Any, Array, Any]):
    """Take every action for several steps of the simulator; rewards add up."""

    def __init__(self, env: gym.Env[Array, Any], repeat: int) -> None:
        super().__init__(env)
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Step until the action was held or the episode is over."""
        total = 0.0
        for _ in range(self.repeat):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def make_env(task: Task, n_envs: int, seed: int, scale_rewards: bool, gamma: float) -> VecEnv:
    """Return a vector of monitored environments without velocities."""

    def one() -> gym.Env[Any, Any]:
        hidden = HideVelocities(gym.make(task.env_id), task.seen)
        return Monitor(HoldActions(hidden, task.repeat))

    env = DummyVecEnv([one for _ in range(n_envs)])
    env.seed(seed)
    if scale_rewards:
        return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=gamma)
    return env


def make_ours(task: Task, seed: int) -> BaseAlgorithm:
    """Return our PPO with memory."""
    env = make_env(task, task.n_envs, seed, task.scale_rewards, task.settings["gamma"])
    return PPO("MlpLstmPolicy", env, seed=seed, policy_kwargs=task.policy_kwargs, **task.settings)


def make_contrib(task: Task, seed: int) -> BaseAlgorithm:
    """Return sb3_contrib's PPO with memory."""
    from sb3_contrib import RecurrentPPO

    env = make_env(task, task.contrib_envs, seed, task.scale_rewards, task.contrib["gamma"])
    return RecurrentPPO("MlpLstmPolicy", env, seed=seed, **task.contrib)


def train(name: str, who: str, seed: int, episodes: int) -> dict[str, Any]:
    """Train once; return what was reached and how long it took."""
    task = TASKS[name]
    model = (make_ours if who == "sb3_strl" else make_contrib)(task, seed)
    start = time.perf_counter()
    model.learn(task.steps // task.repeat)
    seconds = time.perf_counter() - start
    env = make_env(task, 5, 1000 + seed, False, 1.0)
    returns, _ = evaluate_policy(
        model, env, episodes, deterministic=True, return_episode_rewards=True
    )
    assert isinstance(returns, list)
    return {
        "task": name,
        "peer": who,
        "seed": seed,
        "steps": task.steps,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "seconds": seconds,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a markdown table, seeds side by side."""
    lines = [
        "| task | steps | who | return by seed | mean | RL Zoo | s |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((row["task"], row["peer"]) for row in rows)
    for name, who in groups:
        mine = [row for row in rows if (row["task"], row["peer"]) == (name, who)]
        each = ", ".join(f"{row['mean']:.1f} ± {row['std']:.1f}" for row in mine)
        mean = float(np.mean([row["mean"] for row in mine]))
        zoo = TASKS[name].zoo
        seconds = float(np.mean([row["seconds"] for row in mine]))
        lines.append(
            f"| {name} | {TASKS[name].steps:,} | {who} | {each} | {mean:.1f} | "
            f"{zoo[0]:.1f} ± {zoo[1]:.1f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=50, help="of the evaluation")
    parser.add_argument("--contrib", action="store_true", help="train sb3_contrib's too")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args(arguments)
    th.set_num_threads(options.threads)
    rows = []
    for name in options.tasks:
        for seed in options.seeds:
            for who in ("sb3_strl", "sb3_contrib") if options.contrib else ("sb3_strl",):
                rows.append(train(name, who, seed, options.episodes))
                sys.stderr.write(f"{rows[-1]}\n")
                if options.json:
                    options.json.parent.mkdir(parents=True, exist_ok=True)
                    options.json.write_text(json.dumps(rows, indent=1))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
