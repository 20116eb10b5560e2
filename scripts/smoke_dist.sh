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
import contextlib
import io
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
for room in ("algorithms", "buffers", "callbacks", "cli", "common", "data", "envs", "export", "migrate", "objectives", "policies"):
    assert (root / room / "__init__.py").is_file(), f"the room {room} is missing"
shipped = {file.stem for file in Path(sys.argv[1]).rglob("zoo_configs/*.yml")}
assert shipped >= {"strl_ppo", "appo", "tppo", "atppo", "estimator_ppo"}, f"zoo_configs: {sorted(shipped)}"
env = sb3_strl.make_vec("Pendulum-v1", 2, seed=0)
sb3_strl.PPO("MlpPolicy", env, n_steps=8, seed=0).learn(16)
from sb3_strl.cli.main import main

for command in ("train", "play", "evaluate", "collect", "export", "migrate", "motion"):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([command, "--help"]) == 0, command
print(f"ok: {len(list(root.rglob('*.py')))} modules, {len(assets)} assets")
PYTHON
  ) || { echo "$dist does not work on its own" >&2; exit 1; }
done
