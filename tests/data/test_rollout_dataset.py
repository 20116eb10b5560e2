from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch as th
from torch.utils.data import DataLoader

from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlValueError
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.data.rollout_files import RolloutFileBase, Transition
from sb3_strl.data.shards import get_frame_range, write_shard
from sb3_strl.data.trajectory import read_rollouts
from tests.data.rollout_tools import dataset, frame, make_dataset, write_trajectory

__all__ = ["dataset"]


def frames(rollouts: RolloutDataset, env: int | None = None) -> list[float]:
    """The frames that are walked, padding left out, of one environment or of all, sorted."""
    steps = [t.observation[:, 0][~t.padding] for t in rollouts]
    if env is None:
        return sorted(float(x) for step in steps for x in step)
    return [float(t.observation[env, 0]) for t in rollouts if not t.padding[env]]


def global_numpy() -> np.ndarray:
    return np.random.get_state()[1].copy()  # noqa: NPY002  # nobody may draw from it


def all_frames(*lengths: int) -> list[float]:
    return [frame(i, t) for i, length in enumerate(lengths) for t in range(length)]


def test_one_environment_walks_the_trajectories_in_order(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 1, device="cpu")
    batches = list(rollouts)
    assert [float(t.observation[0, 0]) for t in batches] == all_frames(5, 2, 4)
    assert [float(t.privileged_observation[0, 0]) for t in batches] == [
        x + 0.5 for x in all_frames(5, 2, 4)
    ]
    assert [float(t.action[0, 0]) for t in batches] == [10 * x for x in all_frames(5, 2, 4)]
    assert th.allclose(
        th.stack([t.reward[0] for t in batches]), th.tensor(all_frames(5, 2, 4)) / 10
    )


def test_done_is_true_in_the_last_frame_only_and_timeout_where_recorded(dataset: Path) -> None:
    batches = list(RolloutDataset(dataset, 1, device="cpu"))
    assert [t for t, b in enumerate(batches) if b.done[0]] == [4, 6, 10]
    assert [t for t, b in enumerate(batches) if b.timeout[0]] == [6]


def test_next_observation_is_the_true_successor_even_at_the_end(dataset: Path) -> None:
    for batch in RolloutDataset(dataset, 2, device="cpu"):
        assert th.equal(batch.next_observation[:, 0], batch.observation[:, 0] + 1)
        assert th.equal(batch.next_observation[:, 1], batch.observation[:, 1] - 1)
        expected = batch.privileged_observation[:, 0] + 1
        assert th.equal(batch.next_privileged_observation[:, 0], expected)


def test_environments_take_the_next_unused_trajectory_in_order_of_time(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2, 5, 1, 3))
    rollouts = RolloutDataset(tmp_path, 2, device="cpu")
    # Environment 0 is free at step 2 and again at step 3.
    assert frames(rollouts, 0) == [0, 1, 2000, 3000, 3001, 3002]
    assert frames(rollouts, 1) == [1000, 1001, 1002, 1003, 1004]


def test_padding_marks_what_is_repeated_and_nothing_is_lost(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, device="cpu")
    assert frames(rollouts) == all_frames(5, 2, 4)
    last = list(rollouts)[-1]
    assert last.padding.tolist() == [True, False]


def test_drop_last_ends_with_the_first_idle_environment(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, device="cpu", drop_last=True)
    batches = list(rollouts)
    assert len(batches) == 5  # environment 0 has walked its five frames and finds nothing
    assert not any(t.padding.any() for t in batches)


def test_loops_end_after_their_number_and_a_new_iteration_begins_anew(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 1, dataset_loops=3, device="cpu")
    assert frames(rollouts) == sorted(all_frames(5, 2, 4) * 3)
    assert frames(rollouts) == sorted(all_frames(5, 2, 4) * 3)
    with pytest.raises(StopIteration):
        next(rollouts)


def test_loops_below_one_never_end(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, dataset_loops=0, device="cpu")
    batch = rollouts.get_batch(500)
    assert batch.observation.shape == (500, 2, 2)
    assert not batch.padding.any()


def test_more_environments_than_trajectories_repeat_them_as_padding(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 7, device="cpu")
    first = rollouts.get_batch()
    assert first.padding.tolist() == [False] * 3 + [True] * 4
    assert frames(rollouts) == all_frames(5, 2, 4)


def test_an_exhausted_environment_does_not_disturb_the_others(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2, 9))
    rollouts = RolloutDataset(tmp_path, 2, dataset_loops=0, device="cpu")
    walked = [float(rollouts.get_batch().observation[1, 0]) for _ in range(9)]
    assert walked == [frame(1, t) for t in range(9)]


