"""Random hidden states, against a memory that only works from zeros."""

from __future__ import annotations

import torch as th

from sb3_strl.common.memory_state import PolicyState


def resample_states(state: PolicyState, prob: float, generator: th.Generator) -> PolicyState:
    r"""
    Replace the initial hidden states of some sequences by :math:`U(-1, 1)`.

    A sequence is replaced as a whole: hidden and cell states, of all parts of the policy.

    :param state: ``(L, Q, H)`` each
    :param prob: probability per sequence
    :param generator: source of the numbers
    """
    leaves = [leaf for part in state for leaf in _tensors(part)]
    first = leaves[0]
    chosen = th.rand(first.shape[1], generator=generator, device=first.device) < prob

    def replaced(leaf: th.Tensor) -> th.Tensor:
        noise = th.rand(leaf.shape, generator=generator, device=leaf.device).mul_(2.0).sub_(1.0)
        return th.where(chosen.view(1, -1, 1), noise, leaf)

    return state.map(replaced)


def _tensors(part: object) -> list[th.Tensor]:
    if isinstance(part, th.Tensor):
        return [part]
    return list(part) if isinstance(part, tuple) else []
