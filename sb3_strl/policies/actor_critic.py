"""The one trainable policy: a pipeline of declared stages behind SB3's actor-critic contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_strl.common.flat_adam import FlatAdam
from sb3_strl.common.memory_state import MemoryState, PolicyState
from sb3_strl.common.segments import ObsLayout
from sb3_strl.common.sequences import Sequences
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.action_head import ActionHead, mapped_params
from sb3_strl.policies.activations import get_activation_cls
from sb3_strl.policies.build import (
    build_discriminator,
    build_readers,
    initialise_orthogonally,
    last_linear,
    make_optimizer,
    optimizer_defaults,
)
from sb3_strl.policies.contract import Obs
from sb3_strl.policies.describe import describe_policy
from sb3_strl.policies.distributions import GaussianHead, make_action_head
from sb3_strl.policies.estimation import Estimator, EstimatorSpec
from sb3_strl.policies.extras import PolicyExtras
from sb3_strl.policies.memory import Memory, MemorySpec
from sb3_strl.policies.networks import MlpModel
from sb3_strl.policies.obs_sets import resolve_sets, select_segments
from sb3_strl.policies.options import refuse_sde, resolve_net_options, resolve_parts
from sb3_strl.policies.outputs import ActorOutput, PolicyOutput
from sb3_strl.policies.visual import encoder_specs


class StrlPolicy(PolicyExtras):
    r"""
    Actor-critic policy assembled from stages.

    ``segments -> adaptor and estimator substitution -> normalise -> encoders per segment -> memory
    -> trunk -> distribution`` for the actor; ``segments -> normalise -> encoders -> memory ->
    trunk -> value`` for the critic; and an optional discriminator beside them. A part exists if and
    only if its keyword is given, or the alias names it.

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
    :param noise_std_type: parameter is ``"log"`` (default) or ``"scalar"`` standard deviation
    :param distribution_class: ``"gaussian"``, ``"heteroscedastic"`` (the standard deviation depends
        on the state), rsl_rl's names for them, or a class
    :param distribution_kwargs: its further arguments, e.g. ``std_range``
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
    :param visual: keys of :class:`~sb3_strl.policies.visual.VisualSpec`
    :param rnn: keys of :class:`~sb3_strl.policies.memory.MemorySpec`
    :param estimator: keys of :class:`~sb3_strl.policies.estimation.EstimatorSpec`
    :param adaptor: the same for the privilege adaptor, which comes first
    :param deterministic: act with the mean
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
    alias_rnn: ClassVar[str | None] = None
    """Memory that the alias names."""

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
        noise_std_type: Literal["log", "scalar"] | None = None,
        distribution_class: str | type[ActionHead] = "gaussian",
        distribution_kwargs: Mapping[str, Any] | None = None,
        mu_activation: str | None = None,
        ortho_init: bool = False,
        obs_groups: Mapping[str, Sequence[str]] | None = None,
        obs_segments: Mapping[str, Any] | None = None,
        critic_obs_segments: Mapping[str, Any] | None = None,
        empirical_normalization: bool = False,
        normalizer_until: float | None = None,
        encoder: Mapping[str, Any] | None = None,
        visual: Mapping[str, Any] | None = None,
        rnn: Mapping[str, Any] | None = None,
        estimator: Mapping[str, Any] | None = None,
        adaptor: Mapping[str, Any] | None = None,
        deterministic: bool | None = None,
        amp_discriminator: Mapping[str, Any] | None = None,
        amp_input_dim: int | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = FlatAdam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        refuse_sde(type(self).__name__, use_sde)
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
            optimizer_kwargs=optimizer_defaults(optimizer_class, optimizer_kwargs),
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
        self.parts = resolve_parts(
            type(self).__name__,
            self.alias_parts,
            self.alias_rnn,
            encoder=encoder,
            visual=visual,
            rnn=rnn,
            estimator=estimator,
            adaptor=adaptor,
            deterministic=deterministic,
            amp_discriminator=amp_discriminator,
        )
        self.is_deterministic = self.parts.deterministic
        self._set_layout(obs_groups or {}, obs_segments, critic_obs_segments)
        self.action_head = make_action_head(
            action_space,
            self.net_options.init_noise_std,
            noise_std_type,
            distribution_class,
            distribution_kwargs,
        )
        self._build_stages(empirical_normalization, normalizer_until, mu_activation)
        self.discriminator = build_discriminator(
            type(self).__name__, self.layout, self.obs_sets, self.parts.amp, amp_input_dim
        )
        if ortho_init:
            readers = (self.actor_reader, self.critic_reader)
            initialise_orthogonally(readers, (self.actor, self.critic))
        self.action_head.init_output_layer(last_linear(self.actor))
        self.optimizer = make_optimizer(
            optimizer_class, self.ppo_parameters(), lr_schedule(1), self.optimizer_kwargs
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

    def _build_stages(
        self,
        normalize: bool,
        until: float | None,
        mu_activation: str | None,
    ) -> None:
        net, parts = self.net_options, self.parts
        self.encoder_specs = encoder_specs(parts, self.actor_segments, self.critic_segments)
        self.actor_reader, self.critic_reader = build_readers(
            self.layout,
            self.obs_sets,
            {"actor": self.actor_segments, "critic": self.critic_segments},
            self.encoder_specs,
            net.activation,
            normalize=normalize,
            normalizer_until=until,
            scale_images=self.normalize_images,
        )
        memory = None if parts.rnn is None else MemorySpec.from_dict(parts.rnn)
        self._build_estimators(memory, normalize)
        self.actor_memory: Memory | None = None
        self.critic_memory: Memory | None = None
        actor_dim, critic_dim = (r.output_dim for r in (self.actor_reader, self.critic_reader))
        if memory is not None:
            self.actor_memory = Memory(actor_dim, memory)
            actor_dim = memory.hidden_size
            if memory.critic:
                self.critic_memory = Memory(critic_dim, memory)
                critic_dim = memory.hidden_size
        self.actor = MlpModel(
            actor_dim, list(net.pi), self.action_head.input_dim, net.activation, fuse=True
        )
        self.mu_activation = get_activation_cls(mu_activation)() if mu_activation else None
        self.critic = MlpModel(critic_dim, list(net.vf), 1, net.activation, fuse=True)

    def _build_estimators(self, memory: MemorySpec | None, normalize: bool) -> None:
        self.estimators = nn.ModuleDict()
        for name, given in (("adaptor", self.parts.adaptor), ("estimator", self.parts.estimator)):
            if given is not None:
                self.estimators[name] = Estimator(
                    name,
                    EstimatorSpec.from_dict(name, given),
                    self.layout,
                    self.actor_reader,
                    self.obs_sets["critic"],
                    memory,
                    self.net_options.activation,
                    normalize,
                )

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

    def each_estimator(self) -> list[tuple[str, Estimator]]:
        """Return the adaptor and the estimator, those that exist, by name."""
        return [(name, cast("Estimator", module)) for name, module in self.estimators.items()]

    @property
    def is_recurrent(self) -> bool:
        """Whether acting or valuing needs a hidden state."""
        return bool(self._memories())

    def _memories(self) -> dict[str, Memory]:
        """Return the memories by their name in :class:`PolicyState`."""
        found = {"actor": self.actor_memory, "critic": self.critic_memory}
        found.update({name: estimator.memory for name, estimator in self.each_estimator()})
        return {name: memory for name, memory in found.items() if memory is not None}

    def initial_state(self, n_envs: int) -> PolicyState:
        """Return zeros for every memory, ``(L, n_envs, H)``."""
        memories = self._memories()
        return PolicyState(**{name: m.initial_state(n_envs) for name, m in memories.items()})

    def draw_masks(self, shape: Sequence[int], generator: th.Generator | None) -> TensorDict:
        """Decide where estimates replace observations, ``shape`` bool by estimator."""
        return {
            name: estimator.draw_mask(shape, generator)
            for name, estimator in self.each_estimator()
            if estimator.replaces
        }

    def reused_estimates(self) -> dict[str, Estimator]:
        """Return the estimators whose output in the rollout is what updates read, by name."""
        return {name: estimator for name, estimator in self.each_estimator() if estimator.reuses}

    def actor_pass(
        self,
        obs: TensorDict,
        state: PolicyState | None = None,
        batch_sizes: th.Tensor | None = None,
        masks: TensorDict | None = None,
        latents: TensorDict | None = None,
        keep_state: bool = True,
        stored: TensorDict | None = None,
    ) -> ActorOutput:
        r"""
        Run everything that leads to :math:`\pi(\cdot \mid o, h)`.

        :param obs: groups ``(B, ...)``: one step, or packed sequences
        :param state: hidden states before it, default zeros
        :param batch_sizes: of packed sequences, see :class:`~sb3_strl.policies.memory.Memory`
        :param masks: rows ``(B,)`` whose observations estimates replace; default as ``predict``
        :param latents: by segment, ``(B, Z)`` to use instead of running its encoder
        :param keep_state: whether anybody wants the states after sequences
        :param stored: by estimator, raw estimates ``(B, E)`` to read instead of those made here
        """
        raw = self.actor_reader.raw(obs)
        if state is None:
            state = self.initial_state(_count(raw, batch_sizes))
        new: dict[str, MemoryState | None] = {}
        estimates: TensorDict = {}
        for name, estimator in self.each_estimator():
            if estimator.spec.use_actor_rnn:
                continue
            normal = self.actor_reader.normalize(raw)
            before = state.adaptor if name == "adaptor" else state.estimator
            estimates[name], new[name] = estimator(normal, before, batch_sizes, keep_state)
            mask = estimator.inference_mask(len(raw)) if masks is None else masks.get(name)
            raw = estimator.splice(raw, estimates[name], mask, (stored or {}).get(name))
        features: th.Tensor = self.actor_reader(obs, raw, latents)
        if self.actor_memory is not None:
            assert state.actor is not None
            features, new["actor"] = self.actor_memory(
                features, state.actor, batch_sizes, keep_state
            )
            for name, estimator in self.each_estimator():
                if estimator.spec.use_actor_rnn:
                    estimates[name] = estimator.net(features)
        return ActorOutput(self._head(features), state.updated(new), estimates)

    def _head(self, features: th.Tensor) -> TensorDict:
        return mapped_params(self.action_head, self.actor(features), self.mu_activation)

    def critic_pass(
        self,
        obs: TensorDict,
        state: MemoryState | None = None,
        batch_sizes: th.Tensor | None = None,
        keep_state: bool = True,
    ) -> tuple[th.Tensor, MemoryState | None]:
        """
        Return values ``(B,)`` and the critic's hidden state.

        :param obs: groups ``(B, ...)``: one step, or packed sequences
        :param state: of the critic's memory, default zeros
        :param batch_sizes: of packed sequences
        :param keep_state: whether anybody wants the state after sequences
        """
        features: th.Tensor = self.critic_reader(obs)
        if self.critic_memory is not None:
            if state is None:
                state = self.critic_memory.initial_state(_count(features, batch_sizes))
            features, state = self.critic_memory(features, state, batch_sizes, keep_state)
        value: th.Tensor = self.critic(features)
        return value.squeeze(-1), state

    def action_params(self, obs: TensorDict) -> TensorDict:
        r"""Return the parameters of :math:`\pi(\cdot \mid o)` for groups ``(B, ...)``."""
        if self.estimators or self.actor_memory is not None:
            return self.actor_pass(obs).params
        return self._head(self.actor_reader(obs))

    def values(self, obs: TensorDict) -> th.Tensor:
        """Return :math:`V(o)`, ``(B,)``."""
        return self.critic_pass(obs)[0]

    def evaluate(
        self,
        obs: TensorDict,
        sequences: Sequences | None = None,
        masks: TensorDict | None = None,
        stored: TensorDict | None = None,
    ) -> PolicyOutput:
        """
        Run actor and critic over a minibatch of groups ``(B, ...)``.

        :param sequences: how rows follow one another, for a policy with memory
        :param masks: what replaced observations in the rollout
        :param stored: see :meth:`actor_pass`
        """
        if sequences is None and not self.estimators:
            return PolicyOutput(self.action_params(obs), self.values(obs), {})
        sizes = None if sequences is None else sequences.batch_sizes
        state = None if sequences is None else sequences.state
        actor = self.actor_pass(obs, state, sizes, masks, keep_state=False, stored=stored)
        before = None if state is None else state.critic
        values, _ = self.critic_pass(obs, before, sizes, keep_state=False)
        return PolicyOutput(actor.params, values, actor.estimates)

    def update_normalizers(self, obs: TensorDict) -> None:
        """Add the raw observations of a rollout to all running statistics."""
        self.actor_reader.update_normalizer(obs)
        self.critic_reader.update_normalizer(obs)
        for _, estimator in self.each_estimator():
            estimator.update_normalizer(obs)

    def estimate(self, obs: Obs, state: PolicyState | None = None) -> TensorDict:
        """
        Return what adaptor and estimator make of an observation.

        :param obs: groups ``(B, ...)``
        :param state: hidden states before it, default zeros
        :return: by estimator, ``(B, E)`` in the units of the observation
        """
        estimates = self.actor_pass(self.as_groups(obs), state).estimates
        return {name: e.raw(estimates[name]) for name, e in self.each_estimator()}

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


def _count(rows: th.Tensor, batch_sizes: th.Tensor | None) -> int:
    """Return how many hidden states a pass needs."""
    return len(rows) if batch_sizes is None else int(batch_sizes[0])
