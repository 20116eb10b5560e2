"""skrl's PPO on the wrapper that it defines."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from benchmarks.learners import common

try:
    from skrl.agents.torch.ppo import PPO
    from skrl.envs.wrappers.torch import Wrapper
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.utils import ScopedTimer
except ImportError as error:
    raise common.MissingPeerError(
        f"benchmarks: peer 'skrl' cannot be imported ({error}). skrl 2.1 or newer is expected. "
        "Install it with `pip install skrl`, or leave it out with --peers."
    ) from error

NO_END = 2**40

Inputs = dict[str, Any]


class SpacesOfRobots:
    """
    What skrl's wrapper looks up in the environment that it wraps.

    :param robots: what is wrapped
    """

    def __init__(self, robots: common.Robots) -> None:
        limit = common.ACTION_LIMIT
        self.robots = robots
        self.num_envs = robots.n_envs
        self.device = robots.device
        self.observation_space = spaces.Box(-np.inf, np.inf, (common.OBS_DIM,), np.float32)
        self.action_space = spaces.Box(-limit, limit, (common.ACTION_DIM,), np.float32)


class ColumnRobots(Wrapper):  # type: ignore[misc]
    """
    The robots as skrl wants them: rewards and ends as columns, ``(n_envs, 1)``.

    :param robots: what is wrapped
    """

    def __init__(self, robots: common.Robots) -> None:
        super().__init__(SpacesOfRobots(robots))
        self.robots = robots

    def reset(self) -> tuple[th.Tensor, dict[str, Any]]:
        """Return the observations, ``(n_envs, 48)``."""
        return self.robots.obs, {}

    def step(
        self, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor, dict[str, Any]]:
        """Step the robots."""
        step = self.robots.step(actions)
        columns = [x.view(-1, 1) for x in (step.rewards, step.terminated, step.truncated)]
        return step.obs, columns[0], columns[1], columns[2], {}

    def state(self) -> th.Tensor | None:
        """Return that there are no privileged observations."""
        return None

    def render(self) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Release nothing."""


class Perceptron(Model):  # type: ignore[misc]
    """
    A perceptron with ELU between its layers.

    :param observation_space: of the robots
    :param action_space: of the robots
    :param device: where the network lives
    :param hidden: widths of the hidden layers
    """

    n_outputs: int

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        device: th.device,
        hidden: tuple[int, ...],
    ) -> None:
        Model.__init__(
            self, observation_space=observation_space, action_space=action_space, device=device
        )
        layers: list[nn.Module] = []
        n_inputs = common.OBS_DIM
        for width in hidden:
            layers += [nn.Linear(n_inputs, width), nn.ELU()]
            n_inputs = width
        self.network = nn.Sequential(*layers, nn.Linear(n_inputs, self.n_outputs))


class Actor(GaussianMixin, Perceptron):  # type: ignore[misc]
    """A Gaussian with one standard deviation per action; see :class:`Perceptron`."""

    n_outputs = common.ACTION_DIM

    def __init__(self, *of_perceptron: Any) -> None:
        Perceptron.__init__(self, *of_perceptron)
        GaussianMixin.__init__(self)
        self.log_std = nn.Parameter(th.zeros(common.ACTION_DIM))

    def compute(self, inputs: Inputs, role: str = "") -> tuple[th.Tensor, Inputs]:
        """Return the means, ``(n, 12)``, and the logarithms of the standard deviations."""
        del role
        return self.network(inputs["observations"]), {"log_std": self.log_std}


class Critic(DeterministicMixin, Perceptron):  # type: ignore[misc]
    """A value for each observation; see :class:`Perceptron`."""

    n_outputs = 1

    def __init__(self, *of_perceptron: Any) -> None:
        Perceptron.__init__(self, *of_perceptron)
        DeterministicMixin.__init__(self)

    def compute(self, inputs: Inputs, role: str = "") -> tuple[th.Tensor, Inputs]:
        """Return the values, ``(n, 1)``."""
        del role
        return self.network(inputs["observations"]), {}


