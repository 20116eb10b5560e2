"""The table of a policy's stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from sb3_strl.common.tables import format_table
from sb3_strl.policies.stages import output_width

if TYPE_CHECKING:
    from sb3_strl.policies.actor_critic import StrlPolicy


def describe_policy(policy: StrlPolicy) -> str:
    """Return a table of the stages: name, widths in and out, number of parameters."""
    rows: list[tuple[str, str, object, int]] = []
    for name, estimator in policy.each_estimator():
        reads = "+".join(estimator.spec.obs_components)
        if estimator.spec.use_actor_rnn:
            reads = "actor memory"
        predicts = "+".join(estimator.spec.target_components)
        rows.append((name, reads, f"{predicts} {estimator.output_size}", _count(estimator)))
    for who, reader, memory, trunk, width in (
        (
            "actor",
            policy.actor_reader,
            policy.actor_memory,
            policy.actor,
            policy.action_head.input_dim,
        ),
        ("critic", policy.critic_reader, policy.critic_memory, policy.critic, 1),
    ):
        if reader.normalizer is not None:
            groups = "+".join(reader.vector_groups)
            rows.append(
                (f"{who} normaliser", f"{groups} {reader.vector_dim}", reader.vector_dim, 0)
            )
        for name, encoder in reader.encoders.items():
            segment = next(segment for segment in reader.segments if segment.name == name)
            what = f"{name} {segment.shape}"
            rows.append((f"{who} encoder", what, output_width(encoder), _count(encoder)))
        inside = reader.output_dim
        if memory is not None:
            kind = f"{who} {memory.spec.type}"
            rows.append((kind, str(inside), memory.output_size, _count(memory)))
            inside = memory.output_size
        rows.append((f"{who} trunk", str(inside), width, _count(trunk)))
    head = policy.action_head
    rows.append((type(head).__name__, str(head.input_dim), "actions", _count(head)))
    if policy.discriminator is not None:
        judge = policy.discriminator
        rows.append(("discriminator", str(judge.input_dim), 1, _count(judge)))
    return format_table("policy stages", ("stage", "in", "out", "parameters"), rows)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
