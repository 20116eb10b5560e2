"""Distributions over discrete actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import nn
from typing_extensions import override

from sb3_strl.common.types import TensorDict
from sb3_strl.policies.action_head import ActionHead


class CategoricalHead(ActionHead):
    r"""
    Independent categorical choices, for Discrete (one choice) and MultiDiscrete spaces.

    Sampling is the Gumbel-max trick with exponential noise: :math:`\arg\max_i l_i - \ln e_i`.

    :param sizes: number of options of every choice
    :param scalar: whether actions are ``(B,)`` (Discrete) instead of ``(B, n_choices)``
    :param starts: smallest value of every choice
    """

    def __init__(
        self, sizes: Sequence[int], scalar: bool, starts: Sequence[int] | None = None
    ) -> None:
        self.sizes = [int(size) for size in sizes]
        total = sum(self.sizes)
        super().__init__(total, {"logits": (total,)}, total)
        self.scalar = scalar
        self.starts = [int(start) for start in (starts or [0] * len(self.sizes))]

    @override
    def params(self, output: th.Tensor) -> TensorDict:
        parts = [part.log_softmax(-1) for part in output.split(self.sizes, dim=-1)]
        return {"logits": parts[0] if len(parts) == 1 else th.cat(parts, -1)}

    @override
    def draw_noise(
        self, shape: Sequence[int], generator: th.Generator | None, device: th.device
    ) -> th.Tensor:
        noise = th.empty((*shape, self.noise_dim), device=device)
        return noise.exponential_(generator=generator)

    def _argmax(self, scores: th.Tensor) -> th.Tensor:
        parts = scores.split(self.sizes, dim=-1)
        chosen = [part.argmax(-1) + start for part, start in zip(parts, self.starts, strict=True)]
        return chosen[0] if self.scalar else th.stack(chosen, -1)

    @override
    def sample(self, params: TensorDict, noise: th.Tensor) -> th.Tensor:
        return self._argmax(params["logits"] - noise.log())

    @override
    def mode(self, params: TensorDict) -> th.Tensor:
        return self._argmax(params["logits"])

    @override
    def log_prob(self, params: TensorDict, actions: th.Tensor) -> th.Tensor:
        choices = actions.long().reshape(-1, len(self.sizes))
        parts = params["logits"].split(self.sizes, dim=-1)
        total = [
            part.gather(-1, choices[:, i : i + 1] - self.starts[i]).squeeze(-1)
            for i, part in enumerate(parts)
        ]
        return total[0] if len(total) == 1 else th.stack(total).sum(0)

    @override
    def entropy(self, params: TensorDict) -> th.Tensor:
        return -(params["logits"].exp() * params["logits"]).sum(-1)

    @override
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        return (old["logits"].exp() * (old["logits"] - new["logits"])).sum(-1)

    @override
    def distribution(self, params: TensorDict) -> Distribution:
        if self.scalar:
            return CategoricalDistribution(self.sizes[0]).proba_distribution(params["logits"])
        return MultiCategoricalDistribution(self.sizes).proba_distribution(params["logits"])


class BernoulliHead(ActionHead):
    """
    Independent coins, for MultiBinary spaces.

    :param n_coins: number of binary action dimensions
    """

    def __init__(self, n_coins: int) -> None:
        super().__init__(n_coins, {"logits": (n_coins,)}, n_coins)

    @override
    def params(self, output: th.Tensor) -> TensorDict:
        return {"logits": output}

    @override
    def draw_noise(
        self, shape: Sequence[int], generator: th.Generator | None, device: th.device
    ) -> th.Tensor:
        return th.rand((*shape, self.noise_dim), generator=generator, device=device)

    @override
    def sample(self, params: TensorDict, noise: th.Tensor) -> th.Tensor:
        return (noise < params["logits"].sigmoid()).to(params["logits"].dtype)

    @override
    def mode(self, params: TensorDict) -> th.Tensor:
        return (params["logits"] > 0).to(params["logits"].dtype)

    @override
    def log_prob(self, params: TensorDict, actions: th.Tensor) -> th.Tensor:
        logits = params["logits"]
        return (actions.to(logits.dtype) * logits - nn.functional.softplus(logits)).sum(-1)

    @override
    def entropy(self, params: TensorDict) -> th.Tensor:
        logits = params["logits"]
        return (nn.functional.softplus(logits) - logits.sigmoid() * logits).sum(-1)

    @override
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        gap = old["logits"] - new["logits"]
        norm = nn.functional.softplus(new["logits"]) - nn.functional.softplus(old["logits"])
        return (old["logits"].sigmoid() * gap + norm).sum(-1)

    @override
    def distribution(self, params: TensorDict) -> Distribution:
        return BernoulliDistribution(self.input_dim).proba_distribution(params["logits"])
