"""Averages over the minibatches of an update that cross to the host once."""

from __future__ import annotations

import torch as th


class UpdateStatistics:
    """
    Running means of named device scalars.

    :param device: where the scalars live
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._names: tuple[str, ...] = ()
        self._total: th.Tensor | None = None
        self._count = 0

    def reset(self) -> None:
        """Forget everything."""
        self._total = None
        self._count = 0

    @th.no_grad()
    def add(self, values: dict[str, th.Tensor]) -> None:
        """Add one minibatch: 0-d tensors by name, the same names every time."""
        stacked = th.stack([value.detach() for value in values.values()])
        if self._total is None:
            self._names = tuple(values)
            self._total = stacked
        else:
            self._total.add_(stacked)
        self._count += 1

    def means(self) -> dict[str, float]:
        """Return the means; one host transfer."""
        if self._total is None:
            return {}
        return dict(zip(self._names, (self._total / self._count).tolist(), strict=True))
