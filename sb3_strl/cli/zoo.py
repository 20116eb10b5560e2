"""``strl zoo``: rl_zoo3 with the algorithms and environments of this library."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sb3_strl.cli.console import has_progress_bar, say
from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest

NAME = "zoo"
_SCRIPTS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "plot_train": "rl_zoo3.plots.plot_train",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
    "all_plots": "rl_zoo3.plots.all_plots",
}
_DRAWING = ("matplotlib", "scipy", "seaborn")
_HELP = f"""\
usage: strl zoo SCRIPT ...

Run a script of rl_zoo3 with the algorithms of sb3_strl: strl_ppo (this library's PPO; 'ppo' stays
Stable-Baselines3's), appo, and the others that 'strl zoo train --help' lists under --algo.

scripts: {", ".join(_SCRIPTS)}

examples:
  strl zoo train --algo strl_ppo --env CartPole-v1
  strl zoo train --algo appo --env sb3_strl/Walker-v0 --device cuda --eval-freq -1
  strl zoo train --algo strl_ppo --env Pendulum-v1 -optimize --n-trials 100 --sampler tpe
  strl zoo train --algo strl_ppo --env mjlab/Mjlab-Cartpole-Balance --eval-freq -1
  strl zoo train --algo tppo --env sb3_strl/PendulumHidden-v1      (after strl_ppo, its teacher)
  strl zoo enjoy --algo strl_ppo --env CartPole-v1 -f logs --no-render

Hyperparameters come from zoo_configs/ALGO.yml; --conf-file names another file."""


def add_parser(commands: Any) -> None:
    """Add the sub-command, for the list of commands; :func:`run_with` runs it."""
    commands.add_parser(NAME, help="rl_zoo3 with these algorithms", add_help=False)


def run_with(arguments: Sequence[str]) -> int:
    """
    Run a script of rl_zoo3 with its own arguments.

    :param arguments: name of the script, then its arguments
    :return: exit code
    :raises StrlValueError: if there is no such script
    :raises StrlTypeError: if rl_zoo3 is not installed
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        say(_HELP)
        return 0 if arguments else 2
    script = arguments[0]
    if script not in _SCRIPTS:
        raise StrlValueError(
            f"strl zoo: unknown script '{script}'.{suggest(script, _SCRIPTS)} Known scripts: "
            f"{list(_SCRIPTS)}."
        )
    needed = ["rl_zoo3", "requests", *(_DRAWING if "plot" in script else ())]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise StrlTypeError(
            f"strl zoo: {missing} is not installed. Install it with pip install 'sb3_strl[zoo]'."
        )
    # Imported here: it changes gymnasium's TimeLimit for everybody.
    from sb3_strl.cli.zoo_manager import register

    register(arguments)
    before = sys.argv
    sys.argv = [f"strl zoo {script}", *arguments[1:], *_bar(script, arguments)]
    try:
        _run(script)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (ValueError, AssertionError) as error:
        if not _comes_from_the_zoo(error):
            raise
        raise StrlValueError(f"strl zoo {script}: {error}") from error
    finally:
        sys.argv = before
    return 0


def _comes_from_the_zoo(error: BaseException) -> bool:
    """Whether rl_zoo3 itself refused something: what is raised below it may be a defect."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and "rl_zoo3" in Path(frame.tb_frame.f_code.co_filename).parts


def _bar(script: str, arguments: Sequence[str]) -> list[str]:
    """Ask the zoo for its progress bar, where somebody looks; a search shows one line per trial."""
    quiet = {"-P", "--progress", "-h", "--help", "-optimize", "--optimize-hyperparameters"}
    wanted = script == "train" and has_progress_bar() and sys.stderr.isatty()
    return ["--progress"] if wanted and not quiet & set(arguments) else []


def _run(script: str) -> None:
    if script == "train":
        from rl_zoo3.train import train

        train()
    elif script == "enjoy":
        from rl_zoo3.enjoy import enjoy

        enjoy()
    else:
        if script == "push_to_hub":
            _supply_metadata()
        runpy.run_module(_SCRIPTS[script], run_name="__main__")


def _supply_metadata() -> None:
    """Give rl_zoo3's uploader the function that huggingface_sb3 3.2 has under another name."""
    # Not an import statement: the package has a function of the same name.
    hub = vars(import_module("huggingface_sb3.push_to_hub"))
    if "generate_metadata" not in hub:
        make_card = hub["_generate_metadata"]
        hub["generate_metadata"] = lambda *result: make_card(*result).to_dict()
