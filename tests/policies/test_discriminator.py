"""The discriminator of the adversarial motion prior."""

from __future__ import annotations

import math

import pytest
import torch as th

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.discriminator import AMPDiscriminator, DiscriminatorSpec
from tests.host_sync import no_host_sync

LOSSES = ["lsgan", "bce", "wgan"]
PENALISED = ["expert", "policy", "both"]


def build(n_features=4, **options):
    th.manual_seed(0)
    return AMPDiscriminator(n_features, DiscriminatorSpec(**({"hidden_dims": (16, 8)} | options)))


def constant(d, **options):
    """Build a discriminator whose logit is ``d`` everywhere."""
    discriminator = build(hidden_dims=(), **options)
    with th.no_grad():
        discriminator.head.weight.zero_()
        discriminator.head.bias.fill_(d)
    return discriminator


def linear(weight, bias=0.0, **options):
    options = {"normalize": False} | options
    discriminator = build(len(weight), hidden_dims=(), **options)
    with th.no_grad():
        discriminator.head.weight.copy_(th.tensor([weight]))
        discriminator.head.bias.fill_(bias)
    return discriminator


def test_shapes():
    discriminator = build()
    assert discriminator(th.randn(5, 4)).shape == (5, 1)
    for n in (1, 5):  # one environment keeps its dimension
        x, task = th.randn(n, 4), th.randn(n)
        assert discriminator.style_reward(x).shape == (n,)
        assert all(r.shape == (n,) for r in discriminator.predict_style_reward(x, task))
    assert discriminator.style_reward(th.randn(3, 2, 4)).shape == (3, 2)


@pytest.mark.parametrize(
    ("loss", "d", "reward"),
    [
        ("lsgan", 1.0, 2.0),
        ("lsgan", -1.0, 0.0),
        ("lsgan", 3.0, 0.0),
        ("lsgan", 0.0, 1.5),
        ("lsgan", -9.0, 0.0),
        ("bce", 0.0, 2.0 * math.log(2.0)),
        ("bce", 3.0, -2.0 * math.log(1.0 - 1.0 / (1.0 + math.exp(-3.0)))),
        ("bce", -200.0, 0.0),
        ("bce", 200.0, 400.0),
        ("wgan", 0.0, 2.0),
        ("wgan", 2.0, 2.0 * math.exp(math.tanh(0.6))),
        ("wgan", 1e6, 2.0 * math.e),
    ],
)
def test_style_reward_by_hand(loss, d, reward):
    discriminator = constant(d, loss=loss, style_reward_coef=2.0)
    out = discriminator.style_reward(th.randn(3, 4))
    assert out.tolist() == pytest.approx([reward] * 3, rel=1e-5, abs=1e-6)
    assert not out.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_a_higher_logit_earns_more_up_to_the_experts(loss):
    rewards = [constant(d, loss=loss).style_reward(th.zeros(1, 4)).item() for d in (-0.9, 0, 0.9)]
    assert rewards == sorted(rewards)
    assert rewards[0] < rewards[2]


@pytest.mark.parametrize("lerp", [0.0, 0.25, 1.0])
def test_style_and_task_are_mixed(lerp):
    task = th.tensor([10.0, -2.0])
    out = constant(1.0, task_reward_lerp=lerp).predict_style_reward(th.zeros(2, 4), task)
    assert th.allclose(out.style, th.ones(2))
    assert th.equal(out.task, task)
    assert th.allclose(out.total, (1.0 - lerp) * th.ones(2) + lerp * task)


