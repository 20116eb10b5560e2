"""Averages over the minibatches of an update that cross to the host once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th

from sb3_strl.common import distributed


class UpdateStatistics:
    """
    Running means of named device scalars.

    :param names: what the scalars are, in order
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._total: th.Tensor | None = None
        self._count = 0

    def reset(self) -> None:
        """Forget everything."""
        self._total = None
        self._count = 0

    def add(self, values: th.Tensor) -> None:
        """Add one minibatch, ``(len(names),)``, detached."""
        self._total = values.clone() if self._total is None else self._total.add_(values)
        self._count += 1

    def means(self) -> dict[str, float]:
        """
        Return the means over minibatches and processes, none before the first minibatch.

        One host transfer.
        """
        if self._total is None:
            return {}
        return dict(
            zip(self.names, distributed.mean(self._total / self._count).tolist(), strict=True)
        )


def means_of(scalars: Mapping[str, th.Tensor]) -> list[float]:
    """
    Return device scalars as numbers, their means over the processes; one host transfer.

    :param scalars: 0-d each, the same names in every process; at least one
    """
    means: list[float] = distributed.mean(th.stack(list(scalars.values()))).tolist()
    return means


@th.no_grad()
def explained_variance(values: th.Tensor, returns: th.Tensor) -> th.Tensor:
    """Return :math:`1 - Var(R - V) / Var(R)`, NaN where the returns are constant; a 0-d tensor."""
    variance = returns.var(unbiased=False)
    explained = 1.0 - (returns - values).var(unbiased=False) / variance
    return th.where(variance == 0.0, th.full_like(variance, th.nan), explained)
