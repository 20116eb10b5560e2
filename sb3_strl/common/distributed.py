"""
Several processes that train one policy: what they share, through ``torch.distributed`` alone.

Every function is a no-op, or returns what one process would see, while there is no process group of
at least two.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import torch as th
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from sb3_strl.common.errors import PeerError

_AVAILABLE = dist.is_available()
_LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by torchrun
_MAX_REASON = 1024


# ---------------------------------------------------------------------- who is there


def is_active() -> bool:
    """Tell whether there is a process group of at least two."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process, 0 for the one that logs and saves."""
    if _AVAILABLE and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0")) if _LAUNCHED in os.environ else 0


def world_size() -> int:
    """Return the number of processes."""
    if _AVAILABLE and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if _LAUNCHED in os.environ else 1


def is_main() -> bool:
    """Tell whether this process logs and saves."""
    return rank() == 0


def start(timeout_s: float = 600.0) -> None:
    """
    Join the other processes of ``torchrun``; nothing happens without it, or a second time.

    Every process takes the GPU of its local rank. Tensors there are reduced with nccl if each
    process has a GPU of its own, everything else with gloo. ``learn`` calls this; call it yourself
    at the top of a script that makes tensors on GPUs before.

    :param timeout_s: seconds after which a process that does not answer counts as dead
    """
    if not _AVAILABLE or dist.is_initialized() or world_size() < 2:
        return
    local, n_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    backend = "gloo"
    if th.cuda.is_available():
        th.cuda.set_device(local % th.cuda.device_count())
        if n_local <= th.cuda.device_count() and dist.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    # Left to the end of the interpreter its threads may still run, which aborts the process.
    atexit.register(stop)


def stop() -> None:
    """Leave the process group, if there is one."""
    if _AVAILABLE and dist.is_initialized():
        dist.destroy_process_group()


def rank_seed(seed: int | None, n_envs: int) -> int | None:
    """
    Return the seed of this process, as if its environments came after those of the lower ranks.

    :param seed: of the run; ``None``: at random, and never the same in two processes
    :param n_envs: environments of one process, which take consecutive seeds
    """
    if rank() == 0:
        return seed
    if seed is None:
        return int.from_bytes(os.urandom(3), "little")
    return seed + rank() * n_envs


# ---------------------------------------------------------------------- numbers


def _together(operation: Callable[[], object]) -> None:
    try:
        operation()
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PeerError(
            f"Process {rank()} of {world_size()}: another process died or stopped answering "
            f"({lines[0]}). Its own message says why. Mend that and continue from the last "
            "checkpoint."
        ) from error


def sum_(value: th.Tensor) -> th.Tensor:
    """
    Replace a tensor by its sum over all processes.

    :param value: contiguous, the same shape everywhere
    :return: the same tensor
    """
    if is_active():
        _together(lambda: dist.all_reduce(value))
    return value


def divisor(count: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Return how many rows count in all processes, and what a sum over this one's is divided by.

    The mean of such quotients over the processes is the mean over all rows, however they are
    distributed.

    :param count: 0-d, rows of this process; overwritten
    :return: the sum, and its share for one process, positive
    """
    total = sum_(count)
    share = total.clamp_min(1)
    return total, share / dist.get_world_size() if is_active() else share


def mean_(value: th.Tensor) -> th.Tensor:
    """
    Replace a tensor by its mean over all processes.

    :param value: contiguous, floating point, the same shape everywhere
    :return: the same tensor
    """
    if is_active():
        sum_(value).div_(dist.get_world_size())
    return value


def mean(value: th.Tensor) -> th.Tensor:
    """
    Return the mean of a tensor over all processes, detached; the tensor itself if there is one.

    :param value: the same shape everywhere
    """
    return mean_(value.detach().clone()) if is_active() else value


@th.no_grad()
def mean_gradients_(parameters: Iterable[th.Tensor]) -> None:
    """
    Replace gradients by their mean over all processes, in one reduction.

    With minibatches of equal size this is the gradient of the union of the minibatches.

    :param parameters: of one dtype and device; those without a gradient are skipped, and must be
        the same in every process
    """
    if not is_active():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = mean_(_flatten_dense_tensors(gradients))
    th._foreach_copy_(gradients, list(_unflatten_dense_tensors(flat, gradients)))


def moments(
    count: th.Tensor, mean: th.Tensor, var: th.Tensor
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    r"""
    Merge the moments of one batch per process (Chan et al. 1983).

    :math:`n = \sum n_r`, :math:`m = \sum n_r m_r / n`,
    :math:`v = \sum n_r (v_r + (m_r - m)^2) / n`, in two passes, so that a mean far from zero costs
    no digits.

    :param count: 0-d, :math:`n_r`
    :param mean: ``(features,)``, :math:`m_r`
    :param var: ``(features,)``, biased, :math:`v_r`
    :return: :math:`n, m, v`, the same in every process; the arguments if there is one
    """
    if not is_active():
        return count, mean, var
    weight = count.to(mean.dtype)
    sums = sum_(th.cat((mean * weight, weight.view(1))))
    total = sums[-1].clamp_min(1.0)
    merged = sums[:-1] / total
    spread = sum_((mean - merged).square_().add_(var).mul_(weight)) / total
    return sums[-1].to(count.dtype), merged, spread


@th.no_grad()
def broadcast_(tensors: Iterable[th.Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if not is_active():
        return
    for tensor in tensors:
        # Not every backend knows bool, and a broadcast wants contiguous memory.
        whole = tensor.to(th.uint8) if tensor.dtype == th.bool else tensor.clone()
        whole = whole.contiguous()
        _together(lambda whole=whole: dist.broadcast(whole, 0))  # type: ignore[misc]
        tensor.copy_(whole)


def gather(numbers: Sequence[int], device: th.device) -> list[list[int]]:
    """
    Return the numbers of every process.

    :param numbers: as many everywhere
    :param device: of the training
    :return: by rank
    """
    if not is_active():
        return [list(numbers)]
    table = th.zeros(dist.get_world_size(), len(numbers), dtype=th.int64, device=device)
    table[dist.get_rank()] = th.tensor(numbers, device=device)
    rows: list[list[int]] = sum_(table).tolist()
    return rows


def tell(text: str, source: int, device: th.device) -> str:
    """
    Return a text of one process to all.

    :param text: read in that process only; what is longer than 1024 bytes is cut
    :param source: its rank
    :param device: of the training
    """
    if not is_active():
        return text
    letters = text.encode()[:_MAX_REASON] if dist.get_rank() == source else b""
    page = th.tensor(list(letters.ljust(_MAX_REASON, b"\0")), dtype=th.uint8, device=device)
    _together(lambda: dist.broadcast(page, source))
    return bytes(page.tolist()).rstrip(b"\0").decode(errors="ignore")
