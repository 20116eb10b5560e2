"""imitation's dataset folders, read and written with pyarrow alone; nothing in them is executed."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data.shards import Array
from sb3_strl.data.trajectory import Trajectory

Infos = Literal["skip", "plain", "encoded"]
_COLUMNS = ("obs", "acts", "infos", "terminal")
_TAG = "py/"
_ARROW = 'pip install "pyarrow>=17"'


class EncodedInfo(str):
    """The jsonpickle text of an info, as it stands in a file: neither decoded nor executed."""

    __slots__ = ()


def read_imitation(path: str | Path, infos: Infos = "skip") -> Iterator[Trajectory]:
    """
    Read what imitation's ``serialize.save`` wrote: a folder, or one of its old ``.npz`` files.

    Types stay as they are in the file: float32 and uint8 come back as such. Infos are jsonpickle
    texts, which can run code where they are decoded, so they are left out unless asked for.

    :param path: the folder or file
    :param infos: ``"skip"``; ``"plain"`` decodes plain JSON and refuses everything else;
        ``"encoded"`` keeps the texts, e.g. to write them again
    :return: an iterator; one trajectory is in memory at a time
    :raises FileNotFoundError: if there is nothing
    :raises StrlValueError: if it is damaged or something else
    :raises ImportError: if pyarrow is missing
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source, infos)
    if not source.exists():
        raise FileNotFoundError(f"read_imitation: there is nothing at '{source}'.")
    return iter(_read_npz(source))


def write_imitation(
    path: str | Path, trajectories: Iterable[Trajectory], overwrite: bool = False
) -> Path:
    """
    Write demonstrations as a folder that imitation's ``serialize.load`` reads.

    :param path: the folder; it is there as a whole or not at all
    :param trajectories: all with rewards or all without, of the same shapes and types; infos are
        written as plain JSON
    :param overwrite: whether a dataset that is there may be replaced
    :return: the folder
    :raises StrlValueError: if there is no trajectory, they differ, or something is in the way
    :raises StrlTypeError: if observations are dictionaries, for which the format has no place
    :raises ImportError: if pyarrow is missing
    """
    import_arrow("write_imitation")
    target = Path(path)
    if target.exists() and not (overwrite and (target / "state.json").is_file()):
        raise StrlValueError(
            f"write_imitation: '{target}' exists. Expected a new folder, or overwrite=True and a "
            "folder of this format. Choose another name."
        )
    remaining = iter(trajectories)
    first = next(remaining, None)
    if first is None:
        raise StrlValueError(
            f"write_imitation: there are no trajectories for '{target}'. Expected at least one."
        )
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_folder(temporary, first, chain([first], remaining))
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def encode_info(info: Any) -> str:
    """
    Return an info as plain JSON, which jsonpickle reads as the same dictionary.

    :param info: dictionary of numbers, texts, lists, arrays and dictionaries, or an encoded text
    :raises StrlTypeError: if it holds anything else
    """
    if isinstance(info, EncodedInfo):
        return str(info)
    try:
        text = json.dumps(info, default=_plain)
    except (TypeError, ValueError) as error:
        raise StrlTypeError(
            f"write_imitation: an info cannot be written as JSON ({error}). Expected numbers, "
            "texts, lists, arrays and dictionaries. Leave it out with infos=None."
        ) from error
    decode_info(text)
    return text


def decode_info(text: str) -> dict[str, Any]:
    """
    Read an info that is plain JSON.

    :param text: from the file
    :return: the dictionary
    :raises StrlValueError: if it names Python classes or functions, or is no JSON
    """
    try:
        info = json.loads(text, object_pairs_hook=_without_tags)
    except json.JSONDecodeError as error:
        raise StrlValueError(
            f"read_imitation: an info is no JSON ({error}). Read it with infos='skip'."
        ) from error
    if not isinstance(info, dict):
        raise StrlValueError(
            f"read_imitation: an info is a {type(info).__name__}. Expected a dictionary. Read it "
            "with infos='skip'."
        )
    return info


