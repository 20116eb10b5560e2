"""How much memory a training takes, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch as th

from sb3_strl.common.devices import n_bytes
from sb3_strl.common.tables import format_table

if TYPE_CHECKING:
    from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm


def memory_report(model: TensorOnPolicyAlgorithm) -> dict[str, int]:
    """
    Return the bytes of what stays from one iteration to the next.

    Activations, which come and go, are not among them: on a GPU the highest use is logged as
    ``perf/gpu_memory_mb``.

    :param model: an algorithm of this library
    :return: by part: the rollout buffer, the final observations of its steps, the hidden states
        before its sequences, the policy (with normalisers and discriminator), gradients, the
        optimizer's moments (for Adam what they will take, before the first step), and what
        objectives keep, e.g. the replay of a motion prior
    """
    report = {
        "rollout buffer": n_bytes(model.rollout_buffer.storage.tensors()),
        "final observations": n_bytes(model.collector.final_obs.values()),
        "hidden states": n_bytes(model.rollout_buffer.sequences.tensors().values()),
        "policy": n_bytes([*model.policy.parameters(), *model.policy.buffers()]),
        "gradients": n_bytes(p for p in model.policy.parameters() if p.requires_grad),
        "optimizer": _optimizer_bytes(model.policy.optimizer),
    }
    for objective in model.objectives:
        for part, size in objective.memory().items():
            report[f"{objective.name}: {part}"] = size
    return report


def describe_memory(model: TensorOnPolicyAlgorithm) -> str:
    """Return :func:`memory_report` as a table in megabytes; empty parts are left out."""
    report = {part: size for part, size in memory_report(model).items() if size}
    rows = [(part, f"{size / 1e6:.2f}") for part, size in report.items()]
    rows.append(("sum", f"{sum(report.values()) / 1e6:.2f}"))
    return format_table("memory", ("part", "MB"), rows)


def gpu_memory_mb(device: th.device) -> float | None:
    """Return the most that tensors took on a GPU so far, ``None`` elsewhere; does not wait."""
    return th.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


def _optimizer_bytes(optimizer: th.optim.Optimizer) -> int:
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    held = n_bytes(value for value in state if isinstance(value, th.Tensor) and value.ndim)
    if held or not isinstance(optimizer, th.optim.Adam | th.optim.AdamW):
        return held
    return sum(
        n_bytes(group["params"]) * (3 if group.get("amsgrad") else 2)
        for group in optimizer.param_groups
    )
