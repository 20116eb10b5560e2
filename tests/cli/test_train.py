"""``strl train``: what reaches the environment, and how mistakes are told."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml

from sb3_strl import PPO
from sb3_strl.cli import main as entry
from sb3_strl.cli import train
from sb3_strl.cli.main import main
from sb3_strl.common.errors import StrlValueError
from tests.cli.conftest import SMALL, TRAIN

ROOT = Path(__file__).parents[2]


class ReachedError(Exception):
    """The spy was called."""


def spy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace what makes environments; return its arguments, once it was called."""
    seen: dict[str, Any] = {}

    def make(env: str, n_envs: int, **options: Any) -> Any:
        seen.update(options, env=env, n_envs=n_envs)
        raise ReachedError

    monkeypatch.setattr(train, "make_vec", make)
    return seen


def device_of(given: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    seen = spy(monkeypatch)
    with pytest.raises(ReachedError):
        main(["train", "--env", "Pendulum-v1", *given])
    return str(seen["device"])


def test_the_device_reaches_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "checked_device", th.device)  # there may be no GPU here
    assert device_of(["--device", "cuda:1"], monkeypatch) == "cuda:1"
    assert device_of(["--device", "cpu"], monkeypatch) == "cpu"
    monkeypatch.setattr(train, "get_device", lambda name: th.device(f"cuda:{len(name)}"))
    # As in the zoo: by default simulators are where the networks are, the others on the CPU.
    assert device_of([], monkeypatch) == "cpu"
    assert device_of(["--env", "mjlab/Some-Task"], monkeypatch) == "cuda:4"


def test_options_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("{env: Pendulum-v1, seed: 5, env_kwargs: {g: 1}}")
    seen = spy(monkeypatch)
    with pytest.raises(ReachedError):
        main(["train", "--config", str(file), "--env-kwargs", "{g: 1e1}", "--n-envs", "3"])
    assert (seen["env_kwargs"], seen["seed"], seen["n_envs"]) == ({"g": 10.0}, 5, 3)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "meta"])
