"""State of a mutex policy: what one step hands to the next, as tensors or as NumPy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_strl.common.errors import StrlTypeError


class MutexState(NamedTuple):
    """
    What a mutex policy remembers of N environments and P sub-policies.

    :param sub_states: of every sub-policy its own state, ``None`` if it has none
    :param window: ``(N, L, P)``, the last L selections as one-hot rows, oldest first
    :param commands: ``(N, P)``, the command that each sub-policy is given in this episode
    :param resets: ``(N, P)``, bool, sub-policies that begin the next step without memory
    """

    sub_states: tuple[Any, ...]
    window: th.Tensor
    commands: th.Tensor
    resets: th.Tensor


def tree_to_numpy(tree: Any) -> Any:
    """
    Return a state with NumPy arrays in place of tensors.

    :param tree: tensors, ``None`` and (named) tuples of them
    """
    if isinstance(tree, th.Tensor):
        return tree.detach().cpu().numpy()
    if isinstance(tree, tuple):
        return _like(tree, [tree_to_numpy(branch) for branch in tree])
    return tree


def tree_to_tensors(tree: Any, device: th.device) -> Any:
    """
    Return a state with tensors in place of NumPy arrays.

    :param tree: arrays or tensors, ``None`` and (named) tuples of them
    :param device: where the tensors shall be
    """
    if isinstance(tree, (np.ndarray, th.Tensor)):
        return th.as_tensor(tree, device=device)
    if isinstance(tree, tuple):
        return _like(tree, [tree_to_tensors(branch, device) for branch in tree])
    return tree


def _like(tree: tuple[Any, ...], branches: list[Any]) -> tuple[Any, ...]:
    """Return branches as the same kind of tuple; named ones take their fields one by one."""
    kind: Any = type(tree)
    result: tuple[Any, ...] = kind(*branches) if hasattr(tree, "_fields") else kind(branches)
    return result


def one_hot_rows(selection: th.Tensor, n_envs: int, indices: th.Tensor, where: str) -> th.Tensor:
    """
    Return selections as one-hot rows; NaN in rows that select nobody or several.

    :param selection: ``(N,)``, integer indices, or ``(N, P)``
    :param n_envs: N
    :param indices: ``(P,)``, 0 to P - 1
    :param where: who complains
    :return: ``(N, P)``, float32
    :raises StrlTypeError: if the selection has another shape or type
    """
    countable = not selection.is_floating_point() and selection.dtype != th.bool
    if selection.shape == (n_envs,) and countable:
        rows = th.eq(selection.unsqueeze(1), indices).to(th.float32)
    elif selection.shape == (n_envs, len(indices)):
        rows = selection.to(th.float32)
    else:
        raise StrlTypeError(
            f"{where}: the selection has shape {tuple(selection.shape)} and type "
            f"{selection.dtype}. Expected ({n_envs},) integer indices or ({n_envs}, "
            f"{len(indices)}) one-hot rows."
        )
    valid = (rows.sum(dim=1) == 1.0) & ((rows == 0.0) | (rows == 1.0)).all(dim=1)
    return th.where(valid.unsqueeze(1), rows, th.nan)


def push_selection(window: th.Tensor, selection: th.Tensor, starts: th.Tensor) -> th.Tensor:
    """
    Return the window with a selection appended; where an episode starts it is filled with it.

    :param window: ``(N, L, P)``
    :param selection: ``(N, P)``, one-hot
    :param starts: ``(N,)``, bool
    """
    newest = selection.unsqueeze(1)
    shifted = th.cat((window[:, 1:], newest), dim=1)
    return th.where(starts[:, None, None], newest, shifted)


def forgotten(window: th.Tensor, mode: str) -> th.Tensor:
    """
    Return which sub-policies lose their memory after a step.

    ``"all"``: those absent from the whole window; ``"when_skill"``: those but sub-policy 0 while
    neither they nor sub-policy 0 are selected; ``"none"``: nobody.

    :param window: ``(N, L, P)``, one-hot rows, the newest last
    :param mode: see above
    :return: ``(N, P)``, bool
    """
    if mode == "all":
        return window.amax(dim=1) == 0.0
    selected = window[:, -1] > 0.0
    if mode == "when_skill":
        forget = ~(selected | selected[:, :1])
        forget[:, 0] = False
        return forget
    return th.zeros_like(selected)
