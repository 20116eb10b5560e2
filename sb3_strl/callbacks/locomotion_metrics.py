"""How well robots follow their velocity command during training, and what it costs them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_strl.common.errors import StrlValueError
from sb3_strl.envs import TensorVecEnv

Source = str | Callable[[VecEnv], th.Tensor]
"""Name of an attribute of the environment, or a function of the environment."""


class LocomotionMetricsCallback(BaseCallback):
    r"""
    Log the velocity error and the cost of transport of every rollout.

    Over all steps and robots of a rollout, with :math:`e` the velocity minus its command,

    .. math:: \mathrm{velrmsd} = \sqrt{\overline{e^2}}, \qquad
              \mathrm{CoT} = \overline{\left(\frac{\sum_j |\tau_j \dot q_j|}{m g v}\right)}_{v \ge
              \epsilon}

    logged as ``eval/velrmsd`` (m/s) and ``eval/CoT`` (no unit; walking people have about 0.3 to
    0.4, Tucker 1975). A robot that stands has no cost of transport: its rows are left out, as are
    rows that are not finite. Without any row that counts, and where the environment lacks an
    attribute, the value is NaN.

    The attributes hold one number per environment, ``(n_envs,)``, of the step just made, in rows
    that finished of the robot *before* its restart (an environment that is not a
    :class:`~sb3_strl.envs.TensorVecEnv` restarts first, so its finished rows are left out).
    ``WalkerVecEnv`` has them. Sums stay on the device and cross to the host once per rollout.

    :param tracking_error: velocity minus command, m/s: name of an attribute, or a function of the
        training environment
    :param joint_power: :math:`\sum_j |\tau_j \dot q_j|`, W
    :param body_weight: :math:`m g`, N
    :param forward_speed: :math:`v`, m/s
    :param eps: slowest speed that counts as moving, m/s
    :param verbose: 0 silent, 1 info
    :raises StrlValueError: if ``eps`` is not positive, or an attribute has another shape
    """

    def __init__(
        self,
        tracking_error: Source = "tracking_error",
        joint_power: Source = "joint_power",
        body_weight: Source = "body_weight",
        forward_speed: Source = "forward_speed",
        eps: float = 0.1,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not eps > 0.0:
            raise StrlValueError(
                f"LocomotionMetricsCallback: eps is {eps}. Expected a speed above 0 m/s, below "
                "which a robot counts as standing, e.g. 0.1."
            )
        self.sources = {
            "tracking_error": tracking_error,
            "joint_power": joint_power,
            "body_weight": body_weight,
            "forward_speed": forward_speed,
        }
        self.eps = eps
        self._missing: set[str] = set()

    def _on_training_start(self) -> None:
        self._missing = {name for name in self.sources if self._read(name) is None}
        if self._missing:
            names = sorted(str(self.sources[name]) for name in self._missing)
            warnings.warn(
                f"LocomotionMetricsCallback: the environment has no {names}, so what needs them is "
                "logged as NaN. Give it these attributes, tensors of shape (n_envs,), or pass "
                "functions, e.g. tracking_error=lambda env: ...",
                stacklevel=2,
            )
        # Squared errors and their number, costs and their number; float64, lest long sums lose.
        self._sums = th.zeros(4, dtype=th.float64, device=self.model.device)

    def _read(self, name: str) -> th.Tensor | None:
        """Return one quantity of all environments, ``None`` if there is no such attribute."""
        source, env = self.sources[name], self.training_env
        if callable(source):
            values: object = source(env)
        else:
            try:
                read = env.get_attr(source)
            except AttributeError:
                return None
            values = read[0] if isinstance(read[0], th.Tensor) and read[0].ndim else read
        if not isinstance(values, th.Tensor):
            values = th.from_numpy(np.asarray(values, dtype=np.float32))
        if values.shape != (env.num_envs,):
            raise StrlValueError(
                f"LocomotionMetricsCallback: '{name}' has shape {tuple(values.shape)}. Expected "
                f"({env.num_envs},), one number per environment."
            )
        return values.to(self.model.device, th.float64)

    @th.no_grad()
    def _on_step(self) -> bool:
        counts: th.Tensor | None = None
        if not isinstance(self.training_env, TensorVecEnv):
            dones = np.asarray(self.locals["dones"], dtype=bool)
            counts = th.from_numpy(~dones).to(self.model.device)
        if "tracking_error" not in self._missing:
            error = self._quantity("tracking_error")
            self._add(0, error.square(), counts)
        if not self._missing & {"joint_power", "body_weight", "forward_speed"}:
            speed = self._quantity("forward_speed")
            moves = speed >= self.eps
            moves = moves if counts is None else moves & counts
            cost = self._quantity("joint_power") / (self._quantity("body_weight") * speed)
            self._add(2, cost, moves)
        return True

    def _quantity(self, name: str) -> th.Tensor:
        values = self._read(name)
        assert values is not None  # asked for when training began
        return values

    def _add(self, index: int, values: th.Tensor, mask: th.Tensor | None) -> None:
        valid = values.isfinite()
        valid = valid if mask is None else valid & mask
        self._sums[index] += th.where(valid, values, 0.0).sum()
        self._sums[index + 1] += valid.sum()

    def _on_rollout_end(self) -> None:
        squares, n_errors, costs, n_costs = self._sums.tolist()
        self._sums.zero_()
        self.logger.record("eval/velrmsd", math.sqrt(squares / n_errors) if n_errors else math.nan)
        self.logger.record("eval/CoT", costs / n_costs if n_costs else math.nan)
