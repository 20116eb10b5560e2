"""What becomes of a training that a signal ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sb3_strl import PPO
from sb3_strl.cli import train
from sb3_strl.cli.main import main
from sb3_strl.common.errors import PeerError
from tests.cli.conftest import SMALL, TRAIN


def test_an_interrupted_training_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: PPO) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PPO, "train", interrupt)
    assert main([*TRAIN, *SMALL, "--out", str(tmp_path)]) == 130
    assert PPO.load(tmp_path / "model.zip").num_timesteps == 32


def test_a_terminated_training_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(PPO, "train", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    # Without a handler this would end the tests themselves.
    monkeypatch.setattr(train, "_terminated_like_interrupted", _checked(train))
    assert main([*TRAIN, *SMALL, "--out", str(tmp_path)]) == 130
    assert PPO.load(tmp_path / "model.zip").num_timesteps == 32
    assert signal.getsignal(signal.SIGTERM) is before


def _checked(module: Any) -> Any:
    original = module._terminated_like_interrupted

    @contextmanager
    def checked() -> Any:
        with original():
            assert signal.getsignal(signal.SIGTERM) is module._interrupt
            yield

    return checked


@pytest.fixture
def among_others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it to be one of several processes that the launcher ends, because another has ended."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def terminate() -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # would end the tests
        monkeypatch.setattr(train.distributed, "is_active", lambda: True)
        os.kill(os.getpid(), signal.SIGTERM)

    yield terminate
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_launcher_may_interrupt_while_a_failure_is_handled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    among_others: Callable[[], None],
) -> None:
    def learn(self: PPO, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(train.distributed, "is_active", asked_while_handling)
        raise PeerError("process 1 of 2 failed")

    def asked_while_handling() -> bool:
        among_others()
        return True

    monkeypatch.setattr(PPO, "learn", learn)
    assert main([*TRAIN, *SMALL, "--out", str(tmp_path)]) == 130
    assert "process 1 of 2 failed" in capsys.readouterr().err
    assert PPO.load(tmp_path / "model.zip").num_timesteps == 0


def test_the_launcher_may_interrupt_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, among_others: Callable[[], None]
) -> None:
    finish = train._save

    def save(*args: Any) -> None:
        among_others()
        finish(*args)

    monkeypatch.setattr(PPO, "train", lambda self: among_others())
    monkeypatch.setattr(train, "_save", save)
    assert main([*TRAIN, *SMALL, "--out", str(tmp_path)]) == 130
    assert PPO.load(tmp_path / "model.zip").num_timesteps == 32
