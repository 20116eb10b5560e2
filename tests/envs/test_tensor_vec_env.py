from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import TensorVecEnv
from tests.envs.toy import Balance, CounterEnv, DiscreteToy, ImageToy, PointMass, box

TOYS = {
    "point": lambda **kw: PointMass(5, max_episode_length=4, termination_prob=0.1, **kw),
    "counter": lambda **kw: CounterEnv(3, **kw),
    "plain": lambda **kw: CounterEnv(3, plain=True, **kw),
    "balance": lambda **kw: Balance(4, **kw),
    "discrete": lambda **kw: DiscreteToy(spaces.Discrete(4), 3, **kw),
    "multi_discrete": lambda **kw: DiscreteToy(spaces.MultiDiscrete([2, 3]), 3, **kw),
    "multi_binary": lambda **kw: DiscreteToy(spaces.MultiBinary(3), 3, **kw),
    "image": lambda **kw: ImageToy(2, max_episode_length=4, **kw),
}


class Recycling(TensorVecEnv):
    """Returns the same tensors in every step, as simulators do; everybody finishes at step 2."""

    def __init__(self, n_envs: int = 2, both: bool = False, final: bool = True) -> None:
        self.count = th.zeros(n_envs, 1)
        self.last = th.zeros(n_envs, 1)
        self.flags = th.zeros(n_envs, dtype=th.bool)
        self.rewards = th.zeros(n_envs)
        self.both, self.final = both, final
        self.seen: list[th.Tensor] = []
        super().__init__(n_envs, box(1), box(2, bound=1.0))

    def reset_tensor(self) -> TensorDict:
        self.requests = self.take_reset_request()
        self.count.zero_()
        return {"policy": self.count}

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        self.seen.append(actions)
        self.count += 1
        self.rewards += 1
        self.last.copy_(self.count)
        self.flags.copy_(self.count[:, 0] == 2)
        self.count[self.flags] = 0
        terminated = self.flags if self.both else th.zeros_like(self.flags)
        final = {"policy": self.last} if self.final else None
        return TensorStep({"policy": self.count}, self.rewards, terminated, self.flags, final, {})


def sample(env: TensorVecEnv, seed: int) -> np.ndarray:
    env.action_space.seed(seed)
    return np.stack([env.action_space.sample() for _ in range(env.num_envs)])


# ---------------------------------------------------------------------- the two faces


@pytest.mark.parametrize("name", TOYS)
def test_both_faces_tell_the_same(name: str) -> None:
    numpy_env, tensor_env = TOYS[name](seed=3), TOYS[name](seed=3)
    obs, groups = numpy_env.reset(), tensor_env.reset_tensor()
    returns, lengths, ended = th.zeros(tensor_env.num_envs), th.zeros(tensor_env.num_envs), 0
    for t in range(12):
        expected = groups if isinstance(obs, dict) else groups["policy"]
        np.testing.assert_equal(obs, expected)
        actions = sample(numpy_env, t)
        dtype = th.float32 if isinstance(numpy_env.action_space, spaces.Box) else th.int64
        step = tensor_env.step_tensor(th.tensor(actions, dtype=dtype))
        obs, rewards, dones, infos = numpy_env.step(actions)
        groups = step.obs
        returns += step.rewards
        lengths += 1
        np.testing.assert_array_equal(rewards, step.rewards)
        np.testing.assert_array_equal(dones, step.terminated | step.truncated)
        assert rewards.dtype == np.float32
        assert dones.dtype == np.bool_
        for env in range(len(dones)):
            if not dones[env]:
                assert infos[env] == {}
                continue
            ended += 1
            final = {key: value[env] for key, value in step.final_obs.items()}
            info = infos[env]
            np.testing.assert_equal(
                info["terminal_observation"], final if isinstance(obs, dict) else final["policy"]
            )
            cut = bool(step.truncated[env] & ~step.terminated[env])
            assert info["TimeLimit.truncated"] is cut
            assert info["episode"]["r"] == pytest.approx(returns[env].item(), rel=1e-6)
            assert info["episode"]["l"] == lengths[env]
            assert info["episode"]["t"] >= 0
        returns[dones], lengths[dones] = 0.0, 0.0
    assert ended or name == "balance"


@pytest.mark.parametrize("name", TOYS)
def test_observations_fit_the_space(name: str) -> None:
    env = TOYS[name]()
    obs = env.reset()
    for t in range(6):
        rows = (
            [{k: v[i] for k, v in obs.items()} for i in range(env.num_envs)]
            if isinstance(obs, dict)
            else list(obs)
        )
        assert all(env.observation_space.contains(row) for row in rows)
        obs, _, _, infos = env.step(sample(env, t))
        for info in infos:
            if info:
                assert env.observation_space.contains(info["terminal_observation"])


