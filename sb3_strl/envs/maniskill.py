"""ManiSkill environments."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.simulator import SimulatorVecEnv, bound_actions, copy_groups


class ManiSkillVecEnv(SimulatorVecEnv):
    """
    A ``ManiSkillVectorEnv``, or what ``gym.make`` makes of a ManiSkill task, which is wrapped so.

    Finished environments are reset in the same step, and the last observation is supplied. Nested
    observations become groups such as ``"sensor_data/base_camera/rgb"``; images keep their channel
    order. Success and failure of finished episodes are logged, if the wrapper was made with
    ``record_metrics=True``, which the adapter does.

    :param env: the environment
    :param groups: ``{our name: the simulator's}``
    :param action_bound: limit of actions where the simulator has none
    """

    def __init__(
        self,
        env: Any,
        groups: Mapping[str, str] | None = None,
        action_bound: float | None = None,
    ) -> None:
        if not hasattr(env, "auto_reset"):
            module = importlib.import_module("mani_skill.vector.wrappers.gymnasium")
            env = module.ManiSkillVectorEnv(env, auto_reset=True, record_metrics=True)
        inner = env.unwrapped
        device = th.device(inner.device)
        obs, _ = env.reset()
        first = copy_groups(obs, device, groups)
        SimulatorVecEnv.__init__(
            self,
            env,
            int(env.num_envs),
            first,
            bound_actions(env.single_action_space, type(self).__name__, action_bound),
            device,
            groups=groups,
            render_mode="rgb_array" if inner.render_mode == "rgb_array" else None,
        )
        self._first: TensorDict | None = first
        spec = getattr(env, "spec", None)
        self.max_episode_length = getattr(spec, "max_episode_steps", None)

    @property
    def episode_length_buf(self) -> th.Tensor | None:  # type: ignore[override]
        """Steps since the last reset, ``(n_envs,)``; the simulator's own tensor."""
        value = getattr(self.inner, "elapsed_steps", None)
        return value if isinstance(value, th.Tensor) else None

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        seed, options = self.take_reset_request()
        first, self._first = self._first, None
        if first is not None and seed is None:
            return first
        obs, _ = self.sim.reset(seed=seed, options=options[0] or None)
        return self.read_groups(obs)

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        self._first = None
        obs, rewards, terminated, truncated, infos = self.sim.step(actions.detach())
        groups = self.read_groups(obs)
        terminated, truncated = self.read_flags(terminated), self.read_flags(truncated)
        final = self.read_final(infos, groups)
        return TensorStep(
            obs=groups,
            rewards=self.read_rewards(rewards),
            terminated=terminated,
            truncated=truncated,
            final_obs=groups if final is None else final,  # absent: nobody finished
            extras={"log": self._read_metrics(infos, terminated | truncated)},
        )

    def _read_metrics(self, infos: Mapping[str, Any], dones: th.Tensor) -> dict[str, th.Tensor]:
        """Return means over finished episodes; nothing while nobody finishes."""
        episode = (infos.get("final_info") or {}).get("episode") or {}
        count = dones.sum()
        return {
            f"episode/{name}": (value.to(th.float32) * dones).sum() / count
            for name, value in episode.items()
            if isinstance(value, th.Tensor) and value.shape == dones.shape
        }

    def render_images(self, indices: Sequence[int]) -> Sequence[np.ndarray | None]:
        """Draw environments."""
        if self.render_mode is None:
            return super().render_images(indices)
        frames = self.sim.render()
        return [frames[index].cpu().numpy() for index in indices]
