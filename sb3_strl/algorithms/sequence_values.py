"""Values of a critic with memory, for a whole rollout at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.devices import fetch_rows
from sb3_strl.common.memory_state import MemoryState, PolicyState, map_state
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.actor_critic import StrlPolicy


class Tail(NamedTuple):
    """
    Where some sequences end.

    :param rows: last row ``t * N + n`` of every sequence, ``(Q,)``
    :param state: of the critic's memory after it, ``(L, Q, H)``
    """

    rows: th.Tensor
    state: MemoryState


def value_sequences(
    policy: StrlPolicy, buffer: RolloutBuffer, state: MemoryState
) -> tuple[MemoryState, list[Tail]]:
    """
    Fill the values of a complete rollout and the critic's states at the chunks' boundaries.

    Nothing that the environment's next step needs depends on the critic, so its memory runs over
    whole sequences instead of being called at every step.

    :param policy: with a critic memory
    :param buffer: complete but for the values
    :param state: before the rollout, ``(L, N, H)``
    :return: the state after the rollout, and where all sequences end
    """
    sampler, starts = buffer.sequences, buffer["episode_starts"]
    episodes = sampler.episodes(starts)
    obs = {group: value.flatten(0, 1) for group, value in buffer.obs().items()}
    values = buffer["values"].view(-1)
    tails = []
    for chunk in range(sampler.n_chunks):
        sampler.store(chunk * sampler.length, PolicyState(critic=state))
        plan = episodes.plan(np.arange(buffer.n_envs) * sampler.n_chunks + chunk)
        before = sampler.states_before(plan, starts).critic
        rows = {group: fetch_rows(value, plan.rows, values.device) for group, value in obs.items()}
        result, after = policy.critic_pass(rows, before, plan.batch_sizes)
        assert after is not None
        values.index_copy_(0, plan.rows, result)
        tails.append(Tail(plan.tails, after))
        state = _pick(after, plan.final)
    return state, tails


def add_tail_values(
    policy: StrlPolicy,
    buffer: RolloutBuffer,
    tails: list[Tail],
    final_obs: TensorDict,
    cut: th.Tensor,
    gamma: float,
) -> None:
    r"""
    Add :math:`\gamma V(s_T, h_T)` to the rewards of steps that ran out of time.

    :param tails: as :func:`value_sequences` returned them
    :param final_obs: groups ``(T, N, ...)``
    :param cut: ``(T, N)``, which steps
    """
    rewards = buffer["rewards"].view(-1)
    flat = {group: value.flatten(0, 1) for group, value in final_obs.items()}
    for tail in tails:
        chosen = cut.flatten().index_select(0, tail.rows).nonzero().squeeze(-1)
        if not chosen.numel():
            continue
        rows = tail.rows.index_select(0, chosen)
        obs = {group: fetch_rows(value, rows, rewards.device) for group, value in flat.items()}
        values, _ = policy.critic_pass(obs, _pick(tail.state, chosen))
        rewards.index_add_(0, rows, values.mul(gamma))


def _pick(state: MemoryState, places: th.Tensor) -> MemoryState:
    return map_state(lambda leaf: leaf.index_select(1, places), state)
