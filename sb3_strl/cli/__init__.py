"""The ``strl`` command; ``python -m sb3_strl.cli`` is the same."""
