"""rl_zoo3's own train script with our algorithms, and its tables as they were before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sb3_strl.cli import zoo
from sb3_strl.cli.zoo_files import zoo_algorithms

FOLDER = Path(__file__).parents[2] / "zoo_configs"
TABLES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(FOLDER.glob("*.yml"))}


def restore_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put rl_zoo3's tables back when a test ends."""
    import rl_zoo3
    import rl_zoo3.exp_manager
    import rl_zoo3.hyperparams_opt as search
    import rl_zoo3.train
    import rl_zoo3.utils

    for table in (rl_zoo3.ALGOS, search.HYPERPARAMS_SAMPLER, search.HYPERPARAMS_CONVERTER):
        for key in zoo_algorithms():
            monkeypatch.delitem(table, key, raising=False)
    callback = rl_zoo3.exp_manager.TrialEvalCallback
    monkeypatch.setattr(rl_zoo3.exp_manager, "TrialEvalCallback", callback)
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", rl_zoo3.train.ExperimentManager)
    monkeypatch.setattr(rl_zoo3.utils, "create_test_env", rl_zoo3.utils.create_test_env)


def train(algo: str, env_id: str, folder: Path, *more: str) -> Path:
    """Train by the zoo; return the folder of the run."""
    arguments = ["--algo", algo, "--env", env_id, "-f", str(folder), "--seed", "1", "--verbose"]
    assert zoo.run_with(["train", *arguments, "0", "--num-threads", "1", *more]) == 0
    return folder / algo / f"{env_id.replace('/', '-')}_1"
