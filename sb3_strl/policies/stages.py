"""
The stages between observation groups and the trunk, as declarations and modules.

``segments -> normalise -> encoders per segment -> flat features``. A stage holds parameters and
statistics but no memory of past calls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, check_known, suggest
from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.common.segments import ObsLayout, Segment, is_image_group
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.blocks import CNN
from sb3_strl.policies.networks import Conv2dHeadModel, MlpModel, layer_sizes

_DEFAULT_HIDDEN = (128,)
_DEFAULT_CONV: dict[str, Any] = {
    "channels": [32, 64],
    "kernel_sizes": [3, 3],
    "strides": [2, 2],
    "hidden_sizes": [128],
}
ENCODER_CLASSES = ("MlpModel", "Conv2dHeadModel", "CNN")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """
    Which segments are replaced by a learned latent, and by which network.

    :param component_names: segments to encode; ``None`` infers every actor segment but the first
        (the only one, if there is just one)
    :param class_name: ``"MlpModel"``, ``"Conv2dHeadModel"``, rsl_rl's ``"CNN"``, one per component,
        or ``None`` to take ``Conv2dHeadModel`` for ``(C, H, W)`` segments and an MLP for the others
    :param kwargs: arguments of the network, or one mapping per component
    :param output_size: width Z of the latent, or one per component; ``"CNN"`` has no last layer and
        yields its flattened channels
    :param critic_component_names: segments the critic encodes with encoders of its own,
        ``"shared"`` for the actor's encoders (found by name in the critic's layout), ``None`` for
        none
    :param critic_class_name: as ``class_name``; defaults to it
    :param critic_kwargs: as ``kwargs``; defaults to it
    :param normalize_images: normalise ``(C, H, W)`` segments of a vector group with the running
        statistics like all other columns instead of feeding them raw
    :param last_linear: leave the latent without activation
    """

    component_names: tuple[str, ...] | None = None
    class_name: str | tuple[str, ...] | None = None
    kwargs: Mapping[str, Any] | tuple[Mapping[str, Any], ...] = field(default_factory=dict)
    output_size: int | tuple[int, ...] = 32
    critic_component_names: str | tuple[str, ...] | None = None
    critic_class_name: str | tuple[str, ...] | None = None
    critic_kwargs: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None = None
    normalize_images: bool = False
    last_linear: bool = False

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> EncoderSpec:
        """
        Build from plain data, e.g. a yaml mapping.

        :raises StrlTypeError: on an unknown key; the message lists the known ones
        :raises StrlValueError: if ``component_names`` is an empty list
        """
        check_known("EncoderSpec", "key", given, [item.name for item in fields(cls)])
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        if values.get("component_names") == ():
            raise StrlValueError(
                "EncoderSpec: component_names is an empty list. Name at least one segment, or "
                "leave it out to encode every segment but the first."
            )
        if isinstance(values.get("component_names"), str):
            values["component_names"] = (values["component_names"],)
        return cls(**values)


def _one_of(value: Any, index: int, count: int, what: str) -> Any:
    if not isinstance(value, tuple):
        return value
    if len(value) != count:
        raise StrlValueError(
            f"EncoderSpec: {what} has {len(value)} entries for {count} components. Give one value "
            "for all or one per component."
        )
    return value[index]


def make_encoder(
    segment: Segment,
    class_name: str | None,
    kwargs: Mapping[str, Any],
    size: int,
    activation: str | type[nn.Module],
    last_linear: bool = False,
) -> nn.Module:
    """
    Build the network that turns one segment into a latent of width ``size``.

    The latent is the *activated* output of the last layer, unless ``last_linear``. A ``"CNN"`` ends
    with its convolutions.

    :raises StrlTypeError: if the class is unknown
    :raises StrlValueError: if a CNN is asked for a segment that is not ``(C, H, W)``
    """
    is_image = len(segment.shape) == 3
    name = class_name or ("Conv2dHeadModel" if is_image else "MlpModel")
    options = dict(kwargs)
    if name != "MlpModel" and name in ENCODER_CLASSES and not is_image:
        raise StrlValueError(
            f"EncoderSpec: {name} needs a (channels, height, width) segment, but "
            f"'{segment.name}' has shape {segment.shape}. Declare its shape in obs_segments."
        )
    if name == "CNN":
        return CNN(segment.shape[1:], segment.shape[0], **options)
    options.setdefault("nonlinearity", activation)
    if name == "MlpModel":
        hidden = layer_sizes(options.pop("hidden_sizes", _DEFAULT_HIDDEN))
        if last_linear:
            return MlpModel(segment.size, hidden, size, **options)
        return MlpModel(segment.size, [*hidden, size], None, **options)
    if name == "Conv2dHeadModel":
        options = {**_DEFAULT_CONV, **options}
        if last_linear:
            return Conv2dHeadModel(segment.shape, output_size=size, **options)
        options["hidden_sizes"] = [*layer_sizes(options["hidden_sizes"]), size]
        return Conv2dHeadModel(segment.shape, **options)
    raise StrlTypeError(
        f"EncoderSpec: unknown class_name '{name}'.{suggest(name, ENCODER_CLASSES)} Known classes: "
        f"{list(ENCODER_CLASSES)}."
    )


def make_encoders(
    segments: Sequence[Segment],
    names: Sequence[str],
    spec: EncoderSpec,
    activation: str | type[nn.Module],
    critic: bool = False,
) -> nn.ModuleDict:
    """
    Build one encoder per named segment.

    :raises StrlKeyError: if a name is not a segment of the set
    :raises StrlValueError: if PyTorch has no place for a module of that name
    """
    class_name, kwargs = spec.class_name, spec.kwargs
    if critic:
        class_name = spec.critic_class_name or class_name
        kwargs = spec.critic_kwargs if spec.critic_kwargs is not None else kwargs
    by_name = {segment.name: segment for segment in segments}
    encoders = nn.ModuleDict()
    for index, name in enumerate(names):
        if name in encoders:
            raise StrlValueError(
                f"EncoderSpec: segment '{name}' is named twice. Name every segment once."
            )
        if name not in by_name:
            raise StrlKeyError(
                f"EncoderSpec: unknown segment '{name}'.{suggest(name, by_name)} The "
                f"{'critic' if critic else 'actor'} has: {list(by_name)}."
            )
        if "." in name or hasattr(encoders, name):
            raise StrlValueError(
                f"EncoderSpec: segment '{name}' has a name that PyTorch keeps for itself or that "
                "contains a dot, so no module can carry it. Rename the segment in obs_segments."
            )
        encoders[name] = make_encoder(
            by_name[name],
            _one_of(class_name, index, len(names), "class_name"),
            _one_of(kwargs, index, len(names), "kwargs"),
            _one_of(spec.output_size, index, len(names), "output_size"),
            activation,
            spec.last_linear,
        )
    return encoders


@dataclass(frozen=True)
class _Piece:
    """
    Columns ``start:stop`` of the vector part, or an image group; encoded if a segment is
    named.
    """

    start: int = 0
    stop: int = 0
    encoder: str | None = None
    shape: tuple[int, ...] = ()
    image_group: str | None = None
    raw: bool = False


class ObsReader(nn.Module):
    """
    Turn observation groups into the flat features of one set (actor or critic).

    Vector groups are concatenated and normalised; then every encoded segment is replaced by its
    latent, in the order of the layout whatever the order in which encoders were named. Image groups
    are scaled to [0, 1] if uint8 and encoded or flattened.

    :param layout: the environment's layout
    :param segments: what the set reads, in order
    :param encoders: networks by segment name
    :param normalize: keep running statistics of the vector part
    :param normalizer_until: samples after which the statistics freeze
    :param normalized: encoded ``(C, H, W)`` segments of vector groups to feed normalised
    :param scale_images: divide uint8 images by 255
    """

    column_index: th.Tensor | None

    def __init__(
        self,
        layout: ObsLayout,
        segments: Sequence[Segment],
        encoders: nn.ModuleDict,
        *,
        normalize: bool,
        normalizer_until: float | None,
        normalized: Collection[str],
        scale_images: bool,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.segments = tuple(segments)
        self.encoders = encoders
        self.scale_images = scale_images
        self.vector_groups = tuple(
            dict.fromkeys(s.group for s in segments if not is_image_group(layout.spaces[s.group]))
        )
        self.groups = tuple(dict.fromkeys(s.group for s in segments))
        self.columns, self.pieces = self._plan(normalized)
        self.vector_dim = len(self.columns)
        whole = sum(layout.segments[group][-1].stop for group in self.vector_groups)
        index = None if self.columns == list(range(whole)) else th.tensor(self.columns)
        self.register_buffer("column_index", index, persistent=False)
        self.normalizer: EmpiricalNormalization | None = None
        if normalize and self.vector_dim:
            self.normalizer = EmpiricalNormalization(
                self.vector_dim, until=None if normalizer_until is None else int(normalizer_until)
            )
        self.is_plain = len(self.pieces) == 1 and self.pieces[0] == _Piece(0, self.vector_dim)
        self.output_dim = sum(self._piece_width(piece) for piece in self.pieces)

    def _plan(self, normalized: Collection[str]) -> tuple[list[int], list[_Piece]]:
        """Return the columns of the vector part and the pieces of the output."""
        offsets: dict[str, int] = {}
        for group in self.vector_groups:
            offsets[group] = sum(self.layout.segments[g][-1].stop for g in offsets)
        columns: list[int] = []
        pieces: list[_Piece] = []
        for segment in self.segments:
            encoder = segment.name if segment.name in self.encoders else None
            if segment.group not in offsets:
                pieces.append(
                    _Piece(encoder=encoder, shape=segment.shape, image_group=segment.group)
                )
                continue
            start = len(columns)
            offset = offsets[segment.group]
            columns.extend(range(offset + segment.start, offset + segment.stop))
            previous = pieces[-1] if pieces else None
            if (
                encoder is None
                and previous
                and previous.encoder is None
                and not previous.image_group
            ):
                pieces[-1] = _Piece(previous.start, len(columns))
            else:
                is_image = encoder is not None and len(segment.shape) == 3
                raw = is_image and segment.name not in normalized
                shape = segment.shape if encoder is not None else ()
                pieces.append(_Piece(start, len(columns), encoder, shape, raw=raw))
        return columns, pieces

    def _piece_width(self, piece: _Piece) -> int:
        if piece.encoder is not None:
            return output_width(self.encoders[piece.encoder])
        if piece.image_group is not None:
            return int(th.Size(piece.shape).numel())
        return piece.stop - piece.start

    def vector(self, obs: TensorDict) -> th.Tensor:
        """Return the raw vector part ``(..., vector_dim)`` as float32."""
        parts = [_as_vector(obs[group], self.layout.spaces[group]) for group in self.vector_groups]
        whole = parts[0] if len(parts) == 1 else th.cat(parts, -1)
        return whole if self.column_index is None else whole.index_select(-1, self.column_index)

    def _image(self, obs: TensorDict, group: str) -> th.Tensor:
        image = obs[group]
        if image.dtype == th.uint8:
            image = image.float()
            return image.div_(255.0) if self.scale_images else image
        return image.float()

    def _read(self, piece: _Piece, obs: TensorDict, raw: th.Tensor, normal: th.Tensor) -> th.Tensor:
        if piece.image_group is not None:
            image = self._image(obs, piece.image_group)
            if piece.encoder is None:
                return image.flatten(-3)
            return _apply_to_images(self.encoders[piece.encoder], image)
        part = (raw if piece.raw else normal)[..., piece.start : piece.stop]
        if piece.encoder is None:
            return part
        encoder = self.encoders[piece.encoder]
        if len(piece.shape) == 3 and isinstance(encoder, Conv2dHeadModel | CNN):
            return _apply_to_images(encoder, part.unflatten(-1, piece.shape))
        latent: th.Tensor = encoder(part)
        return latent

    def raw(self, obs: TensorDict) -> th.Tensor:
        """Return the raw vector part, or something of the batch's shape if there is none."""
        return self.vector(obs) if self.vector_groups else obs[self.groups[0]]

    def normalize(self, raw: th.Tensor) -> th.Tensor:
        """Return the vector part in units of its running statistics."""
        normal: th.Tensor = raw if self.normalizer is None else self.normalizer(raw)
        return normal

    def forward(
        self,
        obs: TensorDict,
        raw: th.Tensor | None = None,
        latents: TensorDict | None = None,
    ) -> th.Tensor:
        """
        Return the features ``(..., output_dim)``.

        :param raw: vector part to read instead of the observation's
        :param latents: by segment, what to use instead of its encoder's output
        """
        raw = self.raw(obs) if raw is None else raw
        normal = self.normalize(raw)
        if self.is_plain:
            return normal
        ready = latents or {}
        pieces = [
            ready[piece.encoder] if piece.encoder in ready else self._read(piece, obs, raw, normal)
            for piece in self.pieces
        ]
        return pieces[0] if len(pieces) == 1 else th.cat(pieces, -1)

    def spans(self) -> dict[str, list[int]]:
        """Return the columns of every segment in the vector part, in the order of the layout."""
        spans: dict[str, list[int]] = {}
        start = 0
        for segment in self.segments:
            if segment.group in self.vector_groups:
                spans[segment.name] = list(range(start, start + segment.size))
                start += segment.size
        return spans

    def latent(self, obs: TensorDict, name: str) -> th.Tensor:
        """
        Return the latent ``(..., Z)`` of one encoded segment.

        :raises StrlKeyError: if the segment has no encoder
        """
        for piece in self.pieces:
            if piece.encoder == name:
                raw = self.raw(obs)
                return self._read(piece, obs, raw, self.normalize(raw))
        raise StrlKeyError(
            f"get_encoder_latent: no encoder reads '{name}'.{suggest(name, list(self.encoders))} "
            f"Encoded segments: {list(self.encoders)}."
        )

    @th.no_grad()
    def update_normalizer(self, obs: TensorDict) -> None:
        """Add raw observations ``(..., group_dim)`` to the running statistics."""
        if self.normalizer is not None:
            self.normalizer.update(self.vector(obs).reshape(-1, self.vector_dim))


