"""Which code a run was made with."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.files import atomic_file

_TIMEOUT = 60.0  # s


class GitStateCallback(BaseCallback):
    """
    Write commit and uncommitted changes of git repositories beside the logs, when training begins.

    For every repository there is ``git/<name>.txt`` with folder, commit and ``git status``, and
    ``git/<name>.diff`` with the changes against the commit, staged or not. ``git checkout`` of the
    commit and ``git apply`` of the diff give the tracked files back; files that git does not track
    are named in the text only. What is no repository, or git itself missing, is a warning: a run
    does not fail for it.

    :param repos: folders or files inside the repositories, e.g. ``[__file__]``
    :param log_dir: where to write; default the logger's folder
    :param verbose: 0 silent, 1 info
    :raises StrlTypeError: if ``repos`` is a single path
    :raises StrlValueError: if there is no folder to write to
    """

    def __init__(
        self, repos: Iterable[str | Path], log_dir: str | Path | None = None, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        if isinstance(repos, (str, Path)):
            raise StrlTypeError(
                f"GitStateCallback: repos is the single path '{repos}'. Expected a list of paths: "
                f"repos=['{repos}']."
            )
        self.repos = [Path(repo) for repo in repos]
        self.log_dir = None if log_dir is None else Path(log_dir)

    def _on_training_start(self) -> None:
        folder = self.log_dir or self.logger.get_dir()
        if folder is None:
            raise StrlValueError(
                "GitStateCallback: the logger writes to no folder. Pass log_dir=..., or "
                "tensorboard_log=... to the algorithm."
            )
        names: set[str] = set()
        for repo in self.repos:
            self._write(repo, Path(folder) / "git", names)

    def _write(self, repo: Path, folder: Path, names: set[str]) -> None:
        place = repo.parent if repo.is_file() else repo
        try:
            root = Path(_git(place, "rev-parse", "--show-toplevel").decode().strip())
            head = _git(root, "rev-parse", "HEAD").decode().strip()
            status = _git(root, "status", "--short", "--branch")
            # No helper that the repository or the user has configured may run or reformat.
            options = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
            diff = _git(root, "diff", "HEAD", *options)
        except (OSError, subprocess.SubprocessError) as error:
            detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
            reason = (detail or b"").decode(errors="replace").strip() or str(error)
            warnings.warn(
                f"GitStateCallback: the state of '{repo}' is not recorded: {reason}. Give a folder "
                "inside a git repository with at least one commit.",
                stacklevel=3,
            )
            return
        name = _unused(root.name, names)
        folder.mkdir(parents=True, exist_ok=True)
        text = f"folder {root}\ncommit {head}\n\n".encode() + status
        for suffix, content in ((".txt", text), (".diff", diff)):
            with atomic_file(folder / f"{name}{suffix}") as file:
                file.write(content)
        if self.verbose:
            message = f"{root}: {head}, {len(diff)} bytes of changes"
            self.logger.info(message)

    def _on_step(self) -> bool:
        return True


def _unused(name: str, names: set[str]) -> str:
    """Return a name that no other repository of the run has, and take it."""
    candidate, number = name, 2
    while candidate in names:
        candidate, number = f"{name}-{number}", number + 1
    names.add(candidate)
    return candidate


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT)
    return done.stdout
