"""
The building blocks of rsl_rl 5 with its options: its configurations build the same networks.

Layers have the places that rsl_rl gives them, so state dicts fit both ways. rsl_rl is described by
Schwarke et al. 2025, https://arxiv.org/abs/2509.10771.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch as th
from torch import nn

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.common.memory_state import MemoryState, map_state
from sb3_strl.common.sequences import unpad_trajectories
from sb3_strl.policies.activations import IntPair, conv2d_output_shape, get_activation_cls, pair
from sb3_strl.policies.networks import convolution_layers, perceptron_layers
from sb3_strl.policies.precision import Bfloat16Layers, run_in_bfloat16

HiddenState = MemoryState | None
"""``(L, N, H)`` for a GRU, a pair of those for an LSTM, ``None`` before the first step."""

_RNN_CLASSES: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
_PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_PADDING_MODES: dict[str, _PaddingMode] = {
    "none": "zeros",
    "zeros": "zeros",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
_NORMS = ("none", "batch", "layer")
_GLOBAL_POOLS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "max": nn.AdaptiveMaxPool2d,
    "avg": nn.AdaptiveAvgPool2d,
}


class MLP(nn.Sequential):
    """
    Multilayer perceptron whose output may have any shape.

    :param input_dim: width of the input
    :param output_dim: width of the output, or its shape
    :param hidden_dims: widths of the hidden layers, -1 for the width of the input; none: linear
    :param activation: behind every hidden layer, a name or a class
    :param last_activation: behind the output, ``None``: none
    :raises StrlValueError: if a size is not positive or nobody knows an activation
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int | Sequence[int],
        hidden_dims: Sequence[int],
        activation: str | type[nn.Module] = "elu",
        last_activation: str | type[nn.Module] | None = None,
    ) -> None:
        hidden = [input_dim if width == -1 else int(width) for width in hidden_dims]
        shape = (output_dim,) if isinstance(output_dim, int) else tuple(output_dim)
        if not shape or min(input_dim, *hidden, *shape) < 1:
            raise StrlValueError(
                f"MLP: input_dim is {input_dim}, hidden_dims {list(hidden_dims)}, output_dim "
                f"{output_dim}. Expected positive ints, or -1 for a hidden layer as wide as the "
                "input."
            )
        layers = perceptron_layers(
            [input_dim, *hidden], [math.prod(shape)], rsl_rl_activation_cls(activation)
        )
        if not isinstance(output_dim, int):
            layers.append(nn.Unflatten(-1, shape))
        if last_activation is not None:
            layers.append(rsl_rl_activation_cls(last_activation)())
        super().__init__(*layers)

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]

    @property
    def output_layer(self) -> nn.Linear:
        """The last linear layer, whatever follows it."""
        return self.linears[-1]

    def init_weights(self, scales: float | Sequence[float]) -> None:
        """
        Make all weights orthogonal and all biases zero.

        :param scales: gain of the weights, one for all or one per linear layer
        :raises StrlValueError: if there is another number of them
        """
        linears = self.linears
        gains = _per_layer("MLP", "scales", scales, len(linears))
        for linear, gain in zip(linears, gains, strict=True):
            nn.init.orthogonal_(linear.weight, gain=gain)
            nn.init.zeros_(linear.bias)


