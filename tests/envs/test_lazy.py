from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl.common.types import TensorStep
from sb3_strl.envs import LazyArray, LazyInfos
from tests.envs.toy import CounterEnv, PointMass, box
from tests.host_sync import no_host_sync


def lazy_infos(n_done: int = 2) -> LazyInfos:
    dones = th.arange(4) < n_done
    obs = {"policy": th.arange(8.0).view(4, 2)}
    step = TensorStep(obs, th.ones(4), dones, th.zeros(4, dtype=th.bool), obs, {})
    return LazyInfos(step, box(2), th.arange(4.0), th.arange(4), seconds=1.5)


def test_lazy_infos_behave_as_a_list() -> None:
    infos = lazy_infos()
    assert len(infos) == 4
    assert infos[-1] == {}
    assert [len(info) for info in infos] == [3, 3, 0, 0]
    assert isinstance(infos[:], list)
    assert len(infos[1:3]) == 2
    assert infos[1:2][0] is infos[1]
    assert infos[np.int64(1)]["episode"] == {"r": 1.0, "l": 1, "t": 1.5}
    with pytest.raises(IndexError, match=r"index 4 is out of range. There are 4"):
        infos[4]
    with pytest.raises(IndexError, match="index -5"):
        infos[-5]
    assert repr(infos) == "LazyInfos(4 environments)"


def test_lazy_infos_keep_what_is_written() -> None:
    infos = lazy_infos()
    infos[0]["terminal_observation"] = "mine"
    infos[2] = {"a": 1}
    assert infos[0]["terminal_observation"] == "mine"
    assert list(infos)[2] == {"a": 1}
    assert infos[1]["terminal_observation"].tolist() == [2.0, 3.0]


def test_lazy_infos_have_separate_arrays() -> None:
    infos = lazy_infos()
    infos[0]["terminal_observation"][:] = -1.0
    assert infos[1]["terminal_observation"].tolist() == [2.0, 3.0]
    assert infos[1]["terminal_observation"].base is None  # keeps no other row alive
    other = lazy_infos()
    assert other[0]["terminal_observation"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_lazy_things_can_be_copied(copier: Any) -> None:
    assert copier(lazy_infos())[1]["episode"]["r"] == 1.0
    assert copier(LazyArray(th.arange(3)))[2] == 2


def test_lazy_infos_of_groups_have_separate_arrays() -> None:
    env = CounterEnv(1)
    env.reset()
    for _ in range(3):
        _, _, _, infos = env.step(np.zeros((1, 1)))
    assert infos[0]["terminal_observation"]["policy"].base is None


def test_lazy_infos_build_no_dict_before_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = LazyInfos._build
    monkeypatch.setattr(LazyInfos, "_build", lambda self, i: built.append(i) or build(self, i))
    env = CounterEnv(3)
    env.reset()
    for _ in range(5):
        _, _, _, infos = env.step(np.zeros((3, 1)))
    assert not built
    assert infos[2]
    assert infos[2]
    assert built == [2]


def test_lazy_arrays_are_read_as_arrays() -> None:
    tensor = th.tensor([True, False, True])
    dones = LazyArray(tensor)
    assert np.sum(dones).item() == 2  # what StopTrainingOnMaxEpisodes does
    assert len(dones) == 3
    assert dones[0]
    assert list(dones) == [True, False, True]
    assert dones.any()
    assert dones.shape == (3,)
    assert (~dones).tolist() == [False, True, False]
    assert (dones & [True, True, False]).tolist() == [True, False, False]
    assert (2 * LazyArray(th.ones(2))).tolist() == [2, 2]
    assert np.array(dones, dtype=np.int8).tolist() == [1, 0, 1]
    assert "True, False" in repr(dones)
    with pytest.raises(AttributeError):
        _ = dones._missing


def test_lazy_arrays_are_transferred_once_and_are_copies() -> None:
    tensor = th.ones(2)
    lazy = LazyArray(tensor, np.float64)
    assert lazy[0] == 1.0
    tensor.zero_()
    assert lazy[0] == 1.0
    assert lazy.dtype == np.float64
    copied = np.array(lazy)
    copied[:] = 5.0
    assert lazy[0] == 1.0


def test_lazy_obs_follow_the_space() -> None:
    plain, groups = CounterEnv(2, plain=True), CounterEnv(2)
    obs = groups.reset_tensor()
    assert isinstance(plain.lazy_obs(obs), LazyArray)
    assert np.asarray(groups.lazy_obs(obs)["policy"]).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_infos_of_a_numpy_step_are_used_as_they_are() -> None:
    env = CounterEnv(2)
    step = env.step_tensor(th.zeros(2, 1))._replace(extras={"infos": [{"a": 1}, {}]})
    assert env.lazy_infos(step) == [{"a": 1}, {}]


def test_a_step_that_nobody_reads_waits_for_nothing() -> None:
    env = PointMass(3, termination_prob=0.3)
    with no_host_sync():
        env.lazy_obs(env.reset_tensor())
        for _ in range(5):
            step = env.step_tensor(th.zeros(3, 2))
            env.lazy_obs(step.obs)
            infos = env.lazy_infos(step, step.rewards, step.rewards)
            dones = LazyArray(step.terminated | step.truncated)
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        _ = infos[0]
    assert len(dones) == 3
