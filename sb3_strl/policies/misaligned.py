"""Carry weights over to a policy whose observations are laid out differently, by segment name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.common.segments import ObsLayout, is_image_group
from sb3_strl.common.tables import format_table
from sb3_strl.policies.description import unwrap
from sb3_strl.policies.stages import output_width

if TYPE_CHECKING:
    from sb3_strl.policies.actor_critic import StrlPolicy

SourceLayout = ObsLayout | Mapping[str, Any]
"""A layout, ``{group: {segment: shape}}``, or ``{segment: shape}``: what was read, in order."""

Spans = dict[str, int]
"""Width of every block of columns by segment name, in order."""

_STATISTICS = ("mean", "var", "std")


@dataclass(frozen=True)
class PartialCopy:
    """
    A tensor some of whose columns were carried over.

    :param name: of the tensor
    :param copied: segments whose columns were copied
    :param new: segments that only the policy has; its columns are as they were, or zero
    :param dropped: segments that only the source has
    """

    name: str
    copied: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class MisalignedReport:
    """
    What was carried over; ``print`` shows it as a table.

    :param copied: tensors that were copied whole
    :param partial: tensors that were copied by segment
    :param skipped: tensors of the policy that are as they were, each with the reason
    :param unused: tensors of the source that nothing took
    """

    copied: list[str] = field(default_factory=list)
    partial: list[PartialCopy] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows: list[tuple[str, str, str]] = [(name, "copied", "") for name in self.copied]
        for entry in self.partial:
            what = [
                f"{word} {', '.join(names)}"
                for word, names in (
                    ("took", entry.copied),
                    ("new", entry.new),
                    ("dropped", entry.dropped),
                )
                if names
            ]
            rows.append((entry.name, "by segment", "; ".join(what)))
        rows += [(name, "skipped", reason) for name, reason in self.skipped]
        rows += [(name, "unused", "the policy has no such tensor") for name in self.unused]
        return format_table("weights carried over", ("tensor", "what", "segments"), rows)


# ---------------------------------------------------------------------- layouts


def _numbers(shape: Any) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _source_segments(layout: SourceLayout, groups: Sequence[Sequence[str]], where: str) -> Spans:
    """
    Return the width of every segment that the source read, in order.

    :param groups: the first of these lists that the layout knows anything of is what was read
    """
    if isinstance(layout, ObsLayout):
        nested = {
            group: {segment.name: segment.shape for segment in segments}
            for group, segments in layout.segments.items()
        }
    elif any(isinstance(value, Mapping) for value in layout.values()):
        nested = dict(layout)
    else:
        return {str(name): _numbers(shape) for name, shape in layout.items()}
    for wanted in groups:
        known = [group for group in wanted if group in nested]
        if known:
            return {
                str(name): _numbers(shape)
                for group in known
                for name, shape in nested[group].items()
            }
    raise StrlKeyError(
        f"{where} has the groups {list(nested)}, but the policy reads {list(groups[0])}. Pass "
        "{segment: shape} of what the source read, in order."
    )


def _latent_width(source: Mapping[str, th.Tensor], prefix: str) -> int | None:
    """Return the width of an encoder's latent, 0 if it is unknown; ``None``: no encoder."""
    names = [name for name in source if name.startswith(prefix)]
    matrices = [source[name] for name in names if source[name].ndim == 2]
    if matrices:
        return int(matrices[-1].shape[0])
    return 0 if names else None


