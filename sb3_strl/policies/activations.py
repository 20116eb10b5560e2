"""Activation classes by name, and the arithmetic of a convolution's output size."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence

from torch import nn
from torch.nn.modules import activation as torch_activations

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest

IntPair = int | Sequence[int]
"""One number for both axes, or (height, width)."""


def _needs_no_arguments(cls: type[nn.Module]) -> bool:
    named = (p for p in inspect.signature(cls).parameters.values() if p.kind.name[:3] != "VAR")
    return all(p.default is not p.empty for p in named)


_BY_NAME: dict[str, type[nn.Module]] = {
    name.lower(): cls
    for name, cls in vars(torch_activations).items()
    if isinstance(cls, type)
    and issubclass(cls, nn.Module)
    and cls.__module__ == torch_activations.__name__
    and _needs_no_arguments(cls)
} | {
    "identity": nn.Identity,
    "lrelu": nn.LeakyReLU,
    "swish": nn.SiLU,
    "crelu": nn.ReLU,
}


def get_activation_cls(name: str | type[nn.Module]) -> type[nn.Module]:
    """
    Return the activation class that a name stands for.

    :param name: name of a class of ``torch.nn.modules.activation`` in any case (``"ELU"``,
        ``"elu"``), an alias (``"lrelu"``, ``"swish"``, ``"crelu"``, ``"identity"``), or a class of
        an ``nn.Module`` that is built without arguments, which is returned as it is
    :return: the class, not an instance
    :raises StrlValueError: if nobody knows the name, or the class cannot be built without arguments
    :raises StrlTypeError: if it is neither a name nor a module class
    """
    if isinstance(name, str):
        return _activation_of_name(name)
    given: object = name
    if not (isinstance(given, type) and issubclass(given, nn.Module)):
        raise StrlTypeError(
            f"get_activation_cls: got {name!r}. Expected a name or a class derived from nn.Module."
            " Pass the class itself, not an instance."
        )
    if not _needs_no_arguments(name):
        raise StrlValueError(
            f"get_activation_cls: {name.__name__} cannot be built without arguments."
            " Expected an activation class, e.g. nn.ELU. Wrap it in a class that fixes them."
        )
    return name


def _activation_of_name(name: str) -> type[nn.Module]:
    key = name.strip().lower()
    if key not in _BY_NAME:
        raise StrlValueError(
            f"get_activation_cls: unknown activation '{name}'.{suggest(key, _BY_NAME)}"
            f" Known activations: {sorted(_BY_NAME)}."
        )
    if key == "crelu":
        # Three meanings are in use: ReLU (st_rl), CELU (rsl_rl 5), concatenated ReLU (the paper,
        # which doubles the width). Old configurations meant the first.
        warnings.warn(
            "get_activation_cls: 'crelu' means ReLU here. Write 'relu' or, for rsl_rl's meaning,"
            " 'celu'.",
            stacklevel=3,
        )
    return _BY_NAME[key]


def pair(value: IntPair, what: str) -> tuple[int, int]:
    """
    Return ``value`` as (height, width).

    :param value: one number for both axes, or two
    :param what: its name, for the message
    :raises StrlValueError: if there are not two numbers
    """
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise StrlValueError(
            f"conv2d: {what} is {tuple(value)}. Expected an int or two ints (height, width)."
        )
    return int(value[0]), int(value[1])


def conv2d_output_shape(
    h: int,
    w: int,
    kernel_size: IntPair = 1,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> tuple[int, int]:
    """
    Height and width after a convolution or a pooling, as ``nn.Conv2d`` computes them.

    Per axis: ``floor((x + 2 p - d (k - 1) - 1) / s) + 1``.

    :param h: height of the input in pixels
    :param w: width of the input in pixels
    :param kernel_size: ``k``, an int or (height, width), as the three that follow
    :param stride: ``s``
    :param padding: ``p``, on both sides
    :param dilation: ``d``
    :return: (height, width) of the output; not positive where the kernel does not fit
    :raises StrlValueError: if an option is neither an int nor two ints
    """
    k, s = pair(kernel_size, "kernel_size"), pair(stride, "stride")
    p, d = pair(padding, "padding"), pair(dilation, "dilation")
    out_h = (h + 2 * p[0] - d[0] * (k[0] - 1) - 1) // s[0] + 1
    out_w = (w + 2 * p[1] - d[1] * (k[1] - 1) - 1) // s[1] + 1
    return out_h, out_w
