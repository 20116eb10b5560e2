"""Recorded transitions as a stream of batches: what every file format has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch as th
from stable_baselines3.common.utils import get_device
from torch.utils.data import IterableDataset

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict


class Transition(NamedTuple):
    """
    What happened in ``N`` recorded environments, in one step or, with a leading ``n``, in several.

    :param observation: ``(N, obs_dim)``, before the step
    :param privileged_observation: ``(N, critic_dim)``; the observation where none was recorded
    :param action: ``(N, *action_shape)``
    :param reward: ``(N,)``
    :param done: ``(N,)``, bool, true in the last frame of a trajectory only
    :param timeout: ``(N,)``, bool, the trajectory was cut there, by a time limit or by the end of
        the recording
    :param next_observation: ``(N, obs_dim)``, after the step and before any reset
    :param next_privileged_observation: ``(N, critic_dim)``, the same for the critic
    :param padding: ``(N,)``, bool, true in rows that only keep the batch full after the data of a
        finite dataset ran out: they repeat others
    :param extras: further fields as they were recorded; other groups of observations are there as
        ``"obs/<group>"`` and ``"next_obs/<group>"``
    """

    observation: th.Tensor
    privileged_observation: th.Tensor
    action: th.Tensor
    reward: th.Tensor
    done: th.Tensor
    timeout: th.Tensor
    next_observation: th.Tensor
    next_privileged_observation: th.Tensor
    padding: th.Tensor
    extras: TensorDict

    def map(self, function: Callable[[th.Tensor], th.Tensor]) -> Transition:
        """Return the transition with a function applied to every tensor."""
        mapped = {name: function(value) for name, value in self.named().items()}
        extras = {name: function(value) for name, value in self.extras.items()}
        return Transition(**mapped, extras=extras)

    def named(self) -> TensorDict:
        """Return all tensors by name but the extras."""
        return dict(zip(self._fields[:-1], self[:-1], strict=True))


class RolloutFileBase(IterableDataset[Transition], ABC):
    """
    A stream of recorded transitions of ``num_envs`` environments side by side.

    Use it as an iterator (one step per item), in a ``DataLoader`` with ``batch_size=None``, or like
    an environment with :meth:`reset` and :meth:`get_transition_batch`. The first use resets it.
    Every batch is a fresh one, nobody writes into it again. A subclass says how frames are found;
    in a worker process tensors stay on the CPU whatever the device.

    :param data_dir: folder or folders with the recordings
    :param num_envs: rows N of a batch, > 0
    :param device: where batches are put, ``"auto"`` for the accelerator if there is one
    :raises StrlValueError: if ``num_envs`` is not positive
    """

    def __init__(
        self,
        data_dir: str | Path | Sequence[str | Path],
        num_envs: int,
        device: th.device | str = "auto",
    ) -> None:
        super().__init__()
        if num_envs < 1:
            raise StrlValueError(
                f"{type(self).__name__}: num_envs is {num_envs}. Expected at least 1."
            )
        given = [data_dir] if isinstance(data_dir, str | Path) else data_dir
        self.data_dirs = [Path(folder) for folder in given]
        self.num_envs = num_envs
        self.device = get_device(device)
        self._started = False

    @abstractmethod
    def reset_all(self) -> None:
        """Begin anew with every environment."""

    @abstractmethod
    def refresh_handlers(self, env_ids: Sequence[int]) -> None:
        """
        Send some environments to new trajectories.

        :param env_ids: which ones
        """

    @abstractmethod
    def get_buffer(self, n: int) -> Transition:
        """
        Return fresh, empty tensors ``(n, N, ...)`` for ``n`` steps.

        :param n: number of steps
        """

    @abstractmethod
    def fill_transition(self, buffer: Transition, step: int) -> None:
        """
        Write the next frame of every environment into a row of a buffer and go one step on.

        :param buffer: what :meth:`get_buffer` returned
        :param step: row of the buffer
        :raises StopIteration: if the data has come to its end
        """

    def reset(self, env_ids: Sequence[int] | th.Tensor | None = None) -> None:
        """
        Let environments leave their trajectories and begin new ones.

        :param env_ids: which ones; all, or ``None``, begin the dataset anew
        :raises StrlValueError: if there is no such environment
        """
        ids = range(self.num_envs) if env_ids is None else sorted({int(i) for i in env_ids})
        wrong = [i for i in ids if not 0 <= i < self.num_envs]
        if wrong:
            raise StrlValueError(
                f"{type(self).__name__}.reset: there are no environments {wrong}. Expected "
                f"numbers from 0 to {self.num_envs - 1}."
            )
        if len(ids) == self.num_envs:
            self.reset_all()
            self._started = True
        elif ids:
            self._start()
            self.refresh_handlers(ids)

    def get_batch(self, n: int | None = None) -> Transition:
        """
        Return the next step, or the next ``n`` steps, of every environment.

        :param n: number of steps; ``None`` for one step without a leading dimension
        :return: tensors ``(N, ...)``, or ``(n, N, ...)``, fewer than ``n`` where the data ends
        :raises StopIteration: if the data has come to its end
        """
        if n is not None and n < 1:
            raise StrlValueError(
                f"{type(self).__name__}.get_batch: n is {n}. Expected at least 1 step, or None."
            )
        self._start()
        steps = 1 if n is None else n
        buffer = self.get_buffer(steps)
        filled = 0
        while filled < steps:
            try:
                self.fill_transition(buffer, filled)
            except StopIteration:
                if not filled:
                    raise
                break
            filled += 1
        if n is None:
            return buffer.map(lambda tensor: tensor[0])
        return buffer if filled == steps else buffer.map(lambda tensor: tensor[:filled])

    def get_transition_batch(self) -> tuple[Transition, TensorDict]:
        """
        Return the next step of every environment and which of them were cut there.

        :return: the transition, ``{"time_outs": (N,) bool}``
        :raises StopIteration: if the data has come to its end
        """
        transition = self.get_batch()
        return transition, {"time_outs": transition.timeout.clone()}

    def _start(self) -> None:
        if not self._started:
            self.reset()

    def __iter__(self) -> RolloutFileBase:
        self.reset()
        return self

    def __next__(self) -> Transition:
        return self.get_batch()
