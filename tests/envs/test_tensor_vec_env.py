from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import LazyArray, LazyInfos, TensorVecEnv
from tests.envs.toy import Balance, CounterEnv, DiscreteToy, ImageToy, PointMass, box

pytestmark = pytest.mark.filterwarnings(
    "ignore:The environment is already wrapped with a `Monitor`"
)

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


# ---------------------------------------------------------------------- lazy things


def lazy_infos(n_done: int = 2) -> LazyInfos:
    dones = th.arange(4) < n_done
    obs = {"policy": th.arange(8.0).view(4, 2)}
    step = TensorStep(obs, th.ones(4), dones, th.zeros(4, dtype=th.bool), obs, {})
    return LazyInfos(step, box(2), th.arange(4.0), th.arange(4), seconds=1.5)


def test_lazy_infos_behave_as_a_list() -> None:
    infos = lazy_infos()
    assert len(infos) == 4
    assert infos[-1] == {}
    assert [len(info) for info in infos] == [3, 3, 0, 0]
    assert isinstance(infos[:], list)
    assert len(infos[1:3]) == 2
    assert infos[1:2][0] is infos[1]
    assert infos[np.int64(1)]["episode"] == {"r": 1.0, "l": 1, "t": 1.5}
    with pytest.raises(IndexError, match=r"index 4 is out of range. There are 4"):
        infos[4]
    with pytest.raises(IndexError, match="index -5"):
        infos[-5]
    assert repr(infos) == "LazyInfos(4 environments)"


def test_lazy_infos_keep_what_is_written() -> None:
    infos = lazy_infos()
    infos[0]["terminal_observation"] = "mine"
    infos[2] = {"a": 1}
    assert infos[0]["terminal_observation"] == "mine"
    assert list(infos)[2] == {"a": 1}
    assert infos[1]["terminal_observation"].tolist() == [2.0, 3.0]


def test_lazy_infos_have_separate_arrays() -> None:
    infos = lazy_infos()
    infos[0]["terminal_observation"][:] = -1.0
    assert infos[1]["terminal_observation"].tolist() == [2.0, 3.0]
    other = lazy_infos()
    assert other[0]["terminal_observation"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_lazy_things_can_be_copied(copier: Any) -> None:
    assert copier(lazy_infos())[1]["episode"]["r"] == 1.0
    assert copier(LazyArray(th.arange(3)))[2] == 2


def test_lazy_infos_build_no_dict_before_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = LazyInfos._build
    monkeypatch.setattr(LazyInfos, "_build", lambda self, i: built.append(i) or build(self, i))
    env = CounterEnv(3)
    env.reset()
    for _ in range(5):
        _, _, _, infos = env.step(np.zeros((3, 1)))
    assert not built
    assert infos[2]
    assert infos[2]
    assert built == [2]


def test_lazy_arrays_are_read_as_arrays() -> None:
    tensor = th.tensor([True, False, True])
    dones = LazyArray(tensor)
    assert np.sum(dones).item() == 2  # what StopTrainingOnMaxEpisodes does
    assert len(dones) == 3
    assert dones[0]
    assert list(dones) == [True, False, True]
    assert dones.any()
    assert dones.shape == (3,)
    assert (~dones).tolist() == [False, True, False]
    assert (dones & [True, True, False]).tolist() == [True, False, False]
    assert (2 * LazyArray(th.ones(2))).tolist() == [2, 2]
    assert np.array(dones, dtype=np.int8).tolist() == [1, 0, 1]
    assert "True, False" in repr(dones)
    with pytest.raises(AttributeError):
        _ = dones._missing


def test_lazy_arrays_are_transferred_once_and_are_copies() -> None:
    tensor = th.ones(2)
    lazy = LazyArray(tensor, np.float64)
    assert lazy[0] == 1.0
    tensor.zero_()
    assert lazy[0] == 1.0
    assert lazy.dtype == np.float64
    copied = np.array(lazy)
    copied[:] = 5.0
    assert lazy[0] == 1.0


def test_lazy_obs_follow_the_space() -> None:
    plain, groups = CounterEnv(2, plain=True), CounterEnv(2)
    obs = groups.reset_tensor()
    assert isinstance(plain.lazy_obs(obs), LazyArray)
    assert np.asarray(groups.lazy_obs(obs)["policy"]).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_infos_of_a_numpy_step_are_used_as_they_are() -> None:
    env = CounterEnv(2)
    step = env.step_tensor(th.zeros(2, 1))._replace(extras={"infos": [{"a": 1}, {}]})
    assert env.lazy_infos(step) == [{"a": 1}, {}]


# ---------------------------------------------------------------------- SB3 on top


def test_returns_and_lengths_are_those_of_vec_monitor() -> None:
    env = PointMass(4, max_episode_length=7, termination_prob=0.1)
    wrapped = VecMonitor(PointMass(4, max_episode_length=7, termination_prob=0.1))
    env.seed(1), wrapped.seed(1)
    env.reset(), wrapped.reset()
    n_episodes = 0
    for t in range(40):
        actions = sample(env, t)
        mine, theirs = env.step(actions)[3], wrapped.step(actions)[3]
        for a, b in zip(mine, theirs, strict=True):
            assert ("episode" in a) == ("episode" in b)
            if "episode" in a:
                n_episodes += 1
                assert a["episode"]["r"] == b["episode"]["r"]
                assert a["episode"]["l"] == b["episode"]["l"]
                assert "terminal_observation" in b
    assert n_episodes > 20


def test_vec_normalize_normalises_terminal_observations() -> None:
    env = VecNormalize(CounterEnv(2, plain=True))
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros((2, 1)))
    assert dones.tolist() == [True, False]
    raw = np.array([0.0, 0.0, 3.0], np.float32)
    np.testing.assert_allclose(infos[0]["terminal_observation"], env.normalize_obs(raw))
    assert not np.allclose(infos[0]["terminal_observation"], raw)


