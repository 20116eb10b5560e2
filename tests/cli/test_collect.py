"""``strl collect``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_strl.cli.main import main
from sb3_strl.data import read_rollouts


def collect(run: Path, out: Path, *options: str) -> int:
    given = ["--out", str(out), "--n-envs", "2", "--quiet", *options]
    return main(["collect", str(run / "model.zip"), *given])


def test_it_records_and_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demos"
    assert collect(run, out, "--episodes", "2", "--keep", "truncated") == 0
    text = capsys.readouterr().out
    assert "2 trajectories, 400 steps" in text
    assert "Episode/return_mean" in text
    assert [len(t) for t in read_rollouts(out)] == [200, 200]
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["config"]["model"].endswith("model.zip")
    assert collect(run, out, "--episodes", "4", "--keep", "truncated") == 0
    assert len(list(read_rollouts(out))) == 4
    assert collect(run, tmp_path / "b", "--steps", "100", "--steps-per-file", "10") == 0
    assert sum(len(t) for t in read_rollouts(tmp_path / "b")) == 100
    assert collect(run, tmp_path / "c", "--steps", "100", "--max-steps", "40") == 0
    assert sum(len(t) for t in read_rollouts(tmp_path / "c")) == 40


def test_what_is_sampled_is_the_same_again(run: Path, tmp_path: Path) -> None:
    def actions(name: str) -> np.ndarray:
        assert collect(run, tmp_path / name, "--stochastic", "--steps", "16") == 0
        return np.concatenate([found.acts for found in read_rollouts(tmp_path / name)])

    assert np.array_equal(actions("a"), actions("b"))


def test_a_teacher_labels_what_a_student_meets(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dagger"
    given = ["--student", str(run), "--teacher-prob", "0.5", "--steps", "100"]
    assert collect(run, out, *given) == 0
    trajectory = next(read_rollouts(out, actions="teacher_actions"))
    assert trajectory.acts.shape[1] == 1


def test_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect(run, tmp_path / "x", "--episodes", "0") == 1
    assert "Expected something to record" in capsys.readouterr().err
    assert collect(run, tmp_path / "x", "--compress", "depth") == 1
    assert "segment 'depth'" in capsys.readouterr().err
    assert collect(run, tmp_path / "x", "--keep", "some") == 2
    assert collect(run, tmp_path / "x", "--steps", "nan") == 1
    assert "--steps is nan. Expected a number of steps" in capsys.readouterr().err
    assert collect(run, tmp_path / "x", "--env", "CartPole-v1") == 1
    assert "observes Box of shape (3,), the environment has Box" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").write_text("")
    assert collect(run, tmp_path / "x") == 1
    assert "which is a file. Expected a folder" in capsys.readouterr().err


def test_a_folder_of_another_environment(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(run, tmp_path / "x", "--steps", "8") == 0
    carts = ["train", "--env", "CartPole-v1", "--n-envs", "2", "--steps", "16", "--quiet"]
    assert main([*carts, "--set", "n_steps=8", "--out", str(tmp_path / "carts")]) == 0
    assert collect(tmp_path / "carts", tmp_path / "x", "--steps", "8") == 1
    assert "holds frames of {'obs/policy': (3,)" in capsys.readouterr().err


def test_a_student_that_is_not_there_is_missed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--student", str(tmp_path / "nowhere"), "--steps", "32"]
    assert collect(run, tmp_path / "x", *given) == 1
    assert "where there is no folder" in capsys.readouterr().err
    (tmp_path / "nowhere").mkdir()
    assert collect(run, tmp_path / "x", *given, "--device", "cpu") == 0
    assert "the teacher drove all the time" in capsys.readouterr().out