def test_shuffling_is_seeded_and_leaves_global_generators_alone(tmp_path: Path) -> None:
    make_dataset(tmp_path, (1,) * 8)

    def order(seed: int) -> list[float]:
        rollouts = RolloutDataset(
            tmp_path, 1, random_shuffle_traj_order=True, seed=seed, device="cpu"
        )
        return frames(rollouts, 0)

    state = global_numpy(), random.getstate(), th.get_rng_state()
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == all_frames(*(1,) * 8)
    assert np.array_equal(global_numpy(), state[0])
    assert random.getstate() == state[1]
    assert th.equal(th.get_rng_state(), state[2])


def test_every_pass_is_shuffled_anew(tmp_path: Path) -> None:
    make_dataset(tmp_path, (1,) * 8)
    rollouts = RolloutDataset(tmp_path, 1, 2, random_shuffle_traj_order=True, seed=0, device="cpu")
    walked = frames(rollouts, 0)
    assert walked[:8] != walked[8:]
    assert sorted(walked[:8]) == sorted(walked[8:])


def test_keep_latest_takes_the_newest_folders(dataset: Path) -> None:
    now = time.time()
    for number, age in ((0, 10), (1, 30), (2, 20)):
        os.utime(dataset / f"trajectory_{number}", (now - age, now - age))
    rollouts = RolloutDataset(dataset, 1, keep_latest_n_trajs=2, device="cpu")
    assert frames(rollouts, 0) == [2000, 2001, 2002, 2003, 0, 1, 2, 3, 4]


def test_equally_old_trajectories_are_sorted_by_number(tmp_path: Path) -> None:
    make_dataset(tmp_path, (1,) * 12)
    for folder in tmp_path.glob("trajectory_*"):
        os.utime(folder, (0, 0))
    rollouts = RolloutDataset(tmp_path, 1, device="cpu")
    assert frames(rollouts, 0) == all_frames(*(1,) * 12)  # 2 before 10


def test_several_folders_and_deeper_ones_are_searched(tmp_path: Path) -> None:
    write_trajectory(tmp_path / "a" / "deep", 1, 2)
    write_trajectory(tmp_path / "b", 2, 1)
    rollouts = RolloutDataset([tmp_path / "a", tmp_path / "b"], 1, device="cpu")
    assert frames(rollouts) == [1000, 1001, 2000]


def test_starting_frames_are_drawn_and_clamped(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2, *(8,) * 14))
    rollouts = RolloutDataset(tmp_path, 15, starting_frame_range=(3, 7), seed=0, device="cpu")
    first = rollouts.get_batch().observation[:, 0] % 1000
    assert first[0] == 0  # shorter than the range: begins at its beginning
    assert set(first[1:].tolist()) == {3.0, 4.0, 5.0, 6.0}


def test_batches_of_steps_equal_single_steps_and_are_cut_at_the_end(dataset: Path) -> None:
    one, many = (RolloutDataset(dataset, 2, device="cpu") for _ in range(2))
    batch = many.get_batch(4)
    for step in range(4):
        single = one.get_batch()
        for name, values in batch.named().items():
            assert th.equal(values[step], single.named()[name]), name
    assert len(many.get_batch(10).reward) == 2  # 11 frames in two rows: six steps
    with pytest.raises(StopIteration):
        many.get_batch(10)


def test_batches_are_fresh(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 1, device="cpu")
    first = rollouts.get_batch()
    kept = first.observation.clone()
    second = rollouts.get_batch()
    assert th.equal(first.observation, kept)
    second.next_observation.zero_()
    second.observation.zero_()
    assert rollouts.get_batch().observation[0, 0] == 2
    rollouts.reset()
    assert rollouts.get_batch(3).observation[:, 0, 0].tolist() == [0, 1, 2]


def test_transition_batch_names_timeouts(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 1, device="cpu")
    flags = [bool(rollouts.get_transition_batch()[1]["time_outs"]) for _ in range(11)]
    assert flags == [t == 6 for t in range(11)]


def test_missing_flags_and_rewards_are_zero_and_only_the_last_frame_is_done(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "trajectory_0" / "traj_0_3.npz",
        {"obs/policy": np.zeros((3, 2)), "actions": np.ones((3, 1))},
    )
    batches = list(RolloutDataset(tmp_path, 1, device="cpu"))
    assert [bool(b.done) for b in batches] == [False, False, True]
    assert not any(b.timeout.any() or b.reward.any() for b in batches)
    assert batches[0].observation.dtype == th.float32
    assert th.equal(batches[0].privileged_observation, batches[0].observation)


