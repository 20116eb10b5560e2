"""A walk through a dataset that is interrupted and continued."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch as th

from sb3_strl.data import RolloutDataset
from tests.data.rollout_tools import make_dataset

LENGTHS = (5, 2, 4, 7, 3, 6)


@pytest.mark.parametrize("n", [0, 1, 9, 40])
@pytest.mark.parametrize("finite", [True, False])
def test_a_continued_walk_equals_an_uninterrupted_one(tmp_path: Path, n: int, finite: bool) -> None:
    folder = make_dataset(tmp_path / "data", LENGTHS)

    def walk(seed: int) -> RolloutDataset:
        return RolloutDataset(
            folder,
            3,
            dataset_loops=9 if finite else 0,
            random_shuffle_traj_order=True,
            starting_frame_range=(0, 2),
            device="cpu",
            seed=seed,
        )

    whole = walk(1)
    whole.reset()
    whole.reset()  # the second walk is another one than the first
    if n:
        whole.get_batch(n)
    state = whole.state_dict()
    again = walk(2)
    again.load_state_dict(state)
    expected, found = whole.get_batch(20), again.get_batch(20)
    for name, value in expected.named().items():
        assert th.equal(value, found.named()[name]), name
    assert again.state_dict() == whole.state_dict()


def test_the_end_is_still_the_end(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", LENGTHS)
    whole = RolloutDataset(folder, 2, device="cpu")
    for _ in whole:
        pass
    again = RolloutDataset(folder, 2, device="cpu")
    again.load_state_dict(whole.state_dict())
    with pytest.raises(StopIteration):
        again.get_batch()


def test_the_groups_that_are_there(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", LENGTHS)
    assert RolloutDataset(folder, 1, device="cpu").recorded_groups() == ("policy", "critic")
