"""Every equation against PyTorch's distribution objects."""

import pytest
import torch as th
from gymnasium import spaces
from torch import distributions as td

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.distributions import (
    ActionHead,
    BernoulliHead,
    CategoricalHead,
    GaussianHead,
    make_action_head,
)
from tests.envs.toy import box

HEADS = {
    "gaussian": lambda: GaussianHead(3, 0.7),
    "scalar": lambda: GaussianHead(3, 0.7, "scalar"),
    "discrete": lambda: CategoricalHead([4], scalar=True),
    "multi": lambda: CategoricalHead([2, 4, 3], scalar=False),
    "coins": lambda: BernoulliHead(3),
}


def reference(head: ActionHead, params) -> list[td.Distribution]:
    """Return one PyTorch distribution per independent choice."""
    if isinstance(head, GaussianHead):
        return [td.Independent(td.Normal(params["mean"], params["std"]), 1)]
    if isinstance(head, BernoulliHead):
        return [td.Independent(td.Bernoulli(logits=params["logits"]), 1)]
    assert isinstance(head, CategoricalHead)
    return [td.Categorical(logits=x) for x in params["logits"].split(head.sizes, -1)]


def columns(head: ActionHead, actions: th.Tensor) -> list[th.Tensor]:
    if isinstance(head, CategoricalHead):
        return [actions] if head.scalar else list(actions.unbind(-1))
    return [actions]


def draw(head: ActionHead, n: int = 64):
    params = head.params(th.randn(n, head.input_dim, requires_grad=True))
    actions = head.sample(params, head.draw_noise((n,), None, th.device("cpu")))
    return params, actions.detach()


@pytest.fixture(params=list(HEADS))
def head(request: pytest.FixtureRequest) -> ActionHead:
    return HEADS[request.param]()


def test_log_prob_and_entropy(head: ActionHead) -> None:
    params, actions = draw(head)
    parts = reference(head, params)
    expected = sum(p.log_prob(a) for p, a in zip(parts, columns(head, actions), strict=True))
    assert th.allclose(head.log_prob(params, actions), expected, atol=1e-5)
    entropy = head.entropy(params)
    assert entropy.shape == (64,)
    assert th.allclose(entropy, sum(p.entropy() for p in parts), atol=1e-5)


def test_kl_is_exact(head: ActionHead) -> None:
    old, _ = draw(head)
    new, _ = draw(head)
    if isinstance(head, GaussianHead):
        new = {**new, "std": old["std"] * th.tensor([0.5, 1.0, 3.0])}
    pairs = zip(reference(head, old), reference(head, new), strict=True)
    expected = sum(td.kl_divergence(p, q) for p, q in pairs)
    assert th.allclose(head.kl(old, new), expected, atol=1e-5)


def test_kl_of_equals_is_zero(head: ActionHead) -> None:
    """An epsilon inside the logarithm would make it positive and speed the adaptive rate up."""
    params, _ = draw(head)
    assert head.kl(params, params).abs().max() < 1e-6


def test_sb3s_distribution_object_has_the_same_parameters(head: ActionHead) -> None:
    params, actions = draw(head)
    theirs = head.distribution(params)
    assert th.allclose(theirs.log_prob(actions), head.log_prob(params, actions), atol=1e-5)
    assert th.equal(theirs.mode().long(), head.mode(params).long())


def test_samples_follow_the_distribution(head: ActionHead) -> None:
    n = 40_000
    params = {k: v.detach() for k, v in head.params(th.randn(1, head.input_dim)).items()}
    wide = {k: v.expand(n, -1) for k, v in params.items()}
    actions = head.sample(wide, head.draw_noise((n,), None, th.device("cpu")))
    if isinstance(head, CategoricalHead):
        for column, part in zip(columns(head, actions), reference(head, params), strict=True):
            share = column.bincount(minlength=part.probs.shape[-1]) / n
            assert th.allclose(share, part.probs[0], atol=0.015)
        return
    part = reference(head, params)[0]
    assert th.allclose(actions.mean(0), part.mean[0], atol=0.02)
    assert th.allclose(actions.var(0), part.variance[0], atol=0.02)


def test_gradients_are_those_of_torch(head: ActionHead) -> None:
    output = th.randn(5, head.input_dim, requires_grad=True)
    params = head.params(output)
    _, actions = draw(head, 5)
    mine = th.autograd.grad(head.log_prob(params, actions).sum(), output)[0]
    params = head.params(output)
    parts = zip(reference(head, params), columns(head, actions), strict=True)
    theirs = th.autograd.grad(sum(p.log_prob(a) for p, a in parts).sum(), output)[0]
    assert th.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([3, 2], start=[5, -1]),
        spaces.Discrete(3),
        spaces.MultiBinary(4),
    ],
)
def test_actions_lie_inside_their_space(space: spaces.Space) -> None:
    head = make_action_head(space)
    params, actions = draw(head)
    for action in (*actions, *head.mode(params)):
        assert space.contains(action.numpy().astype(space.dtype))
    total = head.log_prob(params, actions)
    assert (total < 0).all()
    assert total.isfinite().all()


def test_the_floor_of_the_noise() -> None:
    for kind in ("log", "scalar"):
        head = GaussianHead(2, 0.01, kind)
        head.clip_std(th.tensor([0.5, 1e-15]))
        assert th.allclose(head.std, th.tensor([0.5, 0.01]))
        assert th.allclose(head.log_std, head.std.log())


def test_a_negative_scalar_never_becomes_the_noise() -> None:
    head = GaussianHead(1, 0.1, "scalar")
    with th.no_grad():
        head.std_param.fill_(-1.0)
    params, actions = draw(head)
    assert params["std"].item() == pytest.approx(1e-6)
    assert head.log_prob(params, actions).isfinite().all()


def test_what_is_not_supported_says_so() -> None:
    with pytest.raises(StrlTypeError, match=r"action space Dict.* is not supported\. Known: Box"):
        make_action_head(spaces.Dict({"a": box(1)}))
    with pytest.raises(StrlTypeError, match="one-dimensional MultiDiscrete"):
        make_action_head(spaces.MultiBinary([2, 2]))
    with pytest.raises(StrlValueError, match=r"init_noise_std is 0\. It must be positive"):
        GaussianHead(1, 0)
    with pytest.raises(StrlValueError, match=r"noise_std_type is 'std'\. Known types: \['log'"):
        GaussianHead(1, 1.0, "std")