def test_frame_stack_and_extraction_see_terminal_observations() -> None:
    env = VecFrameStack(VecExtractDictObs(CounterEnv(2), "policy"), 2)
    env.reset()
    for _ in range(3):
        _, _, _, infos = env.step(np.zeros((2, 1)))
    assert infos[0]["terminal_observation"].tolist() == [0, 0, 2, 0, 0, 3]


def test_evaluate_policy_uses_our_episodes() -> None:
    class Idle:
        def predict(self, obs: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(obs), 1), np.float32), None

    env = CounterEnv(2, plain=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            Idle(), env, n_eval_episodes=4, return_episode_rewards=True
        )
    assert sorted(lengths) == [3, 3, 4, 4]
    assert sorted(returns) == pytest.approx([0.06, 0.06, 4.10, 4.10])


@pytest.mark.integration
def test_sb3_ppo_trains_on_it() -> None:
    env = Balance(8)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=2, device="cpu", seed=0)
    model.learn(1024)
    assert model.get_env() is env
    assert len(model.ep_info_buffer) > 8
    assert all(info["l"] >= 1 for info in model.ep_info_buffer)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["point", "image", "discrete", "multi_binary"])
def test_sb3_ppo_takes_every_space(name: str) -> None:
    env = TOYS[name]()
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    PPO(policy, env, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(16)


@pytest.mark.integration
def test_sb3_ppo_bootstraps_time_outs() -> None:
    """Reward 1 for ever, cut after 5 steps: values exceed 5 only if time-outs are bootstrapped."""
    env = VecMonitor(Balance(4, max_episode_length=5))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, gamma=0.5, device="cpu")
    model.policy.predict_values = lambda obs: th.full((len(obs), 1), 100.0)  # type: ignore[method-assign]
    model.learn(32)
    assert model.rollout_buffer.rewards.max() == pytest.approx(51.0)


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
        env.set_attr("speed", 0.1, indices=[0])
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


def test_video_recorder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("moviepy") is None:  # the frames are ours, the film is not
        monkeypatch.setitem(sys.modules, "moviepy", types.ModuleType("moviepy"))
    monkeypatch.setattr(VecVideoRecorder, "_stop_recording", lambda self: None)
    env = VecVideoRecorder(
        CounterEnv(2, render_mode="rgb_array"), str(tmp_path), lambda step: step == 0, 3
    )
    env.reset()
    for _ in range(2):
        env.step(np.zeros((2, 1)))
    assert [int(frame.max()) for frame in env.recorded_frames] == [0, 1, 2]
    assert env.recorded_frames[0].shape == (32, 16, 3)
    env.recorded_frames = []
    env.recording = False


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
