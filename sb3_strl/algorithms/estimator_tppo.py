"""PPO with a teacher and estimators."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_strl.algorithms.estimator_ppo import EstimatorPPO
from sb3_strl.algorithms.kwargs import EstimatorTPPOKwargs
from sb3_strl.algorithms.tppo import TPPO


class EstimatorTPPO(EstimatorPPO, TPPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.TeacherDistillation` +
    :class:`~sb3_strl.objectives.Estimation`: imitate a teacher and estimate what it knows.

    .. math:: L = L_{PPO} + L_{distillation} + L_{estimation}

    Nothing but the two declarations. With ``using_ppo=False`` it is DAgger with estimators.

    :param policy: with an estimator, e.g. ``"EstimatorPolicy"`` or ``"EstimatorLstmPolicy"``
    :param env: an environment whose critic groups hold the target segments
    :param kwargs: keywords of :class:`~sb3_strl.algorithms.EstimatorPPO`,
        :class:`~sb3_strl.algorithms.TPPO` and :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy has no estimator, or there is no teacher
    :raises StrlValueError: for options that cannot work
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        _init_setup_model: bool = True,
        **kwargs: Unpack[EstimatorTPPOKwargs],
    ) -> None:
        options: Any = kwargs
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)