def test_a_recording_cut_without_a_successor_says_timeout(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "trajectory_0" / "traj_0_2.npz",
        {
            "obs/policy": np.arange(2.0)[:, None],
            "actions": np.ones((2, 1)),
            "dones": np.zeros(2, bool),
        },
    )
    last = list(RolloutDataset(tmp_path, 1, device="cpu"))[-1]
    assert last.done.item()
    assert last.timeout.item()
    assert th.equal(last.next_observation, last.observation)


def test_reset_of_some_environments_moves_only_those(tmp_path: Path) -> None:
    make_dataset(tmp_path, (9, 9, 9, 9))
    rollouts = RolloutDataset(tmp_path, 2, device="cpu")
    rollouts.get_batch(3)
    rollouts.reset([0])
    batch = rollouts.get_batch(9)
    assert batch.observation[:, 0, 0].tolist() == [frame(2, t) for t in range(9)]
    assert batch.observation[:, 1, 0].tolist()[:6] == [frame(1, t) for t in range(3, 9)]
    # The one that environment 1 would have had next is still there for whoever comes first.
    assert batch.observation[6:, 1, 0].tolist() == [frame(3, t) for t in range(3)]


def test_reset_of_all_environments_begins_anew(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, device="cpu")
    rollouts.get_batch(3)
    rollouts.reset(th.tensor([0, 1]))
    assert rollouts.get_batch().observation[:, 0].tolist() == [0, 1000]


def test_reset_before_the_first_batch_needs_no_start(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, device="cpu")
    rollouts.reset([1])
    assert rollouts.get_batch().observation[0, 0] == 0


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, (7, 30, 11, 1, 8))
    wide = list(RolloutDataset(tmp_path, 3, 2, device="cpu", seed=3))
    monkeypatch.setattr("sb3_strl.data.rollout_dataset._MAX_AHEAD", 1)
    narrow = list(RolloutDataset(tmp_path, 3, 2, device="cpu", seed=3))
    assert len(wide) == len(narrow)
    for one, other in zip(wide, narrow, strict=True):
        real = ~one.padding
        for name, values in one.named().items():
            assert th.equal(values[real], other.named()[name][real]), name


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_the_trajectories_without_duplicates(tmp_path: Path, workers: int) -> None:
    make_dataset(tmp_path, (3, 1, 4, 2, 5))
    rollouts = RolloutDataset(tmp_path, 2, device="cpu", seed=0)
    loader = DataLoader(rollouts, batch_size=None, num_workers=workers)
    seen = [float(x) for t in loader for x in t.observation[:, 0][~t.padding]]
    assert sorted(seen) == all_frames(3, 1, 4, 2, 5)


def test_a_worker_without_trajectories_yields_nothing(tmp_path: Path) -> None:
    make_dataset(tmp_path, (3,))
    loader = DataLoader(RolloutDataset(tmp_path, 1, device="cpu"), batch_size=None, num_workers=2)
    assert [float(t.observation[0, 0]) for t in loader] == [0, 1, 2]


def test_workers_shuffle_anew_in_every_epoch_and_repeat_with_the_seed(tmp_path: Path) -> None:
    make_dataset(tmp_path, (1,) * 10)

    def epochs() -> list[list[float]]:
        th.manual_seed(0)
        rollouts = RolloutDataset(tmp_path, 1, random_shuffle_traj_order=True, seed=0, device="cpu")
        loader = DataLoader(rollouts, batch_size=None, num_workers=1)
        return [[float(t.observation[0, 0]) for t in loader] for _ in range(2)]

    first, second = epochs()
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs() == [first, second]


class Counting(RolloutFileBase):
    """The smallest file format: one number per environment."""

    def reset_all(self) -> None:
        self.counts = th.zeros(self.num_envs)

    def refresh_handlers(self, env_ids) -> None:
        self.counts[list(env_ids)] = 0

    def get_buffer(self, n: int) -> Transition:
        def empty() -> th.Tensor:
            return th.empty(n, self.num_envs)

        return Transition(*(empty() for _ in range(9)), {"count": empty()})

    def fill_transition(self, buffer: Transition, step: int) -> None:
        if self.counts.max() >= 5:
            raise StopIteration
        for tensor in buffer[:-1]:
            tensor[step] = self.counts
        buffer.extras["count"][step] = self.counts
        self.counts += 1


