"""The one trainable policy: a pipeline of declared stages behind SB3's actor-critic contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.flat_adam import FlatAdam
from sb3_strl.common.segments import SINGLE_GROUP, ObsLayout, Segment
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.activations import get_activation_cls
from sb3_strl.policies.describe import describe_policy
from sb3_strl.policies.discriminator import AMPDiscriminator
from sb3_strl.policies.distributions import GaussianHead, make_action_head
from sb3_strl.policies.networks import MlpModel
from sb3_strl.policies.obs_sets import resolve_sets, select_segments
from sb3_strl.policies.options import check_parts, resolve_net_options
from sb3_strl.policies.stages import ObsReader, make_encoders

Obs = th.Tensor | TensorDict


class PolicyOutput(NamedTuple):
    """
    What one forward pass over a minibatch yields; B samples.

    :param params: parameters of the action distribution, ``(B, ...)`` or broadcastable to it
    :param values: ``(B,)``
    """

    params: TensorDict
    values: th.Tensor


class StrlPolicy(ActorCriticPolicy):
    r"""
    Actor-critic policy assembled from stages.

    ``segments -> normalise -> encoders per segment -> trunk -> distribution`` for the actor, the
    same with its own groups, statistics and trunk for the critic, and an optional discriminator
    beside them. A part exists if and only if its keyword is given, or the alias names it.

    :param observation_space: a Dict of groups, or any single space (the group ``"policy"``)
    :param action_space: Box, Discrete, MultiDiscrete or MultiBinary
    :param lr_schedule: learning rate as a function of the remaining progress
    :param net_arch: hidden widths, ``dict(pi=[...], vf=[...])`` or one list for both; default
        ``[256, 256, 256]``; an empty list makes a linear map
    :param activation: name or class of the hidden activation, default ``"elu"``
    :param activation_fn: SB3's name for ``activation``
    :param actor_hidden_dims: rsl_rl's name for ``net_arch["pi"]``
    :param critic_hidden_dims: rsl_rl's name for ``net_arch["vf"]``
    :param init_noise_std: initial standard deviation of the actions
    :param log_std_init: SB3's name for its logarithm
    :param noise_std_type: parameter is ``"log"`` or ``"scalar"`` standard deviation
    :param mu_activation: activation on the mean action, ``None`` for none
    :param ortho_init: orthogonal initialisation as in SB3 (gains sqrt 2, 0.01 for the mean, 1 for
        the value) instead of PyTorch's default
    :param obs_groups: groups of every set, e.g. ``{"actor": ["policy"], "critic": ["critic"]}``
    :param obs_segments: named columns, ``{group: {segment: shape}}`` or ``{segment: shape}``
    :param critic_obs_segments: the segments the critic reads, in order; names and shapes of
        segments of its groups. Default all of them
    :param empirical_normalization: normalise the observations with running statistics that are part
        of the policy; frozen during a rollout and the update on it
    :param normalizer_until: samples after which the statistics freeze, ``None`` for never
    :param encoder: keys of :class:`~sb3_strl.policies.stages.EncoderSpec`
    :param amp_discriminator: keys of :class:`~sb3_strl.policies.discriminator.DiscriminatorSpec`
    :param amp_input_dim: width M of the discriminator's input; ``None`` infers it from the ``amp``
        set
    :param normalize_images: divide uint8 images by 255
    :param optimizer_class: default :class:`~sb3_strl.common.flat_adam.FlatAdam`
    :param optimizer_kwargs: default ``{"eps": 1e-8, "fused": True}`` for Adam and AdamW
    :param use_sde: not supported
    :raises StrlTypeError: for a part that the alias does not name, or ``use_sde=True``
    :raises StrlValueError: for two different values of one thing
    :raises StrlKeyError: for an unknown group or segment
    """

    alias_parts: ClassVar[frozenset[str] | None] = None
    """Parts that the alias names; ``None`` leaves the choice to the keywords."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        activation: str | type[nn.Module] | None = None,
        activation_fn: type[nn.Module] | None = None,
        actor_hidden_dims: Sequence[int] | None = None,
        critic_hidden_dims: Sequence[int] | None = None,
        init_noise_std: float | None = None,
        log_std_init: float | None = None,
        noise_std_type: Literal["log", "scalar"] = "log",
        mu_activation: str | None = None,
        ortho_init: bool = False,
        obs_groups: Mapping[str, Sequence[str]] | None = None,
        obs_segments: Mapping[str, Any] | None = None,
        critic_obs_segments: Mapping[str, Any] | None = None,
        empirical_normalization: bool = False,
        normalizer_until: float | None = None,
        encoder: Mapping[str, Any] | None = None,
        amp_discriminator: Mapping[str, Any] | None = None,
        amp_input_dim: int | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = FlatAdam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        if use_sde:
            raise StrlTypeError(
                f"{type(self).__name__}: generalised state-dependent exploration (use_sde=True) is "
                "not supported. Use stable_baselines3.PPO for it, or leave use_sde out."
            )
        arguments = {
            key: value for key, value in locals().items() if key not in ("self", "__class__")
        }
        # ActorCriticPolicy's own constructor would build the networks of SB3's MlpPolicy.
        BasePolicy.__init__(
            self,
            observation_space,
            action_space,
            features_extractor_class=FlattenExtractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=_optimizer_defaults(optimizer_class, optimizer_kwargs),
        )
        self._arguments = {**arguments, "lr_schedule": self._dummy_schedule}
        self.use_sde = False
        self.net_options = resolve_net_options(
            net_arch=net_arch,
            actor_hidden_dims=actor_hidden_dims,
            critic_hidden_dims=critic_hidden_dims,
            activation=activation,
            activation_fn=activation_fn,
            init_noise_std=init_noise_std,
            log_std_init=log_std_init,
        )
        self.ortho_init = ortho_init
        self.encoder_spec, self.discriminator_spec = check_parts(
            type(self).__name__, self.alias_parts, encoder, amp_discriminator
        )
        self._set_layout(obs_groups or {}, obs_segments, critic_obs_segments)
        self._build_stages(empirical_normalization, normalizer_until, noise_std_type, mu_activation)
        self._build_discriminator(amp_input_dim)
        if ortho_init:
            self._orthogonal()
        make_optimizer: Any = optimizer_class
        self.optimizer = make_optimizer(
            self.ppo_parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    # ------------------------------------------------------------------ construction

    def _set_layout(
        self,
        obs_groups: Mapping[str, Sequence[str]],
        obs_segments: Mapping[str, Any] | None,
        critic_obs_segments: Mapping[str, Any] | None,
    ) -> None:
        name = type(self).__name__
        self.layout = ObsLayout(self.observation_space, obs_segments)
        self.obs_sets = resolve_sets(name, self.layout, obs_groups)
        self.actor_segments = self.layout.of(self.obs_sets["actor"], name)
        critic = self.obs_sets["critic"]
        self.critic_segments = self.layout.of(critic, name)
        if critic_obs_segments is not None:
            self.critic_segments = select_segments(self.layout, critic, critic_obs_segments)

    def _critic_encoders(self, actor: nn.ModuleDict) -> nn.ModuleDict:
        spec = self.encoder_spec
        if spec is None or spec.critic_component_names is None:
            return nn.ModuleDict()
        activation = self.net_options.activation
        if spec.critic_component_names != "shared":
            names = spec.critic_component_names
            return make_encoders(
                self.critic_segments,
                [names] if isinstance(names, str) else names,
                spec,
                activation,
                True,
            )
        mine = {segment.name: segment for segment in self.actor_segments}
        for name in actor:
            theirs = self.layout.find(
                name, self.obs_sets["critic"], "EncoderSpec: shared critic encoder"
            )
            if theirs.shape != mine[name].shape:
                raise StrlValueError(
                    f"EncoderSpec: segment '{name}' has shape {mine[name].shape} for the actor and "
                    f"{theirs.shape} for the critic, so they cannot share an encoder."
                )
        return actor

    def _build_stages(
        self,
        normalize: bool,
        until: float | None,
        noise_std_type: Literal["log", "scalar"],
        mu_activation: str | None,
    ) -> None:
        net, spec = self.net_options, self.encoder_spec
        encoders = nn.ModuleDict()
        if spec is not None:
            names = spec.component_names
            if names is None:
                every = [segment.name for segment in self.actor_segments]
                names = tuple(every[1:] or every)
            encoders = make_encoders(self.actor_segments, names, spec, net.activation)
        encode_normal = spec.normalize_images if spec is not None else False

        def reader(segments: Sequence[Segment], nets: nn.ModuleDict) -> ObsReader:
            return ObsReader(
                self.layout,
                segments,
                nets,
                normalize=normalize,
                normalizer_until=until,
                normalize_encoded_images=encode_normal,
                scale_images=self.normalize_images,
            )

        self.actor_reader = reader(self.actor_segments, encoders)
        self.critic_reader = reader(self.critic_segments, self._critic_encoders(encoders))
        self.action_head = make_action_head(self.action_space, net.init_noise_std, noise_std_type)
        self.actor = MlpModel(
            self.actor_reader.output_dim,
            list(net.pi),
            self.action_head.input_dim,
            net.activation,
            fuse=True,
        )
        self.mu_activation = get_activation_cls(mu_activation)() if mu_activation else None
        self.critic = MlpModel(
            self.critic_reader.output_dim, list(net.vf), 1, net.activation, fuse=True
        )

    def _build_discriminator(self, input_dim: int | None) -> None:
        self.discriminator: AMPDiscriminator | None = None
        if self.discriminator_spec is None:
            return
        inferred = None
        if "amp" in self.obs_sets:
            groups = [self.layout.spaces[group] for group in self.obs_sets["amp"]]
            inferred = sum(int(spaces.utils.flatdim(group)) for group in groups)
        if input_dim is not None and inferred is not None and input_dim != inferred:
            raise StrlValueError(
                f"{type(self).__name__}: amp_input_dim is {input_dim}, but the groups "
                f"{self.obs_sets['amp']} have {inferred} numbers. Leave amp_input_dim out."
            )
        width = input_dim if input_dim is not None else inferred
        if width is None:
            raise StrlKeyError(
                f"{type(self).__name__}: the discriminator reads the group 'ref_obs', but this "
                f"environment has: {list(self.layout.spaces)}. Name the groups to judge: "
                'policy_kwargs=dict(obs_groups={"amp": [...]}).'
            )
        self.discriminator = AMPDiscriminator(width, self.discriminator_spec)

    def _orthogonal(self) -> None:
        for reader in (self.actor_reader, self.critic_reader):
            for encoder in reader.encoders.values():
                encoder.apply(lambda module: self.init_weights(module, gain=np.sqrt(2)))
        for trunk, last_gain in ((self.actor, 0.01), (self.critic, 1.0)):
            linears = [module for module in trunk.modules() if isinstance(module, nn.Linear)]
            for linear in linears:
                self.init_weights(linear, gain=last_gain if linear is linears[-1] else np.sqrt(2))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(self._arguments)

    # ------------------------------------------------------------------ what algorithms use

    def ppo_parameters(self) -> list[nn.Parameter]:
        """Return every parameter but the discriminator's, which has its own optimizer."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("discriminator.")
        ]

    @property
    def log_std(self) -> th.Tensor | None:  # type: ignore[override]
        """Logarithm of the action noise ``(A,)``, ``None`` for discrete actions."""
        return self.action_head.log_std if isinstance(self.action_head, GaussianHead) else None

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups that acting and valuing read, each once."""
        return tuple(dict.fromkeys((*self.actor_reader.groups, *self.critic_reader.groups)))

    def as_groups(self, obs: Obs) -> TensorDict:
        """Return observations as a dict of groups."""
        return obs if isinstance(obs, dict) else {SINGLE_GROUP: obs}

    def action_params(self, obs: TensorDict) -> TensorDict:
        r"""Return the parameters of :math:`\pi(\cdot \mid o)` for groups ``(B, ...)``."""
        output: th.Tensor = self.actor(self.actor_reader(obs))
        if self.mu_activation is not None:
            output = self.mu_activation(output)
        return self.action_head.params(output)

    def values(self, obs: TensorDict) -> th.Tensor:
        """Return :math:`V(o)`, ``(B,)``."""
        value: th.Tensor = self.critic(self.critic_reader(obs))
        return value.squeeze(-1)

    def evaluate(self, obs: TensorDict) -> PolicyOutput:
        """Run actor and critic over a minibatch of groups ``(B, ...)``."""
        return PolicyOutput(self.action_params(obs), self.values(obs))

    def update_normalizers(self, obs: TensorDict) -> None:
        """Add the raw observations of a rollout to the running statistics of actor and critic."""
        self.actor_reader.update_normalizer(obs)
        self.critic_reader.update_normalizer(obs)

    def get_encoder_latent(self, obs: Obs, name: str, critic: bool = False) -> th.Tensor:
        """
        Return the latent ``(B, Z)`` of one encoded segment.

        :raises StrlKeyError: if the segment has no encoder
        """
        reader = self.critic_reader if critic else self.actor_reader
        return reader.latent(self.as_groups(obs), name)

    def describe(self) -> str:
        """Return a table of the stages: name, widths in and out, number of parameters."""
        return describe_policy(self)

    # ------------------------------------------------------------------ SB3's contract

    def _shape_actions(self, actions: th.Tensor) -> th.Tensor:
        return actions.reshape(-1, *(self.action_space.shape or ()))

    def _flat_actions(self, actions: th.Tensor) -> th.Tensor:
        return actions.flatten(1) if actions.ndim > 1 else actions

    def forward(
        self, obs: Obs, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Act and value.

        :return: actions ``(B, *action_shape)``, values ``(B, 1)``, log-probabilities ``(B,)``
        """
        groups = self.as_groups(obs)
        params = self.action_params(groups)
        actions = self._choose(params, deterministic)
        log_prob = self.action_head.log_prob(params, self._flat_actions(actions))
        return self._shape_actions(actions), self.values(groups).unsqueeze(-1), log_prob

    def _choose(self, params: TensorDict, deterministic: bool) -> th.Tensor:
        head = self.action_head
        if deterministic:
            return head.mode(params)
        first = next(iter(params.values()))
        return head.sample(params, head.draw_noise(first.shape[:-1], None, first.device))

    def _predict(self, observation: Obs, deterministic: bool = False) -> th.Tensor:
        params = self.action_params(self.as_groups(observation))
        return self._shape_actions(self._choose(params, deterministic))

    def evaluate_actions(
        self, obs: Obs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Evaluate given actions.

        :return: values ``(B, 1)``, log-probabilities ``(B,)``, entropies ``(B,)``
        """
        out, head = self.evaluate(self.as_groups(obs)), self.action_head
        log_prob = head.log_prob(out.params, self._flat_actions(actions))
        return out.values.unsqueeze(-1), log_prob, head.entropy(out.params)

    def get_distribution(self, obs: Obs) -> Distribution:
        """Return SB3's distribution object for the observations."""
        return self.action_head.distribution(self.action_params(self.as_groups(obs)))

    def predict_values(self, obs: Obs) -> th.Tensor:
        """Return values ``(B, 1)``."""
        return self.values(self.as_groups(obs)).unsqueeze(-1)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[np.ndarray, ...] | None]:
        """
        Return actions inside the bounds of the action space.

        NumPy in, NumPy out as in SB3; tensors in (a batch of observations, or a dict of them),
        tensors out, without leaving the device.
        """
        sample = next(iter(observation.values())) if isinstance(observation, dict) else observation
        if not isinstance(sample, th.Tensor):
            return super().predict(observation, state, episode_start, deterministic)
        self.set_training_mode(False)
        with th.no_grad():
            actions = self._predict(observation, deterministic)
        if isinstance(self.action_space, spaces.Box):
            low = th.as_tensor(self.action_space.low, device=actions.device)
            high = th.as_tensor(self.action_space.high, device=actions.device)
            actions = actions.clamp(low, high)
        return actions, state


def _optimizer_defaults(
    optimizer_class: type[th.optim.Optimizer], given: dict[str, Any] | None
) -> dict[str, Any]:
    if optimizer_class in (FlatAdam, th.optim.Adam, th.optim.AdamW):
        return {"eps": 1e-8, "fused": True, **(given or {})}
    return dict(given or {})
