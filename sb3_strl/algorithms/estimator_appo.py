"""PPO with an adversarial motion prior and estimators, and with a teacher beside them."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_strl.algorithms.appo import APPO
from sb3_strl.algorithms.estimator_ppo import EstimatorPPO
from sb3_strl.algorithms.kwargs import EstimatorAPPOKwargs, EstimatorATPPOKwargs
from sb3_strl.algorithms.tppo import TPPO


class EstimatorAPPO(EstimatorPPO, APPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.AdversarialMotionPrior` +
    :class:`~sb3_strl.objectives.Estimation`: :math:`L_{PPO} + L_{discriminator} + L_{estimation}`.

    :param policy: with both parts, e.g. ``"EstimatorAmpPolicy"``
    :param env: an environment with what :class:`~sb3_strl.algorithms.APPO` and
        :class:`~sb3_strl.algorithms.EstimatorPPO` need
    :param kwargs: keywords of these two and of :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy lacks a part
    :raises StrlValueError: for options that cannot work
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        _init_setup_model: bool = True,
        **kwargs: Unpack[EstimatorAPPOKwargs],
    ) -> None:
        options: Any = kwargs
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)


class EstimatorATPPO(EstimatorPPO, TPPO, APPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.AdversarialMotionPrior` +
    :class:`~sb3_strl.objectives.TeacherDistillation` + :class:`~sb3_strl.objectives.Estimation`.

    .. math:: L = L_{PPO} + L_{distillation} + L_{discriminator} + L_{estimation}

    :param policy: with both parts, e.g. ``"EstimatorAmpPolicy"``
    :param env: an environment with what :class:`~sb3_strl.algorithms.APPO` and
        :class:`~sb3_strl.algorithms.EstimatorPPO` need
    :param kwargs: keywords of these two, of :class:`~sb3_strl.algorithms.TPPO` and of
        :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy lacks a part, or there is no teacher
    :raises StrlValueError: for options that cannot work
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        _init_setup_model: bool = True,
        **kwargs: Unpack[EstimatorATPPOKwargs],
    ) -> None:
        options: Any = kwargs
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)
