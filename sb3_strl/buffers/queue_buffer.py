"""A rollout, and older ones behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch as th

from sb3_strl.buffers.dilated_queue import DilatedQueue
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.devices import fetch_rows
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict


class QueueRolloutBuffer(RolloutBuffer):
    r"""
    RolloutBuffer that does not forget: the last :math:`\lfloor r T \rfloor` steps of all fields.

    It is a buffer of T steps in every respect: ``get``, ``get_sequences`` and PPO see the newest
    rollout, and advantages and returns are computed from it alone. :meth:`reset` moves a complete
    rollout behind it, where every step keeps the advantages, returns, values, log-probabilities and
    masks that it had: they belong to the weights of that time.
    :class:`~sb3_strl.algorithms.TPPO` does not need it, its ``buffer_dilation_ratio``
    keeps the fields that are imitated.

    :param buffer_size: T
    :param args: as :class:`RolloutBuffer`
    :param buffer_dilation_ratio: :math:`r \ge 1`
    :param kwargs: as :class:`RolloutBuffer`; unknown ones are refused there
    :raises StrlValueError: if the ratio is less than 1
    """

    def __init__(
        self, buffer_size: int, *args: Any, buffer_dilation_ratio: float = 1.0, **kwargs: Any
    ) -> None:
        self.queue = DilatedQueue(buffer_dilation_ratio, buffer_size, "QueueRolloutBuffer")
        super().__init__(buffer_size, *args, **kwargs)

    def reset(self) -> None:
        """Start a new rollout; a complete one goes into the queue."""
        if self.full and self.queue.capacity > self.buffer_size:
            self.queue.push(self, list(self.fields))
        super().reset()

    @property
    def n_old(self) -> int:
        """Steps that are older than the newest rollout."""
        return min(self.queue.size, self.queue.capacity - self.buffer_size)

    def untie_buffer_loop(self) -> TensorDict:
        """
        Return all valid steps of every field, ``(n_old + T, N, ...)``, oldest first; copies.

        Between the oldest steps and what was forgotten before them, nothing says whether an episode
        was under way: sequences for a memory begin with zeros there.

        :raises StrlValueError: if the newest rollout is not complete
        """
        self._require_full()
        if not self.n_old:
            return {name: self[name].clone() for name in self.fields}
        old = self.queue.latest(self.n_old)
        return {name: th.cat([old[name], self[name]]) for name in self.fields}

    def get_all(
        self, batch_size: int | None = None, generator: th.Generator | None = None
    ) -> Iterator[TensorDict]:
        """
        Yield one epoch of minibatches over all valid steps; every sample exactly once.

        :param batch_size: rows per minibatch, default all; the last one may be smaller
        :param generator: source of the permutation
        :return: every field by name, ``(B, ...)``
        :raises StrlValueError: if the newest rollout is not complete, or the size is not positive
        """
        if batch_size is not None and batch_size < 1:
            raise StrlValueError(
                f"QueueRolloutBuffer: batch_size is {batch_size}. It must be positive."
            )
        flat = {name: value.flatten(0, 1) for name, value in self.untie_buffer_loop().items()}
        total = (self.n_old + self.buffer_size) * self.n_envs
        order = th.randperm(total, generator=generator, device=self.device)
        for rows in order.split(batch_size or total):
            yield {name: fetch_rows(value, rows, self.device) for name, value in flat.items()}