class RNN(nn.Module):
    """
    LSTM or GRU that can keep its hidden state between steps.

    ``forward`` without masks advances the kept state; :meth:`step` takes and returns the state and
    keeps nothing, so that an evaluation between two training steps cannot disturb them. The kept
    tensors are replaced, never changed in place: who stored one still has what it was.

    :param input_size: width of the input
    :param hidden_dim: width H of state and output
    :param num_layers: layers L
    :param type: ``"lstm"`` or ``"gru"``, in any case
    :raises StrlValueError: if nobody knows the type
    """

    hidden_state: HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_dim: int = 256,
        num_layers: int = 1,
        type: str = "lstm",  # noqa: A002 - rsl_rl's configurations say so
    ) -> None:
        super().__init__()
        kind = type.lower()
        _check_choice("RNN", "type", kind, _RNN_CLASSES)
        self.rnn = _RNN_CLASSES[kind](int(input_size), int(hidden_dim), int(num_layers))
        self.hidden_state = None

    def step(self, x: th.Tensor, hidden_state: HiddenState) -> tuple[th.Tensor, MemoryState]:
        """
        Advance a given state.

        :param x: ``(T, N, input_size)``
        :param hidden_state: before the first step, ``None``: zeros
        :return: ``(T, N, H)`` and the state after the last step
        """
        output, state = self.rnn(x, hidden_state)
        return output, state

    def forward(
        self,
        input: th.Tensor,  # noqa: A002 - rsl_rl's name
        masks: th.Tensor | None = None,
        hidden_state: HiddenState = None,
    ) -> th.Tensor:
        """
        Advance the kept state by one step; or, with masks, run whole padded sequences.

        :param input: ``(N, input_size)``, or S sequences ``(T, S, input_size)`` as
            :func:`~sb3_strl.common.sequences.split_and_pad_trajectories` makes them
        :param masks: ``(T, S)``, what is not padding
        :param hidden_state: before every sequence; without masks it replaces the kept state
        :return: ``(1, N, H)``, or ``(T, n_envs, H)`` without padding
        :raises StrlValueError: if there are masks and no state
        """
        if masks is None:
            before = self.hidden_state if hidden_state is None else hidden_state
            output, self.hidden_state = self.step(input.unsqueeze(0), before)
            return output
        if hidden_state is None:
            raise StrlValueError(
                "RNN: masks were given without hidden_state. Expected the state before every "
                "sequence, as stored in the rollout. Pass zeros for sequences that begin episodes."
            )
        return unpad_trajectories(self.step(input, hidden_state)[0], masks)

    def reset(self, dones: th.Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """
        Forget the kept state, or replace it.

        :param dones: ``(N,)``, bool or integer, the environments concerned; ``None``: all
        :param hidden_state: what replaces it, ``None``: zeros
        """
        if dones is None:
            self.hidden_state = hidden_state
        elif self.hidden_state is not None:
            self.hidden_state = _replace_rows(self.hidden_state, dones, hidden_state)

    def detach_hidden_state(self, dones: th.Tensor | None = None) -> None:
        """
        Cut the kept state from what computed it.

        :param dones: ``(N,)``, bool or integer, the environments concerned; ``None``: all
        """
        state = self.hidden_state
        if state is None:
            return
        cut = map_state(th.Tensor.detach, state)
        self.hidden_state = cut if dones is None else _replace_rows(state, dones, cut)


class CNN(Bfloat16Layers, nn.Sequential):
    """
    Convolutions, each followed by normalisation, activation and pooling, if any.

    One value of an option holds for all layers, a list has one per layer.

    :param input_dim: height and width of the image
    :param input_channels: its channels
    :param output_channels: of each layer
    :param kernel_size: an int, or per layer an int or (height, width), as the two that follow
    :param stride: of the convolutions
    :param dilation: of the convolutions
    :param padding: ``"none"``, or what the image is continued with: ``"zeros"``, ``"reflect"``,
        ``"replicate"``, ``"circular"``; the padding along an axis of x pixels is
        ``ceil((s floor(x / s) - x - s + d (k - 1) + 1) / 2)``, which leaves about ``x / s``;
        where that is negative the image is cropped, with ``"zeros"`` it stays as it is
    :param norm: ``"none"``, ``"batch"`` (per channel) or ``"layer"`` (per image)
    :param activation: a name or a class
    :param max_pool: pool 3x3 with stride 2 behind the activation
    :param global_pool: pool each channel to one number at the end: ``"none"``, ``"max"``, ``"avg"``
    :param flatten: return ``(n, output_dim)`` instead of images
    :raises StrlValueError: if an option is unknown, has another number of values than there are
        layers, or leaves no pixel
    """

    def __init__(
        self,
        input_dim: Sequence[int],
        input_channels: int,
        output_channels: Sequence[int],
        kernel_size: int | Sequence[IntPair],
        stride: int | Sequence[IntPair] = 1,
        dilation: int | Sequence[IntPair] = 1,
        padding: str = "none",
        norm: str | Sequence[str] = "none",
        activation: str | type[nn.Module] = "elu",
        max_pool: bool | Sequence[bool] = False,
        global_pool: str = "none",
        flatten: bool = True,
    ) -> None:
        _check_choice("CNN", "padding", padding, _PADDING_MODES)
        _check_choice("CNN", "global_pool", global_pool, _GLOBAL_POOLS)
        given: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "norm": norm,
            "max_pool": max_pool,
        }
        n = len(output_channels)
        per_layer = [_per_layer("CNN", name, value, n) for name, value in given.items()]
        activation_cls = rsl_rl_activation_cls(activation)
        layers: list[nn.Module] = []
        channels, size = int(input_channels), pair(input_dim, "input_dim")
        for index, (n_out, *options) in enumerate(zip(output_channels, *per_layer, strict=True)):
            more, size = _cnn_layer(
                index, (channels, n_out), size, padding, activation_cls, options
            )
            layers += more
            channels = n_out
        pool = _GLOBAL_POOLS[global_pool]
        if pool is not None:
            layers.append(pool((1, 1)))
            size = (1, 1)
        super().__init__(*layers, *([nn.Flatten(1)] if flatten else []))
        self._channels, self._size, self._flat = channels, size, flatten

    def forward(self, input: th.Tensor) -> th.Tensor:  # noqa: A002 (Sequential's name)
        """Apply the layers to images ``(n, input_channels, h, w)``."""
        if self.use_bfloat16:
            return run_in_bfloat16(self, input)
        out: th.Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return out

    @property
    def output_channels(self) -> int | None:
        """Channels of the output, ``None`` if it is flat."""
        return None if self._flat else self._channels

    @property
    def output_dim(self) -> tuple[int, int] | int:
        """Height and width of the output, its width if it is flat."""
        return math.prod((self._channels, *self._size)) if self._flat else self._size

    def init_weights(self) -> None:
        """Draw kernels as He et al. 2015 (https://arxiv.org/abs/1502.01852); no biases."""
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def rsl_rl_activation_cls(name: str | type[nn.Module]) -> type[nn.Module]:
    """
    Return the activation class that a name stands for in rsl_rl.

    The names are those of :func:`~sb3_strl.policies.activations.get_activation_cls`, but
    ``"crelu"`` is CELU.

    :param name: a name or a class
    :raises StrlValueError: if nobody knows the name
    """
    if isinstance(name, str) and name.strip().lower() == "crelu":
        warnings.warn(
            "rsl_rl_activation_cls: 'crelu' means CELU here, as in rsl_rl 5. Write 'celu' or, for"
            " st_rl's meaning, 'relu'.",
            stacklevel=2,
        )
        return nn.CELU
    return get_activation_cls(name)


