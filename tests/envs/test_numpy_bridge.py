from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    unwrap_vec_normalize,
)

from sb3_strl import make_vec
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import NumpyBridge, as_tensor_env
from tests.envs.toy import CounterEnv, DiscreteToy, PointMass

pytestmark = pytest.mark.filterwarnings(
    "ignore:The environment is already wrapped with a `Monitor`"
)


class Counter(gym.Env[Any, Any]):
    """Observations (number, episode, step), float64; ends after ``3 + number`` steps."""

    def __init__(self, number: int = 0, kind: str = "plain", both: bool = False) -> None:
        self.number, self.kind, self.both = number, kind, both
        self.episode, self.t = -1, 0
        self.seen: list[Any] = []
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        image = spaces.Box(0, 255, (4, 4, 1), np.uint8)
        parts = {"image": image, "policy": vector, "sort": spaces.Discrete(9)}
        self.observation_space = spaces.Dict(parts) if kind == "dict" else vector
        self.action_space = spaces.Box(-2.0, 2.0, (2,), np.float64)
        if kind == "discrete":
            self.action_space = spaces.Discrete(3, start=0)

    def _obs(self) -> Any:
        vector = np.array([self.number, self.episode, self.t], np.float64)
        if self.kind != "dict":
            return vector
        return {"policy": vector, "image": np.full((4, 4, 1), self.t, np.uint8), "sort": self.t}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen.append(action)
        self.t += 1
        over = self.t == 3 + self.number
        terminated = over and (self.number % 2 == 1 or self.both)
        truncated = over and (self.number % 2 == 0 or self.both)
        return self._obs(), self.number + self.t / 100, terminated, truncated, {"t": self.t}


def counters(n: int = 2, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda i=i: Monitor(Counter(i, **options)) for i in range(n)])


def zeros(n: int = 2) -> th.Tensor:
    return th.zeros(n, 2)


def test_steps_by_hand() -> None:
    env = NumpyBridge(counters())
    assert env.reset_tensor()["policy"].tolist() == [[0, 0, 0], [1, 0, 0]]
    for t in (1, 2):
        step = env.step_tensor(zeros())
        assert step.obs["policy"].tolist() == [[0, 0, t], [1, 0, t]]
        assert step.final_obs["policy"].tolist() == [[0, 0, t], [1, 0, t]]
        assert not (step.terminated | step.truncated).any()
    step = env.step_tensor(zeros())
    assert step.truncated.tolist() == [True, False]
    assert step.terminated.tolist() == [False, False]
    assert step.obs["policy"].tolist() == [[0, 1, 0], [1, 0, 3]]
    assert step.final_obs["policy"].tolist() == [[0, 0, 3], [1, 0, 3]]
    np.testing.assert_allclose(step.rewards, [0.03, 1.03], rtol=1e-6)
    step = env.step_tensor(zeros())
    assert step.terminated.tolist() == [False, True]
    assert step.truncated.tolist() == [False, False]
    assert step.final_obs["policy"].tolist() == [[0, 1, 1], [1, 0, 4]]


def test_terminated_wins() -> None:
    env = NumpyBridge(counters(both=True))
    env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(zeros())
    assert step.terminated.tolist() == [True, False]
    assert step.truncated.tolist() == [False, False]


def test_infos_are_handed_on() -> None:
    env = NumpyBridge(counters())
    env.reset_tensor()
    infos = env.step_tensor(zeros()).extras["infos"]
    assert [info["t"] for info in infos] == [1, 1]
    assert env.lazy_infos(env.step_tensor(zeros()))[0]["t"] == 2


def test_types_of_groups() -> None:
    env = NumpyBridge(counters(kind="dict"))
    obs = env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(zeros())
    for groups in (obs, step.obs, step.final_obs):
        assert {key: value.dtype for key, value in groups.items()} == {
            "image": th.uint8,
            "policy": th.float32,
            "sort": th.int64,
        }
        assert groups["image"].shape == (2, 4, 4, 1)
        assert groups["sort"].shape == (2,)
    assert step.final_obs["sort"].tolist() == [3, 3]
    assert step.final_obs["image"][:, 0, 0, 0].tolist() == [3, 3]
    assert step.obs["image"][:, 0, 0, 0].tolist() == [0, 3]
    assert step.rewards.dtype == th.float32
    assert step.terminated.dtype == step.truncated.dtype == th.bool


