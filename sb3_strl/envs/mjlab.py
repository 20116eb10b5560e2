"""mjlab environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.gymnasium_vector import merge_rows
from sb3_strl.envs.isaaclab import IsaacLabVecEnv
from sb3_strl.envs.simulator import UNCLIPPED


class MjlabVecEnv(IsaacLabVecEnv):
    """
    A ``ManagerBasedRlEnv`` of mjlab, whose interface is Isaac Lab's.

    Its own automatic reset loses the last observation. So the adapter switches it off
    (``cfg.auto_reset``) and resets finished environments itself, right after the step that ended
    their episodes. That costs one more observation in such steps, and none in others.

    The group ``actor`` is called ``policy`` here.

    :param env: the environment
    :param groups: ``{our name: the simulator's}``
    :param action_bound: limit of actions where the simulator has none; the default is so large that
        actions pass unclipped, as in rsl_rl
    :param final_obs: whether to keep last observations; ``False`` leaves the automatic reset to the
        simulator, and time-outs are bootstrapped approximately
    """

    def __init__(
        self,
        env: Any,
        groups: Mapping[str, str] | None = None,
        action_bound: float = UNCLIPPED,
        final_obs: bool = True,
    ) -> None:
        IsaacLabVecEnv.__init__(self, env, groups, action_bound)
        self._resets_itself = True
        if final_obs and hasattr(self.inner.cfg, "auto_reset"):
            self.inner.cfg.auto_reset = False
            self._resets_itself = False

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        seed, _ = self.take_reset_request()
        first, self._first = self._first, None
        if first is not None and seed is None:
            return first
        obs, _ = self.sim.reset(seed=seed)
        return self.read_groups(obs)

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        if self._resets_itself:
            return super().step_tensor(actions)
        self._first = None
        obs, rewards, terminated, truncated, extras = self.sim.step(actions.detach())
        final = self.read_groups(obs)
        flags = self.read_flags(terminated), self.read_flags(truncated)
        dones = flags[0] | flags[1]
        step = self._finish(final, rewards, flags, extras)
        # The simulator waits for the number of finished environments in every step anyway.
        rows = dones.nonzero().squeeze(-1)
        if rows.numel() == 0:
            return step._replace(final_obs=final)
        obs, extras = self.sim.reset(env_ids=rows)
        log = {**step.extras["log"], **self.read_extras(extras)["log"]}
        return step._replace(
            obs=merge_rows(dones, self.read_groups(obs), final),
            final_obs=final,
            extras={**step.extras, "log": log},
        )
