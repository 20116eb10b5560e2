"""Defaults, sizes and combinations of settings."""

import inspect
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl import APPO, PPO
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.robot import RobotToy
from tests.envs.toy import PointMass

SMALL = {"net_arch": [8]}


def test_defaults_are_the_documented_ones() -> None:
    parameters = inspect.signature(PPO).parameters
    defaults = {name: item.default for name, item in parameters.items()}
    assert defaults == {
        "policy": inspect.Parameter.empty,
        "env": inspect.Parameter.empty,
        "learning_rate": 1e-3,
        "n_steps": 24,
        "batch_size": None,
        "n_minibatches": None,
        "n_epochs": 5,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "clip_range_vf": None,
        "use_clipped_value_loss": True,
        "normalize_advantage": "rollout",
        "ent_coef": 0.0,
        "vf_coef": 1.0,
        "max_grad_norm": 1.0,
        "schedule": "fixed",
        "desired_kl": 0.01,
        "target_kl": None,
        "clip_min_std": 1e-15,
        "timeout_bootstrap": "auto",
        "sequence_length": None,
        "lr_scheduler_class": None,
        "lr_scheduler_kwargs": None,
        "compile": False,
        "autocast": False,
        "storage_device": None,
        "rollout_buffer_class": None,
        "rollout_buffer_kwargs": None,
        "stats_window_size": 100,
        "tensorboard_log": None,
        "policy_kwargs": None,
        "verbose": 0,
        "seed": None,
        "device": "auto",
        "_init_setup_model": True,
    } | {name: parameters[name].default for name in parameters if name.startswith("rnd")}


def test_the_keywords_of_subclasses_are_those_of_ppo() -> None:
    mine = set(inspect.signature(PPO).parameters) - {"policy", "env", "_init_setup_model"}
    assert set(PPOKwargs.__annotations__) == mine


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 24), ({"n_minibatches": 5}, 20), ({"batch_size": 7}, 7), ({"n_minibatches": 96}, 1)],
)
def test_size_of_minibatches(options: dict, size: int) -> None:
    model = PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, **options)
    assert model.minibatch_size == size  # of 96 samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_epochs": 0}, "n_epochs is 0. It must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n_minibatches": 97}, r"n_minibatches is 97, but .* n_steps \* n_envs = 96 samples"),
        ({"normalize_advantage": "batch"}, "normalize_advantage is 'batch'. Known"),
        ({"gamma": 1.1}, r"gamma is 1.1. It must lie in \[0, 1\]"),
        ({"gae_lambda": -0.1}, r"gae_lambda is -0.1. It must lie in \[0, 1\]"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0. It must be positive"),
        ({"clip_min_std": -1.0}, "clip_min_std is -1.0. Give a number, or one per action dim"),
        ({"clip_min_std": [0.1, 0.1, 0.1]}, r"clip_min_std is \[0.1, 0.1, 0.1\].* has 2"),
        ({"schedule": "adaptive", "desired_kl": 0.0}, "desired_kl is 0.0. It must be positive"),
        ({"target_kl": -1.0}, "target_kl is -1.0. It must be positive"),
        ({"clip_range": -0.2}, "clip_range is -0.2. Expected a positive number"),
        ({"clip_range": 0}, "clip_range is 0. Expected a positive number"),
        ({"clip_range": lambda _: -0.2}, "clip_range is -0.2 at the start. Expected a positive"),
        ({"clip_range_vf": -1}, "clip_range_vf is -1. Expected a positive number, e.g. 0.2; None"),
        ({"clip_range_vf": 0.0}, "clip_range_vf is 0.0. Expected .* None disables it"),
        ({"clip_range_vf": lambda left: -left}, "clip_range_vf is -1.0 at the start"),
        ({"learning_rate": -1}, "learning_rate is -1. Expected a number of at least 0, e.g."),
        ({"learning_rate": float("nan")}, "learning_rate is nan. Expected a number of at least"),
    ],
)
def test_numbers_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(StrlValueError, match=f"^PPO: {message}"):
        PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_steps": 8.0},
            r"n_steps is 8\.0\. Expected a whole number: pass an int, not",
        ),
        ({"n_epochs": 2.0}, r"n_epochs is 2\.0\. Expected a whole number"),
        ({"n_epochs": None}, "n_epochs is None. Expected a whole number"),
        ({"batch_size": "8"}, "batch_size is '8'. Expected a whole number"),
        ({"sequence_length": 2.5}, "sequence_length is 2.5. Expected a whole number"),
        ({"ent_coef": "auto"}, "ent_coef is 'auto'. Expected a number, e.g. ent_coef=0.5"),
        ({"gamma": "0.99"}, "gamma is '0.99'. Expected a number"),
        ({"target_kl": "0.1"}, "target_kl is '0.1'. Expected a number"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'. Expected a number, or a function"),
        ({"clip_range": None}, "clip_range is None. Expected a number, or a function"),
    ],
)
def test_settings_of_the_wrong_kind(options: dict, message: str) -> None:
    with pytest.raises(StrlTypeError, match=f"^PPO: {message}"):
        PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, **options)


