"""PPO that also trains the policy's estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import TypedDict, Unpack

from sb3_strl.algorithms.ppo import PPO
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.objectives.base import Objective
from sb3_strl.objectives.estimation import Estimation, EstimationOptions
from sb3_strl.policies.aliases import POLICY_ALIASES


class EstimationKwargs(TypedDict, total=False):
    """The keywords that :class:`EstimatorPPO` adds."""

    estimator_loss_func: str
    estimator_loss_kwargs: Mapping[str, Any] | None
    estimator_loss_coef: float
    adaptor_loss_coef: float


class EstimatorPPO(PPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.Estimation`: learn to act and to estimate what the robot
    cannot sense, at once (Ji et al. 2022, https://arxiv.org/abs/2202.05481).

    .. math::
        L = L_{PPO} + c_{est} \, \mathrm{mean} \sum_j \ell(\hat y_j, y_j)
        + c_{ada} \, \mathrm{mean} \sum_j \ell(\hat z_j, z_j)

    for the policy's state estimator :math:`\hat y` and its privilege adaptor :math:`\hat z`,
    whichever it has. What they read and predict, and how often estimates replace observations, is
    ``policy_kwargs=dict(estimator=dict(...), adaptor=dict(...))``, see
    :class:`~sb3_strl.policies.estimation.EstimatorSpec`.

    :param policy: e.g. ``"EstimatorPolicy"``, ``"EstimatorLstmPolicy"`` or
        ``"PrivilegeEstimatorPolicy"``
    :param env: an environment whose critic groups hold the target segments
    :param estimator_loss_func: :math:`\ell`, an elementwise loss of :mod:`torch.nn.functional`
    :param estimator_loss_kwargs: its further arguments, e.g. ``{"delta": 0.5}`` for ``huber_loss``
    :param estimator_loss_coef: :math:`c_{est}`; the loss is a sum over target columns, so it grows
        with their number; 0 trains nothing
    :param adaptor_loss_coef: :math:`c_{ada}`
    :param ppo_kwargs: see :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy has no estimator, or the loss does not exist
    :raises StrlValueError: for options that cannot work
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICY_ALIASES)
    estimation: Estimation

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        estimator_loss_func: str = "mse_loss",
        estimator_loss_kwargs: Mapping[str, Any] | None = None,
        estimator_loss_coef: float = 1.0,
        adaptor_loss_coef: float = 1.0,
        _init_setup_model: bool = True,
        **ppo_kwargs: Unpack[PPOKwargs],
    ) -> None:
        super().__init__(policy, env, _init_setup_model=False, **ppo_kwargs)
        self.estimator_loss_func = estimator_loss_func
        self.estimator_loss_kwargs = estimator_loss_kwargs
        self.estimator_loss_coef = estimator_loss_coef
        self.adaptor_loss_coef = adaptor_loss_coef
        if _init_setup_model:
            self._setup_model()

    def _make_objectives(self) -> list[Objective]:
        self.estimation = Estimation(
            EstimationOptions(
                loss_func=self.estimator_loss_func,
                loss_kwargs=self.estimator_loss_kwargs or {},
                coefs={"estimator": self.estimator_loss_coef, "adaptor": self.adaptor_loss_coef},
            ),
            type(self).__name__,
        )
        return [*super()._make_objectives(), self.estimation]

    @th.no_grad()
    def get_estimated_state(self, name: str = "estimator") -> th.Tensor:
        """
        Return the estimate of the last step of the rollout, ``(n_envs, E)`` in raw units.

        :param name: ``"estimator"`` or ``"adaptor"``
        :raises StrlKeyError: if the policy has no such estimator
        :raises StrlValueError: before the first step
        """
        estimators = dict(self.policy.each_estimator())
        if name not in estimators:
            raise StrlKeyError(
                f"{type(self).__name__}: the policy has no '{name}'. It has: {list(estimators)}."
            )
        if name not in self.collector.estimates:
            raise StrlValueError(
                f"{type(self).__name__}: nothing was estimated yet. Call learn() first, or "
                "policy.estimate(obs) for an observation of your own."
            )
        return estimators[name].raw(self.collector.estimates[name])
