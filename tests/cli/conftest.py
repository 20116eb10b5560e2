"""A small run that several files look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_strl.cli.main import main

TRAIN = ["train", "--env", "Pendulum-v1", "--n-envs", "2", "--steps", "64", "--quiet"]
SMALL = ["--set", "n_steps=16", "--set", "policy_kwargs.net_arch=[8]"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with memory; nobody writes there."""
    folder = tmp_path_factory.mktemp("run")
    assert main([*TRAIN, *SMALL, "--policy", "MlpGruPolicy", "--out", str(folder)]) == 0
    return folder
