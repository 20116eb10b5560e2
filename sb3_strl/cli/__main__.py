"""``python -m sb3_strl.cli``."""

from sb3_strl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
