"""One process alone: nothing is sent, nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch as th
import torch.distributed as dist

from sb3_strl.common import distributed
from sb3_strl.common.errors import PeerError


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Rank 2 of 3 under torchrun, before the processes have met."""
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


def test_alone_the_same_tensors_come_back() -> None:
    assert not distributed.is_active()
    x = th.tensor([1.0, 2.0])
    count, var = th.tensor(2), th.tensor([3.0, 4.0])
    assert distributed.mean(x) is x
    assert distributed.mean_(x) is x
    assert distributed.sum_(x) is x
    total, share = distributed.divisor(th.tensor(0))
    assert (int(total), int(share)) == (0, 1)
    merged = distributed.moments(count, x, var)
    assert all(a is b for a, b in zip(merged, (count, x, var), strict=True))
    assert distributed.gather([1, 2], th.device("cpu")) == [[1, 2]]
    assert distributed.tell("text", 0, th.device("cpu")) == "text"
    distributed.broadcast_([x])
    assert x.tolist() == [1.0, 2.0]


def test_alone_no_operator_runs() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = th.zeros(2, requires_grad=True)
    x.grad = th.ones(2)
    with Count() as count:
        distributed.mean(x)
        distributed.mean_gradients_([x])
        distributed.moments(x, x, x)
        distributed.broadcast_([x])
        assert count.seen == []
        x + 1
        assert len(count.seen) == 1


def test_alone_there_is_one_process_that_does_everything() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main()
    distributed.start()
    assert not dist.is_initialized()
    distributed.stop()


def test_other_launchers_variables_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_torchrun_says_who_we_are_before_we_meet(launched: pytest.MonkeyPatch) -> None:
    assert (distributed.rank(), distributed.world_size()) == (2, 3)
    assert not distributed.is_main()


def test_seeds_follow_the_environments(launched: pytest.MonkeyPatch) -> None:
    assert distributed.rank_seed(7, n_envs=10) == 27
    assert distributed.rank_seed(None, n_envs=10) is not None
    launched.setenv("RANK", "0")
    assert distributed.rank_seed(7, n_envs=10) == 7
    assert distributed.rank_seed(None, n_envs=10) is None


def test_a_group_of_one_is_no_group(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/m", rank=0, world_size=1)
    try:
        assert not distributed.is_active()
        assert distributed.world_size() == 1
    finally:
        distributed.stop()
    assert not dist.is_initialized()


def test_a_lost_process_is_named_as_the_reason() -> None:
    def fail() -> None:
        raise RuntimeError("Connection closed by peer\n frames of C++")

    with pytest.raises(PeerError, match=r"died or stopped answering \(Connection closed by peer\)"):
        distributed._together(fail)