class SilentWriter:
    """A writer that keeps skrl's statistics switched on and writes nothing."""

    def add_scalar(self, *, tag: str, value: float, timestep: int) -> None:
        """Forget the number."""


def agent_config(setup: common.Setup) -> dict[str, Any]:
    """
    Build the configuration that ``PPO`` takes.

    :param setup: what all peers share
    :return: a new configuration
    """
    return {
        "rollouts": setup.n_steps,
        "learning_epochs": setup.n_epochs,
        "mini_batches": setup.n_minibatches,
        "discount_factor": common.GAMMA,
        "gae_lambda": common.GAE_LAMBDA,
        "learning_rate": setup.learning_rate,
        "grad_norm_clip": common.MAX_GRAD_NORM,
        "ratio_clip": common.CLIP_RANGE,
        "value_clip": common.CLIP_RANGE,
        "entropy_loss_scale": common.ENT_COEF,
        "value_loss_scale": common.VF_COEF,
        "time_limit_bootstrap": True,
        "experiment": {"write_interval": 0, "checkpoint_interval": 0},
    }


class SkrlPeer:
    """
    skrl's ``PPO``, driven as ``SequentialTrainer.train`` drives it.

    The files of TensorBoard are left out, the statistics of every step are not. The step size is
    fixed even where others adapt it. skrl computes advantages and returns at the start of its
    update, so here they belong to :meth:`update`.

    :param setup: what all peers share
    """

    name = "skrl"

    def __init__(self, setup: common.Setup) -> None:
        th.manual_seed(setup.seed)
        self.robots = common.Robots(setup)
        self.env = ColumnRobots(self.robots)
        env = self.env
        self.n_steps = setup.n_steps
        kinds: dict[str, type[Actor | Critic]] = {"policy": Actor, "value": Critic}
        with common.distribution_checks(enabled=False):
            self.models: dict[str, nn.Module] = {
                role: kind(env.observation_space, env.action_space, env.device, setup.hidden)
                for role, kind in kinds.items()
            }
            self.memory = RandomMemory(
                memory_size=setup.n_steps, num_envs=env.num_envs, device=env.device
            )
            self.agent = PPO(
                models=self.models,
                memory=self.memory,
                observation_space=env.observation_space,
                action_space=env.action_space,
                device=env.device,
                cfg=agent_config(setup),
            )
            self.agent.init()
        self.agent.write_interval = setup.n_steps
        self.agent.writer = SilentWriter()
        self.agent.enable_training_mode(True)
        self.timestep = 0
        self.obs, _ = env.reset()

    def collect(self) -> None:
        """Collect one rollout, without what the trainer does after its last step."""
        with common.distribution_checks(enabled=False):
            for index in range(self.n_steps):
                self._step()
                if index < self.n_steps - 1:
                    self._finish_step()

    def _step(self) -> None:
        agent, now = self.agent, {"timestep": self.timestep, "timesteps": NO_END}
        agent.pre_interaction(**now)
        with th.no_grad():
            with ScopedTimer() as timer:
                actions, _ = agent.act(self.obs, None, **now)
                agent.track_data("Stats / Inference time (ms)", timer.elapsed_time_ms)
            with ScopedTimer() as timer:
                obs, rewards, terminated, truncated, infos = self.env.step(actions)
                agent.track_data("Stats / Env stepping time (ms)", timer.elapsed_time_ms)
            agent.record_transition(
                observations=self.obs,
                states=None,
                actions=actions,
                rewards=rewards,
                next_observations=obs,
                next_states=self.env.state(),
                terminated=terminated,
                truncated=truncated,
                infos=infos,
                **now,
            )
        self.obs = obs

    def _finish_step(self) -> None:
        self.agent.post_interaction(timestep=self.timestep, timesteps=NO_END)
        self.timestep += 1

    def update(self) -> None:
        """Compute the advantages and run every epoch over the rollout."""
        with common.distribution_checks(enabled=False):
            self._finish_step()

    def n_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(common.count_parameters(model.parameters()) for model in self.models.values())

    def storage_bytes(self) -> int:
        """Count the bytes of the memory."""
        return common.count_bytes(self.memory.tensors)
