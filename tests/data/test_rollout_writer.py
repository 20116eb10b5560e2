from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.data.rollout_writer import RolloutWriter, TrajectorySummary
from sb3_strl.data.shards import (
    Shard,
    compress_normalized_image,
    decompress_normalized_image,
    write_shard,
)
from tests.data.rollout_tools import dataset, make_dataset, write_trajectory

__all__ = ["dataset"]

STEPS, ENVS = 6, 2


def steps(ends: dict[tuple[int, int], str], start: int = 0) -> dict:
    """Arguments of one call of ``write``: counters, with the named ends at (step, env)."""
    time = np.arange(start, start + STEPS, dtype=np.float32)[:, None] + 100.0 * np.arange(ENVS)
    flags = {name: np.zeros((STEPS, ENVS), bool) for name in ("terminated", "truncated")}
    for place, name in ends.items():
        flags[name][place] = True
    obs = time.astype(np.float32)[..., None]
    return {
        "obs": {"policy": obs},
        "actions": -obs,
        "rewards": time,
        "final_obs": {"policy": obs + 0.5},
        **flags,
    }


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def totals(folder: Path) -> tuple[int, int]:
    metadata = json.loads((folder / "metadata.json").read_text())
    return metadata["total_trajectories"], metadata["total_timesteps"]


def test_trajectories_are_divided_where_they_end(tmp_path: Path) -> None:
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**steps({(1, 0): "terminated", (5, 0): "truncated", (3, 1): "terminated"}))
        # What has not ended is not shown yet.
        assert {p.name for p in tmp_path.glob("trajectory_*")} == {
            f"trajectory_{i}" for i in range(3)
        }
        writer.write(**steps({(0, 1): "truncated"}, start=6))
    # Numbers are given in the order in which files begin.
    assert names(tmp_path) == [
        "metadata.json",
        "trajectory_0/traj_000000_000002.npz",
        "trajectory_1/traj_000000_000004.npz",
        "trajectory_2/traj_000000_000004.npz",
        "trajectory_3/traj_000000_000002.npz",
        "trajectory_3/traj_000002_000003.npz",
        "trajectory_4/traj_000000_000006.npz",
        "trajectory_5/traj_000000_000005.npz",
    ]
    assert totals(tmp_path) == (6, 24)


def recorded(folder: Path) -> list[list[float]]:
    """Observations of all trajectories, sorted."""
    walks: list[list[float]] = [[]]
    for batch in RolloutDataset(folder, 1, device="cpu"):
        walks[-1].append(float(batch.observation[0, 0]))
        if batch.done:
            walks.append([])
    return sorted(walks[:-1])


def test_what_is_recorded_is_what_is_loaded(tmp_path: Path) -> None:
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**steps({(1, 0): "terminated", (3, 1): "truncated"}))
    assert recorded(tmp_path) == [[0, 1], [2, 3, 4, 5], [100, 101, 102, 103], [104, 105]]
    for batch in RolloutDataset(tmp_path, 1, device="cpu"):
        step = float(batch.observation[0, 0])
        assert batch.action[0, 0] == -step
        assert batch.reward[0] == step
        if batch.done:
            assert batch.next_observation[0, 0] == step + 0.5  # the true successor
            assert batch.timeout[0] == (step in (103, 5, 105))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", [[0, 1], [2, 3, 4], [100, 101, 102, 103], [104], [105], [5]]),
        ("truncated", [[0, 1], [104]]),
        ("terminated", [[2, 3, 4], [100, 101, 102, 103]]),
        (lambda traj: traj.length == 2 or traj.total_reward == 406, [[0, 1], [100, 101, 102, 103]]),
        (lambda traj: traj.env == 1 and traj.terminated, [[100, 101, 102, 103]]),
    ],
)
def test_keep_chooses_and_totals_agree(tmp_path: Path, keep, expected: list[list[float]]) -> None:
    ends = {(1, 0): "truncated", (4, 0): "terminated", (3, 1): "terminated", (4, 1): "truncated"}
    with RolloutWriter(tmp_path, ENVS, keep=keep) as writer:
        writer.write(**steps(ends))
    assert recorded(tmp_path) == sorted(expected)
    assert totals(tmp_path) == (len(expected), sum(map(len, expected)))
    assert writer.discarded_trajectories == (0 if keep == "all" else 4 - len(expected))
    assert not list(tmp_path.glob(".trajectory*"))


