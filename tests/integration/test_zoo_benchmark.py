"""The benchmark of the zoo's configurations: what it would run, and one run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rl_zoo3")

from benchmarks import zoo
from benchmarks.learning import read_rows
from sb3_strl.envs.simulator_tasks import split_task

pytestmark = pytest.mark.integration


def test_every_task_that_a_cpu_can_train_has_a_group() -> None:
    known = {task for group in zoo.GROUPS.values() for task in group}
    declared = {task for table in zoo.tables().values() for task in table}
    here = {task for task in declared if task != "default" and split_task(task) is None}
    assert here == known


def test_teachers_come_first_and_peers_are_beside() -> None:
    jobs = zoo.find_jobs(["sb3_strl/PendulumHidden-v1", "classic"], None)
    first, second = zoo.staged(jobs)
    assert zoo.Job("strl_ppo", "sb3_strl/PendulumHidden-v1") in first
    assert zoo.Job("tppo", "sb3_strl/PendulumHidden-v1") in second
    assert {job.task for job in jobs if job.algo == "ppo"} == set(zoo.GROUPS["classic"])
    masked = zoo.find_jobs(["masked"], None)
    assert {job.task for job in masked if job.algo == "ppo_lstm"} == set(zoo.GROUPS["masked"])
    assert "ppo_lstm" not in {job.algo for job in jobs}  # though Acrobot has published numbers
    only = zoo.find_jobs([zoo.WALKER], ["atppo"])
    assert [job.algo for job in only] == ["appo", "atppo"]
    with pytest.raises(SystemExit, match=r"--tasks: \['CartPool'\]. Expected"):
        zoo.find_jobs(["CartPool"], None)


def test_published_hyperparameters_of_older_versions_will_do() -> None:
    found = zoo.published("ppo", "Walker2d-v5")
    assert found is not None
    assert found["n_steps"] == 512
    assert zoo.published("ppo", "sb3_strl/CartPoleHidden-v1") is None


def test_peers_that_would_take_hours_are_cut() -> None:
    for task in zoo.GROUPS["humanoid"]:
        found = zoo.published("ppo", task)
        assert found is not None
        assert (found["n_timesteps"], found["n_envs"]) == (1e6, 1)


def test_a_finished_run_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--smoke", "--tasks", "CartPole-v1", "--algos", "strl_ppo", "--seeds", "3"]
    given += ["--out", str(tmp_path), "--markdown", str(tmp_path / "zoo.md")]
    zoo.main(given)
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert (row["algo"], row["task"], row["seed"]) == ("strl_ppo", "CartPole-v1", 3)
    assert row["steps"] == zoo.SMOKE_STEPS
    assert row["mean"] > 0
    assert "| CartPole-v1 | strl_ppo | 600 |" in (tmp_path / "zoo.md").read_text()
    capsys.readouterr()
    zoo.main(given)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1
    assert "done" not in capsys.readouterr().err


def test_the_peer_reads_what_the_policy_reads() -> None:
    from sb3_strl import make_vec

    env = zoo.PolicyGroup(make_vec(zoo.WALKER, 2, seed=0, max_episode_length=2))
    assert env.reset().shape == (2, *env.observation_space.shape)
    for _ in range(2):
        obs, _rewards, dones, infos = env.step([env.action_space.sample()] * 2)
    assert obs.shape == (2, *env.observation_space.shape)
    assert dones.all()
    assert infos[0]["terminal_observation"].shape == env.observation_space.shape
