"""Adversarial motion prior: a style reward from a discriminator trained beside the policy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch as th

from sb3_strl.buffers.feature_replay import FeatureReplay
from sb3_strl.buffers.presets import ref_motion_fields
from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common import distributed
from sb3_strl.common.devices import n_bytes
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.envs.tensor_vec_env import TensorVecEnv
from sb3_strl.objectives.base import Context, Objective, RewardTerm, RolloutStep
from sb3_strl.objectives.expert import ExpertSource, NamedFeatures, resolve_expert
from sb3_strl.policies.discriminator import AMPDiscriminator

NAME = "amp"


@dataclass(frozen=True, kw_only=True)
class MotionPriorOptions:
    r"""
    Options of :class:`AdversarialMotionPrior`.

    :param discriminator_loss_coef: factor on expert, policy and penalty losses; 0 freezes the
        discriminator
    :param discriminator_learning_rate: of its own optimizer; ``None`` takes the policy's initial
        rate, which the adaptive schedule does not touch here
    :param discriminator_weight_decay: of trunk and head
    :param discriminator_max_grad_norm: bound on its gradient norm
    :param discriminator_batch_size: rows of either side, drawn with replacement from every
        minibatch, that the discriminator learns from; ``None``, or more than there are, for all
    :param discriminator_optimizer: ``"separate"``, or ``"joint"`` to add its loss to the policy's,
        as the literature's code often does; the policy's learning rate and gradient bound then hold
        for both, and nothing decays
    :param amp_replay_size: rows of past policy features to mix in; 0 for none
    :param expert_source: ``"env"`` for the group of the ``expert`` set, a
        :class:`~sb3_strl.data.MotionLibrary`, or any :class:`~sb3_strl.objectives.ExpertSource`
    :param mimic_reward_coef: :math:`r \mathrel{-}= c \|\hat x - \hat e\|_2`, for channels that
        are aligned in time
    """

    discriminator_loss_coef: float = 1.0
    discriminator_learning_rate: float | None = None
    discriminator_weight_decay: tuple[float, float] = (0.0, 0.0)
    discriminator_max_grad_norm: float = 1.0
    discriminator_batch_size: int | None = None
    discriminator_optimizer: Literal["separate", "joint"] = "separate"
    amp_replay_size: int = 0
    expert_source: object = "env"
    mimic_reward_coef: float = 0.0


class AdversarialMotionPrior(Objective):
    r"""
    Reward motion that a discriminator takes for the expert's (Peng et al. 2021,
    https://arxiv.org/abs/2104.02180).

    The features of a step are those *after* it, of the terminal observation where the episode
    ended; windows that span a reset are not valid: they train nothing and earn no style reward. The
    reward is

    .. math:: r = \lambda \, r_{task} + (1 - \lambda) \, r_{style}(D(\hat x))

    with the discriminator as it was *before* it saw the rollout, and one normaliser for both sides
    that learns at the start of every update and is frozen otherwise.

    :param options: see :class:`MotionPriorOptions`
    """

    loss_reads_policy: ClassVar[bool] = False
    discriminator: AMPDiscriminator
    optimizer: th.optim.Optimizer

    def __init__(self, options: MotionPriorOptions) -> None:
        super().__init__(NAME)
        self.options = options
        self.replay: FeatureReplay | None = None
        self._feature_dim = 0

    # ------------------------------------------------------------------ construction

    def setup(self, ctx: Context) -> None:
        """Bind to the policy's discriminator and to the source of expert features."""
        discriminator = ctx.policy.discriminator
        if discriminator is None:
            raise StrlTypeError(
                f"APPO: the policy {type(ctx.policy).__name__} has no discriminator. Use a policy "
                "whose name has 'Amp', e.g. 'AmpPolicy' or 'EncoderAmpPolicy'."
            )
        self.discriminator = discriminator
        self.generator = ctx.generator
        self._feature_dim = discriminator.input_dim
        self._groups: Sequence[str] = ctx.policy.obs_sets.get("amp", ())
        self._expert_groups: Sequence[str] = ctx.policy.obs_sets.get("expert", ())
        self._check_options()
        self._source: ExpertSource | None = None
        rate = self.options.discriminator_learning_rate
        trunk_decay, head_decay = self.options.discriminator_weight_decay
        self.optimizer = th.optim.Adam(
            [
                {"params": list(discriminator.trunk.parameters()), "weight_decay": trunk_decay},
                {"params": list(discriminator.head.parameters()), "weight_decay": head_decay},
            ],
            lr=ctx.learning_rate if rate is None else rate,
            fused=True,
        )
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.options.discriminator_optimizer == "joint":
            joint = ctx.policy.optimizer
            shared = joint.param_groups[0]["lr"]
            shared = shared.clone() if isinstance(shared, th.Tensor) else shared
            joint.add_param_group({"params": self._parameters, "lr": shared})
        size = self.options.amp_replay_size
        self.replay = FeatureReplay(self._feature_dim, max(size, 1), ctx.device, seed=0)
        self._previous: th.Tensor | None = None
        self._sums: th.Tensor | None = None
        self._n_updates = 0
        self._rewards: TensorDict = {}

    def _check_options(self) -> None:
        options = self.options
        for name, value in (
            ("discriminator_loss_coef", options.discriminator_loss_coef),
            ("amp_replay_size", options.amp_replay_size),
            ("mimic_reward_coef", options.mimic_reward_coef),
        ):
            if value < 0:
                raise StrlValueError(f"APPO: {name} is {value}. It must not be negative.")
        size = options.discriminator_batch_size
        if size is not None and size < 1:
            raise StrlValueError(
                f"APPO: discriminator_batch_size is {size}. It must be positive, or None for all "
                "rows of a minibatch."
            )
        if options.discriminator_optimizer not in ("separate", "joint"):
            raise StrlValueError(
                f"APPO: discriminator_optimizer is {options.discriminator_optimizer!r}. Known: "
                "['separate', 'joint']."
            )
        self._check_joint()
        if self.discriminator.spec.task_reward_lerp == 0.0:
            warnings.warn(
                "APPO: task_reward_lerp is 0, so the task reward is discarded and only style "
                "counts. "
                "Set policy_kwargs=dict(amp_discriminator=dict(task_reward_lerp=0.5)) to mix them.",
                stacklevel=2,
            )

    def _check_joint(self) -> None:
        """Warn of what only an optimizer of its own would heed."""
        options, defaults = self.options, MotionPriorOptions()
        if options.discriminator_optimizer != "joint":
            return
        rate, decay = options.discriminator_learning_rate, options.discriminator_weight_decay
        bound = options.discriminator_max_grad_norm
        unheard = {
            "discriminator_learning_rate": (rate, defaults.discriminator_learning_rate),
            "discriminator_weight_decay": (tuple(decay), defaults.discriminator_weight_decay),
            "discriminator_max_grad_norm": (bound, defaults.discriminator_max_grad_norm),
        }
        for name, (value, default) in unheard.items():
            if value != default:
                warnings.warn(
                    f"APPO: {name} is {value}, but discriminator_optimizer='joint' steps with the "
                    f"policy's optimizer, which does not heed it. Leave it at {default}, or use "
                    "discriminator_optimizer='separate'.",
                    stacklevel=2,
                )

    def bind(self, env: TensorVecEnv) -> None:
        """Find the features of both sides in an environment, and compare their names and widths."""
        source = resolve_expert(self.options.expert_source, env, self._groups)
        available = group_spaces(env.observation_space)
        if not self._groups:
            raise StrlKeyError(
                "APPO: there is no group 'ref_obs' with the features to judge. This environment "
                "has: "
                f'{list(available)}. Name the groups: policy_kwargs=dict(obs_groups={{"amp": '
                "[...]})."
            )
        names = env.feature_names or {}
        own = [name for group in self._groups for name in names.get(group, [])]
        if source is None:
            if not self._expert_groups:
                raise StrlKeyError(
                    "APPO: there is no group 'ref_motion' with the expert's features. This "
                    f"environment has: {list(available)}. Pass "
                    "expert_source=MotionLibrary(...), or "
                    'policy_kwargs=dict(obs_groups={"expert": [...]}).'
                )
            expert = [name for group in self._expert_groups for name in names.get(group, [])]
            width = sum(_width(available[group].shape) for group in self._expert_groups)
        else:
            expert = list(source.feature_names) if isinstance(source, NamedFeatures) else []
            sample = source.sample_features(2, None)
            width = int(sample.shape[-1])
        if width != self._feature_dim:
            raise StrlValueError(
                f"APPO: the policy's features have {self._feature_dim} numbers per window and the "
                f"expert's {width}. They must be the same features over the same number of frames."
            )
        if own and expert and own != expert:
            raise StrlValueError(_name_difference(own, expert))
        self._source = source

    def buffer_fields(self) -> Mapping[str, FieldSpec]:
        """Return the fields of both sides."""
        return ref_motion_fields(self._feature_dim)

    # ------------------------------------------------------------------ collecting

    def on_step(self, step: RolloutStep, buffer: RolloutBuffer) -> None:
        """
        Store the features after the step, of the terminal observation where the episode
        ended.
        """
        result = step.result
        features = self._flat(result.obs, self._groups)
        expert = self._flat(result.obs, self._expert_groups) if self._uses_env else None
        valid = result.extras.get("amp_valid")
        valid = th.ones_like(step.dones) if valid is None else valid.to(step.dones.device)
        expert_valid = th.ones_like(step.dones)
        ended = step.dones.unsqueeze(-1)
        if result.final_obs is not None:
            features = th.where(ended, self._flat(result.final_obs, self._groups), features)
            if expert is not None:
                expert = th.where(ended, self._flat(result.final_obs, self._expert_groups), expert)
        else:
            # What the robot looked like when it fell is not known, and the next episode's first
            # frame is not it.
            valid = valid & ~step.dones
            expert_valid = ~step.dones
        buffer.put("amp/features", features)
        buffer.put("amp/valid", valid)
        if expert is not None:
            buffer.put("amp/expert", expert)
            buffer.put("amp/expert_valid", expert_valid)

    @property
    def _uses_env(self) -> bool:
        return self._source is None

    @staticmethod
    def _flat(obs: TensorDict, groups: Sequence[str]) -> th.Tensor:
        parts = [obs[group].flatten(1) for group in groups]
        return parts[0] if len(parts) == 1 else th.cat(parts, -1)

    @th.no_grad()
    def reward_term(self, buffer: RolloutBuffer) -> RewardTerm:
        """Return the mixture of style and task reward."""
        features, valid = buffer["amp/features"], buffer["amp/valid"]
        if not self._uses_env:
            self._draw_expert(buffer)
        style = self.discriminator.style_reward(features.flatten(0, 1)).view(valid.shape)
        style = style * valid
        lerp = self.discriminator.spec.task_reward_lerp
        bonus = style * (1.0 - lerp)
        task = buffer["rewards"]
        gap = self._mimic_distance(buffer)
        if self.options.mimic_reward_coef > 0.0:
            bonus = bonus - self.options.mimic_reward_coef * gap * valid
        count = valid.sum().clamp_min(1)
        self._rewards = {
            "amp/style_reward": style.sum() / count,
            "amp/task_reward": task.mean(),
            "amp/mixed_reward": (lerp * task + bonus).mean(),
            "amp/mimic_distance": (gap * valid).sum() / count,
            "amp/valid_fraction": valid.float().mean(),
        }
        return RewardTerm(lerp, bonus)

    def _draw_expert(self, buffer: RolloutBuffer) -> None:
        source = self._source
        assert source is not None
        field = buffer["amp/expert"]
        drawn = source.sample_features(buffer.buffer_size * buffer.n_envs, self.generator)
        field.copy_(drawn.view(field.shape))
        buffer["amp/expert_valid"].fill_(True)

    def _mimic_distance(self, buffer: RolloutBuffer) -> th.Tensor:
        normalize = self.discriminator.normalize
        gap = normalize(buffer["amp/features"]) - normalize(buffer["amp/expert"])
        distance: th.Tensor = gap.norm(dim=-1)
        return distance

    def memory(self) -> Mapping[str, int]:
        """Return the bytes of the replay and of the two moments of the own optimizer."""
        is_separate = self.options.discriminator_optimizer == "separate"
        return {
            "replay": 0 if self.replay is None else self.replay.n_bytes,
            "optimizer": 2 * n_bytes(self._parameters) if is_separate else 0,
        }

    # ------------------------------------------------------------------ updating

    @th.no_grad()
    def start_update(self, buffer: RolloutBuffer) -> None:
        """Let the shared normaliser learn from both sides, and the replay from the policy's."""
        features = buffer["amp/features"].flatten(0, 1)
        valid = buffer["amp/valid"].flatten()
        expert = buffer["amp/expert"].flatten(0, 1)
        expert_valid = buffer["amp/expert_valid"].flatten()
        self.discriminator.update_normalizer(features, expert, valid, expert_valid)
        if self.options.amp_replay_size and self.replay is not None:
            self.replay.insert(features, valid)
        self._sums = None
        self._n_updates = 0

    def loss(self, batch: RolloutBatch, out: Any) -> th.Tensor | None:
        """Return the discriminator's loss if it shares the policy's optimizer."""
        del out
        if self.options.discriminator_optimizer == "separate":
            return None
        return self._losses(batch)

    def update(self, batch: RolloutBatch) -> None:
        """Take one step of the discriminator's own optimizer."""
        if self.options.discriminator_optimizer == "joint":
            return
        total = self._losses(batch)
        if self.options.discriminator_loss_coef == 0.0:
            return
        self.optimizer.zero_grad()
        total.backward()
        distributed.mean_gradients_(self._parameters)
        th.nn.utils.clip_grad_norm_(self._parameters, self.options.discriminator_max_grad_norm)
        self.optimizer.step()

    def _losses(self, batch: RolloutBatch) -> th.Tensor:
        features, valid, expert, expert_valid = self._rows(batch.extras)
        if self.options.amp_replay_size and self.replay is not None:
            half = len(features) // 2
            past = self.replay.sample(len(features) - half, self.generator)
            features = th.cat([features[:half], past])
            is_filled = (self.replay.count > 0).expand(len(past))
            valid = th.cat([valid[:half], is_filled])
        losses = self.discriminator.losses(
            features, expert, valid, expert_valid, coef=self.options.discriminator_loss_coef
        )
        stats = th.stack([*losses._replace(total=losses.total.detach())])
        self._sums = stats if self._sums is None else self._sums.add_(stats)
        self._stat_names = losses._fields
        self._n_updates += 1
        return losses.total

    def _rows(self, extras: TensorDict) -> list[th.Tensor]:
        """Return features and validity of both sides, in as many rows as the options say."""
        sides = [extras[f"amp/{name}"] for name in ("features", "valid", "expert", "expert_valid")]
        size, n_rows = self.options.discriminator_batch_size, len(sides[0])
        if size is None or size >= n_rows:
            return sides
        # One draw for both sides: no loss pairs their rows.
        rows = th.randint(n_rows, (size,), generator=self.generator, device=sides[0].device)
        return [side.index_select(0, rows) for side in sides]

    # ------------------------------------------------------------------ reporting

    def stats(self) -> TensorDict:
        """Return rewards of the last rollout and losses of the last update."""
        stats = dict(self._rewards)
        if self._sums is not None:
            means = (self._sums / self._n_updates).unbind()
            stats.update(
                {_LOG_KEYS[name]: mean for name, mean in zip(self._stat_names, means, strict=True)}
            )
        return stats

    def describe(self) -> tuple[str, str, str]:
        """Return name, coefficient and hooks."""
        return (self.name, str(self.options.discriminator_loss_coef), super().describe()[2])


_LOG_KEYS = {
    "expert_loss": "amp/discriminator_expert_loss",
    "policy_loss": "amp/discriminator_policy_loss",
    "grad_pen": "amp/discriminator_grad_pen_loss",
    "total": "amp/discriminator_loss",
    "expert_logit": "amp/expert_logit",
    "policy_logit": "amp/policy_logit",
    "expert_accuracy": "amp/expert_accuracy",
    "policy_accuracy": "amp/policy_accuracy",
    "grad_norm": "amp/grad_norm",
}


def _name_difference(own: Sequence[str], expert: Sequence[str]) -> str:
    pairs = enumerate(zip(own, expert, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), None)
    if first is None:
        return (
            f"APPO: the policy has {len(own)} named features per frame and the expert "
            f"{len(expert)}. Name the same features, in the same order, on both sides: {own}."
        )
    return (
        f"APPO: the features of policy and expert are in a different order: number {first} is "
        f"'{own[first]}' for the policy and '{expert[first]}' for the expert. The order of names "
        "is the contract: sort one of them."
    )


def _width(shape: tuple[int, ...] | None) -> int:
    size = 1
    for length in shape or ():
        size *= int(length)
    return size