def test_discarded_files_of_earlier_flushes_are_gone(tmp_path: Path) -> None:
    with RolloutWriter(tmp_path, ENVS, keep="truncated") as writer:
        writer.write(**steps({}))
        writer.write(**steps({(2, 0): "terminated", (2, 1): "truncated"}, start=6))
    assert recorded(tmp_path) == [[100 + t for t in range(9)]]
    assert totals(tmp_path) == (1, 9)


def test_a_summary_tells_both_ends_apart(tmp_path: Path) -> None:
    seen: list[TrajectorySummary] = []
    with RolloutWriter(tmp_path, ENVS, keep=lambda t: bool(seen.append(t)) or True) as writer:
        both = steps({(1, 0): "terminated", (2, 1): "truncated"})
        both["truncated"][1, 0] = True  # terminated wins
        writer.write(**both)
    assert seen[0] == TrajectorySummary(0, 2, 1.0, True, False)
    assert seen[1] == TrajectorySummary(1, 3, 303.0, False, True)


@pytest.mark.parametrize("save_partial", [True, False])
def test_unfinished_tails_are_kept_as_cut_or_dropped(tmp_path: Path, save_partial: bool) -> None:
    with RolloutWriter(tmp_path, ENVS, save_partial=save_partial) as writer:
        writer.write(**steps({(3, 0): "terminated"}))
    if not save_partial:
        assert recorded(tmp_path) == [[0, 1, 2, 3]]
        return
    last = [b for b in RolloutDataset(tmp_path, 1, device="cpu") if b.done]
    assert [b.timeout.item() for b in last].count(True) == 2
    assert {float(b.next_observation) for b in last} == {3.5, 5.5, 105.5}


def test_resumes_after_a_crash_and_loses_nothing(tmp_path: Path) -> None:
    crashed = RolloutWriter(tmp_path, ENVS)
    crashed.write(**steps({(3, 0): "terminated"}))
    (tmp_path / ".trajectory_2.partial" / ".traj_000002_000009.npz.tmp").write_bytes(b"half")
    del crashed  # never closed; nothing happens at collection either
    assert recorded(tmp_path) == [[0, 1, 2, 3]]
    with RolloutWriter(tmp_path, ENVS) as writer:
        assert (writer.total_trajectories, writer.total_timesteps) == (3, 12)
        writer.write(**steps({(5, 0): "terminated", (5, 1): "terminated"}, start=20))
    tails = [[4, 5], [100, 101, 102, 103, 104, 105]]
    fresh = [[20 + t for t in range(6)], [120 + t for t in range(6)]]
    assert recorded(tmp_path) == sorted([[0, 1, 2, 3], *tails, *fresh])
    assert totals(tmp_path) == (5, 24)
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**steps({}))
        for _ in range(2):
            with pytest.raises(StrlValueError, match=r"is open in another writer.*Expected one at"):
                RolloutWriter(tmp_path, ENVS)
        writer.write(**steps({(1, 0): "terminated"}, start=6))
    with pytest.raises(StrlValueError, match=r"is written after close\(\). Expected an open"):
        writer.write(**steps({}))
    with pytest.raises(StrlValueError, match="was recorded with obs_segments"):
        RolloutWriter(tmp_path, ENVS, {"policy": {"a": (1,)}})  # and lets the folder go
    with RolloutWriter(tmp_path, ENVS) as writer:
        assert (writer.total_trajectories, writer.total_timesteps) == (3, 24)
        writer.end_trajectories()  # the recording goes on
        writer.write(**steps({}))


def test_a_writer_in_another_process_holds_the_folder_until_it_dies(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{code}; print('held', flush=True); input()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StrlValueError, match=r"is open in another writer"):
            RolloutWriter(tmp_path, ENVS)
        process.kill()
    RolloutWriter(tmp_path, ENVS).close()
    assert names(tmp_path) == ["metadata.json"]


