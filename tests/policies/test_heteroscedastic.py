"""The Gaussian with state-dependent noise, and how a head is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import distributions as td
from torch import nn

from sb3_strl.algorithms.losses import LossSettings, PPOTargets, ppo_loss
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.distributions import (
    ActionHead,
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    HeteroscedasticGaussianHead,
    make_action_head,
)
from tests.envs.toy import box

BOX = box(3)


@pytest.fixture(params=["log", "scalar"])
def head(request: pytest.FixtureRequest) -> HeteroscedasticGaussianHead:
    return HeteroscedasticGaussianHead(3, 0.7, request.param, (0.05, 5.0))


def output_of(head: HeteroscedasticGaussianHead, n: int = 64) -> th.Tensor:
    """Outputs whose noise lies inside the range."""
    raw = th.randn(n, 2, 3, dtype=th.float64)
    raw[:, 1] = raw[:, 1].clamp(-1, 1) if head.noise_std_type == "log" else raw[:, 1].abs() + 0.1
    return raw.flatten(1).requires_grad_()


def reference(params) -> td.Distribution:
    return td.Independent(td.Normal(params["mean"], params["std"]), 1)


def test_parameters_by_hand(head: HeteroscedasticGaussianHead) -> None:
    output = th.tensor([[1.0, 2.0, 3.0, -9.0, 0.5, 9.0]])
    params = head.params(output)
    middle = math.exp(0.5) if head.noise_std_type == "log" else 0.5
    assert params["mean"].tolist() == [[1.0, 2.0, 3.0]]
    assert params["std"][0].tolist() == pytest.approx([0.05, middle, 5.0])
    rows = head.params(output.view(1, 2, 3))
    assert all(th.equal(rows[name], params[name]) for name in params)
    assert head.input_dim == 6
    assert head.param_shapes == {"mean": (3,), "std": (3,)}
    assert head.constant_params == ()


def test_equations_are_those_of_torch(head: HeteroscedasticGaussianHead) -> None:
    output, other = output_of(head), output_of(head)
    params, new = head.params(output), head.params(other)
    noise = head.draw_noise((64,), None, th.device("cpu")).double()
    actions = head.sample(params, noise)
    assert th.allclose((actions - params["mean"]) / params["std"], noise)
    assert th.equal(head.mode(params), params["mean"])
    theirs = reference(params)
    assert th.allclose(head.log_prob(params, actions), theirs.log_prob(actions), atol=1e-10)
    assert th.allclose(head.entropy(params), theirs.entropy(), atol=1e-10)
    exact = td.kl_divergence(theirs, reference(new))
    assert th.allclose(head.kl(params, new), exact, atol=1e-10)
    assert head.kl(params, params).abs().max() < 1e-12
    object_ = head.distribution(params)
    assert th.allclose(object_.log_prob(actions), head.log_prob(params, actions), atol=1e-10)
    assert th.allclose(object_.entropy(), head.entropy(params), atol=1e-10)
    assert th.equal(object_.mode(), params["mean"])
    assert object_.get_actions(deterministic=True).shape == (64, 3)


def test_samples_have_the_noise_of_their_state(head: HeteroscedasticGaussianHead) -> None:
    params = {k: v.detach() for k, v in head.params(output_of(head, 3)).items()}
    noise = head.draw_noise((40_000, 3), th.Generator().manual_seed(0), th.device("cpu"))
    actions = head.sample(params, noise.double())
    assert th.allclose(actions.std(0), params["std"], rtol=0.02)
    assert th.allclose(actions.mean(0), params["mean"], atol=0.1)


def test_the_loss_trains_mean_and_noise(head: HeteroscedasticGaussianHead) -> None:
    """The general loss against the same written with PyTorch's distribution."""
    output = output_of(head)
    actions, advantages = th.randn(64, 3).double(), th.randn(64).double()
    values = th.zeros(64, dtype=th.float64)
    with th.no_grad():
        old = head.log_prob(head.params(output), actions) + 0.01 * th.randn(64).double()
    targets = PPOTargets(actions, old, advantages, values, values)
    settings = LossSettings(0.2, None, None, 0.01, 1.0)
    params = head.params(output)
    loss, _ = ppo_loss(
        head.log_prob(params, actions), head.entropy(params), values, targets, settings
    )
    mine = th.autograd.grad(loss, output)[0]
    theirs = reference(head.params(output))
    ratio = (theirs.log_prob(actions) - old).exp()
    surrogate = th.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    expected = th.autograd.grad(-surrogate - 0.01 * theirs.entropy().mean(), output)[0]
    assert th.allclose(mine, expected, atol=1e-10)
    assert (mine[:, 3:] != 0).any()


