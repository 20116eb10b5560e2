"""Configurations of rsl_rl 5, and of its versions 2 to 4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_strl.algorithms import PPO, TPPO
from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.migrate.migration import Migration, Spaces, add_defaults, count, last_name, spaces_of
from sb3_strl.migrate.plain_yaml import read_config
from sb3_strl.migrate.report import Report, Section
from sb3_strl.migrate.rsl_rl_models import Models, read_activation, read_model
from sb3_strl.migrate.rsl_rl_older import to_version_5
from sb3_strl.migrate.runner import read_runner
from sb3_strl.migrate.strl import read_optimizer
from sb3_strl.migrate.tables import PPO_KEYS, RSL_RL_DEFAULTS

_ALGORITHMS = ("PPO", "Distillation")
_NO_BOUND = 1e9
"""A bound on the gradient that is never reached."""
_PLACES = {
    "use_mixed_precision": "numbers are float32",
    "grad_reduce_bucket_mb": "one device is used",
    "multi_gpu_cfg": "one device is used",
}
_RND_KEYS = {
    "num_outputs": "num_outputs",
    "predictor_hidden_dims": "predictor_hidden_dims",
    "target_hidden_dims": "target_hidden_dims",
    "state_normalization": "state_normalization",
    "reward_normalization": "reward_normalization",
    "learning_rate": "learning_rate",
}
_RND_SCHEDULE = {
    "mode": "weight_schedule",
    "final_value": "final_weight",
    "initial_step": "initial_step",
    "final_step": "final_step",
}


def from_rsl_rl_config(
    source: Mapping[str, Any] | str | Path,
    env: Any = None,
    *,
    teacher: Any = None,
    step_dt: float | None = None,
    strict: bool = True,
) -> Migration:
    """
    Read the configuration of a run of rsl_rl.

    :param source: ``agent.yaml`` (path or text), or the mapping that ``OnPolicyRunner`` takes
    :param env: the environment, or ``Spaces(observation_space, action_space)``; needed where the
        networks depend on what is observed: images, and hidden widths of -1
    :param teacher: of a ``Distillation``: a policy, or the path of one
    :param step_dt: seconds per step, with which rsl_rl multiplies the weight of the intrinsic
        reward; default the environment's ``step_dt``
    :param strict: refuse unknown keys; otherwise they are in the report
    :return: what it stands for here
    :raises StrlTypeError: on unknown keys, each with the nearest known one
    :raises StrlValueError: for what would train something else here: actor and critic with
        different activations, memories or normalisation, symmetry, a beta distribution
    """
    spaces = None if env is None else spaces_of(env)
    report = Report("rsl_rl")
    top = Section("", to_version_5(read_config(source), report), report)
    algorithm = top.section("algorithm")
    kind = last_name(algorithm.take("class_name"), "PPO")
    if kind not in _ALGORITHMS:
        raise StrlValueError(
            f"migrate: algorithm.class_name is '{kind}'.{suggest(kind, _ALGORITHMS)} Expected one "
            f"of {list(_ALGORITHMS)}. Build a class of your own in Python."
        )
    cls = PPO if kind == "PPO" else TPPO
    report.add("algorithm.class_name", "mapped", "algorithm", cls.__name__, kind)
    migration = Migration(cls, "MlpPolicy", {}, report)
    migration.n_envs = getattr(env, "num_envs", None)
    read_runner(top, migration)
    wanted = ["actor", "critic"] if kind == "PPO" else ["student", "teacher"]
    if kind == "PPO" and algorithm.given.get("rnd_cfg"):
        wanted.append("rnd_state")
    sets = _read_groups(top, wanted, spaces)
    models = _read_models(top, kind, migration, Models(sets, spaces))
    if kind == "PPO":
        dt = step_dt if step_dt is not None else getattr(env, "step_dt", None)
        _read_ppo(algorithm, migration, sets, dt)
    else:
        _read_distillation(algorithm, migration, spaces)
        _read_teacher(top.section("teacher"), migration, teacher)
    if algorithm.take("share_cnn_encoders"):
        models.share_encoders(migration)
    for section in (top, algorithm):
        section.finish()
    note = "value of the true last observation where the environment has it, else as rsl_rl's"
    report.add("time-outs", "differs", "timeout_bootstrap", "auto", note + " 'last_value'")
    report.check_unknown(strict)
    return migration


def _read_groups(top: Section, wanted: list[str], spaces: Spaces | None) -> dict[str, list[str]]:
    """Return the groups of every set; where the environment is known, as rsl_rl resolves them."""
    given = top.section("obs_groups")
    sets: dict[str, list[str]] = {}
    for key in wanted:
        value = given.take(key)
        if value is not None:
            sets[key] = [value] if isinstance(value, str) else list(value)
    for key in [name for name in given.given if name not in sets]:
        note = "no model of this algorithm reads it"
        top.report.add(given.path(key), "dropped", "", given.given.pop(key), note)
    if spaces is not None:
        available = list(getattr(spaces.observation_space, "spaces", {"policy": None}))
        for key in wanted:
            if key not in sets and (key in available or "policy" in available):
                sets[key] = [key if key in available else "policy"]
    elif wanted[1] not in sets and sets.get(wanted[0], ["policy"]) != ["policy"]:
        raise StrlValueError(
            f"migrate: obs_groups has no '{wanted[1]}', and rsl_rl looks for it in the "
            f"environment. Expected the groups of '{wanted[1]}'. Name them, or pass env=."
        )
    return sets


def _read_models(top: Section, kind: str, migration: Migration, models: Models) -> Models:
    if kind == "PPO":
        actor, critic = top.section("actor"), top.section("critic")
        models.actor = read_model(actor, models, "actor", migration)
        models.critic = read_model(critic, models, "critic", migration)
    else:
        student = top.section("student")
        models.actor = read_model(student, models, "student", migration)
    if kind == "PPO":
        top.drop(dict.fromkeys(("student", "teacher"), "PPO has none"))
    models.write(migration)
    return models


def _read_ppo(
    section: Section, migration: Migration, sets: Mapping[str, list[str]], step_dt: float | None
) -> None:
    kwargs, report = migration.kwargs, section.report
    for key, ours in PPO_KEYS.items():
        section.move(key, kwargs, ours)
    add_defaults(kwargs, RSL_RL_DEFAULTS, report, PPO_KEYS)
    read_optimizer(section, "optimizer", migration)
    per_minibatch = section.take("normalize_advantage_per_mini_batch")
    if per_minibatch is not None:
        kwargs["normalize_advantage"] = "minibatch" if per_minibatch else "rollout"
        path, ours = section.path("normalize_advantage_per_mini_batch"), "normalize_advantage"
        report.add(path, "mapped", ours, kwargs[ours])
    section.drop(_PLACES)
    symmetry = section.take("symmetry_cfg")
    if symmetry:
        uses = [key for key in ("use_data_augmentation", "use_mirror_loss") if symmetry.get(key)]
        if uses:
            raise StrlValueError(
                f"migrate: {section.path('symmetry_cfg')} has {uses}, which this library does not "
                "have: without it another policy is learnt. Expected none. Set them to false."
            )
        report.add(section.path("symmetry_cfg"), "dropped", "", None, "was only logged")
    if section.given.get("rnd_cfg"):
        rnd = section.section("rnd_cfg")
        kwargs["rnd_kwargs"] = _read_rnd(rnd, sets, step_dt)
        rnd.finish()
    else:
        section.take("rnd_cfg")


def _read_rnd(
    section: Section, sets: Mapping[str, list[str]], step_dt: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    report = section.report
    for key, ours in _RND_KEYS.items():
        section.move(key, found, ours, shown=f"rnd_kwargs.{ours}")
    if "activation" in section:
        found["activation"] = read_activation(section)
        path, ours = section.path("activation"), "rnd_kwargs.activation"
        report.add(path, "mapped", ours, found["activation"])
    schedule = section.section("weight_schedule")
    for key, ours in _RND_SCHEDULE.items():
        schedule.move(key, found, ours, shown=f"rnd_kwargs.{ours}")
    schedule.finish()
    weight = float(section.take("weight", 0.0))
    # The runner writes these beside the weight that it has multiplied already.
    was_run = "num_states" in section
    if not was_run and weight != 0.0 and step_dt is None:
        raise StrlValueError(
            f"migrate: {section.path('weight')} is {weight}, which rsl_rl multiplies by the "
            "seconds per step of the environment. Expected step_dt. Pass step_dt=."
        )
    found["weight"] = weight if was_run else weight * float(step_dt or 0.0)
    note = "" if was_run else f"times step_dt = {step_dt}, as rsl_rl does"
    report.add(section.path("weight"), "mapped", "rnd_kwargs.weight", found["weight"], note)
    section.drop(dict.fromkeys(("num_states", "obs_groups"), "read from the environment"))
    if "rnd_state" not in sets:
        raise StrlValueError(
            "migrate: there is an rnd_cfg, but obs_groups has no 'rnd_state'. Expected the groups "
            "that say what state it is. Name them, or pass env= with a group 'rnd_state' or "
            "'policy', which rsl_rl takes then."
        )
    found["groups"] = list(sets["rnd_state"])
    report.add("obs_groups.rnd_state", "mapped", "rnd_kwargs.groups", found["groups"])
    return found


def _read_distillation(section: Section, migration: Migration, spaces: Spaces | None) -> None:
    """DAgger by the student alone, with the mean squared distance."""
    kwargs, report = migration.kwargs, section.report
    loss = section.take("loss_type", "mse")
    if loss != "mse":
        raise StrlValueError(
            f"migrate: {section.path('loss_type')} is '{loss}', which this library does not have. "
            "Expected 'mse'. Choose that, or a distill_target of TPPO in Python."
        )
    if spaces is None:
        raise StrlValueError(
            "migrate: the loss of a Distillation is a mean over the actions, so their number is "
            "needed. Expected the environment. Pass env=."
        )
    width = _action_count(spaces)
    kwargs |= {
        "using_ppo": False,
        "teacher_act_prob": 0.0,
        "label_action_with_critic_obs": False,
        "distill_target": "mse_sum",
        "distillation_loss_coef": 1.0 / width,
    }
    note = f"the mean over {width} actions is their sum / {width}"
    report.add(section.path("loss_type"), "mapped", "distill_target", "mse_sum", note)
    section.move("num_learning_epochs", kwargs, "n_epochs")
    kwargs.setdefault("n_epochs", 1)
    section.move("learning_rate", kwargs, "learning_rate")
    read_optimizer(section, "optimizer", migration)
    norm = section.take("max_grad_norm")
    kwargs["max_grad_norm"] = norm or _NO_BOUND
    shown = "no bound" if not norm else ""
    report.add(section.path("max_grad_norm"), "mapped", "max_grad_norm", norm, shown)
    steps = count(section.take("gradient_length", 15), section.path("gradient_length"))
    kwargs["n_minibatches"] = max(1, kwargs["n_steps"] // steps)
    note = "steps per update; the loss is their mean, in rsl_rl their sum"
    if "rnn" in migration.policy_kwargs:
        kwargs["sequence_length"] = min(steps, kwargs["n_steps"])
    report.add(
        section.path("gradient_length"), "differs", "n_minibatches", kwargs["n_minibatches"], note
    )
    section.drop({**_PLACES, "rnd_cfg": "not used", "symmetry_cfg": "not used"})


def _read_teacher(section: Section, migration: Migration, teacher: Any) -> None:
    """Take the teacher; a file of rsl_rl says everything but its activation."""
    report, path = section.report, section.path("activation")
    activation = read_activation(section)
    section.drop(dict.fromkeys(list(section.given), "the teacher's own file says what it is"))
    foreign = {"path": str(teacher), "activation": activation}
    if teacher is None:
        note = f"rsl_rl loads it into the runner: build(env, teacher={foreign | {'path': '...'}})"
        report.add("teacher", "differs", "teacher", None, note)
    elif isinstance(teacher, str | Path) and Path(teacher).suffix != ".zip":
        migration.kwargs["teacher"] = foreign
        report.add(path, "mapped", "teacher.activation", activation)
    else:
        migration.kwargs["teacher"] = teacher
        report.add(path, "dropped", "", activation, "the teacher itself says what it has")


def _action_count(spaces: Spaces) -> int:
    return math.prod(int(size) for size in spaces.action_space.shape or (1,))
