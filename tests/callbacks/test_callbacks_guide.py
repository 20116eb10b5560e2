"""The guide to callbacks names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import sb3_strl.callbacks

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "callbacks.md"


def test_the_table_names_classes_that_exist() -> None:
    table = GUIDE.read_text(encoding="utf-8").split("The blocks below")[0]
    names = re.findall(r"`([A-Z]\w+(?:Callback|Starts|Doctor))`", table)
    assert len(names) >= 9
    missing = [name for name in names if name not in (*sb3_strl.callbacks.__all__, "EvalCallback")]
    assert not missing
