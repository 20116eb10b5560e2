"""Every configuration for the zoo trains; the zoo's own scripts work with our algorithms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rl_zoo3")

from sb3_strl.cli import zoo
from sb3_strl.cli.config import known_algorithms
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.export import export_policy

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "zoo_configs"
CASES = [
    (file.stem, env_id)
    for file in sorted(FOLDER.glob("*.yml"))
    for env_id in yaml.safe_load(file.read_text())
    if env_id != "default"
]


@pytest.fixture(autouse=True)
def _one_thread_and_clean_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """rl_zoo3's tables are put back."""
    import rl_zoo3
    import rl_zoo3.hyperparams_opt as search
    import rl_zoo3.train
    import rl_zoo3.utils

    for table in (rl_zoo3.ALGOS, search.HYPERPARAMS_SAMPLER, search.HYPERPARAMS_CONVERTER):
        for key in [*known_algorithms(), "strl_ppo"]:
            if key != "ppo":
                monkeypatch.delitem(table, key, raising=False)
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", rl_zoo3.train.ExperimentManager)
    monkeypatch.setattr(rl_zoo3.utils, "create_test_env", rl_zoo3.utils.create_test_env)


def train(algo: str, env_id: str, folder: Path, *more: str) -> Path:
    arguments = ["--algo", algo, "--env", env_id, "-f", str(folder), "--seed", "1", "--verbose"]
    assert zoo.run_with(["train", *arguments, "0", "--num-threads", "1", *more]) == 0
    return folder / algo / f"{env_id.replace('/', '-')}_1"


@pytest.mark.parametrize(("algo", "env_id"), CASES)
def test_every_configuration_trains(algo: str, env_id: str, tmp_path: Path) -> None:
    run = train(algo, env_id, tmp_path, "-n", "2000", "--eval-freq", "-1", "-params", "n_epochs:1")
    name = env_id.replace("/", "-")
    model = run / f"{name}.zip"
    assert model.is_file()
    saved = yaml.unsafe_load((run / name / "config.yml").read_text())
    declared = yaml.safe_load((FOLDER / f"{algo}.yml").read_text())[env_id]
    assert dict(saved)["policy"] == declared["policy"]
    loaded = known_algorithms()[algo.removeprefix("strl_")].load(model)
    assert loaded.num_timesteps >= 2000
    assert all(bool(np.isfinite(p.detach().numpy()).all()) for p in loaded.policy.parameters())


def test_the_zoos_ppo_stays_stable_baselines3s() -> None:
    import rl_zoo3
    import stable_baselines3

    from sb3_strl import APPO, PPO
    from sb3_strl.cli.zoo_manager import register

    register()
    assert rl_zoo3.ALGOS["ppo"] is stable_baselines3.PPO
    assert rl_zoo3.ALGOS["strl_ppo"] is PPO
    assert rl_zoo3.ALGOS["appo"] is APPO


