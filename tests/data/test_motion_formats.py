from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sb3_strl.common.errors import NonFiniteError, StrlValueError
from sb3_strl.data.motion import Motion
from sb3_strl.data.motion_formats import load_motion, read_amp_json, read_lafan_csv, read_st_gym
from sb3_strl.data.motion_layouts import LAFAN_JOINTS, LAYOUTS

T = 6


def rotation(axis: int, angle: float) -> np.ndarray:
    """wxyz"""
    quat = np.zeros(4)
    quat[0], quat[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return quat


def write_json(path: Path, frames: object, **rest) -> Path:
    frames = frames.tolist() if isinstance(frames, np.ndarray) else frames
    path.write_text(json.dumps({"Frames": frames} | rest))
    return path


def humanoid_frames() -> np.ndarray:
    """Column j of frame t holds 100 t + j; quaternions are turns about the upright axis, y."""
    frames = 100.0 * np.arange(T)[:, None] + np.arange(44)
    frames[:, 0] = 1 / 30
    start = 1
    for name, width in LAYOUTS["humanoid"]:
        if name.endswith("_quat"):
            frames[:, start : start + 4] = rotation(1, 0.5)
        start += width
    return frames


def test_deepmimics_humanoid_is_read_and_turned_upright(tmp_path: Path) -> None:
    motion = load_motion(write_json(tmp_path / "walk.txt", humanoid_frames(), Loop="wrap"))
    assert motion.name == "walk"
    assert motion.fps == pytest.approx(30)
    assert motion.loop
    frame = 100 * np.arange(T)
    # x stays, the height (y) becomes z, z becomes -y.
    assert np.allclose(motion.fields["root_pos"], np.stack((frame + 1, -frame - 3, frame + 2), 1))
    assert np.allclose(motion.fields["root_quat"], rotation(2, 0.5))
    assert np.allclose(motion.fields["left_ankle_quat"], rotation(2, 0.5))
    assert motion.columns["root_quat"] == ["w", "x", "y", "z"]
    assert motion.fields["right_knee_pos"][:, 0].tolist() == (frame + 20).tolist()
    assert motion.fields["right_elbow_pos"][:, 0].tolist() == (frame + 29).tolist()
    assert motion.fields["left_knee_pos"][:, 0].tolist() == (frame + 34).tolist()
    assert motion.fields["left_elbow_pos"][:, 0].tolist() == (frame + 43).tolist()


def test_all_of_deepmimics_axes_turn_alike(tmp_path: Path) -> None:
    for axis, upright in ((0, rotation(0, 0.3)), (1, rotation(2, 0.3)), (2, rotation(1, -0.3))):
        frames = humanoid_frames()
        frames[:, 4:8] = rotation(axis, 0.3)
        motion = load_motion(write_json(tmp_path / "walk.json", frames))
        assert np.allclose(motion.fields["root_quat"], upright)


def test_the_last_frames_duration_means_nothing(tmp_path: Path) -> None:
    frames = humanoid_frames()
    frames[-1, 0] = 0
    assert load_motion(write_json(tmp_path / "a.txt", frames)).fps == pytest.approx(30)
    frames[2, 0] = 0
    with pytest.raises(
        StrlValueError, match=r"frames last between 0.0 and 0.03.*Expected positive"
    ):
        load_motion(write_json(tmp_path / "a.txt", frames))


def test_frames_of_different_durations_become_even(tmp_path: Path) -> None:
    frames = humanoid_frames()
    times = np.array([0, 1, 2, 4, 5, 6]) / 30  # one frame is missing
    frames[:, 0] = np.append(np.diff(times), 0)
    frames[:, 1] = 3 * times
    turns = [rotation(1, t) for t in times]
    frames[:, 4:8] = np.array(turns) * np.array([1, 1, 1, -1, -1, 1])[:, None]
    motion = load_motion(write_json(tmp_path / "a.txt", frames))
    assert motion.fps == pytest.approx(30)
    even = np.arange(7) / 30
    assert np.allclose(motion.fields["root_pos"][:, 0], 3 * even)
    signs = np.sign(motion.fields["root_quat"][:, :1])
    assert np.allclose(
        motion.fields["root_quat"] * signs, [rotation(2, t) for t in even], atol=1e-4
    )


@pytest.mark.parametrize("spans", [[7, 7, 7, 5, 7], [6, 6, 6, 6, 6, 11], [1, 2, 3, 4, 5, 6, 7]])
def test_a_loop_of_uneven_frames_keeps_its_period_and_closes(
    tmp_path: Path, spans: list[int]
) -> None:
    times = np.append(0, np.cumsum(spans)) / 100
    frames = np.zeros((len(times), 20))
    frames[:, 0] = np.append(np.diff(times), 0.3)
    frames[:, 1] = 2 * times
    frames[:, 7] = 1
    frames[:, 8:] = np.sin(2 * np.pi * times / times[-1])[:, None]
    motion = load_motion(write_json(tmp_path / "a.txt", frames, Loop="wrap"))
    assert motion.duration == pytest.approx(times[-1])
    assert 1 / motion.fps == pytest.approx(np.median(spans) / 100, rel=0.5 / (motion.n_frames - 1))
    assert motion.loop_advance("root_pos")[0] == pytest.approx(2 * times[-1])
    joints = motion.fields["joint_pos"]
    assert np.allclose(joints[-1], joints[0])
    assert np.allclose(
        joints[:, 0], np.interp(np.arange(len(joints)) / motion.fps, times, frames[:, 8])
    )


def quadruped_frames(layout: str) -> np.ndarray:
    width = sum(n for _, n in LAYOUTS[layout])
    frames = 100.0 * np.arange(T)[:, None] + np.arange(width)
    frames[:, 3:7] = rotation(2, 0.7)[[1, 2, 3, 0]]
    return frames


@pytest.mark.parametrize("layout", ["quadruped", "amp_quadruped"])
def test_amp_files_for_robots_are_read_by_their_width(tmp_path: Path, layout: str) -> None:
    path = write_json(
        tmp_path / "trot.txt",
        quadruped_frames(layout),
        LoopMode="Wrap",
        FrameDuration=0.02,
        EnableCycleOffsetPosition=False,
    )
    motion = load_motion(path)
    assert (motion.fps, motion.loop, list(motion.accumulate)) == (50.0, True, [])
    assert np.allclose(motion.fields["root_quat"], rotation(2, 0.7))  # xyzw in the file
    assert motion.fields["root_pos"][1].tolist() == [100, 101, 102]
    assert motion.fields["joint_pos"][0].tolist() == list(range(7, 19))
    if layout == "amp_quadruped":
        assert motion.fields["root_ang_vel_b"][0].tolist() == [34, 35, 36]
        assert motion.fields["joint_vel"][0].tolist() == list(range(37, 49))


def test_a_timed_quadruped_stands_upright_already(tmp_path: Path) -> None:
    frames = np.hstack((np.full((T, 1), 0.0625), quadruped_frames("quadruped")))
    motion = load_motion(write_json(tmp_path / "laikago.txt", frames, Loop="wrap"))
    assert motion.fps == 16
    assert motion.fields["root_pos"][1].tolist() == [100, 101, 102]
    assert np.allclose(motion.fields["root_quat"], rotation(2, 0.7))


def test_single_quaternions_of_another_length_are_normalised(tmp_path: Path) -> None:
    frames = quadruped_frames("quadruped")
    frames[2, 3:7] *= 0.6
    motion = load_motion(write_json(tmp_path / "a.txt", frames, FrameDuration=0.1))
    assert np.allclose(motion.fields["root_quat"], rotation(2, 0.7))
    frames[:, 3:7] *= 0.5
    with pytest.raises(StrlValueError, match=r"'root_quat_xyzw' has lengths from 0.3 to 0.5"):
        load_motion(write_json(tmp_path / "a.txt", frames, FrameDuration=0.1))


def test_other_layouts_are_given_by_name_or_by_list(tmp_path: Path) -> None:
    frames = np.arange(2.0 * T).reshape(T, 2)
    path = write_json(tmp_path / "a.json", frames, FrameDuration=0.1)
    motion = read_amp_json(path, [("height", 1), ("joint_pos", 1)], loop=True)
    assert motion.fields["joint_pos"][:, 0].tolist() == frames[:, 1].tolist()
    assert motion.loop
    with pytest.raises(
        StrlValueError, match=r"a frame has 2 columns. Expected a layout .*quadruped"
    ):
        read_amp_json(path)
    with pytest.raises(StrlValueError, match=r"a frame has 2 columns"):
        read_amp_json(path, "humanoid")


def test_columns_that_are_no_quaternion_are_refused(tmp_path: Path) -> None:
    frames = quadruped_frames("quadruped")
    frames[2, 3:7] = 0
    with pytest.raises(StrlValueError, match=r"'root_quat_xyzw' has lengths from 0 to 1. Expected"):
        load_motion(write_json(tmp_path / "a.txt", frames, FrameDuration=0.1))


@pytest.mark.parametrize(("robot", "count"), [("g1", 29), ("h1_2", 27), ("h1", 19)])
def test_retargeted_lafan_clips_are_read(tmp_path: Path, robot: str, count: int) -> None:
    frames = np.arange(T)[:, None] / 10 + np.arange(7 + count) * 1.0
    frames[:, 3:7] = rotation(2, 1.0)[[1, 2, 3, 0]]
    np.savetxt(tmp_path / "dance.csv", frames, delimiter=",")
    motion = load_motion(tmp_path / "dance.csv")
    assert (motion.fps, motion.loop) == (30, False)
    assert np.allclose(motion.fields["root_pos"], frames[:, :3])
    assert np.allclose(motion.fields["root_quat"], rotation(2, 1.0))
    assert np.allclose(motion.fields["joint_pos"], frames[:, 7:])
    assert list(motion.columns["joint_pos"]) == LAFAN_JOINTS[robot]
    assert len(LAFAN_JOINTS[robot]) == count


def test_lafan_joints_stand_in_the_published_order() -> None:
    g1 = LAFAN_JOINTS["g1"]
    assert g1[0] == "left_hip_pitch_joint"
    assert g1[6] == "right_hip_pitch_joint"
    assert g1[12:16] == [
        "waist_yaw_joint",
        "waist_roll_joint",
        "waist_pitch_joint",
        "left_shoulder_pitch_joint",
    ]
    assert g1[-1] == "right_wrist_yaw_joint"
    assert LAFAN_JOINTS["h1"][:3] == [
        "left_hip_yaw_joint",
        "left_hip_roll_joint",
        "left_hip_pitch_joint",
    ]
    assert LAFAN_JOINTS["h1_2"][:2] == ["left_hip_yaw_joint", "left_hip_pitch_joint"]


def test_a_first_line_names_the_joints(tmp_path: Path) -> None:
    lines = ["x,y,z,qx,qy,qz,qw,hip,knee", *["0,0,1,0,0,0,1,0.5,-0.5"] * 3]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    motion = read_lafan_csv(tmp_path / "a.csv", fps=60)
    assert list(motion.columns["joint_pos"]) == ["hip", "knee"]
    assert motion.fps == 60


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("root_x,root_y,root_z,root_qw,root_qx,root_qy,root_qz", "wxyz"),
        ("X,Y,Z,rotZ,rotY,rotX,rotW", "zyxw"),
        ("x,y,z,x,y,z,w", "xyzw"),
        ("p0,p1,p2,r0,r1,r2,r3", "xyzw"),
        ("pos_x,pos_y,height,rot_x,rot_y,rot_z,rot_w", "xyzw"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_first_line_says_where_the_real_part_is(
    tmp_path: Path, names: str, order: str, encoding: str
) -> None:
    turn = dict(zip("wxyz", [0.5, 0.1, -0.7, 0.5], strict=True))
    line = f"1,2,3,{','.join(str(turn[c]) for c in order)},0.5"
    (tmp_path / "a.csv").write_text("\n".join([f"{names},hip", line, line]), encoding=encoding)
    motion = read_lafan_csv(tmp_path / "a.csv")
    assert motion.fields["root_quat"][0].tolist() == pytest.approx(list(turn.values()))
    assert motion.fields["root_pos"][0].tolist() == [1, 2, 3]
    assert motion.columns["joint_pos"] == ["hip"]


@pytest.mark.parametrize("names", ["y,x,z,qx,qy,qz,qw", "Frame,x,y,z,qx,qy,qz", "x,y,z,x,y,z,r4"])
def test_a_first_line_of_something_else_is_refused(tmp_path: Path, names: str) -> None:
    (tmp_path / "a.csv").write_text("\n".join([f"{names},hip", *["0,0,1,0,0,0,1,0.5"] * 3]))
    with pytest.raises(StrlValueError, match=r"the first columns are named .* Expected the root's"):
        read_lafan_csv(tmp_path / "a.csv")


def test_a_byte_order_mark_is_no_frame(tmp_path: Path) -> None:
    lines = [",".join(["0"] * 6 + ["1"] + [f"0.{i}"] * 29) for i in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    motion = read_lafan_csv(tmp_path / "a.csv")
    assert motion.fields["joint_pos"][:, 0].tolist() == [0.0, 0.1, 0.2]
    assert list(motion.columns["joint_pos"]) == LAFAN_JOINTS["g1"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", StrlValueError, r"the frames have shape \(0,\)"),
        ("1,2,3\n1,2,3", StrlValueError, r"robot is None and a line has -4 joints"),
        ("0,0,1,0,0,0,1,0.5\n0,0,1", StrlValueError, r"are no table of numbers"),
        ("0,0,1,0,0,0,1,x\n" * 2, StrlValueError, r"are no table of numbers"),
        ("\n".join([",".join(["0"] * 36)] * 2), StrlValueError, r"Expected unit quaternions"),
        ("\n".join([",".join(["0"] * 6 + ["1"] + ["nan"] * 29)] * 2), NonFiniteError, r"joint_pos"),
    ],
)
def test_csv_files_that_do_not_fit(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(error, match=message):
        load_motion(tmp_path / "a.csv")


FIELDS = [
    *(f"root_pos_{axis}" for axis in "xyz"),
    *(f"root_rot_{axis}" for axis in "wxyz"),
    *(f"root_vel_{axis}_b" for axis in "xyz"),
    "root_vel_x_w",
    "left_knee_dof_pos",
    "right_knee_dof_pos",
    "left_knee_dof_vel",
    "right_knee_dof_vel",
    "left_foot_pos_z_b",
    "left_foot_pos_x_b",
    "phase",
]


def st_gym(**change) -> dict:
    frames = 10.0 * np.arange(T)[:, None] + np.arange(len(FIELDS))
    frames[:, 3:7] = rotation(2, 0.4)
    return {
        "LoopMode": "Clamp",
        "FrameDuration": 0.04,
        "EnableCycleOffsetPosition": True,
        "EnableCycleOffsetRotation": True,
        "MotionWeight": 0.5,
        "Fields": FIELDS,
        "Frames": frames,
    } | change


def without_turn(frame: int) -> np.ndarray:
    frames = st_gym()["Frames"]
    frames[frame, 3:7] = 0
    return frames


@pytest.mark.parametrize("as_lists", [False, True])
def test_st_gyms_dictionary_is_read(tmp_path: Path, as_lists: bool) -> None:
    data = st_gym()
    if as_lists:
        data |= {"Frames": data["Frames"].tolist(), "Fields": np.array(FIELDS)}
    (tmp_path / "dance.pkl").write_bytes(pickle.dumps(data))
    motion = load_motion(tmp_path / "dance.pkl")
    assert (motion.fps, motion.loop) == (25.0, False)
    assert {name: list(columns) for name, columns in motion.columns.items()} == {
        "root_pos": ["x", "y", "z"],
        "root_quat": ["w", "x", "y", "z"],
        "root_vel_b": ["x", "y", "z"],
        "root_vel_w": ["x"],
        "joint_pos": ["left_knee", "right_knee"],
        "joint_vel": ["left_knee", "right_knee"],
        "left_foot_pos_b": ["x", "z"],
        "phase": ["0"],
    }
    assert motion.fields["root_vel_b"][1].tolist() == [17, 18, 19]
    assert motion.fields["root_vel_w"][1].tolist() == [20]
    assert motion.fields["joint_vel"][0].tolist() == [13, 14]
    assert motion.fields["left_foot_pos_b"][0].tolist() == [16, 15]


def test_the_same_dictionary_as_text(tmp_path: Path) -> None:
    data = st_gym(LoopMode="Wrap")
    path = write_json(tmp_path / "a.json", data.pop("Frames"), **data)
    motion = load_motion(path)
    assert motion.loop
    assert list(motion.accumulate) == ["root_pos/x", "root_pos/y"]
    assert motion.fields["joint_pos"][0].tolist() == [11, 12]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Fields": FIELDS[1:]}, r"'Fields' names 17 columns \(17 different\). Expected 18"),
        ({"Fields": ["x"] * 18}, r"'Fields' names 18 columns \(1 different\)"),
        ({"Frames": np.zeros((1, 18))}, r"shape \(1, 18\). Expected at least 2 frames"),
        ({"Frames": "nothing"}, r"(no table of numbers|have shape)"),
        ({"FrameDuration": 0}, r"'FrameDuration' is 0. Expected a positive"),
        ({"FrameDuration": "x"}, r"'FrameDuration' is 'x'"),
        ({"FrameDuration": True}, r"'FrameDuration' is True. Expected a positive"),
        ({"Fields": 5}, r"'Fields' is 5. Expected a list of names"),
        ({"Fields": None}, r"'Fields' is None. Expected a list of names"),
        ({"Fields": "x" * 18}, r"'Fields' is 'x+'. Expected a list of names"),
        ({"Frames": without_turn(4)}, r"'root_quat' has lengths from 0 to 1.*is in frame 4"),
    ],
)
def test_dictionaries_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(st_gym(**change)))
    with pytest.raises(StrlValueError, match=message):
        read_st_gym(tmp_path / "a.pkl")