class _Side:
    """
    What the actor or the critic reads, here and in the source.

    :param who: ``"actor"`` or ``"critic"``
    """

    def __init__(
        self,
        who: str,
        policy: StrlPolicy,
        source: Mapping[str, th.Tensor],
        layout: SourceLayout,
        target: Mapping[str, th.Tensor],
    ) -> None:
        self.who = who
        self.source = source
        reader = policy.actor_reader if who == "actor" else policy.critic_reader
        self.where = f"load_misaligned_state_dict: the layout of the source's {who}"
        # Without a group of its own the critic reads the actor's, in the source as here.
        groups = [policy.obs_sets[who], policy.obs_sets["actor"]]
        theirs = _source_segments(layout, groups, self.where)
        images = {s.name for s in reader.segments if is_image_group(policy.layout.spaces[s.group])}
        if isinstance(layout, ObsLayout):
            images |= {group for group, space in layout.spaces.items() if is_image_group(space)}
        self.vector = {s.name: s.size for s in reader.segments if s.name not in images}
        self.source_vector = {name: n for name, n in theirs.items() if name not in images}
        self.features = {
            s.name: output_width(reader.encoders[s.name]) if s.name in reader.encoders else s.size
            for s in reader.segments
        }
        self.first = _first_layer(who, target)
        self.source_first = _first_layer(who, source)
        self.source_features = self._source_features(theirs)

    def _source_features(self, theirs: Spans) -> Spans:
        """Return the widths of the source's features: a latent where a segment was encoded."""
        widths = {}
        for name, size in theirs.items():
            latent = _latent_width(self.source, f"{self.who}_reader.encoders.{name}.")
            widths[name] = size if latent is None else latent
        unknown = [name for name, width in widths.items() if width == 0]
        if len(unknown) == 1 and self.source_first is not None:
            columns = int(self.source[self.source_first].shape[-1])
            widths[unknown[0]] = columns - sum(widths.values())
        return widths

    def plan(self) -> dict[str, tuple[Spans, Spans]]:
        """Return for each tensor that depends on the layout its columns: the source's, ours."""
        plan = {}
        if self.first is not None and self.first == self.source_first:
            plan[self.first] = (self.source_features, self.features)
        for statistic in _STATISTICS:
            name = f"{self.who}_reader.normalizer.{statistic}"
            plan[name] = (self.source_vector, self.vector)
        return plan

    def foreign(self) -> dict[str, str]:
        """Return the tensors whose namesake in the source reads something else, and why."""
        if self.first == self.source_first:
            return {}
        names = {name for name in (self.first, self.source_first) if name is not None}
        return dict.fromkeys(
            names, f"the {self.who} has a memory on one side only, so its input differs"
        )

    def check(self, name: str, spans: Spans) -> None:
        """Refuse a layout that does not describe the source's tensor."""
        columns, total = int(self.source[name].shape[-1]), sum(spans.values())
        if columns != total:
            hint = "" if self.who == "actor" else " Pass src_critic_layout."
            raise StrlValueError(
                f"{self.where} has {total} columns {spans}, but {name} has {columns}. Pass the "
                f"segments that it read, in their order, with their shapes.{hint}"
            )


def _first_layer(who: str, state: Mapping[str, th.Tensor]) -> str | None:
    """Return the name of the weight that consumes the features."""
    for name in (f"{who}_memory.rnn.weight_ih_l0", f"{who}.model.0.weight"):
        if name in state:
            return name
    return None


# ---------------------------------------------------------------------- copying


def _copy_columns(
    name: str, ours: th.Tensor, theirs: th.Tensor, spans: tuple[Spans, Spans], zero_new: bool
) -> tuple[th.Tensor, PartialCopy]:
    source_spans, target_spans = spans
    starts = dict(zip(source_spans, np.cumsum([0, *source_spans.values()]).tolist(), strict=False))
    result = ours.clone()
    copied, new, start = [], [], 0
    for segment, width in target_spans.items():
        columns = slice(start, start + width)
        if source_spans.get(segment) == width:
            begin = starts[segment]
            result[..., columns] = theirs[..., begin : begin + width].to(result)
            copied.append(segment)
        else:
            if zero_new and result.ndim > 1:
                result[..., columns] = 0.0
            new.append(segment)
        start += width
    dropped = [segment for segment in source_spans if segment not in copied]
    return result, PartialCopy(name, tuple(copied), tuple(new), tuple(dropped))