@pytest.mark.parametrize(
    ("loss", "expert_loss", "policy_loss"),
    [
        ("lsgan", (4.0 + 1.0) / 2.0, 1.0),  # expert logits 3, 2; policy logit -2
        (
            "bce",
            (math.log1p(math.exp(-3)) + math.log1p(math.exp(-2))) / 2,
            math.log1p(math.exp(-2)),
        ),
        ("wgan", -(math.tanh(0.9) + math.tanh(0.6)) / 2.0, math.tanh(-0.6)),
    ],
)
def test_losses_by_hand(loss, expert_loss, policy_loss):
    discriminator = linear([1.0, -1.0], loss=loss, discriminator_grad_pen=5.0)
    expert = th.tensor([[3.0, 0.0], [2.0, 0.0]])
    policy = th.tensor([[0.0, 2.0], [50.0, 0.0]])
    out = discriminator.losses(policy, expert, th.tensor([True, False]), coef=3.0)
    assert out.expert_loss.item() == pytest.approx(expert_loss, rel=1e-5)
    assert out.policy_loss.item() == pytest.approx(policy_loss, rel=1e-5)
    assert out.grad_pen.item() == pytest.approx(5.0 * 2.0)  # g |w|^2
    assert out.grad_norm.item() == pytest.approx(math.sqrt(2.0))
    total = 3.0 * (0.5 * expert_loss + 0.5 * policy_loss + 10.0)
    assert out.total.item() == pytest.approx(total, rel=1e-5)
    assert out.expert_logit.item() == pytest.approx(2.5)
    assert out.policy_logit.item() == pytest.approx(-2.0)
    assert out.expert_accuracy.item() == 1.0
    assert out.policy_accuracy.item() == 1.0
    assert [name for name, value in out._asdict().items() if value.requires_grad] == ["total"]


def test_accuracies_go_by_the_sign():
    out = linear([1.0]).losses(
        th.tensor([[-1.0], [1.0], [-3.0], [-2.0]]), th.tensor([[1.0], [-1.0]])
    )
    assert out.policy_accuracy.item() == pytest.approx(0.75)
    assert out.expert_accuracy.item() == pytest.approx(0.5)


@pytest.mark.parametrize("where", PENALISED)
def test_gradient_penalty_of_a_linear_discriminator_is_closed_form(where):
    weight = [0.5, -2.0, 1.0]
    discriminator = linear(weight, grad_pen_on=where, discriminator_grad_pen=4.0)
    squared = sum(w * w for w in weight)
    out = discriminator.losses(th.randn(5, 3), th.randn(6, 3), th.rand(5) > 0.2)
    assert out.grad_pen.item() == pytest.approx(4.0 * squared, rel=1e-5)
    assert discriminator.grad_pen(th.randn(7, 3)).item() == pytest.approx(4.0 * squared, rel=1e-5)
    (gradient,) = th.autograd.grad(
        discriminator.grad_pen(th.randn(7, 3)), discriminator.head.weight
    )
    assert th.allclose(gradient, 8.0 * th.tensor([weight]))


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
@pytest.mark.parametrize("where", PENALISED)
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_penalty_equals_a_double_backward(activation, where, masked):
    discriminator = build(activation=activation, grad_pen_on=where, discriminator_grad_pen=2.0)
    discriminator.normalizer.update(th.randn(50, 4) * 3.0)
    policy, expert = th.randn(6, 4), th.randn(5, 4)
    policy_mask = th.tensor([True, False, True, True, False, True])
    expert_mask = th.tensor([True, True, False, True, True])
    masks = (policy_mask, expert_mask) if masked else (None, None)
    out = discriminator.losses(policy, expert, *masks)

    rows = {"policy": policy, "expert": expert, "both": th.cat((policy, expert))}[where]
    keep = {
        "policy": policy_mask,
        "expert": expert_mask,
        "both": th.cat((policy_mask, expert_mask)),
    }
    rows = rows[keep[where]] if masked else rows
    x = discriminator.normalize(rows).requires_grad_()
    (gradient,) = th.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    expected = 2.0 * gradient.norm(dim=-1).square().mean()
    assert out.grad_pen.item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.grad_norm.item() == pytest.approx(gradient.norm(dim=-1).mean().item(), rel=1e-5)

    def side(x, mask):
        return discriminator(discriminator.normalize(x[mask] if masked else x))

    total = expected + 0.5 * (
        (side(expert, expert_mask) - 1.0).square().mean()
        + (side(policy, policy_mask) + 1.0).square().mean()
    )
    parameters = list(discriminator.parameters())
    ours = th.autograd.grad(out.total, parameters, allow_unused=True)
    theirs = th.autograd.grad(total, parameters, allow_unused=True)
    for a, b, p in zip(ours, theirs, parameters, strict=True):
        dense = [th.zeros_like(p) if g is None else g for g in (a, b)]
        assert th.allclose(*dense, rtol=1e-4, atol=1e-6)
    assert th.allclose(out.total, total)


