"""rsl_rl's blocks: their options, their fixes, their refusals."""

from __future__ import annotations

import itertools

import pytest
import torch as th
from torch import nn

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import leaves
from sb3_strl.common.sequences import split_and_pad_trajectories
from sb3_strl.policies.blocks import CNN, MLP, RNN, rsl_rl_activation_cls

# --------------------------------------------------------------------------- MLP


@pytest.mark.parametrize(
    ("output", "hidden", "widths"),
    [
        (3, [8, 7], [5, 8, 7, 3]),
        (3, (-1,), [5, 5, 3]),
        (3, [4, -1, 6], [5, 4, 5, 6, 3]),
        ((2, 3), [8], [5, 8, 6]),
        ([2, 3, 2], [8], [5, 8, 12]),
        (3, [], [5, 3]),
    ],
)
def test_mlp_sizes(output, hidden, widths) -> None:
    mlp = MLP(5, output, hidden)
    assert [(n.in_features, n.out_features) for n in mlp.linears] == list(
        itertools.pairwise(widths)
    )
    shape = (output,) if isinstance(output, int) else tuple(output)
    assert mlp(th.randn(4, 2, 5)).shape == (4, 2, *shape)


def test_mlp_last_activation_follows_the_output() -> None:
    mlp = MLP(5, (2, 3), [8], "relu", "tanh")
    assert [type(m) for m in mlp] == [nn.Linear, nn.ReLU, nn.Linear, nn.Unflatten, nn.Tanh]
    assert mlp(100.0 * th.randn(50, 5)).abs().max() <= 1.0
    assert mlp.output_layer is mlp[2]


def test_mlp_layers_have_their_own_activation() -> None:
    first, second, third = (m for m in MLP(5, 3, [8, 7], "prelu", "prelu") if type(m) is nn.PReLU)
    assert len({id(first), id(second), id(third)}) == 3


def test_scales_are_counted_by_linear_layer() -> None:
    mlp = MLP(8, 8, [8, 8])
    mlp.init_weights([1.0, 2.0, 0.1])
    for linear, gain in zip(mlp.linears, (1.0, 2.0, 0.1), strict=True):
        gram = linear.weight @ linear.weight.T
        assert th.allclose(gram, gain**2 * th.eye(8), atol=1e-5)
        assert not linear.bias.any()
    mlp.init_weights(3.0)
    assert th.allclose(
        mlp.output_layer.weight @ mlp.output_layer.weight.T, 9 * th.eye(8), atol=1e-4
    )
    with pytest.raises(StrlValueError, match="scales has 2 entries for 3 layers"):
        mlp.init_weights([1.0, 2.0])


@pytest.mark.parametrize(("output", "hidden"), [(0, [4]), (3, [0]), (3, [-2]), ((), [4])])
def test_mlp_refuses_sizes(output, hidden) -> None:
    with pytest.raises(StrlValueError, match=r"MLP: input_dim is 5, hidden_dims .*or -1"):
        MLP(5, output, hidden)


def test_crelu_is_celu_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'crelu' means CELU here"):
        assert rsl_rl_activation_cls("CReLU") is nn.CELU
    assert rsl_rl_activation_cls("lrelu") is nn.LeakyReLU
    with pytest.raises(StrlValueError, match="unknown activation 'elo'"):
        rsl_rl_activation_cls("elo")


# --------------------------------------------------------------------------- RNN


@pytest.fixture(params=["lstm", "GRU"])
def rnn(request: pytest.FixtureRequest) -> RNN:
    return RNN(3, 6, 2, request.param).double()


def zeros(rnn: RNN, n: int):
    leaf = th.zeros(2, n, 6, dtype=th.float64)
    return leaf if isinstance(rnn.rnn, nn.GRU) else (leaf, leaf)


def test_kind_and_size_of_the_memory() -> None:
    default = RNN(3)
    assert type(default.rnn) is nn.LSTM
    assert (default.rnn.hidden_size, default.rnn.num_layers) == (256, 1)
    assert type(RNN(3, type="Gru").rnn) is nn.GRU
    with pytest.raises(StrlValueError, match=r"unknown type 'lstn'\. Did you mean 'lstm'"):
        RNN(3, type="lstn")


