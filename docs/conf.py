"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import importlib
import os
import re
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import sb3_strl

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "sb3_strl"
author = "The sb3_strl authors"
project_copyright = f"{datetime.now(timezone.utc).year}, {author}"
version = release = sb3_strl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# A page whose tables a benchmark has not filled yet is not shown.
_EMPTY_TABLE = re.compile(r"<!-- (.+?) -->\s*<!-- /\1 -->")
UNFINISHED = [
    page.relative_to(HERE).as_posix()
    for page in sorted((HERE / "results").glob("*.md"))
    if _EMPTY_TABLE.search(page.read_text(encoding="utf-8"))
]
exclude_patterns = ["_build", *UNFINISHED]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "html_image"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

html_theme = "furo"
html_title = f"sb3_strl {release}"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# One page per package; what a package exports is what its __all__ says.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autosummary_generate = False
add_module_names = False
# Inherited from torch, Gymnasium or SB3: their words, their markup.
autodoc_inherit_docstrings = False
maximum_signature_line_length = 80

PACKAGES = (
    "algorithms",
    "objectives",
    "policies",
    "buffers",
    "envs",
    "data",
    "callbacks",
    "export",
    "migrate",
)
# Public names of modules that no package exports; guides refer to them.
MODULES = {
    "policies": ("memory", "estimation", "visual", "networks", "distributions"),
    "objectives": ("distances", "teacher"),
    "envs": ("walker", "walker_env", "replay", "hidden_velocities", "simulator"),
    "data": ("pose_error",),
    "callbacks": ("driver",),
}
COMMON = (
    "types",
    "errors",
    "segments",
    "memory_state",
    "sequences",
    "normalization",
    "rotations",
    "schedules",
    "returns",
    "flat_adam",
    "distributed",
)


def _module_section(name: str, level: str) -> list[str]:
    title = f"``{name}``"
    return [
        title,
        level * len(title),
        "",
        f".. automodule:: {name}",
        "   :members:",
        "   :show-inheritance:",
        "",
    ]


def _is_own(module: ModuleType, name: str) -> bool:
    """Return whether a name has a docstring to show, i.e. is no alias and no constant."""
    value = getattr(module, name)
    return callable(value) and getattr(value, "__name__", name) == name


def _package_page(package: str) -> str:
    name = f"sb3_strl.{package}"
    module = importlib.import_module(name)
    names = sorted(module.__all__, key=str.lower)
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {name}", "", ".. autosummary::", "   :nosignatures:", ""]
    lines += [f"   {item}" for item in names if _is_own(module, item)]
    lines += ["", "Everything", "-" * 10, ""]
    for item in names:
        value = getattr(module, item)  # some are imported on demand
        if isinstance(value, type) and value.__name__ != item:
            lines += [f"``{item}`` is :class:`~{name}.{value.__name__}`.", ""]
        elif isinstance(value, type):
            lines += [f".. autoclass:: {item}", "   :members:", "   :show-inheritance:", ""]
        elif callable(value):
            lines += [f".. autofunction:: {item}", ""]
        else:
            lines += [f".. py:data:: {item}", ""]
    for submodule in MODULES.get(package, ()):
        lines += _module_section(f"{name}.{submodule}", "-")
    return "\n".join(lines)


def _common_page() -> str:
    name = "sb3_strl.common"
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    for module in COMMON:
        lines += _module_section(f"{name}.{module}", "-")
    return "\n".join(lines)


def write_api(_: Sphinx) -> None:
    """Write one page per package from what it exports, so that none can be forgotten."""
    pages = {package: _package_page(package) for package in PACKAGES}
    pages["common"] = _common_page()
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    for package, text in pages.items():
        path = folder / f"sb3_strl.{package}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def outside_links(_: Sphinx, docname: str, source: list[str]) -> None:
    """Show links to files beside ``docs`` as paths: the site does not hold them."""
    page = HERE / docname

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = Path(os.path.normpath(page.parent / target.split("#")[0]))
        if path.is_dir() and (path / "index.md").exists():
            return f"[{text}]({target}/index.md)"
        if path.is_relative_to(HERE) or not path.is_relative_to(ROOT):
            return match.group(0)
        shown = text.strip("`")
        where = path.relative_to(ROOT).as_posix()
        return f"`{where}`" if shown == where else f"{text} (`{where}`)"

    source[0] = re.sub(r"(?<!!)\[([^\]\n]+)\]\((\.\.?/[^)\s]+)\)", replace, source[0])


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("builder-inited", write_api)
    app.connect("source-read", outside_links)