def test_the_base_class_does_with_five_methods(tmp_path: Path) -> None:
    files = Counting(tmp_path, 3, device="cpu")
    assert files.get_batch().observation.tolist() == [0, 0, 0]
    assert files.get_batch(2).extras["count"].tolist() == [[1, 1, 1], [2, 2, 2]]
    files.reset([1])
    assert files.get_batch().reward.tolist() == [3, 0, 3]
    assert [t.action[0].item() for t in DataLoader(files, batch_size=None)] == [0, 1, 2, 3, 4]
    assert [t.action[0].item() for t in files] == [0, 1, 2, 3, 4]


def test_the_base_class_is_abstract(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"abstract"):
        RolloutFileBase(tmp_path, 1)


@pytest.mark.parametrize(("name", "expected"), [("traj_000003_000010.npz", (3, 10))])
def test_frame_range(name: str, expected: tuple[int, int]) -> None:
    assert get_frame_range(Path("a") / name) == expected
    assert RolloutDataset.get_frame_range(name) == expected


@pytest.mark.parametrize("name", ["traj_3_3.npz", "traj_5_2.npz", "traj_1_2.pickle", "x.npz"])
def test_names_without_frames_are_refused(name: str) -> None:
    with pytest.raises(StrlValueError, match=r"names no frames. Expected 'traj_<start>_<end>.npz'"):
        get_frame_range(name)


def change(dataset: Path, name: str, values: np.ndarray, number: int = 0) -> Path:
    """Replace one field in the first file of a trajectory."""
    path = sorted((dataset / f"trajectory_{number}").glob("*.npz"))[0]
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive) | {name: values}
    np.savez(path, **arrays)
    return path


def test_nan_is_refused_with_folder_field_and_frame(dataset: Path) -> None:
    values = np.ones((3, 2), np.float32)
    values[2, 1] = np.nan
    change(dataset, "obs/policy", values)
    with pytest.raises(NonFiniteError, match=r"trajectory_0' holds NaN .* 'obs/policy', frame 2"):
        list(RolloutDataset(dataset, 1, device="cpu"))


def test_a_truncated_file_is_refused_by_name(dataset: Path) -> None:
    path = dataset / "trajectory_1" / "traj_000000_000002.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StrlValueError, match=r"traj_000000_000002.npz': the file cannot be read"):
        list(RolloutDataset(dataset, 1, device="cpu"))


def test_objects_are_refused_and_not_executed(dataset: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path.touch, (dataset / "executed",)

    change(dataset, "rewards", np.array([Bomb()] * 3, dtype=object))
    with pytest.raises(StrlValueError, match=r"cannot be read"):
        list(RolloutDataset(dataset, 1, device="cpu"))
    assert not (dataset / "executed").exists()


def test_wrong_rows_and_shapes_are_refused(dataset: Path) -> None:
    change(dataset, "rewards", np.zeros(2, np.float32))
    with pytest.raises(StrlValueError, match=r"'rewards' has 2 rows. Expected 3, as the file's"):
        list(RolloutDataset(dataset, 1, device="cpu"))


def test_another_robot_in_the_same_folder_is_refused(dataset: Path) -> None:
    change(dataset, "obs/policy", np.zeros((2, 9), np.float32), number=1)
    with pytest.raises(StrlValueError, match=r"'obs/policy' has shape \(9,\) in a frame. Expected"):
        list(RolloutDataset(dataset, 1, device="cpu"))


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, kind: type) -> None:
    dataset = make_dataset(tmp_path, (5, 2))
    change(dataset, "actions", np.ones((2, 1), kind), number=1)
    message = rf"trajectory_1': field 'actions' is of type {kind.__name__}. Expected float32"
    with pytest.raises(StrlValueError, match=message):
        list(RolloutDataset(dataset, 1, device="cpu"))
    assert len(list(read_rollouts(dataset))) == 2  # each one for itself is in order
    change(dataset, "obs/policy", np.ones((3, 2), kind))
    with pytest.raises(
        StrlValueError, match=f"obs/policy' is of type float32. Expected {kind.__name__}"
    ):
        list(read_rollouts(dataset))


def test_floating_numbers_of_other_precision_and_whole_rewards_are_read(dataset: Path) -> None:
    change(dataset, "actions", np.full((2, 1), 7.0, np.float64), number=1)
    change(dataset, "rewards", np.array([3, 4], np.int64), number=1)
    batches = [b for b in RolloutDataset(dataset, 1, device="cpu") if b.action[0, 0] == 7]
    assert [b.reward.item() for b in batches] == [3.0, 4.0]