def _cnn_layer(
    index: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    padding: str,
    activation: type[nn.Module],
    options: Sequence[Any],
) -> tuple[list[nn.Module], tuple[int, int]]:
    """Return the modules of one layer, and height and width behind it."""
    kernel, stride, dilation, norm, max_pool = options
    _check_choice("CNN", "norm", norm, _NORMS)
    k, s, d = pair(kernel, "kernel_size"), pair(stride, "stride"), pair(dilation, "dilation")
    p = (0, 0)
    if padding != "none":
        p = (_padding(size[0], k[0], s[0], d[0]), _padding(size[1], k[1], s[1], d[1]))
    if padding == "zeros":  # which cannot crop
        p = (max(0, p[0]), max(0, p[1]))
    behind = conv2d_output_shape(*size, k, s, p, d)
    if min(behind) < 1:
        raise StrlValueError(
            f"CNN: layer {index} turns {size[0]}x{size[1]} pixels into {behind[0]}x{behind[1]}. "
            "Expected at least 1x1. Use larger images, smaller kernels or strides, or padding."
        )
    conv = nn.Conv2d(*channels, k, s, p, d, padding_mode=_PADDING_MODES[padding])
    normaliser: nn.Module | None = None
    if norm == "batch":
        normaliser = nn.BatchNorm2d(channels[1])
    elif norm == "layer":
        normaliser = nn.LayerNorm([channels[1], *behind])
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if max_pool else None
    layers = convolution_layers(conv, normaliser, activation, pool)
    return layers, conv2d_output_shape(*behind, 3, 2, 1) if max_pool else behind


def _padding(x: int, k: int, s: int, d: int) -> int:
    """Return the padding per side; negative, that is cropped, where a stride skips pixels."""
    return -(-(s * (x // s) - x - s + d * (k - 1) + 1) // 2)


def _per_layer(where: str, name: str, value: Any, n: int) -> Sequence[Any]:
    """Return one value per layer: a list as it is, anything else n times."""
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise StrlValueError(
            f"{where}: {name} has {len(value)} entries for {n} layers. Expected one per layer, or "
            "one value for all."
        )
    return value


def _check_choice(where: str, name: str, value: str, known: Any) -> None:
    if value not in known:
        raise StrlValueError(
            f"{where}: unknown {name} '{value}'.{suggest(value, known)} Known: {list(known)}."
        )


def _replace_rows(state: MemoryState, dones: th.Tensor, new: HiddenState) -> MemoryState:
    """Return the state with the rows of finished environments from ``new`` (``None``: zeros)."""
    rows = (dones != 0).view(1, -1, 1)
    if new is None:
        return map_state(lambda leaf: th.where(rows, 0.0, leaf), state)
    if isinstance(state, th.Tensor) and isinstance(new, th.Tensor):
        return th.where(rows, new, state)
    if isinstance(state, th.Tensor) or isinstance(new, th.Tensor):
        raise StrlValueError(
            f"RNN: hidden_state is a {type(new).__name__}, the kept one a {type(state).__name__}. "
            "Expected a tensor for a GRU and a pair (hidden, cell) for an LSTM."
        )
    return th.where(rows, new[0], state[0]), th.where(rows, new[1], state[1])
