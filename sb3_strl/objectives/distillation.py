"""Learning from a teacher: who acts, what is imitated, and how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch as th
from gymnasium import spaces

from sb3_strl.buffers.dilated_queue import DilatedQueue
from sb3_strl.buffers.presets import TEACHER_ACTIONS, estimate_field, label_fields, mask_field
from sb3_strl.buffers.rollout_buffer import OBS, FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common.devices import fetch_rows
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.schedules import get_prob_func
from sb3_strl.common.sequences import EpisodeMap
from sb3_strl.common.types import TensorDict
from sb3_strl.envs.replay import ReplayEnv
from sb3_strl.objectives.base import Context, Decision, Objective, Proposal, RolloutStep
from sb3_strl.objectives.distances import (
    action_distance,
    check_action_distance,
    target_entropy,
)
from sb3_strl.objectives.latents import LatentDistillation
from sb3_strl.objectives.resampling import resample_states
from sb3_strl.objectives.teacher import (
    Label,
    TeacherModel,
    TeacherSource,
    make_teacher,
    tree_restore,
    tree_tensors,
)
from sb3_strl.objectives.teacher_view import TeacherView
from sb3_strl.policies.outputs import PolicyOutput

NAME = "teacher"
_DIST = "teacher/dist/"
_MASK = "use_teacher"
_REPLAY = "replay"
_MEMORY = "memory"
EPISODE_STARTS = "episode_starts"


@dataclass(frozen=True, kw_only=True)
class DistillationOptions:
    """
    Options of :class:`TeacherDistillation`; what they mean is said in
    :class:`~sb3_strl.algorithms.TPPO`.

    :param teacher: who teaches; ``None`` for a model that was loaded without
    :param label_action_with_critic_obs: show the teacher the critic's groups
    :param teacher_act_prob: schedule of the share of episodes in which it acts
    :param update_times_scale: scale of the schedules, in updates
    :param distillation_loss_coef: number or schedule
    :param distill_target: distance of actions
    :param distill_latent_coef: number
    :param distill_latent_target: distance of latents
    :param distill_latent_obs_component_mapping: teacher's segment by student's
    :param buffer_dilation_ratio: rollouts that are imitated
    :param hidden_state_resample_prob: share of sequences that begin with a random memory
    :param action_labels_from_sample: labels are drawn instead of the mode
    """

    teacher: TeacherSource | None = None
    label_action_with_critic_obs: bool = True
    teacher_act_prob: str | float | Callable[[int], float] = "exp"
    update_times_scale: float = 100.0
    distillation_loss_coef: str | float | Callable[[int], float] = 1.0
    distill_target: str = "real"
    distill_latent_coef: float = 1.0
    distill_latent_target: str = "real"
    distill_latent_obs_component_mapping: Mapping[str, str] | None = None
    buffer_dilation_ratio: float = 1.0
    hidden_state_resample_prob: float = 0.0
    action_labels_from_sample: bool = False


class TeacherDistillation(Objective):
    r"""
    Imitate a frozen teacher, in states that student and teacher reach together (Ross et al. 2011,
    https://arxiv.org/abs/1011.0686; latents as in Kumar et al. 2021,
    https://arxiv.org/abs/2107.04034).

    .. math::
        L = c(k) \, \mathrm{mean} \, d(\pi(\cdot \mid o), a^*)
        + c_z \sum_i \mathrm{mean} \, d_z(z_i, z_i^*)

    after k updates. An episode is driven by the teacher with probability :math:`p(k)`, decided at
    its start. The label :math:`a^*` is the teacher's in both cases. The teacher sees the
    observations with its own normaliser, and its memory begins anew with every episode.

    :param options: see :class:`DistillationOptions`
    :param where: name of the algorithm, for messages
    """

    def __init__(self, options: DistillationOptions, where: str = "TPPO") -> None:
        super().__init__(NAME)
        self.options = options
        self.where = where
        self.teacher: TeacherModel | None = None
        self.queue: DilatedQueue | None = None
        self.use_teacher: th.Tensor | None = None
        self._memory: Any = None
        self.replay: ReplayEnv | None = None
        self.replay_state: Any = None
        self._label: Label | None = None
        self._latents: TensorDict = {}
        self._sums: TensorDict = {}
        self._n_batches = 0
        self._order: th.Tensor | None = None

    # ------------------------------------------------------------------ construction

    def setup(self, ctx: Context) -> None:
        """
        Load the teacher and check that student and teacher fit.

        :raises StrlTypeError: if there is no such teacher, or it lacks what is to be imitated
        :raises StrlValueError: for options that cannot work
        """
        options, policy = self.options, ctx.policy
        self.policy, self.device, self.generator = policy, ctx.device, ctx.generator
        self._n_steps, self._n_envs, self._k = ctx.n_steps, ctx.n_envs, ctx.n_updates
        scale = options.update_times_scale
        self._act_prob = get_prob_func(options.teacher_act_prob, scale)
        coef = options.distillation_loss_coef
        if isinstance(coef, (int, float)) and not coef >= 0.0:
            raise StrlValueError(
                f"{self.where}: distillation_loss_coef is {coef}. It must not be negative."
            )
        # A number may exceed a probability's 1.
        is_number = isinstance(coef, (int, float))
        self._coef: Callable[[int], float] = (
            (lambda _: float(cast("float", coef))) if is_number else get_prob_func(coef, scale)
        )
        space = policy.action_space
        check_action_distance(
            self.where, options.distill_target, policy, isinstance(space, spaces.Box)
        )
        self._check_memory()
        self.queue = DilatedQueue(options.buffer_dilation_ratio, ctx.n_steps, self.where)
        self.use_teacher = None
        sets = policy.obs_sets
        chosen = "critic" if options.label_action_with_critic_obs else "actor"
        groups = sets.get("teacher", sets[chosen])
        if options.teacher is not None:
            self.teacher = make_teacher(self.where, options.teacher, policy, groups)
            self.view = TeacherView(self.where, self.teacher.policy, policy.layout, groups)
            if options.distill_target == "kl" and not self.teacher.has_distribution:
                raise StrlTypeError(
                    f"{self.where}: distill_target 'kl' needs the teacher's distribution, which a "
                    f"{type(self.teacher.policy).__name__} does not have. Use 'max_log_prob'."
                )
        self.latents = LatentDistillation(
            self.where,
            policy,
            None if self.teacher is None else self.teacher.policy,
            options.distill_latent_obs_component_mapping or {},
            options.distill_latent_target,
            options.distill_latent_coef,
        )

    def _check_memory(self) -> None:
        p = self.options.hidden_state_resample_prob
        if not 0.0 <= p <= 1.0:
            raise StrlValueError(
                f"{self.where}: hidden_state_resample_prob is {p}. It must be in [0, 1]."
            )
        if p > 0.0 and not self.policy.is_recurrent:
            raise StrlValueError(
                f"{self.where}: hidden_state_resample_prob is {p}, but the policy "
                f"{type(self.policy).__name__} has no memory. Set it to 0, or use an 'Lstm' or "
                "'Gru' policy."
            )

    def buffer_fields(self) -> Mapping[str, FieldSpec]:
        """Return the labels, and what else the distances need of the teacher."""
        fields = label_fields(self.policy.action_space)
        if self.options.distill_target == "kl":
            shapes = self.policy.action_head.param_shapes
            fields.update({_DIST + key: FieldSpec(shape) for key, shape in shapes.items()})
        fields.update({n: FieldSpec((w,)) for n, w in self.latents.widths().items()})
        return fields

    # ------------------------------------------------------------------ collecting

    def _require_teacher(self) -> TeacherModel:
        if self.teacher is None:
            raise StrlValueError(
                f"{self.where}: the model was loaded without its teacher, which training needs. "
                f"Pass it again: {self.where}.load(path, env, teacher=...)."
            )
        return self.teacher

    def propose_actions(self, decision: Decision) -> Proposal | None:
        """Label the step, and hand over the environments that the teacher drives."""
        if self.replay is not None:
            return self._propose_recorded(self.replay, decision)
        teacher, starts = self._require_teacher(), decision.episode_starts
        if self.use_teacher is None:
            self.use_teacher = th.zeros_like(starts)
            self._memory = teacher.initial_state(self._n_envs)
        if decision.t == 0:
            shape = (self._n_steps, self._n_envs)
            drawn = th.rand(shape, generator=self.generator, device=self.device)
            self._draws = drawn < self._act_prob(self._k())
        self.use_teacher = th.where(starts, self._draws[decision.t], self.use_teacher)
        seen = self.view(decision.obs)
        sample = self.options.action_labels_from_sample
        self._label = teacher.label(seen, self._memory, starts, sample)
        self._latents = self.latents.of_teacher(seen)
        self._memory = self._label.state
        return Proposal(self._label.actions, self.use_teacher)

    def _propose_recorded(self, replay: ReplayEnv, decision: Decision) -> Proposal:
        """Repeat what was recorded: its action belongs to its reward, and nothing else does."""
        executed, labels = replay.executed().to(self.device), replay.labels().to(self.device)
        if executed.ndim > 1:
            executed, labels = executed.flatten(1), labels.flatten(1)
        self._label = Label(labels, None, None)
        if self.latents.widths():
            self._latents = self.latents.of_teacher(self.view(decision.obs))
        return Proposal(executed, th.ones_like(decision.episode_starts))

    def leave_dataset(self) -> None:
        """Ask the teacher from now on; its memory and the choice of drivers begin anew."""
        self.replay, self.replay_state, self.use_teacher = None, None, None

    def on_step(self, step: RolloutStep, buffer: RolloutBuffer) -> None:
        """Store the label."""
        del step
        label = self._label
        assert label is not None
        buffer.put(TEACHER_ACTIONS, label.actions)
        if self.options.distill_target == "kl" and label.params is not None:
            for key in self.policy.action_head.param_shapes:
                buffer.put(_DIST + key, label.params[key])
        for name, latent in self._latents.items():
            buffer.put(name, latent)

    def label(self, obs: TensorDict) -> th.Tensor:
        """Return the teacher's actions for first observations of episodes ``(N, ...)``."""
        teacher, n_envs = self._require_teacher(), len(next(iter(obs.values())))
        starts = th.ones(n_envs, dtype=th.bool, device=self.device)
        sample = self.options.action_labels_from_sample
        before = teacher.initial_state(n_envs)
        return teacher.label(self.view(obs), before, starts, sample).actions

    def rollout_state(self) -> Any:
        """Return who drives, and the teacher's memory; or where the demonstrations are."""
        if self.replay is not None:
            return {_REPLAY: self.replay.state_dict()}
        if self.use_teacher is None:
            return None
        tensors = [leaf.clone() for leaf in tree_tensors(self._memory)]
        return {_MASK: self.use_teacher.clone(), _MEMORY: tensors}

    def load_rollout_state(self, state: Any) -> None:
        """Take up what :meth:`rollout_state` returned."""
        if state and _REPLAY in state:
            self.replay_state = state[_REPLAY]
            return
        if not state or self.teacher is None:
            return
        self.use_teacher = state[_MASK].clone().to(self.device)
        template = self.teacher.initial_state(len(state[_MASK]))
        self._memory = tree_restore(template, iter(state[_MEMORY]))

    # ------------------------------------------------------------------ updating

    @property
    def _stored(self) -> list[str]:
        """Return the fields that the queue keeps."""
        names = [OBS + group for group in self.policy.groups]
        names += [mask_field(n) for n, e in self.policy.each_estimator() if e.replaces]
        return [*names, *self.buffer_fields(), EPISODE_STARTS]

    def memory(self) -> Mapping[str, int]:
        """Return the bytes of the older rollouts."""
        return {"older rollouts": 0 if self.queue is None else self.queue.n_bytes}

    def start_update(self, buffer: RolloutBuffer) -> None:
        """Forget the last update's statistics; add the rollout to the queue."""
        self._sums, self._n_batches, self._order = {}, 0, None
        self._coef_now = self._coef(self._k())
        if self.queue is not None and self.queue.capacity > self._n_steps:
            self.queue.push(buffer, self._stored)

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> th.Tensor | None:
        """Return the weighted distances of actions and latents."""
        batches = [(batch, out.params)]
        old = self._old_batch(len(batch.advantages))
        if old is not None:
            batches.append((old, {}))
        actions, latents = [], []
        for part, params in batches:
            actions.append(self._action_distance(part, self._params(part, params)))
            latents.append(self.latents.distance(part))
        distance = th.cat(actions).mean()
        latent = {name: th.cat([part[name] for part in latents]).mean() for name in latents[0]}
        self._count(batch, out, distance, latent)
        total = distance * self._coef_now if self._coef_now else None
        for value in latent.values():
            if self.options.distill_latent_coef:
                weighted = value * self.options.distill_latent_coef
                total = weighted if total is None else total + weighted
        return total

    def _params(self, batch: RolloutBatch, params: TensorDict) -> TensorDict:
        """Return the student's distribution, from other hidden states than PPO's if wanted."""
        p, sequences = self.options.hidden_state_resample_prob, batch.sequences
        if params and not p:
            return params
        state = None if sequences is None else sequences.state
        if p and state is not None:
            state = resample_states(state._replace(critic=None), p, self.generator)
        masks = {
            name: batch.extras[mask_field(name)]
            for name, estimator in self.policy.each_estimator()
            if estimator.replaces
        }
        # Older rollouts keep no estimates, and no hidden states: both would be of old weights.
        stored = {
            name: batch.extras[estimate_field(name)]
            for name in self.policy.reused_estimates()
            if estimate_field(name) in batch.extras
        }
        sizes = None if sequences is None else sequences.batch_sizes
        return self.policy.actor_pass(
            batch.observations, state, sizes, masks, keep_state=False, stored=stored
        ).params

    def _action_distance(self, batch: RolloutBatch, params: TensorDict) -> th.Tensor:
        labels = batch.extras[TEACHER_ACTIONS]
        given = {
            name.removeprefix(_DIST): value
            for name, value in batch.extras.items()
            if name.startswith(_DIST)
        }
        head = self.policy.action_head
        return action_distance(self.options.distill_target, head, params, labels, given)

    def _old_batch(self, size: int) -> RolloutBatch | None:
        """Return as large a share of the older steps as ``size`` is of the rollout."""
        if self.queue is None or not self.queue.n_old:
            return None
        old, n_steps, n_envs = self.queue.old(), self.queue.n_old, self._n_envs
        share = size / (self._n_steps * n_envs)
        sequences, whole = None, n_envs if self.policy.is_recurrent else n_steps * n_envs
        chosen = self._next(whole, max(1, round(share * whole)))
        if self.policy.is_recurrent:
            episodes = EpisodeMap(old[EPISODE_STARTS], n_steps)
            plan = episodes.plan(chosen.cpu().numpy())
            # Hidden states of old steps are those of old weights: sequences begin with zeros.
            state = self.policy.initial_state(int(plan.batch_sizes[0]))
            chosen, sequences = plan.rows, plan.as_sequences(state)
        fields = {
            name: fetch_rows(value.flatten(0, 1), chosen, self.device)
            for name, value in old.items()
        }
        observations = {n.removeprefix(OBS): v for n, v in fields.items() if n.startswith(OBS)}
        nothing = th.empty(0, device=self.device)
        return RolloutBatch(
            observations, nothing, nothing, nothing, nothing, nothing, {}, fields, sequences
        )

    def _next(self, total: int, count: int) -> th.Tensor:
        """Draw without putting back, until all were drawn."""
        if self._order is None or len(self._order) < count:
            self._order = th.randperm(total, generator=self.generator, device=self.device)
        chosen, self._order = self._order[:count], self._order[count:]
        return chosen

    # ------------------------------------------------------------------ reporting

    @th.no_grad()
    def _count(
        self, batch: RolloutBatch, out: PolicyOutput, distance: th.Tensor, latent: TensorDict
    ) -> None:
        stats = {"distill/loss": distance, **{f"distill/{n}": v for n, v in latent.items()}}
        labels = batch.extras[TEACHER_ACTIONS]
        if isinstance(self.policy.action_space, spaces.Box):
            mean = self.policy.action_head.mode(out.params)
            stats["distill/l1distance"] = (mean - labels).abs().sum(-1).mean()
            if "pre_tanh" in out.params:
                inside = labels.clamp(-1 + 1e-6, 1 - 1e-6).atanh()
                gap = (out.params["pre_tanh"] - inside).abs()
                stats["distill/l1_before_tanh"] = gap.sum(-1).mean()
            if self.options.distill_target == "tanh":
                stats["distill/loss_above_minimum"] = distance - target_entropy(labels).mean()
        for name, value in stats.items():
            before = self._sums.get(name)
            self._sums[name] = value.detach().clone() if before is None else before.add_(value)
        self._n_batches += 1

    def stats(self) -> TensorDict:
        """Return distances of the last update, and who drove."""
        stats = {name: total / self._n_batches for name, total in self._sums.items()}
        if self.use_teacher is not None:
            like = self.use_teacher.float()
            stats["distill/teacher_fraction"] = like.mean()
            k = self._k() - 1  # the update that has just been completed
            stats["distill/teacher_act_prob"] = like.new_tensor(self._act_prob(k))
            stats["distill/coef"] = like.new_tensor(self._coef_now)
        return stats

    def describe(self) -> tuple[str, str, str]:
        """Return name, coefficient and hooks."""
        return (self.name, str(self.options.distillation_loss_coef), super().describe()[2])
