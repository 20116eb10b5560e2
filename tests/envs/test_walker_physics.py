"""The robot itself: geometry, signs, motors, ground, threads and randomised models."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.motion_library import MotionLibrary
from sb3_strl.envs.walker_kinematics import (
    JOINT_NAMES,
    STANDING_HEIGHT,
    forward_kinematics,
    sole_height,
)
from sb3_strl.envs.walker_options import MOTIONS
from sb3_strl.envs.walker_physics import POS, VEL, DomainRandomization, ModelPool, WalkerPhysics
from sb3_strl.envs.walker_task import NOMINAL_POSE

mujoco = pytest.importorskip("mujoco")

NOMINAL = np.array(NOMINAL_POSE)


def standing(n_envs: int = 1, n_threads: int = 0, n_models: int = 1) -> WalkerPhysics:
    physics = WalkerPhysics(n_envs, decimation=4, n_threads=n_threads, n_models=n_models)
    physics.pool.set_params(th.tensor([[0.9, 0.0, 1.0]]).repeat(n_models, 1))
    physics.state[:, POS.start + 3 : POS.stop] = NOMINAL
    physics.state[:, 2] = -sole_height(np.zeros((1, 2)), np.zeros(1), NOMINAL)
    return physics


def test_body_is_a_human_of_the_agreed_size() -> None:
    pool = ModelPool(1)
    model = pool.models[0]
    assert 60.0 <= model.body_subtreemass[0] <= 75.0
    assert pool.weight == pytest.approx(9.81 * model.body_mass.sum())
    assert pool.timestep == 0.005
    assert pytest.approx(0.89) == STANDING_HEIGHT
    joints = [model.joint(i).name for i in range(model.njnt)]
    assert tuple(joints[3:]) == JOINT_NAMES
    assert tuple(model.actuator(i).name for i in range(model.nu)) == JOINT_NAMES


def test_kinematics_agree_with_mujoco() -> None:
    model = ModelPool(1).models[0]
    data = mujoco.MjData(model)
    data.qpos[:] = [0.3, 1.0, 0.2, 0.5, 0.9, -0.3, -0.4, 0.2, 0.4]
    mujoco.mj_kinematics(model, data)
    points = forward_kinematics(data.qpos[None, :2], data.qpos[2:3], data.qpos[None, 3:])
    for side in ("right", "left"):
        for end in ("heel", "toe"):
            expected = data.geom(f"{side}_{end}").xpos[[0, 2]]
            np.testing.assert_allclose(points[f"{side}_{end}"][0], expected, atol=1e-12)
        np.testing.assert_allclose(
            points[f"{side}_ankle"][0], data.body(f"{side}_foot").xpos[[0, 2]], atol=1e-12
        )


@pytest.mark.parametrize(
    ("joint", "point", "axis"),
    [(0, "right_knee", 0), (2, "right_toe", 1), (3, "left_knee", 0), (5, "left_toe", 1)],
)
def test_flexion_and_dorsiflexion_are_positive(joint: int, point: str, axis: int) -> None:
    pose = np.zeros((2, 6))
    pose[1, joint] = 0.3
    points = forward_kinematics(np.zeros((2, 2)), np.zeros(2), pose)[point]
    assert points[1, axis] > points[0, axis] + 0.01  # the thigh swings forward, the toes rise


def test_knee_flexion_moves_the_foot_back_and_pitch_the_neck_forward() -> None:
    bent = np.array([[0.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    points = forward_kinematics(np.zeros((1, 2)), np.array([0.2]), bent)
    assert points["right_ankle"][0, 0] < points["left_ankle"][0, 0] - 0.1
    assert points["neck"][0, 0] > 0.1


def test_stands_for_a_second_and_the_ground_carries_its_weight() -> None:
    physics = standing()
    for _ in range(50):
        physics.step(NOMINAL[None])
    assert physics.state[0, 2] > 0.85
    assert abs(physics.state[0, 3]) < 0.15
    np.testing.assert_allclose(physics.contact_forces.sum() / physics.pool.weight, 1.0, atol=0.05)
    assert sole_height(physics.state[:, 1:3], physics.state[:, 3], physics.state[:, 4:10]) > -0.01


def test_motors_follow_the_walking_clip_while_the_root_is_held() -> None:
    physics, library = standing(), MotionLibrary(MOTIONS / "walk.npz", dtype=th.float64)
    clip = th.zeros(1, dtype=th.int64)
    errors = []
    for i in range(100):
        pose = library.state_at(clip, th.tensor([i * physics.dt], dtype=th.float64))["joint_pos"]
        physics.state[0, POS.start : POS.start + 3] = [0.0, 2.0, 0.0]
        physics.state[0, VEL.start : VEL.start + 3] = 0.0
        physics.step(pose.numpy())
        errors.append(np.abs(physics.state[0, 4:10] - pose.numpy()[0]))
    assert np.mean(errors[10:]) < 0.12
    assert np.max(errors[10:]) < 0.6


def test_torques_stay_within_the_limits() -> None:
    physics = standing()
    physics.step(NOMINAL[None] + 5.0)
    limits = physics.pool.models[0].actuator_forcerange[:, 1]
    assert (np.abs(physics.torques) <= limits + 1e-9).all()
    assert np.abs(physics.torques).max() > 150.0


def test_threads_change_nothing() -> None:
    targets = NOMINAL + 0.3 * np.random.default_rng(0).uniform(-1, 1, (20, 32, 6))
    ends = []
    for n_threads in (0, 2):
        physics = standing(32, n_threads)
        for target in targets:
            physics.step(target)
        ends.append(physics.state.copy())
        physics.close()
    np.testing.assert_array_equal(ends[0], ends[1])


def test_a_step_depends_on_state_and_warm_start_only() -> None:
    physics, other = standing(), standing()
    for _ in range(10):
        physics.step(NOMINAL[None] + 0.2)
    other.state[:], other.warmstart[:] = physics.state, physics.warmstart
    physics.step(NOMINAL[None])
    other.step(NOMINAL[None])
    np.testing.assert_array_equal(physics.state, other.state)


def test_warm_start_is_the_last_acceleration_and_only_saves_time() -> None:
    fine, warm, cold = (WalkerPhysics(1, n, n_threads=0, n_models=1) for n in (1, 4, 4))
    for physics in (fine, warm, cold):
        physics.state[:] = standing().state
    for _ in range(3):
        fine.step(NOMINAL[None] + 0.3)
    before = fine.state[0, VEL].copy()
    fine.step(NOMINAL[None] + 0.3)
    warm.step(NOMINAL[None] + 0.3)
    np.testing.assert_allclose(warm.state, fine.state, atol=1e-9)
    np.testing.assert_allclose(warm.warmstart[0], (fine.state[0, VEL] - before) / 0.005, atol=1e-6)
    cold.state[:] = warm.state
    differences = []
    for i in range(40):
        target = NOMINAL[None] + 0.4 * np.sin(0.5 * i)
        cold.state[:], cold.warmstart[:] = warm.state, 0.0
        warm.step(target)
        cold.step(target)
        differences.append(np.abs(warm.state - cold.state).max())
    assert 0.0 < max(differences) < 1e-6  # it is used, and the solver converges without it


def test_pool_changes_the_models_and_nothing_else() -> None:
    pool = ModelPool(2)
    pool.set_params(th.tensor([[0.5, 0.0, 1.0], [1.1, 5.0, 0.5]]))
    light, heavy = pool.models
    assert heavy.body_mass.sum() - light.body_mass.sum() == pytest.approx(5.0)
    assert heavy.body_subtreemass[0] - light.body_subtreemass[0] == pytest.approx(5.0)
    soles = light.geom_priority == 1
    assert soles.sum() == 4
    np.testing.assert_allclose(light.geom_friction[soles, 0], 0.5)
    np.testing.assert_allclose(heavy.geom_friction[soles, 0], 1.1, rtol=1e-6)
    np.testing.assert_allclose(heavy.actuator_gainprm, 0.5 * light.actuator_gainprm)
    np.testing.assert_allclose(heavy.actuator_forcerange, 0.5 * light.actuator_forcerange)
    pool.set_params(th.tensor([[0.5, 0.0, 1.0], [0.5, 0.0, 1.0]]))  # not cumulative
    np.testing.assert_array_equal(light.body_mass, heavy.body_mass)


def test_robots_use_their_own_model() -> None:
    physics = standing(2, n_models=2)
    physics.pool.set_params(th.tensor([[0.9, 0.0, 1.0], [0.9, 6.0, 1.0]]))
    physics.model_ids[:] = [0, 1]
    physics.refresh_models()
    for _ in range(50):
        physics.step(np.tile(NOMINAL, (2, 1)))
    forces = physics.contact_forces.sum(axis=1)
    assert forces[1] - forces[0] == pytest.approx(6.0 * 9.81, rel=0.25)


def test_low_friction_slips() -> None:
    distances = []
    for friction in (0.05, 1.2):
        physics = standing()
        physics.pool.set_params(th.tensor([[friction, 0.0, 1.0]]))
        physics.state[0, VEL.start] = 1.0
        for _ in range(10):
            physics.step(NOMINAL[None])
        points = forward_kinematics(
            physics.state[:, 1:3], physics.state[:, 3], physics.state[:, 4:10]
        )
        distances.append(points["right_ankle"][0, 0])
    assert distances[0] > distances[1] + 0.03


def test_stepping_a_closed_environment_is_refused() -> None:
    physics = standing()
    physics.close()
    physics.close()
    with pytest.raises(StrlValueError, match="the environment is closed"):
        physics.step(NOMINAL[None])


def test_randomization_refuses_what_cannot_be() -> None:
    with pytest.raises(StrlValueError, match=r"friction is \(1.0, 0.5\). Expected a pair"):
        DomainRandomization(friction=(1.0, 0.5))
    with pytest.raises(StrlValueError, match=r"push_interval is -1\.0"):
        DomainRandomization(push_interval=-1.0)
    with pytest.raises(StrlValueError, match="n_models is 0"):
        DomainRandomization(n_models=0)
    with pytest.raises(StrlValueError, match="added_mass begins at -50"):
        DomainRandomization(added_mass=(-50.0, 0.0))
