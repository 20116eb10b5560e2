"""
The zoo's configurations that a CPU can train, to their full length, beside Stable-Baselines3's PPO.

``python benchmarks/zoo.py --tasks classic --seeds 0 1 2 --jobs 2 --markdown benchmarks/README.md``

Everything runs through rl_zoo3: our algorithms with ``zoo_configs``, ``ppo`` and ``ppo_lstm`` with
rl_zoo3's own published hyperparameters (those of an older version of a MuJoCo task where there are
no newer ones). The walker has no published ones: there ``ppo`` takes our numbers but a fixed
learning rate, and reads the same observations. A student's teacher is the run of the same seed.
Returns are those of the final policy, deterministic, without reward normalisation.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from benchmarks.learning import (
    Place,
    Row,
    Run,
    add_arguments,
    markdown_table,
    run_or_report,
    write_section,
)
from sb3_strl import make_vec

CONFIGS = Path(__file__).resolve().parents[1] / "zoo_configs"
WALKER = "sb3_strl/Walker-v0"
GROUPS: dict[str, list[str]] = {
    "classic": [
        *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0"),
        "MountainCarContinuous-v0",
    ],
    "masked": [
        *("CartPoleNoVel-v1", "PendulumNoVel-v1", "MountainCarNoVel-v0"),
        "MountainCarContinuousNoVel-v0",
    ],
    "hidden": [
        *("sb3_strl/CartPoleHidden-v1", "sb3_strl/PendulumHidden-v1"),
        *("sb3_strl/AcrobotHidden-v1", "sb3_strl/MountainCarContinuousHidden-v0"),
    ],
    "walker": [WALKER],
    "mujoco": [
        *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Reacher-v5", "Swimmer-v5", "Ant-v5"),
        *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Pusher-v5"),
    ],
    # Hours.
    "humanoid": ["Humanoid-v5", "HumanoidStandup-v5"],
}
PEERS = ("ppo", "ppo_lstm")
CUT_TO = 1e6
"""Steps of peers in the group ``humanoid``: rl_zoo3's ten million take three and nine hours."""
SMOKE_STEPS, SMOKE_EPISODES = 600, 2
SB3_ON_WALKER: dict[str, Any] = {
    "n_steps": 24,
    "batch_size": 24 * 64 // 4,
    "n_epochs": 5,
    "learning_rate": 3e-4,
    "gamma": 0.97,
    "policy_kwargs": {
        "net_arch": [256, 128],
        "activation_fn": th.nn.ELU,
        "log_std_init": float(np.log(0.5)),
    },
}


class Job(NamedTuple):
    """An algorithm, by the zoo's name, and a task."""

    algo: str
    task: str

    @property
    def arm(self) -> str:
        """A name that may be a file's."""
        return f"{self.algo}:{self.task.replace('/', '-')}"


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """Return our configurations by algorithm and task."""
    return {file.stem: yaml.safe_load(file.read_text()) for file in sorted(CONFIGS.glob("*.yml"))}


def published(algo: str, task: str) -> dict[str, Any] | None:
    """
    Return rl_zoo3's own hyperparameters, ``None`` if it publishes none.

    Those of the group ``humanoid`` train for ``CUT_TO`` steps.

    :param algo: ``"ppo"`` or ``"ppo_lstm"``
    :param task: for which those of an older version will do
    """
    table = _published_table(algo)
    name, _, version = task.rpartition("-v")
    for older in range(int(version), -1, -1):
        if f"{name}-v{older}" in table:
            found: dict[str, Any] = table[f"{name}-v{older}"]
            if task in GROUPS["humanoid"]:
                found = {**found, "n_timesteps": CUT_TO}
            return found
    return None


@functools.cache
def _published_table(algo: str) -> dict[str, Any]:
    import rl_zoo3

    file = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
    table: dict[str, Any] = yaml.safe_load(file.read_text())
    return table


