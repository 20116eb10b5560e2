"""Against the real imitation and the real datasets, where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data.imitation import (
    EncodedInfo,
    decode_info,
    encode_info,
    from_imitation,
    read_imitation,
    to_imitation,
    to_transitions,
    write_imitation,
)
from sb3_strl.data.trajectory import Trajectory
from tests.data.trajectory_tools import all_same, make_trajectories

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:keys will default to True in jsonpickle"),
]
pa = pytest.importorskip("pyarrow")

KINDS = [
    {},
    {"dtype": np.float64, "shape": (3, 2), "rewards": False},
    {"dtype": np.uint8, "shape": (8, 8, 3), "discrete": True},
    {"shape": (), "dtype": np.int64, "discrete": True, "lengths": (1,)},
]


@pytest.fixture
def types():
    return pytest.importorskip("imitation.data.types")


@pytest.fixture
def serialize():
    pytest.importorskip("imitation")
    return pytest.importorskip("imitation.data.serialize")


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back_exactly(tmp_path: Path, kind: dict) -> None:
    written = make_trajectories(**kind)
    write_imitation(tmp_path / "demos", written)
    all_same(written, list(read_imitation(tmp_path / "demos")))


@pytest.mark.parametrize("kind", KINDS)
def test_imitation_reads_what_we_write(tmp_path: Path, serialize, kind: dict) -> None:
    written = make_trajectories(**kind, infos=True)
    write_imitation(tmp_path / "demos", written)
    loaded = serialize.load(tmp_path / "demos")
    assert len(loaded) == len(written)
    for theirs, ours in zip(loaded, written, strict=True):
        assert np.array_equal(theirs.obs, ours.obs)
        assert np.array_equal(theirs.acts, ours.acts)
        assert theirs.terminal == ours.terminal
        assert [dict(info) for info in theirs.infos] == list(ours.infos)
        if ours.rews is not None:
            assert np.array_equal(theirs.rews, ours.rews)


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_imitation_writes_with_types(tmp_path: Path, serialize, kind: dict) -> None:
    written = make_trajectories(**kind)
    serialize.save(tmp_path / "demos", to_imitation(written))
    all_same(written, list(read_imitation(tmp_path / "demos")))
    # The dataset object itself, and the lazy sequence that imitation returns.
    loaded = serialize.load(tmp_path / "demos")
    all_same(written, from_imitation(loaded.dataset))
    assert [len(t) for t in from_imitation(loaded)] == [len(t) for t in written]


@pytest.mark.parametrize(
    "kind", [{"infos": True}, {"rewards": False}, {"names": ("policy", "camera"), "infos": True}]
)
def test_objects_come_back_exactly(types, kind: dict) -> None:
    ours = make_trajectories(**kind)
    theirs = to_imitation(ours)
    expected = types.Trajectory if kind.get("rewards") is False else types.TrajectoryWithRew
    assert all(type(t) is expected for t in theirs)
    if "names" in kind:
        assert all(isinstance(t.obs, types.DictObs) for t in theirs)
    all_same(ours, from_imitation(theirs))
    all_same(ours[:1], from_imitation(theirs[0]))


@pytest.mark.parametrize("kind", [{}, {"rewards": False}, {"names": ("a", "b")}, {"infos": True}])
def test_transitions_are_divided_where_episodes_end(types, kind: dict) -> None:
    ours = make_trajectories(**kind)
    transitions = to_transitions(ours)
    expected = types.Transitions if kind.get("rewards") is False else types.TransitionsWithRew
    assert type(transitions) is expected
    assert len(transitions) == 9
    back = from_imitation(transitions)
    if not kind.get("infos"):
        # imitation's flattening makes up empty infos.
        ours = [Trajectory(t.obs, t.acts, t.rews, t.terminal, [{}] * len(t)) for t in ours]
    all_same(ours, back)


def test_arrays_of_transitions_are_copies(types) -> None:
    transitions = to_transitions(make_trajectories())
    back = from_imitation(transitions)
    back[0].obs[0] = 7
    assert not (transitions.obs[0] == 7).any()


def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset whose infos call a function as soon as imitation looks at one."""
    proof = tmp_path / "executed"
    text = json.dumps({"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(proof)]}]})
    trajectories = make_trajectories((2,))
    evil = [EncodedInfo(text)] * 2
    one = trajectories[0]
    write_imitation(tmp_path / "evil", [Trajectory(one.obs, one.acts, one.rews, True, evil)])
    return tmp_path / "evil", proof


def test_hostile_infos_are_not_executed(tmp_path: Path) -> None:
    folder, proof = hostile(tmp_path)
    (skipped,) = read_imitation(folder)
    (kept,) = read_imitation(folder, infos="encoded")
    assert skipped.infos is None
    assert isinstance(kept.infos[0], EncodedInfo)
    for refuse in (
        lambda: list(read_imitation(folder, infos="plain")),
        lambda: to_imitation([kept]),
    ):
        with pytest.raises(StrlValueError, match=r"tag 'py/.*', which can run code"):
            refuse()
    write_imitation(tmp_path / "copy", [kept])
    all_same([kept], list(read_imitation(tmp_path / "copy", infos="encoded")))
    assert not proof.exists()


def test_hostile_infos_in_a_lazy_sequence_are_not_executed(tmp_path: Path, serialize) -> None:
    folder, proof = hostile(tmp_path)
    lazy = serialize.load(folder)
    assert from_imitation(lazy)[0].infos is None
    assert isinstance(from_imitation(lazy, infos="encoded")[0].infos[0], EncodedInfo)
    assert not proof.exists()
    lazy[0].infos[0]  # what the file does where it is trusted: the test is not blind
    assert proof.exists()


def test_plain_infos_are_read(tmp_path: Path) -> None:
    written = make_trajectories(infos=True)
    write_imitation(tmp_path / "demos", written)
    all_same(written, list(read_imitation(tmp_path / "demos", infos="plain")))
    info = {"a": np.float32(0.5), "b": np.arange(2), "c": {"d": None}}
    assert decode_info(encode_info(info)) == {"a": 0.5, "b": [0, 1], "c": {"d": None}}


@pytest.mark.parametrize(
    ("info", "error", "message"),
    [
        ({"a": object()}, StrlTypeError, r"cannot be written as JSON \(object is no JSON\)"),
        ({"py/object": "os.system"}, StrlValueError, r"tag 'py/object'"),
        ({"deep": [{"py/id": 1}]}, StrlValueError, r"tag 'py/id'"),
        ([1], StrlValueError, r"an info is a list. Expected a dictionary"),
    ],
)
def test_infos_that_cannot_be_written(info, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encode_info(info)


def test_infos_that_cannot_be_read() -> None:
    with pytest.raises(StrlValueError, match=r"an info is no JSON"):
        decode_info("{")


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    written = make_trajectories((2, 3, 4))
    write_imitation(tmp_path / "a", written[:1])
    write_imitation(tmp_path / "b", written[1:])
    (tmp_path / "b" / "data-00000-of-00001.arrow").rename(tmp_path / "a" / "second.arrow")
    state = json.loads((tmp_path / "a" / "state.json").read_text())
    state["_data_files"].append({"filename": "second.arrow"})
    (tmp_path / "a" / "state.json").write_text(json.dumps(state))
    all_same(written, list(read_imitation(tmp_path / "a")))


def test_old_npz_files_are_read_without_pickle(tmp_path: Path) -> None:
    written = make_trajectories()
    rews = [t.rews for t in written if t.rews is not None]
    np.savez(
        tmp_path / "old.npz",
        obs=np.concatenate([t.obs for t in written]),
        acts=np.concatenate([t.acts for t in written]),
        infos=np.array([{}] * 9, dtype=object),
        terminal=np.array([t.terminal for t in written]),
        indices=np.cumsum([len(t) for t in written])[:-1],
        rews=np.concatenate(rews),
    )
    all_same(written, list(read_imitation(tmp_path / "old.npz")))
    all_same(written, from_imitation(tmp_path / "old.npz"))


def damage(folder: Path, how: str) -> None:
    data, state = folder / "data-00000-of-00001.arrow", folder / "state.json"
    if how == "truncated":
        data.write_bytes(data.read_bytes()[:700])
    elif how == "empty":
        data.write_bytes(b"")
    elif how == "foreign":
        data.write_bytes(b"PAR1" * 100)
    elif how == "outside":
        state.write_text('{"_data_files": [{"filename": "../secret.arrow"}]}')
    elif how == "no files":
        state.write_text('{"_data_files": []}')
    elif how == "no state":
        state.unlink()
    elif how == "no json":
        state.write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"arrow' cannot be read \("),
        ("empty", r"arrow' cannot be read \("),
        ("foreign", r"arrow' cannot be read \("),
        ("outside", r"names \['../secret.arrow'\]. Expected files of this folder"),
        ("no files", r"names \[\]. Expected"),
        ("no state", r"state.json' cannot be read"),
        ("no json", r"state.json' cannot be read"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, how: str, message: str) -> None:
    write_imitation(tmp_path / "demos", make_trajectories())
    write_imitation(tmp_path / "secret", make_trajectories())
    (tmp_path / "secret" / "data-00000-of-00001.arrow").rename(tmp_path / "secret.arrow")
    damage(tmp_path / "demos", how)
    with pytest.raises(StrlValueError, match=message):
        list(read_imitation(tmp_path / "demos"))


def write_table(folder: Path, columns: dict) -> None:
    folder.mkdir()
    batch = pa.RecordBatch.from_pydict(columns)
    path = str(folder / "x.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": [[[1.0], [2.0, 3.0]]]}, r"'obs' is ragged or has gaps"),
        ({"obs": [[[1.0], None]]}, r"'obs' is ragged or has gaps"),
        ({"obs": [None]}, r"'obs' is ragged or has gaps"),
        ({"obs": [[[1.0], [None]]]}, r"'obs' is ragged or has gaps"),
        ({"obs": [[[1.0], [float("nan")]]]}, r"'obs' holds NaN"),
        ({"obs": [[[1.0]]]}, r"'obs' has shape \(1, 1\) beside 1 actions"),
        ({"acts": None}, r"has no columns \['acts'\]"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    columns = {"obs": [[[1.0], [2.0]]], "acts": [[[1.0]]], "infos": [["{}"]], "terminal": [True]}
    columns = {k: v for k, v in (columns | change).items() if v is not None}
    write_table(tmp_path / "demos", columns)
    with pytest.raises(StrlValueError, match=message):
        list(read_imitation(tmp_path / "demos"))


def test_infos_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    columns = {"obs": [[[1.0], [2.0]]], "acts": [[[1.0]]], "infos": [[3]], "terminal": [True]}
    write_table(tmp_path / "demos", columns)
    assert len(list(read_imitation(tmp_path / "demos"))) == 1
    with pytest.raises(StrlValueError, match=r"'infos' is no list of texts"):
        list(read_imitation(tmp_path / "demos", infos="plain"))


@pytest.mark.parametrize("content", [b"", b"\x80\x04]q\x00.", b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "demos.pkl").write_bytes(content)
    with pytest.raises(StrlValueError, match=r"cannot be read .* pickled files are refused"):
        read_imitation(tmp_path / "demos.pkl")
    with pytest.raises(FileNotFoundError, match=r"there is nothing at"):
        read_imitation(tmp_path / "nowhere")


def test_writing_refuses_what_does_not_fit_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "demos"
    mixed = [*make_trajectories((2,)), *make_trajectories((2,), rewards=False)]
    wider = [*make_trajectories((2,)), *make_trajectories((2,), shape=(5,))]
    for trajectories in (mixed, wider):
        with pytest.raises(StrlValueError, match=r"Expected .* as in the first one"):
            write_imitation(path, trajectories)
    with pytest.raises(StrlTypeError, match=r"names \['a'\]. Expected one array"):
        write_imitation(path, make_trajectories(names=("a",)))
    with pytest.raises(StrlValueError, match=r"there are no trajectories"):
        write_imitation(path, [])
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    old, new = make_trajectories((2,)), make_trajectories((7,))
    path = write_imitation(tmp_path / "demos", old)
    with pytest.raises(StrlValueError, match=r"exists. Expected a new folder, or overwrite=True"):
        write_imitation(path, new)
    with pytest.raises(StrlTypeError):
        write_imitation(path, make_trajectories(names=("a",)), overwrite=True)
    all_same(old, list(read_imitation(path)))
    write_imitation(path, new, overwrite=True)
    all_same(new, list(read_imitation(path)))
    (tmp_path / "mine").mkdir()
    with pytest.raises(StrlValueError, match=r"and a folder of this format"):
        write_imitation(tmp_path / "mine", new, overwrite=True)


@pytest.mark.parametrize("data", [3, [1, 2], object()])
def test_other_objects_are_refused(data) -> None:
    with pytest.raises(StrlTypeError, match=r"from_imitation: the data is a"):
        from_imitation(data)


WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from pathlib import Path
from sb3_strl.data.imitation import read_imitation, to_imitation, write_imitation
from tests.data.trajectory_tools import make_trajectories
{action}
"""


def run_without(missing: list[str], action: str) -> subprocess.CompletedProcess:
    script = WITHOUT.format(missing=missing, action=action)
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_need_neither_imitation_nor_datasets(tmp_path: Path) -> None:
    action = (
        f"write_imitation({str(tmp_path / 'demos')!r}, make_trajectories())\n"
        f"assert len(list(read_imitation({str(tmp_path / 'demos')!r}))) == 3"
    )
    done = run_without(["imitation", "datasets", "jsonpickle"], action)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("missing", "action", "message"),
    [
        ("imitation", "to_imitation(make_trajectories())", "pip install --no-deps imitation=="),
        ("pyarrow", "write_imitation('x', make_trajectories())", "needs pyarrow"),
    ],
)
def test_what_is_missing_is_named(missing: str, action: str, message: str) -> None:
    done = run_without([missing], action)
    assert "ImportError" in done.stderr
    assert message in done.stderr
