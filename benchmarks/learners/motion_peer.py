"""What a motion prior costs: sb3_strl's PPO and APPO on the same robots, with reference motion."""

from __future__ import annotations

from typing import Any

import torch as th

from benchmarks.learners import common
from benchmarks.learners.strl_peer import StrlPeer, TensorRobots, box
from sb3_strl.algorithms.appo import APPO
from sb3_strl.algorithms.ppo import PPO
from sb3_strl.common.types import TensorDict, TensorStep

N_FRAMES = 2
N_FEATURES = 30  # a robot of 12 joints: their positions and velocities, and 6 of the base
N_WINDOWS = 8


class MotionRobots(TensorRobots):
    """
    The robots with windows of style features, their own and the expert's.

    All windows are drawn beforehand and served in turn, for what is measured is the learner.

    :param robots: what is wrapped
    :param seed: of the windows
    """

    def __init__(self, robots: common.Robots, seed: int) -> None:
        window = box(N_FRAMES, N_FEATURES)
        super().__init__(robots, {"ref_obs": window, "ref_motion": window})
        names = [f"feature_{index}" for index in range(N_FEATURES)]
        self.feature_names = {"ref_obs": names, "ref_motion": names}
        generator = th.Generator().manual_seed(seed)
        shape = (N_WINDOWS, robots.n_envs, N_FRAMES, N_FEATURES)
        policy = th.randn(shape, generator=generator)
        expert = 0.5 + th.randn(shape, generator=generator)
        self.windows: list[TensorDict] = [
            {"ref_obs": own, "ref_motion": theirs}
            for own, theirs in zip(
                policy.to(self.device).unbind(), expert.to(self.device).unbind(), strict=True
            )
        ]
        self.turn = 0

    def reset_tensor(self) -> TensorDict:
        """Return the groups."""
        return {**super().reset_tensor(), **self.windows[self.turn]}

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step the robots."""
        step = super().step_tensor(actions)
        self.turn = (self.turn + 1) % N_WINDOWS
        windows = self.windows[self.turn]
        final_obs = None if step.final_obs is None else {**step.final_obs, **windows}
        return step._replace(obs={**step.obs, **windows}, final_obs=final_obs)


class PlainPeer(StrlPeer):
    """
    ``sb3_strl.PPO`` on robots whose reference motion it does not read.

    :param setup: what all peers share
    """

    name = "sb3_strl_ppo"

    def make_env(self, setup: common.Setup) -> TensorRobots:
        """Wrap the robots."""
        return MotionRobots(self.robots, setup.seed)


class PriorPeer(PlainPeer):
    """
    ``sb3_strl.APPO``, its discriminator trained on all rows of every minibatch, with penalty.

    :param setup: what all peers share
    """

    name = "sb3_strl_appo"
    algorithm: type[PPO] = APPO
    policy = "AmpPolicy"

    def more_policy_kwargs(self, setup: common.Setup) -> dict[str, Any]:
        """Return the discriminator's settings."""
        widths = setup.discriminator
        return {"amp_discriminator": {"hidden_dims": widths, "task_reward_lerp": 0.5}}

    def n_parameters(self) -> int:
        """Count the trainable numbers of actor, critic and action noise."""
        discriminator: Any = self.model.policy.discriminator
        return super().n_parameters() - common.count_parameters(discriminator.parameters())


class SubsetPeer(PriorPeer):
    """
    ``sb3_strl.APPO`` whose discriminator sees a sixteenth of the rows of every minibatch.

    :param setup: what all peers share
    """

    name = "sb3_strl_appo_16th"

    def more_options(self, setup: common.Setup) -> dict[str, Any]:
        """Return the number of rows."""
        rows = setup.n_envs * setup.n_steps // setup.n_minibatches
        return {"discriminator_batch_size": max(1, rows // 16)}
