"""What the guide on datasets claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.dataset_memory import count_frames, measure, train, write_dataset


@pytest.mark.integration
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    frames = write_dataset(tmp_path, 0.3)
    found = measure(tmp_path, 64)
    assert found["frames"] == frames
    assert found["peak_mb"] - found["imports_mb"] < 120  # the dataset has 300


@pytest.mark.integration
def test_memory_of_a_training_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    frames = write_dataset(tmp_path, 0.3)
    assert count_frames(tmp_path) == frames
    found = measure(tmp_path, 64, train)
    assert frames - 24 * 64 < found["frames"] <= frames
    assert found["peak_mb"] - found["imports_mb"] < 200  # the dataset has 300
