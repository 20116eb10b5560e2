from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecMonitor

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import NumpyBridge, check_tensor_env, make_vec
from tests.envs.toy import Balance, CounterEnv, DiscreteToy, ImageToy, PointMass

GOOD = {
    "point": lambda: PointMass(3, termination_prob=0.1),
    "counter": CounterEnv,
    "balance": Balance,
    "discrete": lambda: DiscreteToy(spaces.Discrete(3)),
    "multi_discrete": lambda: DiscreteToy(spaces.MultiDiscrete([2, 3])),
    "multi_binary": lambda: DiscreteToy(spaces.MultiBinary(2)),
    "image": ImageToy,
    "cartpole": lambda: make_vec("CartPole-v1", 2),
    "bridge": lambda: NumpyBridge(VecMonitor(PointMass(2))),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.parametrize("name", GOOD)
def test_good_environments_pass(name: str) -> None:
    check_tensor_env(GOOD[name](), n_steps=20)


class Broken(PointMass):
    """A point mass whose steps are changed by ``change``."""

    def __init__(self, change: Callable[[TensorStep], TensorStep]) -> None:
        super().__init__(2, max_episode_length=3)
        self.change = change

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        return self.change(super().step_tensor(actions))


def with_obs(key: str, value: Any) -> Callable[[TensorStep], TensorStep]:
    return lambda step: step._replace(obs={**step.obs, key: value(step.obs[key])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_obs("policy", lambda x: x.double()), r"obs\['policy'\] has type torch.float64"),
        (with_obs("policy", lambda x: x[:1]), r"obs\['policy'\] has shape \(1, 8\)"),
        (with_obs("critic", lambda x: x / 0), r"obs\['critic'\] holds NaN or infinity"),
        (with_obs("critic", lambda x: x.requires_grad_()), "carries a gradient"),
        (with_obs("critic", lambda x: x.to("meta")), r"is on 'meta'. Expected .* 'cpu'"),
        (lambda s: s._replace(obs={}), r"obs has the groups \[\]"),
        (lambda s: s._replace(rewards=s.rewards[:, None]), r"rewards has shape \(2, 1\)"),
        (lambda s: s._replace(rewards=s.rewards * float("nan")), "rewards hold NaN"),
        (lambda s: s._replace(terminated=s.terminated.long()), "terminated has type torch.int64"),
        (lambda s: s._replace(truncated=s.truncated.float()), "truncated has type torch.float32"),
        (lambda s: s._replace(final_obs={"policy": s.obs["policy"]}), "final_obs has the groups"),
    ],
)
def test_broken_steps_are_found(change: Any, message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        check_tensor_env(Broken(change), n_steps=5)


def test_wrong_types_are_found() -> None:
    with pytest.raises(StrlTypeError, match=r"rewards is a list. Expected a tensor"):
        check_tensor_env(Broken(lambda s: s._replace(rewards=[0.0, 0.0])))
    with pytest.raises(StrlTypeError, match="extras is a NoneType"):
        check_tensor_env(Broken(lambda s: s._replace(extras=None)))
    with pytest.raises(StrlTypeError, match=r"env is a DummyVecEnv. Expected a TensorVecEnv"):
        check_tensor_env(make_vec("CartPole-v1").venv)


def test_wrong_names_are_found() -> None:
    def named(**names: Any) -> PointMass:
        env = PointMass(2)
        for name, value in names.items():
            setattr(env, name, value)
        return env

    with pytest.raises(StrlValueError, match="obs_segments names a group 'polcy'"):
        check_tensor_env(named(obs_segments={"polcy": {"a": (8,)}}))
    with pytest.raises(StrlValueError, match="segments of 'policy' have 7 columns together"):
        check_tensor_env(named(obs_segments={"policy": {"a": (3,), "b": (2, 2)}}))
    with pytest.raises(StrlValueError, match="feature_names names a group 'nothing'"):
        check_tensor_env(named(feature_names={"nothing": ["x"]}))
    with pytest.raises(StrlValueError, match=r"'ref_obs' has shape \(2, 4\) and 1 feature names"):
        check_tensor_env(named(feature_names={"ref_obs": ["x"]}))
    swapped = {"ref_obs": ["x", "y", "vx", "vy"], "ref_motion": ["x", "y", "vy", "vx"]}
    with pytest.raises(StrlValueError, match="feature 2 is 'vy' where 'vx' is expected"):
        check_tensor_env(named(feature_names=swapped))


def test_unseeded_randomness_is_found() -> None:
    class Unseeded(PointMass):
        def reset_tensor(self) -> TensorDict:
            self.take_reset_request()
            return super().reset_tensor()

    with pytest.raises(StrlValueError, match=r"seed\(\) does not make a run repeatable.*at step 0"):
        check_tensor_env(Unseeded(2))
    check_tensor_env(Unseeded(2), seeding=False)


def test_forgotten_state_is_found() -> None:
    class Forgetful(PointMass):
        state_names = ("pos", "vel", "phase", "frames")

    with pytest.raises(StrlValueError, match=r"set_state\(\) does not continue"):
        check_tensor_env(Forgetful(2))


def test_state_that_is_no_tensor_is_found() -> None:
    class Odd(PointMass):
        def get_state(self) -> TensorDict:
            return {**super().get_state(), "count": 3}  # type: ignore[dict-item]

    with pytest.raises(StrlValueError, match=r"get_state\(\) has \['count'\]"):
        check_tensor_env(Odd(2))


def test_a_numpy_face_of_its_own_is_found() -> None:
    class Sharing(PointMass):
        def reset(self) -> Any:
            return {key: value + 1 for key, value in super().reset().items()}

    with pytest.raises(StrlValueError, match="the NumPy face differs from the tensor face"):
        check_tensor_env(Sharing(2))
