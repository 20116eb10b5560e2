"""What every peer shares: the settings, the simulated robots and the interface that is timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch as th

OBS_DIM = 48
ACTION_DIM = 12
ACTION_LIMIT = 100.0
EPISODE_LENGTH = 1000
FALL_THRESHOLD = 3.3
DECAY = 0.9

GAMMA = 0.99
GAE_LAMBDA = 0.95
CLIP_RANGE = 0.2
ENT_COEF = 0.005
VF_COEF = 1.0
MAX_GRAD_NORM = 1.0
DESIRED_KL = 0.01


class MissingPeerError(RuntimeError):
    """A peer's library is not installed."""


@dataclass(frozen=True)
class Setup:
    """
    Everything that has to be equal for all peers.

    :param n_envs: number of robots stepped together
    :param hidden: widths of the hidden layers of actor and critic, which share nothing
    :param n_steps: environment steps per iteration
    :param n_epochs: passes over the rollout per iteration
    :param n_minibatches: gradient steps per pass
    :param learning_rate: step size of Adam
    :param adaptive_kl: adapt the step size to a desired KL divergence, in the peers that can
    :param device: where networks and robots live
    :param seed: of the robots, the networks and the noise
    :param memory: width of an LSTM before the hidden layers of actor and critic each, 0 for none
    :param episode_length: steps until a time-out
    :param discriminator: widths of the hidden layers of a motion prior's discriminator
    """

    n_envs: int
    hidden: tuple[int, ...]
    n_steps: int = 24
    n_epochs: int = 5
    n_minibatches: int = 4
    learning_rate: float = 1e-3
    adaptive_kl: bool = False
    device: str = "cpu"
    seed: int = 0
    memory: int = 0
    episode_length: int = EPISODE_LENGTH
    discriminator: tuple[int, ...] = (512, 256)


class RobotStep(NamedTuple):
    """One step of the robots; new tensors every time, so that nobody has to clone them."""

    obs: th.Tensor  # (N, 48), after the reset
    rewards: th.Tensor  # (N,)
    terminated: th.Tensor  # (N,) bool
    truncated: th.Tensor  # (N,) bool, never where terminated
    final_obs: th.Tensor  # (N, 48), before the reset


class Robots:
    """
    Stable linear systems in a dozen cheap tensor operators: next to no simulator, all learner.

    ``x' = 0.9 x + a B`` with the columns of ``B`` scaled so that independent actions of unit
    variance keep ``x`` at unit variance; the reward is ``1 - 0.1 |x_0|``. An episode ends with a
    fall when ``|x_0| > 3.3`` (about once in 1000 steps under a fresh policy) and with a time-out
    after 1000 steps or as many as are set; the first episodes start at random ages, so that
    time-outs are spread evenly.

    :param setup: number, device and seed
    """

    def __init__(self, setup: Setup) -> None:
        generator = th.Generator().manual_seed(setup.seed)
        n_envs, device = setup.n_envs, th.device(setup.device)
        actuation = th.randn(ACTION_DIM, OBS_DIM, generator=generator)
        actuation *= (1.0 - DECAY**2) ** 0.5 / actuation.norm(dim=0)
        self.n_envs = n_envs
        self.device = device
        self.counting: OperatorCounting | None = None
        self.actuation = actuation.to(device)
        self.start = (0.1 * th.randn(n_envs, OBS_DIM, generator=generator)).to(device)
        self.episode_length = setup.episode_length
        self.age = th.randint(0, setup.episode_length, (n_envs,), generator=generator).to(device)
        self.obs = self.start.clone()

    def step(self, actions: th.Tensor) -> RobotStep:
        """
        Advance every robot, and reset those that finished.

        :param actions: ``(n_envs, 12)``
        :return: observations, rewards and ends
        """
        counting = self.counting
        if counting is not None:
            counting.step_begins()
        with th.no_grad():
            result = self._step(actions)
        if counting is not None:
            counting.step_ends()
        return result

    def _step(self, actions: th.Tensor) -> RobotStep:
        final_obs = th.addmm(self.obs, actions, self.actuation, beta=DECAY)
        lean = final_obs[:, 0].abs()
        rewards = 1.0 - 0.1 * lean
        terminated = lean > FALL_THRESHOLD
        age = self.age + 1
        truncated = (age >= self.episode_length) & ~terminated
        done = terminated | truncated
        self.obs = th.where(done.unsqueeze(1), self.start, final_obs)
        self.age = th.where(done, 0, age)
        return RobotStep(self.obs, rewards, terminated, truncated, final_obs)


class OperatorCounting(Protocol):
    """What the robots tell a counter of operators."""

    def step_begins(self) -> None:
        """Hear that the learner has handed over its actions."""

    def step_ends(self) -> None:
        """Hear that the learner goes on."""


class Peer(Protocol):
    """A learner whose iteration is timed in two halves."""

    name: str
    robots: Robots

    def collect(self) -> None:
        """Collect one rollout, up to and including advantages and returns."""

    def update(self) -> None:
        """Run every epoch over the rollout."""

    def n_parameters(self) -> int:
        """Count the trainable numbers of actor, critic and action noise."""

    def storage_bytes(self) -> int:
        """Count the bytes of what holds a rollout."""


def count_parameters(parameters: Iterator[th.nn.Parameter]) -> int:
    """
    Count the trainable numbers.

    :param parameters: of any modules
    :return: how many numbers an optimizer changes
    """
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def count_bytes(container: object) -> int:
    """
    Count the bytes of the tensors and arrays in a container, each piece of memory once.

    :param container: tensors, arrays, mappings and sequences of them, nested at will; anything else
        counts nothing
    :return: bytes on the host and on the device together
    """
    pieces: dict[int, int] = {}
    pending: list[object] = [container]
    while pending:
        item = pending.pop()
        if isinstance(item, th.Tensor):
            storage = item.untyped_storage()
            pieces[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            pieces[item.ctypes.data] = item.nbytes
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return sum(pieces.values())


@contextmanager
def distribution_checks(enabled: bool) -> Iterator[None]:
    """
    Give a peer the argument checks of ``torch.distributions`` as its own users have them.

    rsl_rl switches them off for the whole process; left alone, that would speed up
    Stable-Baselines3, whose users have them on, in this process only.

    :param enabled: whether distributions check their arguments inside
    """
    switch = th.distributions.Distribution.set_default_validate_args
    switch(enabled)
    try:
        yield
    finally:
        switch(__debug__)
