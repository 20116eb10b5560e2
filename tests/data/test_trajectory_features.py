from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data import Trajectory, TrajectoryFeatures


def numbered(*lengths: int) -> list[Trajectory]:
    """Observation t of demonstration d is (100 d + t, -t)."""
    made = []
    for number, steps in enumerate(lengths):
        t = np.arange(steps + 1, dtype=np.float32)
        made.append(Trajectory(np.stack((100 * number + t, -t), -1), np.zeros((steps, 1))))
    return made


def test_windows_are_every_window_of_one_demonstration() -> None:
    source = TrajectoryFeatures(numbered(4, 1, 3), lambda obs: obs, n_frames=3)
    windows = source.windows(th.arange(len(source)))
    assert windows[..., 0].tolist() == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [200, 201, 202],
        [201, 202, 203],
    ]
    assert th.equal(windows[..., 1], -(windows[..., 0] % 100))


def test_frames_lie_apart() -> None:
    source = TrajectoryFeatures(numbered(5, 3), lambda obs: obs[:, :1], n_frames=2, frame_step=4)
    assert source.windows(th.arange(len(source))).flatten(1).tolist() == [[0, 4], [1, 5]]


def test_samples_are_whole_windows_all_equally_likely() -> None:
    source = TrajectoryFeatures(numbered(9, 4), lambda obs: obs, n_frames=3)
    drawn = source.sample_features(13_000, th.Generator().manual_seed(0))
    assert drawn.shape == (13_000, 6)
    firsts, counts = drawn[:, 0].unique(return_counts=True)
    assert firsts.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102]
    assert (counts.float() / len(drawn) - 1 / 11).abs().max() < 0.01
    assert th.equal(drawn[:, 2], drawn[:, 0] + 1)
    assert th.equal(drawn[:, 4], drawn[:, 0] + 2)


def test_observations_by_name() -> None:
    steps = np.arange(4.0)
    trajectory = Trajectory({"a": steps[:, None], "b": -steps[:, None]}, np.zeros((3, 1)))
    source = TrajectoryFeatures([trajectory], lambda obs: obs["b"] * 2, 1, feature_names=["b"])
    assert source.windows(th.tensor([3])).tolist() == [[[-6.0]]]
    assert source.feature_names == ["b"]


@pytest.mark.parametrize(
    ("lengths", "fn", "options", "error", "message"),
    [
        ((), np.copy, {}, StrlValueError, r"there are no demonstrations"),
        ((2,), np.copy, {"n_frames": 4}, StrlValueError, r"needs 4 observations, but .* has 3"),
        ((2,), np.copy, {"n_frames": 0}, StrlValueError, r"n_frames is 0 and frame_step 1"),
        ((2,), np.copy, {"frame_step": 0}, StrlValueError, r"n_frames is 1 and frame_step 0"),
        ((2,), np.copy, {"feature_names": ["a"]}, StrlValueError, r"1 feature_names, but .* 2 fea"),
        ((2,), lambda obs: obs[1:], {}, StrlValueError, r"shape \(2, 2\) .* Expected shape \(3, F"),
        ((2,), lambda obs: obs[:, 0], {}, StrlValueError, r"shape \(3,\) of demonstration 0"),
        ((2,), lambda obs: obs / 0 * 0, {}, NonFiniteError, r"demonstration 0 hold NaN"),
        ((2, 3), lambda obs: obs[:, : len(obs) - 2], {}, StrlValueError, r"2 features of .* 1 of"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide", "ignore:invalid value")
def test_what_does_not_fit_is_refused(lengths, fn, options, error, message) -> None:
    with pytest.raises(error, match=message):
        TrajectoryFeatures(numbered(*lengths), fn, **({"n_frames": 1} | options))


def test_foreign_objects_are_refused() -> None:
    with pytest.raises(StrlTypeError, match=r"demonstration 0 is a dict.* from_imitation"):
        TrajectoryFeatures([{}], np.copy, 1)
