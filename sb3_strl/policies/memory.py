"""Recurrent memory as a stage: state goes in and comes out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch as th
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sb3_strl.common.errors import StrlValueError, check_known, suggest
from sb3_strl.common.memory_state import MemoryState
from sb3_strl.policies.packed_lstm import PackedLSTM, PackedSteps

_CLASSES: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
_MAX_PADDING = {"lstm": 1.25, "gru": 3.0}
"""On a CPU, outputs are computed in a rectangle of up to this multiple of the samples. PyTorch's
rectangular LSTM is a quarter faster than ours per row, its packed GRU three times slower."""


@dataclass(frozen=True, kw_only=True)
class MemorySpec:
    """
    The memory between encoders and trunk.

    :param type: ``"lstm"`` or ``"gru"``
    :param hidden_size: width H of state and output
    :param num_layers: layers L
    :param critic: give the critic a memory of its own; without one it values single observations
    """

    type: str = "lstm"
    hidden_size: int = 256
    num_layers: int = 1
    critic: bool = True

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> MemorySpec:
        """
        Build from plain data.

        :raises StrlTypeError: on an unknown key
        :raises StrlValueError: on an unknown type or a size that is not positive
        """
        check_known("MemorySpec", "key", given, [item.name for item in fields(cls)])
        spec = cls(**given)
        kind = str(spec.type).lower()
        if kind not in _CLASSES:
            raise StrlValueError(
                f"MemorySpec: unknown type '{spec.type}'.{suggest(kind, _CLASSES)} Known types: "
                f"{list(_CLASSES)}."
            )
        if spec.hidden_size < 1 or spec.num_layers < 1:
            raise StrlValueError(
                f"MemorySpec: hidden_size is {spec.hidden_size} and num_layers {spec.num_layers}. "
                "Both must be positive."
            )
        return cls(
            type=kind,
            hidden_size=int(spec.hidden_size),
            num_layers=int(spec.num_layers),
            critic=spec.critic,
        )


class Memory(nn.Module):
    """
    An LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014) without hidden state of its
    own.

    One step of N environments and whole sequences are the same function: sequences come *packed*,
    that is all first steps, then all second steps of those that are longer than one, and so on,
    longest sequence first. Every row is a sample, so no padding reaches losses or statistics.

    :param input_size: width of the input
    :param spec: kind and size
    """

    def __init__(self, input_size: int, spec: MemorySpec) -> None:
        super().__init__()
        _leave_uncompiled()
        self.spec = spec
        self.rnn = _CLASSES[spec.type](int(input_size), spec.hidden_size, spec.num_layers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _leave_uncompiled()

    @property
    def output_size(self) -> int:
        """Width of the output."""
        return self.spec.hidden_size

    def initial_state(self, n_envs: int) -> MemoryState:
        """Return zeros, ``(L, n_envs, H)``."""
        weight = next(self.rnn.parameters())
        shape = (self.spec.num_layers, n_envs, self.spec.hidden_size)
        if self.spec.type == "gru":
            return weight.new_zeros(shape)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def forward(
        self,
        x: th.Tensor,
        state: MemoryState,
        batch_sizes: th.Tensor | None = None,
        keep_state: bool = True,
    ) -> tuple[th.Tensor, MemoryState | None]:
        """
        Advance the memory.

        :param x: ``(N, input_size)``: one step of N environments; or packed ``(B, input_size)``
        :param state: ``(L, N, H)`` before the step, or before every sequence
        :param batch_sizes: host tensor ``(S,)``: how many sequences have an s-th step; ``None`` for
            one step
        :param keep_state: whether anybody wants the state after sequences; outputs alone are faster
        :return: output ``(N, H)`` or ``(B, H)``, and the state after the last step (of each
            sequence), or ``None``
        """
        if batch_sizes is None:
            output, state = self.rnn(x.unsqueeze(0), state)
            return output.squeeze(0), state
        shape = len(batch_sizes), int(batch_sizes.numpy()[0])  # on the host: nobody waits
        if shape[0] * shape[1] == len(x):
            output, state = self.rnn(x.view(*shape, -1), state)
            return output.flatten(0, 1), state
        if x.device.type == "cpu":
            padding = shape[0] * shape[1] / len(x)
            if not keep_state and padding <= _MAX_PADDING[self.spec.type]:
                return self._padded(x, state, PackedSteps(batch_sizes)), None
            if isinstance(state, tuple):
                return self._lstm(x, state, PackedSteps(batch_sizes))
        packed, state = self.rnn(PackedSequence(x, batch_sizes), state)
        return packed.data, state

    def _lstm(
        self, x: th.Tensor, state: tuple[th.Tensor, th.Tensor], steps: PackedSteps
    ) -> tuple[th.Tensor, MemoryState]:
        """Run packed rows through the layers in closed form."""
        after = []
        for layer, weights in enumerate(self.rnn.all_weights):
            run: Any = PackedLSTM.apply
            x, *end = run(x, state[0][layer], state[1][layer], *weights, steps)
            after.append(end)
        hidden, cell = zip(*after, strict=True)
        return x, (th.stack(hidden), th.stack(cell))

    def _padded(self, x: th.Tensor, state: MemoryState, steps: PackedSteps) -> th.Tensor:
        """Run packed rows through a rectangle whose unused tail is zero."""
        n_steps, count = steps.shape
        padded = x.new_zeros(n_steps * count, x.shape[-1]).index_copy(0, steps.cells, x)
        output: th.Tensor = self.rnn(padded.view(n_steps, count, -1), state)[0]
        return output.flatten(0, 1).index_select(0, steps.cells)


@functools.cache
def _leave_uncompiled() -> None:
    """Tell the compiler at the first memory; it takes a second to import, which others save."""
    Memory.forward = th.compiler.disable(Memory.forward)  # type: ignore[method-assign]
