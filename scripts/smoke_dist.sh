#!/bin/sh
# Install each distribution into an environment of its own, away from the source tree, and try it.
# The packages that it requires come from the environment of the Python $1; the package itself must not.
set -eu
py=$("$1" -c 'import sys; print(sys.executable)')
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for dist in "$@"; do
  rm -rf "$work/site"
  "$py" -m pip install --disable-pip-version-check --quiet --no-deps --target "$work/site" "$dist"
  (cd "$work" && PYTHONPATH="$work/site" "$py" - "$work/site" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import sb3_strl

root = Path(sb3_strl.__file__).parent
assert root.parent == Path(sys.argv[1]), f"imported from {root}, not from the distribution"
assert version("sb3_strl") == sb3_strl.__version__
assert (root / "py.typed").is_file()
assets = sorted(p.relative_to(root).as_posix() for p in (root / "envs/assets").rglob("*") if p.is_file())
for suffix in (".npz", ".xml", ".md"):
    assert any(name.endswith(suffix) for name in assets), f"no {suffix} among the assets: {assets}"
print(f"ok: {len(list(root.rglob('*.py')))} modules, {len(assets)} assets")
PYTHON
  ) || { echo "$dist does not work on its own" >&2; exit 1; }
done
