"""Named fields of a rollout: what they look like, and the tensors behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.devices import fetch_rows, pins, stored_zeros
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
    :param is_observation: whether it lives on the storage device, if there is one
    """

    shape: tuple[int, ...] = ()
    dtype: th.dtype = th.float32
    sampled: bool = True
    is_observation: bool = False


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
    return FieldSpec(tuple(space.shape or ()), _torch_dtype(space), is_observation=True)


class FieldStorage:
    """
    The tensors behind fields of ``n_steps`` steps of ``n_envs`` environments.

    All sampled vectors of a transition lie side by side in one row of a slab, and all sampled
    scalars in another, so that drawing a minibatch takes two gathers. Observations that live on
    another device have a tensor each, whose rows travel in one piece.

    :param fields: by name
    :param n_steps: T
    :param n_envs: N
    :param device: where the tensors are used and, but for observations, live
    :param storage_device: where observations live
    """

    def __init__(
        self,
        fields: Mapping[str, FieldSpec],
        n_steps: int,
        n_envs: int,
        device: th.device,
        storage_device: th.device,
    ) -> None:
        self.fields = fields
        self.n_steps, self.n_envs = n_steps, n_envs
        self.device, self.storage_device = device, storage_device
        self.is_split = storage_device != device
        self.views: TensorDict = {}
        self._alone: TensorDict = {}
        self._slabs: dict[th.dtype, th.Tensor] = {}
        self._columns: dict[str, tuple[th.dtype, int, int]] = {}
        self._scalars: dict[th.dtype, th.Tensor] = {}
        self._scalar_rows: dict[str, tuple[th.dtype, int]] = {}
        self._allocate()
        # One view per step and field, made once instead of at every step.
        self.rows = {name: view.unbind(0) for name, view in self.views.items()}

    def _allocate(self) -> None:
        """Lay sampled vectors of one dtype side by side, and sampled scalars one after another."""
        widths: dict[th.dtype, int] = {}
        scalars: dict[th.dtype, list[str]] = {}
        for name, spec in self.fields.items():
            if self.is_split and spec.is_observation:
                self._alone[name] = self.views[name] = self.zeros(spec.shape, spec.dtype)
            elif not spec.sampled:
                self._alone[name] = self.views[name] = self._zeros(spec.dtype, *spec.shape)
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
            self.views[name] = columns if len(shape) == 1 else columns.unflatten(-1, shape)
        for dtype, names in scalars.items():
            size = (len(names), self.n_steps, self.n_envs)
            self._scalars[dtype] = th.zeros(size, dtype=dtype, device=self.device)
            for row, name in enumerate(names):
                self._scalar_rows[name] = (dtype, row)
                self.views[name] = self._scalars[dtype][row]

    def _zeros(self, dtype: th.dtype, *shape: int) -> th.Tensor:
        return th.zeros((self.n_steps, self.n_envs, *shape), dtype=dtype, device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: th.dtype) -> th.Tensor:
        """Return ``(n_steps, n_envs, *shape)`` zeros where observations live."""
        size = (self.n_steps, self.n_envs, *shape)
        return stored_zeros(size, dtype, self.storage_device, self.device)

    def write(self, name: str, step: int, value: th.Tensor) -> None:
        """Write a step of a field; a copy to the host does not wait, see :meth:`settle`."""
        self.rows[name][step].copy_(value, non_blocking=True)

    def settle(self) -> None:
        """Wait until everything written has arrived in the host's memory, if any lives there."""
        if pins(self.storage_device, self.device):
            th.cuda.current_stream(self.device).synchronize()

    def gather(self, rows: th.Tensor, rows_stored: th.Tensor) -> Callable[[str], th.Tensor]:
        """
        Draw a minibatch.

        :param rows: numbers ``t * N + n``, ``(B,)``
        :param rows_stored: the same on the storage device
        :return: what yields a field by name, ``(B, *shape)`` on the device
        """
        total = self.n_steps * self.n_envs
        slabs = {
            key: slab.view(total, -1).index_select(0, rows) for key, slab in self._slabs.items()
        }
        scalars = {
            key: slab.view(-1, total).index_select(1, rows) for key, slab in self._scalars.items()
        }

        def part(name: str) -> th.Tensor:
            if name in self._alone:
                return fetch_rows(self._alone[name].flatten(0, 1), rows_stored, self.device)
            if name in self._scalar_rows:
                dtype, row = self._scalar_rows[name]
                return scalars[dtype][row]
            dtype, start, stop = self._columns[name]
            columns, shape = slabs[dtype][:, start:stop], self.fields[name].shape
            return columns if len(shape) == 1 else columns.unflatten(-1, shape)

        return part

    def carries(self, name: str) -> bool:
        """Tell whether a minibatch has a field."""
        return self.fields[name].sampled

    def tensors(self) -> list[th.Tensor]:
        """Return every tensor once, without the views of it."""
        return [*self._slabs.values(), *self._scalars.values(), *self._alone.values()]