def find_jobs(tasks: Sequence[str], algos: Sequence[str] | None) -> list[Job]:
    """
    Return what can be trained, teachers before students.

    :param tasks: ids, or names of ``GROUPS``
    :param algos: default all
    :raises SystemExit: if there is no such task
    """
    ours = tables()
    known = [task for group in GROUPS.values() for task in group]
    wanted = [task for name in tasks for task in GROUPS.get(name, [name])]
    unknown = [task for task in wanted if task not in known]
    if unknown:
        raise SystemExit(f"--tasks: {unknown}. Expected {list(GROUPS)} or some of {known}.")
    jobs = [Job(algo, task) for task in wanted for algo in ours if task in ours[algo]]
    for task in wanted:
        peer = "ppo_lstm" if task in GROUPS["masked"] else "ppo"  # memory beside memory
        jobs += [Job(peer, task)] if published(peer, task) is not None else []
        jobs += [Job("ppo", task)] if task == WALKER else []
    chosen = [job for job in jobs if algos is None or job.algo in algos]
    needed = [Job(teacher_of(job), job.task) for job in chosen if teacher_of(job)]
    return list(dict.fromkeys([*needed, *chosen]))


def teacher_of(job: Job) -> str:
    """Return the algorithm that trains a job's teacher, ``""`` if it has none."""
    path = tables().get(job.algo, {}).get(job.task, {}).get("teacher")
    return Path(path).parts[1] if path else ""


class PolicyGroup(VecEnvWrapper):
    """The group ``policy`` alone, which SB3's ``MlpPolicy`` reads."""

    def __init__(self, venv: VecEnv) -> None:
        assert isinstance(venv.observation_space, spaces.Dict)
        super().__init__(venv, observation_space=venv.observation_space["policy"])

    def reset(self) -> Any:
        """Reset."""
        return np.asarray(self._pick(self.venv.reset()))

    def step_wait(self) -> Any:
        """Step; last observations of cut episodes are picked, too."""
        obs, rewards, dones, infos = self.venv.step_wait()
        infos = [dict(info) for info in infos]
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._pick(info["terminal_observation"])
        return np.asarray(self._pick(obs)), rewards, dones, infos

    @staticmethod
    def _pick(obs: Any) -> Any:
        return obs["policy"]


def zoo_folder(place: Place, job: Job, seed: int) -> Path:
    """Return where rl_zoo3 leaves a run."""
    return place.folder / "zoo" / f"{job.arm}-seed{seed}"


def model_of(place: Place, job: Job, seed: int) -> Path:
    """Return the file of a trained model."""
    name = job.task.replace("/", "-")
    return zoo_folder(place, job, seed) / job.algo / f"{name}_1" / f"{name}.zip"


def train_with_zoo(job: Job, seed: int, place: Place, smoke: bool) -> None:
    """Train by ``strl zoo train``."""
    from sb3_strl.cli import zoo

    folder = zoo_folder(place, job, seed)
    shutil.rmtree(folder, ignore_errors=True)
    given = ["--algo", job.algo, "--env", job.task, "-f", str(folder), "--seed", str(seed)]
    given += ["--eval-freq", "-1", "--verbose", "0", "--num-threads", "1", "--device", "cpu"]
    given += ["-n", str(SMOKE_STEPS)] if smoke else []
    if job.algo in PEERS:
        folder.mkdir(parents=True)
        file = folder / "published.yml"
        file.write_text(yaml.safe_dump({job.task: published(job.algo, job.task)}))
        given += ["--conf-file", str(file)]
    if teacher := teacher_of(job):
        path = model_of(place, Job(teacher, job.task), seed)
        given += ["-params", f"teacher:'{path}'"]
    code = zoo.run_with(["train", *given])
    if code:
        raise RuntimeError(f"strl zoo train {given} ended with {code}.")


def evaluate_from_zoo(job: Job, seed: int, place: Place, episodes: int) -> list[float]:
    """Return the returns of the model that the zoo saved."""
    import rl_zoo3
    import rl_zoo3.utils

    file = model_of(place, job, seed)
    folder = file.parent / file.stem
    hyperparams, stats = rl_zoo3.utils.get_saved_hyperparams(str(folder))
    env = rl_zoo3.utils.create_test_env(
        job.task,
        n_envs=1,
        stats_path=stats,
        seed=1000 + seed,
        should_render=False,
        hyperparams=hyperparams,
    )
    model: Any = rl_zoo3.ALGOS[job.algo].load(file, device="cpu")
    return returns_of(model, env, episodes)


