"""One rollout of named fields, time-major on one device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, DictRolloutBuffer
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_strl.buffers.sequence_sampler import SequenceSampler
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, suggest
from sb3_strl.common.returns import gae
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.sequences import Sequences
from sb3_strl.common.tables import format_table
from sb3_strl.common.types import TensorDict

OBS = "obs/"
DIST = "dist/"


@dataclass(frozen=True)
class FieldSpec:
    """
    One named field.

    :param shape: shape per step and environment
    :param dtype: dtype of the stored tensor
    :param sampled: whether minibatches carry it
    """

    shape: tuple[int, ...] = ()
    dtype: th.dtype = th.float32
    sampled: bool = True


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


def _torch_dtype(space: spaces.Space[Any]) -> th.dtype:
    """Storage dtype of an observation group: bytes stay bytes, integers int64, the rest float32."""
    kind = np.dtype(space.dtype)
    if kind == np.uint8 and isinstance(space, spaces.Box):
        return th.uint8
    if kind.kind in "iu" and not isinstance(space, spaces.MultiBinary):
        return th.int64
    return th.float32


def group_field(space: spaces.Space[Any]) -> FieldSpec:
    """Return the field that stores observations of a group."""
    return FieldSpec(tuple(space.shape or ()), _torch_dtype(space))


class RolloutBuffer(DictRolloutBuffer):
    """
    Storage of ``n_steps`` steps of ``n_envs`` environments.

    All sampled vectors of a transition lie side by side in one row of a slab, and all sampled
    scalars in another, so that drawing a minibatch takes two gathers. Nothing is copied to the host
    and no sample is dropped.

    :param buffer_size: number of steps T
    :param observation_space: a Dict of groups or a single space (group ``"policy"``)
    :param action_space: space of the actions
    :param device: where the tensors live
    :param gae_lambda: bias-variance trade-off of the advantages
    :param gamma: discount
    :param n_envs: number of environments N
    :param groups: observation groups to store, default all
    :param dist_shapes: parameters of the action distribution to store
    :param sample_dist: whether minibatches carry them
    :param extra_fields: fields of the objectives by name
    :param sequence_length: steps after which sequences for a memory are cut, ``None`` for the whole
        rollout
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
        self._slabs: dict[th.dtype, th.Tensor] = {}
        self._views: TensorDict = {}
        self._columns: dict[str, tuple[th.dtype, int, int]] = {}
        self._scalars: dict[th.dtype, th.Tensor] = {}
        self._scalar_rows: dict[str, tuple[th.dtype, int]] = {}
        self._allocate()
        # One view per step and field, made once instead of at every step.
        self._rows = {name: view.unbind(0) for name, view in self._views.items()}
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

    def _allocate(self) -> None:
        """Lay sampled vectors of one dtype side by side, and sampled scalars one after another."""
        widths: dict[th.dtype, int] = {}
        scalars: dict[th.dtype, list[str]] = {}
        for name, spec in self.fields.items():
            if not spec.sampled:
                self._views[name] = self._zeros(spec.dtype, *spec.shape)
            elif spec.shape:
                start = widths.get(spec.dtype, 0)
                widths[spec.dtype] = start + int(np.prod(spec.shape, dtype=np.int64))
                self._columns[name] = (spec.dtype, start, widths[spec.dtype])
            else:
                scalars.setdefault(spec.dtype, []).append(name)
        for dtype, width in widths.items():
            self._slabs[dtype] = self._zeros(dtype, width)
        for name, (dtype, start, stop) in self._columns.items():
            columns, shape = self._slabs[dtype][..., start:stop], self.fields[name].shape
            self._views[name] = columns if len(shape) == 1 else columns.unflatten(-1, shape)
        for dtype, names in scalars.items():
            size = (len(names), self.buffer_size, self.n_envs)
            self._scalars[dtype] = th.zeros(size, dtype=dtype, device=self.device)
            for row, name in enumerate(names):
                self._scalar_rows[name] = (dtype, row)
                self._views[name] = self._scalars[dtype][row]

    def _zeros(self, dtype: th.dtype, *shape: int) -> th.Tensor:
        return th.zeros((self.buffer_size, self.n_envs, *shape), dtype=dtype, device=self.device)

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
        if name not in self._views:
            raise StrlKeyError(
                f"RolloutBuffer: there is no field '{name}'.{suggest(name, self._views)} Fields: "
                f"{sorted(self._views)}."
            )
        return self._views[name]

    def obs(self) -> TensorDict:
        """Return all observation groups, ``(n_steps, n_envs, *group_shape)`` each."""
        return {group: self._views[name] for group, name in self._obs_names.items()}

    def dist(self) -> TensorDict:
        """Return the stored distribution parameters, ``(n_steps, n_envs, ...)`` each."""
        return {key: self._views[name] for key, name in self._dist_names.items()}

    @property
    def dones(self) -> th.Tensor:
        """Whether the episode ended with the step, ``(n_steps, n_envs)``, bool."""
        return self._views["terminated"] | self._views["truncated"]

    def describe(self) -> str:
        """Return a table of the fields: name, shape, dtype and megabytes."""
        rows = []
        for name, view in self._views.items():
            size = view.numel() * view.element_size() / 1e6
            rows.append(
                (name, tuple(view.shape), str(view.dtype).removeprefix("torch."), f"{size:.2f}")
            )
        return format_table("buffer fields", ("field", "shape", "dtype", "MB"), rows)

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
        rows, step = self._rows, self.pos
        for group, name in self._obs_names.items():
            rows[name][step].copy_(obs[group])
        rows["actions"][step].copy_(actions)
        for key, name in self._dist_names.items():
            if params[key].ndim == rows[name][step].ndim:
                rows[name][step].copy_(params[key])
        rows["episode_starts"][step].copy_(episode_starts)
        self.pos = step + 1

    def add_outcome(self, rewards: th.Tensor, terminated: th.Tensor, truncated: th.Tensor) -> None:
        """Store what followed the last decision, ``(n_envs,)`` each."""
        step = self.pos - 1
        self._rows["rewards"][step].copy_(rewards)
        self._rows["terminated"][step].copy_(terminated)
        self._rows["truncated"][step].copy_(truncated)
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
        if name not in self._rows:
            raise StrlKeyError(
                f"RolloutBuffer: there is no field '{name}'.{suggest(name, self._rows)} Fields: "
                f"{sorted(self._rows)}."
            )
        self._rows[name][self.pos - 1].copy_(value)

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
        self, batch_size: int | None = None, generator: th.Generator | None = None
    ) -> Iterator[RolloutBatch]:
        """
        Yield one epoch of minibatches in a fresh random order; every sample exactly once.

        :param batch_size: rows per minibatch, default all; the last one may be smaller
        :param generator: source of the permutation
        :raises StrlValueError: if the rollout is not complete, or the size is not positive
        """
        self._require_full()
        total = self.buffer_size * self.n_envs
        size = total if batch_size is None else batch_size
        if size <= 0:
            raise StrlValueError(f"RolloutBuffer: batch_size is {size}. It must be positive.")
        order = th.randperm(total, generator=generator, device=self.device)
        for rows in order.split(size):
            yield self._gather(rows)

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

    def _gather(self, rows: th.Tensor, sequences: Sequences | None = None) -> RolloutBatch:
        total = self.buffer_size * self.n_envs
        return self._batch(
            {key: slab.view(total, -1).index_select(0, rows) for key, slab in self._slabs.items()},
            {
                key: slab.view(-1, total).index_select(1, rows)
                for key, slab in self._scalars.items()
            },
            sequences,
        )

    def _batch(
        self,
        slabs: dict[th.dtype, th.Tensor],
        scalars: dict[th.dtype, th.Tensor],
        sequences: Sequences | None,
    ) -> RolloutBatch:
        def part(name: str) -> th.Tensor:
            if name in self._scalar_rows:
                dtype, row = self._scalar_rows[name]
                return scalars[dtype][row]
            dtype, start, stop = self._columns[name]
            columns, shape = slabs[dtype][:, start:stop], self.fields[name].shape
            return columns if len(shape) == 1 else columns.unflatten(-1, shape)

        return RolloutBatch(
            observations={group: part(name) for group, name in self._obs_names.items()},
            actions=part("actions"),
            old_values=part("values"),
            old_log_prob=part("log_probs"),
            advantages=part("advantages"),
            returns=part("returns"),
            dist={
                key: part(name) for key, name in self._dist_names.items() if name in self._columns
            },
            extras={name: part(name) for name in self._extra_names},
            sequences=sequences,
        )

    def float_storage(self) -> list[th.Tensor]:
        """Return the tensors behind all floating-point fields."""
        stored = [*self._slabs.values(), *self._scalars.values()]
        stored += [self._views[name] for name, spec in self.fields.items() if not spec.sampled]
        return [value for value in stored if value.is_floating_point()]
