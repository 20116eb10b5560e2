"""Any SB3 VecEnv as a tensor environment."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_wrapper,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.conversion import NumpyObs, to_tensor
from sb3_strl.envs.tensor_vec_env import TensorVecEnv
from sb3_strl.envs.wrapper_state import get_wrapped_state, set_wrapped_state

_PASSED_ON = ("amp_valid", "log")
_REFERENCE_GROUPS = ("ref_obs", "ref_motion")


class NumpyBridge(TensorVecEnv, VecEnvWrapper):
    """
    The tensor face of an SB3 ``VecEnv`` (Dummy, Subproc, or any wrapper around one).

    Floats become float32, integers int64, uint8 images stay uint8 with the channel order that the
    environment gives. All tensors are copies. The NumPy face is the wrapped environment's own.

    It is a ``VecEnvWrapper``, so SB3 finds ``VecNormalize`` and other wrappers inside.

    :param venv: the environment to wrap
    :param device: where the tensors live
    :raises StrlTypeError: if ``venv`` is no ``VecEnv``
    :raises StrlValueError: if ``VecNormalize`` would normalise style features of policy or
        reference
    """

    def __init__(self, venv: VecEnv, device: th.device | str = "cpu") -> None:
        if not isinstance(venv, VecEnv):
            raise StrlTypeError(
                f"NumpyBridge: venv is a {type(venv).__name__}. Expected a "
                "stable_baselines3 VecEnv. make_vec() accepts ids and Gymnasium environments too."
            )
        _check_normalization(venv)
        self.venv = venv
        self.class_attributes = dict(inspect.getmembers(type(self)))
        TensorVecEnv.__init__(
            self,
            venv.num_envs,
            venv.observation_space,
            venv.action_space,
            device=device,
            render_mode=venv.render_mode,
        )
        self._warned = False
        inner = venv.unwrapped
        if isinstance(inner, TensorVecEnv):
            self.max_episode_length = inner.max_episode_length
            if inner.observation_space == venv.observation_space:  # no wrapper rearranged it
                self.obs_segments = inner.obs_segments
                self.feature_names = inner.feature_names
        elif isinstance(inner, DummyVecEnv):
            spec = inner.envs[0].spec
            self.max_episode_length = None if spec is None else spec.max_episode_steps

    # ------------------------------------------------------------------ tensor face

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        return self.to_tensors(self.venv.reset())

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        obs, rewards, dones, infos = self.venv.step(self._to_numpy_actions(actions))
        dones = np.asarray(dones, dtype=bool)
        truncated = np.zeros_like(dones)
        finals: list[tuple[int, Any]] = []
        finished = np.flatnonzero(dones)
        for env in finished.tolist():
            info = infos[env]
            truncated[env] = bool(info.get("TimeLimit.truncated", False))
            if info.get("terminal_observation") is not None:
                finals.append((env, info["terminal_observation"]))
        groups = self.to_tensors(obs)
        return TensorStep(
            obs=groups,
            rewards=to_tensor(np.asarray(rewards, dtype=np.float32), self.device),
            terminated=to_tensor(dones & ~truncated, self.device),
            truncated=to_tensor(truncated, self.device),
            final_obs=self._final_obs(groups, obs, finals, len(finished)),
            extras={"infos": infos, **self._extras_inside(infos)},
        )

    def _extras_inside(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return which style features are valid and what is to be logged, where that is known."""
        inner = self.venv.unwrapped
        if isinstance(inner, TensorVecEnv):
            return {key: inner.last_extras[key] for key in _PASSED_ON if key in inner.last_extras}
        if not any("amp_valid" in info for info in infos):
            return {}
        valid = np.array([bool(info.get("amp_valid", True)) for info in infos])
        return {"amp_valid": to_tensor(valid, self.device)}

    def _to_numpy_actions(self, actions: th.Tensor) -> np.ndarray:
        space = self.action_space
        array = np.array(actions.detach().cpu().numpy(), dtype=space.dtype)
        return array.reshape(self.num_envs, *(space.shape or ()))

    def _final_obs(
        self, groups: TensorDict, obs: Any, finals: list[tuple[int, Any]], n_finished: int
    ) -> TensorDict | None:
        """Return ``groups`` with finished rows as they were before the reset."""
        if len(finals) < n_finished:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    "NumpyBridge: the environment finished an episode without "
                    "'terminal_observation' in its info. Time-outs cannot be bootstrapped exactly.",
                    stacklevel=3,
                )
            return None
        if not finals:
            return groups
        rows = [env for env, _ in finals]
        if not isinstance(obs, dict):
            dense = np.array(obs)
            dense[rows] = np.stack([final for _, final in finals])
            return self.to_tensors(dense)
        result: dict[str, np.ndarray] = {}
        for key, value in obs.items():
            result[key] = np.array(value)
            result[key][rows] = np.stack([final[key] for _, final in finals])
        return self.to_tensors(result)

    def get_state(self) -> TensorDict | None:
        """Return the state of a tensor environment inside and of known wrappers around it."""
        return get_wrapped_state(self.venv)

    def set_state(self, state: TensorDict) -> None:
        """
        Restore the state of a tensor environment inside and of the wrappers around it.

        :raises StrlValueError: if there is none
        """
        if not isinstance(self.venv.unwrapped, TensorVecEnv):
            super().set_state(state)
        set_wrapped_state(self.venv, state)

    # ------------------------------------------------------------------ SB3's face: the wrapped one

    def reset(self) -> NumpyObs:
        """Reset the wrapped environment."""
        obs: NumpyObs = self.venv.reset()  # type: ignore[assignment]  # never a tuple
        self.reset_infos = self.venv.reset_infos
        return obs

    def step_async(self, actions: np.ndarray | th.Tensor) -> None:
        """Pass the actions to the wrapped environment."""
        if isinstance(actions, th.Tensor):
            actions = self._to_numpy_actions(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step the wrapped environment."""
        return self.venv.step_wait()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the wrapped environment."""
        return self.venv.seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Pass options to the wrapped environment."""
        self.venv.set_options(options)

    def close(self) -> None:
        """Close the wrapped environment."""
        self.venv.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw the wrapped environment."""
        return self.venv.get_images()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the wrapped environment."""
        return self.venv.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the wrapped environment."""
        self.venv.set_attr(attr_name, value, indices)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the wrapped environment."""
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Ask the wrapped environment."""
        return self.venv.env_is_wrapped(wrapper_class, indices)


def as_tensor_env(env: VecEnv, device: th.device | str = "cpu") -> TensorVecEnv:
    """
    Return the tensor face of an environment.

    :param env: a tensor environment, which is returned as it is, or any other ``VecEnv``, which is
        bridged; a wrapper *around* a tensor environment counts as any other, because only its NumPy
        face does what the wrapper does
    :param device: where the bridge's tensors live
    :raises StrlTypeError: if ``env`` is no ``VecEnv``
    """
    return env if isinstance(env, TensorVecEnv) else NumpyBridge(env, device)


def _check_normalization(venv: VecEnv) -> None:
    normalize = unwrap_vec_wrapper(venv, VecNormalize)
    if normalize is None or not normalize.norm_obs:
        return
    if not isinstance(normalize.observation_space, spaces.Dict):
        return
    wrong = [key for key in normalize.norm_obs_keys or [] if key in _REFERENCE_GROUPS]
    if wrong:
        allowed = [
            key for key in normalize.observation_space.spaces if key not in _REFERENCE_GROUPS
        ]
        raise StrlValueError(
            f"NumpyBridge: VecNormalize normalises {wrong}. Style features of policy and reference "
            "must keep their scale, the discriminator normalises both alike. Pass "
            f"norm_obs_keys={allowed} to VecNormalize."
        )