def output_width(encoder: nn.Module) -> int:
    """Return the width of an encoder's latent."""
    if isinstance(encoder, CNN):
        if not isinstance(encoder.output_dim, int):
            raise StrlValueError(
                "EncoderSpec: a CNN with flatten=False yields images. Expected a flat latent. "
                "Leave flatten out."
            )
        return encoder.output_dim
    if not isinstance(encoder, MlpModel | Conv2dHeadModel):
        raise StrlTypeError(f"EncoderSpec: {type(encoder).__name__} is no encoder.")
    return encoder.output_size


def _as_vector(value: th.Tensor, space: spaces.Space[Any]) -> th.Tensor:
    """Flatten one vector group to float32 ``(..., dim)``; discrete values become one-hot."""
    if isinstance(space, spaces.Discrete):
        return nn.functional.one_hot(value.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec.flatten()]
        starts = [int(start) for start in space.start.flatten()]
        choices = zip(value.long().unbind(-1), starts, sizes, strict=True)
        return th.cat([nn.functional.one_hot(c - low, n) for c, low, n in choices], dim=-1).float()
    rank = len(space.shape or ())
    if rank != 1:
        value = value.flatten(value.ndim - rank) if rank else value.unsqueeze(-1)
    return value if value.dtype == th.float32 else value.float()


def _apply_to_images(encoder: nn.Module, images: th.Tensor) -> th.Tensor:
    """Run a CNN on images ``(..., C, H, W)`` with any number of leading dimensions."""
    lead = images.shape[:-3]
    latent: th.Tensor = encoder(images.reshape(-1, *images.shape[-3:]))
    return latent.reshape(*lead, -1)
