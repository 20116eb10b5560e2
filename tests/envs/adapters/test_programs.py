"""The script that certifies an adapter, and the examples that train on one."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch as th

from tests.envs.adapters.doubles import LeggedGym

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples" / "simulators").glob("train_*.py"))
DOUBLES = "tests.envs.adapters.doubles"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def certify(*arguments: str) -> int:
    return int(load(ROOT / "scripts" / "certify_adapter.py").main(list(arguments)))


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_certified(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        status = certify(f"{DOUBLES}:LeggedGym", "--steps", "12", "--no-seeding")
    assert status == 0, caplog.text
    assert "RslRlVecEnv around LeggedGym" in caplog.text
    assert "0 with last observations" in caplog.text
    assert "up to 7 steps" in caplog.text
    assert caplog.messages[-1] == "certified"


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_not_certified(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_strl.envs import RslRlVecEnv

    def alias(self: Any, rewards: th.Tensor) -> th.Tensor:
        return rewards

    monkeypatch.setattr(RslRlVecEnv, "read_rewards", alias)
    status = certify(f"{DOUBLES}:RslRl2", "--steps", "12", "--no-seeding")
    assert status == 1
    assert "FAILED  memory    AssertionError: a tensor of step 0 was overwritten" in caplog.text


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_options_reach_the_adapter(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        options = ["--option", "zero_step=true", "--option", "action_bound=2.5", "--no-seeding"]
        assert certify(f"{DOUBLES}:RslRl2", "--steps", "9", *options) == 0
    assert "Box(-2.5, 2.5" in caplog.text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_need_their_simulator_only_when_they_run(path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        load(path).main(["--help"])
    assert stop.value.code == 0


RUNNABLE = {
    "gymnasium_vector": ("gymnasium", ["--n-envs", "2"]),
    "envpool": ("envpool", ["--n-envs", "4", "--threads", "1"]),
    "brax": ("brax", ["--n-envs", "4"]),
    "playground": ("mujoco_playground", ["--n-envs", "4", "--impl", "jax"]),
    "mjlab": ("mjlab", ["--n-envs", "4"]),
    "rsl_rl": ("torch", ["--factory", "tests.envs.adapters.test_programs:make", "--n-envs", "4"]),
}


def make(n_envs: int) -> LeggedGym:
    return LeggedGym()


@pytest.mark.integration
@pytest.mark.parametrize("name", RUNNABLE)
def test_examples_run(name: str, tmp_path: Path) -> None:
    module, options = RUNNABLE[name]
    pytest.importorskip(module)
    path = ROOT / "examples" / "simulators" / f"train_{name}.py"
    options = [*options, "--timesteps", "100", "--save", str(tmp_path / "policy")]
    done = subprocess.run(
        [sys.executable, str(path), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "policy.zip").exists()
