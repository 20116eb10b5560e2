"""
The visual part: encoders for images, and acting on latents that were embedded elsewhere.

It is the encoder part with other defaults (convolutions, a linear latent), plus a way to run the
slow encoder on another clock or machine than the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, check_known
from sb3_strl.common.segments import SINGLE_GROUP, Segment, is_image_group
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.options import PartOptions
from sb3_strl.policies.stages import EncoderSpec

if TYPE_CHECKING:
    from sb3_strl.common.memory_state import PolicyState
    from sb3_strl.policies.actor_critic import StrlPolicy

NETWORK_KEYS = (
    "channels",
    "kernel_sizes",
    "strides",
    "hidden_sizes",
    "paddings",
    "dilations",
    "nonlinearity",
    "use_maxpool",
    "normlayer",
)
"""Keywords of the network that may stand beside those of the part."""
_CHANNELS, _KERNEL_SIZE, _STRIDE, _HIDDEN = (64, 64), 3, 1, (256,)
_CRITIC = ("raw", "shared", "own")


@dataclass(frozen=True, kw_only=True)
class VisualSpec:
    """
    Which images are replaced by a latent.

    The keywords of :class:`~sb3_strl.policies.networks.Conv2dHeadModel` (``channels``, ...) may
    stand beside these; the defaults are st_rl's: two layers of 64 channels, kernels 3, strides 1,
    and a hidden layer of 256. Strides of 2 make the network many times smaller.

    :param component_names: ``(C, H, W)`` segments or image groups; ``None`` infers all that the
        actor reads
    :param latent_size: width Z of the latent, which is linear
    :param critic: ``"raw"`` gives the critic pixels, ``"shared"`` the actor's encoders, ``"own"``
        encoders of its own; ``None``: its own where it reads these segments
    :param normalize_images: normalise segments of vector groups with the running statistics
    :param kwargs: keywords of the network
    """

    component_names: tuple[str, ...] | None = None
    latent_size: int = 256
    critic: str | None = None
    normalize_images: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> VisualSpec:
        """
        Build from plain data.

        :raises StrlTypeError: on an unknown key
        :raises StrlValueError: if ``critic`` is unknown, nothing is named, or the latent has no
            width
        """
        own = [item.name for item in fields(cls)]
        values = dict(given)
        if "component_name" in values:
            values.setdefault("component_names", values.pop("component_name"))
        check_known("VisualSpec", "key", values, [*own, *NETWORK_KEYS])
        network = {key: values.pop(key) for key in NETWORK_KEYS if key in values}
        kwargs = _with_defaults({**values.pop("kwargs", {}), **network})
        check_known("VisualSpec: kwargs", "key", kwargs, NETWORK_KEYS)
        names = values.pop("component_names", None)
        if names is not None:
            names = (names,) if isinstance(names, str) else tuple(names)
        spec = cls(component_names=names, kwargs=kwargs, **values)
        if names == ():
            raise StrlValueError(
                "VisualSpec: component_names is an empty list. Name at least one segment, or leave "
                "it out to encode every image that the actor reads."
            )
        if spec.critic is not None and spec.critic not in _CRITIC:
            raise StrlValueError(
                f"VisualSpec: critic is {spec.critic!r}. Expected one of {list(_CRITIC)}, or leave "
                "it out."
            )
        if spec.latent_size < 1:
            raise StrlValueError(
                f"VisualSpec: latent_size is {spec.latent_size}. Expected a positive int."
            )
        return spec


def _with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    channels = list(given.get("channels", _CHANNELS))
    defaults = {
        "kernel_sizes": [_KERNEL_SIZE] * len(channels),
        "strides": [_STRIDE] * len(channels),
        "hidden_sizes": list(_HIDDEN),
    }
    return {**defaults, **given, "channels": channels}


def visual_to_encoder(
    given: Mapping[str, Any],
    actor: Sequence[Segment],
    critic: Sequence[Segment],
    taken: Sequence[str] = (),
) -> EncoderSpec:
    """
    Return the encoder that a visual part stands for.

    :param given: keys of :class:`VisualSpec`
    :param actor: segments the actor reads
    :param critic: segments the critic reads
    :param taken: segments that the encoder part names, which are not inferred
    :raises StrlValueError: if no segment is an image
    """
    spec = VisualSpec.from_dict(given)
    images = [s.name for s in actor if len(s.shape) == 3 and s.name not in taken]
    names = spec.component_names or tuple(images)
    if not names:
        shapes = {segment.name: segment.shape for segment in actor}
        raise StrlValueError(
            f"VisualSpec: the actor reads no image, only {shapes}. A policy whose name has "
            "'Visual', or 'CnnPolicy', needs one: name an image group, policy_kwargs=dict("
            'obs_groups={"actor": [...]}), or declare the shape of an image as (channels, height, '
            "width) in obs_segments, e.g. (1, 48, 64). Without images use 'MlpPolicy'."
        )
    theirs: str | tuple[str, ...] | None = None
    if spec.critic == "shared":
        theirs = "shared"
    elif spec.critic == "own":
        theirs = names
    elif spec.critic is None:
        known = {segment.name for segment in critic if len(segment.shape) == 3}
        theirs = tuple(name for name in names if name in known) or None
    return EncoderSpec(
        component_names=names,
        class_name="Conv2dHeadModel",
        kwargs=spec.kwargs,
        output_size=spec.latent_size,
        critic_component_names=theirs,
        normalize_images=spec.normalize_images,
        last_linear=True,
    )


def encoder_specs(
    parts: PartOptions, actor: Sequence[Segment], critic: Sequence[Segment]
) -> list[EncoderSpec]:
    """
    Return the encoders of a policy, every segment named; the visual part's, if any, is last.

    :param parts: the policy's parts
    :param actor: segments the actor reads
    :param critic: segments the critic reads
    :raises StrlValueError: if both parts name a segment, or nothing is left for one of them
    """
    encoder = None if parts.encoder is None else EncoderSpec.from_dict(parts.encoder)
    if parts.visual is None:
        return [] if encoder is None else [encoder]
    taken = () if encoder is None else encoder.component_names or ()
    visual = visual_to_encoder(parts.visual, actor, critic, taken)
    if encoder is None:
        return [visual]
    seen = visual.component_names or ()
    twice = sorted(set(taken) & set(seen))
    if twice:
        raise StrlValueError(
            f"VisualSpec: the visual and the encoder part both name {twice}. Name every segment "
            "once."
        )
    if not taken and not [s for s in actor[1:] if s.name not in seen]:
        raise StrlValueError(
            f"EncoderSpec: the visual part encodes {list(seen)}, and no segment but the first is "
            "left for the encoder part. Name one: encoder=dict(component_names=[...])."
        )
    return [encoder, visual]


# ---------------------------------------------------------------------- latents from elsewhere


def visual_names(policy: StrlPolicy) -> tuple[str, ...]:
    """
    Return the segments that the visual part encodes.

    :raises StrlTypeError: if the policy has no visual part
    """
    if policy.parts.visual is None:
        raise StrlTypeError(
            f"{type(policy).__name__}: there is no visual part, so nothing to embed. Use a policy "
            "whose name has 'Visual', or give visual=dict(...)."
        )
    return policy.encoder_specs[-1].component_names or ()


def embed_visual_latent(policy: StrlPolicy, obs: th.Tensor | TensorDict) -> th.Tensor | TensorDict:
    """
    Replace the images in an observation by their latents, in place of their columns.

    :param policy: with a visual part
    :param obs: a vector ``(B, dim)`` or groups
    :return: the same without pixels: a vector ``(B, dim - pixels + Z)`` or groups; whatever the
        actor does not read is left out
    :raises StrlTypeError: if the policy has no visual part
    """
    names, groups = visual_names(policy), policy.as_groups(obs)
    embedded: TensorDict = {}
    for group, segments in _actor_groups(policy).items():
        seen = [segment for segment in segments if segment.name in names]
        if not seen:
            embedded[group] = groups[group]
            continue
        latents = {s.name: policy.get_encoder_latent(groups, s.name) for s in seen}
        if is_image_group(policy.layout.spaces[group]):
            embedded[group] = latents[seen[0].name]
            continue
        vector = groups[group]
        parts = [
            latents[s.name] if s.name in names else vector[..., s.start : s.stop] for s in segments
        ]
        embedded[group] = th.cat(parts, -1)
    return embedded if isinstance(obs, dict) else embedded[SINGLE_GROUP]


def act_with_embedded_latent(
    policy: StrlPolicy,
    latent_obs: th.Tensor | TensorDict,
    state: PolicyState | None = None,
    episode_starts: th.Tensor | None = None,
    deterministic: bool = True,
) -> tuple[th.Tensor, PolicyState]:
    """
    Act on what :func:`embed_visual_latent` returned; no encoder of an image runs.

    :param policy: with a visual part
    :param latent_obs: a vector ``(N, dim - pixels + Z)`` or groups
    :param state: what the step before returned; ``None`` for zeros
    :param episode_starts: ``(N,)``, rows whose state is forgotten first
    :param deterministic: take the mode instead of a sample
    :return: actions ``(N, *action_shape)`` as chosen, not clipped, and the new state
    :raises StrlTypeError: if the policy has no visual part
    :raises StrlValueError: if the width is another, or an estimator reads the pixels
    """
    names, given = visual_names(policy), policy.as_groups(latent_obs)
    _refuse_estimators(policy, names)
    groups: TensorDict = {}
    latents: TensorDict = {}
    for group, segments in _actor_groups(policy).items():
        if group not in given:
            raise StrlKeyError(
                f"act_with_embedded_latent: the group '{group}' is missing. Got {list(given)}. "
                "Pass what embed_visual_latent returned."
            )
        groups[group] = given[group]
        if any(segment.name in names for segment in segments):
            groups[group] = _split(policy, group, segments, given[group], names, latents)
    n_envs = len(next(iter(latents.values())))
    before = policy._state_before(n_envs, state, episode_starts)
    out = policy.actor_pass(groups, before, latents=latents)
    return policy._shape_actions(policy._choose(out.params, deterministic)), out.state


def _split(
    policy: StrlPolicy,
    group: str,
    segments: Sequence[Segment],
    value: th.Tensor,
    names: Sequence[str],
    latents: TensorDict,
) -> th.Tensor:
    """Collect the latents of a group and return it in its full width, zeros for pixels."""
    encoder = policy.encoder_specs[-1]
    assert isinstance(encoder.output_size, int)
    widths = [encoder.output_size if s.name in names else s.size for s in segments]
    if value.shape[-1] != sum(widths):
        raise StrlValueError(
            f"act_with_embedded_latent: group '{group}' has {value.shape[-1]} columns. Expected "
            f"{sum(widths)}, with latents of {encoder.output_size} in place of {list(names)}. Pass "
            "what embed_visual_latent returned."
        )
    parts = []
    for segment, part in zip(segments, value.split(widths, -1), strict=True):
        if segment.name in names:
            latents[segment.name] = part
            parts.append(part.new_zeros(*part.shape[:-1], segment.size))
        else:
            parts.append(part)
    if is_image_group(policy.layout.spaces[group]):
        return latents[segments[0].name]  # nobody looks at the pixels of an encoded image
    return th.cat(parts, -1)


def _actor_groups(policy: StrlPolicy) -> dict[str, list[Segment]]:
    groups: dict[str, list[Segment]] = {}
    for segment in policy.actor_segments:
        groups.setdefault(segment.group, []).append(segment)
    return groups


def _refuse_estimators(policy: StrlPolicy, names: Sequence[str]) -> None:
    parts = {"adaptor": policy.parts.adaptor, "estimator": policy.parts.estimator}
    for keyword, options in parts.items():
        given = (options or {}).get("obs_components", ())
        read = set(names) & set((given,) if isinstance(given, str) else given)
        if read:
            raise StrlValueError(
                f"act_with_embedded_latent: the {keyword} reads the pixels of {sorted(read)}, "
                "which a latent does not hold. Take them out of its obs_components."
            )
