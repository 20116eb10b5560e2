"""Does a tensor environment keep its promises? For tests, and for whoever writes an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.data.motion import check_feature_names
from sb3_strl.envs.conversion import tensor_dtype
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

_SEED = 1234


def check_tensor_env(env: TensorVecEnv, n_steps: int = 50, seeding: bool = True) -> None:
    """
    Run an environment with random actions, and complain about the first broken promise.

    Checked: names, shapes, types and devices of all tensors; finite numbers; bool flags; final
    observations; segments and feature names; that :meth:`~TensorVecEnv.seed` makes a run
    repeatable; that ``set_state`` continues exactly where ``get_state`` was called; that the NumPy
    face says the same as the tensor face and shares no memory with it. The environment is reset and
    seeded.

    :param env: the environment
    :param n_steps: steps of each run; more than an episode, best
    :param seeding: whether runs of one seed must be equal; ``False`` for simulators that cannot be
        seeded
    :raises StrlTypeError: if something has the wrong type
    :raises StrlValueError: if something has the wrong value
    """
    if not isinstance(env, TensorVecEnv):
        raise StrlTypeError(
            f"check_tensor_env: env is a {type(env).__name__}. Expected a TensorVecEnv. Call "
            "as_tensor_env() or make_vec()."
        )
    _check_names(env)
    actions = [_random_actions(env, step) for step in range(n_steps)]
    env.seed(_SEED)
    first = list(_run(env, actions, checked=True))
    if seeding:
        env.seed(_SEED)
        again = _run(env, actions)
        _compare(env, first, again, "seed() does not make a run repeatable")
        env.seed(_SEED)
        _check_numpy_face(env, first, actions)
    _check_state(env, actions)


def _fail(env: TensorVecEnv, problem: str, expected: str) -> StrlValueError:
    where = f"check_tensor_env({type(env).__name__})"
    return StrlValueError(f"{where}: {problem}. Expected {expected}.")


def _random_actions(env: TensorVecEnv, seed: int) -> th.Tensor:
    env.action_space.seed(seed)
    array = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
    dtype = th.float32 if isinstance(env.action_space, spaces.Box) else th.int64
    return th.tensor(array, dtype=dtype, device=env.device)


def _run(
    env: TensorVecEnv, actions: list[th.Tensor], checked: bool = False
) -> Iterator[dict[str, th.Tensor]]:
    """Reset and step; yield copies of everything under flat names."""
    obs = env.reset_tensor()
    if checked:
        _check_groups(env, "reset_tensor()", obs)
    yield {f"obs {key}": value.clone() for key, value in obs.items()}
    for action in actions:
        step = env.step_tensor(action.clone())
        if checked:
            _check_step(env, step)
        yield _flatten(step)


def _flatten(step: TensorStep) -> dict[str, th.Tensor]:
    dones = step.terminated | step.truncated
    flat = {f"obs {key}": value.clone() for key, value in step.obs.items()}
    flat |= {"rewards": step.rewards.clone(), "truncated": step.truncated & ~step.terminated}
    for key, value in (step.final_obs or {}).items():
        flat[f"final_obs {key}"] = value[dones].clone()
    return {**flat, "dones": dones}


def _check_names(env: TensorVecEnv) -> None:
    groups = group_spaces(env.observation_space)
    for group, segments in (env.obs_segments or {}).items():
        if group not in groups:
            raise _fail(env, f"obs_segments names a group '{group}'", f"one of {sorted(groups)}")
        width = prod(groups[group].shape or ())
        total = sum(prod(shape) for shape in segments.values())
        if total != width:
            raise _fail(
                env,
                f"the segments of '{group}' have {total} columns together",
                f"{width}, its width",
            )
    names = env.feature_names or {}
    for group, features in names.items():
        if group not in groups:
            raise _fail(env, f"feature_names names a group '{group}'", f"one of {sorted(groups)}")
        shape = groups[group].shape or ()
        if len(shape) != 2 or shape[1] != len(features):
            raise _fail(
                env,
                f"'{group}' has shape {shape} and {len(features)} feature names",
                "(n_frames, n_features) with a name for each feature",
            )
    if "ref_obs" in names and "ref_motion" in names:
        check_feature_names(names["ref_obs"], names["ref_motion"], type(env).__name__)


def _check_tensor(
    env: TensorVecEnv, where: str, value: Any, shape: tuple[int, ...], dtype: th.dtype
) -> None:
    if not isinstance(value, th.Tensor):
        raise StrlTypeError(
            f"check_tensor_env({type(env).__name__}): {where} is a {type(value).__name__}. "
            f"Expected a tensor of shape {shape} and type {dtype}."
        )
    if tuple(value.shape) != shape:
        raise _fail(env, f"{where} has shape {tuple(value.shape)}", f"{shape}")
    if value.dtype != dtype:
        raise _fail(env, f"{where} has type {value.dtype}", f"{dtype}")
    if value.device.type != env.device.type:
        raise _fail(env, f"{where} is on '{value.device}'", f"the environment's '{env.device}'")
    if value.requires_grad:
        raise _fail(env, f"{where} carries a gradient", "detached tensors")


def _check_groups(env: TensorVecEnv, where: str, obs: TensorDict) -> None:
    groups = group_spaces(env.observation_space)
    if sorted(obs) != sorted(groups):
        raise _fail(env, f"{where} has the groups {sorted(obs)}", f"{sorted(groups)}")
    for name, space in groups.items():
        shape = (env.num_envs, *(space.shape or ()))
        assert space.dtype is not None
        _check_tensor(env, f"{where}['{name}']", obs[name], shape, tensor_dtype(space.dtype))
        if not bool(obs[name].isfinite().all()):
            raise _fail(env, f"{where}['{name}'] holds NaN or infinity", "finite numbers")


def _check_step(env: TensorVecEnv, step: TensorStep) -> None:
    shape = (env.num_envs,)
    _check_groups(env, "obs", step.obs)
    _check_tensor(env, "rewards", step.rewards, shape, th.float32)
    _check_tensor(env, "terminated", step.terminated, shape, th.bool)
    _check_tensor(env, "truncated", step.truncated, shape, th.bool)
    if not bool(step.rewards.isfinite().all()):
        raise _fail(env, "rewards hold NaN or infinity", "finite numbers")
    if step.final_obs is not None:
        _check_groups(env, "final_obs", step.final_obs)
    if not isinstance(step.extras, dict):
        raise StrlTypeError(
            f"check_tensor_env({type(env).__name__}): extras is a {type(step.extras).__name__}. "
            "Expected a dict."
        )


def _compare(
    env: TensorVecEnv,
    first: list[dict[str, th.Tensor]],
    again: Iterator[dict[str, th.Tensor]],
    problem: str,
) -> None:
    for number, (wanted, got) in enumerate(zip(first, again, strict=True)):
        for name, value in wanted.items():
            if not th.equal(value, got[name]):
                raise _fail(env, f"{problem}: '{name}' differs at step {number}", "equal tensors")


def _check_state(env: TensorVecEnv, actions: list[th.Tensor]) -> None:
    """Continue twice from the same state."""
    env.reset_tensor()
    middle = len(actions) // 2
    for action in actions[:middle]:
        env.step_tensor(action.clone())
    state: dict[str, Any] | None = env.get_state()
    if state is None:
        return
    wrong = sorted(name for name, value in state.items() if not isinstance(value, th.Tensor))
    if wrong:
        raise _fail(env, f"get_state() has {wrong}, which are no tensors", "tensors by name")
    state = {name: value.clone() for name, value in state.items()}
    first = [_flatten(env.step_tensor(action.clone())) for action in actions[middle:]]
    env.set_state(state)
    again = (_flatten(env.step_tensor(action.clone())) for action in actions[middle:])
    _compare(env, first, again, "set_state() does not continue where get_state() was called")


def _check_numpy_face(
    env: TensorVecEnv, first: list[dict[str, th.Tensor]], actions: list[th.Tensor]
) -> None:
    """Compare with a run through ``reset()`` and ``step()``, kept until the end."""
    runs: list[dict[str, th.Tensor]] = []
    kept = [env.reset()]
    for action in actions:
        obs, rewards, dones, _ = env.step(action.cpu().numpy())
        kept.append(obs)  # type: ignore[arg-type]  # never a tuple
        if rewards.dtype != np.float32 or dones.dtype != np.bool_:
            raise _fail(
                env, f"step() has types {rewards.dtype} and {dones.dtype}", "float32 and bool"
            )
        runs.append({"rewards": th.as_tensor(rewards), "dones": th.as_tensor(dones)})
    runs.insert(0, {})
    problem = "the NumPy face differs from the tensor face, or shares its memory"
    for number, (wanted, got, obs) in enumerate(zip(first, runs, kept, strict=True)):
        got |= {f"obs {key}": value for key, value in env.to_tensors(obs).items()}
        for name, value in got.items():
            if not th.equal(wanted[name].cpu(), value.cpu()):
                raise _fail(env, f"{problem}: '{name}' differs at step {number}", "equal numbers")
