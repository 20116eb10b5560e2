"""All three ways to reset give the same samples, and no step is a reset in disguise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
)

from sb3_strl import PPO, make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import GymnasiumVecEnv, TensorVecEnv, check_tensor_env

MODES = list(AutoresetMode)
SIZES = (2, 3, 5)


class Clock(gym.Env):
    """
    Observations that tell where they come from: ``(length, episode, step)``.

    Episodes have ``length`` steps; even lengths end by time limit, odd ones by termination. The
    reward is the number of the step, and nothing if the action was not the step's number.
    """

    def __init__(self, length: int, style: str = "box", seen: list[Any] | None = None) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        parts = {
            "robot": spaces.Dict({"clock": box}),
            "image": spaces.Box(0, 255, (1, 2, 2), np.uint8),
        }
        self.observation_space = box if style == "box" else spaces.Dict(parts)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.style, self.episode, self.t = length, style, -1, 0
        self.level = 0.0
        self.seen = [] if seen is None else seen
        self.noise = 0.0

    def observe(self) -> Any:
        clock = np.array([self.length, self.episode, self.t + self.noise])
        if self.style == "box":
            return clock
        return {"robot": {"clock": clock}, "image": np.full((1, 2, 2), self.t, np.uint8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.noise = self.np_random.uniform(0.0, 0.25)
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> Any:
        assert self.t < self.length, "stepped after the end"
        self.t += 1
        self.seen.append((self.length, action))
        ended = self.t == self.length
        terminated = ended and self.length % 2 == 1
        return self.observe(), float(self.t), terminated, ended and not terminated, {}

    def set_level(self, level: float) -> float:
        self.level = level
        return level + self.length


def clocks(style: str = "box") -> list[Callable[[], gym.Env]]:
    return [lambda size=size: Clock(size, style) for size in SIZES]


def make(mode: AutoresetMode, style: str = "box", **options: Any) -> TensorVecEnv:
    return make_vec(SyncVectorEnv(clocks(style), autoreset_mode=mode, **options), seed=0)


def trace(env: TensorVecEnv, n_steps: int) -> list[list[Any]]:
    """Return, per step, what a learner gets to see: (from, to, reward, terminated, truncated)."""
    result = []
    before = env.reset_tensor()["policy"].clone()
    for _ in range(n_steps):
        step = env.step_tensor(th.zeros(env.num_envs, 1))
        dones = step.terminated | step.truncated
        assert step.final_obs is not None
        after = th.where(dones[:, None], step.final_obs["policy"], step.obs["policy"])
        flags = [step.rewards, step.terminated, step.truncated]
        result.append([before, after.clone(), *(flag.clone() for flag in flags)])
        before = step.obs["policy"].clone()
    return result


@pytest.mark.parametrize("mode", MODES)
def test_every_step_is_a_step_of_one_episode(mode: AutoresetMode) -> None:
    for before, after, rewards, terminated, truncated in trace(make(mode), 20):
        assert th.equal(before[:, :2], after[:, :2])  # nobody crosses into another episode
        assert th.allclose(after[:, 2], before[:, 2] + 1)
        assert th.equal(rewards, after[:, 2].floor())
        at_end = after[:, 2].floor() == after[:, 0]
        odd = after[:, 0] % 2 == 1
        assert th.equal(terminated, at_end & odd)
        assert th.equal(truncated, at_end & ~odd)


def test_the_ways_to_reset_are_equal() -> None:
    same, after, disabled = (trace(make(mode), 20) for mode in MODES)
    for one, two, three in zip(same, after, disabled, strict=True):
        for a, b, c in zip(one, two, three, strict=True):
            assert th.equal(a, b)
            assert th.equal(a, c)


@pytest.mark.parametrize("mode", MODES)
def test_no_action_is_lost(mode: AutoresetMode) -> None:
    seen: list[Any] = []
    makers = [lambda: Clock(2, seen=seen), lambda: Clock(3, seen=seen)]
    env = make_vec(SyncVectorEnv(makers, autoreset_mode=mode))
    env.reset_tensor()
    for t in range(12):
        env.step_tensor(th.full((2, 1), t / 20))
    for length in (2, 3):
        given = [float(action[0]) for size, action in seen if size == length]
        assert given == pytest.approx([t / 20 for t in range(12)])


@pytest.mark.integration
@pytest.mark.parametrize("mode", MODES)
def test_asynchronous_workers(mode: AutoresetMode) -> None:
    env = make_vec(AsyncVectorEnv(clocks(), autoreset_mode=mode, context="fork"), seed=0)
    try:
        for ours, theirs in zip(trace(make(mode), 12), trace(env, 12), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert th.equal(a, b)
        assert env.env_method("set_level", 2.0) == [4.0, 5.0, 7.0]
    finally:
        env.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("style", ["box", "dict"])
def test_promises(mode: AutoresetMode, style: str) -> None:
    env = make_vec(SyncVectorEnv([lambda: Walk(style), lambda: Walk(style)], autoreset_mode=mode))
    check_tensor_env(env, n_steps=15)


class Walk(Clock):
    """A clock that a seed makes start again from nothing."""

    def __init__(self, style: str) -> None:
        super().__init__(4, style)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episode = -1 if seed is not None else self.episode
        return super().reset(seed=seed, options=options)


def test_groups_of_nested_observations() -> None:
    env = make(AutoresetMode.NEXT_STEP, "dict")
    obs = env.reset_tensor()
    assert {name: (value.dtype, tuple(value.shape)) for name, value in obs.items()} == {
        "image": (th.uint8, (3, 1, 2, 2)),
        "robot/clock": (th.float32, (3, 3)),
    }
    assert isinstance(env.observation_space, spaces.Dict)
    assert env.observation_space["robot/clock"].shape == (3,)


@pytest.mark.parametrize("mode", MODES)
def test_last_observations_of_every_group(mode: AutoresetMode) -> None:
    env = make(mode, "dict")
    env.reset_tensor()
    env.step_tensor(th.zeros(3, 1))
    step = env.step_tensor(th.zeros(3, 1))
    assert step.final_obs is not None
    assert step.final_obs["image"][0].unique().tolist() == [2]
    assert step.obs["image"].flatten(1).amax(-1).tolist() == [0, 2, 2]


def test_groups_can_be_chosen_and_renamed() -> None:
    env = make_vec(SyncVectorEnv(clocks("dict")), groups={"policy": "robot/clock"})
    assert list(env.reset_tensor()) == ["policy"]
    with pytest.raises(StrlValueError, match=r"no group 'robot/clok'. Did you mean 'robot/clock'"):
        make_vec(SyncVectorEnv(clocks("dict")), groups={"policy": "robot/clok"})


@pytest.mark.parametrize("mode", MODES)
def test_memory_of_the_simulator_is_not_shared(mode: AutoresetMode) -> None:
    env = make(mode, copy=False)
    kept = env.reset_tensor()["policy"]
    was = kept.clone()
    step = env.step_tensor(th.zeros(3, 1))
    rewards, then = step.rewards.clone(), step.obs["policy"].clone()
    env.step_tensor(th.zeros(3, 1))
    assert th.equal(kept, was)
    assert th.equal(step.rewards, rewards)
    assert th.equal(step.obs["policy"], then)


def test_wrappers_stay() -> None:
    inner = SyncVectorEnv(clocks(), autoreset_mode=AutoresetMode.NEXT_STEP)
    env = make_vec(RecordEpisodeStatistics(inner), seed=0)
    for ours, theirs in zip(trace(make(AutoresetMode.NEXT_STEP), 9), trace(env, 9), strict=True):
        assert th.equal(ours[1], theirs[1])


def test_attributes_of_the_environments() -> None:
    env = make(AutoresetMode.SAME_STEP)
    assert env.get_attr("length") == [2, 3, 5]
    assert env.get_attr("length", [1]) == [3]
    assert env.env_method("set_level", 1.0) == [3.0, 4.0, 6.0]
    env.set_attr("level", 7.0)
    assert env.get_attr("level") == [7.0, 7.0, 7.0]
    assert env.get_attr("mode")[0] is AutoresetMode.SAME_STEP


def test_close_reaches_the_environments() -> None:
    inner = SyncVectorEnv(clocks())
    env = make_vec(inner)
    env.close()
    env.close()
    assert inner.closed


def test_time_limit_of_the_specification() -> None:
    env = make_vec(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
    assert env.max_episode_length == 500
    assert isinstance(env.action_space, spaces.Discrete)
    env.reset_tensor()
    env.step_tensor(th.tensor([0, 1]))


class Batch(gym.vector.VectorEnv):
    """A batch of torch tensors that counts to three, and overwrites its tensors."""

    def __init__(self, mode: Any = None, **layout: Any) -> None:
        self.num_envs = 2
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.obs, self.layout = th.zeros(2, 1), layout

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.obs.zero_()
        return self.obs, {}

    def step(self, actions: th.Tensor) -> Any:
        assert isinstance(actions, th.Tensor)
        self.obs += 1
        dones = self.obs[:, 0] == 3
        infos = {"final_obs": self.obs.clone(), "log": {"height": self.obs.mean()}}
        self.obs[dones] = 0
        if self.layout.get("final") is False:
            del infos["final_obs"]
        return self.obs, th.ones(2, dtype=th.float64), th.zeros_like(dones), dones, infos


def test_tensors_and_rows_of_last_observations() -> None:
    env = GymnasiumVecEnv(Batch("SameStep"), action_bound=1.0)
    env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(th.zeros(2, 1))
    assert step.truncated.tolist() == [True, True]
    assert step.rewards.dtype == th.float32
    assert step.final_obs is not None
    assert step.final_obs["policy"].tolist() == [[3.0], [3.0]]
    assert step.obs["policy"].tolist() == [[0.0], [0.0]]
    assert step.extras["log"]["height"].item() == 3.0


def test_lost_last_observations_are_not_made_up() -> None:
    env = GymnasiumVecEnv(Batch(AutoresetMode.SAME_STEP, final=False), action_bound=1.0)
    env.reset_tensor()
    steps = [env.step_tensor(th.zeros(2, 1)) for _ in range(3)]
    assert [step.final_obs is None for step in steps] == [False, False, True]


def test_batches_that_cannot_reset_some_are_refused() -> None:
    with pytest.raises(StrlValueError, match="resets in the next step, and whether it can reset"):
        make_vec(Batch(AutoresetMode.NEXT_STEP), action_bound=1.0)
    make_vec(Batch(AutoresetMode.NEXT_STEP), action_bound=1.0, masked_reset=True)
    with pytest.raises(StrlValueError, match="resets in the next step"):
        make_vec(Batch(), action_bound=1.0)  # Gymnasium's default


@pytest.mark.parametrize("wrapper", [NormalizeObservation, NormalizeReward])
def test_wrappers_that_cannot_reset_some_are_refused(wrapper: Any) -> None:
    env = RecordEpisodeStatistics(wrapper(SyncVectorEnv(clocks())))
    with pytest.raises(StrlValueError, match=rf"{wrapper.__name__}, which.*VecNormalize\(make_vec"):
        make_vec(env)
    with pytest.raises(StrlValueError, match=wrapper.__name__):
        make_vec(env, masked_reset=True)


def test_rewards_may_be_normalised_where_nobody_resets_from_outside() -> None:
    env = make_vec(NormalizeReward(SyncVectorEnv(clocks(), autoreset_mode="SameStep")))
    env.reset_tensor()
    ends = [env.step_tensor(th.zeros(env.num_envs, 1)).terminated.any() for _ in range(6)]
    assert any(ends)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(StrlValueError, match=r"'Sometimes'. Expected one of \['NextStep'"):
        make_vec(Batch("Sometimes"), action_bound=1.0)


def test_unbounded_actions_need_a_bound() -> None:
    with pytest.raises(StrlValueError, match="is unbounded"):
        make_vec(Batch("SameStep"))
    with pytest.raises(StrlValueError, match=r"action_bound is 0.0. Expected a positive number"):
        make_vec(Batch("SameStep"), action_bound=0.0)


def test_lists_of_infos_are_refused() -> None:
    env = make_vec(DictInfoToList(SyncVectorEnv(clocks(), autoreset_mode="Disabled")))
    env.reset_tensor()
    with pytest.raises(StrlTypeError, match="Take off the wrapper DictInfoToList"):
        env.step_tensor(th.zeros(3, 1))


def test_single_environments_are_refused() -> None:
    with pytest.raises(StrlTypeError, match=r"env is a Clock. Expected a gymnasium.vector.VectorE"):
        GymnasiumVecEnv(Clock(2))  # type: ignore[arg-type]


@pytest.mark.integration
@pytest.mark.parametrize("mode", MODES)
def test_training(mode: AutoresetMode) -> None:
    batch = gym.make_vec("Pendulum-v1", 4, "sync", vector_kwargs={"autoreset_mode": mode})
    model = PPO("MlpPolicy", make_vec(batch), n_steps=128, batch_size=128, n_epochs=1, seed=0)
    model.learn(4 * 128 * 2)
    assert model.num_timesteps == 1024
    assert model.collector.has_final_obs