def test_a_device_that_is_not_there(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if th.cuda.device_count() > {"cuda": 0, "cuda:1": 1}.get(device, 99):
        pytest.skip("it is there")
    assert main([*TRAIN, "--device", device, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert f"--device is '{device}', which cannot be used here" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--set", "n_steps=[1"], r"--set: the value in 'n_steps=[1' is no yaml"),
        (["--set", "verbose=2020-13-45"], "is no yaml: month must be in 1..12"),
        (["--set", "gamma=abc"], "gamma is 'abc'. Expected a number."),
        (["--set", "n_steps=1.5"], "n_steps is 1.5. Expected a whole number."),
        (["--set", "n_steps=true"], "n_steps is True. Expected a whole number."),
        (["--set", "learning_rate=-1"], "learning_rate is -1. Expected a number of at least 0."),
        (["--set", "learning_rate=lin_x"], "or a schedule such as lin_0.001."),
        (["--set", "policy_kwargs.net_arch=big"], "net_arch is 'big'. Expected a list of whole"),
        (["--set", "policy_kwargs=3"], "policy_kwargs is 3. Expected a mapping"),
        (["--env-kwargs", "g=3"], "--env-kwargs: got 'g=3', a str. Expected a mapping"),
        (["--env-kwargs", "{g: ["], "--env-kwargs: '{g: [' is no yaml"),
        (["--env-kwargs", "{1: 2}"], "--env-kwargs: the key 1 is no text."),
        (["--seed", "-1"], "seed is -1. Expected a whole number from 0 to 4294967295."),
        (["--steps", "nan"], "total_timesteps is nan. Expected a whole number > 0."),
        (["--steps", "inf"], "total_timesteps is inf. Expected a whole number > 0."),
        (["--env", "nosuchmodule:Env-v0"], "there is no module 'nosuchmodule'"),
        (["--env", "no.such:Env-v0"], "there is no module 'no.such'"),
        (["--env", "math:Env-v0"], "the environment 'math:Env-v0' cannot be made (Environment"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, *given, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("strl")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: 2", "the key 1 is no text"),
        ("hyperparameters: {1: 2}", "hyperparameters: the key 1 is no text"),
        ("hyperparameters: {policy_kwargs: {1: 2}}", "policy_kwargs: the key 1 is no text"),
        ("env_kwargs: {1: 2}", "env_kwargs: the key 1 is no text"),
        (b"\xff\xfe\x00", "is no text"),
        ("a: 2020-13-45", "is no yaml: month must be in 1..12"),
        ("hyperparameters: {policy_kwargs: 3}", "policy_kwargs is 3. Expected a mapping"),
        ("algorithm: [ppo]", "algorithm is ['ppo']. Expected a text."),
        ("policy: [MlpPolicy]", "policy is ['MlpPolicy']. Expected a text."),
        ("n_envs: .inf", "n_envs is inf. Expected a whole number > 0."),
        ("checkpoint_interval: often", "checkpoint_interval is 'often'. Expected a whole number"),
        ("hyperparameters: {n_steps: abc}", "n_steps is 'abc'. Expected a whole number."),
        ("seed: abc", "seed is 'abc'. Expected a whole number from 0"),
        ("hyperparameters: [1]", "the configuration's hyperparameters are [1]. Expected a mapping"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(
    text: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    more = ["--set", "gamma=1"] if message.startswith("the configuration's") else []
    assert main(["train", "--config", str(file), *more, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(tmp_path)]) == 1
    assert "is a folder. Expected a yaml file in it." in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr(train, "_make_env", broken)
    with pytest.raises(ValueError, match="a bug"):
        main([*TRAIN, *SMALL])


def test_a_linear_schedule_reaches_its_end(tmp_path: Path) -> None:
    given = ["--set", "learning_rate=lin_1e-2", "--set", "clip_range=lin_0.3"]
    whole = ["--set", "n_epochs=2e0"]
    assert main([*TRAIN, *SMALL, *given, *whole, "--out", str(tmp_path)]) == 0
    model = PPO.load(tmp_path / "model.zip")
    assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == [0.01, 0.005, 0.0]
    clip_range: Any = model.clip_range
    assert clip_range(0.5) == pytest.approx(0.15)
    assert type(model.n_epochs) is int
    written = yaml.safe_load((tmp_path / "config.yml").read_text())["hyperparameters"]
    assert (written["learning_rate"], written["n_epochs"]) == ("lin_1e-2", 2)


def test_the_configuration_of_the_help_and_the_guide_is_that_of_the_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = yaml.safe_load((ROOT / "examples" / "walk.yml").read_text())
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text[text.index("  env: sb3_strl/Walker-v0") :]) == example
    guide = (ROOT / "docs" / "guide" / "command_line.md").read_text()
    shown = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])
    assert float(shown["hyperparameters"].pop("learning_rate")) == 1e-3  # the default, spelt out
    assert shown == example


# ---------------------------------------------------------------------- how it is said


def test_a_message_names_its_command_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "strl play: no": "strl play: no",
        "PPO: no": "strl: PPO: no",
        "no": "strl: no",
        "strlish: no": "strl: strlish: no",
    }
    for text, expected in texts.items():

        def fail(text: str = text) -> int:
            raise StrlValueError(text)

        assert entry._guarded(fail) == 1
        assert capsys.readouterr().err == f"{expected}\n"
    monkeypatch.setattr(entry.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(entry.distributed, "rank", lambda: 1)
    assert entry._signed("strl play: no") == "strl play (rank 1): no"
    assert entry._signed("PPO: no") == "strl (rank 1): PPO: no"


def test_a_warning_is_one_line_without_source() -> None:
    code = (
        "import warnings, sys; from sb3_strl.cli import main as entry\n"
        "sys.exit(entry._guarded(lambda: warnings.warn('this is\\nodd', stacklevel=1) or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "strl: warning: this is odd\n")


def test_warnings_are_shown_as_before_afterwards() -> None:
    before = warnings.formatwarning
    assert entry._guarded(lambda: 0) == 0
    assert warnings.formatwarning is before


def test_a_motion_prior_is_examined_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "--n-envs", "4", "--steps", "200", "--set", "n_steps=16"]
    sizes = ["--set", "policy_kwargs={net_arch: [8], amp_discriminator: {hidden_dims: [8]}}"]
    prior = ["--algo", "appo", "--policy", "AmpPolicy", *sizes]
    assert main([*given, *prior, "--out", str(tmp_path / "a")]) == 0
    report = capsys.readouterr().out
    assert report.count("discriminator: ") == 1
    assert "over the run:" in report
    assert "discriminator/verdict" in (tmp_path / "a" / "progress.csv").read_text()
    assert main([*given, "--set", "policy_kwargs.net_arch=[8]", "--out", str(tmp_path / "b")]) == 0
    assert "discriminator" not in capsys.readouterr().out


def test_random_starts(tmp_path: Path) -> None:
    config = train.TrainConfig.from_dict({"random_starts": True, "checkpoint_interval": 10})
    assert [type(item).__name__ for item in train._callbacks(config, str(tmp_path))] == [
        "RandomStarts",
        "CheckpointCallback",
    ]
    assert train._callbacks(train.TrainConfig(), str(tmp_path)) == []
