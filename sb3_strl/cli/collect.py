"""``strl collect``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed

from sb3_strl.callbacks import DaggerCollector, DemonstrationRecorder
from sb3_strl.callbacks.recorder import RecorderKwargs
from sb3_strl.cli.console import has_progress_bar, say
from sb3_strl.cli.running import (
    add_device_argument,
    add_model_arguments,
    checked_device,
    load,
    make_env,
    statistics,
)
from sb3_strl.common.errors import StrlValueError

_EXAMPLES = """\
examples:
  strl collect runs/walk/model.zip --out demos
  strl collect model.zip --env Pendulum-v1 --episodes 50 --keep truncated --out demos
  strl collect camera.zip --compress depth --n-envs 64 --steps 1e6 --out demos
  strl collect teacher.zip --student runs/student --teacher-prob exp --out dagger   (DAgger)

read it with sb3_strl.data.RolloutDataset, train on it with TPPO(pretrain_dataset="demos", ...);
the same command again goes on with what is in the folder"""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "collect",
        help="record demonstrations, or a teacher's labels for a student (DAgger)",
        description="Let a policy act and write everything that happens as a rollout dataset.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add_device_argument(parser)
    add = parser.add_argument
    add("--out", default="demos", help="folder, default demos; what is there is continued")
    add("--steps", type=float, default=0, help="frames to keep, at least, default 0")
    add("--episodes", type=int, default=None, help="episodes to keep, at least, default 20")
    add("--max-steps", type=float, help="stop after as many of all environments, kept or not")
    add("--n-envs", type=int, default=16, help="environments, default 16")
    add(
        "--keep",
        choices=("all", "truncated", "terminated"),
        default="all",
        help="which trajectories: truncated are those that survived until the time limit",
    )
    add("--drop-partial", action="store_true", help="drop what is unfinished at the end")
    add("--stochastic", action="store_true", help="sample actions")
    add("--groups", nargs="+", help="observation groups to record, default all")
    add("--compress", nargs="+", default=[], metavar="SEGMENT", help="segments in [0, 1] as bytes")
    add("--steps-per-file", type=int, default=64, help="default 64")
    add("--student", metavar="DIR", help="drive with the newest model in this folder, too (DAgger)")
    add("--teacher-prob", default="exp", help="with --student: schedule or number, default exp")
    add("--teacher-scale", type=float, default=5000, help="of the schedule, in updates")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record."""
    _check(args)
    device = checked_device(args.device)
    policy = load(args, device)
    normalizer = statistics(args, policy)
    env = make_env(args, args.n_envs, policy, normalizer=normalizer, device=device, by_group=True)
    try:
        with _recorder(args, env, policy) as recorder:
            if recorder.seed is not None:  # a second recording samples anew, too
                set_random_seed(recorder.seed)
            recorder.run()
    finally:
        env.close()
    recorder.print_log()
    kept = f"{recorder.total_episodes} trajectories, {recorder.total_timesteps} steps"
    say(f"Wrote {args.out}: {kept}")
    if isinstance(recorder, DaggerCollector) and recorder.newest.path is None:
        say(f"There was no model in {args.student}: the teacher drove all the time.")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything is loaded."""
    for name, value in (("--steps", args.steps), ("--max-steps", args.max_steps)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise StrlValueError(f"strl collect: {name} is {value:g}. Expected a number of steps.")
    if args.student is not None and not Path(args.student).is_dir():
        raise StrlValueError(
            f"strl collect: --student is {args.student}, where there is no folder. Expected the "
            "one that the student's training writes its models to. Make it, if that is yet to "
            "begin."
        )
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise StrlValueError(f"strl collect: --out is {out}, which is a file. Expected a folder.")


def _recorder(args: argparse.Namespace, env: Any, policy: Any) -> DemonstrationRecorder:
    options: RecorderKwargs = {
        "rollout_storage_length": args.steps_per_file,
        "min_timesteps": int(args.steps),
        "min_episodes": _episodes(args),
        "max_timesteps": None if args.max_steps is None else int(args.max_steps),
        "keep": args.keep,
        "save_partial": not args.drop_partial,
        "demo_by_sample": args.stochastic,
        "groups": args.groups,
        "obs_disassemble_mapping": dict.fromkeys(args.compress, "normalized_image"),
        "config": _origin(args),
        "seed": args.seed,
        "progress_bar": has_progress_bar() and not args.quiet,
    }
    if args.student is None:
        return DemonstrationRecorder(env, policy, args.out, **options)
    return DaggerCollector(
        env,
        policy,
        args.out,
        Path(args.student),
        _probability(args.teacher_prob),
        args.teacher_scale,
        **options,
    )


def _origin(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the folder says about where its data are from."""
    origin = {"model": str(args.model), "env": args.env, "seed": args.seed}
    return origin | ({} if args.vec_normalize is None else {"vec_normalize": args.vec_normalize})


def _episodes(args: argparse.Namespace) -> int:
    """Return how many episodes are wanted: those, or 20 if nothing was said."""
    if args.episodes is None:
        return 0 if args.steps else 20
    if args.episodes < 1 and not args.steps:
        raise StrlValueError(
            f"strl collect: --episodes is {args.episodes} and --steps is {args.steps:g}. Expected "
            "something to record."
        )
    return int(args.episodes)


def _probability(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
