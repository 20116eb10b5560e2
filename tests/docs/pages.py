"""The pages of the documentation and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "sh", "shell")
LANGUAGES = ("", "python", *SHELLS, "yaml", "text")
_NOT_RUN = re.compile(r"<!--\s*not run:(.*?)-->", re.DOTALL)
_EMPTY_TABLE = re.compile(r"<!-- (.+?) -->\s*<!-- /\1 -->")
_DIRECTIVE = re.compile(r"^\{[\w-]+\}")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``reason`` says why it is not run, ``None`` that it is."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return README and everything in docs that people write."""
    written = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
    return [ROOT / "README.md", *written]


def is_finished(page: Path) -> bool:
    """Return whether no table of a page waits for its benchmark; docs/conf.py leaves others out."""
    return not _EMPTY_TABLE.search(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; directives of Sphinx are none."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    fence = language = ""
    for number, line in enumerate(lines):
        opened = re.match(r"^(\s*)(`{3,})(.*)$", line)
        if start is None and opened:
            start, fence, language = number, opened[2], opened[3].strip()
        elif start is not None and line.strip() == fence:
            if not _DIRECTIVE.match(language):
                text = "\n".join(lines[start + 1 : number])
                yield Block(page, start + 1, language, text, _reason(lines[:start]))
            start = None
    assert start is None, f"{page}: the block that begins in line {start} has no end"


def _reason(before: list[str]) -> str | None:
    while before and not before[-1].strip():
        before = before[:-1]
    if not before or not before[-1].rstrip().endswith("-->"):
        return None
    text = "\n".join(before)
    found = _NOT_RUN.fullmatch(text[text.rindex("<!--") :].strip())
    return found[1].strip() if found else None
