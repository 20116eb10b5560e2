"""Isaac Lab environments, manager-based and direct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch as th

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.simulator import (
    UNCLIPPED,
    SimulatorVecEnv,
    bound_actions,
    copy_groups,
    default_names,
)


class IsaacLabVecEnv(SimulatorVecEnv):
    """
    A ``ManagerBasedRLEnv`` or ``DirectRLEnv`` of Isaac Lab, with or without Gymnasium's wrappers.

    All observation groups are passed on. Those of a manager have their terms as segments
    (``obs_segments``), so policies may name what they read. Spaces come from a real observation,
    because the simulator's own cannot be trusted for groups that are not concatenated.

    With ``cfg.compute_final_obs = True`` (Isaac Lab 3) time-outs are bootstrapped with the true
    last observation; without it ``final_obs`` is ``None``. With ``cfg.is_finite_horizon`` time-outs
    are terminal.

    The environment is reset once when the adapter is made; the first :meth:`reset_tensor` without a
    seed returns that observation, as Isaac Lab recommends a single reset.

    :param env: the environment, made after ``AppLauncher``
    :param groups: ``{our name: the simulator's}``; nested ones are called ``"group/term"``
    :param action_bound: limit of actions where the simulator has none; the default is so large that
        actions pass unclipped, as in rsl_rl
    :raises StrlTypeError: if the environment has several agents, or is none of Isaac Lab's
    :raises StrlValueError: if it does not reset finished environments by itself
    """

    def __init__(
        self,
        env: Any,
        groups: Mapping[str, str] | None = None,
        action_bound: float = UNCLIPPED,
    ) -> None:
        where = type(self).__name__
        inner = getattr(env, "unwrapped", env)
        self._check(inner, where)
        device = th.device(inner.device)
        obs, _ = env.reset()
        first = copy_groups(obs, device, groups)
        SimulatorVecEnv.__init__(
            self,
            env,
            int(inner.num_envs),
            first,
            bound_actions(inner.single_action_space, where, action_bound),
            device,
            groups=groups,
            render_mode="rgb_array" if env.render_mode == "rgb_array" else None,
        )
        self._first: TensorDict | None = first
        self.obs_segments = read_segments(inner, groups, first)
        cfg = inner.cfg
        self._is_finite = bool(getattr(cfg, "is_finite_horizon", False))
        self._keeps_final = bool(getattr(cfg, "compute_final_obs", False))

    def _check(self, inner: Any, where: str) -> None:
        if hasattr(inner, "possible_agents"):
            raise StrlTypeError(
                f"{where}: the {type(inner).__name__} has several agents. Expected one. Isaac "
                "Lab's multi_agent_to_single_agent() makes it so."
            )
        missing = [
            name
            for name in ("num_envs", "device", "single_action_space", "cfg")
            if not hasattr(inner, name)
        ]
        if missing:
            raise StrlTypeError(
                f"{where}: the {type(inner).__name__} has no {missing}. Expected a "
                "ManagerBasedRLEnv or DirectRLEnv. make_vec() finds the right adapter."
            )
        mode = getattr(inner.cfg, "autoreset_mode", None)
        name = str(getattr(mode, "value", mode)).lower().replace("_", "")
        if mode is not None and name != "samestep":
            raise StrlValueError(
                f"{where}: cfg.autoreset_mode is {mode}. Expected same-step, in which finished "
                "environments reset themselves. Set it before making the environment."
            )

    # ------------------------------------------------------------------ tensor face

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
        obs, rewards, terminated, truncated, extras = self.sim.step(actions.detach())
        groups = self.read_groups(obs)
        return self._finish(groups, rewards, (terminated, truncated), extras)

    def _finish(
        self,
        groups: TensorDict,
        rewards: Any,
        ends: tuple[Any, Any],
        extras: Mapping[str, Any],
    ) -> TensorStep:
        final = self.read_final(extras, groups)
        self._keeps_final |= final is not None
        terminated, truncated = (self.read_flags(end) for end in ends)
        if self._is_finite:
            terminated, truncated = terminated | truncated, th.zeros_like(truncated)
        return TensorStep(
            obs=groups,
            rewards=self.read_rewards(rewards),
            terminated=terminated,
            truncated=truncated,
            # While nobody has finished yet there is nothing to keep, and no row of it counts.
            final_obs=groups if final is None and self._keeps_final else final,
            extras=self.read_extras(extras),
        )

    def render_images(self, indices: Sequence[int]) -> Sequence[np.ndarray | None]:
        """Draw the scene, which is one picture for all environments."""
        if self.render_mode is None:
            return super().render_images(indices)
        frame = self.sim.render()
        return [None if frame is None else np.array(frame) for _ in list(indices)[:1]]


def read_segments(
    inner: Any, groups: Mapping[str, str] | None, first: TensorDict
) -> dict[str, dict[str, tuple[int, ...]]] | None:
    """
    Return the terms of an observation manager as segments of our groups.

    :param inner: the simulator
    :param groups: ``{our name: the simulator's}``, or ``None`` for the default
    :param first: an observation by our names
    :return: ``None`` if there is no manager; groups whose terms do not add up are left out
    """
    manager = getattr(inner, "observation_manager", None)
    if manager is None:
        return None
    names = dict(groups or default_names(list(manager.active_terms)))
    segments = {}
    for ours, theirs in names.items():
        terms, shapes = manager.active_terms.get(theirs), manager.group_obs_term_dim.get(theirs)
        if terms is None or shapes is None or ours not in first or first[ours].ndim != 2:
            continue
        parts = {name: tuple(shape) for name, shape in zip(terms, shapes, strict=True)}
        if sum(prod(shape) for shape in parts.values()) == first[ours].shape[1]:
            segments[ours] = parts
    return segments
