"""A clip keeps what it was given, and refuses what cannot be a motion."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlValueError
from sb3_strl.data import Motion, check_feature_names

CLIPS = Path(__file__).parents[2] / "sb3_strl" / "envs" / "assets" / "motions"
THIGH, SHANK, ANKLE_HEIGHT, HEEL, TOE = 0.42, 0.41, 0.06, 0.06, 0.16


def make_motion(**changes: Any) -> Motion:
    options: dict[str, Any] = {
        "name": "hop",
        "fields": {
            "joint_pos": np.arange(10.0).reshape(5, 2),
            "root_pos": np.linspace(0, 1, 10).reshape(5, 2),
        },
        "columns": {"joint_pos": ["hip", "knee"], "root_pos": ["x", "z"]},
        "fps": 50.0,
        "loop": True,
        "source": "a test",
        "license": "MIT",
    }
    return Motion(**{**options, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "hop.npz"
    make_motion().save(path)
    return path


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def npy(values: Any, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=allow_pickle)
    return buffer.getvalue()


class TestMotion:
    def test_duration_counts_intervals_not_frames(self) -> None:
        motion = make_motion()
        assert motion.n_frames == 5
        assert motion.duration == pytest.approx(4 / 50)

    def test_feature_names_are_field_and_column(self) -> None:
        assert make_motion().feature_names() == [
            "joint_pos/hip",
            "joint_pos/knee",
            "root_pos/x",
            "root_pos/z",
        ]

    def test_columns_are_numbered_without_names(self) -> None:
        assert make_motion(columns={}).columns["joint_pos"] == ["0", "1"]

    def test_only_accumulating_columns_of_a_loop_advance(self) -> None:
        motion = make_motion()
        np.testing.assert_allclose(motion.loop_advance("root_pos"), [8 / 9, 0.0])
        np.testing.assert_array_equal(motion.loop_advance("joint_pos"), [0.0, 0.0])
        assert not make_motion(loop=False).loop_advance("root_pos").any()
        other = make_motion(accumulate=["joint_pos/knee"])
        np.testing.assert_allclose(other.loop_advance("joint_pos"), [0.0, 8.0])

    def test_keeps_a_copy_of_the_data(self) -> None:
        values = np.zeros((3, 1))
        motion = make_motion(fields={"height": values}, columns={})
        values[0] = 7.0
        assert motion.fields["height"][0, 0] == 0.0


class TestFile:
    def test_round_trip(self, saved: Path) -> None:
        motion, loaded = make_motion(), Motion.load(saved)
        for name in ("name", "fps", "loop", "source", "license", "columns"):
            assert getattr(loaded, name) == getattr(motion, name), name
        assert list(loaded.accumulate or ()) == ["root_pos/x"]
        assert list(loaded.fields) == list(motion.fields)
        for name, values in motion.fields.items():
            np.testing.assert_array_equal(loaded.fields[name], values)

    def test_same_clip_same_bytes(self, saved: Path, tmp_path: Path) -> None:
        make_motion().save(tmp_path / "again.npz")
        assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()

    def test_holds_no_pickle(self, saved: Path) -> None:
        with np.load(saved, allow_pickle=False) as archive:
            assert all(archive[name].dtype != object for name in archive.files)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Motion.load(tmp_path / "none.npz")

    @pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
    def test_truncated(self, saved: Path, keep: float) -> None:
        data = saved.read_bytes()
        saved.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(StrlValueError, match=r"hop\.npz'\): the file cannot be read"):
            Motion.load(saved)

    def test_a_flipped_byte_in_the_data(self, saved: Path) -> None:
        data = bytearray(saved.read_bytes())
        data[120] ^= 0xFF
        saved.write_bytes(bytes(data))
        with pytest.raises(StrlValueError, match="cannot be read"):
            Motion.load(saved)

    def test_no_archive_at_all(self, saved: Path) -> None:
        saved.write_text("joint_pos: 1, 2, 3")
        with pytest.raises(StrlValueError, match="cannot be read"):
            Motion.load(saved)

    def test_a_pickle_is_not_executed(self, saved: Path, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "sprung",))

        saved.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(StrlValueError, match="pickled objects, is refused"):
            Motion.load(saved)
        contents = {"fields/x.npy": npy(np.array([Trap()], dtype=object), allow_pickle=True)}
        rewrite(saved, contents)
        with pytest.raises(StrlValueError, match="pickled objects, is refused"):
            Motion.load(saved)
        assert not (tmp_path / "sprung").exists()

    def test_one_array(self, saved: Path) -> None:
        saved.write_bytes(npy(np.zeros(3)))
        with pytest.raises(StrlValueError, match=r"holds one array\. Expected an \.npz"):
            Motion.load(saved)

    def test_foreign_npz(self, saved: Path) -> None:
        with saved.open("wb") as file:
            np.savez(file, poses=np.zeros((3, 2)))
        with pytest.raises(StrlValueError, match=r"is no motion, it holds \['poses'\]"):
            Motion.load(saved)

    def test_missing_field(self, saved: Path) -> None:
        contents = entries(saved)
        del contents["fields/root_pos.npy"]
        rewrite(saved, contents)
        with pytest.raises(StrlKeyError, match="the field 'root_pos' is missing"):
            Motion.load(saved)

    def test_meta_is_no_json(self, saved: Path) -> None:
        rewrite(saved, {**entries(saved), "meta.npy": npy(np.array("{"))})
        with pytest.raises(StrlValueError, match="'meta' is no JSON text"):
            Motion.load(saved)

    def test_meta_lacks_a_key(self, saved: Path) -> None:
        text = json.dumps({"name": "hop", "fps": 50.0})
        rewrite(saved, {**entries(saved), "meta.npy": npy(np.array(text))})
        with pytest.raises(StrlValueError, match=r"'meta' holds \['fps', 'name'\]. Expected"):
            Motion.load(saved)


class TestErrors:
    @pytest.mark.parametrize("fps", [0.0, -30.0, float("nan"), float("inf")])
    def test_fps(self, fps: float) -> None:
        with pytest.raises(StrlValueError, match=r"'hop': fps is .* Expected a positive"):
            make_motion(fps=fps)

    def test_no_field(self) -> None:
        with pytest.raises(StrlValueError, match="no field was given"):
            make_motion(fields={}, columns={})

    @pytest.mark.parametrize("shape", [(5,), (5, 2, 1), (5, 0)])
    def test_wrong_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(StrlValueError, match=r"field 'pose' has shape \(5,.*Expected \(T, d\)"):
            make_motion(fields={"pose": np.zeros(shape)}, columns={})

    def test_unequal_lengths(self) -> None:
        fields = {"pose": np.zeros((5, 1)), "height": np.zeros((4, 1))}
        with pytest.raises(StrlValueError, match=r"'height' has 4 frames.*field 'pose' \(5\)"):
            make_motion(fields=fields, columns={})

    def test_a_single_frame(self) -> None:
        with pytest.raises(StrlValueError, match="has 1 frames"):
            make_motion(fields={"pose": np.zeros((1, 1))}, columns={})

    @pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
    def test_not_finite(self, bad: float) -> None:
        values = np.zeros((6, 2))
        values[4, 1] = bad
        with pytest.raises(NonFiniteError, match=r"'pose' holds NaN .* frame 4 \(1 of 6 frames\)"):
            make_motion(fields={"pose": values}, columns={})

    def test_columns_of_an_unknown_field(self) -> None:
        with pytest.raises(StrlKeyError, match=r"'joint_po'\. Did you mean 'joint_pos'\?"):
            make_motion(columns={"joint_po": ["hip", "knee"]})

    @pytest.mark.parametrize("names", [["hip"], ["hip", "hip"]])
    def test_wrong_column_names(self, names: list[str]) -> None:
        with pytest.raises(StrlValueError, match="Expected 2 different names"):
            make_motion(columns={"joint_pos": names})

    def test_unknown_accumulating_column(self) -> None:
        with pytest.raises(StrlKeyError, match=r"'root_pos/xx'.* Did you mean 'root_pos/x'\?"):
            make_motion(accumulate=["root_pos/xx"])


class TestFeatureOrder:
    def test_equal_lists_pass(self) -> None:
        check_feature_names(["a", "b"], ("a", "b"))

    def test_names_the_first_mismatch(self) -> None:
        with pytest.raises(StrlValueError, match="APPO: feature 1 is 'c' where 'b' is expected"):
            check_feature_names(["a", "b", "c"], ["a", "c", "b"], where="APPO")

    def test_too_few_and_too_many(self) -> None:
        with pytest.raises(StrlValueError, match="feature 1 is 'nothing' where 'b' is expected"):
            check_feature_names(["a", "b"], ["a"])
        with pytest.raises(StrlValueError, match="feature 1 is 'b' where 'nothing' is expected"):
            check_feature_names(["a"], ["a", "b"])


def foot_heights_and_places(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Height and place of heel and toe: ``(T, 2 sides, 2 points)``, from the walker's geometry."""
    joints = motion.fields["joint_pos"].reshape(-1, 2, 3)
    root, pitch = motion.fields["root_pos"], motion.fields["root_pitch"]
    thigh = joints[..., 0] - pitch
    shank = thigh - joints[..., 1]
    foot = shank + joints[..., 2]
    x = root[:, :1] + THIGH * np.sin(thigh) + SHANK * np.sin(shank)
    z = root[:, 1:] - THIGH * np.cos(thigh) - SHANK * np.cos(shank)
    along = np.array([-HEEL, TOE])
    cos, sin = np.cos(foot)[..., None], np.sin(foot)[..., None]
    places = x[..., None] + along * cos + ANKLE_HEIGHT * sin
    heights = z[..., None] + along * sin - ANKLE_HEIGHT * cos
    return heights, places


