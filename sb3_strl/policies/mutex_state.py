"""State of a mutex policy: what one step hands to the next, as tensors or as NumPy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th


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
    return kind(*branches) if hasattr(tree, "_fields") else kind(branches)


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