@th.no_grad()
def test_sequences_equal_steps(rnn: RNN) -> None:
    x = th.randn(12, 5, 3, dtype=th.float64)
    dones = th.rand(12, 5) < 0.3
    steps = []
    for t in range(12):
        output = rnn(x[t])
        assert output.shape == (1, 5, 6)
        steps.append(output)
        rnn.reset(dones[t])
    padded, masks = split_and_pad_trajectories(x, dones)
    whole = rnn(padded, masks, zeros(rnn, padded.shape[1]))
    assert whole.shape == (12, 5, 6)
    assert th.allclose(whole, th.cat(steps), atol=1e-12)


@pytest.mark.parametrize("dtype", [th.bool, th.int64, th.float32])
def test_reset_forgets_the_finished_rows_only(rnn: RNN, dtype: th.dtype) -> None:
    """Integers are flags too: as an index, 1 and 0 would clear environments 1 and 0."""
    rnn(th.randn(4, 3, dtype=th.float64))
    before = [leaf.clone() for leaf in leaves(rnn.hidden_state)]
    rnn.reset(th.tensor([0, 0, 1, 1], dtype=dtype))
    for was, now in zip(before, leaves(rnn.hidden_state), strict=True):
        assert th.equal(now[:, :2], was[:, :2])
        assert not now[:, 2:].any()


def test_a_stored_state_stays_as_it_was(rnn: RNN) -> None:
    rnn(th.randn(4, 3, dtype=th.float64))
    stored = leaves(rnn.hidden_state)
    copies = [leaf.clone() for leaf in stored]
    rnn.reset(th.ones(4, dtype=th.bool))
    rnn(th.randn(4, 3, dtype=th.float64))
    assert all(th.equal(a, b) for a, b in zip(stored, copies, strict=True))


def test_reset_replaces_all_or_some(rnn: RNN) -> None:
    given = zeros(rnn, 4)
    rnn.reset(th.ones(4))  # nothing is kept yet
    assert rnn.hidden_state is None
    rnn.reset(hidden_state=given)
    assert rnn.hidden_state is given
    rnn(th.randn(4, 3, dtype=th.float64))
    before = [leaf.clone() for leaf in leaves(rnn.hidden_state)]
    ones = th.ones(2, 4, 6, dtype=th.float64)
    rnn.reset(th.tensor([1, 0, 0, 0]), ones if isinstance(rnn.rnn, nn.GRU) else (ones, ones))
    for was, now in zip(before, leaves(rnn.hidden_state), strict=True):
        assert (now[:, 0] == 1).all()
        assert th.equal(now[:, 1:], was[:, 1:])
    wrong = (ones, ones) if isinstance(rnn.rnn, nn.GRU) else ones
    with pytest.raises(StrlValueError, match="Expected a tensor for a GRU and a pair"):
        rnn.reset(th.tensor([1, 0, 0, 0]), wrong)
    rnn.reset()
    assert rnn.hidden_state is None


def test_step_keeps_nothing(rnn: RNN) -> None:
    rnn(th.randn(4, 3, dtype=th.float64))
    kept = rnn.hidden_state
    x = th.randn(1, 4, 3, dtype=th.float64)
    output, state = rnn.step(x, kept)
    assert rnn.hidden_state is kept
    assert th.equal(output, rnn(x[0]))
    assert all(th.equal(a, b) for a, b in zip(leaves(state), leaves(rnn.hidden_state), strict=True))


def test_detach_cuts_the_rows_asked_for(rnn: RNN) -> None:
    rnn.detach_hidden_state()
    assert rnn.hidden_state is None
    x = th.randn(4, 3, dtype=th.float64, requires_grad=True)
    rnn(x)
    values = [leaf.detach().clone() for leaf in leaves(rnn.hidden_state)]
    rnn.detach_hidden_state(th.tensor([0, 1, 0, 1]))
    assert all(th.equal(a, b) for a, b in zip(values, leaves(rnn.hidden_state), strict=True))
    total = sum(leaf.sum() for leaf in leaves(rnn.hidden_state))
    grad = th.autograd.grad(total, x)[0].abs().sum(-1)
    assert (grad[[0, 2]] > 0).all()
    assert not grad[[1, 3]].any()
    rnn.detach_hidden_state()
    assert not any(leaf.requires_grad for leaf in leaves(rnn.hidden_state))


def test_sequences_need_their_states(rnn: RNN) -> None:
    with pytest.raises(StrlValueError, match="masks were given without hidden_state"):
        rnn(th.randn(4, 2, 3, dtype=th.float64), th.ones(4, 2, dtype=th.bool))


