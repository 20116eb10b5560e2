"""The benchmarks of speed run and write what their README promises."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch as th

from benchmarks import comparison, peers, recurrent
from benchmarks.learners.common import EPISODE_LENGTH, MissingPeerError, Robots, Setup
from benchmarks.operators import OperatorCounter
from benchmarks.timing import Iteration, paired_ratios, quartiles, run_rounds

PEERS = peers.FEED_FORWARD.peers
KEYS = {
    *("peer", "workload", "n_envs", "iteration_s", "iteration_q25", "iteration_q75"),
    *("collect_s", "update_s", "cpu_s", "ratio_to_rsl_rl", "ratio_to_sb3", "cpu_ratio_to_rsl_rl"),
    *("cpu_ratio_to_sb3", "update_ratio_to_sb3", "collect_ratio_to_sb3", "cpu", "cores", "torch"),
    *("threads", "n_steps", "n_epochs", "n_minibatches", "rounds", "operators"),
}


@pytest.mark.integration
def test_smoke_run_writes_a_row_for_every_peer_and_workload(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.json"
    installed = {"sb3", "sb3_strl_eager"} | ({"rsl_rl"} if find_spec("rsl_rl") else set())
    given = ["--smoke", "--workloads", "standard", "tiny", "--peers", *sorted(installed)]

    peers.main([*given, "--json", str(file)])

    rows = json.loads(file.read_text())
    assert {(row["peer"], row["workload"], row["n_envs"]) for row in rows} == {
        (peer, workload, 8) for peer in installed for workload in ("standard", "tiny")
    }
    _check_rows(rows)
    ours = next(row for row in rows if row["peer"] == "sb3_strl_eager")
    assert ours["operators"]["per_step"]["downloads"] == 0
    assert ours["operators"]["per_minibatch"]["downloads"] == 0


def _check_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row.keys() >= KEYS
        assert row["iteration_s"] > 0
        assert row["iteration_s"] == pytest.approx(row["collect_s"] + row["update_s"])
        assert row["ratio_to_sb3"] > 0
        assert (row["ratio_to_rsl_rl"] is None) == (not any(r["peer"] == "rsl_rl" for r in rows))


@pytest.mark.integration
def test_comparison_of_memories_writes_the_same_columns(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    recurrent.main(["--smoke", "--json", str(file), "--peers", "sb3_contrib", "sb3_strl"])
    rows = json.loads(file.read_text())
    assert {(row["peer"], row["workload"]) for row in rows} == {
        (peer, workload) for peer in ("sb3_contrib", "sb3_strl") for workload in ("long", "short")
    }
    _check_rows(rows)
    assert all(row["memory"] == 256 and row["ratio_to_rsl_rl"] is None for row in rows)


@pytest.mark.integration
def test_sb3_peer_is_seen_to_cross_to_the_host() -> None:
    makers = comparison.find_peers(PEERS, ["sb3"])
    report = comparison.count_operators(makers["sb3"], Setup(n_envs=8, hidden=(8, 8, 8), n_steps=4))
    # Actions, observations, rewards, two kinds of ends, values and log probabilities.
    assert report.per_step["downloads"] >= 7
    assert report.per_minibatch["downloads"] >= 5


def test_ratio_is_taken_within_rounds() -> None:
    ours = [Iteration(0.0, cost, 0.0) for cost in (1.0, 9.0, 3.0)]
    theirs = [Iteration(0.5, cost - 0.5, 0.0) for cost in (4.0, 10.0, 3.0)]
    ratios = paired_ratios(ours, theirs, lambda iteration: iteration.iteration_s)
    assert ratios.median == pytest.approx(0.9)  # of 1/4, 9/10, 3/3; the medians' ratio is 3/4


def test_quartiles_of_a_known_sample() -> None:
    summary = quartiles([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (summary.q25, summary.median, summary.q75) == (2.0, 3.0, 4.0)


class CountingPeer:
    """A peer that notes when it runs."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name = name
        self.journal = journal
        self.robots = Robots(Setup(n_envs=1, hidden=(1,)))

    def collect(self) -> None:
        self.journal.append(self.name)

    def update(self) -> None:
        self.journal.append(self.name)

    def n_parameters(self) -> int:
        return len(self.name)


def test_every_round_runs_every_peer_once_in_changing_order() -> None:
    journal: list[str] = []
    players = [CountingPeer(name, journal) for name in ("a", "b", "c")]
    results = run_rounds(players, rounds=12, warmup=2, device=th.device("cpu"))
    assert {name: len(iterations) for name, iterations in results.items()} == dict.fromkeys(
        "abc", 12
    )
    assert journal[::2] == journal[1::2]
    rounds = [tuple(journal[start : start + 6 : 2]) for start in range(0, len(journal), 6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_networks_of_different_size_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"different numbers of parameters \(\{'a': 1, 'bb': 2\}\)"
    ):
        comparison.check_equal_size([CountingPeer("a", []), CountingPeer("bb", [])])


def test_missing_peer_is_an_error_only_if_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str) -> None:
        raise MissingPeerError(f"benchmarks: {module} cannot be imported.")

    monkeypatch.setattr(comparison.importlib, "import_module", refuse)
    with pytest.raises(MissingPeerError, match="rsl_rl_peer cannot be imported"):
        comparison.find_peers(PEERS, ["rsl_rl"])
    with pytest.warns(UserWarning, match="It is left out"):
        assert comparison.find_peers(PEERS, None) == {}


def test_robots_fall_time_out_and_start_again() -> None:
    robots = Robots(Setup(n_envs=4, hidden=(1,)))
    robots.age[:] = th.tensor([0, EPISODE_LENGTH - 1, 0, EPISODE_LENGTH - 1])
    robots.obs[2:, 0] = -5.0
    step = robots.step(th.zeros(4, 12))
    assert step.terminated.tolist() == [False, False, True, True]
    assert step.truncated.tolist() == [False, True, False, False]
    assert robots.age.tolist() == [1, 0, 0, 0]
    assert th.equal(step.obs[1:], robots.start[1:])
    assert th.equal(step.obs[0], step.final_obs[0])
    assert not th.equal(step.final_obs[1:], robots.start[1:])


def test_counter_tells_views_reads_and_uploads_apart() -> None:
    counter = OperatorCounter()
    tensor = th.arange(4.0)
    with counter.counting():
        (tensor + 1.0).view(2, 2)  # two operators, one of them a view
        tensor.sum().item()  # an operator and a read, which is one too
        tensor[tensor > 2.0]  # a comparison and an index whose size depends on data
        tensor.numpy()  # reads through a detached view, through two of them in torch 2.8
        th.as_tensor([1.0])
    tally = counter.tally
    assert tally.kernels == 5
    views = counter.names["aten::view"] + counter.names["aten::detach"]
    assert tally.operators - tally.kernels == views >= 2
    assert tally.downloads == 3
    assert tally.uploads == 1
    assert tally.optimizer == 0


def test_counter_keeps_the_optimizer_apart() -> None:
    weight = th.nn.Parameter(th.ones(3))
    optimizer = th.optim.Adam([weight])
    weight.grad = th.ones(3)
    counter = OperatorCounter()
    with counter.counting():
        optimizer.step()
    assert counter.tally.optimizer > 5
    assert counter.tally.operators <= 1
    assert counter.tally.downloads == 0
