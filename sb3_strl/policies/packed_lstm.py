"""One LSTM layer over packed sequences, with its gradient in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th


class PackedSteps:
    """
    Where the steps of packed sequences lie in a buffer that begins with the Q states before them.

    :param batch_sizes: host tensor ``(S,)``: how many of the Q sequences have an s-th step
    """

    def __init__(self, batch_sizes: th.Tensor) -> None:
        sizes = batch_sizes.numpy()
        n_steps, self.n_sequences = len(sizes), int(sizes[0])
        ends = np.cumsum(np.append(self.n_sequences, sizes))  # of the states before and every step
        starts, before = ends[:-1], np.append(0, ends[:-2])
        place = np.arange(sizes.sum()) - np.repeat(starts - self.n_sequences, sizes)
        row = np.arange(self.n_sequences)
        lengths = n_steps - np.searchsorted(sizes[::-1], row, "right")
        self.steps: list[tuple[int, int, int]] = list(
            zip(starts.tolist(), before.tolist(), sizes.tolist(), strict=True)
        )
        self.previous = _indices(np.repeat(before, sizes) + place)  # (B,)
        self.last = _indices(starts[lengths - 1] + row)  # (Q,)
        # Places in the smallest rectangle of (S, Q) that holds all sequences.
        self.shape = n_steps, self.n_sequences
        self.cells = _indices(np.repeat(np.arange(n_steps) * self.n_sequences, sizes) + place)


def _indices(values: npt.NDArray[Any]) -> th.Tensor:
    return th.from_numpy(values.astype(np.int64))


class PackedLSTM(th.autograd.Function):
    r"""
    An LSTM layer (Hochreiter & Schmidhuber 1997) over packed sequences:

    .. math::

        i, f, o = \sigma(W x_t + U h_{t-1} + b), \quad g = \tanh(W x_t + U h_{t-1} + b), \quad
        c_t = f c_{t-1} + i g, \quad h_t = o \tanh c_t

    PyTorch's own packed LSTM builds a graph of a dozen nodes for every step on a CPU. Here a step
    is one matrix product and a handful of operators in either direction; whatever does not depend
    on the step before (:math:`W x`, the gradients of the weights, slopes of the gates) is done
    for all rows at once. :math:`\tanh z = 2 \sigma(2 z) - 1` lets one sigmoid serve all gates.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: th.Tensor,
        hidden: th.Tensor,
        cell: th.Tensor,
        w_ih: th.Tensor,
        w_hh: th.Tensor,
        b_ih: th.Tensor,
        b_hh: th.Tensor,
        packed: PackedSteps,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Run the layer.

        :param x: ``(B, input)``, packed: longest sequence first
        :param hidden: ``(Q, H)`` before every sequence
        :param cell: ``(Q, H)``
        :param w_ih: ``(4 H, input)`` in PyTorch's order i, f, g, o; so ``w_hh`` and both biases
        :param packed: where the rows lie
        :return: outputs ``(B, H)``, and hidden and cell state after every sequence, ``(Q, H)``
        """
        size, first = hidden.shape[-1], packed.n_sequences
        w, u, b = (_scale_g(parameter) for parameter in (w_ih, w_hh, b_ih + b_hh))
        gates, u_t = th.addmm(b, x, w.t()), u.t()
        h = x.new_empty(first + len(x), size)
        c, squashed = th.empty_like(h), x.new_empty(len(x), size)
        h[:first], c[:first] = hidden, cell
        for start, before, rows in packed.steps:
            at = slice(start - first, start - first + rows)
            now = gates[at].addmm_(h[before : before + rows], u_t).sigmoid_()
            i, f, g, o = now.split(size, 1)
            new = th.mul(c[before : before + rows], f, out=c[start : start + rows])
            new.addcmul_(i, g, value=2.0).sub_(i)
            th.mul(o, th.tanh(new, out=squashed[at]), out=h[start : start + rows])
        ctx.save_for_backward(x, w, u, gates, h, c, squashed)
        ctx.packed = packed
        return h[first:], h.index_select(0, packed.last), c.index_select(0, packed.last)

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: th.Tensor, d_hidden: th.Tensor, d_cell: th.Tensor) -> Any:
        """Return the gradients of all inputs."""
        x, w, u, gates, h, c, squashed = ctx.saved_tensors
        packed: PackedSteps = ctx.packed
        size, first, n_rows = u.shape[-1], packed.n_sequences, len(x)
        d_h = th.cat([d_out.new_zeros(first, size), d_out]).index_add_(0, packed.last, d_hidden)
        d_c = th.zeros_like(d_h).index_add_(0, packed.last, d_cell)
        i, f, g, o = gates.split(size, 1)
        d_gates = th.addcmul(gates, gates, gates, value=-1.0)  # the slopes of the sigmoids
        d_ifg, d_o = d_gates[:, : 3 * size].view(n_rows, 3, size), d_gates[:, 3 * size :]
        d_ifg[:, 0].mul_(g.mul(2.0).sub_(1.0))
        d_ifg[:, 1].mul_(c.index_select(0, packed.previous))
        d_ifg[:, 2].mul_(i).mul_(2.0)
        d_o.mul_(squashed)
        o_slope = th.addcmul(o, o * squashed, squashed, value=-1.0)  # o (1 - tanh(c)^2)
        for start, before, rows in reversed(packed.steps):
            at = slice(start - first, start - first + rows)
            now_h, now_c = d_h[start : start + rows], d_c[start : start + rows]
            now_c.addcmul_(now_h, o_slope[at])
            d_ifg[at].mul_(now_c.unsqueeze(1))
            d_o[at].mul_(now_h)
            th.mul(now_c, f[at], out=d_c[before : before + rows])
            d_h[before : before + rows].addmm_(d_gates[at], u)
        d_x = d_gates @ w if ctx.needs_input_grad[0] else None
        d_w = _scale_g(d_gates.t() @ x)
        d_u = _scale_g(d_gates.t() @ h.index_select(0, packed.previous))
        d_b = _scale_g(d_gates.sum(0))
        return d_x, d_h[:first], d_c[:first], d_w, d_u, d_b, d_b, None


def _scale_g(parameter: th.Tensor) -> th.Tensor:
    """Return ``(4 H, ...)`` with twice the third quarter."""
    scaled, quarter = parameter.clone(), len(parameter) // 4
    scaled[2 * quarter : 3 * quarter] *= 2.0
    return scaled
