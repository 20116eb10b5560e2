"""A run that was saved at any moment and resumed in a new process ends like one that was not.

The whole of both final files is compared: parameters, optimizers, normalisers, replay, schedulers,
counters, the environment's state and every random generator.
"""

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl import APPO, PPO, make_vec
from sb3_strl.envs import TensorVecEnv
from tests.envs.toy import PointMass

pytestmark = pytest.mark.integration

N_ENVS, N_STEPS, N_ROLLOUTS = 4, 8, 4
ROLLOUT = N_ENVS * N_STEPS
ALGORITHMS = {"PPO": PPO, "APPO": APPO}
CASES = [
    ("PPO", "MlpPolicy"),
    ("PPO", "EncoderPolicy"),
    ("PPO", "AmpPolicy"),
    ("APPO", "AmpPolicy"),
    ("APPO", "EncoderAmpPolicy"),
]
SCHEDULES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "linear": {"learning_rate": lambda remaining: 1e-3 * remaining},
    "adaptive": {"schedule": "adaptive"},
    "scheduler": {
        "lr_scheduler_class": "StepLR",
        "lr_scheduler_kwargs": {"step_size": 1, "gamma": 0.5},
    },
}


def make_env(name: str, seed: int) -> TensorVecEnv:
    if name == "walker":
        return make_vec("sb3_strl/Walker-v0", n_envs=N_ENVS, seed=seed)
    return PointMass(N_ENVS, seed=seed, max_episode_length=11)


def make(algorithm: str, alias: str, schedule: str, env: TensorVecEnv) -> PPO:
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    options: dict[str, Any] = {"n_steps": N_STEPS, "n_epochs": 2, "seed": 3, **SCHEDULES[schedule]}
    if "Amp" in alias:
        kwargs["amp_discriminator"] = {"task_reward_lerp": 0.5, "hidden_dims": [8]}
    if algorithm == "APPO":
        options["amp_replay_size"] = 40
    options["rnd_kwargs"] = {"reward_normalization": True, "state_normalization": True}
    return ALGORITHMS[algorithm](alias, env, policy_kwargs=kwargs, **options)


class Saver(BaseCallback):
    """Saves in mid-rollout, at the end of a rollout, and between two updates."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.stem = str(folder / name)

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps == ROLLOUT:
            self.model.save(f"{self.stem}.1.between.zip")

    def _on_step(self) -> bool:
        if self.n_calls == 2 * N_STEPS + 5:
            self.model.save(f"{self.stem}.2.middle.zip")
        return True

    def _on_rollout_end(self) -> None:
        if self.model.num_timesteps == 3 * ROLLOUT:
            self.model.save(f"{self.stem}.2.end.zip")


RESUME = """
import json, sys
import torch as th
th.set_num_threads(1)
from tests.integration.test_resume import ALGORITHMS, ROLLOUT, N_ROLLOUTS, make_env
for source, target, algorithm, env in json.loads(sys.argv[1]):
    model = ALGORITHMS[algorithm].load(source, env=make_env(env, seed=99))
    done = int(source.split(".")[-3])
    model.learn(ROLLOUT * (N_ROLLOUTS - done), reset_num_timesteps=False)
    model.save(target)
"""


def content(path: Path) -> dict[str, Any]:
    parts = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pth"):
                with archive.open(name) as file:
                    parts[name] = th.load(file, weights_only=True)
        data = json.loads(archive.read("data"))
    parts["data"] = {key: data[key] for key in ("num_timesteps", "_n_updates", "n_iterations")}
    return parts


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the paths of all leaves that are not exactly equal."""
    if isinstance(a, th.Tensor):
        return [] if th.equal(a, b) else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: length"]
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{where}/{i}")
        ]
    return [] if a == b else [where]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("env", ["point", "walker"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_resumed_equals_uninterrupted(env: str, schedule: str, tmp_path: Path) -> None:
    jobs = []
    for algorithm, alias in CASES:
        name = f"{algorithm}{alias}"
        model = make(algorithm, alias, schedule, make_env(env, seed=0))
        model.learn(ROLLOUT * N_ROLLOUTS, callback=Saver(tmp_path, name))
        model.save(tmp_path / f"{name}.whole")
        for moment in ("1.between", "2.middle", "2.end"):
            source = tmp_path / f"{name}.{moment}.zip"
            jobs.append((str(source), f"{source}.done.zip", algorithm, env))
    command = [sys.executable, "-W", "ignore", "-c", RESUME, json.dumps(jobs)]
    subprocess.run(command, check=True, timeout=120)
    assert len(jobs) == 3 * len(CASES)
    for source, target, *_ in jobs:
        stem = Path(source).name.split(".")[0]
        whole = content(tmp_path / f"{stem}.whole")
        assert {"policy.optimizer.pth", "training_state.pth", "rnd.modules.pth"} <= set(whole)
        assert differences(whole, content(Path(target))) == [], source


def test_a_comparison_sees_one_changed_number() -> None:
    state = {"a": [th.ones(2), (1, 2.0)]}
    assert differences(state, {"a": [th.ones(2), (1, 2.0)]}) == []
    assert differences(state, {"a": [th.tensor([1.0, 2.0]), (1, 2.5)]}) == ["/a/0", "/a/1/1"]


def test_parameters_by_part(tmp_path: Path) -> None:
    source, target = (make("PPO", "MlpPolicy", "fixed", make_env("point", 0)) for _ in range(2))
    source.learn(ROLLOUT)
    policy = source.get_parameters()["policy"]
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        target.set_parameters({"policy": policy})
    target.set_parameters({"policy": policy}, exact_match=False)
    assert differences(dict(policy), dict(target.policy.state_dict())) == []
    first = dict(list(policy.items())[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.set_parameters({"policy": first}, exact_match=False)
    with pytest.raises(ValueError, match="nonsense"):
        target.set_parameters({"nonsense": policy}, exact_match=False)
