"""Activations by name, and output sizes of convolutions."""

from __future__ import annotations

import itertools

import pytest
import torch as th
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.activations import conv2d_output_shape, get_activation_cls


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("elu", nn.ELU),
        ("ELU", nn.ELU),
        ("selu", nn.SELU),
        ("relu", nn.ReLU),
        ("lrelu", nn.LeakyReLU),
        ("LeakyReLU", nn.LeakyReLU),
        ("tanh", nn.Tanh),
        ("sigmoid", nn.Sigmoid),
        ("softplus", nn.Softplus),
        ("gelu", nn.GELU),
        ("swish", nn.SiLU),
        ("silu", nn.SiLU),
        ("mish", nn.Mish),
        ("celu", nn.CELU),
        ("identity", nn.Identity),
        (nn.ELU, nn.ELU),
    ],
)
def test_names_stand_for_classes(name, cls):
    assert get_activation_cls(name) is cls


def test_crelu_is_relu_and_says_so():
    with pytest.warns(UserWarning, match="'crelu' means ReLU here"):
        assert get_activation_cls("crelu") is nn.ReLU


@pytest.mark.parametrize("name", ["Linear", "functional", "Module", "Tensor", "", "warnings"])
def test_names_that_are_no_activation_are_refused(name):
    with pytest.raises(StrlValueError, match=f"unknown activation '{name}'"):
        get_activation_cls(name)


def test_a_typo_is_answered_with_the_closest_name():
    with pytest.raises(StrlValueError, match="Did you mean 'softplus'"):
        get_activation_cls("sofplus")


def test_a_class_that_needs_arguments_is_refused():
    with pytest.raises(StrlValueError, match="Linear cannot be built without arguments"):
        get_activation_cls(nn.Linear)


@pytest.mark.parametrize("value", [nn.ReLU(), 3, None, int])
def test_neither_name_nor_class_is_refused(value):
    with pytest.raises(StrlTypeError, match=r"Expected a name or a class derived from nn\.Module"):
        get_activation_cls(value)


def test_the_known_example():
    assert conv2d_output_shape(64, 64, 3, 2, 1) == (32, 32)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    list(itertools.product([1, 3, (2, 5)], [1, 2, [3, 1]], [0, 1, (2, 0)], [1, 2, (1, 3)])),
)
def test_size_equals_a_real_convolution(kernel, stride, padding, dilation):
    def two(value):
        return value if isinstance(value, int) else tuple(value)

    conv = nn.Conv2d(1, 1, kernel, two(stride), padding, dilation)
    shape = conv(th.zeros(1, 1, 17, 20)).shape[2:]
    assert conv2d_output_shape(17, 20, kernel, stride, padding, dilation) == tuple(shape)


def test_three_numbers_are_refused():
    with pytest.raises(StrlValueError, match=r"stride is \(1, 2, 3\)"):
        conv2d_output_shape(8, 8, stride=(1, 2, 3))