def test_forked_children_do_not_keep_a_closed_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    writer = RolloutWriter(tmp_path, ENVS)
    inherited = os.dup(writer._lock._handle)  # what a fork does with it
    try:
        writer.close()
        RolloutWriter(tmp_path, ENVS).close()
    finally:
        os.close(inherited)


def crashed_writer(folder: Path) -> None:
    """Leave .trajectory_0.partial, in two files, and .trajectory_1.partial behind."""
    writer = RolloutWriter(folder, ENVS)
    writer.write(**steps({}))
    writer.write(**steps({}, start=6))


def test_what_two_programs_left_is_refused_with_a_sentence(tmp_path: Path) -> None:
    crashed_writer(tmp_path)
    (tmp_path / "trajectory_0").mkdir()
    (tmp_path / "trajectory_0" / "notes.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(
            StrlValueError, match=r"partial' cannot become 'trajectory_0', which is"
        ):
            RolloutWriter(tmp_path, ENVS)
    (tmp_path / "trajectory_0").rename(tmp_path / "trajectory_7")  # no frames: left as it is
    (tmp_path / ".trajectory_0.partial" / "traj_000000_000006.npz").unlink()
    with pytest.raises(StrlValueError, match=r"begins at frame 6. Expected 0: a file is missing"):
        RolloutWriter(tmp_path, ENVS)
    with RolloutWriter(tmp_path, ENVS, save_partial=False) as writer:
        assert writer.total_trajectories == 0
        writer.write(**steps({(5, 0): "truncated", (5, 1): "truncated"}))
    assert "trajectory_8/traj_000000_000006.npz" in names(tmp_path)


def test_a_lying_counter_is_corrected_and_empty_folders_are_reused(tmp_path: Path) -> None:
    write_trajectory(tmp_path, 0, 4)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    metadata["total_timesteps"] = 999
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "trajectory_1").mkdir()
    write_trajectory(tmp_path, 1, 2)
    assert totals(tmp_path) == (2, 6)
    assert recorded(tmp_path) == [[0, 1, 2, 3], [1000, 1001]]


def test_a_failed_constructor_touches_nothing(dataset: Path) -> None:
    before = names(dataset)
    with pytest.raises(StrlValueError, match=r"was recorded with obs_segments=\{\}, given is"):
        RolloutWriter(dataset, 1, {"policy": {"a": (2,)}})
    assert names(dataset) == before
    with pytest.raises(StrlTypeError, match=r"config cannot be written as JSON"):
        RolloutWriter(dataset, 1, config={"model": object()})
    assert names(dataset) == before


def test_numpy_numbers_do_not_harm_the_metadata(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path, ENVS, config={"seed": 3})
    writer.total_timesteps = np.int32(5)
    writer.close()
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["total_timesteps"] == 5
    assert metadata["config"] == {"seed": 3}


def test_a_segment_is_stored_in_one_byte_and_comes_back_within_half_a_step(tmp_path: Path) -> None:
    segments = {"policy": {"speed": (1,), "depth": (2, 4)}}
    rng = np.random.default_rng(0)
    obs = rng.random((STEPS, ENVS, 9), dtype=np.float32) * 1.2 - 0.1
    obs[..., 0] *= 50
    call = steps({(5, 0): "terminated", (5, 1): "terminated"}) | {
        "obs": {"policy": obs},
        "final_obs": {"policy": obs + 0.01},
    }
    with RolloutWriter(tmp_path, ENVS, segments, {"depth": "normalized_image"}) as writer:
        writer.write(**call)
    shard = Shard(tmp_path / "trajectory_0" / "traj_000000_000006.npz")
    assert shard.members["obs/policy/depth"].dtype == np.uint8
    assert "obs/policy" not in shard.members
    batch = RolloutDataset(tmp_path, ENVS, device="cpu").get_batch(STEPS)
    assert batch.observation.shape == (STEPS, ENVS, 9)
    assert th.equal(batch.observation[..., 0], th.from_numpy(obs[..., 0]))
    clipped = th.from_numpy(obs[..., 1:]).clamp(0, 1)
    assert (batch.observation[..., 1:] - clipped).abs().max() <= 1 / 510 + 1e-6
    final = th.from_numpy(obs[-1, :, 1:] + 0.01).clamp(0, 1)
    assert (batch.next_observation[-1, :, 1:] - final).abs().max() <= 1 / 510 + 1e-6


