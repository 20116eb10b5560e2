"""``strl export``: what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_strl.cli.main import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "Nonsense-v0"], "--env is Nonsense-v0, but nothing is proven in an env"),
        (["--env-kwargs", "{g: 1}"], "--env-kwargs is {g: 1}, but nothing is proven"),
        (["--env", "CartPole-v1", "--prove-in-env"], "the policy observes Box of shape (3,)"),
        (["--steps", "0"], "n_steps (--steps) is 0. Expected a whole number of at least 1"),
        (["--steps", "-3"], "n_steps (--steps) is -3"),
        (["--tolerance", "-1"], "nothing was written"),
    ],
)
def test_nothing_is_written(
    options: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(run / "model.zip"), "--formats", "torchscript", "--out", str(tmp_path / "robot")]
    assert main(["export", *given, *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_robot_has_numbers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot = tmp_path / "robot.yml"
    robot.write_text("stiffness: hard")
    given = ["--robot", str(robot), "--out", str(tmp_path / "out")]
    assert main(["export", str(run / "model.zip"), *given]) == 1
    assert "stiffness is 'hard'. Expected a finite number" in capsys.readouterr().err
