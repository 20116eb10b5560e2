"""``strl migrate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from sb3_strl import PPO, make_vec
from sb3_strl.cli.config import CONFIG_FILE, TrainConfig, read_options, whole_number
from sb3_strl.cli.console import say
from sb3_strl.common.errors import StrlValueError
from sb3_strl.migrate import Migration, from_rsl_rl_config, from_strl_config, load_checkpoint
from sb3_strl.migrate.plain_yaml import read_config

_EXAMPLES = """\
examples:
  strl migrate logs/walk/params/agent.yaml --out runs/walk
  strl migrate agent.yaml --env sb3_strl/Walker-v0 --n-envs 64 --out runs/walk
  strl migrate agent.yaml --env my/Task-v0 --checkpoint model_1000.pt --out runs/walk
  strl train --config runs/walk/config.yml --resume runs/walk/model.zip --out runs/more

what it writes: config.yml for strl train, zoo.yml for strl zoo, report.txt, and with
--checkpoint model.zip, which play, evaluate, export and train --resume take"""

_SOURCES = {"rsl_rl": from_rsl_rl_config, "st_rl": from_strl_config}
_DEFAULT_ENVS = 4096
_BUILT_WITH = 2
"""Environments of the model that a checkpoint fills."""
_RSL_RL_ALONE = {
    "actor",
    "critic",
    "student",
    "obs_groups",
    "rnd_cfg",
    "symmetry_cfg",
    "normalize_advantage_per_mini_batch",
    "actor_obs_normalization",
    "state_dependent_std",
}
_PLACEHOLDER = "name-your-environment-v0"


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "migrate",
        help="take over a configuration and a checkpoint of st_rl or rsl_rl",
        description="Translate the agent.yaml of st_rl, st_gym or rsl_rl, say what became of every "
        "key, and convert a checkpoint. Nothing in a file is run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", help="agent.yaml")
    add("--from", dest="source", choices=list(_SOURCES), help="default: what it looks like")
    add("--checkpoint", metavar="FILE", help="model_*.pt of the same run; needs --env")
    add("--env", help="id of the environment")
    add("--env-kwargs", metavar="YAML", help="its options")
    add("--n-envs", type=int, help="environments, default what the file says, else 4096")
    add("--teacher", metavar="FILE", help="of a run with a teacher, if the file names none")
    add("--step-dt", type=float, help="seconds per step, for rsl_rl's intrinsic reward")
    add("--lenient", action="store_true", help="report unknown keys instead of refusing them")
    add("--out", default="migrated", help="folder, default migrated")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Migrate."""
    if args.checkpoint is not None and args.env is None:
        raise StrlValueError(
            "strl migrate: --checkpoint needs the environment, whose observations the networks "
            "read. Expected --env, e.g. --env sb3_strl/Walker-v0."
        )
    if args.n_envs is not None:
        whole_number("strl migrate", "n_envs", args.n_envs, "--n-envs")
    env = None
    if args.env is not None:
        options = {} if args.env_kwargs is None else read_options("--env-kwargs", args.env_kwargs)
        env = make_vec(args.env, _BUILT_WITH, env_kwargs=options)
    try:
        migration = _read(args, env)
        n_envs = args.n_envs or _envs_of_file(args) or _DEFAULT_ENVS
        out = Path(args.out)
        files = _configurations(args, migration, n_envs)
        model = _convert(args, migration, env, n_envs)
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (out / name).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        if model is not None:
            model.save(out / "model.zip")
    finally:
        if env is not None:
            env.close()
    (out / "report.txt").write_text(f"{migration.report}\n", encoding="utf-8")
    say(migration.report)
    written = [*files, "report.txt", *(["model.zip"] if model is not None else [])]
    say(f"Wrote {', '.join(written)} to {out}")
    return 0


def _read(args: argparse.Namespace, env: Any) -> Migration:
    source = args.source or _guess(read_config(args.config))
    if source == "rsl_rl":
        return from_rsl_rl_config(
            args.config,
            env,
            teacher=args.teacher,
            step_dt=args.step_dt,
            strict=not args.lenient,
        )
    migration = from_strl_config(args.config, env, strict=not args.lenient)
    if args.teacher is not None:
        migration.kwargs["teacher"] = args.teacher
    return migration


def _guess(config: dict[str, Any]) -> str:
    """Tell rsl_rl from st_rl by keys that only the former has."""
    keys = set(config)
    for section in ("policy", "algorithm"):
        inner = config.get(section)
        keys |= set(inner) if isinstance(inner, dict) else set()
    return "rsl_rl" if keys & _RSL_RL_ALONE else "st_rl"


def _envs_of_file(args: argparse.Namespace) -> int | None:
    found = read_config(args.config).get("num_envs")
    if not isinstance(found, int):
        return None
    return whole_number(f"strl migrate: {args.config}", "n_envs", found, "num_envs")


def _configurations(
    args: argparse.Namespace, migration: Migration, n_envs: int
) -> dict[str, dict[str, Any]]:
    env_id = args.env or _PLACEHOLDER
    config = migration.train_config(env_id, n_envs)
    zoo = migration.zoo_config(env_id, n_envs)
    if args.env_kwargs is not None:
        options = read_options("--env-kwargs", args.env_kwargs)
        config["env_kwargs"] = options
        zoo[env_id]["env_kwargs"] = options
    TrainConfig.from_dict(config, "strl migrate")
    return {CONFIG_FILE: config, "zoo.yml": zoo}


def _convert(args: argparse.Namespace, migration: Migration, env: Any, n_envs: int) -> PPO | None:
    """Build the model in few environments and fill it; resuming brings the real number."""
    if args.checkpoint is None:
        return None
    kept = migration.kwargs.get("n_minibatches")
    model = migration.build(env, device="cpu", n_minibatches=1)
    load_checkpoint(args.checkpoint, model, migration)
    model.n_minibatches = kept
    model.num_timesteps = model.n_iterations * model.n_steps * n_envs
    return model
