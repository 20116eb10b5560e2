"""One rollout of named fields, time-major on one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictRolloutBuffer
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_strl.buffers.fields import DIST, OBS, FieldSpec, FieldStorage, group_field
from sb3_strl.buffers.sequence_sampler import SequenceSampler
from sb3_strl.common.devices import move_groups, n_bytes
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, suggest
from sb3_strl.common.returns import gae
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.sequences import Sequences
from sb3_strl.common.tables import format_table
from sb3_strl.common.types import TensorDict

__all__ = ["DIST", "OBS", "FieldSpec", "RolloutBatch", "RolloutBuffer", "group_field"]


class RolloutBatch(NamedTuple):
    """
    One minibatch of B samples; every field of a row belongs to the same transition.

    :param observations: groups, ``(B, *group_shape)``
    :param actions: ``(B, action_dim)``, or ``(B,)`` for Discrete
    :param old_values: ``(B,)``
    :param old_log_prob: ``(B,)``
    :param advantages: ``(B,)``
    :param returns: ``(B,)``
    :param dist: parameters of the distribution that acted, ``(B, ...)``
    :param extras: fields that objectives and policy registered, ``(B, ...)``
    :param sequences: how the rows follow one another, for a policy with memory
    """

    observations: TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    dist: TensorDict
    extras: TensorDict
    sequences: Sequences | None = None


class RolloutBuffer(DictRolloutBuffer):
    """
    Storage of ``n_steps`` steps of ``n_envs`` environments.

    Nothing is copied to the host, unless observations are to live there, and no sample is dropped.

    :param buffer_size: number of steps T
    :param observation_space: a Dict of groups or a single space (group ``"policy"``)
    :param action_space: space of the actions
    :param device: where the tensors live, and minibatches
    :param gae_lambda: bias-variance trade-off of the advantages
    :param gamma: discount
    :param n_envs: number of environments N
    :param groups: observation groups to store, default all
    :param dist_shapes: parameters of the action distribution to store
    :param sample_dist: whether minibatches carry them
    :param extra_fields: fields of the objectives by name
    :param sequence_length: steps after which sequences for a memory are cut, ``None`` for the whole
        rollout
    :param storage_device: where observations live, default ``device``; minibatches are gathered
        there and moved
    :raises StrlKeyError: if a group does not exist
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        groups: Sequence[str] | None = None,
        dist_shapes: Mapping[str, tuple[int, ...]] | None = None,
        sample_dist: bool = True,
        extra_fields: Mapping[str, FieldSpec] | None = None,
        sequence_length: int | None = None,
        storage_device: th.device | str | None = None,
    ) -> None:
        # DictRolloutBuffer's own constructor would allocate NumPy arrays.
        BaseBuffer.__init__(
            self, buffer_size, observation_space, action_space, device, n_envs=n_envs
        )
        self.gae_lambda = gae_lambda
        self.gamma = gamma
        available = group_spaces(observation_space)
        self.groups = tuple(available if groups is None else groups)
        for group in self.groups:
            if group not in available:
                raise StrlKeyError(
                    "RolloutBuffer: there is no observation group "
                    f"'{group}'.{suggest(group, available)} "
                    f"Available: {list(available)}."
                )
        dist = {
            DIST + key: FieldSpec(shape, sampled=sample_dist)
            for key, shape in (dist_shapes or {}).items()
        }
        self.fields = self._declare(available, dist, extra_fields or {})
        self.storage_device = th.device(self.device if storage_device is None else storage_device)
        self.storage = FieldStorage(
            self.fields, buffer_size, n_envs, self.device, self.storage_device
        )
        self._views = self.storage.views
        self._split_names()
        self.sequences = SequenceSampler(buffer_size, n_envs, sequence_length)
        self.reset()

    def _declare(
        self,
        available: Mapping[str, spaces.Space[Any]],
        dist: Mapping[str, FieldSpec],
        extra: Mapping[str, FieldSpec],
    ) -> dict[str, FieldSpec]:
        discrete = isinstance(self.action_space, spaces.Discrete)
        action_shape = () if discrete else (int(get_action_dim(self.action_space)),)
        integer = isinstance(self.action_space, (spaces.Discrete, spaces.MultiDiscrete))
        fields = {OBS + group: group_field(available[group]) for group in self.groups}
        fields["actions"] = FieldSpec(action_shape, th.int64 if integer else th.float32)
        fields.update(dist)
        fields.update(
            {name: FieldSpec() for name in ("values", "log_probs", "advantages", "returns")}
        )
        fields["rewards"] = FieldSpec(sampled=False)
        fields.update(
            {
                name: FieldSpec((), th.bool, False)
                for name in ("episode_starts", "terminated", "truncated")
            }
        )
        for name, spec in extra.items():
            if name in fields:
                raise StrlTypeError(
                    f"RolloutBuffer: the field '{name}' exists already. Give it a prefix: "
                    f"'<objective>/{name}'."
                )
            fields[name] = spec
        return fields

    def _split_names(self) -> None:
        known = {"actions", "values", "log_probs", "advantages", "returns"}
        sampled = [name for name, spec in self.fields.items() if spec.sampled]
        self._obs_names = {name.removeprefix(OBS): name for name in sampled if name.startswith(OBS)}
        self._dist_names = {
            name.removeprefix(DIST): name for name in self.fields if name.startswith(DIST)
        }
        taken = known | set(self._obs_names.values()) | set(self._dist_names.values())
        self._extra_names = [name for name in sampled if name not in taken]

    # ------------------------------------------------------------------ access by name

    def __getitem__(self, name: str) -> th.Tensor:
        """
        Return a field, ``(n_steps, n_envs, *shape)``; a view, so writing to it writes the buffer.

        :raises StrlKeyError: if there is no such field
        """
        self._require(name)
        return self._views[name]

    def _require(self, name: str) -> None:
        if name not in self._views:
            raise StrlKeyError(
                f"RolloutBuffer: there is no field '{name}'.{suggest(name, self._views)} Fields: "
                f"{sorted(self._views)}."
            )

    def obs(self) -> TensorDict:
        """Return all observation groups where they live, ``(n_steps, n_envs, *shape)`` each."""
        return {group: self._views[name] for group, name in self._obs_names.items()}

    def obs_here(self, groups: Iterable[str]) -> TensorDict:
        """Return some observation groups on the buffer's device."""
        return move_groups(self.obs(), self.device, groups)

    def dist(self) -> TensorDict:
        """Return the stored distribution parameters, ``(n_steps, n_envs, ...)`` each."""
        return {key: self._views[name] for key, name in self._dist_names.items()}

    @property
    def dones(self) -> th.Tensor:
        """Whether the episode ended with the step, ``(n_steps, n_envs)``, bool."""
        return self._views["terminated"] | self._views["truncated"]

    def describe(self) -> str:
        """Return a table of fields and hidden states: name, shape, dtype and megabytes."""
        rows = []
        for name, value in {**self._views, **self.sequences.tensors()}.items():
            kind = str(value.dtype).removeprefix("torch.")
            rows.append((name, tuple(value.shape), kind, f"{n_bytes([value]) / 1e6:.2f}"))
        title = "buffer fields"
        if self.storage.is_split:
            title += f", observations on {self.storage_device}"
        return format_table(title, ("field", "shape", "dtype", "MB"), rows)

    # ------------------------------------------------------------------ filling

    def reset(self) -> None:
        """Start a new rollout; storage is reused."""
        self.pos = 0
        self.full = False
        self.sequences.reset()

    def add(  # type: ignore[override]
        self,
        obs: TensorDict,
        actions: th.Tensor,
        params: TensorDict,
        episode_starts: th.Tensor,
    ) -> None:
        """
        Store a decision; :meth:`add_outcome` completes the step.

        :param obs: groups that the policy saw, at least the stored ones
        :param actions: ``(n_envs, action_dim)`` or ``(n_envs,)``, as sampled
        :param params: parameters of the distribution; those without batch dimension are skipped
        :param episode_starts: ``(n_envs,)``, bool, ``obs`` is the first of its episode
        :raises StrlValueError: if the buffer is full
        """
        if self.full:
            raise StrlValueError(
                f"RolloutBuffer: it holds {self.buffer_size} steps and is full. Call reset() first."
            )
        rows, step = self.storage.rows, self.pos
        for group, name in self._obs_names.items():
            self.storage.write(name, step, obs[group])
        rows["actions"][step].copy_(actions)
        for key, name in self._dist_names.items():
            if params[key].ndim == rows[name][step].ndim:
                rows[name][step].copy_(params[key])
        rows["episode_starts"][step].copy_(episode_starts)
        self.pos = step + 1

    def add_outcome(self, rewards: th.Tensor, terminated: th.Tensor, truncated: th.Tensor) -> None:
        """Store what followed the last decision, ``(n_envs,)`` each."""
        step = self.pos - 1
        self.storage.rows["rewards"][step].copy_(rewards)
        self.storage.rows["terminated"][step].copy_(terminated)
        self.storage.rows["truncated"][step].copy_(truncated)
        self.full = self.pos == self.buffer_size

    def add_successor(
        self, obs: TensorDict, final_obs: TensorDict | None, dones: th.Tensor
    ) -> None:
        """
        Store what was seen after the last decision; here nothing, see the Sarsa preset.

        :param obs: groups after the step, first observations of new episodes where one ended
        :param final_obs: last observations of the episodes that ended, if known
        :param dones: ``(n_envs,)``, which ended
        """

    def put(self, name: str, value: th.Tensor) -> None:
        """
        Store another field of the last decision, ``(n_envs, *shape)``.

        :raises StrlKeyError: if there is no such field
        """
        self._require(name)
        self.storage.write(name, self.pos - 1, value)

    def compute_returns_and_advantage(  # type: ignore[override]
        self, last_values: th.Tensor, dones: th.Tensor | None = None
    ) -> None:
        """
        Fill ``advantages`` and ``returns`` (see :func:`~sb3_strl.common.returns.gae`).

        :param last_values: ``(n_envs,)``, value of the observation after the last step
        :param dones: not needed: the stored flags say which episodes ended
        """
        del dones
        advantages, returns = gae(
            self._views["rewards"],
            self._views["values"],
            self.dones,
            last_values.flatten(),
            self.gamma,
            self.gae_lambda,
        )
        self._views["advantages"].copy_(advantages)
        self._views["returns"].copy_(returns)

    def get_statistics(self) -> tuple[float, float]:
        """
        Return the mean length of the trajectory pieces in the rollout and the mean reward per step.

        A piece ends at a finished episode or at the last step. Nothing is changed.
        """
        ends = self.dones.clone()
        ends[-1] = True
        pieces = int(ends.sum())
        return self.buffer_size * self.n_envs / pieces, float(self._views["rewards"].mean())

    # ------------------------------------------------------------------ minibatches

    def get(  # type: ignore[override]
        self,
        batch_size: int | None = None,
        generator: th.Generator | None = None,
        n_minibatches: int | None = None,
    ) -> Iterator[RolloutBatch]:
        """
        Yield one epoch of minibatches in a fresh random order; every sample exactly once.

        :param batch_size: rows per minibatch, default all; the last one may be smaller
        :param generator: source of the permutation
        :param n_minibatches: instead: how many minibatches, whose sizes differ by at most one; no
            more than there are samples
        :raises StrlValueError: if the rollout is not complete, or the size is not positive
        """
        self._require_full()
        total = self.buffer_size * self.n_envs
        size = total if batch_size is None else batch_size
        if size <= 0:
            raise StrlValueError(f"RolloutBuffer: batch_size is {size}. It must be positive.")
        order = th.randperm(total, generator=generator, device=self.device)
        stored = order.to(self.storage_device)  # once, not for every minibatch
        n_parts = None if n_minibatches is None else min(int(n_minibatches), total)
        parts = [
            both.split(size) if n_parts is None else both.tensor_split(n_parts)
            for both in (order, stored)
        ]
        for rows, rows_stored in zip(*parts, strict=True):
            yield self._gather(rows, None, rows_stored)

    def get_sequences(
        self, n_minibatches: int, generator: th.Generator | None = None
    ) -> Iterator[RolloutBatch]:
        """
        Yield one epoch of minibatches of whole sequences, in packed order.

        :param n_minibatches: how many
        :param generator: source of the permutation
        :raises StrlValueError: if the rollout is not complete or has fewer sequences
        """
        self._require_full()
        starts = self._views["episode_starts"]
        for rows, sequences in self.sequences.epoch(n_minibatches, starts, generator):
            yield self._gather(rows, sequences)

    def _require_full(self) -> None:
        if not self.full:
            raise StrlValueError(
                f"RolloutBuffer: only {self.pos} of {self.buffer_size} steps are filled. Collect a "
                "whole rollout before training on it."
            )

    def _gather(
        self,
        rows: th.Tensor,
        sequences: Sequences | None = None,
        rows_stored: th.Tensor | None = None,
    ) -> RolloutBatch:
        stored = rows.to(self.storage_device) if rows_stored is None else rows_stored
        part = self.storage.gather(rows, stored)
        return RolloutBatch(
            observations={group: part(name) for group, name in self._obs_names.items()},
            actions=part("actions"),
            old_values=part("values"),
            old_log_prob=part("log_probs"),
            advantages=part("advantages"),
            returns=part("returns"),
            dist={
                key: part(name)
                for key, name in self._dist_names.items()
                if self.storage.carries(name)
            },
            extras={name: part(name) for name in self._extra_names},
            sequences=sequences,
        )

    def float_storage(self) -> list[th.Tensor]:
        """Return the tensors behind all floating-point fields."""
        return [value for value in self.storage.tensors() if value.is_floating_point()]