def test_batched_environments_are_made_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sb3_strl.cli import zoo_manager
    from sb3_strl.envs.walker import WalkerVecEnv

    made: list[Any] = []
    original = zoo_manager.make_vec

    def spy(*arguments: Any, **options: Any) -> Any:
        made.append(original(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(zoo_manager, "make_vec", spy)
    run = train(
        "appo",
        "sb3_strl/Walker-v0",
        tmp_path,
        *("-n", "3072", "--eval-freq", "1536", "--eval-episodes", "1"),
        *("--env-kwargs", "max_episode_length:30"),
    )
    assert sorted(env.num_envs for env in made) == [1, 64]
    assert all(isinstance(env, WalkerVecEnv) and env.max_episode_length == 30 for env in made)
    assert (run / "best_model.zip").is_file()
    assert len(np.load(run / "evaluations.npz", allow_pickle=False)["timesteps"]) == 2


def test_enjoy_runs_what_train_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algo, env_id in (("strl_ppo", "CartPoleNoVel-v1"), ("appo", "sb3_strl/Walker-v0")):
        train(algo, env_id, tmp_path, "-n", "600", "--eval-freq", "-1")
        capsys.readouterr()
        given = ["--algo", algo, "--env", env_id, "-f", str(tmp_path), "-n", "400", "--no-render"]
        assert zoo.run_with(["enjoy", *given, "--num-threads", "1"]) == 0
        assert "Mean reward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("algo", "env_id"), [("strl_ppo", "Pendulum-v1"), ("appo", "sb3_strl/Walker-v0")]
)
def test_optuna_searches(algo: str, env_id: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    given = ["--algo", algo, "--env", env_id, "-f", str(tmp_path), "-n", "600", "-optimize"]
    more = ["--n-trials", "2", "--n-startup-trials", "2", "--n-evaluations", "1", "--seed", "3"]
    more += ["--eval-episodes", "1", "--num-threads", "1", "--no-optim-plots"]
    more += ["-params", "n_envs:2", "--optimization-log-path", str(tmp_path / "log")]
    assert zoo.run_with(["train", *given, *more]) == 0
    (report,) = (tmp_path / algo).glob("report_*.csv")
    table = report.read_text()
    assert table.count("COMPLETE") + table.count("PRUNED") == 2
    assert "COMPLETE" in table
    assert ("discriminator_learning_rate" in table) == (algo == "appo")


def test_a_stored_trial_trains_with_the_declared_parts(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    storage = ["--storage", f"sqlite:///{tmp_path / 'study.db'}", "--study-name", "s"]
    given = ["--algo", "strl_ppo", "--env", "CartPoleNoVel-v1", "-f", str(tmp_path), "-n", "300"]
    more = ["--n-trials", "2", "--n-startup-trials", "2", "--n-evaluations", "1", "--seed", "3"]
    more += ["--eval-episodes", "1", "--num-threads", "1", "--no-optim-plots", "-optimize"]
    assert zoo.run_with(["train", *given, *storage, *more]) == 0
    assert zoo.run_with(["train", *given, *storage, "--trial-id", "1", "--eval-freq", "-1"]) == 0
    (model,) = (tmp_path / "strl_ppo").glob("*/CartPoleNoVel-v1.zip")
    policy = known_algorithms()["ppo"].load(model).policy
    assert policy.is_recurrent
    assert policy.actor_memory is not None
    assert policy.actor_memory.output_size == 64


def test_drawn_options_leave_the_parts_of_the_policy() -> None:
    from torch import nn

    from sb3_strl.cli.zoo_manager import Hyperparameters

    declared = {"activation": "elu", "net_arch": [4], "rnn": {"hidden_size": 3}}
    given = Hyperparameters({"policy_kwargs": declared, "n_steps": 8})
    drawn = {"policy_kwargs": {"net_arch": [2], "activation_fn": nn.Tanh}, "n_steps": 16}
    mixed = given.copy()
    mixed.update(drawn)
    assert mixed["n_steps"] == 16
    assert mixed["policy_kwargs"] == {
        "net_arch": [2],
        "activation_fn": nn.Tanh,
        "rnn": {"hidden_size": 3},
    }
    assert given == {"policy_kwargs": declared, "n_steps": 8}


def test_a_model_of_the_zoo_is_exported_from_its_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = train("strl_ppo", "PendulumNoVel-v1", tmp_path, "-n", "600", "--eval-freq", "-1")
    report = export_policy(run / "PendulumNoVel-v1.zip", tmp_path / "robot")
    assert max(parity.max_error for parity in report.parities) <= 1e-5


def test_help_lists_the_algorithms_in_a_fresh_process() -> None:
    command = [sys.executable, "-m", "sb3_strl.cli", "zoo", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("strl_ppo", "appo", "estimator_ppo", "ppo_lstm"))


def test_what_the_zoo_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    from sb3_strl.cli import zoo_manager
    from sb3_strl.envs import registration

    with pytest.raises(StrlValueError, match=r"unknown script 'trian'. Did you mean 'train'"):
        zoo.run_with(["trian"])
    with pytest.raises(StrlTypeError, match=r"do not fit. Expected none of them"):
        train("appo", "sb3_strl/Walker-v0", tmp_path, "-n", "64", "-params", "frame_stack:2")
    with pytest.raises(StrlValueError, match=r"there is no zoo_configs/nobody.yml"):
        zoo_manager.default_config("nobody")
    monkeypatch.setitem(registration._TENSOR_ENTRY_POINTS, "ours/Batch-v0", "a:B")
    monkeypatch.setitem(gym.registry, "ours/Batch-v0", None)
    del gym.registry["ours/Batch-v0"]
    zoo_manager.register()
    with pytest.raises(StrlTypeError, match=r"is a batch of tensors .* Expected sb3_strl.make_vec"):
        gym.make("ours/Batch-v0")


def test_without_rl_zoo3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(StrlTypeError, match=r"pip install 'sb3_strl\[zoo\]'"):
        zoo.run_with(["train"])
