"""
Print the lowest versions that setup.cfg allows, as constraints for pip.

``python scripts/lowest.py mujoco zoo > lowest.txt`` takes what the package itself requires and what
these extras do. ``make test-lowest`` installs and tests them.
"""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterable
from pathlib import Path

_SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
_BOUND = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*(?:>=|==)\s*([0-9][0-9.]*)")


def lowest(requirements: Iterable[str]) -> list[str]:
    """
    Return ``name==version`` for every requirement with a lower bound.

    :param requirements: e.g. ``["torch>=2.8,<3"]``
    """
    found = [_BOUND.match(line.strip()) for line in requirements]
    return sorted({f"{match[1]}=={match[2]}" for match in found if match is not None})


def read_requirements(path: Path, extras: Iterable[str]) -> list[str]:
    """
    Return what a package requires.

    :param path: of setup.cfg
    :param extras: names of extras to include
    """
    config = configparser.ConfigParser()
    config.read(path, encoding="utf-8")
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"][extra] for extra in extras]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def main() -> None:
    """Print the constraints."""
    sys.stdout.write("\n".join(lowest(read_requirements(_SETUP, sys.argv[1:]))) + "\n")


if __name__ == "__main__":
    main()
