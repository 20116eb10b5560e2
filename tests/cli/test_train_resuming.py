"""``strl train --resume`` and ``--overwrite``: what holds, what is written, what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import yaml

from sb3_strl import APPO, PPO, TPPO
from sb3_strl.cli.main import main
from tests.cli.conftest import SMALL, TRAIN

MORE = ["train", "--steps", "64", "--quiet"]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, to write to."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def resume(model: Path, out: Path, *given: str) -> int:
    return main([*MORE, "--resume", str(model), "--out", str(out), *given])


def written(folder: Path, name: str = "config.yml") -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((folder / name).read_text())
    return config


# ---------------------------------------------------------------------- the same folder


def test_going_on_in_the_same_folder_loses_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, curves = ((copy / name).read_bytes() for name in ("config.yml", "progress.csv"))
    assert resume(copy / "model.zip", copy) == 0
    assert "The curves go on in" in capsys.readouterr().out
    assert PPO.load(copy / "model.zip").num_timesteps == 128
    assert (copy / "config.yml").read_bytes() == config
    assert (copy / "progress.csv").read_bytes() == curves
    assert len((copy / "progress.2.csv").read_text().splitlines()) == 3
    assert resume(copy / "model", copy) == 0
    assert (copy / "progress.3.csv").is_file()
    assert not list(copy.glob("config.*.yml"))


def test_a_changed_configuration_is_kept_beside_the_new_one(copy: Path) -> None:
    for gamma in (0.5, 0.6):
        assert resume(copy / "model.zip", copy, "--set", f"gamma={gamma}") == 0
    gammas = [
        written(copy, name)["hyperparameters"].get("gamma")
        for name in ("config.1.yml", "config.2.yml", "config.yml")
    ]
    assert gammas == [None, 0.5, 0.6]


# ---------------------------------------------------------------------- hyperparameters


def test_what_is_set_is_applied_and_recorded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", "gamma=0.5", "--set", "learning_rate=lin_0.01", "--set", "n_steps=8"]
    assert resume(run / "model.zip", tmp_path / "out", *given) == 0
    model: Any = PPO.load(tmp_path / "out" / "model.zip")
    assert (model.gamma, model.n_steps, model.lr_schedule(0.5)) == (0.5, 8, 0.005)
    assert model.policy.optimizer.param_groups[0]["lr"] < 0.01
    assert "gamma was 0.99, is 0.5 from here on" in capsys.readouterr().out
    assert written(tmp_path / "out")["hyperparameters"] == {
        "n_steps": 8,
        "gamma": 0.5,
        "learning_rate": "lin_0.01",
        "policy_kwargs": {"net_arch": [8]},
    }


def test_the_model_knows_better_than_the_file_beside_it(copy: Path, tmp_path: Path) -> None:
    config = written(copy)
    config["hyperparameters"]["gamma"] = 0.5  # what a model with 0.99 never had
    (copy / "config.yml").write_text(yaml.safe_dump(config))
    assert resume(copy / "model.zip", tmp_path / "out") == 0
    assert PPO.load(tmp_path / "out" / "model.zip").gamma == 0.99
    assert written(tmp_path / "out")["hyperparameters"]["gamma"] == 0.99


def test_a_model_without_a_file_beside_it_says_what_it_was_trained_with(
    tmp_path: Path,
) -> None:
    first, alone, out = tmp_path / "first", tmp_path / "alone", tmp_path / "out"
    given = ["--set", "clip_range=lin_0.3", "--set", "learning_rate=0.01", "--seed", "4"]
    assert main([*TRAIN, *SMALL, *given, "--out", str(first)]) == 0
    alone.mkdir()
    shutil.copy(first / "model.zip", alone)
    assert resume(alone / "model.zip", out, "--env", "Pendulum-v1") == 0
    assert written(out) == written(first)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--set", "policy_kwargs.net_arch=[16]"], "policy_kwargs (is {'net_arch': [8]}, given"),
        (["--set", "schedule=adaptive"], "schedule (is fixed, given adaptive)"),
        (["--seed", "3"], "seed (is 0, given 3)"),
        (["--policy", "MlpPolicy"], "policy (is MlpGruPolicy, given MlpPolicy)"),
        (["--algo", "appo"], "algorithm (is ppo, given appo)"),
    ],
)
def test_what_cannot_change_is_refused(
    given: list[str], named: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(run / "model.zip", tmp_path / "out", *given) == 1
    err = capsys.readouterr().err
    assert named in err
    assert "to start anew with them, leave out --resume" in err
    assert not (tmp_path / "out").exists()


def test_what_is_given_as_it_was_is_no_change(run: Path, tmp_path: Path) -> None:
    given = [*SMALL, "--set", "gamma=0.99", "--seed", "0", "--policy", "MlpGruPolicy"]
    assert resume(run / "model.zip", tmp_path / "out", *given, "--algo", "ppo") == 0
    assert written(tmp_path / "out")["hyperparameters"]["gamma"] == 0.99


def test_a_learning_rate_that_would_not_be_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, *SMALL, "--set", "schedule=adaptive", "--out", str(tmp_path)]) == 0
    assert resume(tmp_path / "model.zip", tmp_path, "--set", "learning_rate=0.1") == 1
    assert "learning_rate (is 0.001, given 0.1)" in capsys.readouterr().err


def test_a_teacher_comes_from_the_configuration(tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main([*TRAIN, *SMALL, "--out", str(teacher)]) == 0
    given = ["--algo", "tppo", "--set", f"teacher_ac_path={teacher / 'model.zip'}"]
    assert main([*TRAIN, *SMALL, *given, "--out", str(student)]) == 0
    before = written(student)
    assert resume(student / "model.zip", student) == 0
    assert TPPO.load(student / "model.zip").num_timesteps == 128
    assert written(student) == before
    again = ["--set", f"teacher={teacher / 'model.zip'}"]
    assert resume(student / "model.zip", tmp_path / "out", *again) == 0
    assert "teacher_ac_path" not in written(tmp_path / "out")["hyperparameters"]


def test_the_algorithm_is_found_in_the_file(tmp_path: Path) -> None:
    first, alone, out = tmp_path / "first", tmp_path / "alone", tmp_path / "out"
    given = ["--algo", "appo", "--policy", "AmpPolicy", "--n-envs", "2", "--quiet", "--steps", "32"]
    kwargs = (
        "policy_kwargs={net_arch: [8], amp_discriminator: {hidden_dims: [8], task_reward_lerp: 1}}"
    )
    assert main(["train", *given, "--set", "n_steps=8", "--set", kwargs, "--out", str(first)]) == 0
    alone.mkdir()
    shutil.copy(first / "model.zip", alone)
    a_part = "policy_kwargs.amp_discriminator.hidden_dims=[8]"  # the rest stays as it is
    assert resume(alone / "model.zip", out, "--steps", "32", "--set", a_part) == 0
    assert APPO.load(out / "model.zip").num_timesteps == 64
    assert written(out) == written(first)


# ---------------------------------------------------------------------- models that do not fit


def test_what_is_no_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign.zip"
    stable_baselines3.PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8).save(foreign)
    cut = tmp_path / "cut.zip"
    cut.write_bytes((run / "model.zip").read_bytes()[:500])
    expected = {
        tmp_path / "nowhere.zip": f"there is no file {tmp_path / 'nowhere.zip'}. Expected",
        run: f"is a folder. Expected a model, e.g. {run / 'model.zip'}.",
        run / "config.yml": "is not a whole model of this library",
        foreign: "is not a whole model of this library",
        cut: "is not a whole model of this library",
    }
    for path, message in expected.items():
        assert resume(path, tmp_path / "out") == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_environment(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resume(run / "model.zip", tmp_path / "out", "--env", "MountainCarContinuous-v0") == 1
    err = capsys.readouterr().err
    assert "does not fit 'MountainCarContinuous-v0': Observation spaces do not match" in err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- folders with a run


def test_a_run_is_not_overwritten_unasked(
    copy: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    resumed = ["--resume", str(run / "model.zip")]  # of another folder
    for given in ([], resumed):
        assert main([*TRAIN, *SMALL, *given, "--out", str(copy)]) == 1
        err = capsys.readouterr().err
        assert f"strl train: {copy} holds a run already (model.zip, progress.csv)" in err
        assert f"--resume {copy / 'model.zip'}, or replace it with --overwrite" in err
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.mark.parametrize("name", ["model_64_steps.zip", "progress.csv"])
def test_half_a_run_is_one(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("something")
    assert main([*TRAIN, *SMALL, "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert f"holds a run already ({name})" in err
    assert ("--resume" in err) == name.endswith(".zip")


def test_a_configuration_alone_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("{env: Pendulum-v1}")
    (tmp_path / "progress.csv").write_text("")  # of a training that failed in its first rollout
    given = ["--config", str(tmp_path / "config.yml")]
    assert main([*TRAIN, *SMALL, *given, "--out", str(tmp_path)]) == 0
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 3


def test_overwriting_leaves_nothing_of_the_run_before_and_all_else(copy: Path) -> None:
    for name in ("model_64_steps.zip", "model.rank1.pt", "progress.2.csv", "config.1.yml"):
        (copy / name).write_text("old")
    kept = ("notes.txt", "model_best.zip", "config.mine.yml")
    for name in kept:
        (copy / name).write_text("mine")
    given = ["--overwrite", "--set", "gamma=0.5", "--out", str(copy)]
    assert main([*TRAIN, *SMALL, *given]) == 0
    names = {file.name for file in copy.iterdir() if "tfevents" not in file.name}
    assert names == {"model.zip", "config.yml", "progress.csv", *kept}
    assert len(list(copy.glob("*tfevents*"))) <= 1
    assert PPO.load(copy / "model.zip").gamma == 0.5


def test_overwriting_waits_until_everything_is_built(copy: Path) -> None:
    before = (copy / "model.zip").read_bytes()
    wrong = ["--overwrite", "--set", "n_minibatches=1000", "--out", str(copy)]
    assert main([*TRAIN, *SMALL, *wrong]) == 1
    assert (copy / "model.zip").read_bytes() == before
