"""More steps than one rollout, for losses that do not mind old data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th

from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.devices import n_bytes
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict


class DilatedQueue:
    r"""
    The last :math:`\lfloor r T \rfloor` steps of some fields, oldest first.

    It grows by a rollout of T steps at a time until it is full, then forgets the oldest steps. The
    newest T steps are those of the rollout buffer, from which alone advantages and returns are
    computed; the rest is :meth:`old`, which holds what was true when it was stored.

    :param ratio: :math:`r \ge 1`
    :param n_steps: T
    :param where: who complains
    :raises StrlValueError: if the ratio is less than 1
    """

    def __init__(self, ratio: float, n_steps: int, where: str = "DilatedQueue") -> None:
        if not ratio >= 1.0:
            raise StrlValueError(
                f"{where}: buffer_dilation_ratio is {ratio}. It must be at least 1: 1 for one "
                "rollout, 2 to keep another one, and so on."
            )
        self.n_steps = n_steps
        self.capacity = int(ratio * n_steps)
        self.size = 0
        self._fields: TensorDict = {}

    @property
    def n_old(self) -> int:
        """Steps beside the newest rollout."""
        return max(0, self.size - self.n_steps)

    def push(self, buffer: RolloutBuffer, names: Sequence[str]) -> None:
        """
        Append a complete rollout.

        :param buffer: of T steps
        :param names: fields to keep
        """
        kept = self.capacity - self.n_steps
        known = {name: value.shape[1:] for name, value in self._fields.items()}
        if known != {name: buffer[name].shape[1:] for name in names}:
            self._fields = {
                name: buffer[name].new_zeros((self.capacity, *buffer[name].shape[1:]))
                for name in names
            }
            self.size = 0
        for name, storage in self._fields.items():
            storage[:kept].copy_(storage[self.n_steps :].clone())
            storage[kept:].copy_(buffer[name])
        self.size = min(self.size + self.n_steps, self.capacity)

    def old(self) -> TensorDict:
        """Return the steps before the newest rollout, ``(n_old, N, ...)``, oldest first."""
        stop = self.capacity - self.n_steps
        return {name: value[stop - self.n_old : stop] for name, value in self._fields.items()}

    def latest(self, n: int) -> TensorDict:
        """Return the last ``n`` steps, the newest rollout included, ``(n, N, ...)``."""
        return {name: value[self.capacity - n :] for name, value in self._fields.items()}

    @property
    def n_bytes(self) -> int:
        """Size of what is held, in bytes; 0 before the first rollout."""
        return n_bytes(self._fields.values())

    def state_dict(self) -> dict[str, th.Tensor]:
        """Return the contents, copies."""
        size = {"size": th.tensor(self.size)}
        return {**size, **{f"field/{name}": v.clone() for name, v in self._fields.items()}}

    def load_state_dict(self, state: Mapping[str, th.Tensor], strict: bool = True) -> None:
        """
        Continue from saved contents; those of a queue of another length are forgotten.

        :param state: what :meth:`state_dict` returned
        :param strict: without effect, here for SB3, which passes it to everything it loads
        """
        del strict
        fields = {
            name.removeprefix("field/"): value.clone()
            for name, value in state.items()
            if name.startswith("field/")
        }
        fits = all(len(value) == self.capacity for value in fields.values())
        self._fields = fields if fits else {}
        self.size = int(state["size"]) if fits else 0
