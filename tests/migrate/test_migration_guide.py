"""The guide names every key that the code knows."""

from __future__ import annotations

import re
from pathlib import Path

from sb3_strl.migrate import tables

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "migration.md"


def section(name: str) -> str:
    text = PAGE.read_text()
    return text.split(f"\n## {name}\n")[1].split("\n## ")[0]


def named(name: str) -> set[str]:
    return set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`]+)`", section(name)))))


def test_every_key_of_st_rl_is_in_its_table() -> None:
    keys = {*tables.STRL_PPO_KEYS, *tables.TEACHER_KEYS, *tables.ESTIMATOR_KEYS}
    keys |= {"discriminator_loss_coef", "mimic_loss_coef", "mimic_reward_coef", "amp_obs_dim"}
    assert keys <= named("st_rl and st_gym"), keys - named("st_rl and st_gym")
    ours = {*tables.STRL_PPO_KEYS.values()}
    assert ours <= named("st_rl and st_gym"), ours - named("st_rl and st_gym")


def test_every_key_of_rsl_rl_is_in_its_table() -> None:
    keys = {*tables.PPO_KEYS, *tables.PPO_KEYS.values()}
    assert keys <= named("rsl_rl"), keys - named("rsl_rl")
