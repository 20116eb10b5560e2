"""Pictures: a person who stands on the ground, follows the pose and never breaks the caller."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_strl.common.errors import StrlValueError
from sb3_strl.envs.walker_render import (
    _SKY,
    BLUE,
    draw_film_strip,
    draw_poses,
    draw_walker,
)
from sb3_strl.envs.walker_task import NOMINAL_POSE

pytest.importorskip("mujoco")

from sb3_strl.envs import walker_render
from sb3_strl.envs.walker import WalkerVecEnv

POSE = np.array(NOMINAL_POSE)


def body_mask(image: np.ndarray) -> np.ndarray:
    """Return the pixels above the ground that are no background."""
    rows = int(image.shape[0] * 0.86)
    return np.abs(image[:rows].astype(int) - np.array(_SKY)).sum(axis=2) > 60


def test_a_person_of_the_right_size_stands_in_the_middle() -> None:
    image = draw_walker([3.0, 0.88], 0.0, POSE, size=(320, 240))
    assert image.shape == (240, 320, 3)
    assert image.dtype == np.uint8
    rows, columns = np.nonzero(body_mask(image))
    pixels_per_metre = 240 / 2.2
    assert abs(columns.mean() - 160) < 12
    assert (rows.max() - rows.min()) / pixels_per_metre == pytest.approx(1.72, abs=0.15)
    assert (np.abs(image.astype(int) - np.array(BLUE)).sum(axis=2) < 20).any()


def test_the_pose_shows() -> None:
    def spread(joints: np.ndarray, pitch: float = 0.0) -> float:
        columns = np.nonzero(body_mask(draw_walker([0.0, 0.88], pitch, joints)))[1]
        return float(columns.max() - columns.min())

    stride = np.array([0.5, 0.1, 0.0, -0.3, 0.2, 0.0])
    assert spread(stride) > spread(POSE) + 20
    leaning = np.nonzero(body_mask(draw_walker([0.0, 0.88], 0.6, POSE)))
    top = leaning[1][leaning[0] < leaning[0].min() + 10]
    assert top.mean() > 190  # the head is to the right: forward


def test_the_ground_scrolls_and_the_label_shows() -> None:
    here = draw_walker([0.0, 0.88], 0.0, POSE)
    there = draw_walker([0.2, 0.88], 0.0, POSE)
    assert np.array_equal(here[:200], there[:200])
    assert not np.array_equal(here[212:], there[212:])
    named = draw_walker([0.0, 0.88], 0.0, POSE, label="1.0 m/s")
    assert not np.array_equal(named[:40, :100], here[:40, :100])


def test_film_strip_spreads_the_poses_over_the_picture() -> None:
    n = 6
    strip = draw_film_strip(np.tile([0.0, 0.88], (n, 1)), np.zeros((n, 1)), np.tile(POSE, (n, 1)))
    assert strip.shape == (240, 960, 3)
    filled = body_mask(strip).any(axis=0)
    starts = np.flatnonzero(np.diff(filled.astype(int)) == 1)
    assert len(starts) == n
    assert np.ptp(np.diff(starts)) <= 3


def test_poses_with_nan_are_left_out() -> None:
    pos = np.array([[0.0, 0.88], [1.0, np.nan]])
    image = draw_poses(pos, np.zeros(2), np.tile(POSE, (2, 1)), centre=0.0)
    alone = draw_poses(pos[:1], np.zeros(1), POSE[None], centre=0.0)
    assert np.array_equal(image, alone)
    nobody = draw_walker([np.nan, np.nan], np.nan, np.full(6, np.nan))
    assert not body_mask(nobody).any()


def test_environment_draws_the_robots_asked_for() -> None:
    env = WalkerVecEnv(20, seed=0, render_mode="rgb_array", image_size=(160, 120))
    env.reset_tensor()
    images = env.render_images([3, 17])
    assert len(images) == 2
    assert all(image is not None and image.shape == (120, 160, 3) for image in images)
    assert images[0] is not None
    assert images[1] is not None
    assert not np.array_equal(images[0], images[1])
    assert len(env.get_images()) == 16
    tiled = env.render()
    assert tiled is not None
    assert tiled.shape == (480, 640, 3)


def test_missing_opengl_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    def fail(*args: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    env = WalkerVecEnv(1, seed=0, render_mode="rgb_array", render_backend="mujoco")
    env.reset_tensor()
    with pytest.raises(StrlValueError, match=r"cannot render here \(no display\).*MUJOCO_GL"):
        env.render_images([0])


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_mujoco_renders_where_there_is_opengl() -> None:
    env = WalkerVecEnv(1, seed=0, render_mode="rgb_array", render_backend="mujoco")
    env.reset_tensor()
    try:
        image = walker_render.render_mujoco(env.physics, 0, (64, 48))
    except StrlValueError:
        pytest.skip("no OpenGL here")
    assert image.shape == (48, 64, 3)
    assert np.ptp(image) > 50
