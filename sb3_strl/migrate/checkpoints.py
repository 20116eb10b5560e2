"""Weights of foreign checkpoints; tensors are read, nothing is executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import torch as th
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_strl.algorithms import PPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.migrate.migration import Migration, Spaces
from sb3_strl.migrate.report import Report
from sb3_strl.migrate.rsl_rl import from_rsl_rl_config
from sb3_strl.migrate.strl import from_strl_config
from sb3_strl.migrate.weights import RND, Renamed, rename_model, rename_older, rename_prefixes
from sb3_strl.objectives.rnd import RandomNetworkDistillation
from sb3_strl.policies import StrlPolicy

Config = Mapping[str, Any] | str | Path | Migration

_EXPECTED = (
    "Expected a model_*.pt of rsl_rl or st_rl, with 'actor_state_dict', 'student_state_dict' or "
    "'model_state_dict'."
)
_NEW = ("discriminator.normalizer.", "estimators.estimator.normalizer.")
"""What their checkpoints do not hold, and is learnt again."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """
    Read a checkpoint; no code in it is executed.

    :param path: ``model_*.pt``
    :raises StrlValueError: if there is no such file, it is cut off or damaged, would need code to
        be executed, or is something else
    """
    file = Path(path)
    if not file.is_file():
        raise StrlValueError(f"migrate: there is no file {file}. {_EXPECTED} Check the path.")
    try:
        content = th.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StrlValueError(
            f"migrate: {file} is cut off or damaged, or needs code to be executed, which was not "
            f"done ({type(error).__name__}: {str(error).splitlines()[0][:120]}). {_EXPECTED} Copy "
            "it again, or take an earlier one."
        ) from error
    keys = list(content) if isinstance(content, Mapping) else [type(content).__name__]
    states = ("actor_state_dict", "student_state_dict", "model_state_dict")
    known = [key for key in states if key in keys]
    if not known or not isinstance(content, dict) or not _is_state(content[known[0]]):
        raise StrlValueError(f"migrate: {file} holds {keys[:8]}. {_EXPECTED} Name another file.")
    return content


def _is_state(given: object) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(key, str) and isinstance(value, th.Tensor) for key, value in given.items()
    )


@overload
def load_rsl_rl_checkpoint(
    path: str | Path, config: Config, env: Spaces, **overrides: Any
) -> StrlPolicy: ...


@overload
def load_rsl_rl_checkpoint(
    path: str | Path, config: Config, env: VecEnv, **overrides: Any
) -> PPO: ...


def load_rsl_rl_checkpoint(
    path: str | Path, config: Config, env: Any, **overrides: Any
) -> PPO | StrlPolicy:
    """
    Make what an rsl_rl checkpoint holds.

    :param path: ``model_*.pt``
    :param config: its configuration, see :func:`~sb3_strl.migrate.from_rsl_rl_config`, or what
        that returned
    :param env: the environment, or ``Spaces(observation_space, action_space)``
    :param overrides: arguments of the algorithm that win over the configuration's
    :return: for an environment the algorithm, ready to go on training; for spaces the policy alone
    :raises StrlValueError: if the file cannot be read or does not fit the configuration
    """
    return _load(path, config, env, from_rsl_rl_config, overrides)


@overload
def load_strl_checkpoint(
    path: str | Path, config: Config, env: Spaces, **overrides: Any
) -> StrlPolicy: ...


@overload
def load_strl_checkpoint(
    path: str | Path, config: Config, env: VecEnv, **overrides: Any
) -> PPO: ...


def load_strl_checkpoint(
    path: str | Path, config: Config, env: Any, **overrides: Any
) -> PPO | StrlPolicy:
    """
    Make what an st_rl checkpoint holds; see :func:`load_rsl_rl_checkpoint`.

    :param path: ``model_*.pt``
    :param config: its ``agent.yaml``, or what :func:`~sb3_strl.migrate.from_strl_config` returned
    :param env: the environment, or ``Spaces(observation_space, action_space)``
    :param overrides: arguments of the algorithm that win over the configuration's
    :raises StrlValueError: if the file cannot be read or does not fit the configuration
    """
    return _load(path, config, env, from_strl_config, overrides)


def _load(
    path: str | Path,
    config: Config,
    env: Any,
    read: Callable[..., Migration],
    overrides: Mapping[str, Any],
) -> PPO | StrlPolicy:
    migration = config if isinstance(config, Migration) else read(config, env)
    read_checkpoint(path)  # before anything is built
    is_env = isinstance(env, VecEnv)
    target = migration.build(env, **overrides) if is_env else migration.build_policy(env)
    load_checkpoint(path, target, migration)
    return target


def load_checkpoint(path: str | Path, target: PPO | StrlPolicy, migration: Migration) -> Report:
    """
    Put the weights and statistics of a checkpoint into an algorithm or policy.

    Optimizers start anew. An algorithm goes on counting where the checkpoint stopped and, with the
    adaptive schedule, at its learning rate.

    :param path: ``model_*.pt`` of rsl_rl or st_rl
    :param target: what ``migration`` built
    :param migration: of the checkpoint's configuration; its report gets the new rows too
    :return: what became of every tensor
    :raises StrlValueError: if the file cannot be read, or a tensor has no place, another shape, or
        is missing; the target is then what it was
    """
    content = read_checkpoint(path)
    policy = target if isinstance(target, StrlPolicy) else target.policy
    renamed: Renamed = {}
    if "model_state_dict" in content:
        renamed = rename_older(content, policy, migration)
    else:
        who = "actor" if "actor_state_dict" in content else "student"
        renamed = rename_model(content[f"{who}_state_dict"], "actor", f"{who}.")
        renamed |= rename_model(content.get("critic_state_dict") or {}, "critic", "critic.")
    report = Report(str(path))
    without = [] if any(ours.startswith("critic") for ours, _ in renamed.values()) else ["critic"]
    if "student_state_dict" in content and not list(policy.action_head.parameters()):
        without.append("action_head")  # rsl_rl's students may act without noise
    with _all_or_nothing(policy):
        _fill(str(path), policy, renamed, report, (*_NEW, *without))
        if isinstance(target, PPO):
            _load_rnd(str(path), target, content, report)
    if isinstance(target, PPO):
        _resume(target, content, report)
    optimizers = [key for key in content if key.endswith("optimizer_state_dict")]
    for key in optimizers:
        report.add(key, "dropped", "", None, "its moments start anew")
    if "teacher_state_dict" in content:
        report.add("teacher_state_dict", "dropped", "", None, "a teacher is passed by itself")
    migration.report.rows.extend(report.rows)
    return report


@contextmanager
def _all_or_nothing(module: nn.Module) -> Iterator[None]:
    """Undo what was loaded into a module if an error comes."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        yield
    except StrlValueError:
        module.load_state_dict(before)
        raise


