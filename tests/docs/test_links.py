"""Links lead somewhere, and everything public has its place in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sb3_strl
from tests.docs.pages import ROOT, blocks, is_finished, pages

DOCS = ROOT / "docs"
ALL = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_resolve(page: Path) -> None:
    if not is_finished(page):
        pytest.skip("its benchmark has not run")
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    here = [link.split("#")[0] for link in links if not re.match(r"^(\w+:|#)", link)]
    assert [link for link in here if not (page.parent / link).exists()] == []


ALGORITHMS = sorted({getattr(sb3_strl, n).__name__ for n in sb3_strl.__all__ if n.endswith("PPO")})
SECTIONS = ("Can I use?", "Example", "Equations", "Results", "Differences", "Parameters")


def sections(page: str) -> dict[str, str]:
    """Return what stands under each heading of the second order."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_algorithms_are_eight_and_their_pages_no_more() -> None:
    written = {page.stem for page in (DOCS / "algorithms").glob("*.md")} - {"index"}
    assert written == {page_of(name) for name in ALGORITHMS}
    assert len(ALGORITHMS) == 8


def page_of(algorithm: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", algorithm).lower()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_page_with_the_same_sections(name: str) -> None:
    text = (DOCS / "algorithms" / f"{page_of(name)}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert f"sb3_strl.algorithms.{name}`" in text
    found = sections(text)
    assert [section for section in SECTIONS if section not in found] == []
    assert re.search(rf"\b{name}\(", found["Example"]), "its own example"
    assert re.search(r"^\| what \|.* code \|$", found["Equations"], re.MULTILINE)
    assert re.search(r"(make|python|strl) \w+", found["Results"]), "a command"
    for told in ("seed", "core", "paper", "st_rl"):
        assert told in found["Results"] + found["Differences"], told


@pytest.mark.parametrize("name", ALGORITHMS)
def test_lists_of_algorithms_are_complete(name: str) -> None:
    link = f"]({page_of(name)}.md)"
    assert f"[`{name}`{link}" in (DOCS / "algorithms" / "index.md").read_text()
    assert f"\nalgorithms/{page_of(name)}\n" in (DOCS / "index.md").read_text()


def test_the_front_page_begins_as_the_readme() -> None:
    readme, front = (
        next(block.text for block in blocks(page) if block.language == "python")
        for page in (ROOT / "README.md", DOCS / "index.md")
    )
    assert readme.startswith(front)


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    assert "\nguide/*\n" in index
    for folder in ("results", "design"):
        assert re.search(r"^:glob:$", (DOCS / folder / "index.md").read_text(), re.MULTILINE)


def test_every_package_is_in_the_reference() -> None:
    reference = (DOCS / "api" / "index.md").read_text()
    packages = {path.parent.name for path in (ROOT / "sb3_strl").glob("*/__init__.py")} - {"cli"}
    assert packages == set(re.findall(r"^sb3_strl\.(\w+)$", reference, re.MULTILINE))
