"""SB3's actor-critic contract on top of a policy that passes tensors and hidden states."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import MemoryState, PolicyState, check_rows
from sb3_strl.common.segments import SINGLE_GROUP
from sb3_strl.common.sequences import EpisodeMap
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.distributions import ActionHead
from sb3_strl.policies.outputs import ActorOutput
from sb3_strl.policies.precision import full_precision

Obs = th.Tensor | TensorDict


class TensorActorCritic(ActorCriticPolicy):
    """
    What SB3, callbacks and ``imitation`` call on a policy, in terms of two passes.

    Hidden states are explicit: they go in and come out, and nothing is kept between calls.
    """

    action_head: ActionHead
    is_deterministic: bool

    @property
    @abstractmethod
    def is_recurrent(self) -> bool:
        """Whether acting or valuing needs a hidden state."""

    @abstractmethod
    def initial_state(self, n_envs: int) -> PolicyState:
        """Return zeros for every memory."""

    @abstractmethod
    def actor_pass(
        self,
        obs: TensorDict,
        state: PolicyState | None = None,
        batch_sizes: th.Tensor | None = None,
        masks: TensorDict | None = None,
        latents: TensorDict | None = None,
        keep_state: bool = True,
        stored: TensorDict | None = None,
    ) -> ActorOutput:
        """Run the actor over one step or packed sequences."""

    @abstractmethod
    def critic_pass(
        self,
        obs: TensorDict,
        state: MemoryState | None = None,
        batch_sizes: th.Tensor | None = None,
        keep_state: bool = True,
    ) -> tuple[th.Tensor, MemoryState | None]:
        """Run the critic over one step or packed sequences."""

    def as_groups(self, obs: Obs) -> TensorDict:
        """Return observations as a dict of groups."""
        return obs if isinstance(obs, dict) else {SINGLE_GROUP: obs}

    def _shape_actions(self, actions: th.Tensor) -> th.Tensor:
        return actions.reshape(-1, *(self.action_space.shape or ()))

    def _flat_actions(self, actions: th.Tensor) -> th.Tensor:
        return actions.flatten(1) if actions.ndim > 1 else actions

    def _choose(self, params: TensorDict, deterministic: bool) -> th.Tensor:
        head = self.action_head
        if deterministic or self.is_deterministic:
            return head.mode(params)
        first = next(iter(params.values()))
        return head.sample(params, head.draw_noise(first.shape[:-1], None, first.device))

    def _state_before(
        self, n_envs: int, state: PolicyState | None, episode_starts: th.Tensor | None
    ) -> PolicyState:
        """Return the hidden states with which a step begins."""
        if state is None:
            return self.initial_state(n_envs)
        return state if episode_starts is None else state.reset(episode_starts)

    def act(
        self,
        obs: TensorDict,
        state: PolicyState | None = None,
        episode_starts: th.Tensor | None = None,
        deterministic: bool = True,
    ) -> tuple[th.Tensor, PolicyState]:
        """
        Take one step of N environments in float32, tensors in and tensors out.

        :param obs: groups ``(N, ...)``
        :param state: what the step before returned; ``None`` for zeros
        :param episode_starts: ``(N,)``, rows whose state is forgotten first
        :param deterministic: take the mode instead of a sample
        :return: actions ``(N, *action_shape)`` as chosen, not clipped, and the new state
        """
        n_envs = len(next(iter(obs.values())))
        before = self._state_before(n_envs, state, episode_starts)
        with full_precision(self):
            out = self.actor_pass(obs, before)
        return self._shape_actions(self._choose(out.params, deterministic)), out.state

    def forward(
        self,
        obs: Obs,
        deterministic: bool = False,
        state: PolicyState | None = None,
        episode_starts: th.Tensor | None = None,
    ) -> tuple[Any, ...]:
        """
        Act and value.

        :param state: hidden states before the step, default zeros
        :param episode_starts: ``(B,)``, rows whose state is forgotten first
        :return: actions ``(B, *action_shape)``, values ``(B, 1)``, log-probabilities ``(B,)``, and
            for a policy with memory the new hidden states
        """
        groups = self.as_groups(obs)
        n_envs = len(next(iter(groups.values())))
        before = self._state_before(n_envs, state, episode_starts)
        out = self.actor_pass(groups, before)
        values, critic_state = self.critic_pass(groups, before.critic)
        actions = self._choose(out.params, deterministic)
        log_prob = self.action_head.log_prob(out.params, self._flat_actions(actions))
        result = self._shape_actions(actions), values.unsqueeze(-1), log_prob
        if not self.is_recurrent:
            return result
        return (*result, out.state._replace(critic=critic_state))

    def _predict(self, observation: Obs, deterministic: bool = False) -> th.Tensor:
        return self.act(self.as_groups(observation), deterministic=deterministic)[0]

    def evaluate_actions(
        self,
        obs: Obs,
        actions: th.Tensor,
        state: PolicyState | None = None,
        episode_starts: th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Evaluate given actions.

        :param obs: groups ``(B, ...)``; or, for whole sequences of a policy with memory,
            ``(T, N, ...)``, when the results have B = T N rows, time-major
        :param actions: ``(B, *action_shape)`` or ``(T, N, *action_shape)``
        :param state: hidden states before it, default zeros
        :param episode_starts: ``(T, N)`` says that these are sequences and where memory begins anew
        :return: values ``(B, 1)``, log-probabilities ``(B,)``, entropies ``(B,)``
        :raises StrlValueError: if ``episode_starts`` does not fit the observations, or a policy
            with memory is given neither that nor a state
        """
        if self.is_recurrent and state is None and episode_starts is None:
            raise StrlValueError(
                f"evaluate_actions: {type(self).__name__} has a memory and was given observations "
                "and actions alone, as if every row began an episode. Expected episode_starts for "
                "sequences, or the state before a single step. imitation's BC, DAgger, GAIL and "
                "AIRL give neither: use a policy without Lstm or Gru there."
            )
        groups, head = self.as_groups(obs), self.action_head
        sizes = inverse = None
        first = next(iter(groups.values()))
        if episode_starts is not None and episode_starts.ndim == 2:
            if first.shape[:2] != episode_starts.shape:
                raise StrlValueError(
                    f"evaluate_actions: episode_starts has shape {tuple(episode_starts.shape)}, "
                    f"but the observations begin with {tuple(first.shape[:2])}. Both must begin "
                    "with (steps, environments)."
                )
            n_steps, n_envs = episode_starts.shape
            plan = EpisodeMap(episode_starts, n_steps).plan()
            groups = {key: value.flatten(0, 1)[plan.rows] for key, value in groups.items()}
            actions = actions.flatten(0, 1)[plan.rows]
            sizes, inverse = plan.batch_sizes, plan.rows.argsort()
            full = self.initial_state(n_envs) if state is None else state
            starts = episode_starts.flatten()[plan.heads]
            state = full.map(lambda leaf: leaf[:, plan.heads % n_envs]).reset(starts)
        elif state is not None or self.is_recurrent:
            state = self._state_before(len(first), state, episode_starts)
        out = self.actor_pass(groups, state, sizes)
        values, _ = self.critic_pass(groups, None if state is None else state.critic, sizes)
        log_prob = head.log_prob(out.params, self._flat_actions(actions))
        result = values.unsqueeze(-1), log_prob, head.entropy(out.params)
        if inverse is None:
            return result
        return result[0][inverse], result[1][inverse], result[2][inverse]

    def get_distribution(
        self, obs: Obs, state: PolicyState | None = None, episode_starts: th.Tensor | None = None
    ) -> Distribution:
        """Return SB3's distribution object for the observations."""
        groups = self.as_groups(obs)
        before = self._state_before(len(next(iter(groups.values()))), state, episode_starts)
        return self.action_head.distribution(self.actor_pass(groups, before).params)

    def predict_values(
        self, obs: Obs, state: PolicyState | None = None, episode_starts: th.Tensor | None = None
    ) -> th.Tensor:
        """Return values ``(B, 1)``."""
        groups = self.as_groups(obs)
        before = self._state_before(len(next(iter(groups.values()))), state, episode_starts)
        return self.critic_pass(groups, before.critic)[0].unsqueeze(-1)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[np.ndarray, ...] | None]:
        """
        Return actions inside the bounds of the action space, and the next hidden state.

        NumPy in, NumPy out as in SB3; tensors in (a batch of observations, or a dict of them),
        tensors out, without leaving the device.

        :param state: what the call before returned, a
            :class:`~sb3_strl.common.memory_state.PolicyState` of arrays; ``None`` for zeros
        :param episode_start: rows whose state is forgotten first
        :return: actions, and the new state (``None`` for a policy without memory)
        :raises StrlValueError: if the state is that of another number of environments
        """
        sample = next(iter(observation.values())) if isinstance(observation, dict) else observation
        is_tensor = isinstance(sample, th.Tensor)
        if not is_tensor and not self.is_recurrent:
            return super().predict(observation, state, episode_start, deterministic)
        self.set_training_mode(False)
        is_batch = True
        if not is_tensor:
            observation, is_batch = self.obs_to_tensor(observation)
        groups = self.as_groups(observation)
        before = None if state is None else PolicyState.from_any(state, self.device)
        if before is not None:
            check_rows(before, len(next(iter(groups.values()))))
        starts = None if episode_start is None else th.as_tensor(episode_start, device=self.device)
        with th.no_grad():
            actions, after = self.act(groups, before, starts, deterministic)
        if isinstance(self.action_space, spaces.Box):
            low = th.as_tensor(self.action_space.low, device=actions.device)
            high = th.as_tensor(self.action_space.high, device=actions.device)
            actions = actions.clamp(low, high)
        if is_tensor:
            return actions, cast("Any", after) if self.is_recurrent else cast("Any", state)
        array = actions.cpu().numpy()
        return array if is_batch else array.squeeze(axis=0), cast("Any", after.to_numpy())
