"""``strl motion``: names of files are refused before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_strl.cli import motion
from sb3_strl.cli.main import main
from sb3_strl.data import load_motion
from sb3_strl.envs.walker_options import MOTIONS

WALK = str(MOTIONS / "walk.npz")


@pytest.mark.parametrize("name", ["y.json", "y", "y.csv"])
def test_other_formats_are_not_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["motion", "convert", WALK, "--out", str(tmp_path / name)]) == 1
    text = capsys.readouterr().err
    assert "Expected a name that ends in .npz" in text
    assert "y.npz" in text
    assert not list(tmp_path.iterdir())


def test_folders_are_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "y.npz"
    assert main(["motion", "convert", WALK, "--out", str(out)]) == 0
    assert load_motion(out).name == "walk"


def test_pictures_have_a_format_that_can_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(motion, "load_motion", lambda _: pytest.fail("it was read"))
        assert main(["motion", "inspect", WALK, "--plot", str(tmp_path / "p.xyz")]) == 1
        assert "p.xyz. Expected a name that ends in one of" in capsys.readouterr().err
        assert main(["motion", "inspect", WALK, WALK, "--plot", str(tmp_path / "file")]) == 1
        assert "for 2 clips. Expected a folder" in capsys.readouterr().err
        patch.setattr(motion, "find_spec", lambda _: None)
        assert main(["motion", "inspect", WALK, "--plot", "p.png"]) == 1
        assert "pip install 'sb3_strl[demo]'" in capsys.readouterr().err
    assert main(["motion", "inspect", WALK, "--plot", str(tmp_path / "pictures")]) == 0
    assert (tmp_path / "pictures" / "walk.png").is_file()
