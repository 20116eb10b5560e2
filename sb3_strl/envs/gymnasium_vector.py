"""Environments of ``gymnasium.vector``, whatever their way to reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.conversion import to_tensor
from sb3_strl.envs.simulator import (
    SimulatorVecEnv,
    bound_actions,
    copy_tensor,
    flatten,
    match_groups,
    narrow,
    rename,
)


class GymnasiumVecEnv(SimulatorVecEnv):
    """
    A ``gymnasium.vector.VectorEnv`` of NumPy arrays or torch tensors.

    What happens at the end of an episode depends on the environment's autoreset mode:

    - *same-step*: the environment resets itself in the step that ends the episode, and supplies the
      last observation in ``infos["final_obs"]``. Taken as it is.
    - *next-step* (Gymnasium's default): the environment would ignore the action of the step after
      the end and reset instead. That step is no sample: nobody acted, and its reward belongs to no
      episode. So it never happens: the adapter resets finished environments itself, right after the
      step that ended their episodes, with ``reset(options={"reset_mask": ...})``.
    - *disabled*: likewise.

    So all three give the same samples, and time-outs are bootstrapped with the true last
    observation.

    :param env: the environment
    :param device: where the tensors live; default the CPU
    :param groups: ``{our name: key of the Dict space}``; default all keys by their names
    :param action_bound: limit of actions where the environment has none
    :param masked_reset: whether ``reset`` obeys ``options={"reset_mask": ...}``. ``None``: yes for
        Gymnasium's own classes and in disabled mode, whose definition asks for it
    :raises StrlTypeError: if it is no vector environment, or its observations are no Box or Dict
    :raises StrlValueError: if environments in next-step mode cannot be reset one by one, also
        because of a wrapper
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        device: th.device | str | None = None,
        groups: Mapping[str, str] | None = None,
        action_bound: float | None = None,
        masked_reset: bool | None = None,
    ) -> None:
        where = type(self).__name__
        if not isinstance(env, gym.vector.VectorEnv):
            raise StrlTypeError(
                f"{where}: env is a {type(env).__name__}. Expected a gymnasium.vector.VectorEnv. "
                "make_vec() accepts other environments."
            )
        space = env.single_observation_space
        if isinstance(space, spaces.Dict):
            names = groups or {name: name for name in flatten(space.spaces)}
            parts = rename(flatten(space.spaces), names)
            space = spaces.Dict({name: narrow(part) for name, part in parts.items()})
        else:
            names, space = {"policy": "policy"}, narrow(space)
        self.mode = read_mode(env, where)
        if self.mode is not AutoresetMode.SAME_STEP and not _can_mask(env, self.mode, masked_reset):
            raise StrlValueError(
                f"{where}: {env} resets in the next step, and whether it can reset some "
                "environments alone is unknown. Expected autoreset_mode=AutoresetMode.SAME_STEP, "
                "or a reset() that takes options={'reset_mask': ...}. Make it so, or pass "
                "masked_reset=True if it does."
            )
        if self.mode is not AutoresetMode.SAME_STEP:
            _check_wrappers(env, where)
        actions = bound_actions(env.single_action_space, where, action_bound)
        SimulatorVecEnv.__init__(
            self,
            env,
            env.num_envs,
            None,
            actions,
            device or "cpu",
            observation_space=space,
            groups=names,
            render_mode=env.render_mode if env.render_mode == "rgb_array" else None,
        )
        self._uses_torch = False
        self.max_episode_length = _time_limit(env)

    # ------------------------------------------------------------------ tensor face

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        seed, options = self.take_reset_request()
        obs, _ = self.sim.reset(seed=seed, options=options[0] or None)
        first = next(iter(flatten(obs).values()))
        self._uses_torch = isinstance(first, th.Tensor)
        return self.read_groups(obs)

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        obs, rewards, terminated, truncated, infos = self.sim.step(self._to_actions(actions))
        groups = self.read_groups(obs)
        dones = terminated | truncated
        if self.mode is AutoresetMode.SAME_STEP:
            final = self._read_final(infos, groups, dones)
        else:
            groups, final = self._reset_finished(groups, dones)
        return TensorStep(
            obs=groups,
            rewards=self.read_rewards(rewards),
            terminated=self.read_flags(terminated),
            truncated=self.read_flags(truncated),
            final_obs=final,
            extras=self.read_extras(infos),
        )

    def read_groups(self, obs: Any) -> TensorDict:
        """Copy an observation; numbers keep the type that the space declares."""
        found = rename(flatten(obs), self.groups)
        return {name: copy_tensor(value, self.device) for name, value in found.items()}

    def read_extras(self, infos: Any) -> dict[str, Any]:
        """Return the extras that algorithms know; infos of episodes belong to wrappers."""
        if not isinstance(infos, Mapping):
            raise StrlTypeError(
                f"{type(self).__name__}: infos is a {type(infos).__name__}. Expected a dict of "
                "arrays, as gymnasium.vector has it. Take off the wrapper DictInfoToList."
            )
        known = {key: infos[key] for key in ("log", "amp_valid") if key in infos}
        return super().read_extras(known)

    def _to_actions(self, actions: th.Tensor) -> Any:
        space = self.action_space
        shape = (self.num_envs, *(space.shape or ()))
        if self._uses_torch:
            return actions.detach().reshape(shape)
        return np.array(actions.detach().cpu().numpy(), dtype=space.dtype).reshape(shape)

    def _reset_finished(self, groups: TensorDict, dones: Any) -> tuple[TensorDict, TensorDict]:
        """Begin new episodes where ``dones``; return first and last observations."""
        if not bool(dones.any()):
            return groups, groups
        obs, _ = self.sim.reset(options={"reset_mask": dones})
        # A wrapper may have changed the running ones' rows again, so only finished rows are taken.
        return merge_rows(self.read_flags(dones), self.read_groups(obs), groups), groups

    def _read_final(self, infos: Any, groups: TensorDict, dones: Any) -> TensorDict | None:
        """Return last observations of same-step mode, from either of two layouts."""
        final = infos.get("final_obs", infos.get("final_observation"))
        if final is None:
            return None if bool(dones.any()) else groups
        if not (isinstance(final, np.ndarray) and final.dtype == object):
            return match_groups(self.read_groups(final), groups)  # rows of all environments
        result = {name: value.clone() for name, value in groups.items()}
        for row, value in enumerate(final):
            if value is None:
                continue
            for name, part in rename(flatten(value), self.groups).items():
                result[name][row] = to_tensor(part, self.device)
        return result

    # ------------------------------------------------------------------ SB3's face

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the adapter, or of each environment asked for."""
        if hasattr(self, attr_name) or not _is_gymnasiums_own(self.inner):
            return super().get_attr(attr_name, indices)
        values = self.inner.get_attr(attr_name)
        return [values[index] for index in self._check_indices(indices)]

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the adapter, or of all environments; return those asked for."""
        if hasattr(self, method_name) or not _is_gymnasiums_own(self.inner):
            return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)
        results = self.inner.call(method_name, *method_args, **method_kwargs)
        return [results[index] for index in self._check_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of the adapter, or of all environments.

        :raises StrlValueError: if only some environments are meant
        """
        everyone = len(set(self._check_indices(indices))) == self.num_envs
        own = hasattr(self, attr_name) or not _is_gymnasiums_own(self.inner)
        if own or not everyone:
            super().set_attr(attr_name, value, indices)
        else:
            self.inner.set_attr(attr_name, [value] * self.num_envs)

    def render_images(self, indices: Sequence[int]) -> Sequence[np.ndarray | None]:
        """Draw environments."""
        if self.render_mode is None:
            return super().render_images(indices)
        frames = self.sim.render()
        return [np.asarray(frames[index]) for index in indices]


def read_mode(env: Any, where: str) -> AutoresetMode:
    """
    Return the autoreset mode that the environment declares; next-step, if it does not.

    :raises StrlValueError: if there is no such mode
    """
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if isinstance(mode, AutoresetMode):
        return mode
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        raise StrlValueError(
            f"{where}: metadata['autoreset_mode'] is {mode!r}. Expected one of "
            f"{[known.value for known in AutoresetMode]}."
        ) from error


def merge_rows(dones: th.Tensor, first: TensorDict, last: TensorDict) -> TensorDict:
    """Return ``first`` in finished rows and ``last`` in the others."""
    result = {}
    for name, value in last.items():
        mask = dones.view(-1, *[1] * (value.ndim - 1))
        result[name] = th.where(mask, first[name], value)
    return result


def _is_gymnasiums_own(env: Any) -> bool:
    return isinstance(env, SyncVectorEnv | AsyncVectorEnv)


def _can_mask(env: Any, mode: AutoresetMode, masked_reset: bool | None) -> bool:
    if masked_reset is not None:
        return masked_reset
    return mode is AutoresetMode.DISABLED or _is_gymnasiums_own(env.unwrapped)


def _check_wrappers(env: Any, where: str) -> None:
    """Refuse wrappers that reset all environments or none: one raises, one forgets the others."""
    while isinstance(env, gym.vector.VectorWrapper):
        if isinstance(env, NormalizeObservation | NormalizeReward):
            raise StrlValueError(
                f"{where}: the environment is wrapped in {type(env).__name__}, which cannot reset "
                "some environments alone. Expected wrappers that can. Take it off, and normalise "
                "afterwards: VecNormalize(make_vec(env)), of Stable-Baselines3."
            )
        env = env.env


def _time_limit(env: Any) -> int | None:
    """Return the time limit that the environment's specification declares."""
    inner = env.unwrapped
    spec = getattr(inner, "spec", None) or getattr(env, "spec", None)
    envs = getattr(inner, "envs", None)
    if envs:
        spec = envs[0].spec or spec
    return None if spec is None else getattr(spec, "max_episode_steps", None)
