"""The entry point: one sub-command per module."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from torch.distributed.elastic.multiprocessing.errors import record

from sb3_strl import __version__
from sb3_strl.cli import bench, collect, doctor, evaluate, export, migrate, motion, play, train, zoo
from sb3_strl.cli.console import complain, one_line_warnings
from sb3_strl.common import distributed
from sb3_strl.common.errors import StrlError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_EXAMPLES = """\
examples:
  strl doctor                                                  is everything there?
  strl train --config walk.yml --out runs/walk                 the repository: examples/walk.yml
  strl evaluate runs/walk/model.zip --episodes 20
  strl play runs/walk/model.zip --out walk.gif
  strl collect runs/walk/model.zip --out demos
  strl export runs/walk/model.zip --out robot/
  strl migrate agent.yaml --out runs/walk                      from st_rl or rsl_rl
  strl motion inspect clip.npz --plot clip.png
  strl zoo train --algo appo --env sb3_strl/Walker-v0

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="strl",
        description="Train, look at, measure and export robot policies.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sb3_strl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for module in (train, play, evaluate, collect, export, migrate, motion, doctor, bench, zoo):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: default ``sys.argv[1:]``
    :return: exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    # What follows these is for another program, --help included.
    for command, run_with in ((zoo.NAME, zoo.run_with), (bench.NAME, bench.run_with)):
        if given[:1] == [command]:
            return _guarded(lambda run=run_with: run(given[1:]))  # type: ignore[misc]
    try:
        args = parser.parse_args(given)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    run: Callable[[argparse.Namespace], int] = args.run
    return _guarded(lambda: run(args))


def _guarded(run: Callable[[], int]) -> int:
    """Turn a user's mistake into a message and an exit code."""
    try:
        with one_line_warnings():
            # Under torchrun the reason also goes where its summary of the failure looks for it.
            return run() if distributed.world_size() == 1 else int(record(run)() or OK)
    except (StrlError, OSError) as error:
        complain(_signed(str(error)))
        return FAILED
    except KeyboardInterrupt:
        complain(_signed("interrupted"))
        return INTERRUPTED


def _signed(text: str) -> str:
    """Return a message with the command, and the process if there are several, before it."""
    who, colon, rest = text.partition(": ")
    if not colon or who.split(" ")[0] != "strl":  # else it says itself which command it is of
        who, rest = "strl", text
    rank = "" if distributed.world_size() == 1 else f" (rank {distributed.rank()})"
    return f"{who}{rank}: {rest}"
