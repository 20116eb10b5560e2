"""The budgets of the house; each rule is also shown an offence, so that it cannot go blind."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "sb3_strl").rglob("*.py"))
TEXT_SUFFIXES = {".py", ".md", ".cfg", ".toml", ".txt", ".yml", ".yaml", ".sh", ".xml", ".cff", ""}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_IGNORES_PER_1000_LINES = 3

Rule = Callable[[str], Iterator[str]]


def long_file(source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines, at most {MAX_FILE_LINES}"


def long_functions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        size = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if size > MAX_FUNCTION_LINES:
            yield f"line {node.lineno}: {node.name} has {size} body lines"


def stubs(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in ("NotImplementedError", "NotImplemented"):
            yield f"line {node.lineno}: {node.id}"
    for number, line in enumerate(source.splitlines(), 1):
        if re.search(r"#.*\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", line):
            yield f"line {number}: unfinished"


def careless_statements(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: bare except"
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: relative import"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield f"line {node.lineno}: print"


def unsafe_loading(source: str) -> Iterator[str]:
    """Data must never be able to run code: no pickle, no object arrays, no full YAML loader."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module or "", *(alias.name for alias in node.names)]
            if {name.split(".")[0] for name in names} & {
                "pickle",
                "cloudpickle",
                "dill",
                "marshal",
            }:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if call in ("th.load", "torch.load") and options.get("weights_only") != "True":
                yield f"line {node.lineno}: {call} without weights_only=True"
            if call in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                yield f"line {node.lineno}: {call} without allow_pickle=False"
            if re.fullmatch(r"yaml\.(load|load_all|full_load|unsafe_load)", call):
                yield f"line {node.lineno}: {call} (use yaml.safe_load)"
            if call in ("eval", "exec"):
                yield f"line {node.lineno}: {call}"


# The one reader of old pickles; tests/data/test_legacy.py shows that it executes nothing.
EXEMPT = {("unsafe_loading", "sb3_strl/data/legacy.py", "import pickle")}

RULES: list[Rule] = [long_file, long_functions, stubs, careless_statements, unsafe_loading]

OFFENCES: list[tuple[Rule, str]] = [
    (long_file, "x = 1\n" * (MAX_FILE_LINES + 1)),
    (long_functions, "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES + 1)),
    (stubs, "def f():\n    raise NotImplementedError('later')\n"),
    (stubs, "x = 1  # TO" + "DO: two\n"),
    (careless_statements, "try:\n    f()\nexcept:\n    g()\n"),
    (careless_statements, "from .errors import StrlError\n"),
    (careless_statements, "print('hello')\n"),
    (unsafe_loading, "import pickle\n"),
    (unsafe_loading, "from cloudpickle import loads\n"),
    (unsafe_loading, "th.load(path)\n"),
    (unsafe_loading, "th.load(path, weights_only=False)\n"),
    (unsafe_loading, "np.load(path)\n"),
    (unsafe_loading, "yaml.load(text, Loader=yaml.Loader)\n"),
    (unsafe_loading, "eval(text)\n"),
]


@pytest.mark.parametrize(("rule", "source"), OFFENCES)
def test_every_rule_sees_its_offence(rule: Rule, source: str) -> None:
    assert list(rule(source))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule: Rule) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {offence}"
        for path in PACKAGE
        for offence in rule(path.read_text())
        if (rule.__name__, path.relative_to(ROOT).as_posix(), offence.partition(": ")[2])
        not in EXEMPT
    ]
    assert PACKAGE
    assert not found, "\n".join(found)


def test_the_type_checker_is_rarely_silenced() -> None:
    sources = [path.read_text() for path in PACKAGE]
    lines = sum(source.count("\n") for source in sources)
    ignores = sum(source.count("# type:" + " ignore") for source in sources)
    assert ignores <= MAX_IGNORES_PER_1000_LINES * lines / 1000, f"{ignores} in {lines} lines"


MACHINE_PATH = re.compile(r"(?<![\w.:/}-])/(?:home|root|Users|work|mnt|farm)/")


def published_files() -> list[Path]:
    """What git tracks, or, without git (an unpacked sdist), what the package holds."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [name for name in done.stdout.split("\0") if name]
    files = [ROOT / name for name in names] if done.returncode == 0 else PACKAGE
    return [path for path in files if path.is_file() and path.suffix in TEXT_SUFFIXES]


@pytest.mark.parametrize("line", ["path = '/ho" + "me/ada/x'", "see /ro" + "ot/x", "/wo" + "rk/x"])
def test_machine_paths_are_recognised(line: str) -> None:
    assert MACHINE_PATH.search(line)


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in published_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


IMPORT_SCRIPT = """
import importlib, pkgutil, sys
import stable_baselines3, torch as th  # what they import and set is not ours to answer for
before = set(sys.modules)
flags = lambda: (
    th.get_default_dtype(), th.get_num_threads(), th.get_float32_matmul_precision(),
    th.backends.cuda.matmul.allow_tf32, th.is_grad_enabled(), th.get_rng_state().sum().item(),
    th.distributions.Distribution._validate_args,
)
was = flags()
import sb3_strl
for room in pkgutil.iter_modules(sb3_strl.__path__):
    if room.ispkg:
        importlib.import_module("sb3_strl." + room.name)
assert flags() == was, f"importing changed torch: {was} -> {flags()}"
assert "torch._dynamo" not in set(sys.modules) - before, "a second for those who do not train"
print(" ".join(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""

OPTIONAL = {
    "brax", "datasets", "glfw", "imageio", "imitation", "isaaclab", "jax", "matplotlib", "mjlab",
    "mujoco", "onnx", "onnxruntime", "onnxscript", "pandas", "pyarrow", "rl_zoo3", "rsl_rl",
    "sb3_contrib", "scipy", "skrl", "tensordict",
}  # fmt: skip


def test_importing_the_rooms_imports_no_optional_package_and_sets_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "sb3_strl" in imported
    assert not imported & OPTIONAL


def metadata() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def requirements(text: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def test_pins_lie_within_what_the_package_asks_for() -> None:
    config = metadata()
    extras = config["options.extras_require"]
    asked = requirements("\n".join([config["options"]["install_requires"], *extras.values()]))
    for pin in requirements((ROOT / "constraints.txt").read_text()):
        version = next(iter(pin.specifier)).version
        ranges = [r.specifier for r in asked if r.name.lower() == pin.name.lower()]
        assert ranges, f"{pin.name} is pinned and nobody asks for it"
        assert all(r.contains(version, prereleases=True) for r in ranges), f"{pin} against {ranges}"


def test_the_extra_all_names_every_extra() -> None:
    extras = metadata()["options.extras_require"]
    (everything,) = requirements(extras["all"])
    assert everything.extras == set(extras) - {"all"}
