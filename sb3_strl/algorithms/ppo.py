"""Proximal policy optimisation on tensors: the loop that every algorithm of the library shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm
from sb3_strl.algorithms.compiled import MinibatchRunner
from sb3_strl.algorithms.losses import STAT_NAMES, LossSettings
from sb3_strl.algorithms.memory_use import describe_memory
from sb3_strl.algorithms.minibatch import add_objectives
from sb3_strl.algorithms.optim import adapt_learning_rate, clip_and_step
from sb3_strl.algorithms.rollout import RolloutCollector
from sb3_strl.algorithms.settings import (
    check_policy,
    check_policy_class,
    check_settings,
    find_proposer,
    make_lr_scheduler,
)
from sb3_strl.algorithms.statistics import UpdateStatistics, explained_variance, means_of
from sb3_strl.buffers.presets import ON_POLICY, estimate_field, mask_field
from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common import distributed
from sb3_strl.common.compilation import compile_mode
from sb3_strl.common.errors import NonFiniteError
from sb3_strl.objectives.base import Context, Objective
from sb3_strl.objectives.rnd import RandomNetworkDistillation, RNDOptions
from sb3_strl.policies.aliases import POLICY_ALIASES
from sb3_strl.policies.distributions import GaussianHead
from sb3_strl.policies.options import fold_legacy_kwargs

_APPROX_KL = STAT_NAMES.index("approx_kl")


class PPO(TensorOnPolicyAlgorithm):
    r"""
    Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

    .. math::
        L = \underbrace{-\min(\hat A \rho, \hat A \, \mathrm{clip}(\rho, 1 \pm
        \epsilon))}_{surrogate} + c_v L_V - c_e H(\pi) + \sum_i L_i

    where :math:`L_i` are the losses of the objectives, none for PPO itself. Rollouts, advantages
    and updates stay on ``device``; nothing is copied to the host inside a rollout or a minibatch.

    :param policy: alias (see :mod:`sb3_strl.policies`) or class
    :param env: a tensor environment, any SB3 ``VecEnv``, a Gymnasium environment or its id
    :param learning_rate: float or schedule of the remaining progress; with ``schedule="adaptive"``
        the rate to start from
    :param n_steps: steps per environment and rollout
    :param batch_size: samples per minibatch; default ``n_steps * n_envs / n_minibatches``
    :param n_minibatches: minibatches per epoch, default 4; give this or ``batch_size``
    :param n_epochs: passes over the rollout
    :param gamma: discount
    :param gae_lambda: bias-variance trade-off of the advantages
    :param clip_range: :math:`\epsilon`, float or schedule; also of the value clip
    :param clip_range_vf: SB3's form of the value clip instead of the max form
    :param use_clipped_value_loss: clip the value loss in max form,
        :math:`\max((V-R)^2, (V_c-R)^2)`
    :param normalize_advantage: over the whole ``"rollout"``, every ``"minibatch"`` (also ``True``,
        as in SB3) or not at all (``False``)
    :param ent_coef: :math:`c_e`
    :param vf_coef: :math:`c_v`; the value loss is not halved
    :param max_grad_norm: bound on the global gradient norm
    :param schedule: ``"fixed"``, or ``"adaptive"`` to steer the learning rate by ``desired_kl``
    :param desired_kl: :math:`KL^*` of the adaptive schedule, ``None`` disables it
    :param target_kl: stop the epochs when the approximate KL exceeds 1.5 times this, as in SB3;
        costs one host transfer per minibatch
    :param clip_min_std: floor of the action noise after every optimizer step, number or one per
        action dimension; a heteroscedastic policy has ``std_range`` instead
    :param timeout_bootstrap: value of a time-out: of the true last observation (``"terminal"``), of
        the observation before the step (``"last_value"``), none (``"none"``), or the best that the
        environment allows (``"auto"``)
    :param sequence_length: steps through which gradients flow back in a policy with memory, default
        the whole rollout; minibatches are made of such sequences of one environment each
    :param lr_scheduler_class: class in ``torch.optim.lr_scheduler`` or its name, stepped once per
        update
    :param lr_scheduler_kwargs: its arguments
    :param rnd_kwargs: options of :class:`~sb3_strl.objectives.RandomNetworkDistillation`, an
        intrinsic reward for rare states; ``None`` for none
    :param compile: run policy and losses through ``torch.compile``, with CUDA graphs where the
        device has them; a string is its mode. The first iteration takes seconds longer.
    :param autocast: hidden layers of encoders and trunks compute in bfloat16 in rollouts and
        updates, see :meth:`~sb3_strl.policies.StrlPolicy.use_bfloat16`. The ratio on the first
        minibatch is then within 0.02 of 1 instead of 1e-5, if the actions' noise is at least 0.1
    :param storage_device: where the rollout's observations live, e.g. ``"cpu"`` for images that do
        not fit on the GPU; default ``device``. Minibatches are gathered there and moved
    :param rollout_buffer_class: default :class:`~sb3_strl.buffers.RolloutBuffer`
    :param rollout_buffer_kwargs: its extra arguments
    :param stats_window_size: episodes to average in the logs
    :param tensorboard_log: folder of the TensorBoard logs
    :param policy_kwargs: see :class:`~sb3_strl.policies.StrlPolicy`
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: seed of all generators
    :param device: device of networks and buffers
    :param _init_setup_model: build networks at construction
    :raises StrlValueError: for settings that cannot work together
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(POLICY_ALIASES)
    rollout_buffer: RolloutBuffer

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 24,
        batch_size: int | None = None,
        n_minibatches: int | None = None,
        n_epochs: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        use_clipped_value_loss: bool = True,
        normalize_advantage: bool | Literal["rollout", "minibatch"] = "rollout",
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        max_grad_norm: float = 1.0,
        schedule: Literal["fixed", "adaptive"] = "fixed",
        desired_kl: float | None = 0.01,
        target_kl: float | None = None,
        clip_min_std: float | Sequence[float] = 1e-15,
        timeout_bootstrap: Literal["auto", "terminal", "last_value", "none"] = "auto",
        sequence_length: int | None = None,
        lr_scheduler_class: str | type[th.optim.lr_scheduler.LRScheduler] | None = None,
        lr_scheduler_kwargs: Mapping[str, Any] | None = None,
        rnd_kwargs: Mapping[str, Any] | None = None,
        compile: bool | str = False,  # noqa: A002 (torch.compile's name)
        autocast: bool = False,
        storage_device: str | th.device | None = None,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        policy_class = self._get_policy_from_name(policy) if isinstance(policy, str) else policy
        super().__init__(
            check_policy_class(type(self).__name__, policy_class),
            cast("GymEnv", env),  # None until load() or set_env() brings one
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose if distributed.is_main() else 0,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.batch_size = batch_size
        self.n_minibatches = n_minibatches
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.use_clipped_value_loss = use_clipped_value_loss
        self.normalize_advantage = normalize_advantage
        self.schedule = schedule
        self.desired_kl = desired_kl
        self.target_kl = target_kl
        self.clip_min_std = clip_min_std
        self.timeout_bootstrap = timeout_bootstrap
        self.sequence_length = sequence_length
        self.lr_scheduler_class = lr_scheduler_class
        self.lr_scheduler_kwargs = lr_scheduler_kwargs
        self.rnd_kwargs = rnd_kwargs
        self.compile = compile
        self.autocast = autocast
        self.storage_device = storage_device
        self.using_ppo = True
        self.env_obs_segments: Mapping[str, Any] | None = None
        self.n_iterations = 0
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ construction

    def _make_objectives(self) -> list[Objective]:
        """Return the objectives that this algorithm declares."""
        if self.rnd_kwargs is None:
            return []
        self.rnd = RandomNetworkDistillation(RNDOptions.from_dict(self.rnd_kwargs))
        return [self.rnd]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        extra = [] if self.rnd_kwargs is None else ["rnd.modules", "rnd.optimizer"]
        return [*names, *extra], variables

    def _setup_model(self) -> None:
        check_settings(self)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        self._setup_runtime()
        self.objectives = self._make_objectives()
        self._setup_policy()
        context = Context(
            policy=self.policy,
            env=self.tensor_env,
            device=self.device,
            generator=self.generator,
            n_steps=self.n_steps,
            n_envs=self.n_envs,
            learning_rate=self.lr_schedule(1.0),
            n_updates=lambda: self.n_iterations,
        )
        for objective in self.objectives:
            objective.setup(context)
            if self.tensor_env is not None:
                objective.bind(self.tensor_env)
        groups = self.policy.optimizer.param_groups  # an objective may have added one
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._setup_buffer()
        check_policy(self)
        self.collector = RolloutCollector(
            self.policy,
            self.generator,
            self.timeout_bootstrap if self.using_ppo else "none",
            find_proposer(self),
            compile_mode(self.compile, self.device, graphs=False),
        )
        mode = compile_mode(self.compile, self.device)
        self._run_minibatch = MinibatchRunner(
            self.policy, self._parameters, self.objectives, mode, self.collector.told
        )
        self.statistics = UpdateStatistics(STAT_NAMES if self.using_ppo else ("loss",))

    def _setup_policy(self) -> None:
        kwargs = fold_legacy_kwargs(self.policy_kwargs)
        if self.tensor_env is not None and self.tensor_env.obs_segments is not None:
            self.env_obs_segments = self.tensor_env.obs_segments
        if self.env_obs_segments is not None:
            kwargs.setdefault("obs_segments", self.env_obs_segments)
        for objective in self.objectives:
            for key, value in objective.policy_kwargs().items():
                kwargs.setdefault(key, value)
        policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **kwargs
        )
        self.policy = policy.to(self.device)  # type: ignore[assignment]
        self.policy.use_bfloat16(self.autocast)
        group = self.policy.optimizer.param_groups[0]
        if self.schedule == "adaptive":
            # A tensor, so that the rate moves without asking the host.
            group["lr"] = th.tensor(self.lr_schedule(1.0), device=self.device)
        self.lr_scheduler = make_lr_scheduler(
            self.lr_scheduler_class, self.lr_scheduler_kwargs, self.policy.optimizer
        )
        self.min_std = th.as_tensor(self.clip_min_std, dtype=th.float32, device=self.device)

    def _setup_buffer(self) -> None:
        extra: dict[str, FieldSpec] = {}
        for name in self.policy.draw_masks((1,), None):
            extra[mask_field(name)] = FieldSpec((), th.bool)
        for name, estimator in self.policy.reused_estimates().items():
            extra[estimate_field(name)] = FieldSpec((estimator.output_size,))
        if find_proposer(self) is not None:
            extra[ON_POLICY] = FieldSpec((), th.bool)
        for objective in self.objectives:
            extra.update(objective.buffer_fields())
        buffer_class: Any = self.rollout_buffer_class or RolloutBuffer
        self.rollout_buffer = buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            **{
                "groups": self.policy.groups,
                "dist_shapes": self.policy.action_head.param_shapes,
                "sample_dist": self.schedule == "adaptive",
                "extra_fields": extra,
                "sequence_length": self.sequence_length,
                **({} if self.storage_device is None else {"storage_device": self.storage_device}),
                **self.rollout_buffer_kwargs,
            },
        )
        self.rollout_buffer.sequences.allocate(self.policy.initial_state(self.n_envs))

    @property
    def current_lr(self) -> float:
        """Learning rate of the policy's optimizer as it is now."""
        return float(self.policy.optimizer.param_groups[0]["lr"])

    @property
    def minibatch_size(self) -> int:
        """Samples per minibatch, the largest if they differ."""
        return int(self.batch_size or -(-self.n_steps * self.n_envs // (self.n_minibatches or 4)))

    @property
    def sequence_minibatches(self) -> int:
        """Minibatches per epoch for a policy with memory, each of whole sequences."""
        sequences = self.rollout_buffer.sequences
        if self.batch_size is None:
            return self.n_minibatches or min(4, sequences.n_sequences)
        return -(-sequences.n_sequences // max(1, self.batch_size // sequences.length))

    # ------------------------------------------------------------------ updating

    def train(self) -> None:
        """
        Update the policy on the rollout in the buffer.

        :raises NonFiniteError: if the losses are not finite
        """
        self.policy.set_training_mode(True)
        buffer = self.rollout_buffer
        self._set_learning_rate()
        progress = self._current_progress_remaining
        clip = FloatSchedule(self.clip_range)(progress)
        vf = self.clip_range_vf
        self._loss_settings = LossSettings(
            clip_range=clip,
            value_clip=clip if self.use_clipped_value_loss else None,
            sb3_value_clip=None if vf is None else FloatSchedule(vf)(progress),
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
        )
        self.statistics.reset()
        for objective in self.objectives:
            objective.start_update(buffer)
        self._steps_taken = 0
        for _ in range(self.n_epochs):
            completed = self._train_epoch(buffer)
            self._n_updates += 1
            if not completed:
                break
        self.policy.update_normalizers(buffer.obs_here(self.policy.statistics_groups))
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.n_iterations += 1
        self._resume_point = None
        self._log_update()

    def _train_epoch(self, buffer: RolloutBuffer) -> bool:
        """Pass over the rollout once; return whether ``target_kl`` let it complete."""
        count = self.n_minibatches or 4
        even = self.batch_size is not None or self.n_steps * self.n_envs % count == 0
        batches = (
            buffer.get_sequences(self.sequence_minibatches, self.generator)
            if self.policy.is_recurrent
            else buffer.get(self.minibatch_size, self.generator)
            if even
            else buffer.get(None, self.generator, count)
        )
        for batch in batches:
            if not self._minibatch(batch):
                return False
            for objective in self.objectives:
                objective.update(batch)
        return True

    def _minibatch(self, batch: RolloutBatch) -> bool:
        """Take one gradient step; return whether ``target_kl`` allowed it."""
        for parameter in self._parameters:
            parameter.grad = None
        adaptive = self.schedule == "adaptive" and self.desired_kl is not None
        result = self._run_minibatch(
            batch,
            self._loss_settings if self.using_ppo else None,
            self.normalize_advantage,
            adaptive and self._steps_taken > 0,
        )
        loss, stats = add_objectives(result, batch, self.objectives, type(self).__name__)
        self.statistics.add(stats)
        if (
            self.target_kl is not None
            and self.using_ppo
            and float(distributed.mean(stats[_APPROX_KL])) > 1.5 * self.target_kl
        ):
            return False
        if result.kl is not None and self.desired_kl is not None:
            for group in self.policy.optimizer.param_groups:
                adapt_learning_rate(group["lr"], result.kl, self.desired_kl)
        self._optimizer_step(loss)
        return True

    def _optimizer_step(self, loss: th.Tensor) -> None:
        optimizer = self.policy.optimizer
        if loss.requires_grad:  # compiled, PPO's own gradients are there already
            loss.backward()
        clip_and_step(optimizer, self._parameters, self.max_grad_norm)
        self._steps_taken += 1
        head = self.policy.action_head
        if isinstance(head, GaussianHead):
            head.clip_std(self.min_std)

    # ------------------------------------------------------------------ learning rate and logs

    def _set_learning_rate(self) -> None:
        if self.schedule == "fixed" and self.lr_scheduler is None:
            self._update_learning_rate(self.policy.optimizer)

    def _log_update(self) -> None:
        means = self.statistics.means()
        if not math.isfinite(means["loss"]):
            raise NonFiniteError(
                f"{type(self).__name__}: the loss of update {self.n_iterations} is not finite "
                f"({means}). Lower learning_rate or max_grad_norm, and look at the scale of the "
                "rewards; "
                "the last checkpoint before this update is the one to go back to."
            )
        if self.verbose >= 1 and self.n_iterations == 1:  # everything is allocated by now
            self.logger.info(describe_memory(self))
        for key, value in means.items():
            self.logger.record(f"train/{key}", value)
        extra: dict[str, th.Tensor] = {}
        if self.using_ppo:
            values, returns = self.rollout_buffer["values"], self.rollout_buffer["returns"]
            extra["train/explained_variance"] = explained_variance(values, returns)
        log_std = self.policy.log_std
        if log_std is not None:
            extra["train/std"] = log_std.exp().mean()
        for objective in self.objectives:
            extra.update(objective.stats())
        for key, value in zip(extra, means_of(extra), strict=True):
            self.logger.record(key, value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self._loss_settings.clip_range)
        if self._loss_settings.sb3_value_clip is not None:
            self.logger.record("train/clip_range_vf", self._loss_settings.sb3_value_clip)
        self.logger.record("train/learning_rate", self.current_lr)
