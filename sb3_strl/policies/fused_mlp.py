"""A multilayer perceptron as one autograd node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

_CPU_CHUNK_NUMBERS = 2**20
"""Activations that stay in a CPU's cache from one layer to the next."""

_ELU, _RELU, _TANH = range(3)
_CODES: dict[type[nn.Module], int] = {nn.ELU: _ELU, nn.ReLU: _RELU, nn.Tanh: _TANH}


def _activate_(x: th.Tensor, code: int) -> th.Tensor:
    if code == _ELU:
        return nn.functional.elu_(x)
    return x.relu_() if code == _RELU else x.tanh_()


def _activation_backward(grad: th.Tensor, result: th.Tensor, code: int) -> th.Tensor:
    """Return the gradient before an activation, from the one behind it and its result."""
    before: th.Tensor
    if code == _ELU:
        before = th.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, result)
    elif code == _RELU:
        before = th.ops.aten.threshold_backward(grad, result, 0.0)
    else:
        before = th.ops.aten.tanh_backward(grad, result)
    return before


class _MlpFunction(th.autograd.Function):
    """Linear layers with one activation between them; rows ``(B, in)`` to ``(B, out)``."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, code: int, *parameters: th.Tensor) -> th.Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        transposed = [weight.t() for weight in weights]
        rows = len(x)
        if x.device.type == "cpu":
            rows = max(1, _CPU_CHUNK_NUMBERS // sum(map(len, weights)))
        last = len(weights) - 1
        results: list[list[th.Tensor]] = []
        for chunk in x.split(rows) if len(x) > rows else (x,):
            hidden = [chunk]
            for index, (weight, bias) in enumerate(zip(transposed, biases, strict=True)):
                output = th.addmm(bias, hidden[-1], weight)
                hidden.append(output if index == last else _activate_(output, code))
            results.append(hidden)
        ctx.code, ctx.results, ctx.weights = code, results, weights
        if len(results) == 1:
            return results[0].pop()
        return th.cat([hidden.pop() for hidden in results])

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: th.Tensor) -> Any:
        (grad_output,) = grad_outputs
        weights: Sequence[th.Tensor] = ctx.weights
        grads: list[th.Tensor | None] = [None] * (2 * len(weights))
        inputs: list[th.Tensor] = []
        start = 0
        for hidden in ctx.results:
            grad = grad_output[start : start + len(hidden[0])]
            start += len(hidden[0])
            for index in range(len(weights) - 1, -1, -1):
                weight_grad, bias_grad = grads[2 * index], grads[2 * index + 1]
                if weight_grad is None or bias_grad is None:
                    grads[2 * index] = grad.t() @ hidden[index]
                    grads[2 * index + 1] = grad.sum(0)
                else:
                    weight_grad.addmm_(grad.t(), hidden[index])
                    bias_grad.add_(grad.sum(0))
                if index > 0:
                    grad = _activation_backward(grad @ weights[index], hidden[index], ctx.code)
            if ctx.needs_input_grad[0]:
                inputs.append(grad @ weights[0])
        grad_input = None if not inputs else inputs[0] if len(inputs) == 1 else th.cat(inputs)
        return grad_input, None, *grads


class FusedMlp:
    """
    Run the layers of a ``Sequential`` of Linear and ELU, ReLU or Tanh as one autograd node.

    The results are those of the layers. Forward keeps only the activated outputs, works in place
    and, on a CPU, some rows at a time through all layers; backward writes its few products by hand.
    It is not differentiable twice.

    :param layers: what to run; it keeps owning the parameters
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self._code = 0
        self._linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self._parameters = [p for layer in self._linears for p in (layer.weight, layer.bias)]
        others = [layer for layer in layers if not isinstance(layer, nn.Linear)]
        kinds = {type(layer) for layer in others}
        pattern = [isinstance(layer, nn.Linear) for layer in layers]
        alternates = pattern == [index % 2 == 0 for index in range(len(pattern))] and pattern[
            -1:
        ] == [True]
        plain = all(layer.alpha == 1.0 for layer in others if isinstance(layer, nn.ELU))
        self.is_possible = alternates and plain and len(kinds) <= 1 and kinds <= set(_CODES)
        if self.is_possible and kinds:
            self._code = _CODES[kinds.pop()]

    def __call__(self, x: th.Tensor) -> th.Tensor:
        """Return ``(..., out)`` for ``(..., in)``."""
        lead = x.shape[:-1]
        flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        apply: Any = _MlpFunction.apply
        out: th.Tensor = apply(flat, self._code, *self._parameters)
        return out if x.ndim == 2 else out.view(*lead, -1)
