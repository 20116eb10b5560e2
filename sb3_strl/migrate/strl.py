"""Configurations of st_rl and st_gym."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th

from sb3_strl.algorithms import APPO, PPO, TPPO, EstimatorPPO
from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.common.segments import group_spaces
from sb3_strl.migrate.migration import Migration, add_defaults, last_name, spaces_of
from sb3_strl.migrate.plain_yaml import read_config
from sb3_strl.migrate.report import Report, Section
from sb3_strl.migrate.runner import read_runner
from sb3_strl.migrate.strl_policy import read_policy
from sb3_strl.migrate.tables import (
    ALGORITHMS,
    AMP_KEYS,
    ESTIMATOR_KEYS,
    STRL_DEFAULTS,
    STRL_PPO_KEYS,
    TEACHER_KEYS,
)

_RUNNER_OF_LEGGED_GYM = {"policy_class_name": "policy", "algorithm_class_name": "algorithm"}
_OPTIMIZERS: dict[str, type[th.optim.Optimizer] | None] = {
    "adam": None,  # ours is Adam too, with the same numbers
    "adamw": th.optim.AdamW,
    "sgd": th.optim.SGD,
    "rmsprop": th.optim.RMSprop,
}


def from_strl_config(
    source: Mapping[str, Any] | str | Path, env: Any = None, *, strict: bool = True
) -> Migration:
    """
    Read the configuration of an st_rl or st_gym run.

    :param source: ``agent.yaml`` (path or text) or the same as a mapping; of YAML's Python tags
        only tuples are followed, the others are never run
    :param env: the environment, if there is one already; its number of environments is kept
        and its groups tell whose segments are the critic's
    :param strict: refuse unknown keys; otherwise they are in the report
    :return: what it stands for here; ``print(migration.report)`` says what became of every key
    :raises StrlTypeError: on unknown keys, each with the nearest known one
    :raises StrlValueError: for a file, class or value that cannot be understood
    """
    given = _flatten(read_config(source))
    report = Report("st_rl")
    top = Section("", given, report)
    algorithm, policy = top.section("algorithm"), top.section("policy")
    if "ppo" in top and "ppo" not in algorithm:
        algorithm.given["ppo"] = top.given.pop("ppo")
    cls = _algorithm_class(algorithm)
    migration = Migration(cls, "MlpPolicy", {}, report)
    migration.n_envs = getattr(env, "num_envs", None)
    read_runner(top, migration)
    _read_algorithm(algorithm, migration)
    top.drop_unset("empirical_normalization")
    top.move(
        "empirical_normalization",
        migration.policy_kwargs,
        "empirical_normalization",
        shown="policy_kwargs.empirical_normalization",
    )
    groups = None if env is None else group_spaces(spaces_of(env).observation_space)
    read_policy(policy, migration, groups is None or "critic" in groups)
    for section in (top, algorithm, policy):
        section.finish()
    report.check_unknown(strict)
    return migration


def _flatten(given: dict[str, Any]) -> dict[str, Any]:
    """Bring the layout of legged_gym, with a section ``runner``, into that of Isaac Lab."""
    runner = given.get("runner")
    if not isinstance(runner, Mapping):
        return given
    flat = {**{key: value for key, value in given.items() if key != "runner"}}
    for key, value in runner.items():
        section = _RUNNER_OF_LEGGED_GYM.get(key)
        if section is None:
            flat.setdefault(key, value)
        else:
            flat[section] = {"class_name": value, **(flat.get(section) or {})}
    return flat


def _algorithm_class(section: Section) -> Any:
    given = section.take("class_name")
    name = last_name(given, "PPO")
    if name not in ALGORITHMS:
        raise StrlValueError(
            f"migrate: algorithm.class_name is '{given}'.{suggest(name, ALGORITHMS)} Expected one "
            f"of {list(ALGORITHMS)}. Build a class of your own in Python."
        )
    section.report.add(section.path("class_name"), "mapped", "algorithm", name)
    return ALGORITHMS[name]


def _read_algorithm(section: Section, migration: Migration) -> None:
    kwargs, cls = migration.kwargs, migration.algorithm
    nested = section.section("ppo")
    _read_ppo(nested, migration)
    nested.finish()
    _read_ppo(section, migration)
    add_defaults(kwargs, STRL_DEFAULTS, section.report, STRL_PPO_KEYS)
    groups: dict[type[PPO], tuple[str, ...]] = {
        APPO: AMP_KEYS,
        TPPO: TEACHER_KEYS,
        EstimatorPPO: ESTIMATOR_KEYS,
    }
    for owner, keys in groups.items():
        if issubclass(cls, owner):
            for key in keys:
                section.move(key, kwargs, key)
        else:
            section.drop(dict.fromkeys(keys, f"{cls.__name__} has no such part"))
    if issubclass(cls, APPO):
        _read_amp(section, migration)
    else:
        keys = ("amp_obs_dim", "dagger_loss_coef", "bc_loss_coef")
        section.drop(dict.fromkeys(keys, f"{cls.__name__} has no such part"))
    if issubclass(cls, TPPO):
        _read_teacher(section, migration)
    else:
        keys = ("teacher_policy", "teacher_policy_class_name", "teacher_ac_path")
        section.drop(dict.fromkeys(keys, f"{cls.__name__} has no teacher"))


def _read_ppo(section: Section, migration: Migration) -> None:
    for key, ours in STRL_PPO_KEYS.items():
        section.move(key, migration.kwargs, ours)
    read_optimizer(section, "optimizer_class_name", migration)
    section.drop_unset("empirical_normalization")
    section.move(
        "empirical_normalization",
        migration.policy_kwargs,
        "empirical_normalization",
        shown="policy_kwargs.empirical_normalization",
    )
    section.drop(
        {
            "device": "belongs to the machine: build(env, device=)",
            "class_name": "said by the algorithm",
        }
    )
    if not migration.kwargs.get("lr_scheduler_class"):
        migration.kwargs.pop("lr_scheduler_class", None)
        if not migration.kwargs.get("lr_scheduler_kwargs"):
            migration.kwargs.pop("lr_scheduler_kwargs", None)


def read_optimizer(section: Section, key: str, migration: Migration) -> None:
    """
    Take the name of an optimizer.

    :raises StrlValueError: if it is not one of theirs
    """
    given = section.take(key)
    if given is None:
        return
    name = last_name(given, "").lower()
    if name not in _OPTIMIZERS:
        raise StrlValueError(
            f"migrate: {section.path(key)} is '{given}'.{suggest(name, _OPTIMIZERS)} Expected one "
            f"of {list(_OPTIMIZERS)}. Pass your own in policy_kwargs=dict(optimizer_class=...)."
        )
    cls = _OPTIMIZERS[name]
    if cls is not None:
        migration.policy_kwargs["optimizer_class"] = cls
    note = "the default, in one kernel" if cls is None else ""
    section.report.add(section.path(key), "mapped", "policy_kwargs.optimizer_class", given, note)


def _read_amp(section: Section, migration: Migration) -> None:
    report, kwargs = section.report, migration.kwargs
    width = section.take("amp_obs_dim")
    path = section.path("amp_obs_dim")
    if isinstance(width, int) and not isinstance(width, bool):
        kwargs["amp_obs_dim"] = width
        report.add(path, "mapped", "amp_obs_dim", width, "checked against ref_obs")
    elif isinstance(width, list | tuple) and width and all(isinstance(n, int) for n in width):
        kwargs["amp_obs_dim"] = int(th.Size(width).numel())
        report.add(path, "mapped", "amp_obs_dim", kwargs["amp_obs_dim"], "checked against ref_obs")
    elif width in (None, {}, [], ()):
        report.add(path, "dropped", "", width, "read from ref_obs")
    else:
        raise StrlValueError(
            f"migrate: {path} is {width!r}. Expected the number of features per window, or a "
            "shape. Leave it out, it is read from ref_obs."
        )
    section.drop(
        {
            "bc_loss_coef": "never had an effect; behaviour cloning is a teacher's distillation",
            "dagger_loss_coef": "its labels were the policy's own actions; use a teacher (ATPPO)",
        }
    )
    _note_amp(section, kwargs)


def _note_amp(section: Section, kwargs: Mapping[str, Any]) -> None:
    report = section.report
    coef = kwargs.get("discriminator_loss_coef", 1.0)
    if coef not in (0, 0.0, 1, 1.0):
        note = "st_rl only asked whether it is 0; here it scales the loss: write 1.0 for the same"
        report.add(f"{section.name}.discriminator_loss_coef", "differs", "", coef, note)
    if kwargs.get("mimic_loss_coef"):
        note = "has no gradient, in st_rl neither; mimic_reward_coef rewards tracking"
        report.add(
            f"{section.name}.mimic_loss_coef", "differs", "", kwargs["mimic_loss_coef"], note
        )


def _read_teacher(section: Section, migration: Migration) -> None:
    report, kwargs = section.report, migration.kwargs
    class_name = section.take("teacher_policy_class_name")
    given = section.take("teacher_policy")
    path = section.take("teacher_ac_path")
    options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    if given is not None and not isinstance(given, Mapping):
        path = given
    for key in ("teacher_ac_path", "path"):
        path = options.pop(key, None) or path
    kind = last_name(options.pop("class_name", None) or class_name, "ActorCritic")
    if class_name is not None:
        note = "the file itself says what its teacher is"
        report.add(section.path("teacher_policy_class_name"), "dropped", "", class_name, note)
    where = section.path("teacher_policy")
    if path is None:
        note = f"no file of the {kind} is named: build(env, teacher='teacher.zip')"
        report.add(where, "differs", "teacher", None, note)
        return
    if options.get("mu_activation"):
        raise StrlValueError(
            f"migrate: {where}.mu_activation is '{options['mu_activation']}', which a teacher out "
            "of a checkpoint does not have. Expected none. Migrate the teacher's own run with "
            "--checkpoint, and name its model.zip."
        )
    foreign = Path(str(path)).suffix != ".zip"
    activation = options.get("activation")
    named = {"path": str(path), "activation": activation}
    kwargs["teacher"] = named if foreign and activation else str(path)
    note = "read without running anything; its normaliser is its own"
    if foreign and ("Recurrent" in kind or kind != "ActorCritic"):
        note = f"is a {kind}: migrate its own run with --checkpoint, and name its model.zip"
    report.add(where, "differs" if kind != "ActorCritic" else "mapped", "teacher", path, note)
