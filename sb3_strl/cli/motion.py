"""``strl motion``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sb3_strl.cli.console import say
from sb3_strl.cli.running import check_target
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data import load_motion, plot_motion, validate_motion

_PICTURES = (".png", ".pdf", ".svg")
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
    inspect.add_argument("--plot", metavar="PATH", help=f"picture {_PICTURES}, or a folder")
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
    folder = None if args.plot is None else _folder_of_plots(Path(args.plot), len(args.files))
    passed = True
    for file in args.files:
        motion = load_motion(file)
        report = validate_motion(motion)
        passed = passed and report.passed
        say(report)
        if args.plot is not None:
            target = Path(args.plot) if folder is None else folder / f"{motion.name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            say(f"drawn: {plot_motion(motion, target)}")
    return 0 if passed else 1


def _folder_of_plots(target: Path, n_clips: int) -> Path | None:
    """Return the folder of several pictures, ``None`` for one; refuse what cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise StrlTypeError(
            "strl motion: --plot needs matplotlib, which is not installed. Install it with pip "
            "install 'sb3_strl[demo]', or leave --plot out."
        )
    is_picture = target.suffix.lower() in _PICTURES
    may_become = not target.exists() and not is_picture and (n_clips > 1 or not target.suffix)
    if target.is_dir() or may_become:
        return target
    if n_clips > 1:
        raise StrlValueError(
            f"strl motion: --plot is {target} for {n_clips} clips. Expected a folder."
        )
    if not is_picture:
        raise StrlValueError(
            f"strl motion: --plot is {target}. Expected a name that ends in one of {_PICTURES}, or "
            "a folder."
        )
    check_target("strl motion: --plot", target)
    return None


def run_convert(args: argparse.Namespace) -> int:
    """Write a clip in the library's format."""
    out = Path(args.out)
    if out.suffix.lower() != ".npz":
        raise StrlValueError(
            f"strl motion convert: --out is {out}. Expected a name that ends in .npz, the only "
            f"format that is written, e.g. {out.with_suffix('.npz')}."
        )
    check_target("strl motion convert: --out", out)
    motion = load_motion(args.file)
    out.parent.mkdir(parents=True, exist_ok=True)
    motion.save(out)
    say(f"Wrote {args.out}: '{motion.name}', {motion.fps:g} frames per second")
    return 0
