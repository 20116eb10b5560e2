"""What the runners of st_rl and rsl_rl have in common: the top of a configuration."""

from __future__ import annotations

from typing import Any

from sb3_strl.migrate.migration import Migration, count, last_name
from sb3_strl.migrate.report import Section
from sb3_strl.migrate.tables import INFERRED, RUNNER_DROPPED

_RUNNERS = ("OnPolicyRunner", "AmpPolicyRunner", "DistillationRunner")


def read_runner(top: Section, migration: Migration) -> None:
    """
    Take the keys of a runner.

    :param top: the configuration without its sections
    :param migration: filled
    """
    report, kwargs = top.report, migration.kwargs
    n_steps = count(top.take("num_steps_per_env", 24), top.path("num_steps_per_env"))
    kwargs["n_steps"] = n_steps
    report.add("num_steps_per_env", "mapped", "n_steps", n_steps)
    if top.given.get("max_iterations") is not None:
        migration.iterations = count(top.take("max_iterations"), top.path("max_iterations"))
        note = "iterations * n_steps * n_envs: migration.learn_kwargs(n_envs)"
        report.add("max_iterations", "mapped", "total_timesteps", migration.iterations, note)
    if top.given.get("save_interval") is not None:
        migration.save_interval = count(top.take("save_interval"), top.path("save_interval"))
        note = "in iterations: migration.callbacks(folder), strl train --checkpoint-interval"
        report.add("save_interval", "mapped", "CheckpointCallback", migration.save_interval, note)
    if "log_interval" in top:
        top.move("log_interval", migration.learn, "log_interval", shown="learn(log_interval)")
    if "seed" in top:
        top.move("seed", kwargs, "seed")
    if top.given.get("num_envs") is not None:
        migration.n_envs = count(top.take("num_envs"), top.path("num_envs"))
        report.add("num_envs", "mapped", "n_envs", migration.n_envs, "of make_vec")
    _read_random_starts(top, migration)
    device = top.take("device")
    if device is not None:
        note = "belongs to the machine: 'auto' takes a GPU if there is one; build(env, device=)"
        report.add("device", "dropped", "", device, note)
    clip = top.take("clip_actions")
    if clip is not None:
        note = "actions are clipped to the environment's action space: give it this bound"
        report.add("clip_actions", "differs", "action_space", clip, note)
    runner = top.take("class_name")
    if runner is not None:
        known = last_name(runner, "") in _RUNNERS
        note = (
            "there is one training loop"
            if known
            else "what this runner does beyond training is a callback or an option, see the guide"
        )
        report.add("class_name", "dropped" if known else "differs", "", runner, note)
    top.drop({**RUNNER_DROPPED, **INFERRED})
    top.seen |= {
        "max_iterations",
        "save_interval",
        "log_interval",
        "seed",
        "num_envs",
        "init_at_random_ep_len",
    }


def _read_random_starts(top: Section, migration: Migration) -> None:
    wanted: Any = top.take("init_at_random_ep_len")
    if wanted is not None:
        migration.random_starts = bool(wanted)
        note = "random_starts: true, or pass RandomStarts() to learn" if wanted else "as it is"
        top.report.add("init_at_random_ep_len", "mapped", "RandomStarts", wanted, note)
