"""The folder of a training: what may be written there, and what is kept."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_strl.cli.config import CONFIG_FILE, TrainConfig, read_yaml
from sb3_strl.common.errors import StrlValueError

_MODELS = ("model.zip", "model_*_steps.zip")
_OF_A_RUN = re.compile(
    r"model(_\d+_steps)?(\.zip|\.rank\d+\.pt)|progress(\.\d+)?\.csv|config(\.\d+)?\.yml"
    r"|events\.out\.tfevents\..*"
)
"""Names of everything that a training writes."""
_OF_THE_MOMENT = ("total_timesteps", "checkpoint_interval", "device")


@dataclass(frozen=True)
class RunFolder:
    """
    A folder for a model, its configuration and its curves.

    :param path: of the folder
    :param resumed: model that the training goes on with, if any
    :param overwrite: whether a run that lies there may be replaced
    """

    path: Path
    resumed: Path | None = None
    overwrite: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the training goes on where its model lies."""
        return self.resumed is not None and self.resumed.parent.resolve() == self.path.resolve()

    def check_free(self) -> None:
        """
        Refuse to replace another run unasked.

        :raises StrlValueError: if there is one
        """
        if self.goes_on or self.overwrite:
            return
        found = [file.name for name in _MODELS for file in sorted(self.path.glob(name))]
        curves = self.path / "progress.csv"
        if curves.is_file() and curves.stat().st_size > 0:
            found.append(curves.name)
        if found:
            resume = f"go on with that run by --resume {self.path / found[0]}, "
            raise StrlValueError(
                f"strl train: {self.path} holds a run already ({', '.join(found[:3])}). Expected a "
                "folder without one. Name another with --out, "
                f"{resume if found[0].endswith('.zip') else ''}or replace it with --overwrite."
            )

    def prepare(self, config: TrainConfig) -> str:
        """
        Make the folder ready and write the configuration.

        Where a training goes on, nothing is lost: new curves get a file of their own, and an older
        configuration is kept under another name if something changed.

        :param config: of this training
        :return: what the name of the curves' file ends in, e.g. ``".2"``
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / CONFIG_FILE
        if self.goes_on:
            if file.is_file() and _settings(read_yaml(file)) != _settings(asdict(config)):
                file.rename(_first_free(self.path, "config.{}.yml", 1)[0])
            if not file.is_file():
                config.save(file)
            is_first = not (self.path / "progress.csv").is_file()
            return "" if is_first else f".{_first_free(self.path, 'progress.{}.csv', 2)[1]}"
        if self.overwrite:
            for old in [item for item in self.path.iterdir() if _OF_A_RUN.fullmatch(item.name)]:
                old.unlink()
        config.save(file)
        return ""


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is made of, not how long this part of it is and where it runs."""
    whole = {**asdict(TrainConfig()), **config}
    return {key: value for key, value in whole.items() if key not in _OF_THE_MOMENT}


def _first_free(folder: Path, pattern: str, number: int) -> tuple[Path, int]:
    """Return the first file of a numbered name that is not there yet, and its number."""
    while (folder / pattern.format(number)).exists():
        number += 1
    return folder / pattern.format(number), number
