"""What the guides to export and command line show runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("onnxruntime")
pytest.importorskip("mujoco")

from sb3_strl.cli.config import TrainConfig, with_numbers
from sb3_strl.cli.main import build_parser

GUIDES = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_of_the_export_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("export.md", "python"):
        exec(block, names)
    assert names["joint_targets"].shape == (6,)
    assert max(parity.max_error for parity in names["report"].parities) <= 1e-5


@pytest.mark.parametrize("page", ["export.md", "command_line.md"])
def test_command_lines_are_understood(page: str) -> None:
    lines = [line for block in blocks(page, "shell") for line in block.splitlines() if line]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "strl"
        if arguments[0] != "zoo":
            build_parser().parse_args(arguments)


def test_the_configuration_of_the_guide_is_one() -> None:
    (block,) = blocks("command_line.md", "yaml")
    config = TrainConfig.from_dict(with_numbers(yaml.safe_load(block)))
    assert config.total_timesteps == 2_000_000
    assert config.hyperparameters["learning_rate"] == 1e-3
