from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data.shards import write_shard
from sb3_strl.data.trajectory import Trajectory, read_rollouts, write_rollouts
from tests.data.rollout_tools import make_dataset
from tests.data.trajectory_tools import make_trajectories, same


def float32_rewards(trajectory: Trajectory) -> Trajectory:
    assert trajectory.rews is not None
    rews = trajectory.rews.astype(np.float32)
    return Trajectory(trajectory.obs, trajectory.acts, rews, trajectory.terminal)


def by_length(trajectories: list[Trajectory]) -> list[Trajectory]:
    return sorted(trajectories, key=len)


@pytest.mark.parametrize("names", [(), ("policy", "critic")])
def test_rollout_files_give_back_what_was_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    written = make_trajectories((3, 1, 600), names=names)
    write_rollouts(written, tmp_path)
    read = list(read_rollouts(tmp_path, groups=names or "policy"))
    assert len(list((tmp_path / "trajectory_2").iterdir())) == 3  # several files for a long one
    for one, other in zip(by_length(written), by_length(read), strict=True):
        same(float32_rewards(one), other)


def test_a_dataset_becomes_demonstrations_with_true_last_observations(tmp_path: Path) -> None:
    make_dataset(tmp_path, (5, 2), truncated=(1,))
    first, second = read_rollouts(tmp_path)
    assert first.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert first.acts[:, 0].tolist() == [0, 10, 20, 30, 40]
    assert (first.terminal, second.terminal) == (True, False)


def test_without_the_last_observation_the_last_action_is_left_out(tmp_path: Path) -> None:
    fields = {"obs/policy": np.arange(3.0)[:, None], "actions": np.ones((3, 1))}
    write_shard(tmp_path / "trajectory_0" / "traj_0_3.npz", fields | {"dones": np.eye(3)[2] > 0})
    write_shard(tmp_path / "trajectory_1" / "traj_0_1.npz", {k: v[:1] for k, v in fields.items()})
    (only,) = read_rollouts(tmp_path)
    assert only.obs[:, 0].tolist() == [0, 1, 2]
    assert len(only) == 2
    assert not only.terminal


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, (2,))
    with pytest.raises(StrlValueError, match=r"no field 'labels'. Expected one of .*'actions'"):
        list(read_rollouts(tmp_path, actions="labels"))


OBS, ACTS = np.zeros((4, 2)), np.zeros((3, 1))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"obs": OBS[:3]},
            StrlValueError,
            r"'obs' has shape \(3, 2\) beside 3 actions. Expected 4",
        ),
        ({"obs": {"a": OBS, "b": OBS[1:]}}, StrlValueError, r"\"?obs\['b'\]' has shape \(3, 2\)"),
        ({"obs": OBS[:1], "acts": ACTS[:0]}, StrlValueError, r"at least one action"),
        ({"obs": OBS * np.nan}, NonFiniteError, r"'obs' holds NaN"),
        ({"acts": np.array([None] * 3)}, StrlTypeError, r"'acts' is of type object"),
        ({"rews": np.zeros(2)}, StrlValueError, r"'rews' has shape \(2,\)"),
        ({"rews": np.zeros(3, int)}, StrlValueError, r"'rews' is int64 \(3,\). Expected floating"),
        ({"infos": [{}]}, StrlValueError, r"there are 1 infos. Expected 3, or None"),
    ],
)
def test_demonstrations_that_do_not_fit(fields: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trajectory(**({"obs": OBS, "acts": ACTS} | fields))
