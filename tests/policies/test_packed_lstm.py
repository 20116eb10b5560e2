"""An LSTM over packed sequences equals PyTorch's, forward and backward."""

from __future__ import annotations

import pytest
import torch as th
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sb3_strl.policies.memory import Memory, MemorySpec
from sb3_strl.policies.packed_lstm import PackedLSTM, PackedSteps

SIZES = {
    "ragged": [6, 6, 5, 3, 3, 1],
    "rectangle": [4, 4, 4],
    "one step": [3],
    "one sequence": [1, 1, 1, 1],
}


def _inputs(sizes: list[int], width: int = 5, hidden: int = 4) -> list[th.Tensor]:
    shapes = (sum(sizes), width), (sizes[0], hidden), (sizes[0], hidden)
    return [th.randn(shape, dtype=th.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", SIZES)
def test_equals_pytorch_forward_and_backward(name: str) -> None:
    th.manual_seed(0)
    sizes = th.tensor(SIZES[name])
    rnn = nn.LSTM(5, 4).double()
    x, h, c = _inputs(SIZES[name])
    ours = PackedLSTM.apply(x, h, c, *rnn.all_weights[0], PackedSteps(sizes))
    packed, (last_h, last_c) = rnn(PackedSequence(x, sizes), (h[None], c[None]))
    theirs = packed.data, last_h[0], last_c[0]
    weights = [th.randn_like(value) for value in theirs]
    grads = []
    for values in (ours, theirs):
        loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        grads.append(th.autograd.grad(loss, [x, h, c, *rnn.all_weights[0]]))
    for mine, other in zip([*ours, *grads[0]], [*theirs, *grads[1]], strict=True):
        th.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_gradient_equals_finite_differences() -> None:
    th.manual_seed(0)
    rnn = nn.LSTM(3, 2).double()
    inputs = _inputs([3, 2, 2, 1], 3, 2)
    steps = PackedSteps(th.tensor([3, 2, 2, 1]))
    assert th.autograd.gradcheck(
        lambda *values: PackedLSTM.apply(*values, steps), (*inputs, *rnn.all_weights[0])
    )


def test_gradients_of_what_follows_a_partial_use() -> None:
    """Only the outputs, only one state: gradients that nobody sends count as zero."""
    th.manual_seed(0)
    rnn = nn.LSTM(5, 4).double()
    x, h, c = _inputs(SIZES["ragged"])
    sizes = th.tensor(SIZES["ragged"])
    for part in range(3):
        ours = PackedLSTM.apply(x, h, c, *rnn.all_weights[0], PackedSteps(sizes))[part]
        packed, (last_h, last_c) = rnn(PackedSequence(x, sizes), (h[None], c[None]))
        theirs = (packed.data, last_h[0], last_c[0])[part]
        for mine, other in zip(
            th.autograd.grad(ours.square().sum(), [x, h, c]),
            th.autograd.grad(theirs.square().sum(), [x, h, c]),
            strict=True,
        ):
            th.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("sizes", [[6, 6, 5, 5, 5, 5], [6, 4, 3, 1, 1, 1]])
def test_outputs_alone_are_the_same_outputs(kind: str, layers: int, sizes: list[int]) -> None:
    """A rectangle with a little padding, or packed: outputs and gradients do not tell."""
    th.manual_seed(0)
    memory = Memory(3, MemorySpec(type=kind, hidden_size=4, num_layers=layers)).double()
    x = th.randn(sum(sizes), 3, dtype=th.float64)
    state = memory.initial_state(sizes[0])
    output, after = memory(x, state, th.tensor(sizes))
    alone, nothing = memory(x, state, th.tensor(sizes), keep_state=False)
    assert after is not None
    th.testing.assert_close(alone, output, rtol=0, atol=1e-12)
    parameters = list(memory.parameters())
    for mine, other in zip(
        th.autograd.grad(alone.square().sum(), parameters),
        th.autograd.grad(output.square().sum(), parameters),
        strict=True,
    ):
        th.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    if kind == "lstm" and sizes[-1] == 5:
        assert nothing is None
