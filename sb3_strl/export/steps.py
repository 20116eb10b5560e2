"""One step of an actor as a pure function: observations and states in, actions and states out."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.memory_state import MemoryState, PolicyState, leaves
from sb3_strl.common.segments import SINGLE_GROUP, group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.policies import MutexPolicy, StrlPolicy
from sb3_strl.policies.memory import Memory
from sb3_strl.policies.mutex_state import forgotten, one_hot_rows, push_selection
from sb3_strl.policies.networks import MlpModel
from sb3_strl.policies.precision import bfloat16_networks, set_bfloat16

_MEMORIES = ("adaptor", "estimator", "actor")
"""Memories that acting needs, in the order in which they run; the critic's is left behind."""
_LEAF_NAMES = ("hidden", "cell")


@dataclass(frozen=True)
class StateSpec:
    """
    One tensor that an actor hands to its next step.

    :param name: e.g. ``"actor_hidden"``
    :param initial: its value before the first step, with one environment
    :param batch_dim: which dimension counts environments
    """

    name: str
    initial: th.Tensor
    batch_dim: int

    def for_envs(self, n_envs: int) -> th.Tensor:
        """Return the value before the first step of ``n_envs`` environments."""
        return self.initial.repeat_interleave(n_envs, dim=self.batch_dim)

    def prefixed(self, prefix: str) -> StateSpec:
        """Return the same under a longer name."""
        return StateSpec(f"{prefix}{self.name}", self.initial, self.batch_dim)


class StepMemory(Memory):
    r"""
    One step of an LSTM or GRU in elementary operations, which every runtime has.

    LSTM: :math:`c' = \sigma(f) c + \sigma(i) \tanh(g)`, :math:`h' = \sigma(o) \tanh(c')`;
    GRU: :math:`n = \tanh(n_x + \sigma(r) n_h)`, :math:`h' = (1 - \sigma(z)) n + \sigma(z) h`.

    :param memory: whose weights it shares
    """

    def __init__(self, memory: Memory) -> None:
        nn.Module.__init__(self)
        self.spec = memory.spec
        self.rnn = memory.rnn

    def forward(
        self,
        x: th.Tensor,
        state: MemoryState,
        batch_sizes: th.Tensor | None = None,
        keep_state: bool = True,
    ) -> tuple[th.Tensor, MemoryState]:
        """
        Advance by one step.

        :param x: ``(N, input_size)``
        :param state: ``(L, N, H)``
        :param batch_sizes: sequences are not for deployment: ``None``
        :param keep_state: it always is
        :return: output ``(N, H)`` and the new state
        """
        del batch_sizes, keep_state
        old = leaves(state)
        new: list[tuple[th.Tensor, ...]] = []
        for layer in range(self.spec.num_layers):
            before = tuple(leaf[layer] for leaf in old)
            weights: Any = self.rnn.all_weights[layer]
            wx, wh, bx, bh = weights
            from_x = nn.functional.linear(x, wx, bx)
            from_h = nn.functional.linear(before[0], wh, bh)
            new.append(_cell(from_x, from_h, before))
            x = new[-1][0]
        stacked = tuple(th.stack(parts) for parts in zip(*new, strict=True))
        return x, stacked[0] if len(stacked) == 1 else (stacked[0], stacked[1])


