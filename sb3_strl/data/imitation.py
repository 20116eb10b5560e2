"""Demonstrations of the imitation library: its objects, ours, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sb3_strl.common.errors import StrlTypeError
from sb3_strl.data.imitation_files import (
    EncodedInfo,
    Infos,
    decode_info,
    encode_info,
    import_arrow,
    read_imitation,
    table_trajectories,
    write_imitation,
)
from sb3_strl.data.shards import Array
from sb3_strl.data.trajectory import Obs, Trajectory

__all__ = [
    "EncodedInfo",
    "decode_info",
    "encode_info",
    "from_imitation",
    "import_arrow",
    "read_imitation",
    "to_imitation",
    "to_transitions",
    "write_imitation",
]

_INSTALL = (
    'pip install "sb3_strl[imitation]" and then, since it pins an old Stable-Baselines3, '
    "pip install --no-deps imitation==1.0.1"
)


@runtime_checkable
class _TrajectoryLike(Protocol):
    obs: Any
    acts: Any
    terminal: bool
    infos: Any


@runtime_checkable
class _TransitionsLike(Protocol):
    obs: Any
    acts: Any
    next_obs: Any
    dones: Any
    infos: Any


@runtime_checkable
class _DictObsLike(Protocol):
    def unwrap(self) -> Mapping[str, Array]: ...


@runtime_checkable
class _LazyInfos(Protocol):
    """imitation's list that decodes, and with it executes, an info when it is touched."""

    _encoded_list: Sequence[str]


@runtime_checkable
class _WithRewards(Protocol):
    rews: Array


@runtime_checkable
class _DatasetLike(Protocol):
    column_names: Any

    def with_format(self, kind: str) -> Any: ...


def from_imitation(data: Any, infos: Infos = "skip") -> list[Trajectory]:
    """
    Convert demonstrations of imitation, whatever form they have; imitation need not be installed.

    ``terminal`` is taken as it is: imitation itself also sets it where a time limit ended the
    episode.

    :param data: a ``Trajectory`` or several (also the sequence that ``serialize.load`` returns),
        ``Transitions``, a ``datasets.Dataset``, or the path of a folder or an old ``.npz``
    :param infos: what becomes of infos that are still jsonpickle texts, see
        :func:`~sb3_strl.data.read_imitation`; decoded ones are kept in any case
    :return: the trajectories, arrays as copies
    :raises StrlTypeError: if it is something else
    """
    if isinstance(data, str | Path):
        return list(read_imitation(data, infos))
    if isinstance(data, _DatasetLike):
        table = data.with_format("arrow")[:]
        return list(table_trajectories("datasets.Dataset", table, infos))
    if isinstance(data, _TrajectoryLike):
        return [_trajectory(data, infos)]
    if isinstance(data, _TransitionsLike):
        return _split(data)
    if isinstance(data, Iterable):
        found = list(data)
        if all(isinstance(item, _TrajectoryLike) for item in found):
            return [_trajectory(item, infos) for item in found]
    raise StrlTypeError(
        f"from_imitation: the data is a {type(data).__name__}. Expected Trajectory objects, "
        "Transitions, a datasets.Dataset or a path. Convert it with imitation first."
    )


def to_imitation(trajectories: Iterable[Trajectory]) -> list[Any]:
    """
    Return imitation's own objects, which its trainers insist on.

    :param trajectories: the demonstrations
    :return: ``TrajectoryWithRew`` where there are rewards, else ``Trajectory``; dictionaries of
        observations become ``DictObs``
    :raises ImportError: if imitation is missing
    :raises StrlValueError: if an info is a jsonpickle text that is not plain JSON
    """
    types = _import_types("to_imitation")
    converted = []
    for trajectory in trajectories:
        obs = trajectory.obs
        fields: dict[str, Any] = {
            "obs": types.DictObs(dict(obs)) if isinstance(obs, Mapping) else obs.copy(),
            "acts": trajectory.acts.copy(),
            "infos": _decoded(trajectory.infos),
            "terminal": trajectory.terminal,
        }
        if trajectory.rews is None:
            converted.append(types.Trajectory(**fields))
        else:
            converted.append(types.TrajectoryWithRew(rews=trajectory.rews.copy(), **fields))
    return converted


