"""Bfloat16 inside perceptrons and convolutions; everything around them stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn


class Bfloat16Layers(nn.Module):
    """
    A network whose hidden layers can run in bfloat16, with ``use_bfloat16``.

    Parameters and results are float32, and so is a linear layer at the end: it is narrow, and
    rounding it would round the mean action or the value itself to 8 bits.
    """

    use_bfloat16: bool = False


def run_in_bfloat16(layers: nn.Sequential, x: th.Tensor) -> th.Tensor:
    """
    Run layers in bfloat16, a linear one at the end in float32.

    :param layers: with float32 parameters
    :param x: their input
    :return: their output, float32
    """
    parts = list(layers)
    last = parts.pop() if parts and isinstance(parts[-1], nn.Linear) else None
    with th.autocast(x.device.type, th.bfloat16):
        for layer in parts:
            x = layer(x)
    x = x.float()
    return x if last is None else last(x)


def bfloat16_networks(*modules: nn.Module | None) -> list[Bfloat16Layers]:
    """Return the networks within some modules that can run in bfloat16."""
    return [
        part
        for module in modules
        if module is not None
        for part in module.modules()
        if isinstance(part, Bfloat16Layers)
    ]


def set_bfloat16(networks: list[Bfloat16Layers], enabled: bool) -> None:
    """Switch the precision of the hidden layers."""
    for network in networks:
        network.use_bfloat16 = enabled


@contextmanager
def full_precision(module: nn.Module) -> Iterator[None]:
    """Run everything within a module in float32 for a while."""
    switched = [part for part in bfloat16_networks(module) if part.use_bfloat16]
    set_bfloat16(switched, False)
    try:
        yield
    finally:
        set_bfloat16(switched, True)
