"""The demonstration runs, writes what it promises, and measures what it says it measures."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from PIL import Image

from examples import demo
from examples.demo_evaluation import REFERENCE, gait_error, survival, task_return, walk
from examples.demo_runs import Plan
from sb3_strl.data import Motion
from sb3_strl.data.pose_error import cut_windows, dtw, pose_distances, pose_error, reference_cycle

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", str(ROOT / "examples" / "demo.py"), "--smoke"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "COLUMNS": "100"}
QUIET.pop("DISPLAY", None)


@pytest.fixture(scope="module")
def cycle() -> np.ndarray:
    return reference_cycle(Motion.load(REFERENCE), 0.02)


# ---------------------------------------------------------------------- dynamic time warping


def test_dtw_of_a_motion_with_itself_is_zero(cycle: np.ndarray) -> None:
    assert dtw(pose_distances(cycle, cycle)) == 0.0
    assert dtw(pose_distances(cycle, cycle + 5.0)) > 1.0


def test_dtw_equals_the_value_by_hand() -> None:
    cost = pose_distances([[0.0], [1.0]], [[0.0], [2.0]])
    np.testing.assert_array_equal(cost, [[0.0, 2.0], [1.0, 1.0]])
    # Corner 2 * 0, right 0 + 2, below 0 + 1, end min(2 + 1, 0 + 2 * 1, 1 + 1) = 2, of 4 frames.
    assert dtw(cost) == 0.5


def test_dtw_weighs_every_path_alike() -> None:
    assert dtw(np.full((5, 3), 7.0)) == pytest.approx(7.0)
    np.testing.assert_allclose(dtw(np.ones((2, 4, 6, 3))), np.ones((2, 4)))


def test_dtw_forgives_another_pace(cycle: np.ndarray) -> None:
    slower = np.repeat(cycle, 2, axis=0)
    assert dtw(pose_distances(slower, cycle)) == 0.0
    assert np.abs(slower[: len(cycle)] - cycle).mean() > 5.0


def test_pose_error_is_zero_whatever_the_phase(cycle: np.ndarray) -> None:
    shifts = np.arange(12) * len(cycle) // 12
    windows = np.stack([np.roll(cycle, -shift, axis=0) for shift in shifts])
    np.testing.assert_array_equal(pose_error(windows, cycle), np.zeros(12))
    unforgiving = pose_error(windows, cycle, n_phases=1)
    assert unforgiving[0] == 0.0
    assert unforgiving[6] > 2.0
    between = np.roll(cycle, -2, axis=0)[None]
    assert pose_error(between, cycle) < 0.5


def test_pose_error_repeats_the_cycle_for_longer_windows(cycle: np.ndarray) -> None:
    assert pose_error(np.tile(cycle, (2, 1))[None], cycle) == 0.0


def test_pose_error_is_in_degrees_per_joint() -> None:
    still = np.zeros((10, 6))
    bent = still.copy()
    bent[:, 1] = 12.0
    assert pose_error(bent[None], still) == pytest.approx(2.0)  # 12 degrees at one joint of six


def test_reference_cycle_does_not_repeat_its_first_frame(cycle: np.ndarray) -> None:
    clip = Motion.load(REFERENCE)
    assert cycle.shape == (round(clip.duration / 0.02), 6)
    np.testing.assert_allclose(cycle[0], np.rad2deg(clip.fields["joint_pos"][0]))
    steps = np.abs(np.diff(np.concatenate((cycle, cycle[:1])), axis=0)).mean(axis=1)
    assert 0.3 * steps.mean() < steps[-1] < 3.0 * steps.mean()


def test_windows_hold_consecutive_frames_of_one_robot() -> None:
    angles = np.arange(11)[:, None, None] + 100.0 * np.arange(2)[None, :, None]
    windows = cut_windows(angles, length=4, first=2)
    expected = [[2, 3, 4, 5], [6, 7, 8, 9], [102, 103, 104, 105], [106, 107, 108, 109]]
    np.testing.assert_array_equal(windows[..., 0], expected)


def test_window_of_a_short_motion_holds_its_last_pose() -> None:
    windows = cut_windows(np.arange(3.0)[:, None, None], length=5, first=1)
    np.testing.assert_array_equal(windows[..., 0], [[1, 2, 2, 2, 2]])  # the first never counts


# ------------------------------------------------------------------------------- evaluation


class Statue:
    """Holds its joints where they are told to be; such a robot falls."""

    def predict(self, obs: dict[str, th.Tensor], deterministic: bool) -> tuple[th.Tensor, None]:
        assert deterministic
        return th.ones(len(obs["policy"]), 6), None


def test_a_fallen_robot_keeps_its_pose_and_earns_nothing() -> None:
    policy: Any = Statue()
    gait = walk(policy, n_robots=4, n_steps=120)
    assert survival(gait) == 0.0
    for robot in range(4):
        fall = int(gait.up[:, robot].sum())
        assert 0 < fall < 119
        assert not gait.up[fall:, robot].any()
        assert (gait.rewards[fall:, robot] == 0.0).all()
        assert (gait.frames[fall:, robot] == gait.frames[fall - 1, robot]).all()
        assert not gait.valid[fall:, robot].any()
    assert gait_error(gait) > 5.0
    assert task_return(gait) < 120 * 1.2


# ------------------------------------------------------------------------------ command line


def test_numbers_may_be_written_as_people_do() -> None:
    options = demo.parse_arguments(["--steps", "2e6", "--n-envs", "1_000"])
    assert (options.steps, options.n_envs) == (2_000_000, 1000)


@pytest.mark.parametrize("text", ["0", "1.5", "many"])
def test_number_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.parse_arguments(["--steps", text])
    assert f"--steps: '{text}' is not a " in capsys.readouterr().err


def test_seeds_are_limited_by_time_unless_they_are_asked_for() -> None:
    assert demo.parse_arguments([]).minutes == 8.0
    assert demo.parse_arguments(["--seeds", "5"]).minutes == float("inf")


@pytest.mark.parametrize(("elapsed", "n_done"), [(0.0, 6), (100.0, 6), (280.0, 4), (2000.0, 2)])
def test_a_seed_that_would_end_too_late_is_left_out(elapsed: float, n_done: int) -> None:
    jobs = demo.make_jobs(demo.parse_arguments([]))
    assert [(job.algorithm, job.seed) for job in jobs[:3]] == [("APPO", 0), ("PPO", 0), ("APPO", 1)]
    ticket, end = multiprocessing.Value("i", 0), multiprocessing.Value("i", 6)
    plan = Plan(jobs, ticket, end, time.time(), budget=480.0)
    taken = [plan.take() for _ in range(2)]
    for seed in (1, 2):  # elapsed is what two seeds take
        late = plan._replace(begin=time.time() - elapsed * seed / 2)
        taken += [late.take() for _ in range(2)]
    assert taken == [*jobs[:n_done], *[None] * (6 - n_done)]
    assert end.value == n_done


@pytest.mark.integration
def test_smoke_run_writes_pictures_model_and_table(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [*COMMAND, "--out", str(out)],
        env=QUIET,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        line.split()[0] for line in done.stdout.splitlines() if "±" not in line and line.split()
    }
    assert rows >= {"PPO", "APPO"}
    for title, _ in demo.COLUMNS.values():
        assert title in done.stdout
    assert f"tensorboard --logdir {out / 'tensorboard'}" in done.stdout

    metrics = json.loads((out / "results.json").read_text())
    for name in ("PPO", "APPO"):
        assert len(metrics[name]) == 1
        assert metrics[name][0].keys() == demo.COLUMNS.keys()
        assert all(np.isfinite(value) for value in metrics[name][0].values())
        assert list((out / "tensorboard").glob(f"{name}-seed0_1/events*"))
    assert zipfile.ZipFile(out / "model.zip").testzip() is None
    sizes = {name: Image.open(out / name).size for name in ("motion.gif", "motion.png")}
    assert all(height > 300 for _, height in sizes.values())
    assert Image.open(out / "motion.gif").n_frames > 10  # type: ignore[attr-defined]
    assert Image.open(out / "curves.png").size[0] > 600
    assert (out / "motion.gif").stat().st_size < 1_500_000


@pytest.mark.integration
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_every_process_without_a_traceback(tmp_path: Path) -> None:
    command = [*COMMAND, "--steps", "1e8", "--out", str(tmp_path)]
    # Who runs the tests in the background passes on that interrupts are ignored.
    unblocked = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    unblocked += "os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", unblocked, *command],
        env=QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        before = next(line for line in process.stdout if "APPO-seed0" in line)
        os.killpg(process.pid, signal.SIGINT)
        try:
            after, _ = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130, before + after
    assert "Interrupted" in after
    assert "Traceback" not in after
