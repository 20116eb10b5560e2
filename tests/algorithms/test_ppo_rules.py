"""PPO's rules with numbers that can be checked by hand."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl import APPO, PPO, make_vec
from sb3_strl.algorithms.losses import surrogate_loss, value_loss
from sb3_strl.algorithms.optim import adapt_learning_rate
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.flat_adam import clip_gradients
from sb3_strl.common.returns import gae
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import TensorVecEnv
from tests.envs.toy import Balance, NanEnv, PointMass

SMALL = {"net_arch": [8]}


class Script(TensorVecEnv):
    """One environment, reward 1; ends after three steps as told; its observation counts steps."""

    def __init__(self, terminated: bool, truncated: bool, with_final: bool = True) -> None:
        box = spaces.Box(-10.0, 10.0, (1,), np.float32)
        super().__init__(1, box, spaces.Box(-1.0, 1.0, (1,), np.float32))
        self.ends, self.with_final, self.count = (terminated, truncated), with_final, 0

    def reset_tensor(self) -> TensorDict:
        self.count = 0
        return {"policy": th.zeros(1, 1)}

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        self.count += 1
        last = {"policy": th.full((1, 1), float(self.count))}
        flags = [th.tensor([self.count == 3 and end]) for end in self.ends]
        if self.count == 3:
            self.count = 0
        obs = {"policy": th.full((1, 1), float(self.count))}
        final = last if self.with_final else None
        return TensorStep(obs, th.ones(1), flags[0], flags[1], final, {})


def rewards_of_a_rollout(env: TensorVecEnv, **options) -> th.Tensor:
    """Collect three steps with the value function V(o) = 10 o."""
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=3,
        n_minibatches=1,
        gamma=0.5,
        policy_kwargs={"net_arch": []},
        **options,
    )
    with th.no_grad():
        model.policy.critic.model[0].weight.fill_(10.0)
        model.policy.critic.model[0].bias.zero_()
    _, callback = model._setup_learn(3)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 3)
    assert model.rollout_buffer["values"].flatten().tolist() == [0.0, 10.0, 20.0]
    return model.rollout_buffer["rewards"].flatten()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("terminal", 1 + 0.5 * 30), ("auto", 1 + 0.5 * 30), ("last_value", 1 + 0.5 * 20), ("none", 1)],
)
def test_timeouts_are_bootstrapped_as_the_mode_says(mode: str, expected: float) -> None:
    rewards = rewards_of_a_rollout(Script(False, True), timeout_bootstrap=mode)
    assert rewards.tolist() == [1.0, 1.0, expected]


def test_without_final_observations_the_value_before_the_step_is_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="supplies no final observations"):
        rewards = rewards_of_a_rollout(Script(False, True, with_final=False))
    assert rewards.tolist() == [1.0, 1.0, 1 + 0.5 * 20]


def test_asking_for_final_observations_that_are_not_there_is_an_error() -> None:
    with pytest.raises(StrlValueError, match="timeout_bootstrap='terminal' needs final obs"):
        rewards_of_a_rollout(Script(False, True, with_final=False), timeout_bootstrap="terminal")


@pytest.mark.parametrize("truncated", [False, True])
def test_termination_is_never_bootstrapped(truncated: bool) -> None:
    assert rewards_of_a_rollout(Script(True, truncated)).tolist() == [1.0, 1.0, 1.0]


def test_gae_equals_the_sum_it_abbreviates() -> None:
    generator = th.Generator().manual_seed(0)
    rewards, values = th.randn(7, 5, generator=generator), th.randn(7, 5, generator=generator)
    dones = th.rand(7, 5, generator=generator) < 0.3
    last, gamma, lam = th.randn(5, generator=generator), 0.9, 0.8
    advantages, returns = gae(rewards, values, dones, last, gamma, lam)
    following = th.cat([values[1:], last[None]])
    for t in range(7):
        for n in range(5):
            total, weight = 0.0, 1.0
            for k in range(t, 7):
                alive = 0.0 if dones[k, n] else 1.0
                total += weight * float(
                    rewards[k, n] + gamma * alive * following[k, n] - values[k, n]
                )
                weight *= gamma * lam * alive
            assert advantages[t, n] == pytest.approx(total, abs=1e-5)
    assert th.allclose(returns, advantages + values)


def test_gae_checks_shapes() -> None:
    with pytest.raises(StrlValueError, match="last_values"):
        gae(th.ones(2, 3), th.ones(2, 3), th.zeros(2, 3).bool(), th.ones(2), 1.0, 1.0)


def test_surrogate_by_hand() -> None:
    ratio, advantages = th.tensor([1.5, 1.5, 0.5]), th.tensor([1.0, -1.0, -1.0])
    terms = surrogate_loss(ratio.log(), th.zeros(3), advantages, 0.2)
    assert terms.loss == pytest.approx(-(1.2 - 1.5 - 0.8) / 3)


def test_max_form_keeps_the_gradient_where_sb3s_form_loses_it() -> None:
    old, returns = th.zeros(1), th.full((1,), -5.0)
    for sb3, slope in ((None, 2 * (1.0 + 5.0)), (0.2, 0.0)):
        value = th.ones(1, requires_grad=True)  # moved beyond the clip, away from the return
        value_loss(value, old, returns, 0.2, sb3).backward()
        assert value.grad.item() == pytest.approx(slope)


def test_adaptive_rate_follows_the_divergence_within_bounds() -> None:
    rate = th.tensor(1e-3)
    for kl, expected in ((0.03, 1e-3 / 1.5), (0.001, 1e-3), (0.0, 1e-3), (0.01, 1e-3)):
        adapt_learning_rate(rate, th.tensor(kl), 0.01)
        assert rate.item() == pytest.approx(expected, rel=1e-6)
    for kl, bound in ((0.001, 1e-2), (1.0, 1e-5)):
        for _ in range(40):
            adapt_learning_rate(rate, th.tensor(kl), 0.01)
        assert rate.item() == pytest.approx(bound, rel=1e-6)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    parameters = [
        th.nn.Parameter(th.zeros(2)),
        th.nn.Parameter(th.zeros(1)),
        th.nn.Parameter(th.zeros(1)),
    ]
    parameters[0].grad, parameters[1].grad = th.tensor([3.0, 0.0]), th.tensor([4.0])
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert clip_gradients(parameters, 10.0) == pytest.approx(1.0, abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.8], abs=1e-5)


@pytest.mark.parametrize("kind", ["log", "scalar"])
def test_noise_stays_above_its_floor_after_every_step(kind: str) -> None:
    kwargs = {**SMALL, "noise_std_type": kind, "init_noise_std": 0.5}
    floor = [0.3, 0.45]
    model = PPO(
        "MlpPolicy",
        PointMass(4),
        learning_rate=0.05,
        ent_coef=-50.0,
        clip_min_std=floor,
        policy_kwargs=kwargs,
        seed=0,
    )
    model.learn(24 * 4 * 3)
    assert model.policy.action_head.std.tolist() == pytest.approx(floor, abs=1e-3)


def test_all_samples_are_used_when_the_batch_does_not_divide() -> None:
    model = PPO("MlpPolicy", PointMass(5), n_steps=7, batch_size=8, policy_kwargs=SMALL)
    model.learn(35)
    sizes = [len(batch.actions) for batch in model.rollout_buffer.get(8)]
    assert sizes == [8, 8, 8, 8, 3]


@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 4), (4, 1)])
def test_one_environment_and_one_step(n_envs: int, n_steps: int) -> None:
    model = PPO("MlpPolicy", PointMass(n_envs), n_steps=n_steps, policy_kwargs=SMALL)
    model.learn(12)
    assert model.num_timesteps == 12


class StopAt(BaseCallback):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def _on_step(self) -> bool:
        assert np.asarray(self.locals["dones"]).dtype == bool
        assert len(self.locals["infos"]) == self.training_env.num_envs
        assert np.asarray(self.locals["rewards"]).shape == (self.training_env.num_envs,)
        return self.n_calls < self.calls


def test_a_callback_that_stops_a_rollout_prevents_the_update() -> None:
    model = PPO("MlpPolicy", PointMass(3), n_steps=8, policy_kwargs=SMALL)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(1000, callback=StopAt(5))
    assert model.num_timesteps == 15
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    model.learn(24, reset_num_timesteps=False)
    assert model.num_timesteps == 39


def test_target_kl_stops_the_epochs() -> None:
    options = {"n_epochs": 50, "learning_rate": 0.05, "policy_kwargs": SMALL, "seed": 0}
    model = PPO("MlpPolicy", PointMass(8), target_kl=1e-4, **options)
    model.learn(24 * 8)
    assert model._n_updates < 50


def test_lr_scheduler_steps_once_per_update() -> None:
    options = {
        "lr_scheduler_class": "StepLR",
        "lr_scheduler_kwargs": {"step_size": 2, "gamma": 0.1},
    }
    model = PPO("MlpPolicy", PointMass(2), n_steps=4, policy_kwargs=SMALL, **options)
    model.learn(8 * 4)
    assert model.current_lr == pytest.approx(1e-5)


def test_it_learns() -> None:
    model = PPO("MlpPolicy", Balance(16), n_steps=32, policy_kwargs={"net_arch": [32, 32]}, seed=0)
    model.learn(16 * 32 * 40)
    assert np.mean([episode["l"] for episode in model.ep_info_buffer]) > 80


@pytest.mark.parametrize("algorithm", [PPO, APPO])
def test_nan_names_environments_and_keys_and_harms_nothing(algorithm: type[PPO]) -> None:
    alias = "MlpPolicy" if algorithm is PPO else "AmpPolicy"
    env = NanEnv(4, bad_step=5, bad_env=2, bad_key="policy")
    model = algorithm(alias, env, n_steps=8, policy_kwargs=SMALL, seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(
        NonFiniteError, match=r"observation policy' in environments \[2\]"
    ) as caught:
        model.learn(64)
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    folder = str(caught.value).split(" to ")[1].split("/rollout.npz")[0]
    dumped = np.load(f"{folder}/rollout.npz", allow_pickle=False)
    assert np.isnan(dumped["observation_policy"][:, 2]).any()
    assert algorithm.load(f"{folder}/model.zip").num_timesteps == 32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"n_minibatches": 2, "batch_size": 8},
            StrlValueError,
            "both batch_size=8 and n_minibatches=2",
        ),
        (
            {"schedule": "adaptiv"},
            StrlValueError,
            r"schedule is 'adaptiv'. Known: \['fixed', 'adapt",
        ),
        (
            {"schedule": "adaptive", "learning_rate": lambda p: p},
            StrlValueError,
            "learning_rate changes",
        ),
        (
            {"schedule": "adaptive", "lr_scheduler_class": "StepLR"},
            StrlValueError,
            "would both write",
        ),
        ({"lr_scheduler_class": "StepLr"}, StrlTypeError, "Did you mean 'StepLR'"),
        ({"n_steps": 0}, StrlValueError, "n_steps is 0"),
        ({"timeout_bootstrap": "x"}, StrlValueError, "timeout_bootstrap is 'x'"),
        ({"policy_kwargs": {"use_sde": True}}, StrlTypeError, "state-dependent exploration"),
        ({"policy_kwargs": {"encoder": {}}}, StrlTypeError, "has no encoder part"),
        ({"policy_kwargs": {"activation": "elux"}}, StrlValueError, "elu"),
        (
            {"policy_kwargs": {"net_arch": [8], "actor_hidden_dims": [9]}},
            StrlValueError,
            "say two things about one",
        ),
        (
            {"policy_kwargs": {"obs_groups": {"critic": ["critc"]}}},
            StrlKeyError,
            "Did you mean 'critic'",
        ),
        (
            {"policy_kwargs": {"obs_segments": {"policy": {"a": 1}}}},
            StrlValueError,
            "add up to 1 col",
        ),
        (
            {"policy_kwargs": {"obs_segments": {"polcy": {"a": 1}}}},
            StrlKeyError,
            "Did you mean 'policy'",
        ),
    ],
)
def test_bad_settings_say_how_to_mend_them(
    options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PPO("MlpPolicy", PointMass(4), **options)


def test_unknown_names() -> None:
    with pytest.raises(TypeError, match="n_step'"):
        PPO("MlpPolicy", PointMass(4), n_step=3)
    with pytest.raises(TypeError, match="bc_coef"):
        APPO("AmpPolicy", PointMass(4), bc_coef=3)
    with pytest.raises(StrlTypeError, match=r"unknown keyword 'netarch'\. Did you mean"):
        PPO("MlpPolicy", PointMass(4), policy_kwargs={"netarch": [8]})
    with pytest.raises(StrlValueError, match="Did you mean 'EncoderAmpPolicy'"):
        APPO("EncodrAmpPolicy", PointMass(4))
    with pytest.raises(StrlKeyError, match="unknown segment 'velocty'"):
        PPO(
            "EncoderPolicy",
            PointMass(4),
            policy_kwargs={"encoder": {"component_names": ["velocty"]}},
        )
    with pytest.raises(StrlTypeError, match=r"unknown key 'hidden'.*Known keys"):
        PPO("EncoderPolicy", PointMass(4), policy_kwargs={"encoder": {"hidden": 3}})
    with pytest.raises(StrlValueError, match="component_names is an empty list"):
        PPO("EncoderPolicy", PointMass(4), policy_kwargs={"encoder": {"component_names": []}})


def test_double_normalisation_is_refused() -> None:
    env = VecNormalize(make_vec("Pendulum-v1", n_envs=2))
    with pytest.raises(StrlValueError, match="normalised twice"):
        PPO("MlpPolicy", env, policy_kwargs={"empirical_normalization": True})


def test_a_model_prints_its_tables() -> None:
    text = str(APPO("EncoderAmpPolicy", PointMass(4)))
    for part in (
        "objectives",
        "amp ",
        "buffer fields",
        "amp/features",
        "policy stages",
        "discriminator",
    ):
        assert part in text


class Older(RolloutBuffer):
    """As users wrote it before minibatches could be counted."""

    def get(self, batch_size: Any = None, generator: Any = None) -> Any:  # type: ignore[override]
        return super().get(batch_size, generator)


def test_buffers_of_users_need_not_count_minibatches() -> None:
    for options in ({}, {"n_minibatches": 2}, {"batch_size": 5}):
        model = PPO(
            "MlpPolicy", PointMass(3), n_steps=8, rollout_buffer_class=Older, seed=0, **options
        )
        model.learn(24)
        assert model._n_updates > 0


def test_as_many_minibatches_as_asked_for_where_they_do_not_divide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = PPO("MlpPolicy", PointMass(3), n_steps=7, n_minibatches=8, n_epochs=2, seed=0)
    sizes: list[int] = []
    minibatch = model._minibatch

    def count(batch: Any) -> bool:
        sizes.append(len(batch.actions))
        return minibatch(batch)

    monkeypatch.setattr(model, "_minibatch", count)
    model.learn(21)
    assert sizes == [3, 3, 3, 3, 3, 2, 2, 2] * 2
