"""Perceptron, convolutions, and both together."""

from __future__ import annotations

import itertools

import pytest
import torch as th
from torch import nn

from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies.networks import Conv2dHeadModel, Conv2dModel, MlpModel


@pytest.mark.parametrize(
    ("hidden", "output", "width", "n_layers"),
    [
        (None, None, 5, 0),
        ([], None, 5, 0),
        (None, 3, 3, 1),
        ([], 3, 3, 1),
        (7, None, 7, 2),
        (7, 3, 3, 3),
        ([7, 6], None, 6, 4),
        ((7, 6), 3, 3, 5),
    ],
)
def test_mlp_sizes(hidden, output, width, n_layers):
    mlp = MlpModel(5, hidden, output)
    assert mlp.output_size == width
    assert len(mlp.model) == n_layers
    assert mlp(th.randn(2, 4, 5)).shape == (2, 4, width)


def test_mlp_without_layers_is_the_identity():
    x = th.randn(3, 5)
    assert th.equal(MlpModel(5)(x), x)


def test_mlp_ends_linear_with_an_output_size_and_active_without():
    x = th.randn(200, 5)
    assert (MlpModel(5, [8], 4)(x) < 0).any()
    assert (MlpModel(5, [8])(x) >= 0).all()


def test_mlp_by_hand():
    mlp = MlpModel(2, [2], 1)
    with th.no_grad():
        mlp.model[0].weight.copy_(th.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        mlp.model[0].bias.copy_(th.tensor([0.5, 0.0]))
        mlp.model[2].weight.copy_(th.tensor([[2.0, 10.0]]))
        mlp.model[2].bias.fill_(1.0)
    # hidden = relu(1 + 4 + 0.5, -1) = (5.5, 0); output = 2 * 5.5 + 1
    assert mlp(th.tensor([[1.0, 2.0]])).item() == pytest.approx(12.0)


@pytest.mark.parametrize("nonlinearity", ["prelu", nn.PReLU])
def test_every_layer_has_its_own_activation(nonlinearity):
    mlp = MlpModel(3, [4, 4], 1, nonlinearity)
    first, second = (m for m in mlp.modules() if isinstance(m, nn.PReLU))
    assert first is not second
    conv = Conv2dModel(1, [2, 2], [3, 3], [1, 1], nonlinearity=nonlinearity)
    assert len({id(m) for m in conv.modules() if isinstance(m, nn.PReLU)}) == 2


@pytest.mark.parametrize(("hidden", "output"), [([0], None), (-1, 2), (None, 0)])
def test_mlp_refuses_sizes_that_are_not_positive(hidden, output):
    with pytest.raises(StrlValueError, match="MlpModel: the layer sizes are"):
        MlpModel(3, hidden, output)


@pytest.mark.parametrize(
    ("strides", "paddings", "dilations", "use_maxpool", "norm"),
    list(
        itertools.product(
            [[1, 2], [(2, 1), 3]], [None, [1, (2, 0)]], [None, [2, (1, 2)]], [False, True],
            [None, "BatchNorm2d", nn.InstanceNorm2d],
        )
    ),
)  # fmt: skip
def test_conv_size_helpers_agree_with_a_forward(strides, paddings, dilations, use_maxpool, norm):
    conv = Conv2dModel(
        3, [4, 5], [3, (5, 2)], strides, paddings, "elu", use_maxpool, norm, dilations
    )
    out = conv(th.randn(2, 3, 27, 30))
    assert conv.conv_out_resolution(27, 30) == tuple(out.shape[2:])
    assert conv.conv_out_size(27, 30) == out[0].numel()


def test_conv_layer_order():
    conv = Conv2dModel(1, [2, 4], [3, 3], [2, 1], None, "elu", True, "BatchNorm2d")
    kinds = [type(m) for m in conv.conv]
    layer = [nn.Conv2d, nn.BatchNorm2d, nn.ELU]
    assert kinds == [*layer, nn.MaxPool2d, *layer]
    assert conv.conv[0].stride == (1, 1)
    assert conv.conv[3].stride == (2, 2)
    assert Conv2dModel(1, [2], [3], [2]).conv[0].stride == (2, 2)


@pytest.mark.parametrize(
    ("hidden", "output", "width"), [([16], 4, 4), ([16], None, 16), (None, 4, 4), (None, None, 210)]
)
def test_head_model_sizes(hidden, output, width):
    model = Conv2dHeadModel((3, 14, 12), [8, 5], [3, 3], [2, 1], hidden, output, [1, 1])
    assert model.output_size == width
    assert model(th.randn(2, 3, 14, 12)).shape == (2, model.output_size)


def test_head_model_passes_its_options_on():
    model = Conv2dHeadModel(
        (1, 12, 12), [2], [3], [2], [4], 2, [1], "tanh", True, "BatchNorm2d", [2]
    )
    kinds = [type(m) for m in model.modules()]
    for kind in (nn.BatchNorm2d, nn.MaxPool2d, nn.Tanh):
        assert kind in kinds
    assert nn.ReLU not in kinds
    assert model.conv.conv[0].dilation == (2, 2)


def test_head_model_takes_input_that_is_not_contiguous():
    model = Conv2dHeadModel((3, 8, 10), [4], [3], [1], [5], 2)
    image = th.randn(2, 8, 10, 3).permute(0, 3, 1, 2)
    assert not image.is_contiguous()
    assert th.allclose(model(image), model(image.contiguous()), atol=1e-6)


def test_images_too_small_are_refused():
    with pytest.raises(StrlValueError, match=r"layer 1 turns 4x4 pixels into 0x0"):
        Conv2dHeadModel((1, 6, 6), [2, 2], [3, 5], [1, 1])
    with pytest.raises(StrlValueError, match=r"layer 0 turns 4x4 pixels into 0x0"):
        Conv2dModel(1, [2], [3], [3], use_maxpool=True).conv_out_resolution(4, 4)


def test_lists_of_different_length_are_refused():
    with pytest.raises(StrlValueError, match="strides has 1 entries for 2 channels"):
        Conv2dModel(1, [2, 2], [3, 3], [1])
    with pytest.raises(StrlValueError, match="paddings has 3 entries for 2 channels"):
        Conv2dModel(1, [2, 2], [3, 3], [1, 1], [0, 0, 0])


def test_unknown_names_are_refused():
    with pytest.raises(StrlValueError, match=r"unknown normlayer 'BatchNorm'.*'BatchNorm2d'"):
        Conv2dModel(1, [2], [3], [1], normlayer="BatchNorm")
    with pytest.raises(StrlValueError, match=r"image_shape is \(3, 4\)"):
        Conv2dHeadModel((3, 4), [2], [3], [1])