def test_nan_is_refused(tmp_path: Path) -> None:
    frames = st_gym()["Frames"]
    frames[3, 11] = np.nan
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(st_gym(Frames=frames)))
    with pytest.raises(
        NonFiniteError, match=r"'joint_pos' holds NaN or infinity, first in frame 3"
    ):
        load_motion(tmp_path / "a.pkl")


def test_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    (tmp_path / "a.pkl").write_bytes(f"cos\nmkdir\n(V{proof}\ntR.".encode())
    with pytest.raises(StrlValueError, match=r"asks for os.mkdir, which is refused"):
        load_motion(tmp_path / "a.pkl")
    assert not proof.exists()


def test_our_own_files_are_read(tmp_path: Path) -> None:
    Motion("a", {"joint_pos": np.arange(4.0)[:, None]}, 50.0).save(tmp_path / "a.npz")
    assert load_motion(tmp_path / "a.npz").fields["joint_pos"][:, 0].tolist() == [0, 1, 2, 3]


def isaac() -> dict[str, np.ndarray]:
    positions = np.arange(T * 6.0).reshape(T, 2, 3)
    return {
        "fps": np.array(60),
        "dof_names": np.array(["hip", "knee"]),
        "body_names": np.array(["pelvis", "foot"]),
        "dof_positions": np.arange(2.0 * T).reshape(T, 2),
        "dof_velocities": np.ones((T, 2)),
        "body_positions": positions,
        "body_rotations": np.tile(rotation(2, 0.1), (T, 2, 1)),
    }


