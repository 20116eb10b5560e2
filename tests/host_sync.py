"""Find operations that make the host wait for the device, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = name in _WAITS
        if name in _INDEXING:
            waits = any(i is not None and i.dtype in (th.bool, th.uint8) for i in args[1])
        if waits:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Fail on ``.item()``, ``bool(tensor)``, ``nonzero``, boolean indexing and the like."""
    with _Watch():
        yield
