"""Where the zoo's configurations lie."""

from __future__ import annotations

import site
import sys
from pathlib import Path

import pytest

from sb3_strl.cli import zoo_files
from sb3_strl.cli.zoo_files import default_config
from sb3_strl.common.errors import StrlValueError


@pytest.mark.parametrize("how", ["checkout", "environment", "target", "user"])
def test_the_configurations_are_found(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pip leaves data files depends on how the package was installed."""
    package = tmp_path / "site-packages" / "sb3_strl" / "cli" / "zoo_files.py"
    monkeypatch.setattr(zoo_files, "__file__", str(package))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(site, "getuserbase", lambda: str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StrlValueError, match=r"there is no zoo_configs/appo\.yml"):
        default_config("appo")
    root = {
        "checkout": tmp_path / "site-packages",
        "target": tmp_path / "site-packages" / "share" / "sb3_strl",
    }.get(how, tmp_path / how / "share" / "sb3_strl")
    file = root / "zoo_configs" / "appo.yml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert default_config("appo") == str(file)