# --------------------------------------------------------------------------- CNN

SHAPES = {
    "stride": [1, 2, [2, 3]],
    "dilation": [1, [1, 2]],
    "padding": ["none", "zeros", "reflect", "replicate", "circular"],
    "max_pool": [False, [True, False], True],
    "norm": ["none", "layer", ["batch", "layer"]],
}


@pytest.mark.parametrize("options", list(itertools.product(*SHAPES.values())))
def test_output_dim_equals_a_real_forward(options) -> None:
    kwargs = dict(zip(SHAPES, options, strict=True))
    image = th.randn(2, 3, 33, 28)
    cnn = CNN((33, 28), 3, [4, 5], [5, 3], flatten=False, **kwargs)
    out = cnn(image)
    assert (cnn.output_channels, *cnn.output_dim) == tuple(out.shape[1:])
    flat = CNN((33, 28), 3, [4, 5], [5, 3], **kwargs)
    assert flat.output_channels is None
    assert flat(image).shape == (2, flat.output_dim)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_global_pool(pool: str) -> None:
    cnn = CNN((9, 8), 1, [4, 6], 3, global_pool=pool)
    image = th.randn(2, 1, 9, 8)
    assert cnn.output_dim == 6
    maps = image
    for layer in list(cnn)[:4]:
        maps = layer(maps)
    flat = maps.flatten(2)
    assert th.allclose(cnn(image), flat.amax(-1) if pool == "max" else flat.mean(-1), atol=1e-6)
    assert CNN((9, 8), 1, [4], 3, global_pool=pool, flatten=False).output_dim == (1, 1)


def test_layer_order_and_broadcast() -> None:
    cnn = CNN((20, 20), 1, [2, 3], 3, 2, 1, "reflect", ["batch", "none"], "tanh", [False, True])
    first = [nn.Conv2d, nn.BatchNorm2d, nn.Tanh]
    assert [type(m) for m in cnn] == [*first, nn.Conv2d, nn.Tanh, nn.MaxPool2d, nn.Flatten]
    assert [m.stride for m in cnn if isinstance(m, nn.Conv2d)] == [(2, 2)] * 2
    assert cnn[0].padding_mode == "reflect"
    assert cnn[2] is not cnn[4]


def test_pixels_may_be_treated_differently_along_the_axes() -> None:
    cnn = CNN((12, 30), 1, [2], [(3, 5)], [(1, 3)], [(2, 1)], "zeros", flatten=False)
    assert cnn.output_dim == (12, 10)
    assert cnn(th.randn(1, 1, 12, 30)).shape == (1, 2, 12, 10)


@pytest.mark.parametrize(
    ("padding", "size"), [("none", (3, 3)), ("zeros", (3, 3)), ("replicate", (2, 2))]
)
def test_a_kernel_narrower_than_its_stride(padding: str, size: tuple[int, int]) -> None:
    """The padding is negative then: -1 pixel on each side."""
    cnn = CNN((5, 5), 1, [2], 1, 2, padding=padding, flatten=False)
    assert cnn.output_dim == size
    assert cnn(th.randn(1, 1, 5, 5)).shape == (1, 2, *size)


def test_cnn_init_weights() -> None:
    cnn = CNN((8, 8), 16, [512], 3)
    cnn.init_weights()
    assert cnn[0].weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.02)
    assert not cnn[0].bias.any()


def test_cnn_refusals() -> None:
    with pytest.raises(StrlValueError, match=r"unknown padding 'reflekt'\. Did you mean 'reflect'"):
        CNN((8, 8), 1, [2], 3, padding="reflekt")
    with pytest.raises(StrlValueError, match=r"unknown norm 'group'.*\['none', 'batch', 'layer'\]"):
        CNN((8, 8), 1, [2], 3, norm="group")
    with pytest.raises(StrlValueError, match="unknown global_pool 'mean'"):
        CNN((8, 8), 1, [2], 3, global_pool="mean")
    with pytest.raises(StrlValueError, match="stride has 1 entries for 2 layers"):
        CNN((8, 8), 1, [2, 2], 3, [1])
    with pytest.raises(StrlValueError, match="layer 1 turns 4x4 pixels into 0x0"):
        CNN((6, 6), 1, [2, 2], [3, 5])
