from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.data.motion import Motion
from sb3_strl.data.motion_report import MotionReport, plot_motion, validate_motion

WALKER = Path(__file__).parents[2] / "sb3_strl" / "envs" / "assets" / "motions"
T, FPS = 61, 60.0
TIMES = np.arange(T) / FPS


def clip(loop: bool = True, fps: float = FPS, **fields: np.ndarray) -> Motion:
    knees = np.stack((np.sin(2 * np.pi * TIMES), np.cos(2 * np.pi * TIMES)), 1)
    angle = 0.3 * np.sin(2 * np.pi * TIMES) / 2
    quats = np.stack((np.cos(angle), 0 * angle, 0 * angle, np.sin(angle)), 1)
    root = np.stack((TIMES, 0 * TIMES, 0.9 + 0 * TIMES), 1)
    columns = {"joint_pos": ["left", "right"], "root_quat": list("wxyz"), "root_pos": list("xyz")}
    all_fields = {"joint_pos": knees, "root_quat": quats, "root_pos": root} | fields
    return Motion("walk", all_fields, fps, loop, columns)


def failed(report: MotionReport) -> list[str]:
    return [finding.check for finding in report.findings if not finding.passed]


def test_a_good_clip_passes_and_prints_as_a_table() -> None:
    report = validate_motion(clip(), {"left": (-1.1, 1.1)})
    assert report.passed
    assert failed(report) == []
    text = str(report).splitlines()
    assert text[0] == "Motion 'walk'"
    assert text[1].split() == ["check", "seen", "expected"]
    assert any("60 Hz, 61 frames, 1 s" in line for line in text)
    assert any("limits of left" in line and " ok " in line for line in text)


@pytest.mark.parametrize("name", ["walk", "run"])
def test_the_walkers_clips_pass(name: str) -> None:
    report = validate_motion(Motion.load(WALKER / f"{name}.npz"))
    assert report.passed, str(report)


@pytest.mark.parametrize("fps", [10.0, 1000.0])
def test_frame_rates_out_of_range(fps: float) -> None:
    report = validate_motion(clip(fps=fps))
    assert failed(report) == ["frame rate"]


@pytest.mark.parametrize("frames", [slice(30, 31), slice(30, None)])
def test_jumps_are_found_with_frame_and_column(frames: slice) -> None:
    knees = clip().fields["joint_pos"].copy()
    knees[frames, 1] += 1.5
    report = validate_motion(clip(loop=False, joint_pos=knees))
    assert failed(report) == ["jumps in joint_pos"]
    (finding,) = [f for f in report.findings if not f.passed]
    assert "after frame 29 in right" in finding.value or "after frame 30 in right" in finding.value


def test_a_jump_of_the_rotation_is_found_and_a_change_of_sign_is_none() -> None:
    quats = clip().fields["root_quat"].copy()
    quats[20:] *= -1
    assert validate_motion(clip(root_quat=quats)).passed
    quats[40:] = [0, 1, 0, 0]
    report = validate_motion(clip(loop=False, root_quat=quats))
    assert failed(report) == ["jumps in root_quat"]


def test_velocities_may_jump() -> None:
    speeds = np.zeros((T, 1))
    speeds[30:] = 5
    assert validate_motion(clip(loop=False, foot_vel=speeds)).passed


def test_a_seam_that_does_not_close_is_found_only_where_it_matters() -> None:
    knees = clip().fields["joint_pos"].copy()
    knees[:, 0] += np.linspace(0, 1, T)
    assert failed(validate_motion(clip(joint_pos=knees))) == ["seam of joint_pos"]
    assert validate_motion(clip(loop=False, joint_pos=knees)).passed
    # The root goes on: what it gains per cycle is no gap.
    assert validate_motion(clip()).passed
    quats = clip().fields["root_quat"].copy()
    angle = np.linspace(0, 2, T) / 2
    quats = np.stack((np.cos(angle), 0 * angle, 0 * angle, np.sin(angle)), 1)
    assert failed(validate_motion(clip(root_quat=quats))) == ["seam of root_quat"]


def test_quaternions_of_wrong_length_are_found() -> None:
    quats = clip().fields["root_quat"] * 1.01
    assert failed(validate_motion(clip(root_quat=quats))) == ["length of root_quat"]


@pytest.mark.parametrize("name", ["right", "joint_pos/right"])
def test_limits_name_what_is_outside(name: str) -> None:
    report = validate_motion(clip(), {name: (-0.51, 2.0), "root_pos/z": (0, 1)})
    assert failed(report) == [f"limits of {name}"]
    (finding,) = [f for f in report.findings if not f.passed]
    assert finding.value == "-1 to 1, 19 frames outside, first 21"
    assert finding.expected == "-0.51 to 2"


def feet(sliding: float) -> np.ndarray:
    """Half the time in the air, half on the ground with a speed."""
    x = np.where(TIMES < 0.5, 4 * TIMES, 2 + sliding * (TIMES - 0.5))
    z = np.where(TIMES < 0.5, 0.1 * np.sin(2 * np.pi * TIMES), 0.0)
    return np.stack((x, 0 * x, z), 1)


@pytest.mark.parametrize(("sliding", "bad"), [(0.0, False), (0.2, False), (0.5, True)])
def test_sliding_is_the_speed_on_the_ground(sliding: float, bad: bool) -> None:
    motion = clip(loop=False, foot=feet(sliding))
    by_field = validate_motion(motion, foot={"left": "foot"})
    by_array = validate_motion(motion, foot={"left": motion.fields["foot"]})
    assert by_field == by_array
    assert failed(by_field) == (["sliding of left"] if bad else [])
    value = float(by_field.findings[-1].value.split()[0])
    assert value == pytest.approx(sliding, abs=0.01)


def test_sliding_is_measured_exactly_on_the_ground() -> None:
    foot = np.stack((0.25 * TIMES, np.zeros(T)), 1)
    report = validate_motion(clip(), foot={"left": foot})
    assert report.findings[-1].value == "0.25 m/s over 60 steps on the ground"


def test_names_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(
        StrlKeyError, match=r"unknown column 'leftt'. Did you mean 'joint_pos/left'"
    ):
        validate_motion(clip(), {"leftt": (0, 1)})
    with pytest.raises(StrlKeyError, match=r"foot 'left' is in the unknown field 'feet'"):
        validate_motion(clip(), foot={"left": "feet"})
    with pytest.raises(StrlValueError, match=r"foot 'left' has shape \(3, 3\). Expected \(61, 2"):
        validate_motion(clip(), foot={"left": np.zeros((3, 3))})


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = plot_motion(clip(), tmp_path / "walk.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_without_matplotlib_the_error_says_so() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np\n"
        "from sb3_strl.data import Motion, plot_motion\n"
        "plot_motion(Motion('a', {'x': np.zeros((2, 1))}, 10.0), 'a.png')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "plot_motion needs matplotlib" in done.stderr
    assert "pip install matplotlib" in done.stderr
