"""``strl export``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from sb3_strl.cli.config import read_yaml
from sb3_strl.cli.console import say
from sb3_strl.cli.running import add_model_arguments, load, make_env, statistics
from sb3_strl.common.errors import StrlValueError, check_known
from sb3_strl.export import Deployment, export_policy

_EXAMPLES = """\
examples:
  strl export runs/walk/model.zip --out robot/
  strl export model.zip --formats onnx --robot go1.yml --out robot/
  strl export mutex.zip --env course-v0 --prove-in-env --out robot/
  strl export logs/strl_ppo/Hopper-v5_1/Hopper-v5.zip --out robot/ \\
      --vec-normalize logs/strl_ppo/Hopper-v5_1/Hopper-v5/vecnormalize.pkl

the file for --robot:
  joint_names: [right_hip, right_knee, ...]
  action_scale: 0.25
  action_offset: [0.0, 0.8, ...]
  stiffness: 20.0
  damping: 0.5
  control_dt: 0.02"""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "export",
        help="write ONNX and TorchScript, and prove that they act the same",
        description="Write the actor for a robot: model.onnx, model.pt and metadata.json. Both "
        "files run beside the policy for 100 steps; if one differs, nothing is written.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add("--out", default="exported", help="folder, default exported")
    add("--formats", nargs="+", default=["onnx", "torchscript"], help="default both")
    add("--robot", metavar="FILE", help="yaml: names, scales and gains of the joints")
    add("--steps", type=int, default=100, help="steps of the proof, default 100")
    add("--tolerance", type=float, default=1e-5, help="of an action, default 1e-5")
    add("--prove-in-env", action="store_true", help="instead of on invented observations")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export."""
    for option, value in (("--env", args.env), ("--env-kwargs", args.env_kwargs)):
        if value is not None and not args.prove_in_env:
            raise StrlValueError(
                f"strl export: {option} is {value}, but nothing is proven in an environment. "
                f"Expected --prove-in-env with it. Add that, or leave {option} out."
            )
    deployment = None
    if args.robot is not None:
        given = read_yaml(args.robot)
        check_known(f"robot {args.robot}", "key", given, [item.name for item in fields(Deployment)])
        deployment = Deployment(**given)
    policy = load(args)
    normalizer = statistics(args, policy)
    env = make_env(args, 2, policy) if args.prove_in_env else None
    try:
        report = export_policy(
            policy,
            Path(args.out),
            args.formats,
            deployment,
            env,
            args.steps,
            args.tolerance,
            args.seed,
            normalizer,
        )
    finally:
        if env is not None:
            env.close()
    say(report)
    return 0
