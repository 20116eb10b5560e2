"""Datasets of Minari, read and written with Minari itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data.shards import Array
from sb3_strl.data.trajectory import Obs, Trajectory

# What Minari and the libraries below it raise depends on what is wrong with the file.
_DAMAGES = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OSError)
_INSTALL = 'pip install "minari[hdf5]"'


@runtime_checkable
class _Dataset(Protocol):
    def iterate_episodes(self) -> Iterator[Any]: ...


def read_minari(dataset: Any) -> Iterator[Trajectory]:
    """
    Read a Minari dataset, one episode after another.

    An episode whose recording stopped without an end counts as cut. Infos are left out. A folder
    that does not say its spaces is refused: Minari would make the environment that the file names
    to find out, and making it runs code that the file chooses.

    :param dataset: a ``minari.MinariDataset``, the folder of one, or the id of a local one
    :return: an iterator; dictionaries of observations stay dictionaries
    :raises StrlValueError: if there is no such dataset, or it is damaged or names no spaces
    :raises StrlTypeError: if spaces are neither arrays nor flat dictionaries of arrays
    :raises ImportError: if Minari is missing
    """
    if isinstance(dataset, _Dataset):
        return _episodes(dataset)
    minari = _import("read_minari")
    folder = Path(dataset)
    if not folder.is_dir():
        from minari.storage import get_dataset_path

        folder = Path(get_dataset_path(str(dataset)))
    _check_folder(dataset, folder / "data")
    try:
        opened = minari.MinariDataset(folder / "data")
    except _DAMAGES as error:
        raise StrlValueError(
            f"read_minari: '{dataset}' cannot be read ({error}). Expected a folder that Minari "
            "wrote. The dataset is damaged or of another version."
        ) from error
    return _episodes(opened)


def write_minari(
    dataset_id: str,
    trajectories: Iterable[Trajectory],
    env: Any = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    data_format: str = "hdf5",
    author: str | None = None,
    algorithm_name: str | None = None,
    description: str | None = None,
) -> Any:
    """
    Write demonstrations as a local Minari dataset, under Minari's own root folder.

    :param dataset_id: Minari's name, e.g. ``"walker/expert-v0"``
    :param trajectories: the demonstrations; infos are left out, unknown rewards become 0, and a
        trajectory that is not terminal counts as truncated
    :param env: id, spec or environment they come from; optional if both spaces are given
    :param observation_space: by default the environment's, or unbounded ones like the arrays
    :param action_space: likewise
    :param data_format: ``"hdf5"``, ``"arrow"`` or ``"parquet"``
    :param author: who made it
    :param algorithm_name: what acted
    :param description: what it is
    :return: the ``minari.MinariDataset``
    :raises StrlValueError: if there is no trajectory, or Minari refuses them
    :raises ImportError: if Minari is missing
    """
    minari = _import("write_minari")
    given = list(trajectories)
    if not given:
        raise StrlValueError(
            f"write_minari: there are no trajectories for '{dataset_id}'. Expected at least one."
        )
    if env is None:
        observation_space = observation_space or _space_like([t.obs for t in given])
        action_space = action_space or _space_like([t.acts for t in given])
    from minari.data_collector import EpisodeBuffer
    from minari.storage import get_dataset_path

    folder = Path(get_dataset_path(dataset_id))
    was_there = folder.exists()
    # One type for all: Arrow does not read rewards of float32 beside others of float64.
    known = [t.rews.dtype for t in given if t.rews is not None] or [np.dtype(np.float32)]
    reward_type = np.result_type(*known)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=dict(t.obs) if isinstance(t.obs, Mapping) else t.obs,
            actions=t.acts,
            rewards=np.asarray(np.zeros(len(t)) if t.rews is None else t.rews, reward_type),
            terminations=_last(len(t), t.terminal),
            truncations=_last(len(t), not t.terminal),
        )
        for number, t in enumerate(given)
    ]
    try:
        return minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env,
            observation_space=observation_space,
            action_space=action_space,
            data_format=data_format,
            jpeg_encoding=False,
            author=author,
            algorithm_name=algorithm_name,
            description=description,
        )
    except _DAMAGES as error:
        if not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        raise StrlValueError(
            f"write_minari: Minari refuses '{dataset_id}' ({error}). Expected a new id and "
            "trajectories that fit the spaces."
        ) from error


def _import(where: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError(f"{where} needs Minari ({error}): {_INSTALL}") from error
    return minari


def _check_folder(dataset: Any, folder: Path) -> None:
    """Refuse what is no dataset, and what would have an environment made."""
    try:
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        named = isinstance(metadata, dict) and {"observation_space", "action_space"} <= set(
            metadata
        )
    except (OSError, ValueError) as error:
        raise StrlValueError(
            f"read_minari: '{dataset}' is no Minari dataset ({error}). Expected the id of a local "
            "one, or a folder with data/metadata.json. minari.download_dataset fetches others."
        ) from error
    if not named:
        raise StrlValueError(
            f"read_minari: the metadata of '{dataset}' name no observation_space and action_space. "
            "Expected both: without them the environment that the file names would be made, which "
            "runs code. Open it with minari.load_dataset if you trust it, and pass the result."
        )


def _episodes(dataset: _Dataset) -> Iterator[Trajectory]:
    episodes = iter(dataset.iterate_episodes())
    while (episode := _next(episodes)) is not None:
        ended = len(episode.terminations) > 0 and bool(episode.terminations[-1])
        yield Trajectory(
            _arrays("observations", episode.observations),
            _array("actions", episode.actions),
            np.array(episode.rewards, np.float64),
            ended,
        )


def _next(episodes: Iterator[Any]) -> Any:
    try:
        return next(episodes, None)
    except _DAMAGES as error:
        raise StrlValueError(
            f"read_minari: an episode cannot be read ({error}). Expected what Minari writes. The "
            "dataset is damaged; the episodes before this one are whole."
        ) from error


def _arrays(name: str, values: Any) -> Obs:
    if isinstance(values, Mapping):
        return {key: _array(f"{name}['{key}']", value) for key, value in values.items()}
    return _array(name, values)


def _array(name: str, values: Any) -> Array:
    if isinstance(values, Mapping | tuple):
        raise StrlTypeError(
            f"read_minari: '{name}' is a {type(values).__name__}. Expected an array, or one flat "
            "dictionary of arrays. Flatten it with gymnasium.spaces.utils.flatten first."
        )
    return np.array(values)


def _last(length: int, value: bool) -> Array:
    flags = np.zeros(length, np.bool_)
    flags[-1] = value
    return flags


def _space_like(values: list[Obs]) -> spaces.Space[Any]:
    """Return the space in which all the arrays lie."""
    first = values[0]
    if isinstance(first, Mapping):
        parts = {k: _space_like([v[k] for v in values if isinstance(v, Mapping)]) for k in first}
        return spaces.Dict(parts)
    if first.ndim == 1 and first.dtype.kind in "iu":
        arrays = [v for v in values if isinstance(v, np.ndarray)]
        start = min(0, *(int(np.min(v)) for v in arrays))
        return spaces.Discrete(1 + max(int(np.max(v)) for v in arrays) - start, start=start)
    if first.dtype.kind in "iu":
        bounds = np.iinfo(first.dtype)
        return spaces.Box(bounds.min, bounds.max, first.shape[1:], first.dtype.type)
    if first.dtype.kind == "b":
        return spaces.Box(0, 1, first.shape[1:], np.bool_)
    return spaces.Box(-np.inf, np.inf, first.shape[1:], first.dtype.type)
