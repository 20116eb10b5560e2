from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_strl.common.episode_stats import EpisodeStats
from sb3_strl.common.errors import StrlKeyError, StrlValueError
from tests.envs.toy import PointMass
from tests.host_sync import no_host_sync


def flags(*values: int) -> th.Tensor:
    return th.tensor(values, dtype=th.bool)


def test_numbers_by_hand() -> None:
    stats = EpisodeStats(2)
    stats.update(th.tensor([1.0, 10.0]), flags(0, 0))
    stats.update(th.tensor([2.0, 20.0]), flags(1, 0))
    stats.update(th.tensor([4.0, 40.0]), flags(0, 0))
    stats.update(th.tensor([8.0, 80.0]), flags(1, 1))
    assert stats.flush() == [{"r": 3.0, "l": 2}, {"r": 12.0, "l": 2}, {"r": 150.0, "l": 4}]
    assert stats.returns.tolist() == [0.0, 0.0]
    assert stats.flush() == []


def test_episodes_go_on_over_a_flush() -> None:
    stats = EpisodeStats(1)
    stats.update(th.tensor([1.0]), flags(0))
    assert stats.flush() == []
    stats.update(th.tensor([2.0]), flags(1))
    assert stats.flush() == [{"r": 3.0, "l": 2}]


def test_last_step_is_visible_where_it_ended() -> None:
    stats = EpisodeStats(2)
    stats.update(th.tensor([1.0, 10.0]), flags(0, 0))
    stats.update(th.tensor([2.0, 20.0]), flags(1, 0))
    assert stats.last_returns.tolist() == [3.0, 30.0]
    assert stats.last_lengths.tolist() == [2.0, 2.0]


def test_values_are_python_numbers() -> None:
    stats = EpisodeStats(1)
    stats.update(th.tensor([1.0]), flags(1))
    (episode,) = stats.flush()
    assert type(episode["r"]) is float
    assert type(episode["l"]) is int


def test_the_table_grows_and_nothing_is_lost() -> None:
    stats = EpisodeStats(1, n_steps=2)
    for step in range(5):
        stats.update(th.tensor([float(step)]), flags(1))
    assert stats.capacity == 8
    assert [episode["r"] for episode in stats.flush()] == [0, 1, 2, 3, 4]


def test_the_table_is_reused() -> None:
    stats = EpisodeStats(1, n_steps=2)
    for _ in range(4):
        for _ in range(2):
            stats.update(th.ones(1), flags(1))
        assert len(stats.flush()) == 2
    assert stats.capacity == 2


def test_rewards_are_not_kept_by_reference() -> None:
    stats = EpisodeStats(1)
    rewards, dones = th.ones(1), flags(1)
    stats.update(rewards, dones)
    rewards.fill_(9.0)
    dones.fill_(False)
    assert stats.flush() == [{"r": 1.0, "l": 1}]


def test_numbers_are_those_of_the_numpy_face() -> None:
    env, other = (PointMass(5, max_episode_length=6, termination_prob=0.1) for _ in range(2))
    env.reset_tensor(), other.reset()
    stats, expected = EpisodeStats(5, n_steps=4), []
    for _ in range(30):
        actions = th.rand(5, 2)
        step = env.step_tensor(actions)
        stats.update(step.rewards, step.terminated | step.truncated)
        infos = other.step(actions)[3]
        expected += [info["episode"] for info in infos if info]
    got = stats.flush()
    assert len(got) == len(expected) > 20
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["l"] == theirs["l"]
        np.testing.assert_allclose(mine["r"], theirs["r"], rtol=1e-6)


def test_no_step_waits_for_the_device() -> None:
    stats = EpisodeStats(2, n_steps=2)
    with no_host_sync():
        for _ in range(5):
            stats.update(th.ones(2), flags(0, 1))
        _ = stats.last_returns, stats.last_lengths


def test_state_continues_in_mid_rollout() -> None:
    stats, other = EpisodeStats(2, n_steps=2), EpisodeStats(2, n_steps=2)
    for _ in range(3):
        stats.update(th.tensor([1.0, 2.0]), flags(0, 1))
    state = stats.state_dict()
    assert all(isinstance(value, th.Tensor) for value in state.values())
    other.load_state_dict(state)
    for each in (stats, other):
        each.update(th.tensor([1.0, 2.0]), flags(1, 0))
    assert other.flush() == stats.flush()
    assert other.lengths.tolist() == [0.0, 1.0]


def test_state_is_a_copy() -> None:
    stats = EpisodeStats(1)
    state = stats.state_dict()
    stats.update(th.ones(1), flags(0))
    assert state["returns"].tolist() == [0.0]


def test_reset_forgets() -> None:
    stats = EpisodeStats(1)
    stats.update(th.ones(1), flags(1))
    stats.update(th.ones(1), flags(0))
    stats.reset()
    assert stats.flush() == []
    stats.update(th.ones(1), flags(1))
    assert stats.flush() == [{"r": 1.0, "l": 1}]


def test_refusals() -> None:
    with pytest.raises(StrlValueError, match="n_envs is 0 and n_steps is 32"):
        EpisodeStats(0)
    state = EpisodeStats(2).state_dict()
    with pytest.raises(StrlValueError, match=r"belongs to 2 environments. Expected 3"):
        EpisodeStats(3).load_state_dict(state)
    del state["table"]
    with pytest.raises(StrlKeyError, match=r"the state lacks \['table'\]"):
        EpisodeStats(2).load_state_dict(state)
