"""``strl motion``."""

from __future__ import annotations

import argparse
from typing import Any

from sb3_strl.cli.console import say
from sb3_strl.data import load_motion, plot_motion, validate_motion

_EXAMPLES = """\
examples:
  strl motion inspect clip.npz
  strl motion inspect mocap/*.json --plot pictures/
  strl motion convert dance.csv --out dance.npz"""


def add_parser(commands: Any) -> None:
    """Add the sub-command and its own."""
    parser = commands.add_parser(
        "motion",
        help="inspect and convert reference motions",
        description="Is a motion clip fit to be imitated?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    inspect = actions.add_parser("inspect", help="check clips, and draw them", **_help("inspect"))
    inspect.add_argument("files", nargs="+", help="files that load_motion reads")
    inspect.add_argument("--plot", metavar="PATH", help="picture, or a folder for several clips")
    inspect.set_defaults(run=run_inspect)
    convert = actions.add_parser("convert", help="write a clip as .npz", **_help("convert"))
    convert.add_argument("file", help="a file that load_motion reads")
    convert.add_argument("--out", required=True, help="file name, .npz")
    convert.set_defaults(run=run_convert)


def _help(action: str) -> dict[str, Any]:
    """Return the examples of one action."""
    mine = [line for line in _EXAMPLES.splitlines() if f" motion {action} " in line]
    return {
        "epilog": "\n".join(["examples:", *mine]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def run_inspect(args: argparse.Namespace) -> int:
    """Report on clips; 1 if one of them has a fault."""
    from pathlib import Path

    passed = True
    for file in args.files:
        motion = load_motion(file)
        report = validate_motion(motion)
        passed = passed and report.passed
        say(report)
        if args.plot is not None:
            target = Path(args.plot)
            if len(args.files) > 1 or target.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                target = target / f"{motion.name}.png"
            say(f"drawn: {plot_motion(motion, target)}")
    return 0 if passed else 1


def run_convert(args: argparse.Namespace) -> int:
    """Write a clip in the library's format."""
    motion = load_motion(args.file)
    motion.save(args.out)
    say(f"Wrote {args.out}: '{motion.name}', {motion.fps:g} frames per second")
    return 0
