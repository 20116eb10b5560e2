"""What every command promises: help with examples, and a bar for what takes long."""

from __future__ import annotations

import sys

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
