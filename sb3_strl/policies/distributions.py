"""
Action distributions as pure functions of their parameters.

PyTorch's and SB3's distribution objects validate, broadcast and allocate on every call. The heads
here hold the few equations a policy gradient needs, take the random numbers from outside (so that a
rollout draws them once, in one block) and never copy anything to the host.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn
from typing_extensions import override

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_MIN_STD = 1e-6


class ActionHead(nn.Module):
    r"""
    A family of distributions :math:`\pi(a \mid \theta)`.

    The parameters travel as a dict of tensors, the fields that a rollout stores.

    :param input_dim: width of the network output that the head reads
    :param param_shapes: shape of every parameter per sample
    :param noise_dim: random numbers needed per sample
    """

    constant_params: tuple[str, ...] = ()
    """Parameters that do not depend on the observation, without batch dimension."""

    def __init__(
        self, input_dim: int, param_shapes: dict[str, tuple[int, ...]], noise_dim: int
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.param_shapes = param_shapes
        self.noise_dim = noise_dim

    @abstractmethod
    def params(self, output: th.Tensor) -> TensorDict:
        """Turn network outputs ``(B, input_dim)`` into parameters."""

    @abstractmethod
    def draw_noise(
        self, shape: Sequence[int], generator: th.Generator | None, device: th.device
    ) -> th.Tensor:
        """Draw the random numbers ``(*shape, noise_dim)`` that :meth:`sample` consumes."""

    @abstractmethod
    def sample(self, params: TensorDict, noise: th.Tensor) -> th.Tensor:
        """Return actions ``(B, *action_shape)``."""

    @abstractmethod
    def mode(self, params: TensorDict) -> th.Tensor:
        """Return the most likely actions ``(B, *action_shape)``."""

    @abstractmethod
    def log_prob(self, params: TensorDict, actions: th.Tensor) -> th.Tensor:
        r"""Return :math:`\\log \\pi(a)`, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def entropy(self, params: TensorDict) -> th.Tensor:
        """Return the entropy, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        r"""Return :math:`KL(old \\| new)`, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def distribution(self, params: TensorDict) -> Distribution:
        """Return SB3's distribution object with these parameters."""


class GaussianHead(ActionHead):
    r"""
    Diagonal Gaussian with a state-independent standard deviation.

    .. math:: a = \mu + \sigma \epsilon, \quad
        \log \pi(a) = \sum_j -\tfrac{1}{2} ((a_j - \mu_j) / \sigma_j)^2 - \ln \sigma_j -
        \tfrac{1}{2} \ln 2\pi

    :param action_dim: number of action dimensions A
    :param init_noise_std: initial :math:`\sigma`
    :param noise_std_type: whether the parameter is :math:`\ln \sigma` (``"log"``) or
        :math:`\sigma` (``"scalar"``, kept at or above 1e-6)
    :raises StrlValueError: if ``init_noise_std`` is not positive or the type is unknown
    """

    constant_params = ("std",)

    def __init__(
        self,
        action_dim: int,
        init_noise_std: float = 1.0,
        noise_std_type: Literal["log", "scalar"] = "log",
    ) -> None:
        super().__init__(action_dim, {"mean": (action_dim,), "std": (action_dim,)}, action_dim)
        if not init_noise_std > 0:
            raise StrlValueError(
                f"GaussianHead: init_noise_std is {init_noise_std}. It must be positive."
            )
        if noise_std_type not in ("log", "scalar"):
            raise StrlValueError(
                f"GaussianHead: noise_std_type is {noise_std_type!r}. Known types: ['log', "
                "'scalar']."
            )
        self.noise_std_type = noise_std_type
        start = math.log(init_noise_std) if noise_std_type == "log" else init_noise_std
        self.std_param = nn.Parameter(th.full((action_dim,), start))

    @property
    def std(self) -> th.Tensor:
        """Standard deviation ``(A,)``."""
        if self.noise_std_type == "log":
            return self.std_param.exp()
        return self.std_param.clamp_min(_MIN_STD)

    @property
    def log_std(self) -> th.Tensor:
        """Logarithm of the standard deviation ``(A,)``."""
        return self.std_param if self.noise_std_type == "log" else self.std.log()

    @th.no_grad()
    def clip_std(self, min_std: th.Tensor) -> None:
        """Raise the standard deviation to at least ``min_std`` (scalar or ``(A,)``), in place."""
        self.std_param.clamp_(min=min_std.log() if self.noise_std_type == "log" else min_std)

    @override
    def params(self, output: th.Tensor) -> TensorDict:
        return {"mean": output, "std": self.std}

    @override
    def draw_noise(
        self, shape: Sequence[int], generator: th.Generator | None, device: th.device
    ) -> th.Tensor:
        return th.randn((*shape, self.noise_dim), generator=generator, device=device)

    @override
    def sample(self, params: TensorDict, noise: th.Tensor) -> th.Tensor:
        return th.addcmul(params["mean"], params["std"], noise)

    @override
    def mode(self, params: TensorDict) -> th.Tensor:
        return params["mean"]

    @override
    def log_prob(self, params: TensorDict, actions: th.Tensor) -> th.Tensor:
        std = params["std"]
        scaled = (actions - params["mean"]) / std
        norm = std.log().sum(-1) + self.input_dim * _HALF_LOG_2PI
        return scaled.square().sum(-1).mul(-0.5) - norm

    @override
    def entropy(self, params: TensorDict) -> th.Tensor:
        # One number for all samples, because std does not depend on the state.
        entropy = params["std"].log().sum(-1) + self.input_dim * (0.5 + _HALF_LOG_2PI)
        return entropy.expand(params["mean"].shape[:-1])

    @override
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        variance = new["std"].square()
        shift = (old["std"].square() + (old["mean"] - new["mean"]).square()) / (2.0 * variance)
        return (th.log(new["std"] / old["std"]) + shift - 0.5).sum(-1)

    @override
    def distribution(self, params: TensorDict) -> Distribution:
        gaussian = DiagGaussianDistribution(self.input_dim)
        return gaussian.proba_distribution(params["mean"], params["std"].log())


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


def make_action_head(
    action_space: spaces.Space[Any],
    init_noise_std: float = 1.0,
    noise_std_type: Literal["log", "scalar"] = "log",
) -> ActionHead:
    """
    Return the head that fits an action space.

    :raises StrlTypeError: if the space is not Box, Discrete or one-dimensional MultiDiscrete or
        MultiBinary
    """
    if isinstance(action_space, spaces.Box):
        return GaussianHead(int(get_action_dim(action_space)), init_noise_std, noise_std_type)
    if isinstance(action_space, spaces.Discrete):
        return CategoricalHead([int(action_space.n)], scalar=True, starts=[int(action_space.start)])
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        starts = [int(start) for start in action_space.start]
        return CategoricalHead([int(n) for n in action_space.nvec], scalar=False, starts=starts)
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) == 1:
        return BernoulliHead(int(action_space.shape[0]))
    raise StrlTypeError(
        f"Policy: the action space {action_space} is not supported. Known: Box, Discrete and "
        "one-dimensional MultiDiscrete and MultiBinary. Flatten the actions in a wrapper."
    )
