"""``strl bench``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_strl.common.errors import StrlValueError

NAME = "bench"
_SCRIPT = Path("benchmarks") / "peers.py"


def add_parser(commands: Any) -> None:
    """Add the sub-command, for the list of commands; :func:`run_with` runs it."""
    commands.add_parser(
        NAME, help="measure iteration times beside other libraries (in a checkout)", add_help=False
    )


def find_script() -> Path:
    """
    Return the benchmark of the checkout.

    :raises StrlValueError: if this is an installed package without one
    """
    for root in (Path.cwd(), Path(__file__).parents[2]):
        if (root / _SCRIPT).is_file():
            return root / _SCRIPT
    raise StrlValueError(
        f"strl bench: there is no {_SCRIPT}. Expected a checkout of the repository: benchmarks are "
        "not part of the installed package."
    )


def run_with(arguments: Sequence[str]) -> int:
    """Run the benchmark with its own arguments; ``--help`` shows them."""
    command = [sys.executable, str(find_script()), *arguments]
    return subprocess.run(command, check=False).returncode
