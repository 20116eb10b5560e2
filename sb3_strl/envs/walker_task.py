"""What the walker sees and what it is paid for: pure functions of batched tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.walker_kinematics import JOINT_NAMES

# Columns of the physics state: time, x, z, pitch, joints, and their velocities.
HEIGHT, PITCH, JOINT_POS = 2, 3, slice(4, 10)
BASE_VEL, PITCH_VEL, JOINT_VEL = slice(10, 12), 12, slice(13, 19)

NOMINAL_POSE = (0.1, 0.2, 0.1, 0.1, 0.2, 0.1)
"""Joint positions at which the robot stands on flat feet, rad; the target of action 0."""

JOINT_VEL_SCALE = 0.1
"""Joint velocities are observed in units of 10 rad/s, so that all segments are of order one."""

FEATURES = ("root_pos/z", "root_pitch", "joint_pos", "joint_vel", "root_vel", "root_pitch_vel")
"""Fields and columns of a motion that make a frame of style features."""

FEATURE_NAMES = (
    "root_pos/z",
    "root_pitch/pitch",
    *(f"joint_pos/{name}" for name in JOINT_NAMES),
    *(f"joint_vel/{name}" for name in JOINT_NAMES),
    "root_vel/x",
    "root_vel/z",
    "root_pitch_vel/pitch",
)

_FEATURE_COLUMNS = (HEIGHT, PITCH, *range(4, 10), *range(13, 19), 10, 11, PITCH_VEL)

PROPRIOCEPTION: dict[str, tuple[int, ...]] = {
    "base_ang_vel": (1,),
    "base_orientation": (2,),
    "joint_pos": (6,),
    "joint_vel": (6,),
    "last_action": (6,),
    "command": (1,),
}
PRIVILEGED: dict[str, tuple[int, ...]] = {
    "base_lin_vel": (2,),
    "base_height": (1,),
    "foot_contact_forces": (2,),
    "friction": (1,),
    "added_mass": (1,),
}
N_NOISE = 14
"""Sensors with noise: pitch velocity, pitch, joint positions, joint velocities."""

REWARD_NAMES = ("velocity", "alive", "torque", "action_rate")


@dataclass(frozen=True, kw_only=True)
class WalkerRewards:
    r"""
    Weights of the terms of the task reward, which sum up per step of 0.02 s.

    .. math:: r = w_v \exp(-(v - v_{cmd})^2 / \sigma) + w_a - w_\tau \lVert\tau\rVert^2
              - w_{\Delta} \lVert a_t - a_{t-1}\rVert^2

    :param velocity: weight of the velocity tracking
    :param velocity_sigma: squared velocity error at which tracking pays 1/e, (m/s)^2, > 0
    :param alive: paid while the robot has not fallen
    :param torque: weight of the squared torques, (N m)^-2
    :param action_rate: weight of the squared change of the action
    :raises StrlValueError: if a weight is negative or not finite
    """

    velocity: float = 1.0
    velocity_sigma: float = 0.25
    alive: float = 0.2
    torque: float = 5e-6
    action_rate: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            value = self.__dict__[field.name]
            if not (math.isfinite(value) and value >= 0.0):
                raise StrlValueError(
                    f"WalkerRewards: {field.name} is {value}. Expected a finite number >= 0; "
                    "penalties are subtracted."
                )
        if self.velocity_sigma == 0.0:
            raise StrlValueError("WalkerRewards: velocity_sigma is 0. Expected a number > 0.")


def feature_frame(state: th.Tensor) -> th.Tensor:
    """
    Return one frame of style features, without noise.

    :param state: ``(n, 19)``, the physics state
    :return: ``(n, F)`` in the order of ``FEATURE_NAMES``
    """
    return state[:, _FEATURE_COLUMNS]


def proprioception(
    sensed: th.Tensor, nominal: th.Tensor, last_action: th.Tensor, command: th.Tensor
) -> th.Tensor:
    """
    Return the segments of ``PROPRIOCEPTION``.

    :param sensed: ``(n, 14)``: pitch velocity, pitch, joint positions, joint velocities
    :param nominal: ``(6,)``, joint positions are observed relative to it
    :param last_action: ``(n, 6)``
    :param command: ``(n, 1)``, m/s
    :return: ``(n, 22)``
    """
    pitch = sensed[:, 1:2]
    return th.cat(
        (
            sensed[:, :1],
            pitch.sin(),
            pitch.cos(),
            sensed[:, 2:8] - nominal,
            sensed[:, 8:] * JOINT_VEL_SCALE,
            last_action,
            command,
        ),
        dim=1,
    )


def sensed_quantities(state: th.Tensor) -> th.Tensor:
    """
    Return what the robot's own sensors measure.

    :param state: ``(n, 19)``
    :return: ``(n, 14)``: pitch velocity, pitch, joint positions, joint velocities
    """
    return th.cat(
        (
            state[:, PITCH_VEL : PITCH_VEL + 1],
            state[:, PITCH : PITCH + 1],
            state[:, JOINT_POS],
            state[:, JOINT_VEL],
        ),
        dim=1,
    )


def reward_terms(
    state: th.Tensor,
    torques: th.Tensor,
    action_change: th.Tensor,
    command: th.Tensor,
    weights: WalkerRewards,
) -> th.Tensor:
    """
    Return the weighted terms of the reward; they sum up to it.

    :param state: ``(n, 19)``
    :param torques: ``(n, 6)``, N m
    :param action_change: ``(n, 6)``
    :param command: ``(n, 1)``, m/s
    :param weights: see :class:`WalkerRewards`
    :return: ``(4, n)`` in the order of ``REWARD_NAMES``
    """
    error = state[:, 10] - command[:, 0]
    velocity = weights.velocity * th.exp(-error.square() / weights.velocity_sigma)
    return th.stack(
        (
            velocity,
            th.full_like(velocity, weights.alive),
            -weights.torque * torques.square().sum(dim=1),
            -weights.action_rate * action_change.square().sum(dim=1),
        )
    )


def has_fallen(state: th.Tensor, min_height: float, max_pitch: float) -> th.Tensor:
    """
    Return which robots are down; one that holds NaN counts as down.

    :param state: ``(n, 19)``
    :param min_height: lowest height of the hip, m
    :param max_pitch: largest lean of the torso, rad
    :return: ``(n,)``, bool
    """
    up = (state[:, HEIGHT] >= min_height) & (state[:, PITCH].abs() <= max_pitch)
    return ~(up & (state[:, 10:].abs().amax(dim=1) < math.inf))


def splice(groups: TensorDict, rows: th.Tensor, fresh: TensorDict) -> TensorDict:
    """
    Return groups with some rows replaced; the given ones stay as they are.

    :param groups: ``(n_envs, ...)`` by name
    :param rows: ``(n,)``, int64
    :param fresh: ``(n, ...)`` by name
    """
    return {name: values.index_copy(0, rows, fresh[name]) for name, values in groups.items()}


def move_together(tensors: TensorDict, device: th.device) -> TensorDict:
    """
    Copy tensors to another device in one transfer; bools stay bools, the rest becomes float32.

    :param tensors: by name
    :param device: where to
    """
    flat = th.cat([values.to(th.float32).flatten() for values in tensors.values()]).to(device)
    parts = flat.split([values.numel() for values in tensors.values()])
    moved: TensorDict = {}
    for (name, values), part in zip(tensors.items(), parts, strict=True):
        shaped = part.view(values.shape)
        moved[name] = shaped.bool() if values.dtype == th.bool else shaped
    return moved


def step_to(step: TensorStep, device: th.device) -> TensorStep:
    """
    Copy a step of the walker to another device in one transfer.

    :param step: with ``amp_valid`` and ``log`` as the only extras
    :param device: where to
    """
    extras, final_obs = step.extras, step.final_obs
    assert final_obs is not None
    tensors = {f"obs/{name}": values for name, values in step.obs.items()}
    if final_obs is not step.obs:
        tensors.update({f"final/{name}": values for name, values in final_obs.items()})
    tensors.update({f"log/{name}": values for name, values in extras["log"].items()})
    tensors["rewards"], tensors["amp_valid"] = step.rewards, extras["amp_valid"]
    tensors["terminated"], tensors["truncated"] = step.terminated, step.truncated
    moved = move_together(tensors, device)
    obs = {name: moved[f"obs/{name}"] for name in step.obs}
    return TensorStep(
        obs=obs,
        rewards=moved["rewards"],
        terminated=moved["terminated"],
        truncated=moved["truncated"],
        final_obs=obs
        if final_obs is step.obs
        else {name: moved[f"final/{name}"] for name in final_obs},
        extras={
            "amp_valid": moved["amp_valid"],
            "log": {name: moved[f"log/{name}"] for name in extras["log"]},
        },
    )
