"""sb3_strl's PPO on its tensor environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.learners import common
from benchmarks.learners.on_policy_peer import OnPolicyPeer
from sb3_strl.algorithms.ppo import PPO
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import TensorVecEnv


def box(*shape: int) -> spaces.Box:
    """Return an unbounded space of this shape."""
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


class TensorRobots(TensorVecEnv):
    """
    The robots as sb3_strl wants them, which is nearly as they are.

    :param robots: what is wrapped
    :param more: further groups of observations, of a derived class
    """

    def __init__(
        self, robots: common.Robots, more: Mapping[str, spaces.Space[Any]] | None = None
    ) -> None:
        limit = common.ACTION_LIMIT
        super().__init__(
            robots.n_envs,
            spaces.Dict({"policy": box(common.OBS_DIM), **(more or {})}),
            spaces.Box(-limit, limit, (common.ACTION_DIM,), np.float32),
            robots.device,
        )
        self.robots = robots
        self.max_episode_length = robots.episode_length

    def reset_tensor(self) -> TensorDict:
        """Return the groups."""
        return {"policy": self.robots.obs}

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step the robots."""
        step = self.robots.step(actions)
        return TensorStep(
            {"policy": step.obs},
            step.rewards,
            step.terminated,
            step.truncated,
            {"policy": step.final_obs},
            {},
        )


class StrlPeer(OnPolicyPeer):
    """
    ``sb3_strl.PPO``, driven as its ``learn`` drives it, without the dump of the logger.

    :param setup: what all peers share
    """

    name = "sb3_strl"

    model: PPO
    algorithm: type[PPO] = PPO
    policy = "MlpPolicy"
    compile = False

    def __init__(self, setup: common.Setup) -> None:
        self.robots = common.Robots(setup)
        hidden = list(setup.hidden)
        policy_kwargs: dict[str, Any] = {
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation": "elu",
            **self.more_policy_kwargs(setup),
        }
        if setup.memory:
            policy_kwargs["rnn"] = {"type": "lstm", "hidden_size": setup.memory}
        model = self.algorithm(
            "MlpLstmPolicy" if setup.memory else self.policy,
            self.make_env(setup),
            learning_rate=setup.learning_rate,
            n_steps=setup.n_steps,
            n_epochs=setup.n_epochs,
            n_minibatches=setup.n_minibatches,
            gamma=common.GAMMA,
            gae_lambda=common.GAE_LAMBDA,
            clip_range=common.CLIP_RANGE,
            use_clipped_value_loss=True,
            ent_coef=common.ENT_COEF,
            vf_coef=common.VF_COEF,
            max_grad_norm=common.MAX_GRAD_NORM,
            schedule="adaptive" if setup.adaptive_kl else "fixed",
            desired_kl=common.DESIRED_KL,
            policy_kwargs=policy_kwargs,
            compile=self.compile,
            seed=setup.seed,
            device=setup.device,
            **self.more_options(setup),
        )
        super().__init__(model)

    def more_options(self, setup: common.Setup) -> dict[str, Any]:
        """Return further settings of the algorithm."""
        del setup
        return {}

    def more_policy_kwargs(self, setup: common.Setup) -> dict[str, Any]:
        """Return further settings of the networks."""
        del setup
        return {}

    def make_env(self, setup: common.Setup) -> TensorRobots:
        """Wrap the robots."""
        del setup
        return TensorRobots(self.robots)

    def storage_bytes(self) -> int:
        """Count the bytes of the rollout buffer, hidden states and kept final observations."""
        beside = [vars(self.model.rollout_buffer.sequences), self.model.collector.final_obs]
        return super().storage_bytes() + common.count_bytes(beside)


class CompiledPeer(StrlPeer):
    """The same with ``compile=True``, as we recommend for feed-forward policies."""

    compile = True


class EagerPeer(StrlPeer):
    """The same under another name, beside the compiled one."""

    name = "sb3_strl_eager"