@pytest.mark.parametrize("kind", ["plain", "discrete"])
def test_actions_have_the_type_of_the_space(kind: str) -> None:
    venv = counters(1, kind=kind)
    env = NumpyBridge(venv)
    env.reset_tensor()
    env.step_tensor(th.tensor([2]) if kind == "discrete" else th.tensor([[5.0, -0.5]]))
    (action,) = venv.envs[0].unwrapped.seen
    assert action.dtype == env.action_space.dtype
    # Values are left alone: the algorithm clips.
    assert action.tolist() == (2 if kind == "discrete" else [5.0, -0.5])


def test_nothing_shares_memory() -> None:
    class Recycling(DummyVecEnv):
        def step_wait(self) -> Any:
            _, rewards, dones, infos = super().step_wait()
            return self.buf_obs[None], rewards, dones, infos

    env = NumpyBridge(Recycling([lambda: Monitor(Counter(3))]))
    env.reset_tensor()
    first = env.step_tensor(zeros(1))
    env.step_tensor(zeros(1))
    assert first.obs["policy"].tolist() == [[3, 0, 1]]
    assert first.final_obs["policy"].tolist() == [[3, 0, 1]]


@pytest.mark.parametrize("kind", ["plain", "dict"])
def test_the_environments_own_arrays_are_left_alone(kind: str) -> None:
    class Sharing(DummyVecEnv):
        def _obs_from_buf(self) -> Any:
            return self.buf_obs if kind == "dict" else self.buf_obs[None]

    venv = Sharing([lambda: Monitor(Counter(0, kind))])
    env = NumpyBridge(venv)
    env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(zeros(1))
    key = "policy" if kind == "dict" else None
    assert step.final_obs["policy"].tolist() == [[0, 0, 3]]
    assert venv.buf_obs[key].tolist() == [[0, 1, 0]]


def test_reset_infos_are_those_of_the_wrapped_one() -> None:
    env = NumpyBridge(counters())
    env.venv.envs[0].reset = lambda **_: (np.zeros(3), {"hint": 1})
    env.reset()
    assert env.reset_infos == [{"hint": 1}, {}]


def test_the_numpy_face_is_the_wrapped_one() -> None:
    env, other = NumpyBridge(counters(3)), counters(3)
    np.testing.assert_array_equal(env.reset(), other.reset())
    for _ in range(7):
        mine, theirs = env.step(np.zeros((3, 2))), other.step(np.zeros((3, 2)))
        for a, b in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert [i.get("episode", {}).get("r") for i in mine[3]] == [
            i.get("episode", {}).get("r") for i in theirs[3]
        ]
    assert env.step(th.zeros(3, 2))[1].shape == (3,)


def test_calls_are_forwarded() -> None:
    env = NumpyBridge(counters(3))
    assert env.get_attr("number", [0, 2]) == [0, 2]
    env.set_attr("tag", 5, 1)
    assert env.get_attr("tag", 1) == [5]
    assert env.env_is_wrapped(Monitor) == [True, True, True]
    assert env.env_method("_obs", indices=0)[0].tolist() == [0, -1, 0]
    assert env.seed(3) == [3, 4, 5]
    env.set_options({"a": 1})
    assert env.venv._options == [{"a": 1}] * 3
    env.reset()
    with pytest.warns(UserWarning, match="render mode is None"):
        assert env.get_images() == [None] * 3
    env.close()


