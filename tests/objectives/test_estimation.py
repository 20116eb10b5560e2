"""Regression of privileged quantities: formulas, units, disjoint gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
from torch.nn import functional

from sb3_strl import PPO, EstimatorPPO
from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm
from sb3_strl.algorithms.minibatch import evaluate_batch
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from tests.envs.robot import RobotToy

SPEC: dict[str, Any] = {
    "obs_components": ["proprio", "mass"],
    "target_components": ["velocity"],
    "kwargs": {"hidden_sizes": [6]},
}
ADAPTOR: dict[str, Any] = {**SPEC, "obs_components": ["proprio"], "target_components": ["mass"]}


def make(alias: str = "EstimatorPolicy", n_envs: int = 4, **options: Any) -> EstimatorPPO:
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    if "Estimator" in alias:
        kwargs["estimator"] = {**SPEC, **options.pop("estimator", {})}
    if "Privilege" in alias:
        kwargs["adaptor"] = {**ADAPTOR, **options.pop("adaptor", {})}
    if "Lstm" in alias or "Gru" in alias:
        kwargs["rnn"] = {"hidden_size": 7}
    settings: dict[str, Any] = {"n_steps": 8, "n_epochs": 1, "n_minibatches": 2, "seed": 3}
    return EstimatorPPO(alias, RobotToy(n_envs), policy_kwargs=kwargs, **{**settings, **options})


def collect(model: TensorOnPolicyAlgorithm) -> None:
    _, callback = model._setup_learn(1)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def whole(model: EstimatorPPO) -> tuple[Any, Any]:
    """Return the whole rollout as one minibatch and the policy's output on it."""
    for objective in model.objectives:
        objective.start_update(model.rollout_buffer)
    buffer = model.rollout_buffer
    batches = buffer.get_sequences(1) if model.policy.is_recurrent else buffer.get()
    batch = next(iter(batches))
    return batch, evaluate_batch(model.policy, batch, with_values=True)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.3}),
        ("huber_loss", {"delta": 0.2}),
    ],
)
def test_the_loss_sums_features_and_averages_samples(name: str, kwargs: dict[str, Any]) -> None:
    model = make(
        "PrivilegeEstimatorPolicy",
        estimator_loss_func=name,
        estimator_loss_kwargs=kwargs,
        estimator_loss_coef=0.5,
        adaptor_loss_coef=2.0,
    )
    model.learn(64)
    collect(model)
    batch, out = whole(model)
    expected = th.zeros(())
    columns = {"estimator": slice(0, 2), "adaptor": slice(2, 3)}  # velocity and mass of the critic
    for part, coef in (("estimator", 0.5), ("adaptor", 2.0)):
        target = batch.observations["critic"][:, columns[part]]
        normalizer = dict(model.policy.each_estimator())[part].normalizer
        assert normalizer is not None
        standard = (target - normalizer.mean) / (normalizer.std + normalizer.eps)
        elements = vars(functional)[name](out.estimates[part], standard, reduction="none", **kwargs)
        expected = expected + coef * elements.sum(-1).mean()
    loss = model.estimation.loss(batch, out)
    assert loss is not None
    assert th.allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("alias", ["EstimatorPolicy", "EstimatorGruPolicy"])
def test_gradients_are_disjoint(alias: str, reuse: bool) -> None:
    model = make(alias, estimator={"replace_prob": 0.7, "reuse_estimates": reuse})
    collect(model)
    batch, out = whole(model)
    loss = model.estimation.loss(batch, out)
    assert loss is not None
    parameters = dict(model.policy.named_parameters())
    names = list(parameters)
    own = th.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    ppo = out.values.sum() + out.params["mean"].square().sum()
    others = th.autograd.grad(ppo, list(parameters.values()), allow_unused=True)
    for name, mine, theirs in zip(names, own, others, strict=True):
        is_estimator = name.startswith("estimators.")
        assert (mine is not None) == is_estimator, name
        assert theirs is None or not is_estimator, name
        if mine is not None:
            assert mine.abs().sum() > 0, name


