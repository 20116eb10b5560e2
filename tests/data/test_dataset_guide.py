"""What the guide on datasets shows and claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.dataset_memory import measure, write_dataset

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "guide" / "datasets.md").read_text()
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for example in examples:
        exec(compile(example, "datasets.md", "exec"), names)
    assert len(examples) == 6
    assert names["recorder"].total_episodes >= 20
    assert names["collector"].student is not None
    assert names["model"].is_pretrained
    assert len(list((tmp_path / "back").glob("trajectory_*"))) == 32
    assert (tmp_path / "walk.png").is_file()
    assert names["report"].passed, str(names["report"])


@pytest.mark.integration
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    frames = write_dataset(tmp_path, 0.3)
    found = measure(tmp_path, 64)
    assert found["frames"] == frames
    assert found["peak_mb"] - found["imports_mb"] < 120  # the dataset has 300
