"""The walker with hidden friction and mass, and what a policy is worth on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from typing_extensions import Unpack

from sb3_strl.common.types import TensorDict
from sb3_strl.envs import walker_task as task
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.envs.walker_options import WalkerOptions
from sb3_strl.envs.walker_physics import DomainRandomization
from sb3_strl.envs.walker_task import WalkerRewards
from sb3_strl.policies import StrlPolicy

LAGS = (*range(10), *range(10, 50, 5))
"""Steps back to the frames of the history, which reach over a stride."""

_N_FRAME = sum(shape[0] for shape in task.PROPRIOCEPTION.values()) - 1

GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "policy": dict(task.PROPRIOCEPTION),
    "history": {"history": (len(LAGS) * _N_FRAME,)},
    "clean": {f"clean_{name}": shape for name, shape in task.PROPRIOCEPTION.items()},
    "velocity": {"base_lin_vel": (2,)},
    "height": {"base_height": (1,)},
    "contact": {"foot_contact_forces": (2,)},
    "parameters": {"friction": (1,), "added_mass": (1,)},
}
"""Observation groups and their segments."""

TRUTH = ("clean", "velocity", "height", "contact", "parameters")
"""Groups without noise, which only a simulation knows."""

NOISE = 0.25
"""Amplitude of the sensors' noise, in units of the task's."""

FRICTION = (0.25, 1.0)
ADDED_MASS = (-15.0, 45.0)
"""Ranges of the randomised robots; the nominal one has friction 0.9 and 70 kg."""

NOMINAL_MASS = 70.0

SPEEDS = (1.1, 1.3)
"""Range of the command, m/s."""

VELOCITY_SIGMA = 0.06
"""Of the velocity reward, m²/s²."""

N_MODELS = 128
EPISODE_LENGTH = 400
EVALUATION_SEED = 10_000
_ROBOT: dict[str, Any] = {
    "n_frames": 1,
    "min_height": 0.6,
    "max_pitch": 0.8,
    "action_scale": (0.7, 0.9, 0.5),
    "rsi_prob": 1.0,
    "max_episode_length": EPISODE_LENGTH,
    "n_threads": 1,
}


def safe_speed(parameters: th.Tensor) -> th.Tensor:
    r"""
    Return how fast a robot may go if the nominal one may go at 1 m/s: :math:`m_0 / m`.

    Then it has no more momentum than the nominal robot.

    :param parameters: ``(n, >= 2)``: sliding friction, added mass in kg
    :return: ``(n, 1)``
    """
    return NOMINAL_MASS / (NOMINAL_MASS + parameters[:, 1:2])


class HiddenWalker(WalkerVecEnv):
    """
    The embedded walker whose observation comes in groups, so that a policy can be shown some.

    ``policy`` is the noisy proprioception and ``history`` what it was (without the command) now
    and ``LAGS`` steps ago; before an episode's beginning it is the first frame's. Without noise
    follow ``clean``, the proprioception, ``velocity`` and ``height`` of the hip, ``contact``, the
    forces under the feet in units of the nominal weight, and ``parameters``, friction and added
    mass, which last for an episode. There are no windows of a reference.

    The command is a momentum, in units of the nominal robot's: it is paid for the speed that
    :func:`safe_speed` makes of the command, and not told which one that is.

    :param n_envs: number of robots
    :param options: see :class:`~sb3_strl.envs.walker.WalkerVecEnv`
    """

    def __init__(self, n_envs: int, **options: Unpack[WalkerOptions]) -> None:
        super().__init__(n_envs, **options)
        self._past = th.zeros(n_envs, LAGS[-1] + 1, _N_FRAME)
        self._begins = th.ones(n_envs, dtype=th.bool)
        widths = {name: sum(s[0] for s in parts.values()) for name, parts in GROUPS.items()}
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, (width,), np.float32)
                for name, width in widths.items()
            }
        )
        self.obs_segments = GROUPS
        self.feature_names = None

    def _state_tensors(self) -> TensorDict:
        return {**super()._state_tensors(), "past": self._past, "begins": self._begins}

    def _reset_rows(self, rows: th.Tensor) -> None:
        super()._reset_rows(rows)
        self._begins[rows] = True
        self._commands[rows] *= safe_speed(self._params[rows])

    def _observe(self, rows: th.Tensor | slice) -> TensorDict:
        """
        Return the observation groups of some robots, as new tensors on the CPU.

        It is called for all robots after a step, and for those that begin an episode.
        """
        state = self._state[rows]
        noisy = sensed = task.sensed_quantities(state)
        if self._noisy:
            noise = th.empty_like(sensed).uniform_(-1.0, 1.0, generator=self._generator)
            noisy = th.addcmul(sensed, self._noise_scale, noise)
        parameters, actions = self._params[rows], self._last_action[rows]
        commands = self._commands[rows] / safe_speed(parameters)
        height = state[:, task.HEIGHT : task.HEIGHT + 1]
        proprioception = task.proprioception(noisy, self._nominal, actions, commands)
        return {
            "policy": proprioception,
            "history": self._remember(proprioception[:, None, :_N_FRAME], rows),
            "clean": task.proprioception(sensed, self._nominal, actions, commands),
            "velocity": state[:, task.BASE_VEL].clone(),
            "height": height.clone(),
            "contact": self._contacts[rows].clone(),
            "parameters": parameters[:, :2].clone(),
        }

    def _remember(self, frame: th.Tensor, rows: th.Tensor | slice) -> th.Tensor:
        """Append a frame ``(n, 1, d)``, and return the frames of ``LAGS``, newest first."""
        past = th.cat((frame, self._past[rows][:, :-1]), dim=1)
        past = th.where(self._begins[rows, None, None], frame, past)
        self._past[rows], self._begins[rows] = past, False
        return past[:, LAGS].flatten(1)


def make_robots(
    n_envs: int,
    seed: int,
    *,
    randomized: bool,
    speeds: tuple[float, float] = SPEEDS,
    noise: float = NOISE,
    velocity_sigma: float = VELOCITY_SIGMA,
) -> HiddenWalker:
    """
    Make robots; both kinds have noisy sensors.

    :param n_envs: number of robots
    :param seed: of every random number, the pool of models included
    :param randomized: draw friction and mass, else all robots are the nominal one
    :param speeds: range of the command, m/s
    :param noise: amplitude of the sensors' noise, in units of the task's
    :param velocity_sigma: of the velocity reward, m²/s²
    """
    nominal, usual = DomainRandomization.off(), DomainRandomization()
    return HiddenWalker(
        n_envs,
        seed=seed,
        domain_randomization=DomainRandomization(
            n_models=N_MODELS if randomized else 1,
            friction=FRICTION if randomized else nominal.friction,
            added_mass=ADDED_MASS if randomized else nominal.added_mass,
            motor_strength=nominal.motor_strength,
            push_velocity=0.0,
            noise_base_ang_vel=noise * usual.noise_base_ang_vel,
            noise_pitch=noise * usual.noise_pitch,
            noise_joint_pos=noise * usual.noise_joint_pos,
            noise_joint_vel=noise * usual.noise_joint_vel,
        ),
        command_range=speeds,
        rewards=WalkerRewards(velocity_sigma=velocity_sigma),
        **_ROBOT,
    )


class Evaluation(NamedTuple):
    """
    One episode of several robots.

    :param returns: undiscounted, until the robot fell or time was up: ``(n,)``
    :param survived: whether it did not fall: ``(n,)``
    """

    returns: th.Tensor
    survived: th.Tensor


@th.no_grad()
def evaluate(
    policy: StrlPolicy, n_robots: int = 256, n_steps: int = EPISODE_LENGTH, **where: Any
) -> Evaluation:
    """
    Let a policy's mode drive robots that nobody trained on, the same for everybody.

    :param policy: what acts
    :param n_robots: number of robots, one episode each
    :param n_steps: steps of 0.02 s
    :param where: keywords of :func:`make_robots`; without any, the robots are randomised
    """
    env = make_robots(n_robots, EVALUATION_SEED, **{"randomized": True, **where})
    obs, state = env.reset_tensor(), policy.initial_state(n_robots)
    starts, up = th.ones(n_robots, dtype=th.bool), th.ones(n_robots, dtype=th.bool)
    returns = th.zeros(n_robots)
    for _ in range(n_steps):
        actions, state = policy.act(obs, state, starts, deterministic=True)
        step = env.step_tensor(actions)
        returns += step.rewards.masked_fill(~up, 0.0)
        up &= ~step.terminated
        starts, obs = step.terminated | step.truncated, step.obs
    env.close()
    return Evaluation(returns, up)


def group_sets(actor: Sequence[str]) -> dict[str, list[str]]:
    """
    Return who reads what: the critic and the teacher's labels know the truth.

    :param actor: groups of the actor
    """
    return {"actor": list(actor), "critic": list(TRUTH), "teacher": list(TRUTH)}
