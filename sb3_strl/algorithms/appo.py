"""PPO with an adversarial motion prior."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import TypedDict, Unpack

from sb3_strl.algorithms.ppo import PPO
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data import MotionLibrary
from sb3_strl.objectives.base import Objective
from sb3_strl.objectives.expert import ExpertSource, MissingExpert
from sb3_strl.objectives.motion_prior import (
    AdversarialMotionPrior,
    MotionPriorOptions,
)
from sb3_strl.policies.aliases import POLICY_ALIASES


class MotionPriorKwargs(TypedDict, total=False):
    """The keywords that :class:`APPO` adds."""

    discriminator_loss_coef: float
    discriminator_learning_rate: float | None
    discriminator_weight_decay: tuple[float, float]
    discriminator_max_grad_norm: float
    discriminator_batch_size: int | None
    discriminator_optimizer: Literal["separate", "joint"]
    amp_replay_size: int
    amp_obs_dim: int | None
    expert_source: Literal["env"] | MotionLibrary | ExpertSource
    mimic_reward_coef: float
    mimic_loss_coef: float
    dagger_loss_coef: float
    bc_loss_coef: float | None


class APPO(PPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.AdversarialMotionPrior`: learn a task in the style of
    recorded motions (Peng et al. 2021, https://arxiv.org/abs/2104.02180).

    Not Asynchronous PPO, which other libraries call APPO; the class is also exported as ``AMPPPO``.

    The policy owns the discriminator, so ``policy`` must have an ``amp`` part; style coefficient,
    task mixture, loss and gradient penalty are ``policy_kwargs=dict(amp_discriminator=dict(...))``,
    see :class:`~sb3_strl.policies.DiscriminatorSpec`.

    :param policy: e.g. ``"AmpPolicy"`` or ``"EncoderAmpPolicy"``
    :param env: an environment with the group ``ref_obs`` (K frames of style features) and, unless
        ``expert_source`` is given, ``ref_motion``
    :param discriminator_loss_coef: factor on all discriminator losses; 0 freezes it
    :param discriminator_learning_rate: default: ``learning_rate`` at the start
    :param discriminator_weight_decay: of trunk and head
    :param discriminator_max_grad_norm: bound on its gradient norm
    :param discriminator_batch_size: rows of either side that it learns from in every minibatch,
        ``None`` for all
    :param discriminator_optimizer: ``"separate"``, or ``"joint"`` for the policy's optimizer, which
        does not heed a learning rate, weight decay or gradient bound of the discriminator's own
    :param amp_replay_size: past policy features to mix into every minibatch, 0 for none
    :param amp_obs_dim: checked against the width of ``ref_obs``, else inferred
    :param expert_source: ``"env"``, a :class:`~sb3_strl.data.MotionLibrary`, or any other
        :class:`~sb3_strl.objectives.ExpertSource`
    :param mimic_reward_coef: penalty on the distance to the time-aligned reference
    :param mimic_loss_coef: kept for old configurations; logged only, because a loss between two
        stored tensors has no gradient
    :param dagger_loss_coef: only with a source of labels other than the policy's own actions, which
        this class does not have
    :param bc_loss_coef: refused
    :param ppo_kwargs: see :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: if the policy has no discriminator
    :raises StrlKeyError: if a group is missing
    :raises StrlValueError: for options that cannot work
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICY_ALIASES)
    motion_prior: AdversarialMotionPrior

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        discriminator_loss_coef: float = 1.0,
        discriminator_learning_rate: float | None = None,
        discriminator_weight_decay: tuple[float, float] = (0.0, 0.0),
        discriminator_max_grad_norm: float = 1.0,
        discriminator_batch_size: int | None = None,
        discriminator_optimizer: Literal["separate", "joint"] = "separate",
        amp_replay_size: int = 0,
        amp_obs_dim: int | None = None,
        expert_source: Literal["env"] | MotionLibrary | ExpertSource = "env",
        mimic_reward_coef: float = 0.0,
        mimic_loss_coef: float = 0.0,
        dagger_loss_coef: float = 0.0,
        bc_loss_coef: float | None = None,
        _init_setup_model: bool = True,
        **ppo_kwargs: Unpack[PPOKwargs],
    ) -> None:
        super().__init__(policy, env, _init_setup_model=False, **ppo_kwargs)
        self.discriminator_loss_coef = discriminator_loss_coef
        self.discriminator_learning_rate = discriminator_learning_rate
        self.discriminator_weight_decay = discriminator_weight_decay
        self.discriminator_max_grad_norm = discriminator_max_grad_norm
        self.discriminator_batch_size = discriminator_batch_size
        self.discriminator_optimizer = discriminator_optimizer
        self.amp_replay_size = amp_replay_size
        self.amp_obs_dim = amp_obs_dim
        self.expert_source: Literal["env"] | MotionLibrary | ExpertSource = expert_source
        self.expert_kind = "env"
        self.mimic_reward_coef = mimic_reward_coef
        self.mimic_loss_coef = mimic_loss_coef
        self.dagger_loss_coef = dagger_loss_coef
        self.bc_loss_coef = bc_loss_coef
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_legacy()
        super()._setup_model()

    def _check_legacy(self) -> None:
        if self.bc_loss_coef is not None:
            raise StrlTypeError(
                f"APPO: bc_loss_coef={self.bc_loss_coef} has never had an effect. Remove it; "
                "behaviour cloning of a teacher is TPPO's distillation loss."
            )
        if self.dagger_loss_coef != 0.0:
            raise StrlValueError(
                f"APPO: dagger_loss_coef={self.dagger_loss_coef} needs labels from somebody other "
                "than the policy itself. Imitating its own actions only shrinks its noise. Use a "
                "teacher (ATPPO), or set it to 0."
            )
        if self.mimic_loss_coef != 0.0:
            warnings.warn(
                f"APPO: mimic_loss_coef={self.mimic_loss_coef} has no effect: the loss compares "
                "two stored tensors and has no gradient. Use mimic_reward_coef to reward tracking; "
                "the "
                "distance is logged as amp/mimic_distance.",
                stacklevel=3,
            )

    def _expert(self) -> object:
        """Return the source of expert features, or what stands for one that was not given again."""
        if self.expert_source != "env":
            self.expert_kind = type(self.expert_source).__name__
        elif self.expert_kind != "env":
            return MissingExpert(self.expert_kind)
        return self.expert_source

    def _make_objectives(self) -> list[Objective]:
        self.motion_prior = AdversarialMotionPrior(
            MotionPriorOptions(
                discriminator_loss_coef=self.discriminator_loss_coef,
                discriminator_learning_rate=self.discriminator_learning_rate,
                discriminator_weight_decay=self.discriminator_weight_decay,
                discriminator_max_grad_norm=self.discriminator_max_grad_norm,
                discriminator_batch_size=self.discriminator_batch_size,
                discriminator_optimizer=self.discriminator_optimizer,
                amp_replay_size=self.amp_replay_size,
                expert_source=self._expert(),
                mimic_reward_coef=self.mimic_reward_coef,
            )
        )
        return [*super()._make_objectives(), self.motion_prior]

    def _setup_policy(self) -> None:
        super()._setup_policy()
        discriminator = self.policy.discriminator
        if (
            self.amp_obs_dim is not None
            and discriminator is not None
            and discriminator.input_dim != self.amp_obs_dim
        ):
            raise StrlValueError(
                f"APPO: amp_obs_dim is {self.amp_obs_dim}, but the features of this environment "
                f"have {discriminator.input_dim} numbers per window. Leave amp_obs_dim out."
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "expert_source"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "motion_prior.optimizer", "motion_prior.replay"], variables


AMPPPO = APPO
"""The same class under a name that cannot be taken for Asynchronous PPO."""
