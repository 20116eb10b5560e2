"""The configuration that the guide to the command line shows is one."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sb3_strl.cli.config import TrainConfig, with_numbers

GUIDES = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_configuration_of_the_guide_is_one() -> None:
    (block,) = blocks("command_line.md", "yaml")
    config = TrainConfig.from_dict(with_numbers(yaml.safe_load(block)))
    assert config.total_timesteps == 2_000_000
    assert config.hyperparameters["learning_rate"] == 1e-3