def test_a_field_that_comes_and_goes_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, (2, 2))
    change(dataset, "label", np.zeros(2))
    with pytest.raises(StrlValueError, match=r"field 'label' is missing. Expected it"):
        list(RolloutDataset(dataset, 1, device="cpu"))


def test_an_episode_that_ends_inside_a_folder_is_refused(dataset: Path) -> None:
    change(dataset, "dones", np.array([False, True, False]))
    with pytest.raises(StrlValueError, match=r"trajectory_0' is done at frame 1 of 5"):
        list(RolloutDataset(dataset, 1, device="cpu"))


def test_missing_files_within_a_trajectory_are_refused(dataset: Path) -> None:
    (dataset / "trajectory_0" / "traj_000000_000003.npz").unlink()
    with pytest.raises(StrlValueError, match=r"begins at frame 3. Expected 0: a file is missing"):
        RolloutDataset(dataset, 1, device="cpu").get_batch()


@pytest.mark.parametrize("text", ["{", '{"format": "other"}', "[1]"])
def test_foreign_metadata_is_refused(dataset: Path, text: str) -> None:
    (dataset / "metadata.json").write_text(text)
    with pytest.raises(StrlValueError, match=r"metadata.json': (this is no JSON|the format is)"):
        RolloutDataset(dataset, 1, device="cpu").get_batch()


def test_metadata_is_needed_only_for_segments(dataset: Path) -> None:
    (dataset / "metadata.json").unlink()
    assert frames(RolloutDataset(dataset, 1, device="cpu")) == all_frames(5, 2, 4)


def test_metadata_with_wrong_segments_is_refused(dataset: Path) -> None:
    metadata = json.loads((dataset / "metadata.json").read_text())
    metadata["obs_segments"] = {"policy": [1, 2]}
    (dataset / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(StrlValueError, match=r"obs_segments is .* Expected \{group"):
        RolloutDataset(dataset, 1, device="cpu").get_batch()


def test_unknown_groups_are_refused(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 1, device="cpu", groups=("polici", "critic"))
    with pytest.raises(StrlKeyError, match=r"no field 'obs/polici'. Did you mean 'obs/policy'"):
        rollouts.get_batch()


def test_an_empty_folder_is_refused_and_a_missing_one_too(tmp_path: Path) -> None:
    (tmp_path / "trajectory_0").mkdir()
    with pytest.raises(StrlValueError, match=r"holds 0 trajectories. Expected at least 1"):
        RolloutDataset(tmp_path, 1, device="cpu").get_batch()
    with pytest.raises(FileNotFoundError, match=r"there is no folder"):
        RolloutDataset(tmp_path / "nowhere", 1, device="cpu").get_batch()


def test_waits_for_trajectories_until_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path, (2,))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        write_trajectory(tmp_path, len(slept), 1)

    monkeypatch.setattr("sb3_strl.data.rollout_dataset.time.sleep", sleep)
    rollouts = RolloutDataset(
        tmp_path, 1, keep_latest_n_trajs=3, poll_interval=7.0, max_wait=60.0, device="cpu"
    )
    assert frames(rollouts) == [0, 1, 1000, 2000]
    assert slept == [7.0, 7.0]


def test_waiting_has_an_end(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2,))
    rollouts = RolloutDataset(tmp_path, 1, keep_latest_n_trajs=2, device="cpu")
    with pytest.raises(StrlValueError, match=r"holds 1 trajectories. Expected at least 2"):
        rollouts.get_batch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"num_envs": 1, "starting_frame_range": (2, 2)}, r"starting_frame_range is \[2, 2\)"),
        ({"num_envs": 1, "starting_frame_range": (-1, 2)}, r"starting_frame_range is \[-1, 2\)"),
        ({"num_envs": 1, "keep_latest_n_trajs": -1}, "keep_latest_n_trajs=-1"),
        ({"num_envs": 1, "poll_interval": 0.0}, "poll_interval=0.0"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        RolloutDataset(tmp_path, device="cpu", **options)


def test_calls_that_cannot_work(dataset: Path) -> None:
    rollouts = RolloutDataset(dataset, 2, device="cpu")
    with pytest.raises(StrlValueError, match=r"there are no environments \[2\]"):
        rollouts.reset([2])
    with pytest.raises(StrlValueError, match=r"n is 0. Expected at least 1"):
        rollouts.get_batch(0)
