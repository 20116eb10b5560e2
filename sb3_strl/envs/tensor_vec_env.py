"""The tensor face of a batched environment, with SB3's NumPy face on the same object."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.conversion import (
    NumpyObs,
    check_spaces,
    obs_to_numpy,
    obs_to_tensors,
    to_array,
)
from sb3_strl.envs.lazy import LazyArray, LazyInfos, lazy_obs

_MAX_IMAGES = 16


class TensorVecEnv(VecEnv):
    """
    A batch of environments whose steps stay tensors on one device.

    A simulator implements :meth:`reset_tensor` and :meth:`step_tensor`, and where it can
    :meth:`get_state`, :meth:`set_state` and :meth:`render_images`. Everything that SB3 calls
    (``reset``, ``step``, ``seed``, ``get_attr``, ...) is built on these here, so that
    ``evaluate_policy``, ``VecMonitor``, ``VecNormalize``, ``VecVideoRecorder`` and SB3's own
    algorithms work unchanged.

    Environments reset themselves in the step that ends an episode. Episode statistics of the NumPy
    face appear in the infos of finished environments, so ``Monitor`` is not needed.

    Attributes a simulator may set: ``max_episode_length``, steps until an episode is cut;
    ``obs_segments``, ``{group: {segment: shape}}``, ordered names of the parts of vector groups;
    ``feature_names``, ``{group: names}``, names of the F features of each frame of ``ref_obs`` and
    ``ref_motion``; ``frame_dt``, seconds between two of these frames; ``episode_length_buf``,
    ``(n_envs,)``, int64, steps since the last reset;
    ``metadata``, before the constructor of this class is called, e.g. ``{"render_fps": 50}``.

    :param num_envs: number of environments
    :param observation_space: a flat Dict of observation groups, or a single space, which the tensor
        face calls the group ``"policy"``
    :param action_space: a Box with finite bounds, or a Discrete, MultiDiscrete or MultiBinary space
    :param device: where all tensors live
    :param render_mode: ``"rgb_array"`` if :meth:`render_images` is implemented
    :raises StrlValueError: if ``num_envs`` is not positive or actions are unbounded
    :raises StrlTypeError: if a space is of a kind that cannot be used
    """

    device: th.device
    max_episode_length: int | None = None
    obs_segments: dict[str, dict[str, tuple[int, ...]]] | None = None
    feature_names: dict[str, list[str]] | None = None
    frame_dt: float | None = None
    episode_length_buf: th.Tensor | None = None
    metadata: dict[str, Any] = {}
    render_mode: str | None = None

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise StrlValueError(
                f"{type(self).__name__}: num_envs is {num_envs}. Expected at least 1 environment."
            )
        check_spaces(type(self).__name__, observation_space, action_space)
        self.device = th.device(device)
        if render_mode is not None:
            self.render_mode = render_mode  # SB3's constructor asks for it through get_attr
        metadata = self.metadata
        self._actions: th.Tensor | None = None
        self.last_extras: dict[str, Any] = {}  # of the NumPy face's last step
        self._returns = np.zeros(num_envs, dtype=np.float32)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._t_start = time.time()
        VecEnv.__init__(self, num_envs, observation_space, action_space)
        self.metadata = {**self.metadata, **metadata}  # SB3's constructor knows the modes only

    # ------------------------------------------------------------------ tensor face

    @abstractmethod
    def reset_tensor(self) -> TensorDict:
        """
        Reset every environment.

        Implementations begin with :meth:`take_reset_request`, which hands over what :meth:`seed`
        and ``set_options`` asked for.

        :return: observation groups, ``(n_envs, *group_shape)`` each
        """

    @abstractmethod
    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """
        Step every environment, and reset those whose episode ends.

        :param actions: ``(n_envs, *action_shape)``, inside the bounds of the action space
        """

    def get_state(self) -> TensorDict | None:
        """
        Return everything that the next step depends on, random generators included.

        :return: tensors by name, or ``None`` if the simulator cannot tell
        """
        return None

    def set_state(self, state: TensorDict) -> None:
        """
        Continue exactly where :meth:`get_state` was called.

        :param state: what :meth:`get_state` returned, of as many environments
        :raises StrlValueError: if the simulator has no state to restore
        """
        raise StrlValueError(
            f"{type(self).__name__}: this environment cannot restore a state (given: "
            f"{sorted(state)}). Implement get_state() and set_state()."
        )

    @property
    def episode_counters(self) -> dict[str, np.ndarray]:
        """Returns and lengths of the running episodes, as the NumPy face counts them."""
        return {"returns": self._returns, "lengths": self._lengths}

    def take_reset_request(self) -> tuple[int | None, list[dict[str, Any]]]:
        """
        Return the seed and the options for the coming reset, and forget them.

        :return: the seed of the first environment, or ``None`` to go on with the generators as they
            are, and one dict of options per environment
        """
        seed, options = self._seeds[0], self._options
        self._reset_seeds()
        self._reset_options()
        return seed, options

    def randomize_episode_lengths(self, generator: th.Generator | None = None) -> None:
        """
        Pretend that episodes have been running for random times, lest they end together.

        :param generator: source of randomness
        :raises StrlValueError: if the simulator does not count steps or has no time limit
        """
        if self.episode_length_buf is None or self.max_episode_length is None:
            raise StrlValueError(
                f"{type(self).__name__}: episode lengths cannot be randomised. The environment "
                "needs the attributes 'episode_length_buf' (a tensor) and 'max_episode_length' (an "
                "int)."
            )
        self.episode_length_buf.random_(0, self.max_episode_length, generator=generator)

    def to_tensors(self, obs: Any) -> TensorDict:
        """Copy an observation of the NumPy face to observation groups on the device."""
        return obs_to_tensors(obs, self.device)

    def lazy_obs(self, obs: TensorDict) -> LazyArray | dict[str, LazyArray]:
        """Present observation groups as the NumPy face does, without a transfer."""
        return lazy_obs(obs, self.observation_space)

    def lazy_infos(
        self,
        step: TensorStep,
        returns: th.Tensor | None = None,
        lengths: th.Tensor | None = None,
    ) -> Sequence[dict[str, Any]]:
        """
        Return SB3's infos of a step, without a transfer.

        :param step: what :meth:`step_tensor` returned
        :param returns: ``(n_envs,)``, returns of the episodes up to this step
        :param lengths: ``(n_envs,)``, their lengths
        """
        infos: Sequence[dict[str, Any]] | None = step.extras.get("infos")
        if infos is not None:
            return infos
        seconds = time.time() - self._t_start
        return LazyInfos(step, self.observation_space, returns, lengths, seconds)

    # ------------------------------------------------------------------ SB3's face: reset and step

    def reset(self) -> NumpyObs:
        """Reset every environment; return copies."""
        obs = self.reset_tensor()
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._returns.fill(0.0)
        self._lengths.fill(0)
        self._actions = None
        return obs_to_numpy(obs, self.observation_space)

    def step_async(self, actions: np.ndarray | th.Tensor) -> None:
        """
        Take the actions of the coming step.

        :param actions: ``(n_envs, *action_shape)``; copied
        :raises StrlValueError: if the shape is another
        """
        is_box = isinstance(self.action_space, spaces.Box)
        array = actions.detach() if isinstance(actions, th.Tensor) else np.asarray(actions)
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if tuple(array.shape) != expected:
            raise StrlValueError(
                f"{type(self).__name__}: the actions have shape {tuple(array.shape)}. Expected "
                f"{expected}: one row for each environment."
            )
        dtype = th.float32 if is_box else th.int64
        if isinstance(array, th.Tensor):
            self._actions = array.to(self.device, dtype, copy=True)
        else:
            self._actions = th.tensor(array, dtype=dtype, device=self.device)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step every environment with the actions of :meth:`step_async`; return copies.

        :raises StrlValueError: if there are no actions
        """
        if self._actions is None:
            raise StrlValueError(
                f"{type(self).__name__}: step_wait() without actions. Call reset() and "
                "step_async() before, or step()."
            )
        actions, self._actions = self._actions, None
        step = self.step_tensor(actions)
        self.last_extras = step.extras
        step = step._replace(terminated=step.terminated.bool(), truncated=step.truncated.bool())
        rewards = to_array(step.rewards, np.float32)
        dones = to_array(step.terminated | step.truncated)
        self._returns += rewards
        self._lengths += 1
        infos = self.lazy_infos(step, th.from_numpy(self._returns), th.from_numpy(self._lengths))
        if isinstance(infos, LazyInfos):
            infos.materialize()  # the simulator may reuse the step's memory
        self._returns[dones] = 0.0
        self._lengths[dones] = 0
        obs = obs_to_numpy(step.obs, self.observation_space)
        return obs, rewards, dones, infos  # type: ignore[return-value]  # behaves as SB3's list

    # ------------------------------------------------------------------ SB3's face: the rest

    def close(self) -> None:
        """Free the simulator; nothing to do by default."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the simulator, once for each environment asked for."""
        value = getattr(self, attr_name)
        return [value for _ in self._check_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of the simulator.

        :raises StrlValueError: if only some environments are meant, which share their attributes
        """
        if len(set(self._check_indices(indices))) != self.num_envs:
            raise StrlValueError(
                f"{type(self).__name__}: set_attr('{attr_name}') for some environments only "
                f"(indices={indices}). The environments of a batch share their attributes. Leave "
                "out indices."
            )
        setattr(self, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the simulator once; return its result for each environment asked for."""
        positions = self._check_indices(indices)
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in positions]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Tell whether episodes are tracked (``Monitor``); nothing else is ever inside."""
        tracked = issubclass(wrapper_class, Monitor)
        return [tracked for _ in self._check_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw the first environments (at most 16)."""
        return self.render_images(range(min(self.num_envs, _MAX_IMAGES)))

    def render_images(self, indices: Sequence[int]) -> Sequence[np.ndarray | None]:
        """
        Draw environments.

        :param indices: which ones
        :return: an ``(H, W, 3)`` uint8 image each
        :raises StrlValueError: if the simulator draws nothing
        """
        raise StrlValueError(
            f"{type(self).__name__}: this environment cannot be drawn (asked for {list(indices)}). "
            "Override render_images(indices) and pass render_mode='rgb_array'."
        )

    def _check_indices(self, indices: VecEnvIndices) -> list[int]:
        positions = [int(index) for index in self._get_indices(indices)]
        for position in positions:
            if not -self.num_envs <= position < self.num_envs:
                raise StrlValueError(
                    f"{type(self).__name__}: there is no environment {position}. Expected indices "
                    f"from 0 to {self.num_envs - 1}."
                )
        return [position % self.num_envs for position in positions]
