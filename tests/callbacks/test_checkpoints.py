"""Checkpoints during training: names, moments, and that they continue exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import stable_baselines3
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_strl import PPO
from sb3_strl.callbacks import IterationCheckpointCallback
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.toy import Balance

N_ENVS, N_STEPS = 4, 8


def make() -> PPO:
    return PPO("MlpPolicy", Balance(N_ENVS), n_steps=N_STEPS, n_minibatches=1, n_epochs=1, seed=0)


def test_sb3s_checkpoints_have_sb3s_names(tmp_path: Path) -> None:
    make().learn(4 * N_ENVS * N_STEPS, callback=CheckpointCallback(2 * N_STEPS, str(tmp_path)))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["rl_model_128_steps.zip", "rl_model_64_steps.zip"]
    assert PPO.load(tmp_path / "rl_model_64_steps").num_timesteps == 64


def test_iterations_in_the_name(tmp_path: Path) -> None:
    model = make()
    model.learn(5 * N_ENVS * N_STEPS, callback=IterationCheckpointCallback(2, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_2.zip", "model_4.zip"]
    loaded = PPO.load(tmp_path / "model_4", env=Balance(N_ENVS))
    assert loaded.n_iterations == 4
    assert loaded.num_timesteps == 4 * N_ENVS * N_STEPS
    loaded.learn(N_ENVS * N_STEPS, reset_num_timesteps=False)
    for a, b in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        th.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_last_iteration_is_saved_and_none_twice(tmp_path: Path) -> None:
    model = make()
    callback = IterationCheckpointCallback(2, tmp_path, name_prefix="walker")
    model.learn(2 * N_ENVS * N_STEPS, callback=callback)
    path = tmp_path / "walker_2.zip"
    before = path.stat().st_mtime_ns
    model.learn(N_ENVS * N_STEPS, callback=callback, reset_num_timesteps=False)
    assert path.stat().st_mtime_ns == before
    assert [file.name for file in tmp_path.iterdir()] == ["walker_2.zip"]


def test_bad_use(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"save_interval is 0. Expected at least 1"):
        IterationCheckpointCallback(0, tmp_path)
    other = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(StrlTypeError, match="PPO counts no iterations"):
        other.learn(8, callback=IterationCheckpointCallback(1, tmp_path))
