"""Commit and changes beside the logs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from stable_baselines3.common.logger import Logger, configure

from sb3_strl import PPO
from sb3_strl.callbacks import GitStateCallback
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.toy import PointMass


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "inner").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "inner" / "a.py").write_text("one\n")
    (folder / "b.bin").write_bytes(bytes(range(256)))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def begin(callback: GitStateCallback, log: Path | None) -> None:
    model = PPO("MlpPolicy", PointMass(2), n_steps=2, n_minibatches=1, n_epochs=1)
    if log is not None:
        model.set_logger(configure(str(log), ["csv"]))
    model.learn(1, callback=callback)


def test_commit_and_diff_give_the_files_back(repo: Path, tmp_path: Path) -> None:
    (repo / "inner" / "a.py").write_text("two\n")  # not staged
    (repo / "b.bin").write_bytes(b"\x00\xff" * 9)
    git(repo, "add", "b.bin")  # staged
    (repo / "new.txt").write_text("nobody knows me")
    begin(GitStateCallback([repo / "inner" / "a.py"]), tmp_path / "log")
    text = (tmp_path / "log/git/code.txt").read_text()
    assert f"commit {git(repo, 'rev-parse', 'HEAD')}" in text
    assert "?? new.txt" in text
    git(repo, "reset", "-q", "--hard")
    git(repo, "apply", str(tmp_path / "log/git/code.diff"))
    assert (repo / "inner" / "a.py").read_text() == "two\n"
    assert (repo / "b.bin").read_bytes() == b"\x00\xff" * 9


def test_no_helper_of_the_repository_runs(repo: Path, tmp_path: Path) -> None:
    (repo / "inner" / "a.py").write_text("two\n")
    git(repo, "config", "diff.external", f"touch {tmp_path / 'ran'} #")
    begin(GitStateCallback([repo]), tmp_path / "log")
    assert not (tmp_path / "ran").exists()
    assert "+two" in (tmp_path / "log/git/code.diff").read_text()


def test_two_repositories_of_one_name(repo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "code"
    other.mkdir(parents=True)
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    begin(GitStateCallback([repo, other], tmp_path / "log"), None)
    names = sorted(path.name for path in (tmp_path / "log/git").iterdir())
    assert names == ["code-2.diff", "code-2.txt", "code.diff", "code.txt"]


def test_what_is_no_repository_is_a_warning(repo: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.warns(UserWarning, match="plain' is not recorded: .*not a git repository"):
        begin(GitStateCallback([plain, repo], tmp_path / "log"), None)
    assert (tmp_path / "log/git/code.diff").exists()


def test_a_repository_without_a_commit_and_a_missing_folder(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.warns(UserWarning, match="with at least one commit"):
        begin(GitStateCallback([tmp_path], tmp_path / "log"), None)
    with pytest.warns(UserWarning, match="nowhere' is not recorded"):
        begin(GitStateCallback([tmp_path / "nowhere"], tmp_path / "log"), None)
    assert not (tmp_path / "log/git").exists()


def test_without_git(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="is not recorded: .*git"):
        begin(GitStateCallback([repo], tmp_path / "log"), None)


def test_a_single_path_and_no_folder(repo: Path) -> None:
    with pytest.raises(StrlTypeError, match=r"Expected a list of paths: repos=\['code'\]"):
        GitStateCallback("code")
    model = PPO("MlpPolicy", PointMass(2), n_steps=2, n_minibatches=1, n_epochs=1)
    model.set_logger(Logger(None, []))
    with pytest.raises(StrlValueError, match=r"writes to no folder. Pass log_dir"):
        model.learn(1, callback=GitStateCallback([repo]))
