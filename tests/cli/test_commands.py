"""Commands, end to end: what they write, what they say, how they exit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_strl import PPO
from sb3_strl.cli import bench, doctor, play
from sb3_strl.cli.main import build_parser, main
from sb3_strl.policies import load_policy
from tests.cli.conftest import TRAIN

COMMANDS = {
    *("train", "play", "evaluate", "collect", "export", "migrate", "motion", "doctor", "bench"),
    "zoo",
}
ROOT = Path(__file__).parents[2]


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_every_command_is_listed_with_its_help_and_in_the_guide() -> None:
    help_text = build_parser().format_help()
    names = set(re.findall(r"^    (\w+)  +\S", help_text, re.MULTILINE))
    assert names == COMMANDS
    guide = (ROOT / "docs" / "guide" / "command_line.md").read_text()
    assert set(re.findall(r"^\| `strl (\w+)", guide, re.MULTILINE)) == COMMANDS


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert main(["dance"]) == 2
    assert main(["train", "--no-such-option"]) == 2
    assert main(["zoo"]) == 2
    assert main(["zoo", "--help"]) == 0
    assert "push_to_hub" in capsys.readouterr().out


def test_train_writes_model_configuration_and_curves(run: Path) -> None:
    assert {"model.zip", "config.yml", "progress.csv"} <= {file.name for file in run.iterdir()}
    assert type(load_policy(run / "model.zip")).__name__ == "MlpGruPolicy"
    model = PPO.load(run / "model.zip")
    assert (model.n_steps, model.num_timesteps) == (16, 64)


def test_train_from_a_file_goes_on_with_a_model(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    given = ["--config", str(run / "config.yml"), "--resume", str(run / "model.zip"), "--quiet"]
    assert main(["train", *given, "--checkpoint-interval", "64", "--out", str(out)]) == 0
    assert PPO.load(out / "model.zip").num_timesteps == 128
    assert (out / "model_128_steps.zip").is_file()


def test_mistakes_exit_with_1_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--algo", "apo", "--out", str(tmp_path)]) == 1
    assert "Did you mean 'appo'" in complaint(capsys)
    assert main([*TRAIN, "--set", "n_step=3", "--out", str(tmp_path)]) == 1
    assert "Did you mean 'n_steps'" in complaint(capsys)
    assert main(["evaluate", str(tmp_path / "none.zip"), "--env", "Pendulum-v1"]) == 1
    assert "there is no file" in complaint(capsys)
    assert main(["evaluate", str(tmp_path), "--env", "Pendulum-v1"]) == 1
    assert f"is a folder. Expected a file in it, e.g. {tmp_path / 'model.zip'}" in complaint(capsys)
    assert not list(tmp_path.iterdir())


def test_evaluate_takes_the_environment_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    given = ["--episodes", "3", "--n-envs", "2", "--json", str(file), "--quiet"]
    assert main(["evaluate", str(run / "model.zip"), *given]) == 0
    text = capsys.readouterr().out
    assert "3 episodes" in text
    data = json.loads(file.read_text())
    assert data["lengths"] == [200.0] * 3
    assert f"{np.mean(data['returns']):.2f}" in text
    assert main(["evaluate", str(run / "model.zip"), "--episodes", "0"]) == 1


def test_without_a_configuration_the_environment_must_be_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "model.zip"
    alone.write_bytes((run / "model.zip").read_bytes())
    assert main(["evaluate", str(alone)]) == 1
    assert "Expected --env" in complaint(capsys)


def test_export_prints_the_proof(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    robot = tmp_path / "robot.yml"
    robot.write_text("{joint_names: [pivot], action_scale: 0.5, stiffness: 20}")
    out = tmp_path / "robot"
    given = ["--robot", str(robot), "--out", str(out), "--prove-in-env", "--steps", "30"]
    assert main(["export", str(run / "model.zip"), *given]) == 0
    text = capsys.readouterr().out
    assert "largest difference from predict" in text
    assert "actor_hidden_in" in text
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["actions"]["order"] == ["pivot"]
    assert [proof["n_steps"] for proof in metadata["proof"]] == [30, 30]
    robot.write_text("{joint_name: [pivot]}")
    assert main(["export", str(run / "model.zip"), *given]) == 1
    assert "Did you mean 'joint_names'" in complaint(capsys)


def frames() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (21, 33, 3), dtype=np.uint8) for _ in range(20)]


def test_play_films_the_walker_without_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    pillow = pytest.importorskip("PIL.Image")
    out = tmp_path / "run"
    small = ["--n-envs", "2", "--steps", "48", "--quiet"]
    assert main(["train", *small, "--out", str(out)]) == 0
    gif, png = tmp_path / "a.gif", tmp_path / "a.png"
    given = [str(out / "model.zip"), "--steps", "10", "--quiet", "--env-kwargs"]
    size = "{image_size: [40, 60]}"
    assert main(["play", *given, size, "--out", str(gif)]) == 0
    assert main(["play", *given, size, "--n-envs", "2", "--out", str(png)]) == 0
    with pillow.open(gif) as film:
        assert film.n_frames == 10
        assert film.info["duration"] == 20
        height = film.size[1]
    with pillow.open(png) as picture:
        assert picture.size[1] == height
        assert picture.size[0] % 16 == 0
    assert main(["play", *given, size, "--out", str(tmp_path / "a.txt")]) == 1
    assert "Expected a name that ends in" in complaint(capsys)
    assert main(["play", given[0], "--steps", "0"]) == 1
    assert "--steps is 0" in complaint(capsys)


def test_films_keep_their_time(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    play.write_film(frames(), tmp_path / "fast.gif", 200.0)
    with pillow.open(tmp_path / "fast.gif") as film:
        assert film.n_frames * film.info["duration"] == 100  # 20 frames at 200 a second
    pytest.importorskip("imageio_ffmpeg")
    play.write_film(frames(), tmp_path / "film.mp4", 25.0)
    assert (tmp_path / "film.mp4").stat().st_size > 500


def test_a_missing_package_for_films_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(play, "find_spec", lambda name: None)
    assert main(["play", "model.zip", "--out", str(tmp_path / "a.mp4")]) == 1
    assert "pip install 'imageio[ffmpeg]'" in complaint(capsys)


def test_motion_inspect_reports_draws_and_converts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    from sb3_strl.envs.walker_options import MOTIONS

    walk = str(MOTIONS / "walk.npz")
    assert main(["motion", "inspect", walk, "--plot", str(tmp_path / "walk.png")]) == 0
    text = capsys.readouterr().out
    assert "walk" in text
    assert (tmp_path / "walk.png").is_file()
    assert main(["motion", "convert", walk, "--out", str(tmp_path / "again.npz")]) == 0
    assert (tmp_path / "again.npz").is_file()
    assert main(["motion", "inspect", str(tmp_path / "none.npz")]) == 1


def test_doctor_finds_everything_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "Everything needed is in order." in text
    assert "stable-baselines3" in text


def test_doctor_finds_faults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(device: str) -> str:
        raise RuntimeError("no such device")

    monkeypatch.setattr(doctor, "_try_training", broken)
    monkeypatch.setattr(
        doctor, "installed_version", lambda name: {"torch": "2.7.1", "numpy": None}.get(name, "99")
    )
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "torch is 2.7.1, needs 2.8" in text
    assert "numpy is missing, needs 1.26" in text
    assert "training: RuntimeError: no such device" in text
    assert "gymnasium is" not in text


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0+cpu", (2, 13, 0)), ("2.8", (2, 8)), ("1.2rc1.3", (1, 2, 3)), ("x", ())],
)
def test_numbers_of_versions(version: str, expected: tuple[int, ...]) -> None:
    assert doctor.numbers(version) == expected


def test_bench_runs_the_script_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def fake(command: list[str], **options: Any) -> Any:
        called.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(bench.subprocess, "run", fake)
    assert main(["bench", "--envs", "8"]) == 7
    assert called[0][0] == sys.executable
    assert called[0][1].endswith("peers.py")
    assert called[0][2:] == ["--envs", "8"]
    monkeypatch.setattr(bench, "_SCRIPT", Path("no") / "script.py")
    assert main(["bench"]) == 1
    assert "Expected a checkout" in complaint(capsys)


def test_python_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "sb3_strl.cli", "train", "--set", "oops"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Expected key=value" in done.stderr
    assert "Traceback" not in done.stderr
