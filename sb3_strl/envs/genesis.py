"""Genesis environments in the form of its locomotion examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.rsl_rl import RslRlVecEnv
from sb3_strl.envs.simulator import UNCLIPPED


class GenesisVecEnv(RslRlVecEnv):
    """
    An environment with a ``genesis.Scene``, written as Genesis's ``Go2Env``.

    It is rsl_rl's interface with two habits of its own. The older examples' ``reset`` returns the
    observation from *before* the reset (zeros, the first time); one step with zero actions follows,
    as legged_gym does. The newer examples' log is rebuilt in every step, with zeros while nobody
    finished; each value is held until somebody finishes again.

    :param env: the environment; ``num_actions``, ``num_envs`` and ``device`` are its own
    :param groups: ``{our name: the environment's}``
    :param action_bound: limit of actions; the default is so large that actions pass unclipped
    :param zero_step: take one step with zero actions after every reset, whatever it returned
    """

    def __init__(
        self,
        env: Any,
        groups: Mapping[str, str] | None = None,
        action_bound: float = UNCLIPPED,
        zero_step: bool = False,
    ) -> None:
        RslRlVecEnv.__init__(self, env, groups, action_bound, zero_step)
        self._held: dict[str, th.Tensor] = {}

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        self._held = {}
        return super().reset_tensor()

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        step = super().step_tensor(actions)
        anyone = (step.terminated | step.truncated).any()
        for name, value in step.extras["log"].items():
            # A choice on the device: asking whether somebody finished would wait for the GPU.
            before = self._held.get(name, value)
            step.extras["log"][name] = self._held[name] = th.where(anyone, value, before)
        return step

    def _needs_zero_step(self, result: Any) -> bool:
        return self.zero_step or isinstance(result, tuple)
