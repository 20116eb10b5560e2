"""What goes on in a resumed run beside its weights: wrappers, counters, learning rates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_strl import PPO
from sb3_strl.common.types import TensorDict, TensorStep
from tests.envs.toy import PointMass

pytestmark = pytest.mark.integration

N_ENVS, N_STEPS = 4, 8
ROLLOUT = N_ENVS * N_STEPS


def make_env(seed: int = 0) -> PointMass:
    return PointMass(N_ENVS, groups=("policy",), seed=seed, max_episode_length=11)


def make(env: VecEnv, **options: Any) -> PPO:
    return PPO(
        "MlpPolicy", env, n_steps=N_STEPS, n_epochs=2, seed=3, policy_kwargs={"net_arch": [8]},
        device="cpu", **options,
    )  # fmt: skip


def assert_same(resumed: PPO, whole: PPO) -> None:
    assert resumed.num_timesteps == whole.num_timesteps
    for name, value in whole.policy.state_dict().items():
        assert th.equal(resumed.policy.state_dict()[name], value), name
    for field in ("rewards", "advantages", "actions"):
        assert th.equal(resumed.rollout_buffer[field], whole.rollout_buffer[field]), field
    mine, theirs = (list(model.ep_info_buffer or ()) for model in (resumed, whole))
    assert [(e["r"], e["l"]) for e in mine] == [(e["r"], e["l"]) for e in theirs]


def frozen(path: Path) -> Callable[[VecEnv], VecEnv]:
    """Wrap in VecNormalize, whose statistics go through its own file as its users' do."""

    def wrap(env: VecEnv) -> VecEnv:
        return VecNormalize.load(str(path), env) if path.exists() else VecNormalize(env, gamma=0.9)

    return wrap


class Renamed(VecMonitor):
    """Does nothing of its own."""


class Counting(VecMonitor):
    def step_wait(self) -> Any:
        return super().step_wait()


WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "derived": Renamed,
    "monitor": VecMonitor,
    "no NaN": VecCheckNan,
    "both": lambda env: VecMonitor(VecCheckNan(env)),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", [*WRAPPERS, "normalised"])
def test_wrappers_go_on_where_they_were(name: str, tmp_path: Path) -> None:
    statistics = tmp_path / "statistics.pkl"
    wrap = frozen(statistics) if name == "normalised" else WRAPPERS[name]
    whole = make(wrap(make_env()))
    whole.learn(3 * ROLLOUT)
    whole.save(tmp_path / "half.zip")
    if isinstance(whole.get_env(), VecNormalize):
        whole.get_env().save(str(statistics))
    whole.learn(2 * ROLLOUT, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "PPO: the file holds no state")
        resumed = PPO.load(tmp_path / "half.zip", env=wrap(make_env(99)), device="cpu")
        resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert_same(resumed, whole)


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("wrap", [lambda env: VecFrameStack(env, 2), Counting])
def test_episodes_start_anew_where_a_wrapper_cannot_tell(
    wrap: Callable[[VecEnv], VecEnv], tmp_path: Path
) -> None:
    model = make(wrap(make_env()))
    model.learn(ROLLOUT)
    model.save(tmp_path / "m.zip")
    resumed = PPO.load(tmp_path / "m.zip", env=wrap(make_env()), device="cpu")
    with pytest.warns(UserWarning, match="no state for this environment, so its episodes start"):
        resumed.learn(ROLLOUT, reset_num_timesteps=False)
    assert resumed.rollout_buffer["episode_starts"][0].all()


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("saved_with_wrapper", [True, False])
def test_a_wrapper_may_come_or_go(saved_with_wrapper: bool, tmp_path: Path) -> None:
    wrapped, plain = VecMonitor(make_env()), make_env()
    model = make(wrapped if saved_with_wrapper else plain)
    model.learn(ROLLOUT)
    model.save(tmp_path / "m.zip")
    env = plain if saved_with_wrapper else wrapped
    resumed = PPO.load(tmp_path / "m.zip", env=env, device="cpu")
    for each in (model, resumed):
        each.learn(ROLLOUT, reset_num_timesteps=False)
    assert th.equal(resumed.rollout_buffer["rewards"], model.rollout_buffer["rewards"])


