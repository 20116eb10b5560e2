"""PPO's keywords as a type, so that subclasses pass them through without repeating them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import TypedDict

from sb3_strl.buffers.rollout_buffer import RolloutBuffer


class PPOKwargs(TypedDict, total=False):
    """Keyword arguments of :class:`~sb3_strl.algorithms.PPO`."""

    learning_rate: float | Schedule
    n_steps: int
    batch_size: int | None
    n_minibatches: int | None
    n_epochs: int
    gamma: float
    gae_lambda: float
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    use_clipped_value_loss: bool
    normalize_advantage: bool | Literal["rollout", "minibatch"]
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    schedule: Literal["fixed", "adaptive"]
    desired_kl: float | None
    target_kl: float | None
    clip_min_std: float | Sequence[float]
    timeout_bootstrap: Literal["auto", "terminal", "last_value", "none"]
    sequence_length: int | None
    lr_scheduler_class: str | type[th.optim.lr_scheduler.LRScheduler] | None
    lr_scheduler_kwargs: Mapping[str, Any] | None
    rnd_kwargs: Mapping[str, Any] | None
    compile: bool | str
    autocast: bool
    rollout_buffer_class: type[RolloutBuffer] | None
    rollout_buffer_kwargs: dict[str, Any] | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str
