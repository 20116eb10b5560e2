"""The proof that a file acts as the policy does: both run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_strl.common.segments import SINGLE_GROUP, group_spaces
from sb3_strl.export.files import Arrays, Runner
from sb3_strl.export.module import ExportedPolicy, obs_dtype
from sb3_strl.export.normalizer import Statistics
from sb3_strl.policies import MutexPolicy

_RESTART_PROBABILITY = 0.05
_OPEN = 1e6
"""Bounds beyond it are none: environments name the largest float instead of infinity."""


@dataclass(frozen=True)
class Parity:
    """
    How far a file is from the policy.

    :param format: ``"onnx"`` or ``"torchscript"``
    :param n_steps: steps of the rollout
    :param n_envs: environments in it
    :param max_error: largest difference of an action; relative where an action is beyond 1
    :param blind: share of the numbers in the actions that may hide an error, because they are at
        their bounds or the same in every step
    """

    format: str
    n_steps: int
    n_envs: int
    max_error: float
    blind: float


Array = np.ndarray[Any, Any]
Step = tuple[Any, Array]
"""Observations as ``predict`` takes them, raw; and which environments begin an episode."""


def invented_rollout(
    space: spaces.Space[Any],
    n_envs: int,
    n_steps: int,
    seed: int,
    ranges: Statistics | None = None,
) -> Iterator[Step]:
    """
    Yield observations that change smoothly, and episodes that begin at random.

    :param space: of the observations
    :param n_envs: N
    :param n_steps: how many
    :param seed: of the random numbers
    :param ranges: mean and standard deviation by group, where they are known; else the bounds of
        the space say where observations lie
    """
    rng = np.random.default_rng(seed)
    groups, known = group_spaces(space), ranges or {}
    for group in groups.values():
        group.seed(seed)
    walks: Arrays = {}
    starts = np.ones(n_envs, dtype=bool)
    for _ in range(n_steps):
        for name, group in groups.items():
            walks[name] = _next(group, walks.get(name), n_envs, rng, known.get(name))
        obs = dict(walks) if isinstance(space, spaces.Dict) else walks[SINGLE_GROUP]
        yield obs, starts
        starts = rng.random(n_envs) < _RESTART_PROBABILITY


def _next(
    space: spaces.Space[Any],
    before: Array | None,
    n_envs: int,
    rng: np.random.Generator,
    known: tuple[Array, Array] | None,
) -> Array:
    if not isinstance(space, spaces.Box) or (space.dtype == np.uint8 and known is None):
        return np.stack([np.asarray(space.sample()) for _ in range(n_envs)])
    low = np.where(space.low > -_OPEN, space.low.astype(np.float64), -np.inf)
    high = np.where(space.high < _OPEN, space.high.astype(np.float64), np.inf)
    mean, std = _between(low, high)
    if known is not None:
        known_mean, known_std = (part.reshape(space.shape) for part in known)
        mean = np.where(np.isnan(known_mean), mean, known_mean)
        std = np.where(np.isnan(known_std), std, known_std)
    noise = rng.standard_normal((n_envs, *space.shape))
    old = mean if before is None else before
    new = mean + 0.9 * (old - mean) + 0.44 * std * noise  # its deviation becomes std
    # Files are given float32. Next to a large mean, rounding alone would look like an error.
    rounded = np.clip(new, low, high).astype(np.float32)
    return np.asarray(rounded, dtype=space.dtype)


def _between(low: Array, high: Array) -> tuple[Array, Array]:
    """Return the mean and the standard deviation of what lies between bounds, open or not."""
    bottom = np.where(np.isfinite(low), low, np.minimum(-3.0, high - 6.0))
    top = np.where(np.isfinite(high), high, np.maximum(3.0, low + 6.0))
    return 0.5 * (bottom + top), 0.25 * (top - bottom)


def env_rollout(
    policy: BasePolicy, env: VecEnv, n_steps: int, normalizer: VecNormalize | None = None
) -> Iterator[Step]:
    """
    Yield raw observations of an environment in which the policy acts.

    :param policy: with its state kept here
    :param env: it is reset first
    :param n_steps: how many
    :param normalizer: what the policy's observations pass through
    """
    obs: Any = env.reset()
    starts = np.ones(env.num_envs, dtype=bool)
    state: Any = None
    for _ in range(n_steps):
        yield obs, starts
        seen = obs if normalizer is None else normalizer.normalize_obs(obs)
        actions, state = policy.predict(seen, state, starts, deterministic=True)
        obs, _, starts, _ = env.step(np.asarray(actions))


def compare(
    policy: BasePolicy,
    module: ExportedPolicy,
    run: Runner,
    rollout: Iterator[Step],
    normalizer: VecNormalize | None = None,
) -> tuple[int, int, float, float]:
    """
    Run the policy and a file on the same observations, each with its own memory.

    :param policy: the reference, through ``predict``
    :param module: what was written
    :param run: the file
    :param rollout: raw observations
    :param normalizer: what the reference's observations pass through
    :return: steps, environments, largest error, see :class:`Parity`, and its share of blind numbers
    """
    state: Any = None
    memory: Arrays = {}
    compared: list[Array] = []
    n_envs, worst = 0, 0.0
    for obs, starts in rollout:
        n_envs = len(starts)
        seen = obs if normalizer is None else normalizer.normalize_obs(obs)
        wanted, state = policy.predict(seen, state, starts, deterministic=True)
        memory = _restarted(module, memory, starts)
        if isinstance(policy, MutexPolicy) and policy.commands.random:
            memory["commands_in"] = state.commands  # drawn by the policy, handed to the file
        outputs = run({**_observations(module, obs), **memory})
        got = np.asarray(outputs["actions"])
        expected = np.asarray(wanted).reshape(got.shape)
        worst = max(worst, _error(got, expected))
        if module.has_targets:
            scale, offset = module.scale.numpy(), module.offset.numpy()
            targets = offset + scale * expected
            worst = max(worst, _error(outputs["targets"], targets))
        memory = {f"{s.name}_in": outputs[f"{s.name}_out"] for s in module.step.states}
        compared.append(expected)
    return len(compared), n_envs, worst, _blind(np.concatenate(compared), module)


def _blind(actions: Array, module: ExportedPolicy) -> float:
    """Return the share of numbers at their bounds, or the same in every row."""
    hidden = np.broadcast_to((actions == actions[0]).all(axis=0), actions.shape)
    if module.is_continuous:
        hidden = hidden | (actions <= module.low.numpy()) | (actions >= module.high.numpy())
    return float(hidden.mean())


def _error(got: Array, expected: Array) -> float:
    if not np.isfinite(got).all():
        return float("inf")
    difference = np.abs(got.astype(np.float64) - expected)
    return float(np.max(difference / np.maximum(1.0, np.abs(expected)), initial=0.0))


def _observations(module: ExportedPolicy, obs: Any) -> Arrays:
    groups = obs if isinstance(obs, dict) else {SINGLE_GROUP: obs}
    arrays: Arrays = {}
    for name, space in module.spaces.items():
        dtype = th.zeros(0, dtype=obs_dtype(space)).numpy().dtype
        arrays[f"obs_{name}"] = np.asarray(groups[name]).astype(dtype)
    return arrays


def _restarted(module: ExportedPolicy, memory: Arrays, starts: Array) -> Arrays:
    """Return the states with their initial values where an episode begins."""
    fresh: Arrays = {}
    for state in module.step.states:
        name = f"{state.name}_in"
        initial = state.for_envs(len(starts)).numpy()
        shape = [1] * initial.ndim
        shape[state.batch_dim] = -1
        old = memory.get(name, initial)
        fresh[name] = np.where(starts.reshape(shape), initial, old)
    return fresh