def table_trajectories(where: str, table: Any, infos: Infos) -> Iterator[Trajectory]:
    """
    Convert an Arrow table, one row per trajectory.

    :param where: file, for messages
    :param table: ``pyarrow.Table`` or ``RecordBatch``
    :param infos: as for :func:`read_imitation`
    """
    missing = [name for name in _COLUMNS if name not in table.schema.names]
    if missing:
        raise StrlValueError(
            f"read_imitation: '{where}' has no columns {missing}. Expected {list(_COLUMNS)} and "
            f"perhaps 'rews', found {table.schema.names}."
        )
    for row in range(table.num_rows):
        rews = None
        if "rews" in table.schema.names:
            rews = _array(where, "rews", table.column("rews")[row])
        texts = None if infos == "skip" else _texts(where, table.column("infos")[row].as_py())
        yield Trajectory(
            _array(where, "obs", table.column("obs")[row]),
            _array(where, "acts", table.column("acts")[row]),
            rews,
            bool(table.column("terminal")[row].as_py()),
            None if texts is None else [_info(text, infos) for text in texts],
        )


def import_arrow(where: str) -> Any:
    """
    Import pyarrow.

    :param where: who needs it
    :raises ImportError: saying how to install it
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise ImportError(f"{where} needs pyarrow, which is not installed: {_ARROW}") from error
    return pyarrow


def _texts(where: str, cell: Any) -> list[str] | None:
    if cell is not None and not all(isinstance(text, str) for text in cell):
        raise StrlValueError(
            f"read_imitation: '{where}': 'infos' is no list of texts. Expected jsonpickle texts. "
            "Read it with infos='skip'."
        )
    return None if cell is None else list(cell)


def _info(text: str, infos: Infos) -> Any:
    return EncodedInfo(text) if infos == "encoded" else decode_info(text)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _without_tags(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, _ in pairs:
        if name.startswith(_TAG):
            raise StrlValueError(
                f"An info holds the jsonpickle tag '{name}', which can run code. Expected plain "
                "JSON. Read with infos='skip', or with infos='encoded' to keep the text."
            )
    return dict(pairs)


def _read_folder(folder: Path, infos: Infos) -> Iterator[Trajectory]:
    for path in _data_files(folder):
        yield from _read_stream(path, infos)


def _read_stream(path: Path, infos: Infos) -> Iterator[Trajectory]:
    arrow = import_arrow("read_imitation")
    try:
        with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as stream:
            for batch in stream:
                yield from table_trajectories(str(path), batch, infos)
    except (arrow.ArrowException, OSError) as error:
        raise StrlValueError(
            f"read_imitation: '{path}' cannot be read ({error}). Expected the Arrow stream "
            "that imitation's serialize.save writes. The file is damaged or foreign."
        ) from error


def _data_files(folder: Path) -> list[Path]:
    """Return the files that ``state.json`` names, all of them inside the folder."""
    state = folder / "state.json"
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
        paths = [folder / name for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StrlValueError(
            f"read_imitation: '{state}' cannot be read ({error}). Expected a folder that "
            "imitation's serialize.save wrote."
        ) from error
    if len(paths) != len(names) or not names or not all(path.is_file() for path in paths):
        raise StrlValueError(
            f"read_imitation: '{state}' names {names}. Expected files of this folder. Copy the "
            "folder again."
        )
    return paths


def _array(where: str, name: str, cell: Any) -> Array:
    """Return a cell of nested lists as an array of the stored type."""
    values = cell.values if hasattr(cell, "values") else None
    shape = [-1 if values is None else len(values)]
    while values is not None and hasattr(values.type, "value_type"):
        lengths = np.asarray(values.value_lengths())
        if values.null_count or len(set(lengths.tolist())) > 1:
            values = None
            break
        shape.append(int(lengths[0]) if len(lengths) else 0)
        values = values.flatten()
    if values is None or values.null_count:
        raise StrlValueError(
            f"read_imitation: '{where}': '{name}' is ragged or has gaps. Expected a rectangular "
            "array in every row."
        )
    array: Array = values.to_numpy(zero_copy_only=False)
    # A copy: Arrow's memory is read-only and belongs to the file.
    return np.array(array).reshape(shape)


def _write_folder(folder: Path, first: Trajectory, trajectories: Iterable[Trajectory]) -> None:
    arrow = import_arrow("write_imitation")
    name = "data-00000-of-00001.arrow"
    schema = _row(arrow, first, first).schema
    path = str(folder / name)
    with arrow.OSFile(path, "wb") as sink, arrow.ipc.new_stream(sink, schema) as stream:
        for trajectory in trajectories:
            stream.write_batch(_row(arrow, trajectory, first))
    state: Mapping[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": os.urandom(8).hex(),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    # No features: versions 2 and 4 of datasets spell them differently and both do without.
    info = dict.fromkeys(("citation", "description", "homepage", "license"), "")
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _row(arrow: Any, trajectory: Trajectory, first: Trajectory) -> Any:
    """Return a trajectory as a batch of one row."""
    columns, expected = _columns(trajectory), _columns(first)
    given = {name: (values.shape[1:], str(values.dtype)) for name, values in columns.items()}
    wanted = {name: (values.shape[1:], str(values.dtype)) for name, values in expected.items()}
    if given != wanted:
        raise StrlValueError(
            f"write_imitation: a trajectory has {given} in one step. Expected {wanted}, as in the "
            "first one. Write others into another folder."
        )
    arrays = {name: _nested(arrow, values) for name, values in columns.items()}
    texts = [encode_info(info) for info in trajectory.infos or [{}] * len(trajectory)]
    arrays["infos"] = arrow.array([texts], arrow.list_(arrow.string()))
    arrays["terminal"] = arrow.array([bool(trajectory.terminal)], arrow.bool_())
    return arrow.RecordBatch.from_pydict(arrays)


def _columns(trajectory: Trajectory) -> dict[str, Array]:
    if isinstance(trajectory.obs, Mapping):
        raise StrlTypeError(
            f"write_imitation: observations have the names {list(trajectory.obs)}. Expected one "
            "array: imitation's format knows no dictionaries. Use write_rollouts, or choose one of "
            "them."
        )
    columns = {"obs": trajectory.obs, "acts": trajectory.acts}
    return columns if trajectory.rews is None else columns | {"rews": trajectory.rews}


def _nested(arrow: Any, values: Array) -> Any:
    """Return an array as one cell of nested lists."""
    nested = arrow.array(np.ascontiguousarray(values).reshape(-1))
    for axis in range(values.ndim - 1, -1, -1):
        width, count = values.shape[axis], int(np.prod(values.shape[:axis], dtype=np.int64))
        offsets = arrow.array(np.arange(count + 1, dtype=np.int32) * np.int32(width))
        nested = arrow.ListArray.from_arrays(offsets, nested)
    return nested


def _read_npz(path: Path) -> Sequence[Trajectory]:
    """Read the format of imitation 0.2 and 0.3, whose infos would need pickle."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            data = {n: archive[n] for n in ("obs", "acts", "terminal", "indices")}
            rews = archive["rews"] if "rews" in archive.files else None
            ends = np.asarray(data["indices"], np.int64)
            count = len(data["terminal"])
            if len(ends) != count - 1:
                raise ValueError(f"{len(ends)} indices for {count} trajectories")
            obs = np.split(data["obs"], ends + np.arange(count - 1) + 1)
            acts = np.split(data["acts"], ends)
            rewards = [None] * count if rews is None else np.split(rews, ends)
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, OSError, TypeError) as error:
        raise StrlValueError(
            f"read_imitation: '{path}' cannot be read ({error}). Expected a folder of "
            "serialize.save, or an .npz of imitation 0.2 or 0.3; pickled files are refused."
        ) from error
    return [
        Trajectory(o, a, r, bool(t))
        for o, a, r, t in zip(obs, acts, rewards, data["terminal"], strict=True)
    ]
