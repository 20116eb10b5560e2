"""Against the real Minari, where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data.minari import read_minari, write_minari
from sb3_strl.data.trajectory import Trajectory
from tests.data.trajectory_tools import all_same, make_trajectories

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*is set to None"),
    pytest.mark.filterwarnings("ignore:env_spec is None"),
]
minari = pytest.importorskip("minari")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps datasets: not in the user's home."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"names": ("policy", "critic")},
        {"discrete": True, "dtype": np.float64},
        {"dtype": np.uint8, "shape": (32, 32, 3)},  # stored without loss
    ],
)
def test_datasets_come_back_exactly(root: Path, kind: dict, data_format: str) -> None:
    written = make_trajectories(**kind)
    made = write_minari("walker/expert-v0", written, data_format=data_format, author="nobody")
    assert made.total_episodes == 3
    all_same(written, list(read_minari("walker/expert-v0")))
    all_same(written, list(read_minari(root / "walker" / "expert-v0")))
    all_same(written, list(read_minari(minari.load_dataset("walker/expert-v0"))))


def test_minari_reads_ends_as_they_were(root: Path) -> None:
    write_minari("expert-v0", make_trajectories((3, 2)))
    first, second = minari.load_dataset("expert-v0").iterate_episodes()
    assert first.terminations.tolist() == [False, False, True]
    assert not first.truncations.any()
    assert second.truncations.tolist() == [False, True]
    assert not second.terminations.any()


def test_the_environment_gives_the_spaces(root: Path) -> None:
    obs = np.zeros((3, 4), np.float32)
    demo = Trajectory(obs, np.array([0, 1]), np.ones(2), False)
    made = write_minari("cartpole/x-v0", [demo], env="CartPole-v1")
    assert made.env_spec.id == "CartPole-v1"
    assert made.action_space.n == 2


def test_unknown_rewards_become_zero(root: Path) -> None:
    write_minari("expert-v0", make_trajectories(rewards=False))
    assert all(not t.rews.any() for t in read_minari("expert-v0"))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_rewards_of_other_precision_and_unknown_ones_may_stand_together(
    root: Path, data_format: str
) -> None:
    kinds = (np.float64, None, np.float32)
    demos = [
        Trajectory(np.ones((4, 2)), np.ones((3, 1)), None if k is None else np.full(3, 0.1, k))
        for k in kinds
    ]
    write_minari("expert-v0", demos, data_format=data_format)
    found = [float(t.rews[0]) for t in read_minari("expert-v0")]
    assert found == [0.1, 0.0, float(np.float32(0.1))]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_booleans_come_back_exactly(root: Path, shape: tuple[int, ...], data_format: str) -> None:
    acts = np.arange(np.prod(shape)).reshape(shape) % 2 == 0
    contacts = np.arange(8).reshape(4, 2) < 3
    demo = Trajectory({"contacts": contacts, "height": np.ones((4, 1))}, acts, np.ones(3))
    write_minari("expert-v0", [demo, demo], data_format=data_format)
    for read in read_minari("expert-v0"):
        assert read.acts.dtype == read.obs["contacts"].dtype == np.bool_
        assert np.array_equal(read.acts, acts)
        assert np.array_equal(read.obs["contacts"], contacts)


def test_the_space_of_negative_numbers_holds_them(root: Path) -> None:
    demo = Trajectory(np.ones((4, 2)), np.array([-3, -1, -2]), np.ones(3))
    made = write_minari("expert-v0", [demo])
    assert all(made.action_space.contains(action) for action in demo.acts)


def test_an_existing_dataset_is_not_overwritten(root: Path) -> None:
    old = make_trajectories((2,))
    write_minari("expert-v0", old)
    with pytest.raises(StrlValueError, match=r"Minari refuses 'expert-v0' .*Expected a new id"):
        write_minari("expert-v0", make_trajectories((5,)))
    all_same(old, list(read_minari("expert-v0")))


def test_a_refused_dataset_leaves_nothing(root: Path) -> None:
    space = gymnasium.spaces.Box(-1.0, 1.0, (9,))
    with pytest.raises(StrlValueError, match=r"Minari refuses 'new-v0'"):
        write_minari("new-v0", make_trajectories(), None, space, space, data_format="arrow")
    assert not list(root.glob("new-v0*"))


def test_nothing_cannot_be_written() -> None:
    with pytest.raises(StrlValueError, match=r"there are no trajectories for 'expert-v0'"):
        write_minari("expert-v0", [])


@pytest.mark.parametrize("name", ["nobody/nothing-v3", "x"])
def test_missing_datasets_are_refused(name: str) -> None:
    with pytest.raises(StrlValueError, match=r"is no Minari dataset .* Expected the id of a local"):
        read_minari(name)


def test_an_environment_that_the_file_names_is_not_made(root: Path) -> None:
    write_minari("evil-v0", make_trajectories())
    path = root / "evil-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["observation_space"]
    proof = root / "executed"
    metadata["env_spec"] = json.dumps(
        {
            "id": "Evil-v0",
            "entry_point": "os:mkdir",
            "kwargs": {"path": str(proof)},
            "additional_wrappers": [],
            "disable_env_checker": True,
        }
    )
    path.write_text(json.dumps(metadata))
    for dataset in ("evil-v0", root / "evil-v0"):
        with pytest.raises(StrlValueError, match=r"name no observation_space and action_space"):
            read_minari(dataset)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"nothing of the kind"])
def test_damaged_data_are_refused(root: Path, content: bytes) -> None:
    write_minari("broken-v0", make_trajectories())
    (root / "broken-v0" / "data" / "main_data.hdf5").write_bytes(content)
    with pytest.raises(StrlValueError, match=r"cannot be read"):
        list(read_minari("broken-v0"))


@pytest.mark.parametrize("text", ["{", "[]", '{"observation_space": 3, "action_space": 4}'])
def test_damaged_metadata_are_refused(root: Path, text: str) -> None:
    write_minari("broken-v0", make_trajectories())
    (root / "broken-v0" / "data" / "metadata.json").write_text(text)
    with pytest.raises(StrlValueError, match=r"read_minari"):
        read_minari("broken-v0")


class Episodes:
    """A dataset in memory."""

    def __init__(self, observations: object) -> None:
        self.observations = observations

    def iterate_episodes(self):
        fields = {
            "observations": self.observations,
            "actions": np.zeros((2, 1)),
            "rewards": np.zeros(2),
            "terminations": np.zeros(2, bool),
        }
        return iter([type("Episode", (), fields)()])


@pytest.mark.parametrize(
    ("observations", "error", "message"),
    [
        ((np.zeros(3), np.zeros(3)), StrlTypeError, r"'observations' is a tuple. Expected"),
        ({"a": {"b": np.zeros(3)}}, StrlTypeError, r"observations\['a'\]' is a dict. Expected"),
        (np.full(3, np.nan), NonFiniteError, r"'obs' holds NaN"),
        (np.zeros(2), StrlValueError, r"'obs' has shape \(2,\) beside 2 actions"),
        (["a"] * 3, StrlTypeError, r"'obs' is of type <U1"),
    ],
)
def test_episodes_that_do_not_fit(observations, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(read_minari(Episodes(observations)))
