"""PPO with a teacher and an adversarial motion prior."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Unpack

from sb3_strl.algorithms.appo import APPO
from sb3_strl.algorithms.kwargs import ATPPOKwargs
from sb3_strl.algorithms.tppo import TPPO


class ATPPO(TPPO, APPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.AdversarialMotionPrior` +
    :class:`~sb3_strl.objectives.TeacherDistillation`: learn a task in the style of recorded
    motions, guided by a teacher.

    .. math:: L = L_{PPO} + L_{distillation} + L_{discriminator}, \quad
        r = \lambda \, r_{task} + (1 - \lambda) \, r_{style}

    Nothing but the two declarations: the objectives do not know each other, and their order does
    not matter.

    :param policy: with an ``amp`` part, e.g. ``"AmpPolicy"`` or ``"EncoderAmpPolicy"``
    :param env: an environment with what :class:`~sb3_strl.algorithms.APPO` needs
    :param kwargs: keywords of :class:`~sb3_strl.algorithms.TPPO`,
        :class:`~sb3_strl.algorithms.APPO` and :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy has no discriminator, or there is no teacher
    :raises StrlValueError: for options that cannot work
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        _init_setup_model: bool = True,
        **kwargs: Unpack[ATPPOKwargs],
    ) -> None:
        options: Any = kwargs
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **options)