def test_float64_spaces_get_float64_arrays() -> None:
    env = CounterEnv(2, plain=True)
    env.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    assert env.reset().dtype == np.float64


def test_nothing_shares_memory_with_the_simulator() -> None:
    env = Recycling()
    first = env.reset()
    actions = np.zeros((2, 2), np.float32)
    second, rewards, dones, infos = env.step(actions)
    actions[:] = 7.0
    env.step(th.zeros(2, 2))
    assert first.tolist() == [[0], [0]]
    assert second.tolist() == [[1], [1]]
    assert rewards.tolist() == [1, 1]
    assert dones.tolist() == [False, False]
    assert list(infos) == [{}, {}]  # though the simulator's flags are true by now
    assert env.seen[0].tolist() == [[0, 0], [0, 0]]


def test_infos_stay_what_they_were() -> None:
    env = Recycling()
    env.reset()
    env.step(np.zeros((2, 2)))
    _, _, _, infos = env.step(np.zeros((2, 2)))
    env.step(np.zeros((2, 2)))
    assert infos[1]["terminal_observation"].tolist() == [2]
    assert infos[1]["episode"]["l"] == 2
    assert infos[1]["episode"]["r"] == 3


def test_tensor_actions_are_copied() -> None:
    env = Recycling()
    env.reset()
    actions = th.zeros(2, 2)
    env.step_async(actions)
    actions.fill_(7.0)
    env.step_wait()
    assert env.seen[0].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("both", "cut"), [(True, False), (False, True)])
def test_terminated_wins(both: bool, cut: bool) -> None:
    env = Recycling(both=both)
    env.reset()
    env.step(np.zeros((2, 2)))
    _, _, dones, infos = env.step(np.zeros((2, 2)))
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"] is cut


def test_integer_flags_become_bool() -> None:
    class Isaac(Recycling):
        def step_tensor(self, actions: th.Tensor) -> TensorStep:
            step = super().step_tensor(actions)
            return step._replace(terminated=step.terminated.long(), truncated=step.truncated.long())

    env = Isaac()
    env.reset()
    for _ in range(2):
        _, _, dones, infos = env.step(np.zeros((2, 2)))
    assert dones.dtype == np.bool_
    assert infos[0]["TimeLimit.truncated"] is True


def test_without_final_obs_nothing_is_invented() -> None:
    env = Recycling(final=False)
    env.reset()
    for _ in range(2):
        _, _, _, infos = env.step(np.zeros((2, 2)))
    assert "terminal_observation" not in infos[0]
    assert infos[0]["TimeLimit.truncated"] is True


# ---------------------------------------------------------------------- the rest of the face


def test_seed_makes_runs_repeatable() -> None:
    env = PointMass(3)
    assert env.seed(7) == [7, 8, 9]
    first = env.reset()
    second = env.reset()
    env.seed(7)
    again = env.reset()
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first["policy"], second["policy"])


def test_seeds_reach_the_tensor_face() -> None:
    env = PointMass(3)
    env.seed(7)
    first = env.reset_tensor()["policy"]
    env.seed(7)
    assert th.equal(env.reset_tensor()["policy"], first)


def test_requests_are_handed_over_once() -> None:
    env = Recycling()
    env.seed(5)
    env.set_options({"height": 2})
    env.reset()
    assert env.requests == (5, [{"height": 2}, {"height": 2}])
    env.reset()
    assert env.requests == (None, [{}, {}])


def test_reset_starts_episodes_anew() -> None:
    env = CounterEnv(1)
    env.reset()
    env.step(np.zeros((1, 1)))
    env.reset()
    for _ in range(3):
        _, _, _, infos = env.step(np.zeros((1, 1)))
    assert infos[0]["episode"]["l"] == 3
    assert infos[0]["episode"]["r"] == pytest.approx(0.06)


def test_requests_do_not_outlive_a_reset_that_ignores_them() -> None:
    class Deaf(Recycling):
        def reset_tensor(self) -> TensorDict:
            return {"policy": self.count}

    env = Deaf()
    env.seed(5)
    env.set_options({"height": 2})
    env.reset()
    assert env.take_reset_request() == (None, [{}, {}])


