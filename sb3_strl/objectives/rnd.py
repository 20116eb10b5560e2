"""Random network distillation: reward for seeing what was rarely seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch as th
from torch import nn

from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common import distributed
from sb3_strl.common.errors import StrlValueError, check_known
from sb3_strl.common.normalization import (
    EmpiricalDiscountedVariationNormalization,
    EmpiricalNormalization,
)
from sb3_strl.common.types import TensorDict
from sb3_strl.objectives.base import Context, Objective, RewardTerm, RolloutStep
from sb3_strl.policies.networks import MlpModel

NAME = "rnd"


@dataclass(frozen=True, kw_only=True)
class RNDOptions:
    """
    Options of :class:`RandomNetworkDistillation`.

    :param weight: scale of the intrinsic reward
    :param weight_schedule: ``"constant"``, ``"step"`` (``final_weight`` from ``final_step`` on) or
        ``"linear"`` (between ``initial_step`` and ``final_step``), in environment steps per
        environment
    :param final_weight: see above
    :param initial_step: see above
    :param final_step: see above
    :param num_outputs: width of both networks' output
    :param predictor_hidden_dims: hidden widths of the predictor, -1 for the input's width
    :param target_hidden_dims: hidden widths of the frozen target, -1 for the input's width
    :param activation: hidden activation
    :param learning_rate: of the predictor's own Adam
    :param state_normalization: normalise the input with running statistics
    :param reward_normalization: divide the reward by the running deviation of its discounted sum
    :param gamma: discount of that sum
    :param groups: observation groups that say what state it is, default those of the critic
    """

    weight: float = 1.0
    weight_schedule: Literal["constant", "step", "linear"] = "constant"
    final_weight: float = 0.0
    initial_step: int = 0
    final_step: int = 0
    num_outputs: int = 1
    predictor_hidden_dims: tuple[int, ...] = (-1,)
    target_hidden_dims: tuple[int, ...] = (-1,)
    activation: str = "elu"
    learning_rate: float = 1e-3
    state_normalization: bool = False
    reward_normalization: bool = False
    gamma: float = 0.99
    groups: tuple[str, ...] | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> RNDOptions:
        """
        Build from plain data.

        :raises StrlTypeError: on an unknown key
        """
        check_known("rnd_kwargs", "option", given, [item.name for item in fields(cls)])
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        return cls(**values)


class RandomNetworkDistillation(Objective):
    r"""
    Random network distillation (Burda et al. 2019, https://arxiv.org/abs/1810.12894).

    A predictor :math:`\hat f` learns the output of a frozen random network :math:`f`; where it
    still errs, the state is new:

    .. math:: r_{int} = w(k) \, \|f(x) - \hat f(x)\|_2, \quad L = \mathrm{mean} (\hat f - f)^2

    with :math:`x` the state after the step (terminal where the episode ended).

    :param options: see :class:`RNDOptions`
    """

    def __init__(self, options: RNDOptions) -> None:
        super().__init__(NAME)
        self.options = options
        self._stats: TensorDict = {}
        self._dim = 0
        self._learned: EmpiricalDiscountedVariationNormalization | None = None

    def setup(self, ctx: Context) -> None:
        """Build both networks, the optimizer and the normalisers."""
        options = self.options
        if options.weight_schedule not in ("constant", "step", "linear"):
            raise StrlValueError(
                f"rnd_kwargs: weight_schedule is {options.weight_schedule!r}. Known: ['constant', "
                "'step', 'linear']."
            )
        if options.weight_schedule == "linear" and options.final_step <= options.initial_step:
            raise StrlValueError(
                f"rnd_kwargs: final_step={options.final_step} must come after initial_step="
                f"{options.initial_step}."
            )
        self._groups: Sequence[str] = options.groups or ctx.policy.critic_reader.groups
        layout = ctx.policy.layout
        segments = layout.of(self._groups, "rnd_kwargs: groups")
        self._dim = sum(segment.size for segment in segments)
        self.modules = nn.ModuleDict(
            {
                "predictor": self._network(options.predictor_hidden_dims),
                "target": self._network(options.target_hidden_dims),
            }
        )
        self.modules["target"].requires_grad_(requires_grad=False)
        if options.state_normalization:
            self.modules["states"] = EmpiricalNormalization(self._dim)
        if options.reward_normalization:
            self.modules["rewards"] = EmpiricalDiscountedVariationNormalization(
                (), gamma=options.gamma
            )
        self.modules.to(ctx.device)
        self.optimizer = th.optim.Adam(
            self.modules["predictor"].parameters(), lr=options.learning_rate, fused=True
        )
        self.n_rollouts = th.zeros((), device=ctx.device, dtype=th.int64)
        self.modules.register_buffer("n_rollouts", self.n_rollouts)
        self._n_steps = ctx.n_steps

    def _network(self, hidden: Sequence[int]) -> MlpModel:
        widths = [self._dim if width == -1 else width for width in hidden]
        return MlpModel(self._dim, widths, self.options.num_outputs, self.options.activation)

    def buffer_fields(self) -> Mapping[str, FieldSpec]:
        """Return the field of states."""
        return {"rnd/states": FieldSpec((self._dim,))}

    def on_step(self, step: RolloutStep, buffer: RolloutBuffer) -> None:
        """Store the state after the step."""
        result = step.result
        states = self._flat(result.obs)
        if result.final_obs is not None:
            states = th.where(step.dones.unsqueeze(-1), self._flat(result.final_obs), states)
        buffer.put("rnd/states", states)

    def _flat(self, obs: TensorDict) -> th.Tensor:
        parts = [obs[group].flatten(1).float() for group in self._groups]
        return parts[0] if len(parts) == 1 else th.cat(parts, -1)

    def _errors(self, states: th.Tensor) -> th.Tensor:
        if "states" in self.modules:
            states = self.modules["states"](states)
        target: th.Tensor = self.modules["target"](states)
        predicted: th.Tensor = self.modules["predictor"](states)
        return predicted - target

    def weight(self) -> float:
        """Return :math:`w` for the current rollout."""
        options = self.options
        steps = int(self.modules.get_buffer("n_rollouts")) * self._n_steps
        if options.weight_schedule == "constant":
            return options.weight
        if options.weight_schedule == "step":
            return options.weight if steps < options.final_step else options.final_weight
        share = (steps - options.initial_step) / (options.final_step - options.initial_step)
        share = min(1.0, max(0.0, share))
        return options.weight + share * (options.final_weight - options.weight)

    @th.no_grad()
    def intrinsic_rewards(self, states: th.Tensor, dones: th.Tensor | None = None) -> th.Tensor:
        """
        Return :math:`r_{int}` without its weight.

        :param states: ``(n_steps, n_envs, dim)``, raw
        :param dones: ``(n_steps, n_envs)``; given, the reward normaliser learns
        """
        rewards: th.Tensor = self._errors(states).norm(dim=-1)
        normalizer = self.modules["rewards"] if self.options.reward_normalization else None
        if dones is None or not isinstance(normalizer, EmpiricalDiscountedVariationNormalization):
            return rewards
        # A file that a callback saves at the end of the rollout repeats that rollout, so what was
        # learned from it must not be in the file; start_update adopts it.
        learned = self._learned = deepcopy(normalizer)
        if learned.running is not None and learned.running.shape != dones.shape[1:]:
            learned.running = None  # loaded with another number of environments
        return th.stack([learned(row, done) for row, done in zip(rewards, dones, strict=True)])

    def reward_term(self, buffer: RolloutBuffer) -> RewardTerm:
        """Return the weighted intrinsic reward."""
        rewards = self.intrinsic_rewards(buffer["rnd/states"], buffer.dones)
        bonus = rewards * self.weight()
        self._stats = {"rnd/intrinsic_reward": bonus.mean()}
        return RewardTerm(1.0, bonus)

    @th.no_grad()
    def start_update(self, buffer: RolloutBuffer) -> None:
        """Let the normalisers learn, and count the rollout."""
        self.modules.get_buffer("n_rollouts").add_(1)
        if self._learned is not None:
            self.modules["rewards"], self._learned = self._learned, None
        normalizer = self.modules["states"] if self.options.state_normalization else None
        if isinstance(normalizer, EmpiricalNormalization):
            normalizer.update(buffer["rnd/states"].flatten(0, 1))

    def update(self, batch: RolloutBatch) -> None:
        """Take one step of the predictor's optimizer."""
        loss = self._errors(batch.extras["rnd/states"]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        distributed.mean_gradients_(self.modules["predictor"].parameters())
        self.optimizer.step()
        self._stats["rnd/loss"] = loss.detach()

    def stats(self) -> TensorDict:
        """Return the mean intrinsic reward and the last loss."""
        return dict(self._stats)

    def describe(self) -> tuple[str, str, str]:
        """Return name, weight and hooks."""
        return (
            self.name,
            f"{self.options.weight} ({self.options.weight_schedule})",
            super().describe()[2],
        )