def test_gradient_penalty_is_skipped_at_zero():
    discriminator = build(discriminator_grad_pen=0.0)
    out = discriminator.losses(th.randn(3, 4), th.randn(3, 4), th.ones(3, dtype=th.bool))
    assert out.grad_pen.item() == 0.0
    assert th.isfinite(out.total)
    out.total.backward()
    assert discriminator.head.weight.grad.abs().sum() > 0.0


def test_gradient_penalty_takes_tensors_of_any_origin():
    discriminator = build(activation="elu")
    with th.inference_mode():
        made_in_inference = th.randn(3, 4)
    for x in (made_in_inference, th.randn(3, 4, requires_grad=True) * 2.0):
        discriminator.grad_pen(x).backward()
        discriminator.losses(x, x).total.backward()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("where", PENALISED)
def test_an_empty_side_gives_zero(loss, where):
    discriminator = build(loss=loss, grad_pen_on=where)
    x, none, every = th.randn(4, 4), th.zeros(4, dtype=th.bool), th.ones(4, dtype=th.bool)
    cases = [
        (x, x, none, None),
        (x, x, every, none),
        (x, x, none, none),
        (x[:0], x, None, None),
        (x, x[:0], none, None),
        (x[:0], x, none[:0], every),
    ]
    for case in cases:
        discriminator.zero_grad()
        out = discriminator.losses(*case)
        assert all(th.isfinite(value) for value in out)
        assert out.total.item() == 0.0
        out.total.backward()
        gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
        assert all((g == 0.0).all() for g in gradients)


def test_rows_that_are_not_valid_do_not_matter():
    discriminator = build(grad_pen_on="both")
    policy, expert, mask = th.randn(6, 4), th.randn(5, 4), th.arange(6) < 4
    changed = th.where(mask.unsqueeze(-1), policy, 1e3)
    a = discriminator.losses(policy, expert, mask)
    b = discriminator.losses(changed, expert, mask)
    c = discriminator.losses(policy[mask], expert)
    for x, y, z in zip(a, b, c, strict=True):
        assert th.allclose(x, y)
        assert th.allclose(x, z)


def test_gradients_reach_only_the_discriminator():
    discriminator = build()
    policy, expert = (th.randn(4, 4, requires_grad=True) for _ in range(2))
    discriminator.losses(policy * 2.0, expert * 2.0).total.backward()
    assert policy.grad is None
    assert expert.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (discriminator.head.weight,))
    assert not any(b.requires_grad for b in discriminator.buffers())


def test_the_normaliser_is_frozen_but_for_its_own_update():
    discriminator = build()
    x, expert = th.randn(6, 4) + 3.0, th.randn(6, 4)
    discriminator.losses(x, expert)
    discriminator.predict_style_reward(x, th.zeros(6))
    assert discriminator.normalizer.count == 0
    discriminator.update_normalizer(x, expert, th.arange(6) < 5)
    assert discriminator.normalizer.count == 11
    stacked = th.cat((x[:5], expert))
    assert th.allclose(discriminator.normalizer.mean, stacked.mean(0), atol=1e-6)
    assert th.allclose(discriminator.normalizer.std, stacked.std(0, unbiased=False), atol=1e-6)


def test_one_normaliser_leaves_the_sides_apart():
    discriminator = build(2)
    policy, expert = th.randn(5000, 2) * 0.01 + 5.0, th.randn(5000, 2)
    discriminator.update_normalizer(policy, expert)
    means = [discriminator.normalize(x).mean(0) for x in (policy, expert)]
    assert ((means[0] - means[1]).abs() > 1.0).all()


def test_losses_and_rewards_see_normalised_features():
    discriminator = linear([1.0], normalize=True)
    discriminator.update_normalizer(th.tensor([[10.0]]), th.tensor([[14.0]]))
    # mean 12, std 2: 14 is 2 / 2.01
    out = discriminator.losses(th.tensor([[10.0]]), th.tensor([[14.0]]))
    assert out.expert_logit.item() == pytest.approx(2.0 / 2.01, rel=1e-5)
    assert out.policy_logit.item() == pytest.approx(-2.0 / 2.01, rel=1e-5)
    reward = 1.0 - 0.25 * (2.0 / 2.01 - 1.0) ** 2
    assert discriminator.style_reward(th.tensor([[14.0]])).item() == pytest.approx(reward)


