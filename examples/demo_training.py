"""One training run of the demonstration: PPO or APPO, with a learning curve."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import sb3_strl
from examples.demo_evaluation import N_STEPS, ROBOT, gait_error, survival, task_return, walk
from sb3_strl import APPO, PPO

Algorithm = Literal["PPO", "APPO"]
Curve = list[dict[str, float]]

# Both algorithms share everything but the motion prior; the rest is the library's default.
COMMON: dict[str, Any] = {
    "n_steps": 32,
    "n_epochs": 5,
    "n_minibatches": 4,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "desired_kl": 0.02,
    "gamma": 0.97,
    "ent_coef": 0.0,
}
POLICY: dict[str, Any] = {
    "net_arch": [256, 128],
    "empirical_normalization": True,
    "init_noise_std": 0.5,
    "encoder": {"output_size": 32, "kwargs": {"hidden_sizes": [64]}},
}
TRAINING_ENV: dict[str, Any] = {"domain_randomization": True, "rsi_prob": 0.8}
APPO_OPTIONS: dict[str, Any] = {"discriminator_learning_rate": 1e-4, "amp_replay_size": 50_000}
DISCRIMINATOR: dict[str, Any] = {
    "hidden_dims": [256, 128],
    "task_reward_lerp": 0.3,
    "style_reward_coef": 2.0,
    # A discriminator that is certain pays nobody: this keeps it smooth far from the reference.
    "discriminator_grad_pen": 30.0,
}


@dataclass(frozen=True)
class Job:
    """
    One run.

    :param algorithm: which
    :param seed: of every random number
    :param steps: environment steps
    :param n_envs: robots
    :param n_threads: threads of the physics
    :param folder: where everything goes
    :param n_points: points of the learning curve
    """

    algorithm: Algorithm
    seed: int
    steps: int
    n_envs: int
    n_threads: int
    folder: Path
    n_points: int = 12

    @property
    def name(self) -> str:
        """Name of the run in files and logs."""
        return f"{self.algorithm}-seed{self.seed}"

    @property
    def model_path(self) -> Path:
        """Where the trained model lies."""
        return self.folder / "seeds" / f"{self.name}.zip"

    @property
    def curve_path(self) -> Path:
        """Where the learning curve lies."""
        return self.folder / "seeds" / f"{self.name}.json"


class LearningCurve(BaseCallback):
    """
    Evaluate the policy now and then, between two rollouts.

    :param every: environment steps between two points
    :param n_robots: robots per evaluation
    :param n_steps: steps per evaluation
    """

    def __init__(self, every: int, n_robots: int = 8, n_steps: int = N_STEPS) -> None:
        super().__init__()
        self.every = every
        self.n_robots, self.n_steps = n_robots, n_steps
        self.curve: Curve = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.every * len(self.curve):
            self.measure()

    def _on_training_end(self) -> None:
        self.measure()
        self.logger.dump(self.num_timesteps)  # nobody else writes the last point

    def measure(self) -> None:
        """Add a point."""
        gait = walk(self.model.policy, self.n_robots, self.n_steps)  # type: ignore[arg-type]
        point = {
            "steps": float(self.num_timesteps),
            "task_return": task_return(gait),
            "pose_error_deg": gait_error(gait),
            "survival": survival(gait),
        }
        self.curve.append(point)
        for key, value in point.items():
            if key != "steps":
                self.logger.record(f"eval/{key}", value)


def make_model(job: Job) -> PPO:
    """Build the algorithm on its environment; PPO is APPO without the motion prior."""
    env = sb3_strl.make_vec(
        "sb3_strl/Walker-v0",
        n_envs=job.n_envs,
        seed=job.seed,
        n_threads=job.n_threads,
        **ROBOT,
        **TRAINING_ENV,
    )
    options = {**COMMON, "seed": job.seed, "device": "cpu"}
    options["tensorboard_log"] = str(job.folder / "tensorboard")
    if job.algorithm == "PPO":
        return PPO("EncoderPolicy", env, policy_kwargs=POLICY, **options)
    policy = {**POLICY, "amp_discriminator": DISCRIMINATOR}
    return APPO(
        "EncoderAmpPolicy",
        env,
        **APPO_OPTIONS,
        policy_kwargs=policy,
        **options,
    )


def train(job: Job, progress_bar: bool = False) -> None:
    """
    Train, and write the model and its learning curve.

    :param job: what
    :param progress_bar: show SB3's
    """
    th.set_num_threads(1)  # another run has the other core, and the networks are small
    begin = time.monotonic()
    model = make_model(job)
    curve = LearningCurve(max(1, job.steps // job.n_points))
    model.learn(job.steps, callback=curve, tb_log_name=job.name, progress_bar=progress_bar)
    job.model_path.parent.mkdir(parents=True, exist_ok=True)
    model.save(job.model_path)
    seconds = time.monotonic() - begin
    job.curve_path.write_text(json.dumps({"seconds": seconds, "curve": curve.curve}, indent=1))