def test_image_codec_rounds(tmp_path: Path) -> None:
    values = np.array([0.0, 1.0, 0.4999, 0.999, -3.0, 7.0], np.float32)
    assert compress_normalized_image(values).tolist() == [0, 255, 127, 255, 0, 255]
    grid = np.linspace(0, 1, 4001, dtype=np.float32)
    error = np.abs(decompress_normalized_image(compress_normalized_image(grid)) - grid)
    assert error.max() <= 1 / 510 + 1e-7
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(compress_normalized_image(decompress_normalized_image(every)), every)


def test_extra_fields_and_groups_come_back_under_their_names(tmp_path: Path) -> None:
    call = steps({(5, 0): "terminated", (5, 1): "terminated"})
    call["obs"]["camera"] = np.full((STEPS, ENVS, 2, 3), 7, np.uint8)
    call["final_obs"]["camera"] = np.full((STEPS, ENVS, 2, 3), 8, np.uint8)
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**call, extras={"labels": call["actions"] * 2})
    batch = RolloutDataset(tmp_path, ENVS, device="cpu").get_batch(STEPS)
    assert set(batch.extras) == {"labels", "obs/camera", "next_obs/camera"}
    assert th.equal(batch.extras["labels"], batch.action * 2)
    assert batch.extras["obs/camera"].dtype == th.uint8
    assert (batch.extras["next_obs/camera"][-1] == 8).all()
    assert (batch.extras["next_obs/camera"][:-1] == 7).all()


def test_unknown_final_observations_are_left_out(tmp_path: Path) -> None:
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**steps({(5, 0): "terminated"}) | {"final_obs": None})
    last = [b for b in RolloutDataset(tmp_path, 1, device="cpu") if b.done]
    assert all(th.equal(b.next_observation, b.observation) for b in last)
    assert sorted(b.timeout.item() for b in last) == [False, True]


def changed(key: str, value) -> dict:
    call = steps({(5, 0): "terminated"})
    call[key] = value
    return call


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (changed("rewards", np.zeros((STEPS, 3))), StrlValueError, r"has shape \(6, 3\). Expected"),
        (changed("actions", np.zeros((5, ENVS, 1))), StrlValueError, r"'actions' has shape \(5, 2"),
        (changed("actions", np.full((STEPS, ENVS, 1), np.inf)), NonFiniteError, r"'actions' holds"),
        (changed("actions", np.full((STEPS, ENVS), "a")), StrlTypeError, r"of type <U1. Expected"),
        (
            changed("final_obs", {"x": np.zeros((STEPS, ENVS, 1))}),
            StrlValueError,
            r"groups \['policy'\], final_obs \['x'\]",
        ),
        (
            changed("final_obs", {"policy": np.full((STEPS, ENVS, 1), np.nan)}),
            NonFiniteError,
            r"'final_obs/policy' holds NaN",
        ),
    ],
)
def test_bad_steps_are_refused_and_nothing_is_written(
    tmp_path: Path, call: dict, error: type[Exception], message: str
) -> None:
    writer = RolloutWriter(tmp_path, ENVS)
    with pytest.raises(error, match=message):
        writer.write(**call)
    assert names(tmp_path) == ["metadata.json"]


def test_final_observations_are_only_looked_at_where_they_count(tmp_path: Path) -> None:
    call = steps({(3, 0): "terminated"})
    call["final_obs"]["policy"][:3] = np.nan
    with RolloutWriter(tmp_path, ENVS) as writer:
        writer.write(**call)
    assert len(recorded(tmp_path)) == 3