def _fill(
    path: str, module: nn.Module, renamed: Renamed, report: Report, optional: tuple[str, ...]
) -> None:
    """Load tensors into a module; refuse fewer than all of them."""
    homeless = [theirs for theirs, (ours, _) in renamed.items() if not ours]
    state = {ours: tensor.clone() for ours, tensor in renamed.values() if ours}
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise StrlValueError(
            f"migrate: the tensors of {path} do not fit the configuration. {error} Expected those "
            "of the same run: give the agent.yaml beside the checkpoint, and the same environment."
        ) from error
    theirs = {ours: name for name, (ours, _) in renamed.items()}
    homeless += [theirs.get(name, name) for name in found.unexpected_keys]
    missing = [name for name in found.missing_keys if not name.startswith(optional)]
    if homeless or missing:
        raise StrlValueError(
            f"migrate: {path} does not fit the configuration: {homeless[:6]} have no place, and "
            f"there is nothing for {missing[:6]}. Expected a checkpoint of the same run: give the "
            "agent.yaml beside it."
        )
    for name, (ours, tensor) in renamed.items():
        report.add(name, "loaded", ours, list(tensor.shape))
    for name in found.missing_keys:
        report.add("", "differs", name, None, "not in the checkpoint: begins anew")


def _load_rnd(path: str, model: PPO, content: Mapping[str, Any], report: Report) -> None:
    state = content.get("rnd_state_dict")
    found = [item for item in model.objectives if isinstance(item, RandomNetworkDistillation)]
    if state is None or not found:
        return
    renamed = rename_prefixes(state, RND, "rnd.")
    with _all_or_nothing(found[0].modules):
        _fill(path, found[0].modules, renamed, report, ("n_rollouts", "rewards."))


def _resume(model: PPO, content: Mapping[str, Any], report: Report) -> None:
    """Go on counting, and at the learning rate that the adaptive schedule had reached."""
    iteration = content.get("iter")
    if isinstance(iteration, int):
        model.n_iterations = iteration + 1
        model.num_timesteps = model.n_iterations * model.n_steps * model.n_envs
        note = "learn(..., reset_num_timesteps=False) goes on counting"
        report.add("iter", "mapped", "n_iterations", model.n_iterations, note)
    groups = (content.get("optimizer_state_dict") or {}).get("param_groups") or [{}]
    rate = groups[0].get("lr")
    if rate is not None and model.schedule == "adaptive":
        for group in model.policy.optimizer.param_groups:
            group["lr"] = th.full_like(th.as_tensor(group["lr"]), float(rate))
        report.add("optimizer.lr", "mapped", "current_lr", float(rate), "of the adaptive schedule")