def test_attributes_and_methods() -> None:
    env = PointMass(3, max_episode_length=9)
    assert env.get_attr("max_episode_length") == [9, 9, 9]
    assert env.get_attr("max_episode_length", 1) == [9]
    assert env.get_attr("max_episode_length", [0, -1]) == [9, 9]
    env.set_attr("speed", 0.5)
    assert env.speed == 0.5
    env.set_attr("speed", 0.7, indices=[2, 1, 0])
    assert env.get_attr("speed", 0) == [0.7]
    assert len(env.env_method("expert", indices=[0, 1])) == 2
    assert not env.has_attr("nothing")
    with pytest.raises(StrlValueError, match=r"set_attr\('speed'\) for some environments only"):
        env.set_attr("speed", 0.1, indices=[0, 2, -1])
    with pytest.raises(StrlValueError, match=r"there is no environment 3. Expected indices from 0"):
        env.get_attr("speed", 3)


def test_it_counts_as_monitored() -> None:
    env = CounterEnv(2)
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(Monitor, 0) == [True]
    assert env.env_is_wrapped(TimeLimit) == [False, False]


def test_state_continues_exactly() -> None:
    env = PointMass(3, max_episode_length=4, termination_prob=0.2)
    env.reset()
    env.step(sample(env, 0))
    state = env.get_state()
    first = [env.step(sample(env, t))[0]["critic"] for t in range(10)]
    env.set_state(state)
    again = [env.step(sample(env, t))[0]["critic"] for t in range(10)]
    np.testing.assert_array_equal(first, again)


def test_without_state_it_says_so() -> None:
    env = Recycling()
    assert env.get_state() is None
    with pytest.raises(StrlValueError, match=r"Recycling: this environment cannot restore a state"):
        env.set_state({"a": th.ones(1)})


def test_episode_lengths_are_randomised_in_place() -> None:
    env = PointMass(200, max_episode_length=10)
    buffer = env.episode_length_buf
    env.randomize_episode_lengths(th.Generator().manual_seed(0))
    assert env.episode_length_buf is buffer
    assert set(buffer.tolist()) == set(range(10))
    with pytest.raises(StrlValueError, match="episode lengths cannot be randomised"):
        PointMass(2, max_episode_length=None).randomize_episode_lengths()


def test_images() -> None:
    env = CounterEnv(20, render_mode="rgb_array")
    env.reset()
    env.step(np.zeros((20, 1)))
    assert env.render_mode == "rgb_array"
    assert len(env.get_images()) == 16
    assert env.render().shape == (64, 64, 3)
    with pytest.raises(StrlValueError, match="Recycling: this environment cannot be drawn"):
        Recycling().get_images()


def test_metadata_of_the_simulator_survive() -> None:
    class Filmed(CounterEnv):
        metadata = {"render_fps": 25}

    assert Filmed(1, render_mode="rgb_array").metadata == {
        "render_fps": 25,
        "render_modes": ["human", "rgb_array"],
    }


# ---------------------------------------------------------------------- refusals


def test_actions_of_another_shape_are_refused() -> None:
    env = Recycling()
    env.reset()
    with pytest.raises(StrlValueError, match=r"the actions have shape \(2, 3\). Expected \(2, 2\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(StrlValueError, match=r"the actions have shape \(2,\)"):
        env.step_async(th.zeros(2))


def test_step_wait_needs_actions() -> None:
    env = Recycling()
    env.reset()
    with pytest.raises(StrlValueError, match=r"step_wait\(\) without actions"):
        env.step_wait()


def test_spaces_that_cannot_work_are_refused() -> None:
    def make(obs: spaces.Space[Any], act: spaces.Space[Any]) -> None:
        class Bare(Recycling):
            def __init__(self) -> None:
                TensorVecEnv.__init__(self, 2, obs, act)

        Bare()

    nested = spaces.Dict({"a": spaces.Dict({"b": box(1)})})
    with pytest.raises(StrlTypeError, match="group 'a' is a Dict space"):
        make(nested, box(1, bound=1.0))
    with pytest.raises(StrlTypeError, match="group 'policy' is a Tuple space"):
        make(spaces.Tuple([box(1)]), box(1, bound=1.0))
    with pytest.raises(StrlTypeError, match="the action space is a Dict space"):
        make(box(1), spaces.Dict({"a": box(1)}))
    with pytest.raises(StrlValueError, match=r"is unbounded. Expected finite bounds"):
        make(box(1), box(1))


def test_no_environments_are_refused() -> None:
    with pytest.raises(StrlValueError, match=r"num_envs is 0. Expected at least 1"):
        Recycling(0)


def test_a_reset_pair_is_refused() -> None:
    with pytest.raises(StrlTypeError, match="the observation is a tuple"):
        Recycling().to_tensors((np.zeros(2), {}))
