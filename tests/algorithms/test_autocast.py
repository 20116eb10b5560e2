"""Bfloat16 inside the networks: where it computes, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_strl import PPO, EstimatorPPO
from sb3_strl.algorithms import minibatch
from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies import networks
from sb3_strl.policies.networks import MlpModel
from sb3_strl.policies.precision import run_in_bfloat16
from tests.envs.toy import ImageToy, PointMass

TOLERANCE = 0.02  # what the documentation states
SMALL = {"net_arch": [16, 16], "rnn": {"hidden_size": 8}}
IMAGES: dict[str, Any] = {
    "net_arch": [16, 16],
    "obs_groups": {"actor": ["image", "vector"]},
    "encoder": {"component_names": ["image"]},
}


def make(alias: str = "MlpPolicy", **options: Any) -> PPO:
    options.setdefault("autocast", True)
    kwargs = {**({} if "Lstm" not in alias else SMALL), **options.pop("policy_kwargs", {})}
    env = ImageToy(4) if "obs_groups" in kwargs else PointMass(32)
    return PPO(alias, env, n_steps=8, seed=0, policy_kwargs=kwargs, **options)


def first_log_ratios(model: PPO) -> list[th.Tensor]:
    """Train an iteration and return what the ratio's logarithm was on the first minibatch."""
    found: list[th.Tensor] = []
    run = model._run_minibatch

    def spy(batch: Any, *arguments: Any) -> Any:
        if not found:
            out = minibatch.evaluate_batch(model.policy, batch, True)
            log_prob = model.policy.action_head.log_prob(out.params, batch.actions)
            found.append((log_prob - batch.old_log_prob).detach())
        return run(batch, *arguments)

    model._run_minibatch = spy  # type: ignore[assignment]
    model.learn(8 * model.n_envs)
    return found


CASES: dict[str, dict[str, Any]] = {
    "perceptron": {"policy_kwargs": {"init_noise_std": 0.2}},
    "memory": {"alias": "MlpLstmPolicy"},
    "images": {"alias": "EncoderPolicy", "policy_kwargs": IMAGES},
}


@pytest.mark.parametrize("name", CASES)
def test_ratio_stays_within_the_stated_tolerance(name: str) -> None:
    (log_ratio,) = first_log_ratios(make(**CASES[name]))
    assert (log_ratio.exp() - 1.0).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_everything_that_lasts_is_float32(name: str) -> None:
    model = make(**CASES[name])
    model.learn(8 * model.n_envs)
    policy = model.policy
    assert {p.dtype for p in policy.parameters()} == {th.float32}
    for parameter in model._parameters:
        assert parameter.grad is not None
        assert parameter.grad.dtype == th.float32
        assert parameter.grad.isfinite().all()
    obs = policy.as_groups(policy.obs_to_tensor(model.env.observation_space.sample())[0])
    obs = {key: value.unsqueeze(0) if value.ndim == 1 else value for key, value in obs.items()}
    out = policy.actor_pass(obs)
    assert {value.dtype for value in out.params.values()} == {th.float32}
    assert policy.values(obs).dtype == th.float32


def test_hidden_layers_compute_in_bfloat16_and_the_last_one_does_not() -> None:
    model = make()
    seen: list[th.dtype] = []
    for layer in model.policy.actor.model:
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    model.policy.action_params(model.env.reset_tensor())
    assert seen == [th.bfloat16] * 6 + [th.float32]


def test_only_trunks_and_encoders() -> None:
    policy = EstimatorPPO(
        "EstimatorPolicy",
        PointMass(4),
        n_steps=4,
        autocast=True,
        policy_kwargs={
            "estimator": {"obs_components": ["pos"], "target_components": ["mass"]},
        },
    ).policy
    switched = {
        name
        for name, module in policy.named_modules()
        if isinstance(module, MlpModel) and module.use_bfloat16
    }
    assert switched == {"actor", "critic"}


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> th.Tensor:
        raise AssertionError("bfloat16")

    monkeypatch.setattr(networks, "run_in_bfloat16", fail)
    make(autocast=False).learn(8 * 32)
    with pytest.raises(AssertionError, match="bfloat16"):
        make().learn(8 * 32)


@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpLstmPolicy"])
def test_predict_is_float32(alias: str) -> None:
    model = make(alias)
    obs = model.env.reset()
    given = model.predict(obs, deterministic=True)[0]
    model.policy.use_bfloat16(False)
    plain = model.predict(obs, deterministic=True)[0]
    assert (given == plain).all()
    exact = model.policy.action_params(model.env.reset_tensor())["mean"]
    model.policy.use_bfloat16(True)
    rounded = model.policy.action_params(model.env.reset_tensor())["mean"]
    assert not th.equal(exact, rounded)
    model.predict(obs)
    assert model.policy.actor.use_bfloat16  # as it was


def test_a_loaded_model_goes_on_alike(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "model")
    assert PPO.load(tmp_path / "model", env=model.env).policy.actor.use_bfloat16
    assert not PPO.load(tmp_path / "model", autocast=False).policy.actor.use_bfloat16


def test_an_export_computes_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from sb3_strl.export import export_policy

    export_policy(make().policy, tmp_path)  # which compares the files with predict()


def test_a_linear_map_has_no_hidden_layer() -> None:
    layers = th.nn.Sequential(th.nn.Linear(3, 2))
    x = th.rand(5, 3)
    assert th.equal(run_in_bfloat16(layers, x), layers(x))
    assert th.equal(run_in_bfloat16(th.nn.Sequential(), x), x)


def test_a_device_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.amp, "is_autocast_available", lambda _: False)
    with pytest.raises(StrlValueError, match="autocast=True needs bfloat16"):
        make()


@pytest.mark.integration
def test_together_with_compile() -> None:
    th._dynamo.reset()
    model = make(compile=True)
    (log_ratio,) = first_log_ratios(model)
    assert model.collector._decide.is_compiled
    assert (log_ratio.exp() - 1.0).abs().max() < TOLERANCE


@pytest.mark.integration
def test_it_learns() -> None:
    model = make(n_epochs=5, learning_rate=3e-3)
    rewards = []
    for _ in range(2):
        model.learn(8 * 32, log_interval=None)
        rewards.append(float(model.rollout_buffer["rewards"].mean()))
        model.learn(30 * 8 * 32, reset_num_timesteps=False, log_interval=None)
    assert float(model.rollout_buffer["rewards"].mean()) > 0.6 * rewards[0]
