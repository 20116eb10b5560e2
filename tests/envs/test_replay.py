"""Recordings in the place of a simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.callbacks import DemonstrationRecorder
from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.data import RolloutDataset
from sb3_strl.envs.replay import ReplayEnv
from tests.callbacks.test_recorder import Fixed
from tests.envs.toy import CounterEnv, DiscreteToy, PointMass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with DemonstrationRecorder(CounterEnv(3), Fixed(0.25), tmp_path, 8, 0, 12) as recorder:
        return recorder.run()


def test_it_says_what_the_simulator_said(folder: Path) -> None:
    dataset = RolloutDataset(folder, 3, device="cpu")
    env = ReplayEnv(dataset, CounterEnv(3))
    obs = env.begin(6)
    assert obs is not None
    assert env.starts.all()
    before = obs["policy"]
    for _ in range(6):
        assert (env.executed() == 0.25).all()
        assert th.equal(env.labels(), env.executed())
        step = env.step_tensor(th.full((3, 1), 9.0))
        assert step.final_obs is not None
        after = step.final_obs["policy"]
        assert th.equal(after[:, :2], before[:, :2])
        assert th.equal(after[:, 2], before[:, 2] + 1)
        assert th.allclose(step.rewards, before[:, 0] + after[:, 2] / 100)
        dones = step.terminated | step.truncated
        assert th.equal(env.starts, dones)
        assert th.equal(step.obs["policy"][~dones], after[~dones])
        before = step.obs["policy"]
    with pytest.raises(StrlValueError, match="the rollout of 6 steps is over"):
        env.step_tensor(th.zeros(3, 1))


def test_time_limits_are_no_falls(folder: Path) -> None:
    env = ReplayEnv(RolloutDataset(folder, 3, device="cpu"), CounterEnv(3))
    obs = env.begin(8)
    assert obs is not None
    index = obs["policy"][:, 0]
    ended = 0
    for _ in range(8):
        step = env.step_tensor(th.zeros(3, 1))
        assert not (step.terminated & step.truncated).any()
        assert (index[step.terminated] == 1).all()
        assert (index[step.truncated] != 1).all()
        ended += int((step.terminated | step.truncated).sum())
        index = step.obs["policy"][:, 0]
    assert ended


def test_a_rollout_is_whole_or_there_is_none(folder: Path) -> None:
    dataset = RolloutDataset(folder, 3, device="cpu")
    env = ReplayEnv(dataset, CounterEnv(3))
    assert env.begin(8) is not None
    assert env.begin(10**4) is None
    obs = env.reset_tensor()  # from the beginning
    assert (obs["policy"][:, 2] == 0).all()


def test_frames_that_only_fill_up_a_batch_are_never_played(folder: Path) -> None:
    assert any(step.padding.any() for step in RolloutDataset(folder, 3, device="cpu"))
    env = ReplayEnv(RolloutDataset(folder, 3, device="cpu"), CounterEnv(3))
    seen: list[tuple[float, ...]] = []
    while (obs := env.begin(1)) is not None:
        seen.extend(tuple(row) for row in obs["policy"].tolist())
    assert len(seen) == len(set(seen)) > 20


def test_the_numpy_face(folder: Path) -> None:
    env = ReplayEnv(RolloutDataset(folder, 3, device="cpu"), CounterEnv(3))
    obs = env.reset()
    assert set(obs) == {"policy"}
    _, rewards, dones, _ = env.step(env.executed().numpy())
    assert rewards.shape == dones.shape == (3,)


def test_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"plays 2 environments\. Expected 3"):
        ReplayEnv(RolloutDataset(folder, 2, device="cpu"), CounterEnv(3))
    with pytest.raises(StrlKeyError, match="no observation group 'critic'"):
        ReplayEnv(RolloutDataset(folder, 3, device="cpu"), CounterEnv(3, with_critic=True)).begin(1)
    like = PointMass(3, groups=("policy",))
    with pytest.raises(StrlValueError, match=r"'policy' was recorded with shape \(3,\)"):
        ReplayEnv(RolloutDataset(folder, 3, device="cpu"), like).begin(1)
    other = DiscreteToy(spaces.MultiBinary(1), 3)
    other.observation_space = CounterEnv(3).observation_space
    with pytest.raises(StrlValueError, match=r"actions are of type torch\.float32"):
        ReplayEnv(RolloutDataset(folder, 3, device="cpu"), other).begin(1)
