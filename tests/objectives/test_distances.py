"""Seven distances of actions and five of latents, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.objectives.distances import (
    ACTION_DISTANCES,
    LATENT_DISTANCES,
    action_distance,
    check_action_distance,
    check_distance,
    target_entropy,
    vector_distance,
)
from sb3_strl.policies.distributions import CategoricalHead, GaussianHead
from tests.envs.toy import PointMass

X, Y = th.tensor([[0.5, -0.2, 0.0]]), th.tensor([[0.1, 0.4, 0.0]])


def bce(x: float, y: float) -> float:
    p, q = (x + 1) / 2, (y + 1) / 2
    return -(q * math.log(p) + (1 - q) * math.log(1 - p))


TANH = 2 * (bce(0.5, 0.1) + bce(-0.2, 0.4) + bce(0.0, 0.0)) / 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("real", math.sqrt(0.16 + 0.36)),
        ("mse_sum", 0.16 + 0.36),
        ("l1", 1.0),
        ("tanh", TANH),
        ("scaled_tanh", TANH * 1.0 / 3),
    ],
)
def test_vector_distances(name: str, expected: float) -> None:
    assert float(vector_distance(name, X, Y)) == pytest.approx(expected, rel=1e-5)
    assert name in LATENT_DISTANCES
    batch = vector_distance(name, X.expand(4, 5, 3), Y.expand(4, 5, 3))
    assert batch.shape == (4, 5)


def test_probabilistic_distances() -> None:
    head = GaussianHead(3, 0.5)
    params = {"mean": X, "std": th.tensor([0.5, 0.4, 0.3])}
    label = {"mean": Y, "std": th.tensor([0.2, 0.4, 0.6])}
    student = th.distributions.Normal(params["mean"], params["std"])
    teacher = th.distributions.Normal(label["mean"], label["std"])
    nll = action_distance("max_log_prob", head, params, Y, {})
    assert th.allclose(nll, -student.log_prob(Y).sum(-1), atol=1e-5)
    kl = action_distance("kl", head, params, Y, label)
    assert th.allclose(kl, th.distributions.kl_divergence(teacher, student).sum(-1), atol=1e-5)


def test_discrete_actions_have_the_probabilistic_ones() -> None:
    head = CategoricalHead([3], scalar=True)
    params, label = head.params(th.tensor([[0.0, 1.0, 2.0]])), head.params(th.zeros(1, 3))
    chosen = th.tensor([1])
    nll = action_distance("max_log_prob", head, params, chosen, {})
    assert float(nll) == pytest.approx(-float(params["logits"][0, 1]))
    assert float(action_distance("kl", head, params, chosen, label)) > 0.0


def test_bounded_distances_take_any_label_and_stay_finite_when_saturated() -> None:
    mean = th.tensor([[1.0, -1.0]], requires_grad=True)
    distance = vector_distance("tanh", mean, th.tensor([[-3.0, 7.0]]))
    assert th.isfinite(distance).all()
    assert th.isfinite(th.autograd.grad(distance.sum(), mean)[0]).all()


def test_the_logit_gives_a_gradient_where_the_mean_has_none() -> None:
    z = th.tensor([[20.0]], requires_grad=True)
    mean, label = z.tanh(), th.tensor([[-0.5]])
    lost = th.autograd.grad(vector_distance("tanh", mean, label).sum(), z, retain_graph=True)[0]
    assert float(lost) == 0.0
    kept = th.autograd.grad(vector_distance("tanh", mean, label, 2 * z).sum(), z)[0]
    assert float(kept) == pytest.approx(2 * 2 * (1.0 - 0.25))


def test_the_logit_is_the_same_distance() -> None:
    z = th.tensor([[0.3, -0.7]])
    assert th.allclose(
        vector_distance("tanh", z.tanh(), X[:, :2]),
        vector_distance("tanh", z.tanh(), X[:, :2], 2 * z),
        atol=1e-6,
    )


def test_the_entropy_of_the_target_is_the_minimum() -> None:
    assert th.allclose(vector_distance("tanh", Y, Y), target_entropy(Y), atol=1e-6)
    assert (vector_distance("tanh", X, Y) > target_entropy(Y)).all()
    assert target_entropy(th.tensor([[1.0, -1.0]])) == 0.0


def test_a_distance_of_zero_has_a_finite_gradient() -> None:
    x = X.clone().requires_grad_()
    gradient = th.autograd.grad(vector_distance("real", x, X).sum(), x)[0]
    assert th.isfinite(gradient).all()


def test_unknown_and_unfit_distances() -> None:
    with pytest.raises(
        StrlValueError, match=r"T: unknown distill_target 'rael'\. Did you mean 're"
    ):
        check_distance("T", "distill_target", "rael", ACTION_DISTANCES)
    policy = PPO("MlpPolicy", PointMass(2), n_steps=4).policy
    with pytest.raises(StrlValueError, match=r"compares means in \[-1, 1\]\. Pass policy_kwargs"):
        check_action_distance("T", "tanh", policy, is_continuous=True)
    with pytest.raises(StrlValueError, match=r"'l1' compares vectors, but the actions are"):
        check_action_distance("T", "l1", policy, is_continuous=False)


@pytest.mark.parametrize("kind", ["gaussian", "heteroscedastic"])
def test_a_policy_with_a_bounded_mean_hands_out_what_came_before(kind: str) -> None:
    kwargs = {"mu_activation": "tanh", "distribution_class": kind}
    policy = PPO("MlpPolicy", PointMass(2), n_steps=4, policy_kwargs=kwargs).policy
    params = policy.action_params(PointMass(2).reset_tensor())
    assert th.allclose(params["pre_tanh"].tanh(), params["mean"])
