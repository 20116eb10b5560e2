from __future__ import annotations

import json
import os
import pickle
import pickletools
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.data.legacy import convert_legacy_rollouts, load_legacy_pickle
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.data.shards import Shard

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "uint8": np.arange(4, dtype=np.uint8),
    "bool": np.array([True, False]),
    "big endian": np.arange(3, dtype=">f8"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 4)),
    "zero-d": np.array(3.5),
    "texts": np.array(["ab", "c"]),
    "strided": np.arange(10)[::2],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PLAIN)
def test_arrays_come_back_exactly(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(PLAIN[name], protocol))
    read = load_legacy_pickle(tmp_path / "x.pkl")
    assert np.array_equal(read, PLAIN[name])
    if name != "zero-d":
        assert read.dtype == PLAIN[name].dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_come_back_exactly(tmp_path: Path, protocol: int) -> None:
    data = {
        "ordered": OrderedDict([("b", [1, 2.5]), ("a", (None, True, "ü"))]),
        "numbers": (np.float64(0.25), np.int32(7), np.bool_(True), 1 + 2j),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "nested": [({"x": np.ones(2)},)],
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data, protocol))
    read = load_legacy_pickle(tmp_path / "x.pkl")
    nested = read.pop("nested")
    assert np.array_equal(nested[0][0]["x"], np.ones(2))
    del data["nested"]
    assert read == data
    assert isinstance(read["ordered"], OrderedDict)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile(proof: str) -> dict[str, bytes]:
    """Pickles that would make the folder ``proof`` if they were obeyed."""
    make = Call(os.mkdir, proof)
    array = np.array([make], dtype=object)
    return {
        "plain": pickle.dumps(make),
        "in a list": pickle.dumps([1, {"a": (make,)}]),
        "in an array": pickle.dumps(array),
        "as a key": pickle.dumps({1: 2, None: make}),
        "eval": pickle.dumps(Call(eval, f"__import__('os').mkdir({proof!r})")),
        "getattr": pickle.dumps(Call(getattr, 1, "real")),
        "protocol 0": f"cos\nmkdir\n(V{proof}\ntR.".encode(),
        "inst": f"(V{proof}\nios\nmkdir\n.".encode(),
        "obj": f"(cos\nmkdir\nV{proof}\no.".encode(),
        "dotted": f"\x80\x04\x8c\x05numpy\x8c\x08os.mkdir\x93(V{proof}\ntR.".encode("latin1"),
        "numpy's loader": pickle.dumps(Call(np.load, proof)),
        "extension": b"\x82\x01.",
        "persistent": b"Vx\nQ.",
        "torch": pickle.dumps(th.ones(2)),
        "code": b"cbuiltins\nexec\n(Vimport os\ntR.",
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_nothing_is_executed(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "executed"
    path = tmp_path / "x.pkl"
    path.write_bytes(hostile(str(proof))[name])
    refusal = r"cannot be read" if name == "extension" else r"asks for .* which is refused"
    with pytest.raises(StrlValueError, match=refusal):
        load_legacy_pickle(path)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["plain", "in a list", "in an array", "protocol 0", "inst", "obj"])
def test_the_hostile_pickles_are_hostile(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "executed"
    pickle.loads(hostile(str(proof))[name])
    assert proof.exists()


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(deque([1])))
    with pytest.raises(StrlValueError, match=r"asks for collections.deque, which is refused"):
        load_legacy_pickle(path)


@pytest.mark.parametrize("kind", ["O", "O8", "V8", "m8[s]", "f4,f4", "{}"])
def test_only_plain_types_of_numbers_are_made(tmp_path: Path, kind: str) -> None:
    text = b"cnumpy\ndtype\n(V" + kind.encode() + b"\nI00\nI01\ntR."
    (tmp_path / "x.pkl").write_bytes(text)
    with pytest.raises(StrlValueError, match=r"asks for numpy.dtype\(.*\), which is refused"):
        load_legacy_pickle(tmp_path / "x.pkl")


def dtype_state(fields: bytes) -> bytes:
    return b"cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(I3\nV<\nNN" + fields + b"I-1\nI-1\nI0\ntb."


def test_types_with_fields_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(dtype_state(b"(dVa\n(I1\nI2\nts"))
    with pytest.raises(StrlValueError, match=r"x.pkl' (asks for numpy.dtype with|cannot be read)"):
        load_legacy_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("shape", ["I5", "I-1", "I99999999999999"])
def test_shapes_that_lie_are_refused(tmp_path: Path, shape: str) -> None:
    good = pickle.dumps(np.arange(3, dtype=np.uint8), 0)
    assert b"I3\ntp" in good
    bad = good.replace(b"(I3\ntp", b"(" + shape.encode() + b"\ntp")
    assert bad != good
    (tmp_path / "x.pkl").write_bytes(bad)
    if shape == "I-1":
        # numpy's way to say "as many as there are".
        assert load_legacy_pickle(tmp_path / "x.pkl").tolist() == [0, 1, 2]
        return
    with pytest.raises(StrlValueError, match=r"cannot be read"):
        load_legacy_pickle(tmp_path / "x.pkl")


def test_every_truncation_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": np.arange(3.0), "b": [1, (2, "x")]}, 4)
    path = tmp_path / "x.pkl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StrlValueError, match=r"load_legacy_pickle"):
            load_legacy_pickle(path)


def test_every_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = bytearray(pickle.dumps({"a": np.arange(3.0), "b": [1]}, 2))
    path = tmp_path / "x.pkl"
    rng = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_legacy_pickle(path)
        except StrlValueError as error:
            assert "load_legacy_pickle" in str(error)  # noqa: PT017  # both ends are fine


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"]" * 100_001 + b"a" * 100_000 + b".")
    with pytest.raises(StrlValueError, match=r"cannot be read \(RecursionError"):
        load_legacy_pickle(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_legacy_pickle(tmp_path / "x.pkl")


def write_legacy(
    folder: Path, number: int, length: int, timeout: bool = False, done: bool = True, **change
) -> None:
    """Record like st_rl: files of two frames, a tuple around uncompressed observations."""
    (folder / f"trajectory_{number}").mkdir(parents=True)
    for start in range(0, length, 2):
        steps = np.arange(start, min(start + 2, length))
        ends = (steps == length - 1)[:, None] & done
        obs = np.stack((1000 * number + steps, -steps), 1).astype(np.float32)
        data = {
            "observations": (obs,),
            "privileged_observations": obs + 0.5,
            "actions": obs[:, :1] * 10,
            "rewards": obs[:, :1] / 10,
            "dones": ends.astype(np.uint8),
            "values": np.zeros((len(steps), 1), np.float32),
            "timeouts": ends[:, 0] & timeout,
        } | change
        data = {k: v for k, v in data.items() if v is not None}
        name = f"traj_{start:06d}_{steps[-1] + 1:06d}.pickle"
        (folder / f"trajectory_{number}" / name).write_bytes(pickle.dumps(data))


def test_st_rl_recordings_become_a_dataset(tmp_path: Path) -> None:
    for number, length, timeout, done in (
        (0, 5, False, True),
        (2, 2, True, True),
        (11, 3, 0, False),
    ):
        write_legacy(tmp_path / "old", number, length, bool(timeout), done)
    writer = convert_legacy_rollouts(tmp_path / "old", tmp_path / "new")
    assert (writer.total_trajectories, writer.total_timesteps) == (3, 10)
    batches = list(RolloutDataset(tmp_path / "new", 1, device="cpu"))
    observed = [int(b.observation[0, 0]) for b in batches]
    assert observed == [0, 1, 2, 3, 4, 2000, 2001, 11000, 11001, 11002]
    assert [t for t, b in enumerate(batches) if b.done] == [4, 6, 9]
    assert [t for t, b in enumerate(batches) if b.timeout] == [6, 9]
    for batch in batches:
        assert th.equal(batch.privileged_observation, batch.observation + 0.5)
        assert th.equal(batch.action, batch.observation[:, :1] * 10)
        assert th.allclose(batch.reward, batch.observation[:, 0] / 10)
        assert batch.extras["values"].shape == (1, 1)


def test_files_are_ordered_by_frame_not_by_name(tmp_path: Path) -> None:
    write_legacy(tmp_path / "old", 0, 4)
    folder = tmp_path / "old" / "trajectory_0"
    (folder / "traj_000002_000004.pickle").rename(folder / "traj_10_12.pickle")
    (folder / "traj_000000_000002.pickle").rename(folder / "traj_9_10.pickle")
    convert_legacy_rollouts(tmp_path / "old", tmp_path / "new")
    batches = list(RolloutDataset(tmp_path / "new", 1, device="cpu"))
    assert [int(b.observation[0, 0]) for b in batches] == [0, 1, 2, 3]


def test_compressed_segments_stay_as_they_are(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 6)
    speed = np.array([[5.5], [-3.0]], np.float32)
    write_legacy(tmp_path / "old", 0, 2, observations=None, obs_speed=speed, obs_depth=image)
    metadata = {
        "obs_segments": {"speed": [1], "depth": [1, 2, 3]},
        "obs_disassemble_mapping": {"depth": "normalized_image"},
    }
    (tmp_path / "old" / "metadata.json").write_text(json.dumps(metadata))
    convert_legacy_rollouts(tmp_path / "old", tmp_path / "new")
    shard = Shard(tmp_path / "new" / "trajectory_0" / "traj_000000_000002.npz")
    assert np.array_equal(shard.read("obs/policy/depth"), image)
    batch = RolloutDataset(tmp_path / "new", 1, device="cpu").get_batch(2)
    expected = np.concatenate((speed, image / np.float32(255)), 1)
    assert np.array_equal(batch.observation[:, 0], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dones": None}, r"Expected a dictionary with 'actions', 'rewards', 'dones'"),
        ({"observations": None}, r"has no 'observations' and lacks \[\]"),
        ({"actions": np.zeros((7, 1))}, r"has 2 dones and rewards \(2, 1\), beside .*'actions': 7"),
        ({"rewards": np.full((2, 1), np.nan)}, r"'rewards' holds NaN"),
        ({"rewards": np.zeros((2, 3))}, r"rewards \(2, 3\)"),
    ],
)
def test_recordings_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    write_legacy(tmp_path / "old", 0, 2, **change)
    with pytest.raises(StrlValueError, match=message):
        convert_legacy_rollouts(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize("text", ["{", "[]", '{"obs_segments": {"a": "x"}}'])
def test_damaged_legacy_metadata(tmp_path: Path, text: str) -> None:
    write_legacy(tmp_path / "old", 0, 2)
    (tmp_path / "old" / "metadata.json").write_text(text)
    with pytest.raises(StrlValueError, match=r"metadata.json' cannot be read .*obs_segments"):
        convert_legacy_rollouts(tmp_path / "old", tmp_path / "new")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"holds no trajectories"):
        convert_legacy_rollouts(tmp_path, tmp_path / "new")


def test_opcodes_of_the_examples_are_what_they_claim() -> None:
    found = {
        name: {op.name for op, *_ in pickletools.genops(hostile("x")[name])}
        for name in ("inst", "obj", "extension", "persistent", "dotted")
    }
    assert "INST" in found["inst"]
    assert "OBJ" in found["obj"]
    assert "EXT1" in found["extension"]
    assert "PERSID" in found["persistent"] or "BINPERSID" in found["persistent"]
    assert "STACK_GLOBAL" in found["dotted"]
