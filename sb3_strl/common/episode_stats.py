"""Returns and lengths of episodes, accumulated on the device and read once per rollout."""

from __future__ import annotations

import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.common.types import TensorDict

_MIN_CAPACITY = 32


class EpisodeStats:
    """
    What ``Monitor`` counts, for a batch of environments, without a transfer in any step.

    Every :meth:`update` writes one row ``(dones, returns, lengths)`` of a table that is allocated
    once; :meth:`flush` brings the table to the host in one piece and picks the finished episodes.
    The table has room for ``n_steps`` rows and doubles if a rollout is longer.

    :param n_envs: number of environments
    :param device: where the tensors live
    :param n_steps: steps between two calls of :meth:`flush`
    :raises StrlValueError: if a number is not positive
    """

    def __init__(
        self, n_envs: int, device: th.device | str = "cpu", n_steps: int = _MIN_CAPACITY
    ) -> None:
        if n_envs < 1 or n_steps < 1:
            raise StrlValueError(
                f"EpisodeStats: n_envs is {n_envs} and n_steps is {n_steps}. Expected at least 1 "
                "each."
            )
        self.n_envs = n_envs
        self.device = th.device(device)
        self.returns = th.zeros(n_envs, device=self.device)
        self.lengths = th.zeros(n_envs, device=self.device)
        self._table = th.zeros((n_steps, 3, n_envs), device=self.device)  # (T, [done, r, l], N)
        self._n_rows = 0

    @property
    def capacity(self) -> int:
        """Steps that fit before the table grows."""
        return self._table.shape[0]

    @property
    def last_returns(self) -> th.Tensor:
        """Return of every episode up to and including the last step, ``(n_envs,)``; a view."""
        return self._table[self._n_rows - 1, 1]

    @property
    def last_lengths(self) -> th.Tensor:
        """Length of every episode up to and including the last step, ``(n_envs,)``; a view."""
        return self._table[self._n_rows - 1, 2]

    def reset(self) -> None:
        """Forget everything: all environments start anew."""
        self.returns.zero_()
        self.lengths.zero_()
        self._n_rows = 0

    @th.no_grad()
    def update(self, rewards: th.Tensor, dones: th.Tensor) -> None:
        """
        Count one step.

        :param rewards: ``(n_envs,)``, of the task, before any shaping
        :param dones: ``(n_envs,)``, bool, whether the episode ended
        """
        if self._n_rows == self.capacity:
            self._table = th.cat([self._table, th.zeros_like(self._table)])
        self.returns.add_(rewards)
        self.lengths.add_(1.0)
        row = self._table[self._n_rows]
        row[0].copy_(dones)
        row[1].copy_(self.returns)
        row[2].copy_(self.lengths)
        self.returns.masked_fill_(dones, 0.0)
        self.lengths.masked_fill_(dones, 0.0)
        self._n_rows += 1

    def flush(self) -> list[dict[str, float]]:
        """
        Return the episodes that ended since the last call, in the order in which they ended.

        :return: ``{"r": return, "l": length}`` each, as ``ep_info_buffer`` of SB3 holds them
        """
        table = self._table[: self._n_rows].cpu()
        self._n_rows = 0
        finished = table.permute(0, 2, 1).reshape(-1, 3)
        finished = finished[finished[:, 0] > 0]
        return [{"r": r, "l": int(length)} for _, r, length in finished.tolist()]

    def state_dict(self) -> TensorDict:
        """Return copies of all tensors, those of the unread steps included."""
        return {
            "returns": self.returns.clone(),
            "lengths": self.lengths.clone(),
            "table": self._table[: self._n_rows].clone(),
        }

    def load_state_dict(self, state: TensorDict) -> None:
        """
        Continue where :meth:`state_dict` was called.

        :param state: of as many environments; any device
        :raises StrlKeyError: if an entry is missing
        :raises StrlValueError: if it belongs to another number of environments
        """
        expected = ["returns", "lengths", "table"]
        missing = [name for name in expected if name not in state]
        if missing:
            raise StrlKeyError(
                f"EpisodeStats: the state lacks {missing}. Expected {expected}, as state_dict() "
                "returns."
            )
        n_envs = state["returns"].shape[0]
        if n_envs != self.n_envs:
            raise StrlValueError(
                f"EpisodeStats: the state belongs to {n_envs} environments. Expected "
                f"{self.n_envs}. Load it into statistics of as many environments, or call reset()."
            )
        self.returns.copy_(state["returns"])
        self.lengths.copy_(state["lengths"])
        rows = state["table"].to(self.device)
        if len(rows) > self.capacity:
            self._table = th.zeros_like(rows)
        self._table[: len(rows)] = rows
        self._n_rows = len(rows)
