"""Two processes train as one: the same numbers, one log, one end, and files to continue from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml

from sb3_strl import PPO
from tests.integration import distributed_tools as tools

pytest.importorskip("torch.distributed", reason="this build of torch has one process only")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NAMES = ["ppo", "appo", "joint", "rnd", "target_kl", "adam", "lstm", "student"]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    local = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)  # whatever the host's name means
    network = {} if local is None else {"GLOO_SOCKET_IFNAME": local}
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **network, **extra}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """What two processes found out; they meet in a file, so no port is needed."""
    command = [sys.executable, "-W", "ignore", "-m", tools.__name__, str(folder), *NAMES]
    processes = [
        subprocess.Popen(
            command,
            env=environment(TEST_RANK=str(rank)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(tools.WORLD)
    ]
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    results = [th.load(folder / f"{rank}.pt", weights_only=True) for rank in range(tools.WORLD)]
    for result, text in zip(results, printed, strict=True):
        result["printed"] = text
    return results


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        th.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: k + m)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_two_processes_equal_one_with_the_summed_batch(name: str, two: list[Any]) -> None:
    one = tools.train(name, 0, 1)
    for rank in range(tools.WORLD):
        close(two[rank][name]["state"], one["state"])
        assert two[rank][name]["num_timesteps"] == one["num_timesteps"]
        assert two[rank][name]["n_updates"] == one["n_updates"]
        th.testing.assert_close(two[rank][name]["rates"], one["rates"], rtol=1e-5, atol=0.0)
    for ours, theirs in zip(two[0][name]["losses"], one["losses"], strict=True):
        ours.pop("train/explained_variance"), theirs.pop("train/explained_variance")
        close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_have_the_same_parameters(name: str, two: list[Any]) -> None:
    first, second = (result[name]["state"] for result in two)
    different = [key for key, value in first.items() if not th.equal(value, second[key])]
    assert first
    assert not different


def test_the_cases_try_what_they_are_for(two: list[Any]) -> None:
    assert len(set(two[0]["ppo"]["rates"])) > 1  # the schedule moved the rate
    most = two[0]["ppo"]["n_updates"]
    assert two[0]["target_kl"]["n_updates"] < most  # an epoch was cut short


def test_rows_may_lie_unevenly(two: list[Any]) -> None:
    one = tools.functions(0, 1)
    for result in two:
        close(result["functions"], one)


def test_each_process_draws_its_own_numbers(two: list[Any]) -> None:
    assert [result["resume"]["noise"] for result in two] == [1, 1 + 3]
    first, second = (result["resume"]["memory/env"] for result in two)
    assert not th.equal(first, second)
    assert two[0]["seeds"] != two[1]["seeds"]  # without a seed, too


def test_a_resumed_run_equals_the_uninterrupted_one(two: list[Any]) -> None:
    for result in two:
        resumed = result["resume"]
        assert not th.equal(resumed["memory"], resumed["start"])
        assert th.equal(resumed["files"], resumed["memory"])
        assert th.equal(resumed["files/env"], resumed["memory/env"])
        assert resumed["files/steps"] == resumed["memory/steps"] == 4 * 8 * 3 * tools.WORLD


def test_a_run_resumes_from_the_model_alone(two: list[Any]) -> None:
    first, second = (result["resume"] for result in two)
    assert first["warnings"] == []
    assert any("episodes start anew" in text for text in second["warnings"])
    assert th.equal(first["alone"], second["alone"])
    assert first["alone/steps"] == second["alone/steps"] == first["files/steps"]
    # Rank 0's noise and environments would have made them twins.
    assert not th.equal(first["alone/env"], second["alone/env"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n_envs", r"StrlValueError: .* differ in n_envs: \[3, 4\] by rank"),
        ("n_steps", r"StrlValueError: .* differ in n_steps: \[8, 9\] by rank"),
        ("ragged", r"StrlValueError: .*n_steps=8 is not a multiple of sequence_length=3"),
        ("normalize", r"StrlValueError: .*VecNormalize learns .*empirical_normalization=True"),
    ],
)
def test_processes_that_do_not_fit_are_refused(name: str, words: str, two: list[Any]) -> None:
    for result in two:
        assert re.search(words, result["failures"][name])


def test_nan_in_one_process_ends_all(two: list[Any]) -> None:
    first, second = (result["failures"]["nan"] for result in two)
    assert first.startswith("PeerError: PPO: process 1 of 2 failed after 96 steps")
    assert "NonFiniteError: PPO: NaN or infinity" in first
    assert second.startswith("NonFiniteError: PPO: NaN or infinity")
    assert "rank 1: NonFiniteError" in two[1]["printed"]


def test_a_callback_in_one_process_stops_all(two: list[Any]) -> None:
    assert [result["failures"]["stop"] for result in two] == ["nothing after 0"] * 2


def test_rank_0_logs_alone(two: list[Any], folder: Path) -> None:
    rows = (folder / "log0" / "progress.csv").read_text().splitlines()
    assert len(rows) == 3
    columns = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert int(columns["time/total_timesteps"]) == 2 * 8 * 3 * tools.WORLD
    assert (folder / "log1" / "progress.csv").read_text() == ""
    assert "Using cpu device" in two[0]["printed"]
    assert "Using cpu device" not in two[1]["printed"]


# ---------------------------------------------------------------------- torchrun


def torchrun(tmp_path: Path, how: str, *extra: str) -> subprocess.CompletedProcess[str]:
    config = {
        "env": f"{tools.__name__}:Breaking-v0",
        "env_kwargs": {"how": how},
        "n_envs": 2,
        "total_timesteps": 320,
        "checkpoint_interval": 64,
        "device": "cpu",
        "hyperparameters": {"n_steps": 16, "n_minibatches": 2, "policy_kwargs": {"net_arch": [8]}},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train = ["-m", "sb3_strl", "train", "--config", str(tmp_path / "config.yml"), "--quiet"]
    command = [sys.executable, *launcher, *train, "--out", str(tmp_path / "out"), *extra]
    with subprocess.Popen(
        command,
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.terminate()  # unlike a kill it lets the launcher end its processes
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_torchrun_trains(tmp_path: Path) -> None:
    done = torchrun(tmp_path, "")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert done.stdout.count("Training ppo") == done.stdout.count("Saved") == 1
    assert "in 2 processes with 2 environments each" in done.stdout
    names = {f"model_{n}_steps" for n in range(64, 321, 64)} | {"model"}
    assert {file.stem for file in out.glob("*.zip")} == names
    assert {file.name for file in out.glob("*.pt")} == {f"{name}.rank1.pt" for name in names}
    assert len((out / "progress.csv").read_text().splitlines()) == 1 + 5
    # What two processes trained, one may use.
    assert PPO.load(out / "model.zip", device="cpu").num_timesteps == 320


@pytest.mark.parametrize(
    ("how", "reason"), [("raise", "RuntimeError: the left leg came off"), ("kill", "SIGKILL")]
)
def test_a_dead_process_ends_the_run_with_its_reason(how: str, reason: str, tmp_path: Path) -> None:
    done = torchrun(tmp_path, how)
    assert done.returncode != 0
    assert reason in done.stderr
    assert "rank      : 1 (local_rank: 1)" in done.stderr.partition("Root Cause")[2]
    # Episodes of the dummy environment break in step 42 of the first of two environments.
    model = PPO.load(tmp_path / "out" / "model.zip", device="cpu")
    assert 64 <= model._loaded_point.num_timesteps <= 192  # type: ignore[union-attr]
    assert all(bool(value.isfinite().all()) for value in model.policy.state_dict().values())
    if how == "raise":
        assert "process 1 of 2 failed after 192 steps" in done.stderr
        assert (tmp_path / "out" / "model.rank1.pt").exists()
