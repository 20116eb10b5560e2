"""Hidden states of a rollout, and minibatches of whole sequences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import MemoryState, PolicyState, leaves, map_state
from sb3_strl.common.sequences import EpisodeMap, SequencePlan, Sequences


class SequenceSampler:
    """
    Cut a rollout into chunks of ``length`` steps of one environment and remember the hidden states
    before each.

    Gradients flow through a chunk and no further (truncated backpropagation through time). A memory
    is zero at the start of an episode, so the states at chunk boundaries are all there is to store:
    the fewer the chunks, the less memory they take.

    :param n_steps: steps of the rollout T
    :param n_envs: environments N
    :param length: steps of a chunk, ``None`` for the whole rollout
    :raises StrlValueError: if the length is not positive
    """

    def __init__(self, n_steps: int, n_envs: int, length: int | None) -> None:
        if length is not None and length < 1:
            raise StrlValueError(
                f"RolloutBuffer: sequence_length is {length}. It must be positive, or None for "
                "sequences as long as the rollout."
            )
        self.n_steps, self.n_envs = n_steps, n_envs
        self.length = min(n_steps if length is None else length, n_steps)
        self.n_chunks = -(-n_steps // self.length)
        self._states: dict[str, MemoryState] = {}
        self._map: EpisodeMap | None = None

    @property
    def n_sequences(self) -> int:
        """Chunks in the whole rollout."""
        return self.n_chunks * self.n_envs

    def reset(self) -> None:
        """Start a new rollout."""
        self._map = None

    def allocate(self, state: PolicyState) -> None:
        """Make room for states ``(L, N, H)`` each; those of parts that are ``None`` take none."""
        for name, part in state._asdict().items():
            if part is not None and name not in self._states:
                self._states[name] = map_state(
                    lambda leaf: leaf.new_zeros((self.n_chunks, *leaf.shape)), part
                )

    def tensors(self) -> dict[str, th.Tensor]:
        """Return what is stored, ``(n_chunks, L, N, H)`` each, by ``state/<memory>``."""
        return {
            f"state/{name}" + (f"/{kind}" if len(leaves(part)) > 1 else ""): leaf
            for name, part in self._states.items()
            for kind, leaf in zip(("hidden", "cell"), leaves(part), strict=False)
        }

    def store(self, step: int, state: PolicyState) -> None:
        """
        Keep the hidden states before a step, if a chunk begins there.

        :param step: number of the step in the rollout
        :param state: ``(L, N, H)`` each; parts that are ``None`` stay as they are
        """
        chunk, rest = divmod(step, self.length)
        if rest:
            return
        self.allocate(state)
        for name, part in state._asdict().items():
            if part is None:
                continue
            for storage, leaf in zip(leaves(self._states[name]), leaves(part), strict=True):
                storage[chunk].copy_(leaf)

    def episodes(self, episode_starts: th.Tensor) -> EpisodeMap:
        """Return where sequences begin; found once per rollout."""
        if self._map is None:
            self._map = EpisodeMap(episode_starts, self.length)
        return self._map

    def states_before(self, plan: SequencePlan, episode_starts: th.Tensor) -> PolicyState:
        """
        Return the states before the sequences of a plan, zero where an episode starts.

        :param episode_starts: ``(T, N)``
        """
        env = plan.heads % self.n_envs
        chunk = plan.heads // self.n_envs // self.length
        starts = episode_starts.flatten().index_select(0, plan.heads)
        parts = {
            name: map_state(lambda leaf: leaf[chunk, :, env].transpose(0, 1).contiguous(), storage)
            for name, storage in self._states.items()
        }
        return PolicyState(**parts).reset(starts)

    def epoch(
        self, n_minibatches: int, episode_starts: th.Tensor, generator: th.Generator | None
    ) -> Iterator[tuple[th.Tensor, Sequences]]:
        """
        Yield rows and sequences of one epoch of minibatches; every sample exactly once.

        :param n_minibatches: how many
        :param episode_starts: ``(T, N)``
        :param generator: source of the permutation of the chunks
        :raises StrlValueError: if there are fewer chunks than minibatches
        """
        if not 1 <= n_minibatches <= self.n_sequences:
            raise StrlValueError(
                f"RolloutBuffer: {n_minibatches} minibatches of whole sequences were asked for, "
                f"but there are {self.n_sequences}: {self.n_envs} environments times "
                f"{self.n_chunks} pieces of {self.length} steps. Use fewer minibatches, more "
                "environments or a smaller sequence_length."
            )
        episodes = self.episodes(episode_starts)
        device = episode_starts.device if generator is None else generator.device
        order = th.randperm(self.n_sequences, generator=generator, device=device).cpu().numpy()
        for chunks in np.array_split(order, n_minibatches):
            plan = episodes.plan(chunks)
            state = self.states_before(plan, episode_starts)
            yield plan.rows, Sequences(plan.batch_sizes, state)
