"""Which environment walks through which frames of which trajectory, and when."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sb3_strl.data.stored_trajectory import StoredTrajectory


@dataclass(frozen=True)
class Span:
    """
    Frames that one environment walks through without a break.

    :param trajectory: whose frames
    :param start: first frame
    :param begin: step at which the first frame is due, counted from the last reset
    :param stop: step after the last frame
    :param padding: whether the frames only keep the batch full after the data ran out
    """

    trajectory: StoredTrajectory
    start: int
    begin: int
    stop: int
    padding: bool


class WalkPlan:
    """
    Hands out trajectories in order: whoever has come to an end takes the next one.

    Everything is decided from lengths alone, ahead of time and without opening a file.

    :param n_envs: how many walk at once
    :param draw_pass: returns the trajectories of the next pass, in order; may be none
    :param loops: passes; below 1 without end
    :param starting_frame_range: half-open range of the frame at which a walk begins; 0 where it is
        beyond the trajectory
    :param rng: source of randomness
    :param drop_last: end as soon as somebody finds no trajectory, instead of when all are walked
    """

    def __init__(
        self,
        n_envs: int,
        draw_pass: Callable[[], Sequence[StoredTrajectory]],
        loops: int,
        starting_frame_range: tuple[int, int],
        rng: np.random.Generator,
        drop_last: bool,
    ) -> None:
        self._draw_pass = draw_pass
        self._loops = loops
        self._range = starting_frame_range
        self._rng = rng
        self._drop_last = drop_last
        self._queue: deque[tuple[StoredTrajectory, int]] = deque()
        self._known: list[StoredTrajectory] = []
        self._due = [(0, env) for env in range(n_envs)]
        self._last_stop = 0
        self.spans: list[deque[Span]] = [deque() for _ in range(n_envs)]
        self.passes = 0
        self.end: int | None = None

    def extend(self, until: int) -> None:
        """
        Plan on, at least to a step.

        :param until: step up to which every environment has something to walk
        """
        while self._due[0][0] < until:
            time, env = self._due[0]
            entry = self._next()
            if entry is None:
                if self.end is None:
                    self.end = time if self._drop_last else self._last_stop
                if not self._known:
                    return
                entry = self._known[int(self._rng.integers(len(self._known)))], 0
            padding = self.end is not None
            trajectory, start = entry
            stop = time + trajectory.length - start
            self.spans[env].append(Span(trajectory, start, time, stop, padding))
            if not padding:
                self._last_stop = max(self._last_stop, stop)
            heapq.heapreplace(self._due, (stop, env))

    def forget(self, before: int) -> None:
        """Drop what lies behind."""
        for spans in self.spans:
            while spans and spans[0].stop <= before:
                spans.popleft()

    def leave(self, envs: Sequence[int], time: int) -> None:
        """
        Let environments leave their trajectories; those they have not yet begun go to others.

        :param envs: who leaves
        :param time: from which step on
        """
        returned: list[Span] = []
        for env in envs:
            spans = self.spans[env]
            while spans and spans[-1].begin >= time:
                span = spans.pop()
                if not span.padding:
                    returned.append(span)
            if spans and spans[-1].stop > time:
                spans[-1] = replace(spans[-1], stop=time)
        returned.sort(key=lambda span: span.begin, reverse=True)
        self._queue.extendleft((span.trajectory, span.start) for span in returned)
        stops = (span.stop for spans in self.spans for span in spans if not span.padding)
        self._last_stop = max(stops, default=time)
        self._due = [(t, env) for t, env in self._due if env not in envs]
        self._due += [(time, env) for env in envs]
        heapq.heapify(self._due)
        if self.end is not None:
            self.end = None if self._queue or self._drop_last else self._last_stop

    def _next(self) -> tuple[StoredTrajectory, int] | None:
        """Take the next trajectory and draw where the walk begins."""
        if not self._queue:
            if self._loops >= 1 and self.passes >= self._loops:
                return None
            self.passes += 1
            self._known = list(self._draw_pass())
            self._queue.extend((trajectory, self._start(trajectory)) for trajectory in self._known)
        return self._queue.popleft() if self._queue else None

    def _start(self, trajectory: StoredTrajectory) -> int:
        low, high = self._range
        start = int(self._rng.integers(low, high)) if high - low > 1 else low
        return start if start < trajectory.length else 0
