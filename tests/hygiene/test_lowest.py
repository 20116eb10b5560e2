"""The lowest versions, for ``make test-lowest``, are those of setup.cfg."""

from __future__ import annotations

from pathlib import Path

from scripts import lowest


def test_bounds_become_constraints() -> None:
    given = ["torch>=2.8,<3", "minari[hdf5]>=0.5", "requests", "rsl-rl-lib==5.5.1", "a<3"]
    assert lowest.lowest(given) == ["minari==0.5", "rsl-rl-lib==5.5.1", "torch==2.8"]


def test_extras_are_read_from_the_package() -> None:
    root = Path(lowest.__file__).resolve().parents[1]
    plain = lowest.read_requirements(root / "setup.cfg", [])
    more = lowest.read_requirements(root / "setup.cfg", ["mujoco"])
    assert any(line.startswith("torch>=") for line in plain)
    assert not any("mujoco" in line for line in plain)
    assert {line for line in more if line not in plain} >= {"mujoco>=3.3,<5"}
