"""Feed-forward building blocks: perceptron, convolutions, convolutions with a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch as th
from torch import nn

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.policies.activations import IntPair, conv2d_output_shape, get_activation_cls, pair
from sb3_strl.policies.fused_mlp import FusedMlp
from sb3_strl.policies.precision import Bfloat16Layers, run_in_bfloat16

NormLayer = str | Callable[[int], nn.Module]
"""What normalises a convolution's output: a name, or something built from the channel count."""

_NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "BatchNorm2d": nn.BatchNorm2d,
    "InstanceNorm2d": nn.InstanceNorm2d,
}


def layer_sizes(hidden_sizes: Sequence[int] | int | None) -> list[int]:
    """Return widths of hidden layers as a list: a number is one layer, ``None`` is none."""
    return [hidden_sizes] if isinstance(hidden_sizes, int) else list(hidden_sizes or ())


def perceptron_layers(
    sizes: Sequence[int], tail: Sequence[int], activation: type[nn.Module]
) -> list[nn.Module]:
    """
    Return the layers of a perceptron.

    :param sizes: widths of the input and of the layers that an activation follows
    :param tail: widths of linear layers behind them
    :param activation: its class; every layer gets its own instance
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    ends = [sizes[-1], *tail]
    return [*layers, *(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(ends))]


def convolution_layers(
    conv: nn.Conv2d,
    norm: nn.Module | None,
    activation: type[nn.Module],
    pool: nn.Module | None,
) -> list[nn.Module]:
    """Return a convolution and what follows it: normalisation, activation, pooling."""
    layers = [conv, norm, activation(), pool]
    return [layer for layer in layers if layer is not None]


class MlpModel(Bfloat16Layers):
    """
    Multilayer perceptron: a linear layer and an activation per hidden size, then a linear layer.

    :param input_size: width of the input
    :param hidden_sizes: widths of the hidden layers, one int for a single layer, ``None`` for none
    :param output_size: width of the last, linear layer; ``None``: the last hidden layer, with its
        activation, is the output (the identity if there are no hidden layers)
    :param nonlinearity: activation, a name or a class; every layer gets its own instance
    :param fuse: run as one autograd node where the activation allows it; same numbers, faster, but
        not differentiable twice
    :raises StrlValueError: if a size is not positive
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int] | int | None = None,
        output_size: int | None = None,
        nonlinearity: str | type[nn.Module] = nn.ReLU,
        fuse: bool = False,
    ) -> None:
        super().__init__()
        hidden = layer_sizes(hidden_sizes)
        activation = get_activation_cls(nonlinearity)
        sizes = [input_size, *hidden]
        tail = [] if output_size is None else [output_size]
        if min(sizes + tail) < 1:
            raise StrlValueError(
                f"MlpModel: the layer sizes are {sizes + tail}. Expected positive ints."
                " Pass output_size=None or hidden_sizes=None to leave a layer out."
            )
        self.model = nn.Sequential(*perceptron_layers(sizes, tail, activation))
        self._output_size = (sizes + tail)[-1]
        fused = FusedMlp(self.model) if fuse else None
        self._fused = fused if fused is not None and fused.is_possible else None

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self._output_size

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply the layers.

        :param x: ``(..., input_size)``
        :return: ``(..., output_size)``
        """
        if self.use_bfloat16:
            return run_in_bfloat16(self.model, x)
        if self._fused is not None and not th.compiler.is_compiling():
            return self._fused(x)
        out: th.Tensor = self.model(x)
        return out


class Conv2dModel(Bfloat16Layers):
    """
    Convolutions, each followed by normalisation (if any), activation and pooling (if any).

    Scaling of the pixels (``uint8`` to [0, 1]) is the caller's.

    :param in_channels: channels of the image
    :param channels: output channels of each layer
    :param kernel_sizes: kernel of each layer, an int or (height, width)
    :param strides: stride of each layer; with ``use_maxpool`` the stride of its pooling instead
    :param paddings: padding of each layer, ``None``: 0
    :param nonlinearity: activation, a name or a class; every layer gets its own instance
    :param use_maxpool: convolve with stride 1 and pool where the stride is larger than 1
    :param normlayer: ``"BatchNorm2d"``, ``"InstanceNorm2d"`` or what builds a module from the
        number of channels; ``None``: no normalisation
    :param dilations: dilation of each layer, ``None``: 1
    :raises StrlValueError: if the lists differ in length or nobody knows the name of a layer
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        kernel_sizes: Sequence[IntPair],
        strides: Sequence[IntPair],
        paddings: Sequence[IntPair] | None = None,
        nonlinearity: str | type[nn.Module] = nn.ReLU,
        use_maxpool: bool = False,
        normlayer: NormLayer | None = None,
        dilations: Sequence[IntPair] | None = None,
    ) -> None:
        super().__init__()
        n_layers = len(channels)
        options = {
            "kernel_sizes": kernel_sizes,
            "strides": strides,
            "paddings": [0] * n_layers if paddings is None else paddings,
            "dilations": [1] * n_layers if dilations is None else dilations,
        }
        for name, values in options.items():
            if len(values) != n_layers:
                raise StrlValueError(
                    f"Conv2dModel: {name} has {len(values)} entries for {n_layers} channels."
                    f" Expected one per layer: make {name} as long as channels."
                )
        if min(channels, default=1) < 1:
            raise StrlValueError(f"Conv2dModel: channels is {[*channels]}. Expected positive ints.")
        self._geometry = [
            (pair(k, "kernel_sizes"), pair(s, "strides"), pair(p, "paddings"), pair(d, "dilations"))
            for k, s, p, d in zip(*options.values(), strict=True)
        ]
        for kernel, stride, padding, dilation in self._geometry:
            if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
                raise StrlValueError(
                    f"Conv2dModel: a layer has kernel {kernel}, stride {stride}, padding {padding} "
                    f"and dilation {dilation}. Expected positive ints, and no negative padding."
                )
        self._use_maxpool = use_maxpool
        self._output_channels = channels[-1] if n_layers else in_channels
        activation, norm = get_activation_cls(nonlinearity), _norm_factory(normlayer)
        layers: list[nn.Module] = []
        n_in = in_channels
        for n_out, (kernel, stride, padding, dilation) in zip(
            channels, self._geometry, strict=True
        ):
            conv_stride = (1, 1) if use_maxpool else stride
            conv = nn.Conv2d(n_in, n_out, kernel, conv_stride, padding, dilation)
            pool = nn.MaxPool2d(stride) if use_maxpool and max(stride) > 1 else None
            layers += convolution_layers(conv, norm(n_out) if norm else None, activation, pool)
            n_in = n_out
        self.conv = nn.Sequential(*layers)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply the layers.

        :param x: ``(n, in_channels, h, w)``, floating point
        :return: ``(n, channels[-1], h', w')``
        """
        if self.use_bfloat16:
            return run_in_bfloat16(self.conv, x)
        out: th.Tensor = self.conv(x)
        return out

    def conv_out_resolution(self, h: int, w: int) -> tuple[int, int]:
        """
        Height and width of the output.

        :param h: height of the image
        :param w: width of the image
        :raises StrlValueError: if the image is too small for the layers
        """
        for i, (kernel, stride, padding, dilation) in enumerate(self._geometry):
            before = (h, w)
            conv_stride = (1, 1) if self._use_maxpool else stride
            h, w = conv2d_output_shape(h, w, kernel, conv_stride, padding, dilation)
            if self._use_maxpool:
                h, w = h // stride[0], w // stride[1]
            if min(h, w) < 1:
                raise StrlValueError(
                    f"Conv2dModel: layer {i} turns {before[0]}x{before[1]} pixels into {h}x{w}."
                    " Expected at least 1x1. Use larger images, smaller kernels or strides, or"
                    " paddings."
                )
        return h, w

    def conv_out_size(self, h: int, w: int) -> int:
        """
        Number of output values per image, ``h' w' channels[-1]``.

        :param h: height of the image
        :param w: width of the image
        :raises StrlValueError: if the image is too small for the layers
        """
        out_h, out_w = self.conv_out_resolution(h, w)
        return out_h * out_w * self._output_channels


class Conv2dHeadModel(nn.Module):
    """
    Convolutions, flattened, then a perceptron.

    :param image_shape: (channels, height, width)
    :param channels: as in :class:`Conv2dModel`
    :param kernel_sizes: as in :class:`Conv2dModel`
    :param strides: as in :class:`Conv2dModel`
    :param hidden_sizes: as in :class:`MlpModel`
    :param output_size: as in :class:`MlpModel`; neither hidden sizes nor an output size: the
        flattened convolutions are the output
    :param paddings: as in :class:`Conv2dModel`
    :param nonlinearity: activation of both parts, a name or a class
    :param use_maxpool: as in :class:`Conv2dModel`
    :param normlayer: as in :class:`Conv2dModel`
    :param dilations: as in :class:`Conv2dModel`
    :raises StrlValueError: if the image is too small for the layers
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        kernel_sizes: Sequence[IntPair],
        strides: Sequence[IntPair],
        hidden_sizes: Sequence[int] | int | None = None,
        output_size: int | None = None,
        paddings: Sequence[IntPair] | None = None,
        nonlinearity: str | type[nn.Module] = nn.ReLU,
        use_maxpool: bool = False,
        normlayer: NormLayer | None = None,
        dilations: Sequence[IntPair] | None = None,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise StrlValueError(
                f"Conv2dHeadModel: image_shape is {tuple(image_shape)}."
                " Expected (channels, height, width)."
            )
        c, h, w = image_shape
        self.conv = Conv2dModel(
            c,
            channels,
            kernel_sizes,
            strides,
            paddings=paddings,
            nonlinearity=nonlinearity,
            use_maxpool=use_maxpool,
            normlayer=normlayer,
            dilations=dilations,
        )
        self.head = MlpModel(self.conv.conv_out_size(h, w), hidden_sizes, output_size, nonlinearity)

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.head.output_size

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply the layers.

        :param x: ``(n, *image_shape)``, floating point
        :return: ``(n, output_size)``
        """
        out: th.Tensor = self.head(self.conv(x).flatten(1))
        return out


def _norm_factory(normlayer: NormLayer | None) -> Callable[[int], nn.Module] | None:
    if not isinstance(normlayer, str):
        return normlayer
    if normlayer not in _NORM_LAYERS:
        raise StrlValueError(
            f"Conv2dModel: unknown normlayer '{normlayer}'.{suggest(normlayer, _NORM_LAYERS)}"
            f" Known normlayers: {sorted(_NORM_LAYERS)}; or pass a class."
        )
    return _NORM_LAYERS[normlayer]
