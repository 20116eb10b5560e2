"""Counting operators and host transfers, which decide the speed of small networks and of GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch as th
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.learners.common import Peer, Setup

# Inference mode shows composite operators whole, hence the second and third name.
SCALAR_READS = frozenset(
    {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal"}
)
NO_OPERATORS = frozenset({"aten::lift_fresh", "aten::resolve_conj", "aten::resolve_neg"})
SIZED_BY_DATA = frozenset({"aten::nonzero", "aten::masked_select", "aten::_unique2"})
INDEXING = frozenset({"aten::index", "aten::index_put", "aten::index_put_"})
DOWNLOADS = frozenset({th.Tensor.numpy, th.Tensor.tolist, th.Tensor.__array__})
UPLOADS = frozenset({th.as_tensor, th.tensor})


@dataclass
class Tally:
    """
    What was counted.

    :param operators: operators dispatched below autograd, views included, the optimizer's not
    :param kernels: the same without views, roughly what a GPU would launch
    :param optimizer: operators inside the optimizer's step
    :param downloads: values read by the host (``item``, ``numpy``, ``tolist``, shapes that depend
        on data); on a CPU they cost little, on a GPU each waits for the device
    :param uploads: arrays turned into tensors
    """

    operators: int = 0
    kernels: int = 0
    optimizer: int = 0
    downloads: int = 0
    uploads: int = 0

    def minus(self, other: Tally) -> Tally:
        """Subtract, field by field."""
        return Tally(**{key: value - vars(other)[key] for key, value in vars(self).items()})


class OperatorCounter(TorchDispatchMode):
    """
    Counts operators and transfers while it is entered, but for those of the robots themselves.

    ``spans`` holds one tally per stretch between two steps of the robots: what a learner spends on
    storing one transition and choosing the next actions.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.tally = Tally()
        self.names: Counter[str] = Counter()
        self.spans: list[Tally] = []
        self.paused = False
        self.in_optimizer = False
        self._span_start: Tally | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the operator and run it."""
        if not self.paused:
            self._count(func, args)
        return func(*args, **(kwargs or {}))

    def step_begins(self) -> None:
        """Close the span that this step of the robots ends."""
        if self._span_start is not None:
            self.spans.append(self.tally.minus(self._span_start))
        self.paused = True

    def step_ends(self) -> None:
        """Open the next span."""
        self.paused = False
        self._span_start = replace(self.tally)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside."""
        before = register_optimizer_step_pre_hook(self._enter_optimizer)
        after = register_optimizer_step_post_hook(self._leave_optimizer)
        try:
            with _HostFunctions(self), self:
                yield
        finally:
            before.remove()
            after.remove()

    def _count(self, func: Any, args: tuple[Any, ...]) -> None:
        name: str = func._schema.name
        if name in NO_OPERATORS or name.startswith("profiler::"):
            return
        self.names[name] += 1
        if self.in_optimizer:
            # Adam keeps its step counts on the host: reading them waits for nobody.
            self.tally.optimizer += 1
            return
        self.tally.operators += 1
        self.tally.kernels += not func.is_view
        self.tally.downloads += _reads_host(name, args)

    def _enter_optimizer(self, *_: Any) -> None:
        self.in_optimizer = True

    def _leave_optimizer(self, *_: Any) -> None:
        self.in_optimizer = False


class _HostFunctions(TorchFunctionMode):
    """Sees the transfers that are no operators."""

    def __init__(self, counter: OperatorCounter) -> None:
        TorchFunctionMode.__init__(self)
        self.counter = counter

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not self.counter.paused:
            self.counter.tally.downloads += func in DOWNLOADS
            self.counter.tally.uploads += func in UPLOADS
        return func(*args, **(kwargs or {}))


def _reads_host(name: str, args: tuple[Any, ...]) -> bool:
    if name in SCALAR_READS or name in SIZED_BY_DATA:
        return True
    if name not in INDEXING:
        return False
    indices = args[1]
    return any(isinstance(index, th.Tensor) and index.dtype is th.bool for index in indices)


@dataclass(frozen=True)
class OperatorReport:
    """
    Operators of one peer.

    :param per_step: mean over the stretches between two environment steps
    :param per_minibatch: slope of the update in the number of minibatches
    """

    per_step: dict[str, float]
    per_minibatch: dict[str, float]


def count_operators(make: Callable[[Setup], Peer], setup: Setup) -> OperatorReport:
    """
    Count what a peer dispatches per environment step and per minibatch.

    :param make: builds the peer
    :param setup: what all peers share; the number of epochs is chosen here
    :return: the counts
    """
    short = _count_iteration(make, replace(setup, n_epochs=1))
    long = _count_iteration(make, replace(setup, n_epochs=3))
    spans = long[0].spans
    update = long[1].tally.minus(short[1].tally)
    minibatches = 2 * setup.n_minibatches
    return OperatorReport(
        {key: mean(vars(span)[key] for span in spans) for key in vars(Tally())},
        {key: value / minibatches for key, value in vars(update).items()},
    )


def _count_iteration(
    make: Callable[[Setup], Peer], setup: Setup
) -> tuple[OperatorCounter, OperatorCounter]:
    peer = make(setup)
    # The first iteration allocates what later ones find.
    peer.collect()
    peer.update()
    rollout, update = OperatorCounter(), OperatorCounter()
    peer.robots.counting = rollout
    with rollout.counting():
        peer.collect()
    peer.robots.counting = None
    with update.counting():
        peer.update()
    return rollout, update
