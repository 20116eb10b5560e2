"""Tensors that live on one device and are used on another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch as th

from sb3_strl.common.types import TensorDict


def pins(storage: th.device, device: th.device) -> bool:
    """Tell whether memory on ``storage`` should be page-locked, for copies that do not wait."""
    return storage.type == "cpu" and device.type == "cuda"


def stored_zeros(
    shape: Sequence[int], dtype: th.dtype, storage: th.device, device: th.device
) -> th.Tensor:
    """
    Return zeros to keep what is used elsewhere.

    :param shape: of the tensor
    :param dtype: its type
    :param storage: where it lives
    :param device: where it is used
    """
    return th.zeros(tuple(shape), dtype=dtype, device=storage, pin_memory=pins(storage, device))


def fetch_rows(value: th.Tensor, rows: th.Tensor, device: th.device) -> th.Tensor:
    """
    Gather rows where a tensor lives and bring them to another device.

    :param value: ``(n, ...)``
    :param rows: indices ``(B,)`` on any device
    :param device: where they are wanted
    :return: ``(B, ...)``
    """
    rows = rows.to(value.device)
    if value.device == device or not pins(value.device, device):
        return value.index_select(0, rows).to(device)
    # Pinned blocks are reused only after the copy out of them, so nothing has to wait here.
    gathered = th.empty((len(rows), *value.shape[1:]), dtype=value.dtype, pin_memory=True)
    th.index_select(value, 0, rows, out=gathered)
    return gathered.to(device, non_blocking=True)


def move_groups(
    groups: Mapping[str, th.Tensor], device: th.device, names: Iterable[str] | None = None
) -> TensorDict:
    """
    Bring groups to a device; those that are there already stay the same tensors.

    :param groups: by name
    :param device: where they are wanted
    :param names: which, default all
    """
    wanted = groups if names is None else dict.fromkeys(names)
    return {name: groups[name].to(device, non_blocking=True) for name in wanted}


def n_bytes(tensors: Iterable[th.Tensor]) -> int:
    """Return the size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
