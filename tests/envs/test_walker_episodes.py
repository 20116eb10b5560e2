"""The walker's episodes: beginnings, ends, rewards, random numbers, saved state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.data.motion import Motion
from sb3_strl.envs import walker_task as task
from sb3_strl.envs.walker_kinematics import sole_height
from sb3_strl.envs.walker_options import MOTIONS
from sb3_strl.envs.walker_physics import DomainRandomization

pytest.importorskip("mujoco")


from tests.envs.walker_tools import GROUPS, actions, make, run, segment


def test_reference_state_initialisation_starts_in_the_clip() -> None:
    env = make(32, rsi_prob=1.0, domain_randomization=False)
    obs = env.reset_tensor()
    # Past and present are the reference's, but for the lift that takes feet out of the ground.
    th.testing.assert_close(
        obs["ref_obs"][:, :, 1:], obs["ref_motion"][:, :, 1:], atol=1e-4, rtol=1e-4
    )
    lift = (obs["ref_obs"] - obs["ref_motion"])[:, :, 0]
    assert (lift > -1e-5).all()
    assert lift.max() < 0.05
    th.testing.assert_close(lift[:, 0], lift[:, 1], atol=1e-5, rtol=0.0)
    state = env.physics.state
    assert sole_height(state[:, 1:3], state[:, 3], state[:, 4:10]).min() > -1e-6
    assert len(env._clip_times.unique()) > 16


def test_reference_in_the_ground_is_lifted_with_its_past() -> None:
    clip = Motion.load(MOTIONS / "walk.npz")
    fields = {**clip.fields, "root_pos": clip.fields["root_pos"] - np.array([0.0, 0.04])}
    low = Motion("low", fields, clip.fps, clip.loop, clip.columns)
    env = make(8, motion=low, rsi_prob=1.0)
    obs = env.reset_tensor()
    state = env.physics.state
    np.testing.assert_allclose(
        sole_height(state[:, 1:3], state[:, 3], state[:, 4:10]), 0.0, atol=1e-6
    )
    lift = (obs["ref_obs"] - obs["ref_motion"])[:, :, 0]
    assert (lift > 0.01).all()
    th.testing.assert_close(lift[:, 0], lift[:, 1], atol=1e-5, rtol=0.0)


def test_standing_start_is_on_the_ground_and_at_rest() -> None:
    env = make(16, rsi_prob=0.0)
    obs = env.reset_tensor()
    state = env.physics.state
    np.testing.assert_allclose(
        sole_height(state[:, 1:3], state[:, 3], state[:, 4:10]), 0.0, atol=1e-6
    )
    assert (state[:, 10:] == 0.0).all()
    assert np.abs(state[:, 4:10] - np.array(task.NOMINAL_POSE)).max() <= 0.05 + 1e-6
    assert th.equal(obs["ref_obs"][:, 0], obs["ref_obs"][:, 1])


def test_rsi_prob_is_the_share_of_reference_starts() -> None:
    env = make(512, rsi_prob=0.8)
    env.reset_tensor()
    moving = np.abs(env.physics.state[:, 10:]).max(axis=1) > 0
    assert abs(moving.mean() - 0.8) < 0.06


def test_fallen_robots_terminate_and_time_outs_truncate() -> None:
    env = make(3, max_episode_length=5, domain_randomization=False, rsi_prob=0.0)
    env.reset_tensor()
    env.physics.state[0, 2] = 0.4  # too low
    env.physics.state[1, 3] = 1.2  # pitched over
    step = env.step_tensor(th.zeros(3, 6))
    assert step.terminated.tolist() == [True, True, False]
    assert not step.truncated.any()
    steps = [env.step_tensor(th.zeros(3, 6)) for _ in range(4)]
    assert steps[-1].truncated.tolist() == [False, False, True]
    assert not steps[-1].terminated.any()
    assert not steps[-2].truncated.any()
    assert env.episode_length_buf.tolist() == [4, 4, 0]


def test_final_obs_is_the_observation_before_the_reset() -> None:
    env = make(2, max_episode_length=3, domain_randomization=False)
    env.reset_tensor()
    twin = make(2, max_episode_length=100, domain_randomization=False)
    twin.reset_tensor()
    for i in range(3):
        step, expected = env.step_tensor(actions(env, i)), twin.step_tensor(actions(env, i))
    assert step.truncated.all()
    assert step.final_obs is not None
    for name in GROUPS:
        # The twin, whose episode goes on, sees what this one saw last.
        assert th.equal(step.final_obs[name], expected.obs[name])
    assert not th.equal(step.final_obs["critic"], step.obs["critic"])
    assert (segment(env, step.obs, "policy", "last_action") == 0.0).all()


def test_one_robots_reset_leaves_the_others_alone() -> None:
    env, twin = make(4, domain_randomization=False), make(4, domain_randomization=False)
    env.reset_tensor()
    twin.reset_tensor()
    env.physics.state[1, 2] = 0.3
    step, expected = env.step_tensor(th.zeros(4, 6)), twin.step_tensor(th.zeros(4, 6))
    assert step.terminated.tolist() == [False, True, False, False]
    others = th.tensor([0, 2, 3])
    for name in GROUPS:
        assert th.equal(step.obs[name][others], expected.obs[name][others])
    assert env.episode_length_buf.tolist() == [1, 0, 1, 1]


def test_amp_valid_marks_windows_that_span_a_reset() -> None:
    env = make(2, n_frames=4, max_episode_length=6)
    env.reset_tensor()
    valid = [env.step_tensor(th.zeros(2, 6)).extras["amp_valid"].tolist() for _ in range(8)]
    # Four frames: the reset's and three steps'. The sixth step ends the episode: final_obs.
    assert valid == [[False] * 2, [False] * 2, *[[True] * 2] * 4, [False] * 2, [False] * 2]


def test_history_is_oldest_first_and_consecutive() -> None:
    env = make(2, n_frames=3, domain_randomization=False)
    env.reset_tensor()
    frames = [env.step_tensor(actions(env, i)).obs["ref_obs"].clone() for i in range(3)]
    assert th.equal(frames[2][:, :-1], frames[1][:, 1:])
    assert not th.equal(frames[2][:, -1], frames[2][:, -2])


def test_observations_do_not_alias_the_next_step() -> None:
    env = make(2, max_episode_length=2)
    env.reset_tensor()
    obs = env.step_tensor(actions(env, 0)).obs
    before = {name: values.clone() for name, values in obs.items()}
    run(env, 3)
    for name, values in obs.items():
        assert th.equal(values, before[name])


def test_rewards_are_the_sum_of_their_terms() -> None:
    weights = task.WalkerRewards(
        velocity=2.0, velocity_sigma=0.5, alive=0.3, torque=1e-4, action_rate=0.1
    )
    env = make(1, rewards=weights, domain_randomization=False)
    env.reset_tensor()
    first, second = actions(env, 1), actions(env, 2)
    env.step_tensor(first)
    step = env.step_tensor(second)
    speed, torques = env.physics.state[0, 10], env.physics.torques[0]
    expected = {
        "velocity": 2.0 * math.exp(-((speed - env._commands.item()) ** 2) / 0.5),
        "alive": 0.3,
        "torque": -1e-4 * float((torques**2).sum()),
        "action_rate": -0.1 * float((second - first).square().sum()),
    }
    assert step.rewards.item() == pytest.approx(sum(expected.values()), rel=1e-4)
    for name, value in expected.items():
        assert step.extras["log"][f"reward/{name}"].item() == pytest.approx(value, rel=1e-4)
        assert step.extras["log"][f"reward/{name}"].ndim == 0


def test_commands_are_drawn_per_episode_from_the_range() -> None:
    env = make(64, command_range=(0.5, 1.5), max_episode_length=2)
    env.reset_tensor()
    first = env._commands.clone()
    assert 0.5 <= first.min() < 0.6
    assert 1.4 < first.max() <= 1.5
    env.step_tensor(th.zeros(64, 6))
    assert th.equal(env._commands, first)
    env.step_tensor(th.zeros(64, 6))
    assert not th.equal(env._commands, first)


def test_default_commands_surround_the_speed_of_the_clip() -> None:
    clip = Motion.load(MOTIONS / "walk.npz")
    speed = np.ptp(clip.fields["root_pos"][:, 0]) / clip.duration
    low, high = make().command_range
    assert low < speed < high
    assert low > 0.5 * speed


def test_same_seed_same_trajectory_other_seed_another() -> None:
    def rewards(seed: int) -> th.Tensor:
        env = make(8, seed=seed, max_episode_length=10)
        env.reset_tensor()
        return th.stack([step.rewards for step in run(env, 25)])

    assert th.equal(rewards(1), rewards(1))
    assert not th.equal(rewards(1), rewards(2))


def test_seeding_again_repeats_the_run_from_the_next_reset() -> None:
    env = make(8, seed=3)
    first = env.reset_tensor()
    steps = [step.obs["policy"].clone() for step in run(env, 5)]
    env.seed(3)
    again = env.reset_tensor()
    assert all(th.equal(first[name], again[name]) for name in GROUPS)
    for step, expected in zip(run(env, 5), steps, strict=True):
        assert th.equal(step.obs["policy"], expected)
    assert not th.equal(env.reset_tensor()["policy"], first["policy"])


def test_global_generators_do_not_matter() -> None:
    results = []
    for global_seed in (0, 1):
        th.manual_seed(global_seed)
        env = make(4)
        env.reset_tensor()
        results.append(run(env, 10)[-1].obs["policy"])
    assert th.equal(*results)


@pytest.mark.parametrize("n_envs", [1, 5])
def test_state_continues_bit_for_bit_in_a_new_environment(n_envs: int) -> None:
    env = make(n_envs, max_episode_length=20)
    env.reset_tensor()
    run(env, 30)
    saved = env.get_state()
    kept = {name: values.clone() for name, values in saved.items()}
    expected = run(env, 40, first=30)
    assert all(th.equal(saved[name], kept[name]) for name in saved)

    other = make(n_envs, max_episode_length=20, seed=99)
    other.reset_tensor()
    run(other, 7)
    other.set_state(saved)
    restored = other.get_state()
    assert all(th.equal(restored[name], saved[name]) for name in saved)
    n_done = 0
    for step, wanted in zip(run(other, 40, first=30), expected, strict=True):
        n_done += int((step.terminated | step.truncated).sum())
        assert th.equal(step.rewards, wanted.rewards)
        assert th.equal(step.extras["amp_valid"], wanted.extras["amp_valid"])
        for name in GROUPS:
            assert th.equal(step.obs[name], wanted.obs[name])
    # Warm starts show in the last bits of float64 only.
    np.testing.assert_array_equal(other.physics.state, env.physics.state)
    np.testing.assert_array_equal(other.physics.warmstart, env.physics.warmstart)
    assert n_done > 0  # resets, which draw random numbers, are part of what continues


def test_state_of_another_environment_is_refused() -> None:
    env = make(2)
    state = env.get_state()
    with pytest.raises(StrlValueError, match=r"'physics' has shape \(2, 19\). Expected \(3, 19\)"):
        make(3).set_state(state)
    del state["warmstart"]
    with pytest.raises(StrlKeyError, match="'warmstart' is missing"):
        env.set_state(state)


def test_domain_randomization_shows_in_the_critic_group_and_is_redrawn() -> None:
    env = make(64, max_episode_length=1)
    obs = env.reset_tensor()
    friction, mass = (segment(env, obs, "critic", name) for name in ("friction", "added_mass"))
    assert 0.6 <= friction.min() < friction.max() <= 1.2
    assert -3.0 <= mass.min() < mass.max() <= 6.0
    # They are those of the models that are simulated.
    for i in range(0, 64, 9):
        model = env.physics._models[i]
        assert model.geom_friction[model.geom_priority == 1][0, 0] == pytest.approx(
            friction[i].item()
        )
        assert model.body("torso").mass[0] - 47.46 == pytest.approx(mass[i].item(), abs=1e-4)
    after = segment(env, env.step_tensor(th.zeros(64, 6)).obs, "critic", "friction")
    assert not th.equal(after, friction)


def test_pushes_change_the_velocity_at_the_given_rate() -> None:
    quiet = DomainRandomization.off()
    pushes = DomainRandomization(**{**quiet.__dict__, "push_interval": 0.1, "push_velocity": 1.0})
    env, still = make(500, domain_randomization=pushes), make(500, domain_randomization=quiet)
    env.reset_tensor()
    still.reset_tensor()
    before = env.physics.state[:, 10].copy()
    env._push()
    kicks = env.physics.state[:, 10] - before
    assert abs((kicks != 0).mean() - env.dt / 0.1) < 0.06
    assert 0.8 < np.abs(kicks).max() <= 1.0
    before = still.physics.state.copy()
    still._push()
    np.testing.assert_array_equal(still.physics.state, before)


def test_random_episode_lengths_spread_the_time_outs() -> None:
    env = make(200, max_episode_length=50)
    env.reset_tensor()
    env.randomize_episode_lengths(th.Generator().manual_seed(1))
    lengths = env.episode_length_buf
    assert 0 <= lengths.min() < 5
    assert 45 <= lengths.max() < 50
    # The history does not get older by it.
    assert env.step_tensor(th.zeros(200, 6)).extras["amp_valid"].all()
    assert (env._frames_seen <= 2).all()
