"""``python -m sb3_strl``, the command ``strl`` for launchers such as ``torchrun -m``."""

from sb3_strl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