@pytest.mark.parametrize("name", ["walk", "run"])
class TestClips:
    def test_layout(self, name: str) -> None:
        motion = Motion.load(CLIPS / f"{name}.npz")
        legs = [f"{s}_{j}" for s in ("right", "left") for j in ("hip", "knee", "ankle")]
        assert motion.name == name
        assert motion.columns == {
            "joint_pos": legs,
            "root_pos": ["x", "z"],
            "root_pitch": ["pitch"],
        }
        assert motion.loop
        assert motion.fps == pytest.approx(60.0, abs=0.01)
        assert "pybullet" in motion.source
        assert "zlib" in motion.license

    def test_the_cycle_closes_one_stride_ahead(self, name: str) -> None:
        motion = Motion.load(CLIPS / f"{name}.npz")
        for field in ("joint_pos", "root_pitch"):
            values = motion.fields[field]
            np.testing.assert_allclose(values[-1], values[0], atol=1e-9)
        root = motion.fields["root_pos"]
        assert root[-1, 1] == pytest.approx(root[0, 1])
        assert root[0, 0] == 0.0
        speed = motion.loop_advance("root_pos")[0] / motion.duration
        assert speed == pytest.approx({"walk": 0.98, "run": 3.55}[name], abs=0.02)

    def test_left_is_right_half_a_cycle_later(self, name: str) -> None:
        joints = Motion.load(CLIPS / f"{name}.npz").fields["joint_pos"][:-1]
        later = np.roll(joints, len(joints) // 2, axis=0)
        np.testing.assert_allclose(joints[:, 3:], later[:, :3], atol=1e-9)

    def test_knees_bend_the_way_knees_bend(self, name: str) -> None:
        knees = np.rad2deg(Motion.load(CLIPS / f"{name}.npz").fields["joint_pos"][:, [1, 4]])
        assert knees.min() > 0.0
        assert 60.0 < knees.max() < 110.0

    def test_feet_rest_on_the_ground(self, name: str) -> None:
        motion = Motion.load(CLIPS / f"{name}.npz")
        heights, _ = foot_heights_and_places(motion)
        lowest = heights.min(axis=(1, 2))
        assert lowest.min() > -0.01
        # A walker always has a foot on the ground; a runner flies.
        assert lowest.max() < 0.01 if name == "walk" else lowest.max() > 0.05

    def test_stance_feet_do_not_slide(self, name: str) -> None:
        motion = Motion.load(CLIPS / f"{name}.npz")
        heights, places = foot_heights_and_places(motion)
        speed = np.gradient(places, 1 / motion.fps, axis=0)
        body_speed = motion.loop_advance("root_pos")[0] / motion.duration
        # A point that touches stands still, while the swinging foot overtakes the body.
        assert np.abs(speed[heights < 0.005]).mean() < 0.1 * body_speed
        assert speed.max() > 2.0 * body_speed
