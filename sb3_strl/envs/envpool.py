"""EnvPool environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.conversion import to_tensor
from sb3_strl.envs.simulator import (
    SimulatorVecEnv,
    bound_actions,
    copy_tensor,
    default_names,
    flatten,
    narrow,
    rename,
)


class EnvPoolVecEnv(SimulatorVecEnv):
    """
    A pool made with ``envpool.make(..., env_type="gymnasium")``.

    EnvPool would reset a finished environment in the step after, whose action it ignores. That step
    is no sample, so it never happens: the adapter resets finished environments right after the step
    that ended their episodes, and the last observation is the true one.

    Seeds are fixed when the pool is made: ``envpool.make(..., seed=...)``.

    :param env: the pool
    :param device: where the tensors live; default the CPU
    :param groups: ``{our name: the pool's}``
    :param action_bound: limit of actions where the pool has none
    :param log_keys: numbers in ``info`` to log, e.g. ``["reward_forward"]``; means over the
        environments
    :raises StrlTypeError: if the pool speaks another interface than Gymnasium's
    :raises StrlValueError: if it is asynchronous or has several players
    """

    def __init__(
        self,
        env: Any,
        device: th.device | str | None = None,
        groups: Mapping[str, str] | None = None,
        action_bound: float | None = None,
        log_keys: Sequence[str] = (),
    ) -> None:
        where = type(self).__name__
        actions = getattr(env, "action_space", None)
        if not isinstance(actions, spaces.Space):
            raise StrlTypeError(
                f"{where}: the pool's action space is a {type(actions).__name__}. "
                'Expected Gymnasium\'s interface. Pass env_type="gymnasium" to envpool.make().'
            )
        config = env.config
        if config["batch_size"] != config["num_envs"] or config["max_num_players"] != 1:
            raise StrlValueError(
                f"{where}: batch_size is {config['batch_size']} of num_envs={config['num_envs']}, "
                f"with max_num_players={config['max_num_players']}. Expected a synchronous pool of "
                "one player: leave out batch_size in envpool.make()."
            )
        space = env.observation_space
        parts = flatten(space.spaces) if isinstance(space, spaces.Dict) else {"policy": space}
        names = dict(groups) if groups is not None else default_names(list(parts))
        chosen = {name: narrow(part) for name, part in rename(parts, names).items()}
        is_plain = list(chosen) == ["policy"]
        SimulatorVecEnv.__init__(
            self,
            env,
            int(config["num_envs"]),
            None,
            bound_actions(actions, where, action_bound),
            device or "cpu",
            observation_space=chosen["policy"] if is_plain else spaces.Dict(chosen),
            groups=names,
        )
        self.max_episode_length = config.get("max_episode_steps")
        self.log_keys = tuple(log_keys)
        self._dtype = actions.dtype

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        seed, _ = self.take_reset_request()
        if seed is not None:
            self.warn_once(
                "seed",
                f"EnvPool's seeds are fixed when the pool is made, so seed={seed} is ignored. Pass "
                "seed to envpool.make().",
            )
        obs, _ = self.sim.reset()
        return self.read_groups(obs)

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        shape = (self.num_envs, *(self.action_space.shape or ()))
        array = np.array(actions.detach().cpu().numpy(), dtype=self._dtype).reshape(shape)
        obs, rewards, terminated, truncated, info = self.sim.step(array)
        last = first = self.read_groups(obs)
        rows = np.flatnonzero(terminated | truncated).astype(np.int32)
        if rows.size:
            obs, info_reset = self.sim.reset(rows)
            index = to_tensor(info_reset.get("env_id", rows), self.device)
            new = self.read_groups(obs)
            first = {name: last[name].index_copy(0, index, new[name]) for name in last}
        log = {f"info/{key}": np.mean(self._find(info, key)) for key in self.log_keys}
        return TensorStep(
            obs=first,
            rewards=self.read_rewards(rewards),
            terminated=self.read_flags(terminated),
            truncated=self.read_flags(truncated),
            final_obs=last,
            extras=self.read_extras({"log": log}),
        )

    def read_groups(self, obs: Any) -> TensorDict:
        """Copy an observation; numbers keep the type that the space declares."""
        found = rename(flatten(obs), self.groups)
        return {name: copy_tensor(value, self.device) for name, value in found.items()}

    def _find(self, info: Mapping[str, Any], key: str) -> Any:
        if key not in info:
            raise StrlValueError(
                f"{type(self).__name__}: log_keys names '{key}', which info does not have. "
                f"Expected some of {sorted(info)}."
            )
        return info[key]
