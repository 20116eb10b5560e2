"""``strl evaluate``, and what all commands on a model refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch as th

from sb3_strl.cli import evaluate
from sb3_strl.cli.main import main
from sb3_strl.cli.running import checked_device
from sb3_strl.common.errors import StrlValueError


def measure(run: Path, *options: str) -> int:
    return main(["evaluate", str(run / "model.zip"), "--episodes", "1", "--quiet", *options])


def test_another_environment_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(run, "--env", "CartPole-v1") == 1
    text = capsys.readouterr().err
    assert "in 'CartPole-v1': the policy observes Box of shape (3,), the environment has" in text
    assert "Expected the environment that it was trained in" in text


def test_the_file_of_the_result_is_checked_first_and_its_folder_made(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "result.json"
    assert measure(run, "--json", str(file)) == 0
    assert len(json.loads(file.read_text())["returns"]) == 1
    monkeypatch.setattr(evaluate, "evaluate_policy", lambda *_, **__: pytest.fail("it worked"))
    assert measure(run, "--json", str(tmp_path)) == 1
    assert "which is a folder. Expected the name of a file" in capsys.readouterr().err
    assert measure(run, "--json", str(file / "more.json")) == 1
    assert "result.json is a file. Expected a file in a folder" in capsys.readouterr().err


def test_what_is_sampled_is_the_same_again(run: Path, tmp_path: Path) -> None:
    def returns(seed: int) -> list[float]:
        file = tmp_path / "result.json"
        assert measure(run, "--stochastic", "--seed", str(seed), "--json", str(file)) == 0
        found: list[float] = json.loads(file.read_text())["returns"]
        return found

    assert returns(3) == returns(3) != returns(4)


@pytest.mark.parametrize("command", ["evaluate", "play", "collect", "export --prove-in-env"])
def test_seeds_are_those_of_training(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command.split()
    out = [] if name == "evaluate" else ["--out", str(tmp_path / "out.gif")]
    assert main([name, str(run / "model.zip"), *options, *out, "--seed", "-1"]) == 1
    text = capsys.readouterr().err
    assert f"strl {name}: --seed is -1. Expected a whole number from 0 to" in text


@pytest.mark.parametrize("text", ["3", "[1", "walk"])
def test_options_of_the_environment_are_a_mapping(
    text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(run, "--env-kwargs", text) == 1
    error = capsys.readouterr().err
    assert "--env-kwargs: " in error
    assert f"'{text}'" in error
    assert "Expected a mapping: --env-kwargs '{max_episode_length: 500}'" in error


def test_the_device_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(run, "--device", "auto") == 0
    for name in ("cud", "meta", "cuda:99"):
        assert measure(run, "--device", name) == 1
        text = capsys.readouterr().err
        assert f"--device is '{name}', which cannot be used here" in text
        assert "Expected one of ['auto', 'cpu'" in text


def test_a_missing_gpu_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    if th.cuda.is_available():
        assert checked_device("cuda").type == "cuda"
        return
    with pytest.raises(StrlValueError, match="--device is 'cuda', which cannot be used"):
        checked_device("cuda")