@pytest.mark.parametrize("last", [None, nn.Unflatten(-1, (2, 3))])
def test_the_first_noise_is_the_same_everywhere(
    head: HeteroscedasticGaussianHead, last: nn.Module | None
) -> None:
    linear = nn.Linear(8, 6)
    weight = linear.weight.detach().clone()
    head.init_output_layer(linear)
    net = linear if last is None else nn.Sequential(linear, last)
    params = head.params(net(10.0 * th.randn(20, 8)))
    assert th.allclose(params["std"], th.tensor(0.7))
    assert params["mean"].std() > 0.1
    assert th.equal(linear.weight[:3], weight[:3])
    assert linear.weight.grad is None
    assert linear.weight.requires_grad


def test_other_heads_leave_the_output_layer_alone() -> None:
    linear = nn.Linear(4, 3)
    was = linear.weight.detach().clone()
    GaussianHead(3).init_output_layer(linear)
    assert th.equal(linear.weight, was)


def test_a_bounding_activation_reaches_the_mean_only(head: HeteroscedasticGaussianHead) -> None:
    output = output_of(head)
    mapped = head.map_mean(output, th.tanh)
    assert mapped.shape == output.shape
    assert th.equal(mapped[:, :3], output[:, :3].tanh())
    assert th.equal(mapped[:, 3:], output[:, 3:])
    assert th.equal(GaussianHead(6).map_mean(output, th.tanh), output.tanh())


# --------------------------------------------------------------------------- the plain Gaussian


@pytest.mark.parametrize("kind", ["log", "scalar"])
def test_the_range_of_the_constant_noise(kind: str) -> None:
    head = GaussianHead(3, 0.5, kind, std_range=(0.1, 2.0))
    with th.no_grad():
        raw = th.tensor([0.01, 0.5, 9.0])
        head.std_param.copy_(raw.log() if kind == "log" else raw)
    assert head.std.tolist() == pytest.approx([0.1, 0.5, 2.0])
    assert th.allclose(head.log_std, head.std.log())
    assert th.equal(head.params(th.zeros(2, 3))["std"], head.std)


def test_the_range_never_reaches_zero() -> None:
    assert GaussianHead(1, 0.5, std_range=(0.0, 1.0)).std_range == (1e-6, 1.0)


def test_noise_that_is_not_learnt_is_no_parameter() -> None:
    head = GaussianHead(2, 0.3, learn_std=False)
    assert list(head.parameters()) == []
    assert head.std.tolist() == pytest.approx([0.3, 0.3])
    assert list(GaussianHead(2, 0.3).state_dict()) == list(head.state_dict()) == ["std_param"]


# --------------------------------------------------------------------------- choosing

HETERO = "HeteroscedasticGaussianDistribution"


@pytest.mark.parametrize(
    ("chosen", "cls", "kind"),
    [
        ("gaussian", GaussianHead, "log"),
        ("heteroscedastic", HeteroscedasticGaussianHead, "log"),
        (HeteroscedasticGaussianHead, HeteroscedasticGaussianHead, "log"),
        ("GaussianDistribution", GaussianHead, "scalar"),
        (HETERO, HeteroscedasticGaussianHead, "scalar"),
        (f"rsl_rl.modules.distribution:{HETERO}", HeteroscedasticGaussianHead, "scalar"),
        (f"rsl_rl.modules.{HETERO}", HeteroscedasticGaussianHead, "scalar"),
    ],
)
def test_names_and_their_defaults(chosen, cls, kind) -> None:
    head = make_action_head(BOX, 0.4, None, chosen)
    assert type(head) is cls
    assert head.noise_std_type == kind
    assert head.std_range == (1e-6, 1e6)
    assert make_action_head(BOX, 0.4, "log", chosen).noise_std_type == "log"