def returns_of(model: Any, env: VecEnv, episodes: int) -> list[float]:
    """Return the returns of whole episodes; closes the environment."""
    found, _ = evaluate_policy(
        model, env, episodes, deterministic=True, return_episode_rewards=True, warn=False
    )
    env.close()
    assert isinstance(found, list)
    return [float(value) for value in found]


def train_sb3_on_walker(seed: int, steps: int, episodes: int) -> tuple[list[float], float]:
    """Return returns and seconds of SB3's PPO."""
    env = VecMonitor(PolicyGroup(make_vec(WALKER, 64, seed=seed)))
    model = SB3PPO("MlpPolicy", env, seed=seed, device="cpu", **SB3_ON_WALKER)
    start = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - start
    env.close()
    other = VecMonitor(PolicyGroup(make_vec(WALKER, 1, seed=1000 + seed)))
    return returns_of(model, other, episodes), seconds


def train(run: Run, place: Place, smoke: bool, jobs: Sequence[Job], episodes: int) -> Row:
    """Train and evaluate one job."""
    th.set_num_threads(1)
    job = next(job for job in jobs if job.arm == run.arm)
    episodes = SMOKE_EPISODES if smoke else episodes
    if job == Job("ppo", WALKER):
        settings = tables()["strl_ppo"][WALKER]
        steps = SMOKE_STEPS if smoke else int(settings["n_timesteps"])
        returns, seconds = train_sb3_on_walker(run.seed, steps, episodes)
    else:
        ours = tables().get(job.algo, {}).get(job.task)
        settings = ours or published(job.algo, job.task) or {}
        steps = SMOKE_STEPS if smoke else int(float(settings["n_timesteps"]))
        start = time.perf_counter()
        train_with_zoo(job, run.seed, place, smoke)
        seconds = time.perf_counter() - start
        returns = evaluate_from_zoo(job, run.seed, place, episodes)
    return {
        "algo": job.algo,
        "task": job.task,
        "steps": steps,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "episodes": len(returns),
        "train_s": seconds,
    }


def report(rows: Sequence[Row]) -> str:
    """Return a markdown table: one line for each algorithm and task, seeds together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["algo"]), []).append(row)
    lines = []
    for (task, algo), mine in sorted(groups.items(), key=lambda item: _order(*item[0])):
        means = [row["mean"] for row in mine]
        within = float(np.mean([row["std"] for row in mine]))
        lines.append(
            [
                task,
                f"{algo} (SB3)" if algo in PEERS else algo,
                f"{mine[0]['steps']:,}",
                f"{np.mean(means):.1f}",
                f"{np.std(means):.1f}" if len(means) > 1 else "",
                f"{within:.1f}",
                f"{len(mine)}",
                f"{np.mean([row['train_s'] for row in mine]) / 60.0:.1f}",
            ]
        )
    header = ["task", "algorithm", "steps", "mean return", "std of seeds", "std of episodes"]
    return markdown_table([*header, "seeds", "min per run"], lines)


def _order(task: str, algo: str) -> tuple[int, int, str]:
    known = [name for group in GROUPS.values() for name in group]
    return known.index(task), int(algo in PEERS), algo


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what has no row yet, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, "runs/zoo")
    parser.set_defaults(seeds=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=["classic", "walker"], metavar="TASK")
    parser.add_argument("--algos", nargs="+", help="default all that have a configuration")
    parser.add_argument("--episodes", type=int, default=50, help="of the evaluation")
    options = parser.parse_args(arguments)
    jobs = find_jobs(options.tasks, options.algos)
    runs = [[Run(job.arm, seed) for job in some for seed in options.seeds] for some in staged(jobs)]
    extra = ["--episodes", str(options.episodes), "--tasks", *options.tasks]
    extra += ["--algos", *options.algos] if options.algos else []
    rows = run_or_report(
        options,
        __file__,
        runs,
        lambda run, place, smoke: train(run, place, smoke, jobs, options.episodes),
        extra,
    )
    if rows is None:
        return
    text = report(rows)
    sys.stdout.write(text + "\n")
    if options.markdown:
        write_section(options.markdown, "zoo", text)


def staged(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Return the jobs that need no other, and those that need a teacher."""
    return [job for job in jobs if not teacher_of(job)], [job for job in jobs if teacher_of(job)]


if __name__ == "__main__":
    main()
