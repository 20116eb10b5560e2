"""Stable-Baselines3's PPO on a NumPy wrapper in the manner of Isaac Lab."""

# ruff: noqa: ARG002  (SB3's interface has more arguments than these robots need)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from benchmarks.learners import common
from benchmarks.learners.on_policy_peer import OnPolicyPeer

Indices = None | int | Iterable[int]


class NumpyRobots(VecEnv):
    """
    The robots behind NumPy arrays, as a GPU simulator's wrapper for Stable-Baselines3 works.

    Every step brings observations, rewards and ends to the host; info dicts are empty but for the
    robots that finished, which carry ``episode``, ``TimeLimit.truncated`` and
    ``terminal_observation``.

    :param robots: what is wrapped
    """

    def __init__(self, robots: common.Robots) -> None:
        limit = common.ACTION_LIMIT
        super().__init__(
            robots.n_envs,
            spaces.Box(-np.inf, np.inf, (common.OBS_DIM,), np.float32),
            spaces.Box(-limit, limit, (common.ACTION_DIM,), np.float32),
        )
        self.robots = robots
        self.actions = th.zeros(robots.n_envs, common.ACTION_DIM, device=robots.device)
        self.returns = np.zeros(robots.n_envs, dtype=np.float32)
        self.lengths = np.zeros(robots.n_envs, dtype=np.int64)

    def reset(self) -> np.ndarray:
        """Return the observations, ``(n_envs, 48)``."""
        return self.robots.obs.detach().cpu().numpy()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for ``step_wait``."""
        self.actions = th.as_tensor(actions, device=self.robots.device)

    def step_wait(self) -> VecEnvStepReturn:
        """Step the robots and bring everything to the host."""
        step = self.robots.step(self.actions)
        obs = step.obs.detach().cpu().numpy()
        rewards = step.rewards.detach().cpu().numpy()
        terminated = step.terminated.detach().cpu().numpy()
        truncated = step.truncated.detach().cpu().numpy()
        dones = terminated | truncated
        self.returns += rewards
        self.lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        finished = np.flatnonzero(dones)
        if finished.size:
            self._describe_ends(infos, finished, truncated, step.final_obs)
        return obs, rewards, dones, infos

    def _describe_ends(
        self,
        infos: list[dict[str, Any]],
        finished: np.ndarray,
        truncated: np.ndarray,
        final_obs: th.Tensor,
    ) -> None:
        final = final_obs.detach().cpu().numpy()
        for index in finished:
            infos[index] = {
                "episode": {"r": float(self.returns[index]), "l": int(self.lengths[index])},
                "TimeLimit.truncated": bool(truncated[index]),
                "terminal_observation": final[index],
            }
        self.returns[finished] = 0.0
        self.lengths[finished] = 0

    def close(self) -> None:
        """Release nothing."""

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return ``None`` for the render mode, which is all that is asked."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refuse: the robots have nothing to set."""
        raise AttributeError(attr_name)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: the robots have no methods of their own."""
        raise AttributeError(method_name)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Say that no robot is wrapped."""
        return [False] * self.num_envs

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return no pictures."""
        return [None] * self.num_envs


class Sb3Peer(OnPolicyPeer):
    """
    ``stable_baselines3.PPO``, driven as its ``learn`` drives it, without the dump of the logger.

    :param setup: what all peers share
    """

    name = "sb3"

    algorithm: type[PPO | RecurrentPPO] = PPO
    policy = "MlpPolicy"

    def __init__(self, setup: common.Setup) -> None:
        self.robots = common.Robots(setup)
        model = self.algorithm(
            self.policy,
            NumpyRobots(self.robots),
            learning_rate=setup.learning_rate,
            n_steps=setup.n_steps,
            batch_size=setup.n_steps * setup.n_envs // setup.n_minibatches,
            n_epochs=setup.n_epochs,
            gamma=common.GAMMA,
            gae_lambda=common.GAE_LAMBDA,
            clip_range=common.CLIP_RANGE,
            clip_range_vf=common.CLIP_RANGE,
            ent_coef=common.ENT_COEF,
            vf_coef=common.VF_COEF,
            max_grad_norm=common.MAX_GRAD_NORM,
            policy_kwargs=self.policy_kwargs(setup),
            seed=setup.seed,
            device=setup.device,
        )
        super().__init__(model)

    def policy_kwargs(self, setup: common.Setup) -> dict[str, Any]:
        """Return the networks' settings."""
        hidden = list(setup.hidden)
        return {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": th.nn.ELU}


class RecurrentPeer(Sb3Peer):
    """
    ``sb3_contrib.RecurrentPPO`` with an LSTM for each of actor and critic.

    :param setup: what all peers share
    """

    name = "sb3_contrib"
    algorithm = RecurrentPPO
    policy = "MlpLstmPolicy"

    def policy_kwargs(self, setup: common.Setup) -> dict[str, Any]:
        """Return the networks' settings."""
        return {**super().policy_kwargs(setup), "lstm_hidden_size": setup.memory}
