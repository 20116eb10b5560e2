"""The batched walker: observations, trouble, other devices, SB3's face."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data.motion import Motion
from sb3_strl.data.motion_library import MotionLibrary
from sb3_strl.envs import walker_task as task
from sb3_strl.envs.walker_kinematics import JOINT_NAMES
from sb3_strl.envs.walker_options import MOTIONS

pytest.importorskip("mujoco")

from sb3_strl.envs.walker import WalkerVecEnv
from tests.envs.walker_tools import GROUPS, actions, make, run, segment


def test_groups_have_the_shapes_of_the_space() -> None:
    env = make()
    step = env.step_tensor(th.zeros(4, 6))
    for obs in (env.reset_tensor(), step.obs, step.final_obs):
        assert obs is not None
        assert tuple(obs) == GROUPS
        for name, space in env.observation_space.spaces.items():  # type: ignore[attr-defined]
            assert obs[name].shape == (4, *space.shape)
            assert obs[name].dtype == th.float32
    assert step.rewards.dtype == th.float32
    assert step.terminated.dtype == step.truncated.dtype == th.bool


def test_segments_cover_the_groups_exactly() -> None:
    env = make()
    obs = env.reset_tensor()
    assert env.obs_segments is not None
    for group in ("policy", "critic"):
        total = sum(math.prod(shape) for shape in env.obs_segments[group].values())
        assert total == obs[group].shape[1]


def test_segments_hold_what_their_names_say() -> None:
    env = make(domain_randomization=False)
    env.reset_tensor()
    action = actions(env, 3)
    obs = env.step_tensor(action).obs
    state = th.from_numpy(env.physics.state).float()
    expected = {
        "base_ang_vel": state[:, 12:13],
        "base_orientation": th.stack((state[:, 3].sin(), state[:, 3].cos()), dim=1),
        "joint_pos": state[:, 4:10] - th.tensor(task.NOMINAL_POSE),
        "joint_vel": state[:, 13:19] / 10.0,
        "last_action": action,
        "command": env._commands,
    }
    for name, values in expected.items():
        for group in ("policy", "critic"):
            th.testing.assert_close(segment(env, obs, group, name), values)
    privileged = {
        "base_lin_vel": state[:, 10:12],
        "base_height": state[:, 2:3],
        "foot_contact_forces": th.from_numpy(env.physics.contact_forces / env.physics.pool.weight),
        "friction": th.full((4, 1), 0.9),
        "added_mass": th.zeros(4, 1),
    }
    for name, values in privileged.items():
        th.testing.assert_close(segment(env, obs, "critic", name), values.float())


def test_only_the_policy_group_is_noisy() -> None:
    env = make(64)
    env.reset_tensor()
    obs = env.step_tensor(th.zeros(64, 6)).obs
    amplitude = {"base_ang_vel": 0.1, "joint_pos": 0.01, "joint_vel": 0.03}
    for name, limit in amplitude.items():
        noise = segment(env, obs, "policy", name) - segment(env, obs, "critic", name)
        assert 0.5 * limit < noise.abs().max() <= limit + 1e-6
    for name in ("last_action", "command"):
        assert th.equal(segment(env, obs, "policy", name), segment(env, obs, "critic", name))
    th.testing.assert_close(obs["ref_obs"][:, -1], task.feature_frame(env._state))


def test_feature_names_are_those_of_the_library_in_order() -> None:
    env = make()
    assert env.feature_names is not None
    assert env.feature_names["ref_obs"] == env.feature_names["ref_motion"]
    assert len(env.feature_names["ref_obs"]) == env.reset_tensor()["ref_obs"].shape[2]
    # Each name's column of a marked state is the marked quantity.
    state = th.arange(19.0).unsqueeze(0)
    frame = dict(
        zip(env.feature_names["ref_obs"], task.feature_frame(state)[0].tolist(), strict=True)
    )
    assert frame["root_pos/z"] == 2
    assert frame["root_pitch/pitch"] == 3
    assert [frame[f"joint_pos/{name}"] for name in JOINT_NAMES] == [4, 5, 6, 7, 8, 9]
    assert (frame["root_vel/x"], frame["root_vel/z"], frame["root_pitch_vel/pitch"]) == (10, 11, 12)
    assert [frame[f"joint_vel/{name}"] for name in JOINT_NAMES] == [13, 14, 15, 16, 17, 18]


def test_motion_with_joints_in_another_order_is_refused() -> None:
    clip = Motion.load(MOTIONS / "walk.npz")
    columns = {name: list(names) for name, names in clip.columns.items()}
    columns["joint_pos"] = columns["joint_pos"][3:] + columns["joint_pos"][:3]
    swapped = Motion("swapped", clip.fields, clip.fps, clip.loop, columns)
    with pytest.raises(StrlValueError, match=r"feature 2 is 'joint_pos/left_hip'.*right_hip"):
        make(motion=swapped)


def test_expert_windows_are_the_librarys_at_the_advancing_phase() -> None:
    env = make(n_frames=3)
    env.reset_tensor()
    ids, times = env._clip_ids.clone(), env._clip_times.clone()
    for i in range(1, 4):
        step = env.step_tensor(th.zeros(4, 6))
        assert not (step.terminated | step.truncated).any()
        expected = env.library.windows(ids, times + i * env.dt, task.FEATURES, 3, env.dt)
        th.testing.assert_close(step.obs["ref_motion"], expected, atol=1e-4, rtol=1e-4)


def test_clip_that_does_not_loop_begins_again() -> None:
    clip = Motion.load(MOTIONS / "walk.npz")
    once = Motion("once", clip.fields, clip.fps, loop=False, columns=clip.columns)
    env = make(motion=once, rsi_prob=0.0)
    env.reset_tensor()
    env._clip_times[:] = clip.duration - 0.5 * env.dt
    env.step_tensor(th.zeros(4, 6))
    th.testing.assert_close(env._clip_times, th.full((4,), env.dt))  # the first whole window of two


@pytest.mark.parametrize("kind", ["state", "velocity", "action"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_nan_shows_in_its_robot_only_which_then_starts_afresh(
    kind: str, n_envs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT
    env = make(n_envs)
    env.reset_tensor()
    bad = n_envs - 1
    action = th.zeros(n_envs, 6)
    if kind == "state":
        env.physics.state[bad, 5] = np.nan
    elif kind == "velocity":
        env.physics.state[bad, 13] = 1e12
    else:
        action[bad, 2] = th.nan
    step = env.step_tensor(action)
    is_bad = th.arange(n_envs) == bad
    assert th.equal(step.rewards.isnan(), is_bad)
    assert th.equal(step.terminated, is_bad)
    assert step.final_obs is not None
    for group in ("policy", "critic", "ref_obs"):
        assert th.equal(step.final_obs[group].flatten(1).isnan().any(dim=1), is_bad)
    assert all(values.isfinite().all() for values in step.obs.values())
    for after in run(env, 3):
        assert after.rewards.isfinite().all()
        assert all(values.isfinite().all() for values in after.obs.values())


def test_actions_are_clipped_to_the_space() -> None:
    results = []
    for value in (1.0, 7.0):
        env = make(2)
        env.reset_tensor()
        results.append(env.step_tensor(th.full((2, 6), value)).obs["policy"])
    assert th.equal(*results)


def test_actions_of_another_shape_are_refused() -> None:
    env = make(2)
    with pytest.raises(StrlValueError, match=r"shape \(2, 5\). Expected \(2, 6\)"):
        env.step_tensor(th.zeros(2, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_envs": 0}, "n_envs is 0. Expected at least 1"),
        ({"n_frames": 0}, "n_frames is 0"),
        ({"rsi_prob": 1.5}, "rsi_prob is 1.5. Expected 0 to 1"),
        ({"render_mode": "human"}, "render_mode is 'human'. Expected 'rgb_array' or None"),
        ({"render_backend": "gl"}, "render_backend is 'gl'. Expected 'drawing' or 'mujoco'"),
        ({"command_range": (2.0, 1.0)}, r"command_range is \(2.0, 1.0\)"),
        ({"action_scale": (1.0, 1.0)}, "action_scale is .* Expected three numbers"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        WalkerVecEnv(**{"n_envs": 1, **options})


def test_misspelt_options_are_refused() -> None:
    with pytest.raises(TypeError, match="rsi_probability"):
        WalkerVecEnv(1, rsi_probability=0.5)  # type: ignore[call-arg]
    with pytest.raises(StrlTypeError, match="domain_randomization is 'yes'"):
        WalkerVecEnv(1, domain_randomization="yes")  # type: ignore[arg-type]
    with pytest.raises(StrlValueError, match="velocity_sigma is 0"):
        task.WalkerRewards(velocity_sigma=0.0)
    with pytest.raises(StrlValueError, match=r"torque is -1.0\. Expected a finite number >= 0"):
        task.WalkerRewards(torque=-1.0)


def test_several_clips_and_a_ready_library_are_taken() -> None:
    paths = [MOTIONS / "walk.npz", MOTIONS / "run.npz"]
    env = make(64, motion=MotionLibrary(paths, weights=[0.0, 1.0]))
    env.reset_tensor()
    assert (env._clip_ids == 1).all()
    both = make(64, motion=paths)
    both.reset_tensor()
    assert set(both._clip_ids.tolist()) == {0, 1}


def test_step_moves_to_another_device_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    env, twin = make(2, max_episode_length=2), make(2, device="meta", max_episode_length=2)
    env.reset_tensor()
    assert twin.reset_tensor()["policy"].device.type == "meta"
    for _ in range(2):
        there = twin.step_tensor(th.zeros(2, 6))
        here = env.step_tensor(th.zeros(2, 6))
        assert there.rewards.device.type == there.extras["amp_valid"].device.type == "meta"
        assert there.final_obs is not None
        for name in GROUPS:
            assert there.obs[name].shape == there.final_obs[name].shape == here.obs[name].shape
    moved = task.step_to(here, th.device("cpu"))
    assert here.final_obs is not None
    assert moved.final_obs is not None
    for name in GROUPS:
        assert th.equal(moved.obs[name], here.obs[name])
        assert th.equal(moved.final_obs[name], here.final_obs[name])
    assert th.equal(moved.truncated, here.truncated)
    assert th.equal(moved.rewards, here.rewards)
    assert moved.extras["log"].keys() == here.extras["log"].keys()


def test_numpy_face_of_stable_baselines3() -> None:
    env = make(3, max_episode_length=4)
    env.seed(5)
    obs = env.reset()
    expected = make(3, seed=5).reset_tensor()
    assert isinstance(obs, dict)
    np.testing.assert_array_equal(obs["policy"], expected["policy"].numpy())
    for _ in range(4):
        *_rest, dones, infos = env.step(np.zeros((3, 6), dtype=np.float32))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"]["policy"].shape == (22,)
    assert infos[1]["episode"]["l"] == 4
    assert env.metadata["render_fps"] == 50
