"""Links lead somewhere, and everything public has its place in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sb3_strl
from tests.docs.pages import ROOT, is_finished, pages

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


def test_every_algorithm_has_a_page_with_the_same_sections() -> None:
    algorithms = DOCS / "algorithms"
    written = {
        page.stem: page.read_text() for page in algorithms.glob("*.md") if page.stem != "index"
    }
    named = "\n".join(written.values())
    for name in sb3_strl.__all__:
        if name.endswith("PPO"):
            assert f"sb3_strl.algorithms.{name}`" in named or f"`{name}`" in named, name
    for page, text in written.items():
        for section in ("Can I use?", "Example", "Equations", "Results", "Parameters"):
            assert f"\n## {section}\n" in text, (page, section)
        assert page == "estimator_appo" or "\n## Differences" in text, page


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    for folder in ("guide", "algorithms"):
        assert f"\n{folder}/*\n" in index
    for folder in ("results", "design"):
        assert re.search(r"^:glob:$", (DOCS / folder / "index.md").read_text(), re.MULTILINE)


def test_every_package_is_in_the_reference() -> None:
    reference = (DOCS / "api" / "index.md").read_text()
    packages = {path.parent.name for path in (ROOT / "sb3_strl").glob("*/__init__.py")} - {"cli"}
    assert packages == set(re.findall(r"^sb3_strl\.(\w+)$", reference, re.MULTILINE))
