"""Cutting rollouts into the sequences that a memory is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import PolicyState

_Ints = npt.NDArray[np.int64]


class Sequences(NamedTuple):
    """
    How the rows of a minibatch follow one another: packed, longest sequence first.

    :param batch_sizes: host tensor ``(S,)``: how many of the Q sequences have an s-th step
    :param state: state before every sequence, ``(L, Q, H)`` each; zero at the start of an episode
    """

    batch_sizes: th.Tensor
    state: PolicyState


@dataclass(frozen=True)
class SequencePlan:
    """
    Sequences of one or several chunks of a rollout of T steps and N environments.

    Rows are numbered ``t * N + n``. A *chunk* is one environment during ``length`` consecutive
    steps; within it a new sequence begins wherever an episode does.

    :param rows: ``(B,)``, rows in packed order
    :param batch_sizes: host tensor ``(S,)``
    :param heads: ``(Q,)``, first row of every sequence
    :param tails: ``(Q,)``, last row of every sequence
    :param final: place among the Q of the sequence that ends a chunk, in the order of the chunks
    """

    rows: th.Tensor
    batch_sizes: th.Tensor
    heads: th.Tensor
    tails: th.Tensor
    final: th.Tensor

    def as_sequences(self, state: PolicyState) -> Sequences:
        """Return the sequences with the hidden states before them, ``(L, Q, H)``."""
        return Sequences(self.batch_sizes, state)


class EpisodeMap:
    """
    Where episodes begin in a rollout, on the host; made once per rollout.

    :param episode_starts: ``(T, N)`` bool, whether the observation is the first of its episode
    :param length: steps after which a sequence is cut anyway
    """

    def __init__(self, episode_starts: th.Tensor, length: int) -> None:
        starts = episode_starts.cpu().numpy().astype(bool)
        self.device = episode_starts.device
        self.n_steps, self.n_envs = starts.shape
        self.length = length
        self.n_chunks = -(-self.n_steps // length)
        cut = starts.copy()
        cut[::length] = True
        env, step = np.nonzero(cut.T)
        flat = env * self.n_steps + step  # environment-major
        lengths = np.diff(np.append(flat, self.n_steps * self.n_envs))
        order = np.argsort(-lengths, kind="stable")  # longest first, for every selection of them
        self._env, self._step, self._lengths = env[order], step[order], lengths[order]
        self._chunk = self._env * self.n_chunks + self._step // length

    def plan(self, chunks: _Ints | None = None) -> SequencePlan:
        """
        Return the sequences of some chunks.

        :param chunks: numbers ``n * n_chunks + k``, default all
        """
        env, step, lengths = self._env, self._step, self._lengths
        if chunks is not None:
            wanted = np.zeros(self.n_envs * self.n_chunks, dtype=bool)
            wanted[chunks] = True
            chosen = wanted[self._chunk]
            env, step, lengths = env[chosen], step[chosen], lengths[chosen]
        longest = int(lengths[0])
        counts = np.bincount(lengths, minlength=longest + 1)
        batch_sizes = len(lengths) - np.cumsum(counts)[:longest]
        offset = np.repeat(np.arange(longest), batch_sizes)
        place = np.arange(len(offset)) - np.repeat(
            np.cumsum(batch_sizes) - batch_sizes, batch_sizes
        )
        rows = (step[place] + offset) * self.n_envs + env[place]
        heads = step * self.n_envs + env
        tails = heads + (lengths - 1) * self.n_envs
        end = np.minimum((step // self.length + 1) * self.length, self.n_steps)
        final = np.flatnonzero(step + lengths == end)
        number = env[final] * self.n_chunks + step[final] // self.length
        return SequencePlan(
            self._to_device(rows),
            th.from_numpy(batch_sizes.astype(np.int64)),
            self._to_device(heads),
            self._to_device(tails),
            self._to_device(final[np.argsort(number)]),
        )

    def _to_device(self, values: _Ints) -> th.Tensor:
        return th.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(
            self.device, non_blocking=True
        )


def split_and_pad_trajectories(values: th.Tensor, dones: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Cut a rollout at episode ends and pad every piece with zeros.

    :param values: ``(T, N, ...)``
    :param dones: ``(T, N)``, bool or integer, the episode ended with the step; the last step always
        ends a piece
    :return: ``(T, S, ...)`` with S pieces, environment by environment, and the mask ``(T, S)`` of
        what is not padding
    :raises StrlValueError: if the shapes disagree
    """
    if values.shape[:2] != dones.shape:
        raise StrlValueError(
            f"split_and_pad_trajectories: values have shape {tuple(values.shape)} and dones "
            f"{tuple(dones.shape)}. Both must begin with the same (steps, environments)."
        )
    steps, n_envs = dones.shape
    ends = dones.bool().clone()
    ends[-1] = True
    flat_ends = ends.t().reshape(-1)
    piece = th.cumsum(flat_ends, 0) - flat_ends.long()  # of every step, environment-major
    last = flat_ends.nonzero().squeeze(-1)
    first = th.cat([last.new_zeros(1), last[:-1] + 1])
    step = th.arange(steps * n_envs, device=values.device) - first[piece]
    padded = values.new_zeros((steps, len(last), *values.shape[2:]))
    padded[step, piece] = values.transpose(0, 1).flatten(0, 1)
    mask = th.zeros((steps, len(last)), dtype=th.bool, device=values.device)
    mask[step, piece] = True
    return padded, mask


def unpad_trajectories(padded: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """
    Undo :func:`split_and_pad_trajectories`.

    :param padded: ``(T, S, ...)``
    :param mask: ``(T, S)``
    :return: ``(T, N, ...)``
    :raises StrlValueError: if the pieces do not make whole environments of T steps
    """
    steps = padded.shape[0]
    lengths = mask.sum(0)
    ends = th.cumsum(lengths, 0)
    whole = bool((ends % steps == 0).sum() * steps == ends[-1])
    if padded.shape[:2] != mask.shape or not whole:
        raise StrlValueError(
            f"unpad_trajectories: pieces of lengths {lengths.tolist()} do not make whole "
            f"environments of {steps} steps. Pass all pieces of an environment, in order."
        )
    values = padded.transpose(0, 1)[mask.t()]
    return values.view(-1, steps, *padded.shape[2:]).transpose(0, 1)