def test_time_limit_of_the_spec_is_known() -> None:
    env = NumpyBridge(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    assert env.max_episode_length == 200
    assert NumpyBridge(counters()).max_episode_length is None


def test_vec_normalize_inside_is_found_and_works() -> None:
    venv = VecNormalize(counters())
    env = NumpyBridge(venv)
    assert unwrap_vec_normalize(env) is venv
    env.reset_tensor()
    for _ in range(3):
        step = env.step_tensor(zeros())
    raw = np.array([0.0, 0.0, 3.0])
    np.testing.assert_allclose(step.final_obs["policy"][0], venv.normalize_obs(raw), rtol=1e-5)


def test_normalising_style_features_is_refused() -> None:
    with pytest.raises(
        StrlValueError,
        match=r"normalises \['ref_motion', 'ref_obs'\].*norm_obs_keys=\['critic', 'p",
    ):
        NumpyBridge(VecNormalize(PointMass(2)))
    with pytest.raises(StrlValueError, match=r"normalises \['ref_obs'\]"):
        NumpyBridge(VecMonitor(VecNormalize(PointMass(2), norm_obs_keys=["policy", "ref_obs"])))
    NumpyBridge(VecNormalize(PointMass(2), norm_obs_keys=["policy"]))
    NumpyBridge(VecNormalize(PointMass(2), norm_obs=False, norm_obs_keys=["ref_obs"]))


def test_missing_terminal_observations_are_reported_once() -> None:
    class Forgetful(DummyVecEnv):
        def step_wait(self) -> Any:
            obs, rewards, dones, infos = super().step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return obs, rewards, dones, infos

    env = NumpyBridge(Forgetful([lambda: Monitor(Counter())]))
    env.reset_tensor()
    assert env.step_tensor(zeros(1)).final_obs is not None
    env.step_tensor(zeros(1))
    with pytest.warns(UserWarning, match="without 'terminal_observation'"):
        assert env.step_tensor(zeros(1)).final_obs is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            step = env.step_tensor(zeros(1))
    assert step.final_obs is None


def tensor_inside(venv: VecEnv) -> NumpyBridge:
    env = as_tensor_env(venv)
    assert isinstance(env, NumpyBridge)
    return env


@pytest.mark.parametrize("make", [lambda: PointMass(3), lambda: CounterEnv(3)])
def test_bridge_of_a_tensor_env_tells_the_same(make: Any) -> None:
    plain, bridge = make(), tensor_inside(VecMonitor(make()))
    obs, other = plain.reset_tensor(), bridge.reset_tensor()
    for _ in range(25):
        for key, value in obs.items():
            assert th.equal(value, other[key])
        actions = th.rand(3, *plain.action_space.shape)
        a, b = plain.step_tensor(actions), bridge.step_tensor(actions)
        obs, other = a.obs, b.obs
        dones = a.terminated | a.truncated
        assert th.equal(a.rewards, b.rewards)
        assert th.equal(a.terminated, b.terminated)
        assert th.equal(a.truncated & ~a.terminated, b.truncated)
        for key, value in a.final_obs.items():
            assert th.equal(value[dones], b.final_obs[key][dones])


def test_names_of_a_tensor_env_inside_are_kept() -> None:
    inner = PointMass(2, max_episode_length=9)
    env = tensor_inside(VecMonitor(inner))
    assert env.max_episode_length == 9
    assert env.obs_segments == inner.obs_segments
    assert env.feature_names == inner.feature_names
    # Stacking rearranges the columns, so the old names would be wrong.
    assert tensor_inside(VecFrameStack(inner, 2)).obs_segments is None


def test_state_of_a_tensor_env_inside_is_reached() -> None:
    env = tensor_inside(VecMonitor(PointMass(2, termination_prob=0.3)))
    env.reset_tensor()
    state = env.get_state()
    assert state is not None
    first = [env.step_tensor(zeros()).obs["policy"] for _ in range(5)]
    env.set_state(state)
    assert all(th.equal(env.step_tensor(zeros()).obs["policy"], obs) for obs in first)


def test_no_state_without_a_tensor_env_inside() -> None:
    env = NumpyBridge(counters())
    assert env.get_state() is None
    with pytest.raises(StrlValueError, match="NumpyBridge: this environment cannot restore"):
        env.set_state({})


def test_only_the_outermost_environment_decides() -> None:
    inner = PointMass(2)
    assert as_tensor_env(inner) is inner
    bridge = as_tensor_env(VecMonitor(inner))
    assert as_tensor_env(bridge) is bridge
    with pytest.raises(
        StrlTypeError, match=r"venv is a Counter. Expected a stable_baselines3 VecEnv"
    ):
        as_tensor_env(Counter())  # type: ignore[arg-type]


def test_device_of_tensors(device: th.device) -> None:
    env = NumpyBridge(counters(), device)
    env.reset_tensor()
    step = env.step_tensor(zeros().to(device))
    assert step.obs["policy"].device.type == device.type
    assert step.rewards.device.type == device.type


@pytest.mark.parametrize("n", [1, 3])
def test_multi_binary_actions(n: int) -> None:
    env = tensor_inside(VecMonitor(DiscreteToy(spaces.MultiBinary(4), n)))
    env.reset_tensor()
    assert env.step_tensor(th.ones(n, 4)).rewards.shape == (n,)


@pytest.mark.integration
def test_subprocesses() -> None:
    env = NumpyBridge(SubprocVecEnv([lambda i=i: Counter(i) for i in range(2)], "fork"))
    other = NumpyBridge(counters())
    try:
        env.reset_tensor(), other.reset_tensor()
        for _ in range(6):
            a, b = env.step_tensor(zeros()), other.step_tensor(zeros())
            for mine, theirs in (
                (a.obs["policy"], b.obs["policy"]),
                (a.final_obs["policy"], b.final_obs["policy"]),
                (a.rewards, b.rewards),
                (a.terminated, b.terminated),
                (a.truncated, b.truncated),
            ):
                assert th.equal(mine, theirs)
    finally:
        env.close()


@pytest.mark.integration
def test_sb3_trains_on_a_bridge() -> None:
    env = NumpyBridge(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 2))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(128)
    assert len(model.ep_info_buffer) > 0


