"""Timing of peers side by side: one iteration each per round, in random order."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from benchmarks.learners.common import Peer
from sb3_strl.cli.console import progress


@dataclass(frozen=True)
class Iteration:
    """
    What one iteration cost.

    :param collect_s: wall time of the rollout, with advantages and returns, s
    :param update_s: wall time of the epochs, s
    :param cpu_s: processor time of both, all threads together, s
    """

    collect_s: float
    update_s: float
    cpu_s: float

    @property
    def iteration_s(self) -> float:
        """Wall time of both, s."""
        return self.collect_s + self.update_s


@dataclass(frozen=True)
class Quartiles:
    """
    Median and quartiles of a sample.

    :param q25: first quartile
    :param median: second quartile
    :param q75: third quartile
    """

    q25: float
    median: float
    q75: float


def quartiles(sample: Sequence[float]) -> Quartiles:
    """
    Summarise a sample.

    :param sample: one number per round
    :return: its quartiles
    """
    low, middle, high = np.percentile(np.asarray(sample), [25, 50, 75])
    return Quartiles(float(low), float(middle), float(high))


def paired_ratios(
    ours: Sequence[Iteration], theirs: Sequence[Iteration], cost: Callable[[Iteration], float]
) -> Quartiles:
    """
    Compare two peers round by round, so that whatever slows a whole round cancels.

    :param ours: numerator, one iteration per round
    :param theirs: denominator, the same rounds
    :param cost: which cost of an iteration to compare
    :return: quartiles of the ratios
    """
    return quartiles([cost(a) / cost(b) for a, b in zip(ours, theirs, strict=True)])


def time_iteration(peer: Peer, device: th.device) -> Iteration:
    """
    Run one iteration.

    :param peer: who runs it
    :param device: waited for before the clock is read, if it is an accelerator
    :return: what it cost
    """
    _wait_for(device)
    cpu = time.process_time()
    start = time.perf_counter()
    peer.collect()
    _wait_for(device)
    middle = time.perf_counter()
    peer.update()
    _wait_for(device)
    end = time.perf_counter()
    return Iteration(middle - start, end - middle, time.process_time() - cpu)


def run_rounds(
    peers: Sequence[Peer], rounds: int, warmup: int, device: th.device, seed: int = 0
) -> dict[str, list[Iteration]]:
    """
    Run every peer once per round, in an order drawn anew for every round.

    :param peers: who is compared
    :param rounds: rounds that count
    :param warmup: rounds before them that do not
    :param device: where the peers compute
    :param seed: of the orders
    :return: iterations of every peer, in the order of the rounds
    """
    order = list(peers)
    draw = random.Random(seed)
    results: dict[str, list[Iteration]] = {peer.name: [] for peer in peers}
    with progress(warmup + rounds, "rounds") as advance:
        for number in range(warmup + rounds):
            draw.shuffle(order)
            for peer in order:
                gc.collect()  # garbage of one peer is not cleared away on the next one's time
                iteration = time_iteration(peer, device)
                if number >= warmup:
                    results[peer.name].append(iteration)
            advance(1)
    return results


def _wait_for(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.synchronize(device)