def test_numbers_of_numpy_and_schedules_of_zero_are_let_through() -> None:
    counts = {"n_steps": np.int64(8), "n_epochs": np.int32(2), "batch_size": np.int64(4)}
    model = PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, ent_coef=np.float32(0.1), **counts)
    model.learn(32)
    PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, ent_coef=th.tensor(0.01))
    # What rl_zoo3 replaces before it looks at a model.
    PPO("MlpPolicy", PointMass(4), learning_rate=0.0, clip_range=lambda _: 0.0)


def test_infinite_action_bounds_are_refused() -> None:
    env = PointMass(4)
    env.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(StrlValueError, match="infinite bounds"):
        PPO("MlpPolicy", env)


@pytest.mark.parametrize("algorithm", [PPO, APPO])
def test_the_noise_has_a_floor_per_dimension(algorithm: type[PPO]) -> None:
    alias = "MlpPolicy" if algorithm is PPO else "AmpPolicy"
    model = algorithm(
        alias,
        PointMass(4),
        clip_min_std=[0.9, 1e-3],
        ent_coef=-10.0,
        learning_rate=0.1,
        policy_kwargs=SMALL,
    )
    model.learn(24 * 4 * 3)
    std = model.policy.log_std.detach().exp()
    assert std[0] == pytest.approx(0.9)
    assert 1e-3 <= std[1] < 0.5


class Rates(BaseCallback):
    """Note the learning rate at the start of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.seen.append(self.model.current_lr)


def test_a_schedule_of_the_learning_rate_is_followed() -> None:
    rates = Rates()
    model = PPO(
        "MlpPolicy", PointMass(4), learning_rate=lambda left: 0.1 * left, policy_kwargs=SMALL
    )
    model.learn(24 * 4 * 4, callback=rates)
    assert rates.seen == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_an_adaptive_rate_does_not_move_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it the divergence is rounding, which must not count as 'too small'."""
    options = {"schedule": "adaptive", "n_epochs": 1, "n_minibatches": 1, "learning_rate": 3e-4}
    model = PPO("MlpPolicy", PointMass(4), policy_kwargs=SMALL, **options)
    monkeypatch.setattr(
        model.policy.action_head, "kl", lambda old, new: th.full((len(new["mean"]),), 1e-7)
    )
    model.learn(24 * 4 * 3)
    assert model.current_lr == pytest.approx(3e-4)


def test_an_adaptive_rate_outlives_the_update() -> None:
    options = {"schedule": "adaptive", "desired_kl": 10.0, "policy_kwargs": SMALL}
    model = PPO("MlpPolicy", PointMass(4), learning_rate=1e-4, n_epochs=1, **options)
    model.learn(24 * 4 * 2)
    # Three of four minibatches of every update raise it.
    assert model.current_lr == pytest.approx(1e-4 * 1.5**6)


def test_the_entropy_coefficient_scales_the_entropy_gradient() -> None:
    grads = []
    for coef in (0.0, 0.1, 0.2):
        model = PPO(
            "MlpPolicy",
            PointMass(4),
            ent_coef=coef,
            max_grad_norm=1e9,
            n_epochs=1,
            n_minibatches=1,
            seed=0,
            policy_kwargs=SMALL,
        )
        model.learn(96)
        grads.append(model.policy.action_head.std_param.grad.clone())
    assert th.allclose(grads[1] - grads[0], th.full((2,), -0.1), atol=1e-5)
    assert th.allclose(grads[2] - grads[0], th.full((2,), -0.2), atol=1e-5)


@pytest.mark.parametrize(
    ("alias", "algorithm", "part", "trainers"),
    [
        ("AmpPolicy", PPO, "a discriminator", "APPO or ATPPO"),
        ("EstimatorPolicy", PPO, "an estimator", "EstimatorPPO or another"),
        ("EstimatorAmpPolicy", APPO, "an estimator", "EstimatorPPO or another"),
    ],
)
def test_a_part_that_nobody_trains_is_warned_of(
    alias: str, algorithm: type[PPO], part: str, trainers: str
) -> None:
    estimator = {"obs_components": ["proprio"], "target_components": ["velocity"]}
    options = {"estimator": estimator} if "Estimator" in alias else {}
    name = algorithm.__name__
    message = f"{name}: the policy {alias} has {part}, which {name} does not train. Use {trainers}"
    with pytest.warns(UserWarning, match=message):
        algorithm(alias, RobotToy(4), policy_kwargs={**SMALL, **options})


@pytest.mark.parametrize(("alias", "algorithm"), [("MlpPolicy", PPO), ("AmpPolicy", APPO)])
def test_parts_that_are_trained_are_not_warned_of(alias: str, algorithm: type[PPO]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not train")
        algorithm(alias, RobotToy(4), policy_kwargs=SMALL)