class Sliced(PointMass):
    """Observations that are columns of a wider tensor."""

    def slice(self, obs: TensorDict) -> TensorDict:
        return {"policy": th.nn.functional.pad(obs["policy"], (1, 2))[:, 1:-2]}

    def reset_tensor(self) -> TensorDict:
        return self.slice(super().reset_tensor())

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensor(actions)
        return step._replace(obs=self.slice(step.obs))


def test_how_observations_lie_in_memory_does_not_matter(tmp_path: Path) -> None:
    """Where it could: matrix products of MKL on AMD."""

    def env() -> Sliced:
        return Sliced(6, groups=("policy",), termination_prob=0.1)

    whole = make(env())
    whole.learn(2 * N_STEPS * 6)
    whole.save(tmp_path / "half.zip")
    whole.learn(N_STEPS * 6, reset_num_timesteps=False)
    resumed = PPO.load(tmp_path / "half.zip", env=env(), device="cpu")
    resumed.learn(N_STEPS * 6, reset_num_timesteps=False)
    assert_same(resumed, whole)


class SaveAtEnd(BaseCallback):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.model.num_timesteps == 3 * ROLLOUT:
            self.model.save(self.file)


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("wrap", [VecMonitor, lambda env: env])
def test_no_episode_is_counted_twice(wrap: Callable[[VecEnv], VecEnv], tmp_path: Path) -> None:
    whole = make(wrap(make_env()))
    whole.learn(5 * ROLLOUT, callback=SaveAtEnd(tmp_path / "m.zip"))
    resumed = PPO.load(tmp_path / "m.zip", env=wrap(make_env(99)), device="cpu")
    resumed.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert_same(resumed, whole)


def test_weights_of_another_run_bring_nothing_else() -> None:
    """As in SB3: going back to the best weights is not going back in time."""
    best, worse = (make(make_env(seed)) for seed in (0, 1))
    best.learn(2 * ROLLOUT)
    worse.learn(5 * ROLLOUT)
    worse.set_parameters(best.get_parameters())
    for model in (worse, best):
        model.learn(ROLLOUT, reset_num_timesteps=False)
    assert worse.num_timesteps == 6 * ROLLOUT
    assert not th.equal(worse.rollout_buffer["actions"], best.rollout_buffer["actions"])


def decayed(name: str, **options: Any) -> dict[str, Any]:
    return {"lr_scheduler_class": name, "lr_scheduler_kwargs": options}


@pytest.mark.parametrize(
    "options",
    [
        decayed("LambdaLR", lr_lambda=lambda epoch: 0.5**epoch),
        decayed("CosineAnnealingLR", T_max=10),
        decayed("PolynomialLR", total_iters=12),
    ],
    ids=lambda options: options["lr_scheduler_class"],
)
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_a_scheduler_goes_on_from_a_new_rate(options: Any, factor: float, tmp_path: Path) -> None:
    model = make(make_env(), learning_rate=1e-3, **options)
    model.learn(5 * ROLLOUT)
    model.save(tmp_path / "m.zip")
    rate = 1e-3 * factor
    resumed = PPO.load(tmp_path / "m.zip", env=make_env(), device="cpu", learning_rate=rate)
    assert resumed.current_lr == pytest.approx(model.current_lr * factor)
    for each in (model, resumed):
        each.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert resumed.current_lr == pytest.approx(model.current_lr * factor)


STEP_LR = {"lr_scheduler_class": "StepLR", "lr_scheduler_kwargs": {"step_size": 1, "gamma": 0.5}}


@pytest.mark.parametrize(
    ("options", "after"),
    [({}, 2e-5), ({"schedule": "adaptive", "desired_kl": None}, 2e-5), (STEP_LR, 2.5e-6)],
)
def test_a_new_learning_rate_counts(options: Any, after: float, tmp_path: Path) -> None:
    model = make(make_env(), learning_rate=1e-3, **options)
    model.learn(2 * ROLLOUT)
    model.save(tmp_path / "m.zip")
    resumed = PPO.load(tmp_path / "m.zip", env=make_env(), device="cpu", learning_rate=2e-5)
    resumed.learn(ROLLOUT, reset_num_timesteps=False)
    assert resumed.current_lr == pytest.approx(after)