# ---------------------------------------------------------------------- what lies inside


def _windows(env: VecEnv) -> tuple[list[list[bool]], set[str]]:
    tensors = as_tensor_env(env)
    tensors.seed(0)
    tensors.reset_tensor()
    valid, logged = [], set()
    for _ in range(12):
        step = tensors.step_tensor(th.ones(2, 6))
        valid.append(step.extras["amp_valid"].tolist())
        logged |= set(step.extras.get("log", {}))
    return valid, logged


def test_windows_over_a_reset_stay_invalid_behind_a_wrapper() -> None:
    options = {"rsi_prob": 0.0, "n_frames": 6}
    plain = make_vec("sb3_strl/Walker-v0", n_envs=2, **options)
    wrapped = VecMonitor(make_vec("sb3_strl/Walker-v0", n_envs=2, **options))
    expected, logged = _windows(plain)
    assert {True, False} == {flag for row in expected for flag in row}
    assert logged
    assert _windows(wrapped) == (expected, logged)


def test_windows_over_a_reset_stay_invalid_in_gymnasium() -> None:
    def walker() -> gym.Env[Any, Any]:
        return gym.make("sb3_strl/Walker-v0", rsi_prob=0.0, n_frames=6)

    valid, _ = _windows(DummyVecEnv([walker] * 2))
    assert [row[0] for row in valid[:6]] == [False] * 4 + [True] * 2


class Telling(Counter):
    """Says when its window is invalid, and nothing else."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "amp_valid": False}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_environment_may_tell_what_the_others_do_not(order: tuple[int, int]) -> None:
    kinds = [Telling, Counter]
    env = as_tensor_env(DummyVecEnv([lambda k=kinds[i]: k() for i in order]))
    env.reset_tensor()
    valid = env.step_tensor(th.zeros(2, 2)).extras["amp_valid"]
    assert valid.tolist() == [kinds[i] is Counter for i in order]