def to_transitions(trajectories: Iterable[Trajectory]) -> Any:
    """
    Return imitation's ``Transitions``, or ``TransitionsWithRew`` if all have rewards.

    :param trajectories: the demonstrations
    :raises ImportError: if imitation is missing
    """
    _import_types("to_transitions")
    from imitation.data import rollout

    given = list(trajectories)
    converted = to_imitation(given)
    if all(trajectory.rews is not None for trajectory in given):
        return rollout.flatten_trajectories_with_rew(converted)
    return rollout.flatten_trajectories(converted)


def _import_types(where: str) -> Any:
    try:
        from imitation.data import types
    except ImportError as error:
        raise ImportError(f"{where} needs imitation ({error}): {_INSTALL}") from error
    return types


def _decoded(infos: Sequence[Any] | None) -> Any:
    if infos is None:
        return None
    # imitation concatenates them when it flattens trajectories: an array of objects, as it makes.
    return np.array(
        [decode_info(info) if isinstance(info, EncodedInfo) else info for info in infos],
        dtype=object,
    )


def _copied(obs: Any) -> Obs:
    if isinstance(obs, _DictObsLike):
        obs = obs.unwrap()
    if isinstance(obs, Mapping):
        return {name: np.array(values) for name, values in obs.items()}
    return np.array(obs)


def _trajectory(item: _TrajectoryLike, infos: Infos) -> Trajectory:
    rews = np.array(item.rews) if isinstance(item, _WithRewards) and item.rews is not None else None
    return Trajectory(
        _copied(item.obs), np.array(item.acts), rews, bool(item.terminal), _infos(item, infos)
    )


def _infos(item: _TrajectoryLike, infos: Infos) -> list[Any] | None:
    if item.infos is None:
        return None
    if not isinstance(item.infos, _LazyInfos):
        return list(item.infos)
    if infos == "skip":
        return None
    texts = [EncodedInfo(text) for text in item.infos._encoded_list]
    return texts if infos == "encoded" else [decode_info(text) for text in texts]


def _split(data: _TransitionsLike) -> list[Trajectory]:
    """Cut transitions where an episode is done or the next row is not the next state."""
    obs, following = _copied(data.obs), _copied(data.next_obs)
    acts, dones = np.array(data.acts), np.array(data.dones, np.bool_)
    rews = np.array(data.rews) if isinstance(data, _WithRewards) and data.rews is not None else None
    infos = None if data.infos is None else list(data.infos)
    joined = np.ones(max(len(acts) - 1, 0), np.bool_)
    for now, then in zip(_arrays(obs), _arrays(following), strict=True):
        same = now[1:] == then[:-1]
        joined &= same.reshape(len(same), -1).all(axis=1)
    ends = np.append(dones[:-1] | ~joined, True)[: len(acts)]
    found: list[Trajectory] = []
    start = 0
    for end in np.flatnonzero(ends) + 1:
        here = slice(start, int(end))
        found.append(
            Trajectory(
                _append(obs, following, here),
                acts[here],
                None if rews is None else rews[here],
                bool(dones[here.stop - 1]),
                None if infos is None else infos[here],
            )
        )
        start = here.stop
    return found


def _arrays(obs: Obs) -> list[Array]:
    return list(obs.values()) if isinstance(obs, Mapping) else [obs]


def _append(obs: Obs, following: Obs, here: slice) -> Obs:
    """Return the rows with the observation after the last of them."""
    last = slice(here.stop - 1, here.stop)
    pairs = zip(_arrays(obs), _arrays(following), strict=True)
    joined = [np.concatenate((now[here], then[last])) for now, then in pairs]
    return dict(zip(obs, joined, strict=True)) if isinstance(obs, Mapping) else joined[0]