def test_isaac_labs_files_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **isaac())
    motion = load_motion(tmp_path / "a.npz", loop=True)
    assert (motion.fps, motion.loop) == (60, True)
    assert list(motion.columns["joint_vel"]) == ["hip", "knee"]
    assert np.array_equal(motion.fields["root_pos"], isaac()["body_positions"][:, 0])
    assert np.allclose(motion.fields["root_quat"], rotation(2, 0.1))
    assert motion.columns["body_pos"][3:] == ["foot_x", "foot_y", "foot_z"]
    assert np.array_equal(motion.fields["body_pos"][:, 3:], isaac()["body_positions"][:, 1])


@pytest.mark.parametrize("change", [{"fps": np.zeros(0)}, {"fps": np.array(-1)}])
def test_isaac_files_without_a_rate_are_refused(tmp_path: Path, change: dict) -> None:
    np.savez(tmp_path / "a.npz", **(isaac() | change))
    with pytest.raises(StrlValueError, match=r"fps is (nan|-1)"):
        load_motion(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv", ".pkl", ".npz"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"{}", b"[1, 2]", b"PK\x03\x04", b"[" * 9]
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(StrlValueError, match=r"(?s)a\.(txt|json|csv|pkl|npz).*Expected"):
        load_motion(path)


def test_unknown_suffixes_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"has the suffix '.bvh'. Expected .npz, .json"):
        load_motion(tmp_path / "a.bvh")
    for suffix in (".npz", ".json", ".csv", ".pkl"):
        with pytest.raises(FileNotFoundError):
            load_motion(tmp_path / f"a{suffix}")


def test_the_real_clips_where_they_are_installed() -> None:
    data = pytest.importorskip("pybullet_data")
    folder = Path(data.getDataPath()) / "data" / "motions"
    motion = load_motion(folder / "humanoid3d_walk.txt")
    assert motion.n_frames == 39
    assert 0.5 < motion.fields["root_pos"][:, 2].mean() < 1.2
    for path in folder.glob("*.txt"):
        assert load_motion(path).n_frames > 20
