"""The guide to callbacks runs as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import sb3_strl.callbacks

pytestmark = pytest.mark.integration
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "callbacks.md"


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "x", "--allow-empty"], check=True)
    scope: dict[str, object] = {"__name__": "guide"}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 9
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), scope)
    assert (tmp_path / "best" / "best_model.zip").exists()
    assert (tmp_path / "closest" / "evaluations.npz").exists()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "model_2.zip",
        "model_4.zip",
    ]
    assert len(list((tmp_path / "logs" / "git").iterdir())) == 2


def test_the_table_names_classes_that_exist() -> None:
    table = GUIDE.read_text(encoding="utf-8").split("The blocks below")[0]
    names = re.findall(r"`([A-Z]\w+(?:Callback|Starts|Doctor))`", table)
    assert len(names) >= 9
    missing = [name for name in names if name not in (*sb3_strl.callbacks.__all__, "EvalCallback")]
    assert not missing
