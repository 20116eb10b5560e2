#!/bin/sh
# Give the environment of the Python $1 a torch: leave one that fits, else install the CPU build that constraints.txt pins.
# TORCH_INDEX, if set, is an index (URL) or a folder of wheels to take it from.
set -u
py=$1

if found=$("$py" -c '
import torch
release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
assert (2, 8) <= release < (3, 0), torch.__version__
print(torch.__version__)' 2>/dev/null); then
  echo "torch $found is there and fits: left alone."
  exit 0
fi

pip="$py -m pip install --disable-pip-version-check --quiet"
echo "Installing torch (the CPU build of constraints.txt)"
case "${TORCH_INDEX:-}" in
  "") log=$($pip -c constraints.txt torch 2>&1) && exit 0 ;;
  *://*) $pip --extra-index-url "$TORCH_INDEX" -c constraints.txt torch && exit 0 || exit 1 ;;
  *) $pip --find-links "$TORCH_INDEX" -c constraints.txt torch && exit 0 || exit 1 ;;
esac

# The configured index has no CPU build for this platform. uv knows where PyTorch keeps them.
echo "pip found no such build at the configured index; asking uv, which knows PyTorch's own"
pin=$(sed -n 's/^torch==\([0-9.]*\) .*/\1/p' constraints.txt)
if $pip uv && "$py" -m uv pip install --quiet --python "$py" --torch-backend cpu "torch==$pin"; then
  exit 0
fi
cat >&2 <<MESSAGE
$log

make: no CPU build of torch could be installed, and gigabytes of CUDA are not installed unasked. Either
  - say where PyTorch's CPU wheels are (pytorch.org, "Get started", Compute Platform CPU, shows the address):
      make install TORCH_INDEX=<that address, a mirror, or a folder of wheels>
  - or install any torch from 2.8 on yourself, CUDA or not, and let make see it:
      $py -m pip install torch
MESSAGE
exit 1
