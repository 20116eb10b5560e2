"""Making a policy's stages from their descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.common.flat_adam import FlatAdam
from sb3_strl.common.segments import ObsLayout, Segment
from sb3_strl.policies.discriminator import AMPDiscriminator, DiscriminatorSpec
from sb3_strl.policies.stages import EncoderSpec, ObsReader, make_encoders


def build_readers(
    layout: ObsLayout,
    obs_sets: Mapping[str, Sequence[str]],
    segments: Mapping[str, tuple[Segment, ...]],
    specs: Sequence[EncoderSpec],
    activation: type[nn.Module],
    **options: Any,
) -> tuple[ObsReader, ObsReader]:
    """
    Return the readers of actor and critic with their encoders.

    :param layout: the environment's layout
    :param obs_sets: groups by set
    :param segments: what ``"actor"`` and ``"critic"`` read
    :param specs: which segments are encoded
    :param activation: default activation
    :param options: the same for both, see :class:`~sb3_strl.policies.stages.ObsReader`
    """
    actor, critic, normalized = nn.ModuleDict(), nn.ModuleDict(), set[str]()
    named = [name for spec in specs for name in spec.component_names or ()]
    for spec in specs:
        names = spec.component_names
        if names is None:
            every = [s.name for s in segments["actor"]]
            names = tuple(name for name in every[1:] or every if name not in named)
        mine = make_encoders(segments["actor"], names, spec, activation)
        actor.update(dict(mine.items()))
        theirs = _critic_encoders(layout, obs_sets["critic"], segments, spec, mine, activation)
        critic.update(dict(theirs.items()))
        if spec.normalize_images:
            normalized.update((*mine, *theirs))

    def reader(which: str, encoders: nn.ModuleDict) -> ObsReader:
        return ObsReader(layout, segments[which], encoders, normalized=normalized, **options)

    return reader("actor", actor), reader("critic", critic)


def _critic_encoders(
    layout: ObsLayout,
    critic_groups: Sequence[str],
    segments: Mapping[str, tuple[Segment, ...]],
    spec: EncoderSpec,
    actor: nn.ModuleDict,
    activation: type[nn.Module],
) -> nn.ModuleDict:
    names = spec.critic_component_names
    if names is None:
        return nn.ModuleDict()
    if names != "shared":
        listed = (names,) if isinstance(names, str) else names
        return make_encoders(segments["critic"], listed, spec, activation, True)
    mine = {segment.name: segment for segment in segments["actor"]}
    for name in actor:
        theirs = layout.find(name, critic_groups, "EncoderSpec: shared critic encoder")
        if theirs.shape != mine[name].shape:
            raise StrlValueError(
                f"EncoderSpec: segment '{name}' has shape {mine[name].shape} for the actor and "
                f"{theirs.shape} for the critic, so they cannot share an encoder."
            )
    return actor


def build_discriminator(
    policy: str,
    layout: ObsLayout,
    obs_sets: Mapping[str, Sequence[str]],
    given: Mapping[str, Any] | None,
    input_dim: int | None,
) -> AMPDiscriminator | None:
    """
    Return the discriminator.

    :param policy: name of the policy, for messages
    :param given: keys of its :class:`~sb3_strl.policies.discriminator.DiscriminatorSpec`, ``None``
        for no discriminator
    :param input_dim: its input width; ``None`` infers it from the ``amp`` set
    :raises StrlKeyError: if nothing says what it reads
    :raises StrlValueError: if two things say it differently
    """
    if given is None:
        return None
    inferred = None
    if "amp" in obs_sets:
        groups = [layout.spaces[group] for group in obs_sets["amp"]]
        inferred = sum(int(spaces.utils.flatdim(group)) for group in groups)
    if input_dim is not None and inferred is not None and input_dim != inferred:
        raise StrlValueError(
            f"{policy}: amp_input_dim is {input_dim}, but the groups {obs_sets['amp']} have "
            f"{inferred} numbers. Leave amp_input_dim out."
        )
    width = input_dim if input_dim is not None else inferred
    if width is None:
        raise StrlKeyError(
            f"{policy}: the discriminator reads the group 'ref_obs', but this environment has: "
            f"{list(layout.spaces)}. Name the groups to judge: "
            'policy_kwargs=dict(obs_groups={"amp": [...]}).'
        )
    return AMPDiscriminator(width, DiscriminatorSpec.from_dict(given))


def initialise_orthogonally(readers: Sequence[ObsReader], trunks: Sequence[nn.Module]) -> None:
    """
    Initialise as SB3 does: gain sqrt 2, 0.01 for the last layer of the actor, 1 for the critic's.

    :param readers: whose encoders are initialised
    :param trunks: of actor and critic
    """

    def initialise(module: nn.Module, gain: float) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(module.weight, gain=gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    for reader in readers:
        for module in reader.encoders.modules():
            initialise(module, float(np.sqrt(2)))
    for trunk, last_gain in zip(trunks, (0.01, 1.0), strict=True):
        linears = [module for module in trunk.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            initialise(linear, last_gain if linear is linears[-1] else float(np.sqrt(2)))


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the layer whose outputs are the network's."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def optimizer_defaults(
    optimizer_class: type[th.optim.Optimizer], given: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the optimizer's arguments, with PyTorch's epsilon instead of SB3's for Adam."""
    if optimizer_class in (FlatAdam, th.optim.Adam, th.optim.AdamW):
        return {"eps": 1e-8, "fused": True, **(given or {})}
    return dict(given or {})


def make_optimizer(
    optimizer_class: type[th.optim.Optimizer],
    parameters: Sequence[th.Tensor],
    learning_rate: float,
    options: Mapping[str, Any],
) -> th.optim.Optimizer:
    """
    Build an optimiser.

    :raises StrlValueError: if the optimiser refuses its options
    """
    make: Callable[..., th.optim.Optimizer] = optimizer_class
    try:
        return make(parameters, lr=learning_rate, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StrlValueError(
            f"{optimizer_class.__name__} refuses optimizer_kwargs {dict(options)}: {error}. "
            "Expected options that it takes. Change policy_kwargs=dict(optimizer_kwargs=dict(...))."
        ) from error