def test_without_normaliser():
    discriminator = build(normalize=False)
    assert discriminator.normalizer is None
    x = th.randn(3, 4)
    discriminator.update_normalizer(x, x)
    assert th.equal(discriminator.normalize(x), x)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_to_separate(loss):
    discriminator = build(2, loss=loss, hidden_dims=(32,), discriminator_grad_pen=0.1)
    generator = th.Generator().manual_seed(1)
    optimizer = th.optim.Adam(discriminator.parameters(), lr=5e-3)
    policy = th.randn(256, 2, generator=generator) * 0.5 + th.tensor([1.0, 0.0])
    expert = th.randn(256, 2, generator=generator) * 0.5 - th.tensor([1.0, 0.0])
    discriminator.update_normalizer(policy, expert)
    for _ in range(60):
        optimizer.zero_grad()
        discriminator.losses(policy, expert).total.backward()
        optimizer.step()
    out = discriminator.losses(policy, expert)
    assert out.expert_accuracy > 0.9
    assert out.policy_accuracy > 0.9
    style = [discriminator.style_reward(x).mean() for x in (expert, policy)]
    assert style[0] > style[1]


@pytest.mark.parametrize("activation", ["relu", "elu"])
@pytest.mark.parametrize("where", PENALISED)
def test_the_host_never_waits(activation, where):
    discriminator = build(activation=activation, grad_pen_on=where, normalizer_until=100)
    x, mask = th.randn(6, 4), th.rand(6) > 0.5
    with no_host_sync():
        discriminator.update_normalizer(x, x, mask)
        discriminator.losses(x, x, mask).total.backward()
        discriminator.predict_style_reward(x, th.zeros(6))


def test_state_dict_round_trip():
    discriminator, other = build(), AMPDiscriminator(4, DiscriminatorSpec(hidden_dims=(16, 8)))
    discriminator.update_normalizer(th.randn(9, 4) * 4.0, th.randn(9, 4))
    other.load_state_dict(discriminator.state_dict())
    x = th.randn(5, 4)
    assert th.equal(discriminator.style_reward(x), other.style_reward(x))


def test_defaults():
    spec = AMPDiscriminator(3).spec
    assert spec == DiscriminatorSpec.from_dict({})
    assert (spec.style_reward_coef, spec.hidden_dims, spec.task_reward_lerp) == (
        1.0,
        (512, 256),
        0.0,
    )
    assert (spec.discriminator_grad_pen, spec.loss, spec.grad_pen_on) == (5.0, "lsgan", "expert")


def test_spec_from_dict_takes_lists():
    spec = DiscriminatorSpec.from_dict({"hidden_dims": [8], "loss": "bce"})
    assert spec == DiscriminatorSpec(hidden_dims=(8,), loss="bce")
    assert hash(spec) == hash(DiscriminatorSpec(hidden_dims=(8,), loss="bce"))


def test_unknown_keys_are_answered_with_the_closest():
    with pytest.raises(
        StrlTypeError, match=r"unknown option 'hiden_dims'\. Did you mean 'hidden_d"
    ):
        DiscriminatorSpec.from_dict({"hiden_dims": [8]})
    with pytest.raises(StrlTypeError, match="unknown option 'amp_obs_dim'"):
        DiscriminatorSpec.from_dict({"amp_obs_dim": {}})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("style_reward_coef", -0.1, r"style_reward_coef is -0.1. Expected a number in \[0, inf"),
        ("style_reward_coef", math.nan, "style_reward_coef is nan"),
        ("task_reward_lerp", 1.5, r"task_reward_lerp is 1.5. Expected a number in \[0, 1\]"),
        ("task_reward_lerp", -0.5, "task_reward_lerp is -0.5"),
        ("discriminator_grad_pen", -1.0, "discriminator_grad_pen is -1.0"),
        ("wgan_eta", 0.0, "wgan_eta is 0.0. Expected a number positive"),
        ("loss", "lsgn", "unknown loss 'lsgn'. Did you mean 'lsgan'"),
        ("grad_pen_on", "experts", "unknown grad_pen_on 'experts'. Did you mean 'expert'"),
    ],
)
def test_values_that_cannot_work_are_refused(option, value, message):
    with pytest.raises(StrlValueError, match=message):
        DiscriminatorSpec(**{option: value})


def test_sizes_that_are_not_positive_are_refused():
    with pytest.raises(StrlValueError, match=r"the layer sizes are \[0, 8\]"):
        AMPDiscriminator(0, DiscriminatorSpec(hidden_dims=(8,)))
