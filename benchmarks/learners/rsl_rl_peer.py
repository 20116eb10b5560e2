"""rsl_rl's PPO on the tensor interface that it defines."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import torch as th

from benchmarks.learners import common

try:
    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from rsl_rl.utils import check_nan
    from rsl_rl.utils.log_writer import LogWriter
    from tensordict import TensorDict
except ImportError as error:
    raise common.MissingPeerError(
        f"benchmarks: peer 'rsl_rl' cannot be imported ({error}). rsl_rl 5.5 or newer is expected. "
        "Install it with `pip install rsl-rl-lib`, or leave it out with --peers."
    ) from error


class TensorDictRobots(VecEnv):  # type: ignore[misc]
    """
    The robots as rsl_rl wants them: a ``TensorDict`` of groups, integer dones, time-outs apart.

    :param robots: what is wrapped
    """

    def __init__(self, robots: common.Robots) -> None:
        self.robots = robots
        self.num_envs = robots.n_envs
        self.num_actions = common.ACTION_DIM
        self.max_episode_length = robots.episode_length
        self.device = robots.device
        self.cfg: dict[str, Any] = {}

    @property
    def episode_length_buf(self) -> th.Tensor:
        """Ages of the episodes, ``(n_envs,)``."""
        return self.robots.age

    def get_observations(self) -> TensorDict:
        """Return the groups."""
        return TensorDict({"policy": self.robots.obs}, batch_size=[self.num_envs])

    def step(
        self, actions: th.Tensor
    ) -> tuple[TensorDict, th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """Step the robots."""
        step = self.robots.step(actions)
        obs = TensorDict({"policy": step.obs}, batch_size=[self.num_envs])
        dones = (step.terminated | step.truncated).long()
        return obs, step.rewards, dones, {"time_outs": step.truncated}


class SilentWriter(LogWriter):  # type: ignore[misc]
    """A writer that keeps rsl_rl's episode statistics switched on and writes nothing."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Forget the number."""


def runner_config(setup: common.Setup) -> dict[str, Any]:
    """
    Build the configuration that ``OnPolicyRunner`` takes.

    :param setup: what all peers share
    :return: a new configuration, which the runner may change
    """
    network: dict[str, Any] = {
        "class_name": "RNNModel" if setup.memory else "MLPModel",
        "hidden_dims": list(setup.hidden),
        "activation": "elu",
        "obs_normalization": False,
    }
    if setup.memory:
        network |= {"rnn_type": "lstm", "rnn_hidden_dim": setup.memory, "rnn_num_layers": 1}
    noise = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    return {
        "num_steps_per_env": setup.n_steps,
        "save_interval": 2**40,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": noise},
        "critic": dict(network),
        "algorithm": {
            "class_name": "PPO",
            "num_learning_epochs": setup.n_epochs,
            "num_mini_batches": setup.n_minibatches,
            "clip_param": common.CLIP_RANGE,
            "gamma": common.GAMMA,
            "lam": common.GAE_LAMBDA,
            "value_loss_coef": common.VF_COEF,
            "entropy_coef": common.ENT_COEF,
            "learning_rate": setup.learning_rate,
            "max_grad_norm": common.MAX_GRAD_NORM,
            "optimizer": "adam",
            "use_clipped_value_loss": True,
            "schedule": "adaptive" if setup.adaptive_kl else "fixed",
            "desired_kl": common.DESIRED_KL,
            "rnd_cfg": None,
            "symmetry_cfg": None,
        },
    }


class RslRlPeer:
    """
    rsl_rl's ``PPO``, made by its runner and driven as ``OnPolicyRunner.learn`` drives it.

    The end-of-iteration table on the console is left out, the statistics of every step are not.

    :param setup: what all peers share
    """

    name = "rsl_rl"

    def __init__(self, setup: common.Setup) -> None:
        th.manual_seed(setup.seed)
        self.robots = common.Robots(setup)
        self.env = TensorDictRobots(self.robots)
        self.device = setup.device
        self.n_steps = setup.n_steps
        with redirect_stdout(io.StringIO()), common.distribution_checks(enabled=False):
            self.runner = OnPolicyRunner(self.env, runner_config(setup), None, setup.device)
        self.runner.logger.writer = SilentWriter()
        self.obs = self.env.get_observations().to(self.device)
        self.runner.alg.train_mode()

    def collect(self) -> None:
        """Collect one rollout."""
        alg, logger = self.runner.alg, self.runner.logger
        obs = self.obs
        with common.distribution_checks(enabled=False), th.inference_mode():
            for _ in range(self.n_steps):
                actions = alg.act(obs)
                obs, rewards, dones, extras = self.env.step(actions.to(self.env.device))
                check_nan(obs, rewards, dones)
                obs = obs.to(self.device)
                rewards, dones = rewards.to(self.device), dones.to(self.device)
                alg.process_env_step(obs, rewards, dones, extras)
                logger.process_env_step(rewards, dones, extras, None)
            alg.compute_returns(obs)
        self.obs = obs

    def update(self) -> None:
        """Run every epoch over the rollout."""
        with common.distribution_checks(enabled=False):
            self.runner.alg.update()

    def n_parameters(self) -> int:
        """Count the trainable numbers."""
        alg = self.runner.alg
        actor: int = common.count_parameters(alg.actor.parameters())
        return actor + common.count_parameters(alg.critic.parameters())

    def storage_bytes(self) -> int:
        """Count the bytes of the rollout storage."""
        return common.count_bytes(vars(self.runner.alg.storage))
