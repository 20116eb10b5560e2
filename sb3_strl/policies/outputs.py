"""What the passes of a policy return."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_strl.common.memory_state import PolicyState
from sb3_strl.common.types import TensorDict


class PolicyOutput(NamedTuple):
    """
    What one forward pass over a minibatch yields; B samples.

    :param params: parameters of the action distribution, ``(B, ...)`` or broadcastable to it
    :param values: ``(B,)``
    :param estimates: by estimator, ``(B, E)`` in units of the target's statistics
    """

    params: TensorDict
    values: th.Tensor
    estimates: TensorDict


class ActorOutput(NamedTuple):
    """
    What one pass of the actor yields.

    :param params: parameters of the action distribution
    :param state: hidden states after it; the critic's is passed through
    :param estimates: by estimator, ``(B, E)`` in units of the target's statistics
    """

    params: TensorDict
    state: PolicyState
    estimates: TensorDict
