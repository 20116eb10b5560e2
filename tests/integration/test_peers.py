"""The comparison of all peers, of numbers of environments and of memory."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from benchmarks import gpu, memory, peers, scaling
from benchmarks.learners import common
from benchmarks.learners.common import Setup, count_bytes
from benchmarks.learners.motion_peer import PlainPeer, PriorPeer
from benchmarks.learners.strl_peer import CompiledPeer, EagerPeer, StrlPeer
from benchmarks.operators import count_operators
from sb3_strl.algorithms.appo import APPO

COLUMNS = {
    *("peer", "workload", "n_envs", "iteration_s", "collect_s", "update_s"),
    *("ratio_to_rsl_rl", "ratio_to_sb3"),
}
MOTION_PEERS = ("sb3_strl_ppo", "sb3_strl_appo", "sb3_strl_appo_16th")
FEW = ["--smoke", "--n-steps", "4", "--n-epochs", "1"]


def run(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    path = tmp_path / "rows.json"
    peers.main([*FEW, "--json", str(path), *arguments])
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def _is_counted(row: dict[str, Any]) -> bool:
    return row["peer"] != "sb3_strl" or row["workload"] in ("long", "short")


def test_feed_forward_policies_are_compared_compiled_and_not() -> None:
    places = peers.FEED_FORWARD.peers
    assert places["sb3_strl"][1] == CompiledPeer.__name__
    assert CompiledPeer.compile
    assert places["sb3_strl_eager"][1] == EagerPeer.__name__
    assert not EagerPeer.compile


@pytest.mark.integration
def test_smoke_run_covers_every_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CompiledPeer, "compile", False
    )  # takes long; tests/algorithms/test_compile.py
    markdown = tmp_path / "table.md"
    rows = run(
        tmp_path,
        *("--peers", "sb3", "sb3_contrib", "sb3_strl", *MOTION_PEERS),
        *("--markdown", str(markdown)),
    )
    assert {(row["workload"], row["peer"]) for row in rows} == {
        *((name, peer) for name in ("standard", "tiny") for peer in ("sb3", "sb3_strl")),
        *((name, peer) for name in ("long", "short") for peer in ("sb3_contrib", "sb3_strl")),
        *(("appo", peer) for peer in MOTION_PEERS),
    }
    assert all(row.keys() >= COLUMNS and row["ratio_to_rsl_rl"] is None for row in rows)
    assert all((row["ratio_to_sb3"] is None) == (row["workload"] == "appo") for row in rows)
    assert all(("operators" in row) == (_is_counted(row)) for row in rows)
    prior = rows[-1]
    assert prior["peer"] == MOTION_PEERS[-1]
    assert prior["ratio_to_ppo"] > 0
    text = markdown.read_text()
    assert rows[0]["cpu"] in text.splitlines()[0]
    assert "to our PPO" in text
    assert "per minibatch: operators" in text


@pytest.mark.integration
@pytest.mark.skipif(find_spec("skrl") is None, reason="needs skrl")
def test_skrl_learns_with_the_same_network_and_reads_the_host(tmp_path: Path) -> None:
    from benchmarks.learners.skrl_peer import SkrlPeer

    setup = Setup(n_envs=8, hidden=(8, 8, 8), n_steps=4, n_epochs=1, learning_rate=0.1)
    peer = SkrlPeer(setup)
    assert peer.n_parameters() == StrlPeer(setup).n_parameters()
    before = [p.clone() for p in peer.models["policy"].parameters()]
    peer.collect()
    stored = peer.memory.get_tensor_by_name("rewards").clone()
    assert th.isfinite(stored).all()  # the memory starts as NaN: every step has arrived
    assert all(map(th.equal, before, peer.models["policy"].parameters()))
    peer.update()
    assert not any(map(th.equal, before, peer.models["policy"].parameters()))
    assert peer.timestep == setup.n_steps
    report = count_operators(SkrlPeer, setup)
    assert report.per_step["downloads"] >= 4  # three statistics of the reward, truncated.any()
    assert report.per_minibatch["downloads"] == 3  # three losses


def test_workloads_have_default_numbers_of_environments() -> None:
    assert peers.FEED_FORWARD.envs == (64, 1024, 4096)
    assert {part.envs for part in peers.COMPARISONS if "long" in part.workloads} == {(256,)}
    options = peers.parse_arguments([])
    assert options.envs == []
    assert options.ops
    assert options.memory
    assert not peers.parse_arguments(["--smoke"]).memory
    assert not peers.parse_arguments(["--no-memory"]).memory


def test_peers_that_know_none_of_the_workloads_are_refused() -> None:
    options = peers.parse_arguments(["--peers", "sb3_strl_appo", "--workloads", "tiny", "--smoke"])
    with pytest.raises(ValueError, match=r"none of the peers \['sb3_strl_appo'\] knows any of"):
        peers.measure(options)


def test_prior_and_plain_policy_see_the_same_robots() -> None:
    setup = Setup(n_envs=4, hidden=(8,), n_steps=3, n_epochs=1, discriminator=(16, 8))
    plain, prior = PlainPeer(setup), PriorPeer(setup)
    assert isinstance(prior.model, APPO)
    assert plain.n_parameters() == prior.n_parameters()
    discriminator = prior.model.policy.discriminator
    assert discriminator is not None
    assert discriminator.spec.hidden_dims == (16, 8)
    for peer in (plain, prior):
        peer.collect()
        peer.update()
    spaces = [peer.model.observation_space for peer in (plain, prior)]
    assert spaces[0] == spaces[1]
    features = prior.model.rollout_buffer["amp/features"]
    expert = prior.model.rollout_buffer["amp/expert"]
    assert features.shape == expert.shape == (3, 4, 60)
    assert not th.equal(features[0], features[1])  # windows change from step to step
    assert (expert - features).mean() > 0.2


# ---------------------------------------------------------------------- memory


def test_bytes_count_shared_memory_once() -> None:
    slab = th.zeros(10, 4)
    array = np.zeros((3, 3))
    views = {"left": slab[:, :2], "right": [slab[:, 2:], slab]}
    assert count_bytes([views, array, array[1:], "text", None]) == 160 + 72


@pytest.mark.parametrize("name", ["sb3", "rsl_rl", "skrl", "sb3_strl"])
def test_storage_holds_at_least_the_observations(name: str) -> None:
    module, attribute = peers.FEED_FORWARD.peers[name]
    try:
        make = vars(__import__(module, fromlist=[attribute]))[attribute]
    except common.MissingPeerError as error:
        pytest.skip(str(error))
    size = [make(Setup(n_envs=n, hidden=(4,), n_steps=5)).storage_bytes() for n in (8, 16)]
    observations = 8 * 5 * common.OBS_DIM * 4
    assert observations < size[0] < 3 * observations
    assert size[1] == pytest.approx(2 * size[0], rel=0.05)


@pytest.mark.integration
def test_memory_of_a_fresh_process_grows_with_the_robots() -> None:
    place = ("benchmarks.learners.strl_peer", "StrlPeer")
    setup = Setup(n_envs=16384, hidden=(8, 8, 8), n_steps=8, n_epochs=1)
    use = memory.measure_memory(*place, setup, threads=1)
    assert use.storage_bytes > 16384 * 8 * common.OBS_DIM * 4
    # Written at least once, and not many times as much again.
    assert use.storage_bytes < use.peak_bytes < 20 * use.storage_bytes


@pytest.mark.integration
def test_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)memory of Nobody ended with 1: .*KeyError"):
        memory.measure_memory("benchmarks.learners.common", "Nobody", Setup(1, (1,)))


# ---------------------------------------------------------------------- scaling


@pytest.mark.integration
def test_scaling_writes_rows_table_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(module: str, attribute: str, setup: Setup, threads: int | None) -> memory.MemoryUse:
        return memory.MemoryUse(1000 * setup.n_envs, 100 * setup.n_envs)

    monkeypatch.setattr(scaling, "measure_memory", measure)
    paths = {name: tmp_path / "deep" / name for name in ("rows.json", "table.md", "plot.png")}
    files = ("--json", "--markdown", "--plot")
    arguments = [str(word) for pair in zip(files, paths.values(), strict=True) for word in pair]
    scaling.main(["--smoke", "--n-steps", "4", "--n-epochs", "1", *arguments])
    rows = json.loads(paths["rows.json"].read_text())
    assert [row["n_envs"] for row in rows] == [8, 16]
    for row in rows:
        assert row["iteration_us"] == pytest.approx(row["collect_us"] + row["update_us"])
        assert row["storage_bytes"] == 100 * row["n_envs"]
    assert "| 16 |" in paths["table.md"].read_text()
    assert paths["plot.png"].stat().st_size > 1000


def test_line_through_memory() -> None:
    rows = [{"n_envs": n, "peak_bytes": 100 + 3 * n} for n in (1, 10, 100)]
    slope, deviation = scaling.fit_memory(rows)
    assert slope == pytest.approx(3.0)
    assert deviation == pytest.approx(0.0, abs=1e-9)
    rows[1]["peak_bytes"] += 40
    assert scaling.fit_memory(rows)[1] > 0.05


# ---------------------------------------------------------------------- on a GPU


def test_kernels_side_by_side_count_once() -> None:
    assert gpu.busy_seconds([]) == 0.0
    assert gpu.busy_seconds([(2.0, 3.0), (0.0, 1.0)]) == 2.0
    assert gpu.busy_seconds([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0)]) == 5.0


def test_only_kernels_are_taken_from_a_trace() -> None:
    events = [
        {"cat": "kernel", "ts": 1e6, "dur": 5e5},
        {"cat": "gpu_memcpy", "ts": 2e6, "dur": 5e5},
        {"cat": "gpu_user_annotation", "ts": 0.0, "dur": 9e6},
        {"name": "process_name", "ph": "M"},
    ]
    assert gpu.kernel_intervals({"traceEvents": events}) == [(1.0, 1.5)]


def test_profile_of_a_gpu_is_refused_without_one() -> None:
    with pytest.raises(RuntimeError, match=r"device 'cpu' with .* A CUDA device is expected"):
        gpu.measure(gpu.parse_arguments(["--device", "cpu"]))
