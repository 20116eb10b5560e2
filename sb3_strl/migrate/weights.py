"""Names of tensors in foreign checkpoints, and in our policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_strl.migrate.migration import Migration
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.distributions import DiagonalGaussianHead

_MODEL = {
    "mlp.": "{side}.model.",
    "obs_normalizer.": "{side}_reader.normalizer.",
    "rnn.": "{side}_memory.",
    "cnns.": "{side}_reader.encoders.",
    "distribution.": "action_head.",
}
"""Prefixes of rsl_rl 5, and ours."""

_OLDER: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^(actor|critic)\.(?:\1\.|model\.)?(?=\d+\.)", r"\1.model."),
        (r"^(actor|critic)_obs_normalizer\.", r"\1_reader.normalizer."),
        (r"^obs_normalizer\.", "actor_reader.normalizer."),
        (r"^memory_a\.", "actor_memory."),
        (r"^memory_c\.", "critic_memory."),
        (r"^memory_s\.", "estimators.estimator.memory."),
        (r"^state_estimator\.(?:model\.)?(?=\d+\.)", "estimators.estimator.net.model."),
        (r"^(?:state_|privilege_)?adaptor\.(?:model\.)?(?=\d+\.)", "estimators.adaptor.net.model."),
        (r"^discriminator\.trunk\.(?:model\.)?(?=\d+\.)", "discriminator.trunk.model."),
        (r"^discriminator\.(?:amp_linear|linear|head)\.", "discriminator.head."),
    )
]
_ENCODER = re.compile(r"^(critic_)?encoders\.(\w+)\.")
_VISUAL = re.compile(r"^visual_encoder\.")
_STATISTICS = {
    "obs_norm_state_dict": "actor_reader.normalizer.",
    "critic_obs_norm_state_dict": "critic_reader.normalizer.",
    "privileged_obs_norm_state_dict": "critic_reader.normalizer.",
    "amp_obs_norm_state_dict": "discriminator.normalizer.",
}

RND = {
    "predictor.": "predictor.model.",
    "target.": "target.model.",
    "state_normalizer.": "states.",
    "reward_normalizer.": "rewards.",
}
"""Prefixes of rsl_rl's random network distillation, and ours."""

Renamed = dict[str, tuple[str, th.Tensor]]
"""Our name and the tensor, by their name; no name of ours if there is none."""


def rename_prefixes(
    state: Mapping[str, th.Tensor], prefixes: Mapping[str, str], shown: str = ""
) -> Renamed:
    """
    Return tensors under other prefixes.

    :param state: by their name
    :param prefixes: ours by theirs
    :param shown: what stands before their name in the report
    """
    found: Renamed = {}
    for name, tensor in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        ours = "" if prefix is None else prefixes[prefix] + name.removeprefix(prefix)
        found[shown + name] = (ours, tensor)
    return found


def rename_model(state: Mapping[str, th.Tensor], side: str, shown: str) -> Renamed:
    """
    Return a model of rsl_rl 5 under our names.

    :param state: its state dict
    :param side: ``"actor"`` or ``"critic"``
    :param shown: what stands before their name in the report
    """
    ours = {theirs: prefix.format(side=side) for theirs, prefix in _MODEL.items()}
    return rename_prefixes(state, ours, shown)


def rename_older(content: Mapping[str, Any], policy: StrlPolicy, migration: Migration) -> Renamed:
    """
    Return an actor-critic of st_rl, or of rsl_rl 1 to 4, under our names.

    :param content: of the checkpoint
    :param policy: that is to take them
    :param migration: says which encoder has which number
    """
    found: Renamed = {}
    for name, tensor in content["model_state_dict"].items():
        found[name] = (_older_name(name, policy, migration), _std(name, tensor, policy))
    for key, prefix in _STATISTICS.items():
        for name, tensor in (content.get(key) or {}).items():
            found[f"{key}.{name}"] = (prefix + name, tensor)
    return found


def _older_name(name: str, policy: StrlPolicy, migration: Migration) -> str:
    if name in ("std", "log_std"):
        return "action_head.std_param"
    encoder = _ENCODER.match(name)
    if encoder is not None:
        side = "critic" if encoder.group(1) else "actor"
        segment = _segment(encoder.group(2), side, policy, migration)
        return f"{side}_reader.encoders.{segment}.{name[encoder.end() :]}" if segment else ""
    if _VISUAL.match(name) and len(policy.actor_reader.encoders) == 1:
        (segment,) = policy.actor_reader.encoders
        return _VISUAL.sub(f"actor_reader.encoders.{segment}.", name)
    for pattern, ours in _OLDER:
        if pattern.match(name):
            return pattern.sub(ours, name)
    return ""


def _segment(given: str, side: str, policy: StrlPolicy, migration: Migration) -> str | None:
    """Return the segment of an encoder, which has a number in their checkpoints."""
    reader = policy.actor_reader if side == "actor" else policy.critic_reader
    names = migration.encoders.get(side) or list(reader.encoders)
    if given.isdigit():
        return names[int(given)] if int(given) < len(names) else None
    return given if given in names else None


def _std(name: str, tensor: th.Tensor, policy: StrlPolicy) -> th.Tensor:
    """Return the noise as the policy's head holds it."""
    head = policy.action_head
    if name not in ("std", "log_std") or not isinstance(head, DiagonalGaussianHead):
        return tensor
    is_log = head.noise_std_type == "log"
    if name == "std":
        return tensor.log() if is_log else tensor
    return tensor if is_log else tensor.exp()
