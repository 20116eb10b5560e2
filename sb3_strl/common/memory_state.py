"""Hidden states of recurrent policies: explicit values that go in and come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_strl.common.errors import StrlValueError

MemoryState = th.Tensor | tuple[th.Tensor, th.Tensor]
"""State of one memory: ``(L, N, H)`` for a GRU, a pair (hidden, cell) of those for an LSTM."""


class PolicyState(NamedTuple):
    """
    The hidden states of a policy's memories, ``None`` for a part without memory.

    :param actor: of the actor's memory
    :param critic: of the critic's
    :param estimator: of the state estimator's
    :param adaptor: of the privilege adaptor's
    """

    actor: MemoryState | None = None
    critic: MemoryState | None = None
    estimator: MemoryState | None = None
    adaptor: MemoryState | None = None

    def map(self, function: Callable[[th.Tensor], th.Tensor]) -> PolicyState:
        """Apply a function to every tensor."""
        return PolicyState(*(None if part is None else map_state(function, part) for part in self))

    def updated(self, parts: Mapping[str, MemoryState | None]) -> PolicyState:
        """
        Return the state with some parts exchanged, as ``_replace``, which torch 2.8 cannot compile.

        :param parts: by name
        """
        return PolicyState(
            actor=parts.get("actor", self.actor),
            critic=parts.get("critic", self.critic),
            estimator=parts.get("estimator", self.estimator),
            adaptor=parts.get("adaptor", self.adaptor),
        )

    def reset(self, episode_starts: th.Tensor) -> PolicyState:
        """Return the state with zeros in the rows that start an episode, ``(N,)`` bool or int."""
        starts = (episode_starts != 0).view(1, -1, 1)
        return self.map(lambda leaf: leaf.masked_fill(starts, 0.0))  # NaN times zero is NaN

    def to_numpy(self) -> PolicyState:
        """Return the same with arrays, as SB3's ``predict`` hands states around."""
        convert: Any = lambda leaf: leaf.detach().cpu().numpy()  # noqa: E731
        return self.map(convert)

    @classmethod
    def from_any(cls, state: Any, device: th.device) -> PolicyState:
        """Return a state of tensors from what ``predict`` returned, arrays or tensors."""

        def part(value: Any) -> MemoryState | None:
            if value is None:
                return None
            if isinstance(value, (tuple, list)):
                hidden, cell = value
                return _to_tensor(hidden, device), _to_tensor(cell, device)
            return _to_tensor(value, device)

        return cls(*(part(value) for value in state))


def map_state(function: Callable[[th.Tensor], th.Tensor], state: MemoryState) -> MemoryState:
    """Apply a function to the tensors of one memory's state."""
    if isinstance(state, th.Tensor):
        return function(state)
    return function(state[0]), function(state[1])


def leaves(state: MemoryState) -> tuple[th.Tensor, ...]:
    """Return the tensors of one memory's state."""
    return (state,) if isinstance(state, th.Tensor) else state


def check_rows(state: PolicyState, n_envs: int) -> None:
    """
    Refuse the state of another number of environments.

    :raises StrlValueError: naming both numbers
    """
    for part in state:
        for leaf in () if part is None else leaves(part):
            if leaf.shape[1] != n_envs:
                raise StrlValueError(
                    f"predict: the state is that of {leaf.shape[1]} environments, but there are "
                    f"{n_envs} observations. Pass the state that the call before returned for the "
                    "same environments, or state=None when they begin."
                )


def _to_tensor(value: Any, device: th.device) -> th.Tensor:
    if isinstance(value, np.ndarray):
        return th.from_numpy(value).to(device)
    return th.as_tensor(value, device=device)
