"""What a step of the walker costs and how well it follows the command."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_strl.envs import walker_task as task
from sb3_strl.envs.walker_physics import WalkerPhysics

_GRAVITY = 9.81


class Moved(NamedTuple):
    """
    What the last step ended in, before any robot was restarted.

    :param state: ``(n_envs, 19)``
    :param commands: ``(n_envs, 1)``, m/s
    :param params: ``(n_envs, 3)``: friction, added mass in kg, motor strength
    """

    state: th.Tensor
    commands: th.Tensor
    params: th.Tensor

    def copy(self) -> Moved:
        """Return tensors that restarts do not write into."""
        return Moved(*(values.clone() for values in self))


class LocomotionMeasures:
    """
    The attributes that :class:`~sb3_strl.callbacks.LocomotionMetricsCallback` reads.

    They tell of the last step, in rows that finished of the robot before its restart, and are
    computed when somebody reads them.
    """

    physics: WalkerPhysics
    device: th.device
    _moved: Moved

    @property
    def tracking_error(self) -> th.Tensor:
        """Velocity minus command, m/s: ``(n_envs,)``."""
        return (self._moved.state[:, 10] - self._moved.commands[:, 0]).to(self.device)

    @property
    def forward_speed(self) -> th.Tensor:
        """Magnitude of the forward velocity, m/s: ``(n_envs,)``."""
        return self._moved.state[:, 10].abs().to(self.device)

    @property
    def joint_power(self) -> th.Tensor:
        r""":math:`\sum_j |\tau_j \dot q_j|`, W: ``(n_envs,)``."""
        torques = th.from_numpy(self.physics.torques).to(th.float32)
        return (torques * self._moved.state[:, task.JOINT_VEL]).abs().sum(dim=1).to(self.device)

    @property
    def body_weight(self) -> th.Tensor:
        """Weight of the robot with its added mass, N: ``(n_envs,)``."""
        return (self.physics.pool.weight + _GRAVITY * self._moved.params[:, 1]).to(self.device)
