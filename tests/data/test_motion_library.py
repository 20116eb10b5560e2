"""Identifiable clips through the library: every number says which clip and frame it comes from."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.data import Motion, MotionLibrary

CLIPS = Path(__file__).parents[2] / "sb3_strl" / "envs" / "assets" / "motions"
FPS = 10.0


def counter(clip: int, n_frames: int, **changes: Any) -> Motion:
    """A clip whose value is ``1000 * clip + frame``."""
    values = 1000.0 * clip + np.arange(n_frames, dtype=np.float64)[:, None]
    options = {"name": f"clip{clip}", "fields": {"count": values}, "fps": FPS, **changes}
    return Motion(**options)


def circle(n_frames: int = 21, x_speed: float = 2.0) -> Motion:
    """A closed cycle of period 2 s whose root goes on: ``(sin, cos)`` of the phase, and ``x``."""
    time = np.linspace(0.0, 2.0, n_frames)
    phase = math.pi * time
    return Motion(
        name="circle",
        fields={
            "joint_pos": np.stack((np.sin(phase), np.cos(phase)), axis=1),
            "root_pos": np.stack((x_speed * time, 1.0 + 0.1 * np.cos(phase)), axis=1),
            "root_pitch": 0.1 * np.sin(phase)[:, None],
        },
        columns={"joint_pos": ["hip", "knee"], "root_pos": ["x", "z"], "root_pitch": ["pitch"]},
        fps=(n_frames - 1) / 2.0,
        loop=True,
    )


def spinning(signs: np.ndarray | None = None, loop: bool = False) -> Motion:
    """One turn about z in 2 s, 1 rad/s * pi, as a quaternion field whose signs may flip."""
    angles = np.linspace(0.0, 2.0 * math.pi, 21)
    quats = np.stack((np.cos(angles / 2), np.zeros(21), np.zeros(21), np.sin(angles / 2)), axis=1)
    return Motion(
        name="spin",
        fields={"root_quat": quats if signs is None else quats * signs[:, None]},
        columns={"root_quat": ["w", "x", "y", "z"]},
        fps=FPS,
        loop=loop,
    )


def ids(*values: int) -> th.Tensor:
    return th.tensor(values)


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


class TestInterpolation:
    def test_exact_at_and_between_frames(self) -> None:
        library = MotionLibrary([counter(0, 5), counter(1, 8)])
        state = library.state_at(ids(0, 0, 1, 1, 1), th.tensor([0.0, 0.4, 0.3, 0.34, 0.7]))
        expected = th.tensor([0.0, 4.0, 1003.0, 1003.4, 1007.0]).unsqueeze(1)
        th.testing.assert_close(state["count"], expected, rtol=0, atol=2e-4)

    def test_durations_count_intervals(self) -> None:
        library = MotionLibrary([counter(0, 5), counter(1, 8)])
        th.testing.assert_close(library.durations, th.tensor([0.4, 0.7]))

    def test_times_outside_a_clip_that_ends_are_clamped(self) -> None:
        library = MotionLibrary([counter(0, 5), counter(1, 8), counter(2, 3)])
        counts = library.state_at(ids(1, 1, 1), th.tensor([-3.0, 0.71, 99.0]))["count"]
        th.testing.assert_close(counts.flatten(), th.tensor([1000.0, 1007.0, 1007.0]))

    @pytest.mark.parametrize("lap", [-2, -1, 0, 1, 7])
    def test_period_of_a_loop_is_n_minus_one_intervals(self, lap: int) -> None:
        library = MotionLibrary(circle())
        times = th.tensor([0.05, 0.5, 1.25, 1.95])
        first = library.state_at(ids(0, 0, 0, 0), times)
        later = library.state_at(ids(0, 0, 0, 0), times + 2.0 * lap)
        th.testing.assert_close(later["joint_pos"], first["joint_pos"], rtol=0, atol=1e-5)
        gained = later["root_pos"] - first["root_pos"]
        th.testing.assert_close(gained, th.tensor([4.0 * lap, 0.0]).expand(4, 2), rtol=0, atol=1e-5)

    def test_everything_is_continuous_across_the_seam(self) -> None:
        library = MotionLibrary([CLIPS / "walk.npz"])
        period = library.durations[0].double()
        times = (period + th.linspace(-0.05, 0.05, 201, dtype=th.float64)).float()
        state = library.state_at(th.zeros(201, dtype=th.long), times)
        for name, values in state.items():
            steps = values.diff(dim=0).abs().amax(dim=0)
            # No step at the seam is larger than what the field does elsewhere in 0.5 ms.
            assert steps.max() < 0.1, name
            assert (steps <= 3.0 * values.diff(dim=0).abs().median(dim=0).values + 1e-2).all(), name

    def test_x_grows_steadily_through_many_loops(self) -> None:
        library = MotionLibrary(circle(x_speed=2.0))
        times = th.linspace(-3.0, 9.0, 100)
        x = library.state_at(th.zeros(100, dtype=th.long), times)["root_pos"][:, 0]
        th.testing.assert_close(x, 2.0 * times, rtol=0, atol=1e-4)

    def test_times_of_double_precision(self) -> None:
        library = MotionLibrary(circle())
        state = library.state_at(ids(0), th.tensor([2.5], dtype=th.float64))
        assert state["joint_pos"].dtype == th.float32
        th.testing.assert_close(state["root_pos"][0, 0], th.tensor(5.0))


class TestQuaternions:
    @pytest.mark.parametrize("flip", [False, True])
    def test_slerp_is_the_closed_form_whatever_the_signs(self, flip: bool) -> None:
        signs = np.where(np.arange(21) % 3 == 1, -1.0, 1.0) if flip else np.ones(21)
        library = MotionLibrary(spinning(signs))
        times = th.linspace(0.0, 2.0, 77)
        quats = library.state_at(th.zeros(77, dtype=th.long), times)["root_quat"]
        half = 0.5 * math.pi * times
        zero = th.zeros_like(half)
        expected = th.stack((half.cos(), zero, zero, half.sin()), dim=1)
        th.testing.assert_close(quats, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("loop", [False, True])
    def test_angular_velocity(self, loop: bool) -> None:
        library = MotionLibrary(spinning(np.where(np.arange(21) % 2 == 1, -1.0, 1.0), loop))
        times = th.linspace(0.0, 2.0, 50)
        velocity = library.state_at(th.zeros(50, dtype=th.long), times)["root_ang_vel"]
        th.testing.assert_close(velocity, th.tensor([0.0, 0.0, math.pi]).expand(50, 3))
        assert library.feature_names(["root_ang_vel"]) == [f"root_ang_vel/{c}" for c in "xyz"]

    def test_one_column_of_a_quaternion(self) -> None:
        library = MotionLibrary(spinning())
        window = library.windows(ids(0), th.tensor([0.55]), ["root_quat/z"], 1, 0.1)
        assert window.item() == pytest.approx(math.sin(0.5 * math.pi * 0.55), abs=1e-6)

    @pytest.mark.parametrize("step", [1, -1])  # the other sign is the same rotation
    def test_a_seam_is_reported_by_its_angle(self, step: int) -> None:
        whole = spinning(np.full(21, 1.0) * np.append(np.ones(20), step), loop=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MotionLibrary(whole)
        half = dataclasses.replace(whole, fields={"root_quat": whole.fields["root_quat"][10:]})
        with pytest.warns(UserWarning, match=r"'spin' jumps by 3.14 rad in 'root_quat'.*not loop"):
            MotionLibrary(half)
        MotionLibrary(dataclasses.replace(half, loop=False))

    def test_zero_is_no_rotation(self) -> None:
        motion = spinning(np.append(np.ones(19), [0.0, 0.0]))
        message = r"quaternion 'root_quat' of the clip 'spin' is zero, first in frame 19 \(2 of 21"
        with pytest.raises(StrlValueError, match=message):
            MotionLibrary(motion)


class TestVelocities:
    @pytest.mark.parametrize("frame", [0, 1, 7, 19, 20])
    def test_central_difference_also_at_the_seam(self, frame: int) -> None:
        motion = circle()
        library = MotionLibrary(motion)
        state = library.state_at(ids(0), th.tensor([frame / motion.fps]))
        dt = 1.0 / motion.fps
        around = math.pi * dt * th.tensor([frame - 1.0, frame + 1.0])
        slope = float(around.sin().diff()) / (2 * dt)
        assert state["joint_vel"][0, 0].item() == pytest.approx(slope, abs=1e-4)
        assert state["root_vel"][0, 0].item() == pytest.approx(2.0, abs=1e-4)
        assert state["root_pitch_vel"][0, 0].item() == pytest.approx(0.1 * slope, abs=1e-4)

    def test_one_sided_at_the_ends_of_a_clip_that_ends(self) -> None:
        values = np.array([[0.0], [1.0], [4.0], [9.0]])
        library = MotionLibrary(Motion("square", {"height": values}, fps=FPS))
        velocity = library.state_at(ids(0, 0, 0, 0), th.arange(4) / FPS)["height_vel"]
        th.testing.assert_close(velocity.flatten(), th.tensor([10.0, 20.0, 40.0, 50.0]))

    def test_a_stored_velocity_is_kept(self) -> None:
        fields = {"joint_pos": np.zeros((3, 1)), "joint_vel": np.full((3, 1), 5.0)}
        library = MotionLibrary(Motion("still", fields, fps=FPS))
        assert library.fields == ["joint_pos", "joint_vel"]
        assert library.state_at(ids(0), th.tensor([0.1]))["joint_vel"].item() == 5.0

    def test_the_clips_agree_with_finite_differences(self) -> None:
        library = MotionLibrary([CLIPS / "walk.npz", CLIPS / "run.npz"])
        clip_ids, times = library.sample(500, seeded())
        before = library.state_at(clip_ids, times - 0.01)
        after = library.state_at(clip_ids, times + 0.01)
        state = library.state_at(clip_ids, times)
        for position, velocity, scale in (
            ("joint_pos", "joint_vel", 13.0),
            ("root_pos", "root_vel", 4.0),
            ("root_pitch", "root_pitch_vel", 2.0),
        ):
            slope = (after[position] - before[position]) / 0.02
            assert (slope - state[velocity]).abs().max() < 0.1 * scale, velocity


class TestWindows:
    def test_oldest_first_and_ends_at_the_time(self) -> None:
        library = MotionLibrary([counter(0, 30), counter(1, 30)])
        window = library.windows(ids(1, 0), th.tensor([1.0, 2.0]), ["count"], 4, 0.2)
        expected = th.tensor([[1004.0, 1006, 1008, 1010], [14.0, 16, 18, 20]]).unsqueeze(-1)
        assert window.shape == (2, 4, 1)
        th.testing.assert_close(window, expected, rtol=0, atol=1e-3)

    def test_never_cross_clips(self) -> None:
        motions = [counter(i, n) for i, n in enumerate((12, 30, 11, 57))]
        library = MotionLibrary(motions)
        clip_ids, times = library.sample(4000, seeded(), n_frames=5, frame_dt=0.25)
        counts = library.windows(clip_ids, times, ["count"], 5, 0.25).squeeze(-1)
        assert set(clip_ids.tolist()) == {0, 1, 2, 3}
        th.testing.assert_close(
            (counts / 1000 + 1e-6).floor(), clip_ids.unsqueeze(1).float().expand(-1, 5)
        )
        # Sampled windows are whole: the frames are 2.5 apart, none is held back by an end.
        th.testing.assert_close(counts.diff(dim=1), th.full((4000, 4), 2.5), rtol=0, atol=2e-3)
        frames = counts - 1000.0 * clip_ids.unsqueeze(1)
        lengths = th.tensor([m.n_frames for m in motions])[clip_ids]
        assert frames.min() > -1e-3
        assert (frames[:, -1] <= lengths - 1 + 1e-3).all()

    def test_a_given_time_too_early_shows_the_first_frame(self) -> None:
        library = MotionLibrary([counter(0, 9), counter(1, 9)])
        window = library.windows(ids(1), th.tensor([0.1]), ["count"], 3, 0.1)
        th.testing.assert_close(window.flatten(), th.tensor([1000.0, 1000.0, 1001.0]))

    def test_a_loop_wraps_in_phase_and_x_goes_on(self) -> None:
        library = MotionLibrary(circle())
        window = library.windows(ids(0), th.tensor([0.1]), ["root_pos/x", "joint_pos/hip"], 4, 0.1)
        times = th.tensor([-0.2, -0.1, 0.0, 0.1])
        expected = th.stack((2.0 * times, (math.pi * times).sin()), dim=1)
        th.testing.assert_close(window[0], expected, rtol=0, atol=1e-5)

    def test_a_window_may_be_longer_than_a_loop(self) -> None:
        window = MotionLibrary(circle()).sample_windows(3, ["root_pos/x"], 50, 0.1, seeded())
        th.testing.assert_close(window.diff(dim=1), th.full((3, 49, 1), 0.2), rtol=0, atol=1e-4)

    def test_a_clip_of_exactly_one_window(self) -> None:
        library = MotionLibrary(counter(0, 4))
        window = library.sample_windows(6, ["count"], 4, 0.1, seeded())
        th.testing.assert_close(window[..., 0], th.arange(4.0).expand(6, 4), rtol=0, atol=1e-4)

    def test_columns_come_in_the_order_asked_for(self) -> None:
        library = MotionLibrary(CLIPS / "walk.npz")
        fields = ["root_pitch_vel", "root_pos/z", "joint_pos", "root_vel", "joint_vel/left_knee"]
        names = library.feature_names(fields)
        assert names[:3] == ["root_pitch_vel/pitch", "root_pos/z", "joint_pos/right_hip"]
        assert names[-3:] == ["root_vel/x", "root_vel/z", "joint_vel/left_knee"]
        clip_ids, times = library.sample(5, seeded())
        window = library.windows(clip_ids, times, fields, 2, 0.02)
        assert window.shape == (5, 2, len(names))
        for newest, moment in ((1, times), (0, times - 0.02)):
            state = library.state_at(clip_ids, moment)
            for column, name in enumerate(names):
                field, _, part = name.partition("/")
                index = [n.split("/")[1] for n in library.feature_names([field])].index(part)
                th.testing.assert_close(window[:, newest, column], state[field][:, index])

    def test_clips_may_store_their_fields_in_any_order(self) -> None:
        first = {"a": np.zeros((3, 1)), "b": np.full((3, 2), 1.0)}
        second = {"b": np.full((3, 2), 2.0), "a": np.full((3, 1), 3.0)}
        library = MotionLibrary([Motion("one", first, fps=FPS), Motion("two", second, fps=FPS)])
        window = library.windows(ids(0, 1), th.tensor([0.1, 0.1]), ["a", "b"], 1, 0.1)
        th.testing.assert_close(window[:, 0], th.tensor([[0.0, 1, 1], [3.0, 2, 2]]))


class TestSampling:
    def test_weights_are_respected(self) -> None:
        library = MotionLibrary([counter(i, 9) for i in range(3)], weights=[1.0, 0.0, 3.0])
        clip_ids, _ = library.sample(20_000, seeded())
        shares = th.bincount(clip_ids, minlength=3) / 20_000
        assert shares[1] == 0.0
        assert shares[2].item() == pytest.approx(0.75, abs=0.015)  # five standard deviations

    def test_a_draw_of_exactly_zero_skips_a_clip_without_weight(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library = MotionLibrary([counter(i, 9) for i in range(3)], weights=[0.0, 1.0, 0.0])
        monkeypatch.setattr(th, "rand", lambda *size, **kwargs: th.zeros(*size))
        assert library.sample(2)[0].tolist() == [1, 1]

    def test_default_weights_count_windows(self) -> None:
        # Windows of 6 frames end at 15 of 20 frames, at 5 of 10, and at each of 20 in a loop.
        flat = {"fields": {"count": np.zeros((21, 1))}, "loop": True}
        library = MotionLibrary([counter(0, 20), counter(1, 10), counter(2, 21, **flat)])
        clip_ids, _ = library.sample(20_000, seeded(), n_frames=6, frame_dt=0.1)
        shares = th.bincount(clip_ids, minlength=3) / 20_000
        th.testing.assert_close(shares, th.tensor([15, 5, 20]) / 40, rtol=0, atol=0.018)

    def test_times_cover_the_clip_evenly(self) -> None:
        library = MotionLibrary(counter(0, 11))
        _, times = library.sample(20_000, seeded(), n_frames=3, frame_dt=0.1)
        assert times.min().item() == pytest.approx(0.2, abs=1e-3)
        assert times.max().item() == pytest.approx(1.0, abs=1e-3)
        shares = th.histc(times, bins=8, min=0.2, max=1.0) / 20_000
        th.testing.assert_close(shares, th.full((8,), 0.125), rtol=0, atol=0.012)

    def test_the_same_seed_gives_the_same_windows(self) -> None:
        library = MotionLibrary([CLIPS / "walk.npz", CLIPS / "run.npz"])
        draws = [library.sample_windows(9, ["joint_pos"], 2, 0.02, seeded(s)) for s in (1, 1, 2)]
        assert th.equal(draws[0], draws[1])
        assert not th.equal(draws[0], draws[2])

    def test_init_states_are_states_of_a_clip(self) -> None:
        library = MotionLibrary([CLIPS / "walk.npz", CLIPS / "run.npz"])
        states = library.sample_init_states(200, seeded(3))
        assert {name: tuple(v.shape) for name, v in states.items()} == {
            "joint_pos": (200, 6),
            "root_pos": (200, 2),
            "root_pitch": (200, 1),
            "joint_vel": (200, 6),
            "root_vel": (200, 2),
            "root_pitch_vel": (200, 1),
        }
        expected = library.state_at(*library.sample(200, seeded(3)))
        for name, values in states.items():
            assert th.equal(values, expected[name])

    def test_nothing_crosses_to_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        library = MotionLibrary([CLIPS / "walk.npz", CLIPS / "run.npz"])
        library.sample_windows(4, ["joint_pos", "root_pos/z"], 2, 0.02)  # fills the tables

        def forbidden(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("host transfer")

        for method in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__"):
            monkeypatch.setattr(th.Tensor, method, forbidden)
        library.sample_windows(4, ["joint_pos", "root_pos/z"], 2, 0.02)
        library.sample_init_states(4)


class TestErrors:
    def test_no_motion(self) -> None:
        with pytest.raises(StrlValueError, match="no motion was given"):
            MotionLibrary([])

    def test_corrupt_file(self, tmp_path: Path) -> None:
        (tmp_path / "walk.npz").write_bytes((CLIPS / "walk.npz").read_bytes()[:900])
        with pytest.raises(StrlValueError, match=r"walk\.npz'\): the file cannot be read"):
            MotionLibrary(tmp_path / "walk.npz")

    def test_unknown_field(self) -> None:
        library = MotionLibrary(CLIPS / "walk.npz")
        with pytest.raises(StrlKeyError, match=r"'joint_poz'\. Did you mean 'joint_pos'\?.*root_"):
            library.windows(ids(0), th.zeros(1), ["joint_poz"], 2, 0.02)

    def test_unknown_column(self) -> None:
        library = MotionLibrary(CLIPS / "walk.npz")
        with pytest.raises(StrlKeyError, match=r"column 'root_pos/y'.* \['x', 'z'\]"):
            library.feature_names(["root_pos/y"])

    @pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
    def test_weights_of_wrong_length(self, weights: list[float]) -> None:
        with pytest.raises(StrlValueError, match=f"{len(weights)} weights for 2 motions"):
            MotionLibrary([counter(0, 5), counter(1, 5)], weights=weights)

    @pytest.mark.parametrize("weights", [[1.0, -0.5], [0.0, 0.0], [1.0, float("nan")]])
    def test_weights_without_meaning(self, weights: list[float]) -> None:
        with pytest.raises(StrlValueError, match="Expected finite numbers >= 0"):
            MotionLibrary([counter(0, 5), counter(1, 5)], weights=weights)

    def test_window_longer_than_a_clip_that_ends(self) -> None:
        library = MotionLibrary([counter(0, 50), counter(1, 5)])
        with pytest.raises(StrlValueError, match=r"5 frames every 0\.2 s lasts 0\.8 s.*'clip1'"):
            library.sample_windows(2, ["count"], 5, 0.2)

    def test_a_clip_without_weight_may_be_too_short(self) -> None:
        library = MotionLibrary([counter(0, 50), counter(1, 5)], weights=[1.0, 0.0])
        windows = library.sample_windows(200, ["count"], 5, 0.2, seeded())
        assert windows.isfinite().all()
        assert windows.max() < 50

    @pytest.mark.parametrize("n_frames", [0, -1])
    def test_no_frames(self, n_frames: int) -> None:
        library = MotionLibrary(circle())
        with pytest.raises(StrlValueError, match=f"windows: n_frames is {n_frames}. Expected"):
            library.windows(ids(0), th.zeros(1), ["joint_pos"], n_frames, 0.1)
        with pytest.raises(StrlValueError, match=f"sample: n_frames is {n_frames}. Expected"):
            library.sample(3, n_frames=n_frames, frame_dt=0.1)

    @pytest.mark.parametrize("frame_dt", [0.0, -0.1, float("nan"), float("inf")])
    def test_no_time_between_frames(self, frame_dt: float) -> None:
        with pytest.raises(StrlValueError, match=r"frame_dt is .* positive"):
            MotionLibrary(circle()).sample_windows(1, ["joint_pos"], 2, frame_dt)

    def test_clips_with_other_fields(self) -> None:
        with pytest.raises(StrlKeyError, match=r"'clip0' lacks the field 'joint_pos' .*'circle'"):
            MotionLibrary([circle(), counter(0, 5)])

    def test_clips_with_other_columns(self) -> None:
        swapped = {"joint_pos": ["knee", "hip"], "root_pos": ["x", "z"], "root_pitch": ["pitch"]}
        motion = circle()
        other = Motion("other", motion.fields, motion.fps, loop=True, columns=swapped)
        message = r"'joint_pos' of the clip 'other': feature 0 is 'knee' where 'hip' is expected"
        with pytest.raises(StrlValueError, match=message):
            MotionLibrary([motion, other])

    def test_a_loop_that_does_not_close_is_reported(self) -> None:
        with pytest.warns(UserWarning, match=r"'clip0' jumps by 8 in 'count'") as seen:
            MotionLibrary(counter(0, 9, loop=True))
        assert seen[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MotionLibrary([counter(0, 9, loop=True, accumulate=["count/0"])])
            MotionLibrary([CLIPS / "walk.npz", CLIPS / "run.npz"])
