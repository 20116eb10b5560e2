"""What every command promises: help with examples, and a bar for what takes long."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sb3_strl.cli import zoo
from sb3_strl.cli.main import main

COMMANDS = [
    *(["train"], ["play"], ["evaluate"], ["collect"], ["export"], ["migrate"], ["doctor"]),
    *(["motion"], ["motion", "inspect"], ["motion", "convert"], ["zoo"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    examples = capsys.readouterr().out.split("examples:")[1]
    assert f"strl {' '.join(command)}" in examples


def test_help_of_the_benchmark_has_examples(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0  # a program of its own
    text = capfd.readouterr().out
    assert "usage: strl bench" in text
    assert "strl bench --smoke" in text.split("examples:")[1]


def test_the_benchmark_looks_first_where_it_writes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["bench", "--smoke", "--json", str(tmp_path / "file" / "rows.json")]) == 2
    out, error = capfd.readouterr()
    assert "cannot be written" in error
    assert "measured" not in out + error


@pytest.mark.parametrize(
    ("arguments", "looked_at", "bar"),
    [
        (["train"], True, ["--progress"]),
        (["train"], False, []),
        (["train", "-P"], True, []),
        (["train", "--help"], True, []),
        (["train", "-optimize"], True, []),
        (["enjoy"], True, []),
    ],
)
def test_the_zoo_shows_its_bar_to_somebody(
    arguments: list[str], looked_at: bool, bar: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "has_progress_bar", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looked_at)
    assert zoo._bar(arguments[0], arguments) == bar
