"""Velocity error and cost of transport of a rollout."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import VecMonitor

import sb3_strl
from sb3_strl import PPO
from sb3_strl.callbacks import LocomotionMetricsCallback
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorStep
from tests.envs.toy import PointMass
from tests.host_sync import no_host_sync


class Legs(PointMass):
    """A point mass with numbers that are easy to average: they depend on row and step."""

    n = 0

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        self.n += 1
        return super().step_tensor(actions)

    @property
    def tracking_error(self) -> th.Tensor:
        return th.tensor([3.0, -4.0, 0.0, 0.0]) * self.n

    @property
    def forward_speed(self) -> th.Tensor:
        return th.tensor([0.5, 2.0, 0.0, 0.01])

    @property
    def joint_power(self) -> th.Tensor:
        return th.tensor([100.0, 200.0, 1e6, 1e6])

    @property
    def body_weight(self) -> th.Tensor:
        return th.full((4,), 500.0)


def rollout(env: Any, callback: LocomotionMetricsCallback, n_steps: int = 4) -> dict[str, Any]:
    model = PPO("MlpPolicy", env, n_steps=n_steps, n_minibatches=1, n_epochs=1, seed=0)
    model.learn(1, callback=callback, log_interval=None)
    return model.logger.name_to_value


def test_the_true_root_of_the_mean_square_and_only_rows_that_move() -> None:
    values = rollout(Legs(4), LocomotionMetricsCallback(), n_steps=2)
    # Steps 1 and 2: squares 9 + 16 and 4 (9 + 16), in 8 rows.
    assert values["eval/velrmsd"] == pytest.approx(math.sqrt(5 * 25 / 8))
    # Rows 2 and 3 stand or nearly so: a cost of transport of 0, 1 or 1e6 would show.
    assert values["eval/CoT"] == pytest.approx((100 / 250 + 200 / 1000) / 2)


def test_a_wrapped_environment_is_read_without_its_finished_rows() -> None:
    # Through wrappers, attributes are those after the restart: both time-outs are left out.
    env = VecMonitor(Legs(4, max_episode_length=2))
    values = rollout(env, LocomotionMetricsCallback(), n_steps=4)
    assert values["eval/velrmsd"] == pytest.approx(math.sqrt((1 + 9) * 25 / 8))


def test_every_rollout_begins_anew() -> None:
    model = PPO("MlpPolicy", Legs(4), n_steps=1, n_minibatches=1, n_epochs=1, seed=0)
    model.learn(8, callback=LocomotionMetricsCallback(), log_interval=None)
    assert model.logger.name_to_value["eval/velrmsd"] == pytest.approx(2 * 2.5)


def test_nan_where_attributes_are_missing() -> None:
    with pytest.warns(UserWarning, match=r"has no \['body_weight', 'forward_speed'"):
        values = rollout(PointMass(4), LocomotionMetricsCallback())
    assert math.isnan(values["eval/velrmsd"])
    assert math.isnan(values["eval/CoT"])


def test_functions_in_place_of_attributes_and_rows_that_are_not_finite() -> None:
    def error(env: Any) -> th.Tensor:
        return th.tensor([2.0, math.nan, math.inf, 2.0])

    with pytest.warns(UserWarning, match="pass functions"):
        values = rollout(PointMass(4), LocomotionMetricsCallback(tracking_error=error))
    assert values["eval/velrmsd"] == 2.0


def test_no_step_waits_for_the_device() -> None:
    model = PPO("MlpPolicy", Legs(4), n_steps=4, n_minibatches=1, n_epochs=1, seed=0)
    callback = LocomotionMetricsCallback()
    callback.init_callback(model)
    model.set_logger(sb3_strl.PPO("MlpPolicy", Legs(4), n_steps=4).learn(1).logger)
    callback.on_training_start({}, {})
    with no_host_sync():
        callback.on_step()
    assert callback._sums[1] == 4


def test_bad_arguments() -> None:
    with pytest.raises(StrlValueError, match=r"eps is 0\.0. Expected a speed above 0"):
        LocomotionMetricsCallback(eps=0.0)
    with pytest.raises(StrlValueError, match=r"'forward_speed' has shape \(2,\). Expected \(4,\)"):
        rollout(Legs(4), LocomotionMetricsCallback(forward_speed=lambda env: th.zeros(2)))


def test_the_walker_has_the_attributes() -> None:
    env = sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=4, seed=0, n_threads=1)
    env.max_episode_length = 3
    env.reset_tensor()
    for _ in range(3):
        commands = env._commands.clone()
        added = env._params[:, 1].clone()
        step = env.step_tensor(th.zeros(4, 6))
        frame = step.final_obs["ref_obs"][:, -1].clone()
        names = env.feature_names["ref_obs"]
        v = frame[:, names.index("root_vel/x")]
        th.testing.assert_close(env.tracking_error, v - commands[:, 0])
        th.testing.assert_close(env.forward_speed, v.abs())
        joints = [i for i, name in enumerate(names) if name.startswith("joint_vel/")]
        torques = th.from_numpy(np.array(env.physics.torques)).float()
        power = (torques * frame[:, joints]).abs().sum(-1)
        th.testing.assert_close(env.joint_power, power)
        th.testing.assert_close(env.body_weight, env.physics.pool.weight + 9.81 * added)
    assert step.truncated.all()


def test_the_walker_is_measured() -> None:
    env = sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=4, seed=0, n_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = rollout(env, LocomotionMetricsCallback(), n_steps=8)
    assert 0.0 < values["eval/velrmsd"] < 3.0
    assert 0.0 < values["eval/CoT"] < 100.0