def test_the_kwargs_go_before_the_arguments() -> None:
    given = {"init_std": 0.2, "std_type": "scalar", "std_range": [0.1, 3.0], "learn_std": False}
    head = make_action_head(BOX, 0.9, "log", "GaussianDistribution", given)
    assert isinstance(head, GaussianHead)
    assert head.std.tolist() == pytest.approx([0.2] * 3)
    assert (head.noise_std_type, head.std_range) == ("scalar", (0.1, 3.0))
    assert not list(head.parameters())
    assert len(given) == 4
    ours = make_action_head(BOX, distribution_kwargs={"init_noise_std": 0.3})
    assert isinstance(ours, GaussianHead)
    assert ours.std.tolist() == pytest.approx([0.3] * 3)


def test_a_class_of_ones_own() -> None:
    class Coins(BernoulliHead):
        def __init__(self, action_dim: int, flavour: str = "copper") -> None:
            super().__init__(action_dim)
            self.flavour = flavour

    head = make_action_head(BOX, 1.0, "log", Coins, {"flavour": "gold"})
    assert isinstance(head, Coins)
    assert head.flavour == "gold"
    with pytest.raises(StrlTypeError, match=r"Coins: unknown argument 'flavor'.*'flavour'"):
        make_action_head(BOX, 1.0, "log", Coins, {"flavor": "gold"})


def test_what_does_not_fit_says_so() -> None:
    def refuse(error: type[Exception], match: str, cls, kwargs=None, space=BOX) -> None:
        with pytest.raises(error, match=match):
            make_action_head(space, 1.0, "log", cls, kwargs)

    refuse(StrlTypeError, "unknown distribution 'gausian'. Did you mean 'gaussian'", "gausian")
    refuse(StrlTypeError, "unknown distribution 'BetaDistribution'", "rsl_rl.BetaDistribution")
    refuse(StrlTypeError, "Expected a class derived from ActionHead", nn.Linear)
    refuse(StrlTypeError, "unknown argument 'learn_std'", "heteroscedastic", {"learn_std": False})
    both = {"init_std": 1.0, "init_noise_std": 1.0}
    refuse(StrlValueError, "both 'init_std' and 'init_noise_std'", "gaussian", both)
    discrete = spaces.Discrete(3)
    refuse(StrlValueError, "choose the distribution of Box", "heteroscedastic", None, discrete)
    refuse(StrlValueError, "leave both out", "gaussian", {"init_std": 1.0}, discrete)
    assert isinstance(make_action_head(discrete, 1.0, "log", "gaussian", {}), CategoricalHead)


@pytest.mark.parametrize("cls", [GaussianHead, HeteroscedasticGaussianHead])
def test_options_out_of_range_are_refused(cls: type[ActionHead]) -> None:
    name = cls.__name__
    with pytest.raises(StrlValueError, match=rf"{name}: std_range is \(1.0, 0.5\)"):
        cls(2, std_range=(1.0, 0.5))
    with pytest.raises(StrlValueError, match=rf"{name}: init_noise_std is 2.0, but std_range"):
        cls(2, 2.0, std_range=(0.1, 1.0))
    for std in (-1, "x", None):
        with pytest.raises(StrlValueError, match=rf"{name}: init_noise_std is .*must be positive"):
            cls(2, std)
    for given in ("xy", 3, [1], ["a", 1], [1, None]):
        with pytest.raises(StrlValueError, match=rf"{name}: std_range is .*Expected two numbers"):
            cls(2, std_range=given)
    assert cls(2, std_range=np.array([0.1, 2.0])).std_range == (0.1, 2.0)
    with pytest.raises(StrlValueError, match=rf"{name}: noise_std_type is 'std'"):
        cls(2, 1.0, "std")


def test_only_a_fitting_layer_is_initialised() -> None:
    head = HeteroscedasticGaussianHead(3)
    with pytest.raises(StrlValueError, match=r"the layer has 3 outputs\. Expected 6"):
        head.init_output_layer(nn.Linear(4, 3))
    with pytest.raises(StrlValueError, match="the layer has no bias"):
        head.init_output_layer(nn.Linear(4, 6, bias=False))