class _Transfer:
    """Collects what the policy's tensors become before any of them is touched."""

    def __init__(
        self, target: dict[str, th.Tensor], source: Mapping[str, th.Tensor], zero_new: bool
    ) -> None:
        self.target, self.source, self.zero_new = target, source, zero_new
        self.result = dict(target)
        self.report = MisalignedReport()

    def whole(self, name: str) -> None:
        """Copy a tensor that does not depend on the layout."""
        ours, theirs = self.target[name], self.source[name]
        if ours.shape != theirs.shape:
            reason = f"shape {tuple(theirs.shape)} there, {tuple(ours.shape)} here"
            self.report.skipped.append((name, reason))
            return
        self.result[name] = theirs.to(ours)
        self.report.copied.append(name)

    def columns(self, name: str, spans: tuple[Spans, Spans]) -> None:
        """Copy a tensor by segment."""
        ours, theirs = self.target[name], self.source[name]
        if ours.shape[:-1] != theirs.shape[:-1]:
            reason = f"{tuple(theirs.shape[:-1])} rows there, {tuple(ours.shape[:-1])} here"
            self.report.skipped.append((name, reason))
            return
        self.result[name], entry = _copy_columns(name, ours, theirs, spans, self.zero_new)
        if not entry.copied:
            self.report.skipped.append((name, "no segment of the same name and width"))
        elif list(spans[0].items()) == list(spans[1].items()):
            self.report.copied.append(name)
        else:
            self.report.partial.append(entry)


def load_misaligned_state_dict(
    policy: StrlPolicy,
    src_state_dict: Mapping[str, th.Tensor],
    src_layout: SourceLayout,
    src_critic_layout: SourceLayout | None = None,
    *,
    strict_missing: bool = False,
    zero_new: bool = False,
) -> MisalignedReport:
    """
    Load weights of a policy whose observations have other segments, or the same in another order.

    First layers that read the observation (of trunk or memory) and normalisation statistics are
    copied block by block, matched by segment name and width; other tensors are copied if name and
    shape agree. The sample count of the statistics is copied too: with a large one, statistics of
    new segments adapt slowly. Estimators read their segments in the order of their own list, so
    they are copied whole.

    :param policy: is changed only if no error is raised
    :param src_state_dict: ``state_dict`` of the source, e.g. ``read_policy_file(path).state_dict``
    :param src_layout: what the source's actor read: its layout, ``{group: {segment: shape}}``, or
        ``{segment: shape}`` in order
    :param src_critic_layout: the same for the critic; default ``src_layout``
    :param strict_missing: refuse if any tensor of the policy gets nothing
    :param zero_new: set the first layer's columns of new segments to 0, so that the policy acts as
        the source did until it learns otherwise
    :return: what was copied, copied in part, skipped and left over
    :raises StrlValueError: if a layout does not describe the source's weights, or nothing fits
    :raises StrlKeyError: if ``strict_missing`` and a tensor gets nothing
    """
    bare = unwrap(policy)
    target: dict[str, th.Tensor] = bare.state_dict()
    source = dict(src_state_dict)
    layouts = {"actor": src_layout, "critic": src_critic_layout or src_layout}
    plan: dict[str, tuple[Spans, Spans]] = {}
    foreign: dict[str, str] = {}
    for who, layout in layouts.items():
        side = _Side(who, policy, source, layout, target)
        mine = {key: spans for key, spans in side.plan().items() if {key} <= source.keys()}
        for name, (source_spans, _) in mine.items():
            side.check(name, source_spans)
        plan |= mine
        foreign |= side.foreign()
    first = _first_names(bare)
    transfer = _Transfer(target, source, zero_new)
    for name in (name for name in target if first[name] == name):
        if name in foreign:
            transfer.report.skipped.append((name, foreign[name]))
        elif name not in source:
            transfer.report.skipped.append((name, "not in the source"))
        elif name in plan:
            transfer.columns(name, plan[name])
        else:
            transfer.whole(name)
    transfer.report.unused.extend(name for name in source if name not in target)
    _check_report(transfer.report, strict_missing)
    bare.load_state_dict({name: transfer.result[first[name]] for name in target})
    return transfer.report


def _first_names(policy: nn.Module) -> dict[str, str]:
    """Return for each tensor's name its first one: actor and critic may share a module."""
    first: dict[int, str] = {}
    tensors = [
        *policy.named_parameters(remove_duplicate=False),
        *policy.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}


def _check_report(report: MisalignedReport, strict_missing: bool) -> None:
    if not report.copied and not report.partial:
        raise StrlValueError(
            f"load_misaligned_state_dict: nothing of the source fits.\n{report}\nPass the "
            "state_dict of a policy, and its layout."
        )
    if strict_missing and report.skipped:
        names = [name for name, _ in report.skipped]
        raise StrlKeyError(
            f"load_misaligned_state_dict: the source has nothing for {names}. Pass "
            "strict_missing=False to leave them as they are."
        )
