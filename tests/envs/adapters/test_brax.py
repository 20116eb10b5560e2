"""Real environments of Brax (and, where it is installed, MuJoCo Playground) through DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl import PPO, make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import BraxVecEnv, check_tensor_env

jax = pytest.importorskip("jax")
envs = pytest.importorskip("brax.envs")
base = pytest.importorskip("brax.envs.base")

N = 3


class Clock(base.Env):
    """Counts ``(start, steps)`` from a random start; falls when the sum passes 2.5 times ten."""

    observation_size = 2
    action_size = 1
    backend = "none"

    def __init__(self, fall: float = 1e9, own_limit: int | None = None) -> None:
        self.fall, self.own_limit = fall, own_limit

    def reset(self, rng: Any) -> Any:
        start = jax.random.uniform(rng)
        obs = jax.numpy.stack([start, 0.0 * start])
        zero = 0.0 * start
        info = {"rng": rng} if self.own_limit is None else {"rng": rng, "truncation": zero}
        return base.State(obs, obs, zero, zero, {"height": zero}, info)

    def step(self, state: Any, action: Any) -> Any:
        obs = state.obs + jax.numpy.array([0.0, 1.0])
        done = (obs[1] >= self.fall).astype("float32")
        info = dict(state.info)
        if self.own_limit is not None:
            cut = (obs[1] >= self.own_limit).astype("float32")
            done, info = jax.numpy.maximum(done, cut), {**info, "truncation": cut}
        return state.replace(
            pipeline_state=obs,
            obs=obs,
            reward=obs[1] + action[0],
            done=done,
            metrics={"height": obs[1]},
            info=info,
        )


def make(env: Any = None, **options: Any) -> BraxVecEnv:
    vec = make_vec(env or Clock(), **{"n_envs": N, "seed": 0, "episode_length": 4, **options})
    assert isinstance(vec, BraxVecEnv)
    return vec


def zeros() -> th.Tensor:
    return th.zeros(N, 1)


def test_every_step_is_a_step_of_one_episode() -> None:
    env = make()
    before = env.reset_tensor()["policy"]
    starts = {tuple(before[:, 0].tolist())}
    for t in range(1, 13):
        step = env.step_tensor(zeros() + 0.5)
        assert step.final_obs is not None
        last, first = step.final_obs["policy"], step.obs["policy"]
        assert th.equal(last[:, 0], before[:, 0])
        assert th.equal(last[:, 1], before[:, 1] + 1)
        assert th.equal(step.rewards, last[:, 1] + 0.5)
        assert step.truncated.tolist() == [t % 4 == 0] * N
        assert not step.terminated.any()
        assert step.extras["log"]["metrics/height"].item() == pytest.approx(float(last[0, 1]))
        if t % 4 == 0:
            assert (first[:, 1] == 0).all()
            starts.add(tuple(first[:, 0].tolist()))
        else:
            assert th.equal(first, last)
        before = first
    assert len(starts) == 4  # every episode starts elsewhere


def test_first_starts_again_and_again() -> None:
    env = make(resets="first")
    start = env.reset_tensor()["policy"]
    for _ in range(2):
        for _ in range(4):
            step = env.step_tensor(zeros())
        assert th.equal(step.obs["policy"], start)
        assert step.final_obs is not None
        assert (step.final_obs["policy"][:, 1] == 4).all()


def test_falls_are_no_time_outs() -> None:
    env = make(Clock(fall=4.0))  # in the step of the time limit: falling wins
    env.reset_tensor()
    steps = [env.step_tensor(zeros()) for _ in range(4)]
    assert steps[3].terminated.all()
    env = make(Clock(fall=3.0))
    env.reset_tensor()
    steps = [env.step_tensor(zeros()) for _ in range(3)]
    assert steps[2].terminated.all()
    assert not steps[2].truncated.any()


def test_time_limits_of_the_environment_itself() -> None:
    env = make(Clock(own_limit=2), episode_length=50)
    env.reset_tensor()
    steps = [env.step_tensor(zeros()) for _ in range(4)]
    assert [step.truncated.all().item() for step in steps] == [False, True, False, True]
    assert not any(bool(step.terminated.any()) for step in steps)


def test_limits_and_batches_of_wrappers() -> None:
    wrapped = envs.training.wrap(Clock(), episode_length=6, action_repeat=2)
    env = make_vec(wrapped, n_envs=2)
    assert isinstance(env, BraxVecEnv)
    assert (env.episode_length, env.action_repeat, env.max_episode_length) == (6, 2, 3)
    env.reset_tensor()
    step = env.step_tensor(th.zeros(2, 1))
    assert step.rewards.tolist() == [3.0, 3.0]
    created = envs.create("fast", episode_length=7, batch_size=5)
    env = make_vec(created)
    assert (env.num_envs, env.max_episode_length) == (5, 7)


def test_promises() -> None:
    check_tensor_env(make(), n_steps=14)
    check_tensor_env(make(envs.get_environment("fast")), n_steps=14)


def test_the_state_is_whole() -> None:
    env = make()
    env.reset_tensor()
    env.step_tensor(zeros())
    state = {name: value.clone() for name, value in env.get_state().items()}
    wanted = [env.step_tensor(zeros()).obs["policy"] for _ in range(9)]
    other = make(seed=7)  # another process would have another environment
    other.reset_tensor()
    other.set_state(state)
    for value in wanted:
        assert th.equal(other.step_tensor(zeros()).obs["policy"], value)
    with pytest.raises(StrlValueError, match="Expected a state of the same environment"):
        make(n_envs=2).set_state(state)


def test_nobody_can_write_into_the_state() -> None:
    env = make()
    env.reset_tensor()["policy"].fill_(9.0)
    env.step_tensor(zeros()).obs["policy"].fill_(9.0)
    assert (env.step_tensor(zeros()).obs["policy"][:, 1] == 2).all()


def test_actions_may_change_afterwards() -> None:
    env = make()
    env.reset_tensor()
    actions = zeros()
    step = env.step_tensor(actions)
    actions.fill_(9.0)
    assert (step.rewards == 1.0).all()


def test_random_lengths() -> None:
    env = make(episode_length=100)
    env.reset_tensor()
    env.randomize_episode_lengths(th.Generator().manual_seed(0))
    assert env.episode_length_buf is not None
    lengths = env.episode_length_buf.clone()
    assert 0 < int(lengths.max()) < 100
    env.step_tensor(zeros())
    assert th.equal(env.episode_length_buf, (lengths + 1) % 100)


def test_seeds() -> None:
    starts = [make(seed=seed).reset_tensor()["policy"] for seed in (1, 1, 2)]
    assert th.equal(starts[0], starts[1])
    assert not th.equal(starts[0], starts[2])


def test_what_is_refused() -> None:
    with pytest.raises(StrlValueError, match=r"resets is 'never'. Expected 'new' or 'first'"):
        make(resets="never")
    with pytest.raises(StrlTypeError, match="has no action_size or reset"):
        BraxVecEnv(object())


@pytest.mark.integration
def test_training() -> None:
    robot = envs.get_environment("inverted_pendulum")
    env = make_vec(robot, n_envs=8, episode_length=60, seed=0)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=2, seed=0)
    model.learn(3 * 32 * 8)
    assert model.num_timesteps == 768
    assert model.collector.has_final_obs
    assert np.isfinite(model.logger.name_to_value.get("train/loss", 0.0))


@pytest.mark.integration
def test_playground() -> None:
    registry = pytest.importorskip("mujoco_playground").registry
    env = make_vec(
        registry.load("CartpoleBalance", config_overrides={"impl": "jax"}),
        n_envs=4,
        episode_length=40,
        seed=0,
    )
    assert isinstance(env, BraxVecEnv)
    model = PPO("MlpPolicy", env, n_steps=24, batch_size=48, n_epochs=1, seed=0)
    model.learn(2 * 24 * 4)
    assert model.collector.has_final_obs