def test_with_the_actors_memory_both_train_it() -> None:
    model = make("EstimatorLstmPolicy", estimator={"use_actor_rnn": True})
    collect(model)
    batch, out = whole(model)
    loss = model.estimation.loss(batch, out)
    assert loss is not None
    memory = [p for n, p in model.policy.named_parameters() if n.startswith("actor_memory.")]
    actor = [p for n, p in model.policy.named_parameters() if n.startswith("actor.")]
    gradients = th.autograd.grad(loss, memory, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert all(g is None for g in th.autograd.grad(loss, actor, allow_unused=True))


def test_statistics_are_in_raw_units() -> None:
    model = make()
    model.learn(64)
    collect(model)
    batch, out = whole(model)
    model.estimation.loss(batch, out)
    stats = model.estimation.stats()
    target = batch.observations["critic"][:, :2]
    estimator = dict(model.policy.each_estimator())["estimator"]
    error = estimator.raw(out.estimates["estimator"]) - target
    r2 = 1 - error.square().mean(0) / target.var(0, unbiased=False)
    assert th.allclose(stats["estimator/r2"], r2.mean(), rtol=1e-3)
    assert th.allclose(stats["estimator/rmse"], error.square().mean().sqrt(), rtol=1e-3)
    assert th.allclose(stats["estimator/mae"], error.abs().mean(), rtol=1e-3)


def test_constant_targets_give_no_r2() -> None:
    model = make()
    model.learn(64)
    collect(model)
    model.rollout_buffer["obs/critic"][..., :2] = 1.0
    batch, out = whole(model)
    model.estimation.loss(batch, out)
    assert math.isnan(float(model.estimation.stats()["estimator/r2"]))


def test_the_last_estimate_is_at_hand() -> None:
    model = make()
    with pytest.raises(StrlValueError, match=r"nothing was estimated yet\. Call learn\(\)"):
        model.get_estimated_state()
    with pytest.raises(
        StrlKeyError, match=r"the policy has no 'adaptor'\. It has: \['estimator'\]"
    ):
        model.get_estimated_state("adaptor")
    collect(model)
    obs = {group: value[-1] for group, value in model.rollout_buffer.obs().items()}
    expected = model.policy.estimate(obs)["estimator"]
    assert th.allclose(model.get_estimated_state(), expected, atol=1e-6)


def test_a_coefficient_of_zero_trains_nothing() -> None:
    model = make("PrivilegeEstimatorPolicy", estimator_loss_coef=0.0)
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    model.learn(64)
    for name, parameter in model.policy.named_parameters():
        if name.startswith("estimators.estimator"):
            assert th.equal(parameter, before[name]), name
        if name.startswith("estimators.adaptor"):
            assert not th.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"estimator_loss_func": "mse_los"}, StrlTypeError, r"unknown .* Did you mean 'mse_loss'"),
        ({"estimator_loss_func": "relu"}, StrlTypeError, r"unknown estimator_loss_func 'relu'"),
        ({"estimator_loss_kwargs": {"dleta": 1}}, StrlTypeError, r"does not work: .*dleta"),
        ({"estimator_loss_func": "cross_entropy"}, StrlTypeError, "unknown estimator_loss_func"),
        ({"estimator_loss_func": "ctc_loss"}, StrlTypeError, r"does not work"),
        ({"estimator_loss_coef": -1.0}, StrlValueError, r"estimator_loss_coef is -1\.0"),
        ({"estimator_loss_func": "gaussian_nll_loss"}, StrlTypeError, r"does not work"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make(**options)


def test_a_loss_that_is_not_elementwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(functional), "row_loss", lambda a, b, reduction: (a - b).sum(-1))
    with pytest.raises(StrlValueError, match=r"'row_loss' is not elementwise\. Use"):
        make(estimator_loss_func="row_loss")


def test_the_policy_must_have_an_estimator() -> None:
    with pytest.raises(StrlTypeError, match=r"MlpPolicy has no estimator\. Use a policy whose"):
        make("MlpPolicy")


def test_nothing_to_log_before_the_first_update() -> None:
    model = make()
    assert model.estimation.stats() == {}
    assert model.estimation.describe() == (
        "estimation",
        "{'estimator': 1.0}",
        "loss",
    )
    assert SimpleNamespace(**vars(model)).estimator_loss_func == "mse_loss"
    assert isinstance(model, PPO)
