"""What all families of action distributions have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch as th
from stable_baselines3.common.distributions import Distribution
from torch import nn

from sb3_strl.common.types import TensorDict


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
        r"""Return :math:`\log \pi(a)`, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def entropy(self, params: TensorDict) -> th.Tensor:
        """Return the entropy, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def kl(self, old: TensorDict, new: TensorDict) -> th.Tensor:
        r"""Return :math:`KL(old \| new)`, summed over action dimensions, ``(B,)``."""

    @abstractmethod
    def distribution(self, params: TensorDict) -> Distribution:
        """Return SB3's distribution object with these parameters."""

    def init_output_layer(self, linear: nn.Linear) -> None:
        """
        Initialise the part of the last linear layer that this family reads in its own way.

        Most families read all outputs alike, then nothing is to be done.

        :param linear: the last linear layer in front of the head, ``input_dim`` outputs
        """
        del linear

    def map_mean(self, output: th.Tensor, function: Callable[[th.Tensor], th.Tensor]) -> th.Tensor:
        """
        Apply a function to what becomes the mean, e.g. a bounding activation.

        :param output: of the network, ``(..., input_dim)``
        :param function: elementwise, keeps the shape
        :return: ``(..., input_dim)``
        """
        return function(output)


def mapped_params(
    head: ActionHead, output: th.Tensor, mu_activation: nn.Module | None
) -> TensorDict:
    """
    Return the parameters of a distribution whose mean passes an activation.

    :param head: of the policy
    :param output: of its network, ``(B, input_dim)``
    :param mu_activation: on the mean, ``None`` for none; for a hyperbolic tangent the result also
        has ``"pre_tanh"``, which still says which way back is where the mean saturates
    """
    if mu_activation is None:
        return head.params(output)
    params = head.params(head.map_mean(output, mu_activation))
    if isinstance(mu_activation, nn.Tanh):
        params["pre_tanh"] = head.mode(head.params(output))
    return params
