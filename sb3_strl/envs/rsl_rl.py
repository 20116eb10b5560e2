"""Environments in the interfaces of rsl_rl: version 5, older ones, st_rl's and legged_gym's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.simulator import (
    UNCLIPPED,
    SimulatorVecEnv,
    bound_actions,
    copy_groups,
    read_limit,
)

_PATIENCE = 1000
"""Steps after which missing time-outs are worth a warning, where no time limit is known."""


class RslRlVecEnv(SimulatorVecEnv):
    """
    An environment written for rsl_rl's runner. What its ``step`` returns tells the generation:

    - rsl_rl 3 to 5: ``(TensorDict, rewards, dones, extras)``, a TensorDict of groups;
    - rsl_rl 2, st_rl: ``(obs, rewards, dones, extras)``; ``obs`` is the group ``policy``, others
      are in ``extras["observations"]``;
    - rsl_rl 1, legged_gym: ``(obs, privileged obs or None, rewards, dones, extras)``, the groups
      ``policy`` and ``critic``.

    ``dones`` (int64 in most) become bool. Environments whose ``extras["time_outs"]`` is true were
    cut, the other finished ones terminated; old time-outs that lie in ``extras`` while nobody
    finished are ignored. Without ``time_outs`` every end counts as terminal, as in rsl_rl.
    ``extras["ref_motion"]`` becomes the group of that name.

    These interfaces know no last observation, so ``final_obs`` is ``None``, unless ``extras`` has
    one (``final_obs``, ``terminal_obs``, ``final_observation``). Nor do they tell a fall in the
    last step from a time-out: rsl_rl counts it as a time-out, and so does this class.

    :param env: the environment
    :param groups: ``{our name: the environment's}``
    :param action_bound: limit of actions; the default is so large that actions pass unclipped, as
        in rsl_rl
    :param zero_step: take one step with zero actions after every reset, for environments whose
        reset brings an old observation, or fewer groups than their steps
    :raises StrlTypeError: if the environment lacks what rsl_rl's runner asks for
    """

    def __init__(
        self,
        env: Any,
        groups: Mapping[str, str] | None = None,
        action_bound: float = UNCLIPPED,
        zero_step: bool = False,
    ) -> None:
        where = type(self).__name__
        missing = [
            name
            for name in ("num_envs", "num_actions", "device", "get_observations", "step")
            if not hasattr(env, name)
        ]
        if missing:
            raise StrlTypeError(
                f"{where}: the {type(env).__name__} has no {missing}. Expected what rsl_rl's "
                "VecEnv has: num_envs, num_actions, device, get_observations(), step()."
            )
        device = th.device(env.device)
        self.zero_step = zero_step
        zeros = th.zeros(int(env.num_envs), int(env.num_actions), device=device)
        obs = split(where, env.step(zeros))[0] if zero_step else observe(env)
        limits = np.full(int(env.num_actions), np.inf, dtype=np.float32)
        SimulatorVecEnv.__init__(
            self,
            env,
            int(env.num_envs),
            copy_groups(obs, device, groups),
            bound_actions(spaces.Box(-limits, limits), where, action_bound),
            device,
            groups=groups,
        )
        if self.max_episode_length is None:
            self.max_episode_length = read_limit(env)
        cfg = getattr(self.inner, "cfg", None)
        self._is_finite = bool(getattr(cfg, "is_finite_horizon", False))
        self._n_steps = 0
        self._knows_time_outs = False
        self._knows_final = False

    # ------------------------------------------------------------------ tensor face

    def reset_tensor(self) -> TensorDict:
        """
        Reset every environment; see the base class.

        rsl_rl's interface has no ``reset``. Where the environment has none, episodes go on.
        """
        seed, _ = self.take_reset_request()
        self.seed_simulator(seed)
        return self.read_groups(self._reset_sim())

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        result = self.sim.step(actions.detach())
        obs, rewards, dones, extras = split(type(self).__name__, result)
        groups = self.read_groups(obs)
        self._check_groups(groups)
        finished = self.read_flags(dones)
        truncated = self._read_time_outs(extras, finished)
        final = self.read_final(extras, groups)
        self._knows_final |= final is not None
        return TensorStep(
            obs=groups,
            rewards=self.read_rewards(rewards),
            terminated=finished & ~truncated,
            truncated=truncated,
            final_obs=groups if final is None and self._knows_final else final,
            extras=self.read_extras(extras),
        )

    def _reset_sim(self) -> Any:
        """Reset the simulator; return its observation as one dict or tensor."""
        has_reset = callable(getattr(self.sim, "reset", None))
        result = self.sim.reset() if has_reset else None
        if self._needs_zero_step(result):
            zeros = th.zeros(self.num_envs, *(self.action_space.shape or ()), device=self.device)
            return split(type(self).__name__, self.sim.step(zeros))[0]
        return observe(self.sim) if result is None else join(result)

    def _needs_zero_step(self, result: Any) -> bool:  # noqa: ARG002  Genesis looks at the result
        return self.zero_step

    def _check_groups(self, groups: TensorDict) -> None:
        expected = group_spaces(self.observation_space)
        if groups.keys() != expected.keys():
            raise StrlValueError(
                f"{type(self).__name__}: step() brings the groups {sorted(groups)}. Expected "
                f"{sorted(expected)}, which get_observations() brought. Pass zero_step=True, or "
                "name the groups that both have: groups={our name: the environment's}."
            )

    def _read_time_outs(self, extras: Mapping[str, Any], finished: th.Tensor) -> th.Tensor:
        self._n_steps += 1
        time_outs = extras.get("time_outs")
        if time_outs is not None and not self._is_finite:
            self._knows_time_outs = True
            return self.read_flags(time_outs) & finished
        if (
            not self._knows_time_outs
            and not self._is_finite
            and self._n_steps > (self.max_episode_length or _PATIENCE)
        ):
            self.warn_once(
                "time_outs",
                "extras has no 'time_outs', so every end of an episode counts as terminal and "
                "nothing is bootstrapped. Put a bool tensor extras['time_outs'] there.",
            )
        return th.zeros_like(finished)


def split(where: str, result: Any) -> tuple[Any, Any, Any, Mapping[str, Any]]:
    """
    Return observation, rewards, dones and extras of a step of any family.

    :param where: who complains
    :param result: what ``step`` returned
    :raises StrlTypeError: if it is of no known family
    """
    if len(result) == 4:
        obs, rewards, dones, extras = result
        return join((obs, extras)), rewards, dones, extras
    if len(result) == 5 and (result[1] is None or result[1].ndim > 1):
        obs, privileged, rewards, dones, extras = result
        return join((obs, privileged, extras)), rewards, dones, extras
    raise StrlTypeError(
        f"{where}: step() returned {len(result)} things. Expected (obs, rewards, dones, extras) or "
        "(obs, privileged_obs, rewards, dones, extras). make_vec() knows other interfaces."
    )


def observe(env: Any) -> Any:
    """Return the present observation of an environment of any family, as one dict or tensor."""
    result = env.get_observations()
    privileged = getattr(env, "get_privileged_observations", None)
    if isinstance(result, th.Tensor) and callable(privileged):
        return join((result, privileged()))
    return join(result)


def join(result: Any) -> Any:
    """
    Join the parts of an observation to one dict or tensor.

    :param result: groups; or a tensor; or a tuple of either with privileged observations (a tensor)
        and extras (a dict), in any number
    """
    if not isinstance(result, tuple):
        return result
    obs, *others = result
    groups: dict[str, Any] = {}
    for other in others:
        if isinstance(other, th.Tensor):
            groups["critic"] = other
        elif isinstance(other, Mapping):
            if other.get("observations") is not None:
                groups |= dict(other["observations"].items())
            if "ref_motion" in other:
                groups["ref_motion"] = other["ref_motion"]
    if isinstance(obs, th.Tensor):
        return {"policy": obs, **{k: v for k, v in groups.items() if k != "policy"}}
    return {**dict(obs.items()), **groups} if groups else obs
