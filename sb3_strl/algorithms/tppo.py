"""PPO guided by a teacher, and DAgger."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import TypedDict, Unpack

from sb3_strl.algorithms.first_stage import (
    Demonstrations,
    check_stage,
    episode_means,
    open_replay,
)
from sb3_strl.algorithms.ppo import PPO
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.errors import StrlTypeError, check_known
from sb3_strl.common.types import TensorDict
from sb3_strl.envs import TensorVecEnv
from sb3_strl.objectives.base import Objective
from sb3_strl.objectives.distillation import DistillationOptions, TeacherDistillation
from sb3_strl.objectives.teacher import TeacherSource
from sb3_strl.policies.aliases import POLICY_ALIASES

Schedule = str | float | Callable[[int], float]


class TeacherKwargs(TypedDict, total=False):
    """The keywords that :class:`TPPO` adds."""

    teacher: TeacherSource | None
    teacher_policy: TeacherSource | None
    teacher_policy_class_name: str
    teacher_ac_path: str | Path | None
    ppo: Mapping[str, Any] | None
    label_action_with_critic_obs: bool
    teacher_act_prob: Schedule
    update_times_scale: float
    using_ppo: bool
    distillation_loss_coef: Schedule
    distill_target: str
    distill_latent_coef: float
    distill_latent_target: str
    distill_latent_obs_component_mapping: Mapping[str, str] | None
    buffer_dilation_ratio: float
    lr_scheduler: Mapping[str, Any] | None
    lr_scheduler_class_name: str | None
    hidden_state_resample_prob: float
    action_labels_from_sample: bool
    pretrain_dataset: Demonstrations | None
    pretrain_iterations: int


class TPPO(PPO):
    r"""
    PPO + :class:`~sb3_strl.objectives.TeacherDistillation`: learn from reward and from a teacher
    that knows more. With ``using_ppo=False`` it is DAgger (Ross et al. 2011,
    https://arxiv.org/abs/1011.0686).

    .. math::
        L = L_{PPO} + c(k) \, \mathrm{mean} \, d(\pi(\cdot \mid o), a^*)
        + c_z \sum_i \mathrm{mean} \, d_z(z_i, z_i^*)

    after k updates. An episode is driven by the teacher with probability p(k), decided at its
    start. The executed action is stored with its log-probability under the student, and PPO's
    surrogate, entropy and divergence average over the samples that the student drove; its value
    loss and the distances over all.

    Distances of actions, :math:`\delta = \mu - a^*`: ``"real"`` :math:`\|\delta\|_2`,
    ``"mse_sum"`` :math:`\sum \delta^2` (recommended: its gradient shrinks near the optimum),
    ``"l1"`` :math:`\sum |\delta|`, ``"tanh"`` and ``"scaled_tanh"`` (binary cross-entropies of
    bounded means, for ``mu_activation="tanh"``), ``"max_log_prob"`` :math:`-\ln \pi(a^*)`,
    ``"kl"`` :math:`KL(\pi^* \| \pi)`; see :func:`~sb3_strl.objectives.distances.vector_distance`.

    Names of schedules, with s = ``update_times_scale``: ``"linear"`` :math:`\max(0, 1 - k/s)`,
    ``"exp"`` :math:`(1 - 1/s)^k`, ``"tanh"``. The teacher is not saved with the model, which loads
    and predicts without it; to train on, ``TPPO.load(path, env, teacher=...)``.

    :param policy: any alias; a deterministic one needs ``using_ppo=False``
    :param env: the environment
    :param teacher: who teaches: a policy or an algorithm (of this library, Stable-Baselines3 or
        ``imitation``; a mutex policy too), which is copied; the path of a policy or model saved by
        this library, of a Stable-Baselines3 model with an ``MlpPolicy``, or of a checkpoint of
        rsl_rl or st_rl whose actor is a perceptron, with its normaliser; or a dict with ``path``
        and, for foreign files, ``activation``. Nothing in a file is executed. The statistics of a
        ``VecNormalize`` are not part of a model and not applied
    :param teacher_policy: older name of ``teacher``
    :param teacher_policy_class_name: ``class_name`` of a ``teacher_policy`` that has none
    :param teacher_ac_path: older name of its ``path``
    :param ppo: keywords of PPO as a mapping; those given directly win
    :param label_action_with_critic_obs: show the teacher the critic's groups, else the actor's;
        ``policy_kwargs=dict(obs_groups={"teacher": [...]})`` names any others. Segments are found
        by name
    :param teacher_act_prob: p(k): name of a schedule, number in [0, 1], or function of k
    :param update_times_scale: s, in updates
    :param using_ppo: ``False`` drops the surrogate, value and entropy losses; the critic rests
    :param distillation_loss_coef: c(k): number, name of a schedule, or function of k
    :param distill_target: d, see above
    :param distill_latent_coef: :math:`c_z`
    :param distill_latent_target: :math:`d_z`: ``"real"``, ``"mse_sum"``, ``"l1"``, ``"tanh"`` or
        ``"scaled_tanh"``
    :param distill_latent_obs_component_mapping: ``{student's segment: teacher's segment}``, whose
        encoders' latents are compared
    :param buffer_dilation_ratio: rollouts that are imitated, at least 1; PPO uses the newest alone.
        A memory reads the older ones from zeros
    :param lr_scheduler: arguments of the learning-rate scheduler, also ``lr_scheduler_kwargs``
    :param lr_scheduler_class_name: its name, also ``lr_scheduler_class``
    :param hidden_state_resample_prob: share of sequences whose memory begins with :math:`U(-1, 1)`
        when they are imitated; PPO's losses keep the true states
    :param action_labels_from_sample: labels are drawn from the teacher's distribution instead of
        being its mode
    :param pretrain_dataset: demonstrations of the first stage: the folder or folders of a rollout
        dataset, played without end in random order, or a
        :class:`~sb3_strl.data.RolloutDataset` of as many environments. Recorded actions are
        executed and are the labels, unless the dataset holds a teacher's. Not saved with the model
    :param pretrain_iterations: rollouts that come from the dataset while the environment stands
        still; negative for all of them, and then no teacher is needed. They count as time steps
    :param ppo_kwargs: see :class:`~sb3_strl.algorithms.PPO`
    :raises StrlTypeError: for a teacher or keyword that cannot be understood
    :raises StrlValueError: for options that cannot work
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICY_ALIASES)
    distillation: TeacherDistillation

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        teacher: TeacherSource | None = None,
        teacher_policy: TeacherSource | None = None,
        teacher_policy_class_name: str = "ActorCritic",
        teacher_ac_path: str | Path | None = None,
        ppo: Mapping[str, Any] | None = None,
        label_action_with_critic_obs: bool = True,
        teacher_act_prob: Schedule = "exp",
        update_times_scale: float = 100,
        using_ppo: bool = True,
        distillation_loss_coef: Schedule = 1.0,
        distill_target: str = "real",
        distill_latent_coef: float = 1.0,
        distill_latent_target: Literal["real", "mse_sum", "l1", "tanh", "scaled_tanh"]
        | str = "real",
        distill_latent_obs_component_mapping: Mapping[str, str] | None = None,
        buffer_dilation_ratio: float = 1.0,
        lr_scheduler: Mapping[str, Any] | None = None,
        lr_scheduler_class_name: str | None = None,
        hidden_state_resample_prob: float = 0.0,
        action_labels_from_sample: bool = False,
        pretrain_dataset: Demonstrations | None = None,
        pretrain_iterations: int = 0,
        _init_setup_model: bool = True,
        **ppo_kwargs: Unpack[PPOKwargs],
    ) -> None:
        kwargs: dict[str, Any] = {**_checked(type(self).__name__, ppo), **ppo_kwargs}
        if lr_scheduler_class_name is not None:
            kwargs.setdefault("lr_scheduler_class", lr_scheduler_class_name)
        if lr_scheduler:
            kwargs.setdefault("lr_scheduler_kwargs", lr_scheduler)
        super().__init__(policy, env, _init_setup_model=False, **kwargs)
        self.teacher = self._one_teacher(
            teacher, teacher_policy, teacher_policy_class_name, teacher_ac_path
        )
        self.teacher_kind: str | None = None
        self.label_action_with_critic_obs = label_action_with_critic_obs
        self.teacher_act_prob = teacher_act_prob
        self.update_times_scale = update_times_scale
        self.using_ppo = using_ppo
        self.distillation_loss_coef = distillation_loss_coef
        self.distill_target = distill_target
        self.distill_latent_coef = distill_latent_coef
        self.distill_latent_target = distill_latent_target
        self.distill_latent_obs_component_mapping = distill_latent_obs_component_mapping
        self.buffer_dilation_ratio = buffer_dilation_ratio
        self.hidden_state_resample_prob = hidden_state_resample_prob
        self.action_labels_from_sample = action_labels_from_sample
        self.pretrain_dataset = pretrain_dataset
        self.pretrain_iterations = pretrain_iterations
        self.pretrain_kind: str | None = None
        self.is_pretrained = False
        self._waiting: tuple[TensorDict, th.Tensor] | None = None
        if _init_setup_model:
            self._setup_model()

    def _one_teacher(
        self,
        teacher: TeacherSource | None,
        teacher_policy: TeacherSource | None,
        class_name: str,
        path: str | Path | None,
    ) -> TeacherSource | None:
        """Return the teacher, whatever the keyword."""
        if isinstance(teacher_policy, Mapping):
            teacher_policy = {"class_name": class_name, **teacher_policy}
        if path is not None:
            options = teacher_policy if isinstance(teacher_policy, Mapping) else {}
            if teacher_policy is not None and not isinstance(teacher_policy, Mapping):
                teacher = teacher_policy if teacher is None else teacher
            teacher_policy = {**options, "path": path}
        if teacher is not None and teacher_policy is not None:
            raise StrlTypeError(
                f"{type(self).__name__}: several teachers were given, as teacher=, teacher_policy= "
                "or teacher_ac_path=. Give one of them."
            )
        return teacher_policy if teacher is None else teacher

    def _make_objectives(self) -> list[Objective]:
        if self.pretrain_dataset is not None:
            self.pretrain_kind = type(self.pretrain_dataset).__name__
        check_stage(
            type(self).__name__,
            self.pretrain_dataset,
            self.pretrain_kind,
            self.pretrain_iterations,
            self.distill_target,
        )
        if self.teacher is not None:
            self.teacher_kind = type(self.teacher).__name__
        elif self.teacher_kind is None and not (
            self.pretrain_dataset is not None and self.pretrain_iterations < 0
        ):
            raise StrlTypeError(
                f"{type(self).__name__}: there is no teacher. Pass teacher=, a policy or the path "
                "of one."
            )
        self.distillation = TeacherDistillation(
            DistillationOptions(
                teacher=self.teacher,
                label_action_with_critic_obs=self.label_action_with_critic_obs,
                teacher_act_prob=self.teacher_act_prob,
                update_times_scale=self.update_times_scale,
                distillation_loss_coef=self.distillation_loss_coef,
                distill_target=self.distill_target,
                distill_latent_coef=self.distill_latent_coef,
                distill_latent_target=self.distill_latent_target,
                distill_latent_obs_component_mapping=self.distill_latent_obs_component_mapping,
                buffer_dilation_ratio=self.buffer_dilation_ratio,
                hidden_state_resample_prob=self.hidden_state_resample_prob,
                action_labels_from_sample=self.action_labels_from_sample,
            ),
            type(self).__name__,
        )
        return [*super()._make_objectives(), self.distillation]

    def _excluded_save_params(self) -> list[str]:
        own = ["teacher", "distillation", "pretrain_dataset", "_waiting"]
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        queue = ["distillation.queue"] if self.buffer_dilation_ratio > 1.0 else []
        return [*names, *queue], variables

    # ------------------------------------------------------------------ two stages

    @property
    def is_pretraining(self) -> bool:
        """Whether the next rollout comes from the dataset, if that is long enough."""
        n = self.pretrain_iterations
        return not self.is_pretrained and n != 0 and (n < 0 or self.n_iterations < n)

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.is_pretrained = False
        self.distillation.leave_dataset()

    def _step_source(self) -> TensorVecEnv:
        env = super()._step_source()
        if self.is_pretraining:
            distillation = self.distillation
            if distillation.replay is None:
                distillation.replay = open_replay(self, env, distillation.replay_state)
            obs = distillation.replay.begin(self.n_steps)
            if obs is not None:
                self._waiting = self._last_obs, self._last_episode_starts
                self._last_obs = self._to_device(obs)
                self._last_episode_starts = distillation.replay.starts.to(self.device)
                return distillation.replay
            warnings.warn(
                f"{type(self).__name__}: pretrain_dataset holds no further {self.n_steps} steps "
                f"for each of {self.n_envs} environments after {self.n_iterations} iterations. "
                "Training goes on in the environment. Pass RolloutDataset(..., dataset_loops=0) to "
                "repeat the demonstrations.",
                stacklevel=4,
            )
        if self.pretrain_iterations and not self.is_pretrained:
            self._enter_env()
        return env

    def _enter_env(self) -> None:
        """Begin the second stage: nothing that was remembered of the dataset belongs here."""
        self.is_pretrained = True
        self.distillation.leave_dataset()
        self.collector.state = self.policy.initial_state(self.n_envs)
        self.episode_stats.reset()
        self._last_episode_starts = th.ones(self.n_envs, dtype=th.bool, device=self.device)

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Fill the buffer with one rollout, of the dataset in the first stage; see SB3.

        :return: whether the rollout is complete (``False``: a callback stopped it)
        """
        try:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        finally:
            if self._waiting is not None:
                self._last_obs, self._last_episode_starts = self._waiting
                self._waiting = None

    @property
    def reads_infos(self) -> bool:
        """Whether episodes come from ``Monitor``'s infos instead of being counted on the device."""
        return self.distillation.replay is None and super().reads_infos

    def _record_episodes(self) -> None:
        if self.distillation.replay is None:
            super()._record_episodes()
            return
        for key, value in episode_means(self.episode_stats.flush()).items():
            self.logger.record(f"dataset/{key}", value)
        rewards = self.rollout_buffer["rewards"]
        self.logger.record("dataset/reward_mean", float(rewards.mean()))
        self.logger.record("dataset/iteration", self.n_iterations + 1)

    @th.no_grad()
    def label_actions(self, obs: Any) -> th.Tensor:
        """
        Return what the teacher would do at the start of an episode, ``(N, A)`` or ``(N,)``.

        :param obs: groups ``(N, ...)`` of the environment
        """
        return self.distillation.label(self.policy.as_groups(obs))


def _checked(where: str, ppo: Mapping[str, Any] | None) -> Mapping[str, Any]:
    check_known(f"{where}: ppo", "keyword", ppo or {}, list(PPOKwargs.__annotations__))
    return ppo or {}
