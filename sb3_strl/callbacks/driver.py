"""Any policy as something that drives a tensor environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.action_bounds import action_bounds
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.segments import SINGLE_GROUP
from sb3_strl.common.types import TensorDict
from sb3_strl.envs import TensorVecEnv
from sb3_strl.envs.conversion import obs_to_numpy, to_array, to_tensor
from sb3_strl.policies import load_policy
from sb3_strl.policies.mutex_sources import ActingPolicy, acting_groups


@runtime_checkable
class Predicts(Protocol):
    """Whatever acts as Stable-Baselines3's policies do."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Return actions ``(N, *action_shape)`` and the new memory."""
        ...


PolicySource = Predicts | str | Path


class Driver(ABC):
    """
    A policy with its memory, driving all environments.

    :param env: what is driven
    """

    def __init__(self, env: TensorVecEnv) -> None:
        self.device = env.device
        space = env.action_space
        self._shape = (env.num_envs, *(space.shape or ()))
        self._bounds = action_bounds(space, env.device)

    @th.no_grad()
    def act(self, obs: TensorDict, starts: th.Tensor, deterministic: bool = True) -> th.Tensor:
        """
        Take one step of all environments; the memory goes on with it.

        :param obs: groups of the environment, ``(N, ...)``
        :param starts: ``(N,)``, rows whose memory is forgotten first
        :param deterministic: take the mode instead of a sample
        :return: ``(N, *action_shape)``, inside the bounds of the action space
        """
        actions = self._choose(obs, starts, deterministic).to(self.device).view(self._shape)
        return self.bounded(actions)

    def bounded(self, actions: th.Tensor) -> th.Tensor:
        """Return actions inside the bounds of the action space."""
        return actions if self._bounds is None else actions.clamp(*self._bounds)

    @abstractmethod
    def _choose(self, obs: TensorDict, starts: th.Tensor, deterministic: bool) -> th.Tensor:
        """Return actions, and keep the memory."""


class TensorDriver(Driver):
    """
    A policy that takes and returns tensors.

    :param env: what is driven
    :param policy: of this library
    :param group: what it sees if it does not read groups by name
    """

    def __init__(self, env: TensorVecEnv, policy: ActingPolicy, group: str) -> None:
        super().__init__(env)
        self.policy = policy
        self.state: Any = policy.initial_state(env.num_envs)
        self._group = group
        if isinstance(policy, BasePolicy):
            self.policy_device = policy.device
            self._is_plain = not isinstance(policy.observation_space, spaces.Dict)
            self._groups = acting_groups(policy)
        else:
            self.policy_device, self._is_plain, self._groups = env.device, False, ()

    def _choose(self, obs: TensorDict, starts: th.Tensor, deterministic: bool) -> th.Tensor:
        device = self.policy_device
        if self._is_plain:
            seen = {SINGLE_GROUP: obs[self._group].to(device)}
        else:
            seen = {name: obs[name].to(device) for name in self._groups or obs}
        actions, self.state = self.policy.act(seen, self.state, starts.to(device), deterministic)
        return actions


class NumpyDriver(Driver):
    """
    A policy that is asked as Stable-Baselines3 asks.

    :param env: what is driven
    :param policy: anything with ``predict``
    :param group: what it sees if it does not read groups by name; ``None`` for the observation as
        the environment gives it
    """

    def __init__(self, env: TensorVecEnv, policy: Predicts, group: str | None) -> None:
        super().__init__(env)
        self.policy = policy
        self.state: Any = None
        self._space = env.observation_space
        self._group = group

    def _choose(self, obs: TensorDict, starts: th.Tensor, deterministic: bool) -> th.Tensor:
        seen: Any
        if self._group is not None:
            seen = to_array(obs[self._group])
        else:
            seen = obs_to_numpy(obs, self._space)
        actions, self.state = self.policy.predict(
            seen, self.state, to_array(starts), deterministic=deterministic
        )
        return to_tensor(actions, self.device)


def make_driver(
    where: str, source: PolicySource, env: TensorVecEnv, use_critic_obs: bool = False
) -> Driver:
    """
    Return a policy that drives an environment.

    :param where: who complains
    :param source: a policy or algorithm of this library, Stable-Baselines3 or compatible ones,
        anything else with ``predict``, or the path of a policy or model of this library
    :param env: what is driven
    :param use_critic_obs: show a policy that reads a single vector the group ``"critic"`` instead
        of ``"policy"``
    :raises StrlTypeError: if it cannot act
    :raises StrlKeyError: if it reads a group that the environment does not have
    :raises StrlValueError: if its actions or ``use_critic_obs`` do not fit
    """
    policy: Any = load_policy(source, env.device) if isinstance(source, (str, Path)) else source
    if isinstance(policy, BaseAlgorithm) and isinstance(policy.policy, ActingPolicy):
        policy = policy.policy
    if not isinstance(policy, Predicts):
        raise StrlTypeError(
            f"{where}: the policy is {source!r}. Expected a policy or an algorithm, something with "
            "predict(observation, state, episode_start, deterministic), or the path of a file."
        )
    group: str | None = "critic" if use_critic_obs else SINGLE_GROUP
    if isinstance(policy, (BasePolicy, BaseAlgorithm)):
        _check_fits(where, policy, env)
        by_name = isinstance(policy.observation_space, spaces.Dict)
        needed = [group] if not by_name else _read(policy)
    else:
        by_name, needed = True, []
    if use_critic_obs and by_name:
        raise StrlValueError(
            f"{where}: use_critic_obs=True, but the policy reads groups by their names"
            f"{f' {needed}' if needed else ''}. Leave it out: it sees them already."
        )
    have = _group_names(env)
    for name in needed:
        if name not in have:
            raise StrlKeyError(
                f"{where}: the policy reads the observation group '{name}', which the environment "
                f"does not have. It has {have}."
            )
    if isinstance(policy, BasePolicy):
        policy.set_training_mode(False)
    if isinstance(policy, ActingPolicy):
        return TensorDriver(env, policy, group or SINGLE_GROUP)
    is_plain_env = not isinstance(env.observation_space, spaces.Dict)
    return NumpyDriver(env, policy, None if by_name or is_plain_env else group)


def _group_names(env: TensorVecEnv) -> list[str]:
    space = env.observation_space
    return list(space.spaces) if isinstance(space, spaces.Dict) else [SINGLE_GROUP]


def _read(policy: BasePolicy | BaseAlgorithm) -> list[str | None]:
    """Return the groups that a policy reads by name."""
    if isinstance(policy, BasePolicy):
        return list(acting_groups(policy))
    space = policy.observation_space
    return list(space.spaces) if isinstance(space, spaces.Dict) else []


def _check_fits(where: str, policy: BasePolicy | BaseAlgorithm, env: TensorVecEnv) -> None:
    theirs, ours = policy.action_space, env.action_space
    both = isinstance(theirs, spaces.Box) and isinstance(ours, spaces.Box)
    if (both and theirs.shape != ours.shape) or (not both and theirs != ours):
        raise StrlValueError(
            f"{where}: the policy's actions are {theirs}, those of the environment {ours}. "
            "Expected a policy of this robot."
        )