def _cell(
    from_x: th.Tensor, from_h: th.Tensor, before: tuple[th.Tensor, ...]
) -> tuple[th.Tensor, ...]:
    """Return the new state of one layer, ``(N, H)`` each."""
    if len(before) == 2:
        i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
        cell = f.sigmoid() * before[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
    xr, xz, xn = from_x.chunk(3, dim=-1)
    hr, hz, hn = from_h.chunk(3, dim=-1)
    update = (xz + hz).sigmoid()
    candidate = (xn + (xr + hr).sigmoid() * hn).tanh()
    return ((1.0 - update) * candidate + update * before[0],)


class ActorStep(nn.Module):
    """
    What acts, without state of its own.

    :param groups: observation groups that it reads
    :param states: tensors that go in and come out
    """

    def __init__(self, groups: Sequence[str], states: Sequence[StateSpec]) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.states = tuple(states)

    @abstractmethod
    def forward(
        self, obs: TensorDict, states: Sequence[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """
        Act.

        :param obs: groups ``(N, ...)``
        :param states: one for each of :attr:`states`
        :return: actions ``(N, *action_shape)`` as the policy chooses them, not clipped, and the new
            states
        """


class PolicyStep(ActorStep):
    """
    The mean action, or the most likely one, of a policy made of stages.

    :param policy: copied; only what acts is kept
    :raises StrlValueError: if an estimator decides at random whether it replaces observations
    """

    def __init__(self, policy: StrlPolicy) -> None:
        for name, estimator in policy.each_estimator():
            if estimator.replaces and estimator.spec.inference_replace == "sample":
                raise StrlValueError(
                    f"export_policy: the {name} replaces observations at random "
                    "(inference_replace='sample'), which no file can repeat. Expected 'always' or "
                    "'never'. Build the policy with one of them and load the weights into it."
                )
        start = policy.initial_state(1).map(lambda leaf: leaf.detach().cpu())
        parts = {name: part for name in _MEMORIES if (part := start._asdict()[name]) is not None}
        super().__init__(
            policy.actor_reader.groups,
            [
                StateSpec(f"{part}_{leaf_name}", leaf, 1)
                for part, state in parts.items()
                for leaf_name, leaf in zip(_LEAF_NAMES, leaves(state), strict=False)
            ],
        )
        self._widths = {part: len(leaves(state)) for part, state in parts.items()}
        self.policy = _actor_only(policy)

    def forward(
        self, obs: TensorDict, states: Sequence[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """See :class:`ActorStep`."""
        out = self.policy.actor_pass(obs, self._gather(states))
        actions = self.policy.action_head.mode(out.params)
        shape = self.policy.action_space.shape or ()
        by_name = out.state._asdict()
        new = [leaf for part in self._widths for leaf in leaves(by_name[part])]
        return (actions.reshape(-1, *shape) if shape else actions), new

    def _gather(self, states: Sequence[th.Tensor]) -> PolicyState:
        parts: dict[str, MemoryState] = {}
        rest = list(states)
        for part, width in self._widths.items():
            taken, rest = rest[:width], rest[width:]
            parts[part] = taken[0] if width == 1 else (taken[0], taken[1])
        return PolicyState(**parts)


def _actor_only(policy: StrlPolicy) -> StrlPolicy:
    """Return a frozen copy on the CPU without the parts that training and valuing need."""
    actor = copy.deepcopy(policy).cpu()
    actor.set_training_mode(False)
    actor.requires_grad_(False)
    for name in ("critic", "critic_reader", "critic_memory", "discriminator"):
        actor._modules.pop(name, None)
    set_bfloat16(bfloat16_networks(actor), enabled=False)
    for module in actor.modules():
        if isinstance(module, MlpModel):
            module._fused = None  # its single node is opaque to exporters
    if actor.actor_memory is not None:
        actor.actor_memory = StepMemory(actor.actor_memory)
    for _, estimator in actor.each_estimator():
        if estimator.memory is not None:
            estimator.memory = StepMemory(estimator.memory)
    return actor


class PlainStep(ActorStep):
    """
    A policy of another library, of which only ``_predict`` is known.

    :param policy: copied; without memory
    """

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__(tuple(group_spaces(policy.observation_space)), ())
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self.policy = copy.deepcopy(policy).cpu()
        self.policy.set_training_mode(False)
        self.policy.requires_grad_(False)

    def forward(
        self, obs: TensorDict, states: Sequence[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """See :class:`ActorStep`."""
        given: Any = obs if self.is_dict else obs[SINGLE_GROUP]
        return self.policy._predict(given, deterministic=True), list(states)


class MutexStep(ActorStep):
    """
    A mutex policy with the steps of its sub-policies; the selection is part of it.

    A window of selections that is all zero, as at the start, begins an episode. Commands that are
    drawn at random become a state that is handed through: the caller draws them.

    :param policy: copied
    """

    def __init__(self, policy: MutexPolicy) -> None:
        steps = [make_step(sub) for sub in policy.sub_policies if isinstance(sub, BasePolicy)]
        start = policy.initial_state(1)
        own = [
            StateSpec("window", start.window.cpu(), 0),
            StateSpec("resets", start.resets.cpu(), 0),
        ]
        if policy.commands.random:
            own.append(StateSpec("commands", start.commands.cpu(), 0))
        subs = [
            state.prefixed(f"sub{index}_")
            for index, step in enumerate(steps)
            for state in step.states
        ]
        super().__init__(policy.groups, [*own, *subs])
        self._n_own = len(own)
        self.policy = copy.deepcopy(policy).cpu()
        self.policy.sub_policies = nn.ModuleList(nn.Identity() for _ in steps)  # only counted
        self.steps = nn.ModuleList(steps)

    def forward(
        self, obs: TensorDict, states: Sequence[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """See :class:`ActorStep`."""
        mutex = self.policy
        window, resets, rest = states[0], states[1], list(states[self._n_own :])
        commands = states[2] if self._n_own == 3 else mutex.commands.low.unsqueeze(0)
        selected = mutex.select(obs)
        selection = one_hot_rows(selected, len(selected), mutex._indices, "export_policy")
        starts = window.amax(dim=(1, 2)) == 0.0
        window = push_selection(window, selection, starts)
        actions: list[th.Tensor] = []
        new: list[th.Tensor] = []
        for index, (step, view) in enumerate(zip(self.steps, mutex.views, strict=True)):
            assert isinstance(step, ActorStep)
            mine, rest = rest[: len(step.states)], rest[len(step.states) :]
            keep = ~(starts | resets[:, index])
            before = [
                _restart(value, spec, keep) for value, spec in zip(mine, step.states, strict=True)
            ]
            action, after = step(view(obs, commands[:, index]), before)
            actions.append(action.reshape(-1, mutex.n_actions))
            new += after
        blended = mutex.units(th.stack(actions, dim=1), window.mean(dim=1))
        shape = mutex.action_space.shape or ()
        own = [window, forgotten(window, mutex.reset_non_selected), *states[2 : self._n_own]]
        return blended.reshape(-1, *shape), [*own, *new]


def _restart(value: th.Tensor, spec: StateSpec, keep: th.Tensor) -> th.Tensor:
    """Return a state with its initial value in the rows that are not kept, ``(N,)`` bool."""
    shape = [1] * value.ndim
    shape[spec.batch_dim] = -1
    kept = keep.view(shape)
    if value.dtype == th.bool:  # ONNX Runtime has no Where of truth values
        return (kept & value) | (~kept & spec.initial)
    return th.where(kept, value, spec.initial)


def make_step(policy: BasePolicy) -> ActorStep:
    """
    Return the step of a policy.

    :param policy: one of this library's, or any without memory inside a mutex policy
    :raises StrlTypeError: if it has memory of a kind that is not known
    """
    if isinstance(policy, StrlPolicy):
        return PolicyStep(policy)
    if isinstance(policy, MutexPolicy):
        return MutexStep(policy)
    if callable(vars(type(policy)).get("act")):
        raise StrlTypeError(
            f"export_policy: {type(policy).__name__} acts in a way of its own. Expected a policy "
            "of sb3_strl.policies, or one of Stable-Baselines3 without memory."
        )
    return PlainStep(policy)


class VecNormalizeStage(nn.Module):
    """
    The observation part of SB3's ``VecNormalize``: ``clip((x - mean) / sqrt(var + eps))``.

    :param statistics: mean and variance by group
    :param epsilon: added to the variance
    :param clip: bound of the result
    """

    def __init__(
        self,
        statistics: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
        epsilon: float,
        clip: float,
    ) -> None:
        super().__init__()
        self.epsilon, self.clip = float(epsilon), float(clip)
        self._names = {group: f"group{index}" for index, group in enumerate(statistics)}
        for group, (mean, var) in statistics.items():
            gain = 1.0 / np.sqrt(var + epsilon)
            self.register_buffer(f"{self._names[group]}_mean", th.from_numpy(mean.copy()))
            self.register_buffer(f"{self._names[group]}_gain", th.from_numpy(gain))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return by group what :meth:`forward` computes with; JSON-able."""
        return {
            group: {
                "mean": self.get_buffer(f"{name}_mean").tolist(),
                "std": (1.0 / self.get_buffer(f"{name}_gain")).tolist(),
                "clip": self.clip,
            }
            for group, name in self._names.items()
        }

    def forward(self, obs: TensorDict) -> TensorDict:
        """Return normalised groups; those without statistics as they are."""
        out = dict(obs)
        for group in obs.keys() & self._names.keys():
            mean = self.get_buffer(f"{self._names[group]}_mean")
            gain = self.get_buffer(f"{self._names[group]}_gain")
            # In double precision, as SB3 does it: mean and value may be large and close.
            scaled = (obs[group].double() - mean) * gain
            out[group] = scaled.clamp(-self.clip, self.clip).float()
        return out
