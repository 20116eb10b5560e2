"""Diagonal Gaussian action distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from torch import nn
from typing_extensions import override

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.action_head import ActionHead

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_MIN_STD = 1e-6

StdType = Literal["log", "scalar"]
"""Whether a network or parameter holds the logarithm of the standard deviation or itself."""


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float | np.number)


def _is_pair(given: Any) -> bool:
    is_list = isinstance(given, Sequence | np.ndarray) and len(given) == 2
    return is_list and all(_is_number(limit) for limit in given)


class DiagonalGaussianHead(ActionHead):
    r"""
    Diagonal Gaussian; the subclass says where the standard deviation comes from.

    .. math:: a = \mu + \sigma \epsilon, \quad
        \log \pi(a) = \sum_j -\tfrac{1}{2} ((a_j - \mu_j) / \sigma_j)^2 - \ln \sigma_j -
        \tfrac{1}{2} \ln 2\pi

    :param input_dim: width of the network output that the head reads
    :param action_dim: number of action dimensions A
    :param init_noise_std: initial :math:`\sigma`
    :param noise_std_type: what is learnt, :math:`\ln \sigma` (``"log"``) or :math:`\sigma`
        (``"scalar"``)
    :param std_range: smallest and largest :math:`\sigma`; the smallest is at least 1e-6
    :raises StrlValueError: if the range is empty, ``init_noise_std`` is not positive or outside of
        it, or the type is unknown
    """

    def __init__(
        self,
        input_dim: int,
        action_dim: int,
        init_noise_std: float,
        noise_std_type: StdType,
        std_range: Sequence[float],
    ) -> None:
        super().__init__(input_dim, {"mean": (action_dim,), "std": (action_dim,)}, action_dim)
        where = type(self).__name__
        if not _is_number(init_noise_std) or not init_noise_std > 0:
            raise StrlValueError(
                f"{where}: init_noise_std is {init_noise_std!r}. It must be positive: pass a "
                "number such as 0.5."
            )
        if noise_std_type not in ("log", "scalar"):
            raise StrlValueError(
                f"{where}: noise_std_type is {noise_std_type!r}. Known types: ['log', 'scalar']."
            )
        if not _is_pair(std_range) or not max(std_range[0], _MIN_STD) < std_range[1]:
            raise StrlValueError(
                f"{where}: std_range is {std_range!r}. Expected two numbers, (smallest, largest), "
                f"the largest above {_MIN_STD} and above the smallest."
            )
        low, high = max(float(std_range[0]), _MIN_STD), float(std_range[1])
        if not low <= init_noise_std <= high:
            raise StrlValueError(
                f"{where}: init_noise_std is {init_noise_std}, but std_range is ({low}, {high}). "
                "Outside of the range the noise has no gradient: start inside of it."
            )
        self.action_dim = action_dim
        self.noise_std_type = noise_std_type
        self.std_range = (low, high)
        is_log = noise_std_type == "log"
        self._limits = (math.log(low), math.log(high)) if is_log else self.std_range
        self._start = math.log(init_noise_std) if is_log else init_noise_std

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"{self.action_dim}, {self.noise_std_type}, std_range={self.std_range}"

    def _to_std(self, raw: th.Tensor) -> th.Tensor:
        r"""Return :math:`\sigma` from what a network or parameter holds."""
        limited = raw.clamp(*self._limits)
        return limited.exp() if self.noise_std_type == "log" else limited

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
        norm = std.log().sum(-1) + self.action_dim * _HALF_LOG_2PI
        return scaled.square().sum(-1).mul(-0.5) - norm

    @override
    def entropy(self, params: TensorDict) -> th.Tensor:
        # With a state-independent std it is one number for all samples.
        entropy = params["std"].log().sum(-1) + self.action_dim * (0.5 + _HALF_LOG_2PI)
        return entropy.expand(params["mean"].shape[:-1])

    @override
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        variance = new["std"].square()
        shift = (old["std"].square() + (old["mean"] - new["mean"]).square()) / (2.0 * variance)
        return (th.log(new["std"] / old["std"]) + shift - 0.5).sum(-1)

    @override
    def distribution(self, params: TensorDict) -> Distribution:
        gaussian = DiagGaussianDistribution(self.action_dim)
        return gaussian.proba_distribution(params["mean"], params["std"].log())


class GaussianHead(DiagonalGaussianHead):
    r"""
    Diagonal Gaussian with a state-independent standard deviation.

    :param action_dim: number of action dimensions A
    :param init_noise_std: initial :math:`\sigma`
    :param noise_std_type: whether the parameter is :math:`\ln \sigma` (``"log"``) or
        :math:`\sigma` (``"scalar"``)
    :param std_range: smallest and largest :math:`\sigma`; the smallest is at least 1e-6
    :param learn_std: learn :math:`\sigma`; otherwise it stays as it is, and is no parameter
    :raises StrlValueError: if an option is out of its range
    """

    constant_params = ("std",)
    std_param: th.Tensor

    def __init__(
        self,
        action_dim: int,
        init_noise_std: float = 1.0,
        noise_std_type: StdType = "log",
        std_range: Sequence[float] = (1e-6, 1e6),
        learn_std: bool = True,
    ) -> None:
        super().__init__(action_dim, action_dim, init_noise_std, noise_std_type, std_range)
        start = th.full((action_dim,), self._start)
        if learn_std:
            self.std_param = nn.Parameter(start)
        else:
            self.register_buffer("std_param", start)

    @property
    def std(self) -> th.Tensor:
        """Standard deviation ``(A,)``."""
        return self._to_std(self.std_param)

    @property
    def log_std(self) -> th.Tensor:
        """Logarithm of the standard deviation ``(A,)``."""
        limited = self.std_param.clamp(*self._limits)
        return limited if self.noise_std_type == "log" else limited.log()

    @th.no_grad()
    def clip_std(self, min_std: th.Tensor) -> None:
        """Raise the standard deviation to at least ``min_std`` (scalar or ``(A,)``), in place."""
        self.std_param.clamp_(min=min_std.log() if self.noise_std_type == "log" else min_std)

    @override
    def params(self, output: th.Tensor) -> TensorDict:
        return {"mean": output, "std": self.std}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # rsl_rl has two names for what is one parameter here.
        theirs = prefix + "log_std_param"
        if self.noise_std_type == "log" and theirs in state_dict and isinstance(state_dict, dict):
            state_dict[prefix + "std_param"] = state_dict.pop(theirs)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class HeteroscedasticGaussianHead(DiagonalGaussianHead):
    r"""
    Diagonal Gaussian whose standard deviation depends on the state.

    The network has 2 A outputs: A means, then A times :math:`\ln \sigma` or :math:`\sigma`, which
    are limited to ``std_range``. At first :math:`\sigma` is ``init_noise_std`` in every state.

    :param action_dim: number of action dimensions A
    :param init_noise_std: initial :math:`\sigma`
    :param noise_std_type: whether the outputs are :math:`\ln \sigma` (``"log"``) or :math:`\sigma`
        (``"scalar"``)
    :param std_range: smallest and largest :math:`\sigma`; the smallest is at least 1e-6
    :raises StrlValueError: if an option is out of its range
    """

    def __init__(
        self,
        action_dim: int,
        init_noise_std: float = 1.0,
        noise_std_type: StdType = "log",
        std_range: Sequence[float] = (1e-6, 1e6),
    ) -> None:
        super().__init__(2 * action_dim, action_dim, init_noise_std, noise_std_type, std_range)

    @override
    def params(self, output: th.Tensor) -> TensorDict:
        """
        Turn network outputs into mean and standard deviation.

        :param output: ``(..., 2 A)`` or ``(..., 2, A)``
        :return: ``"mean"`` and ``"std"``, ``(..., A)`` each
        """
        mean, raw = self._rows(output).unbind(-2)
        return {"mean": mean, "std": self._to_std(raw)}

    def _rows(self, output: th.Tensor) -> th.Tensor:
        if output.shape[-1] != self.input_dim:
            return output
        return output.view(*output.shape[:-1], 2, self.action_dim)

    @override
    @th.no_grad()
    def init_output_layer(self, linear: nn.Linear) -> None:
        if linear.out_features != self.input_dim:
            raise StrlValueError(
                f"HeteroscedasticGaussianHead: the layer has {linear.out_features} outputs. "
                f"Expected {self.input_dim}: a mean and a standard deviation per action. Pass the "
                "last linear layer."
            )
        linear.weight[self.action_dim :].zero_()
        if linear.bias is None:
            raise StrlValueError(
                "HeteroscedasticGaussianHead: the layer has no bias. Expected one: it holds the "
                "initial standard deviation. Build the layer with bias=True."
            )
        linear.bias[self.action_dim :] = self._start

    @override
    def map_mean(self, output: th.Tensor, function: Callable[[th.Tensor], th.Tensor]) -> th.Tensor:
        mean, raw = self._rows(output).unbind(-2)
        return th.stack((function(mean), raw), -2).view_as(output)