def test_later_calls_must_look_like_earlier_ones(dataset: Path) -> None:
    writer = RolloutWriter(dataset, ENVS)
    call = steps({})
    call["obs"] = call["final_obs"] = {"policy": np.zeros((STEPS, ENVS, 2))}
    with pytest.raises(StrlValueError, match=r"fields are .* Expected .* as before"):
        writer.write(**call)
    call["obs"] = call["final_obs"] = {
        "policy": np.zeros((STEPS, ENVS, 3)),
        "critic": np.zeros((STEPS, ENVS, 1)),
    }
    with pytest.raises(StrlValueError, match=r"'obs/policy' has shape .* and then \(2,\)"):
        writer.write(**call)


@pytest.mark.parametrize(
    ("before", "after", "fitting"),
    [
        ("uint8", "float32", False),  # 0.7 would become 0
        ("int64", "float32", False),
        ("float32", "uint8", False),
        ("uint8", "int64", False),
        ("int32", "int64", False),
        ("int64", "int32", True),
        ("float32", "float64", True),
        ("float64", "float16", True),
    ],
)
@pytest.mark.parametrize("field", ["obs", "actions", "final_obs"])
def test_numbers_of_another_kind_are_refused(
    tmp_path: Path, before: str, after: str, fitting: bool, field: str
) -> None:
    def call(kind: str) -> dict:
        call = steps({})
        values = np.ones((STEPS, ENVS, 1), before)
        call |= {"actions": values, "obs": {"policy": values}, "final_obs": {"policy": values}}
        values = values.astype(kind)
        return call | {field: values if field == "actions" else {"policy": values}}

    with RolloutWriter(tmp_path, ENVS) as writer:
        if field != "final_obs":
            writer.write(**call(before))
        if fitting:
            writer.write(**call(after))
            return
        name = {"obs": "obs/policy", "final_obs": "final_obs/policy"}.get(field, field)
        with pytest.raises(StrlTypeError, match=f"'{name}' is of type {after}. Expected {before}"):
            writer.write(**call(after))
    if field != "final_obs":
        with RolloutWriter(tmp_path, ENVS) as writer, pytest.raises(StrlTypeError, match=after):
            writer.write(**call(after))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, r"num_envs=0"),
        ({"num_envs": 1, "keep": "best"}, r"keep='best'. Expected"),
        (
            {"num_envs": 1, "obs_disassemble_mapping": {"depth": "normalized_image"}},
            r"segment 'depth' is to be stored as 'normalized_image'. Expected .* segments \[\]",
        ),
        (
            {
                "num_envs": 1,
                "obs_segments": {"policy": {"depth": (3,)}},
                "obs_disassemble_mapping": {"depth": "jpeg"},
            },
            r"stored as 'jpeg'. Expected 'normalized_image'",
        ),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        RolloutWriter(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_segments_must_add_up(tmp_path: Path) -> None:
    writer = RolloutWriter(
        tmp_path, ENVS, {"policy": {"depth": (3,)}}, {"depth": "normalized_image"}
    )
    with pytest.raises(StrlValueError, match=r"shape \(1,\) in a frame. Expected \(3,\)"):
        writer.write(**steps({}))


def test_shards_hold_no_objects(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"'a' holds Python objects"):
        write_shard(tmp_path / "x.npz", {"a": np.array([None])})
    assert not list(tmp_path.iterdir())


def test_shards_are_plain_npz(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2,))
    with np.load(
        tmp_path / "trajectory_0" / "traj_000000_000002.npz", allow_pickle=False
    ) as archive:
        assert archive["obs/policy"].tolist() == [[0, 0], [1, -1]]


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_read_from_files_of_other_programs(tmp_path: Path, compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    values = np.arange(12.0).reshape(4, 3)
    save(tmp_path / "a.npz", a=values, f=np.asfortranarray(values))
    shard = Shard(tmp_path / "a.npz")
    for name in "af":
        assert np.array_equal(shard.read(name, 1, 3), values[1:3])
    with pytest.raises(KeyError, match=r"there is no array 'b'"):
        shard.read("b")
    with pytest.raises(StrlValueError, match=r"Expected rows 3 to 6"):
        shard.read("a", 3, 6)
