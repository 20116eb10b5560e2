"""A Unitree robot of mjlab on mujoco-warp, on the CPU; made once, because that takes a minute."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, make_vec
from sb3_strl.envs import MjlabVecEnv, check_tensor_env

pytest.importorskip("mjlab")
pytestmark = pytest.mark.integration

N = 4
TASK = "Mjlab-Velocity-Flat-Unitree-Go1"


@pytest.fixture(scope="module", name="env")
def make_env() -> Any:
    import mjlab.tasks  # noqa: F401  registers the tasks
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import load_env_cfg

    cfg = load_env_cfg(TASK)
    cfg.scene.num_envs = N
    cfg.seed = 1
    env = make_vec(ManagerBasedRlEnv(cfg, device="cpu"))
    yield env
    env.close()


def zeros() -> th.Tensor:
    return th.zeros(N, 12)


def test_recognised(env: Any) -> None:
    assert isinstance(env, MjlabVecEnv)
    assert isinstance(env.observation_space, spaces.Dict)
    shapes = {name: part.shape for name, part in env.observation_space.spaces.items()}
    assert shapes == {"policy": (48,), "critic": (72,)}
    assert env.action_space.shape == (12,)
    assert env.max_episode_length == 1000
    assert env.obs_segments is not None
    assert env.obs_segments["policy"]["command"] == (3,)


def test_promises(env: Any) -> None:
    # Its reward foot_swing_height remembers heights from before a reset: no two runs are equal.
    check_tensor_env(env, n_steps=5, seeding=False)


def test_time_outs_keep_their_last_observation(env: Any) -> None:
    env.reset_tensor()
    env.episode_length_buf[:2] = 998
    before = env.step_tensor(zeros())
    assert not (before.truncated | before.terminated).any()
    step = env.step_tensor(zeros())
    assert step.truncated.tolist() == [True, True, False, False]
    assert not step.terminated.any()
    assert step.final_obs is not None
    for name, last in step.final_obs.items():
        assert th.equal(last[2:], step.obs[name][2:])
        assert not th.equal(last[:2], step.obs[name][:2])
    # A robot at rest is where it was a step ago; one that was reset need not be.
    pose = slice(9, 21)
    moved = (step.final_obs["policy"][:, pose] - before.obs["policy"][:, pose]).abs()
    assert moved.max() < 0.2
    assert env.episode_length_buf.tolist()[:2] == [0, 0]
    assert "Episode_Termination/time_out" in step.extras["log"]
    after = env.step_tensor(zeros())
    assert "Episode_Termination/time_out" not in after.extras["log"]
    assert env.episode_length_buf.tolist()[:2] == [1, 1]


def test_the_simulator_overwrites_only_its_own(env: Any) -> None:
    kept = []
    env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(th.rand(N, 12))
        tensors = [*step.obs.values(), step.rewards, step.terminated, step.truncated]
        kept.append((tensors, [tensor.clone() for tensor in tensors]))
    for tensors, then in kept:
        assert all(th.equal(a, b) for a, b in zip(tensors, then, strict=True))


def test_curricula_and_random_lengths(env: Any) -> None:
    env.set_attr("common_step_counter", 4321)
    env.step_tensor(zeros())
    assert env.common_step_counter == 4322
    env.randomize_episode_lengths(th.Generator().manual_seed(0))
    assert len(set(env.episode_length_buf.tolist())) > 1


def test_training(env: Any) -> None:
    model = PPO("MlpPolicy", env, n_steps=12, batch_size=24, n_epochs=1, seed=0)
    model.learn(2 * 12 * N)
    assert model.num_timesteps == 96
    assert model.collector.has_final_obs
