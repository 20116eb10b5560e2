#!/bin/sh
# smoke_dist.sh PYTHON WHEEL SDIST: install each into a virtual environment of its own, away from the source tree, and try it.
# What it requires comes from the environment of PYTHON, so that nothing is downloaded twice; the package itself must not.
set -eu
py=$("$1" -c 'import sys; print(sys.executable)')
shift
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE=1 OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

check() { # in an empty folder, with the environment first on PATH
  python - "$1" <<'PYTHON'
import contextlib
import io
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import sb3_strl

site = Path(sysconfig.get_path("purelib")).resolve()
root = Path(sb3_strl.__file__).resolve().parent
assert root.parent == site, f"imported from {root}, not from the distribution in {site}"
assert version("sb3_strl") == sb3_strl.__version__
assert (root / "py.typed").is_file()
assets = sorted(p.relative_to(root).as_posix() for p in (root / "envs/assets").rglob("*") if p.is_file())
for suffix in (".npz", ".xml", ".md"):
    assert any(name.endswith(suffix) for name in assets), f"no {suffix} among the assets: {assets}"
source = Path(sys.argv[1]) / "sb3_strl"
ours, theirs = ({p.relative_to(tree) for p in tree.rglob("*.py")} for tree in (root, source))
assert ours == theirs, f"modules differ from the source distribution's: {sorted(map(str, ours ^ theirs))}"
from sb3_strl.cli.main import main

for command in ("train", "play", "evaluate", "collect", "export", "migrate", "motion"):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([command, "--help"]) == 0, command
print(f"{root}: {len(ours)} modules, {len(assets)} assets")
PYTHON
}

for dist in "$@"; do
  case $dist in *.tar.gz) tar -xzf "$dist" -C "$work" ;; esac
done
source=$(echo "$work"/sb3_strl-*)
[ -f "$source/examples/demo.py" ] || { echo "smoke_dist.sh: no source distribution with examples/ among: $*" >&2; exit 1; }

number=0
for dist in "$@"; do
  number=$((number + 1))
  env="$work/env$number" folder="$work/folder$number"
  echo "== $(basename "$dist")"
  "$py" -m venv "$env"
  "$env/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$dist"
  # After the installation, or pip takes an editable package of that environment for this one. A path adds its packages, not
  # the .pth files among them, so what is editable there stays invisible.
  "$py" - "$env" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
site = subprocess.run([f"{sys.argv[1]}/bin/python", "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
(Path(site) / "requirements.pth").write_text("".join(f"{path}\n" for path in theirs))
PYTHON
  mkdir "$folder"
  cp -r "$source/examples" "$folder" # without sb3_strl beside it
  (
    cd "$folder"
    PATH="$env/bin:$PATH"
    check "$source"
    strl doctor
    strl zoo train --algo strl_ppo --env CartPole-v1 -n 200 --eval-freq -1 >zoo.txt 2>&1 || { cat zoo.txt >&2; exit 1; }
    ls logs/strl_ppo/CartPole-v1_1/CartPole-v1.zip # trained with the hyperparameters that the distribution brings
    python examples/demo.py --smoke --out demo
  ) || { echo "$dist does not work on its own" >&2; exit 1; }
  echo "== $(basename "$dist"): ok"
done
