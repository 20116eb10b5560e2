"""Replay of motion features."""

from __future__ import annotations

import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_strl.buffers.feature_replay import AmpReplayBuffer, FeatureReplay
from sb3_strl.common.errors import StrlKeyError, StrlValueError
from tests.host_sync import no_host_sync


def rows(*numbers):
    """Rows that name themselves."""
    return th.tensor(numbers, dtype=th.float32).unsqueeze(-1).repeat(1, 2)


def held(replay):
    """Rows that a large sample meets."""
    sample = replay.sample(2000)
    assert th.equal(sample[:, 0], sample[:, 1])
    return set(sample[:, 0].tolist())


def test_ring_overwrites_the_oldest():
    replay = FeatureReplay(2, 4, seed=0)
    replay.insert(rows(1, 2, 3))
    assert held(replay) == {1, 2, 3}
    assert replay.count == 3
    replay.insert(rows(4, 5))
    assert held(replay) == {2, 3, 4, 5}
    replay.insert(rows(6))
    assert held(replay) == {3, 4, 5, 6}
    assert replay.count == 4


def test_order_in_storage_after_a_wrap():
    replay = FeatureReplay(2, 4)
    replay.insert(rows(1, 2, 3))
    replay.insert(rows(4, 5))
    assert replay.state_dict()["rows"][:, 0].tolist() == [5, 2, 3, 4]
    assert replay.state_dict()["position"] == 1


@pytest.mark.parametrize("already", [0, 1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_of_more_rows_than_fit_the_newest_stay(already, masked):
    replay = FeatureReplay(2, 3, seed=0)
    replay.insert(rows(*range(-already, 0)))
    replay.insert(rows(*range(10)), th.ones(10, dtype=th.bool) if masked else None)
    assert held(replay) == {7, 8, 9}
    replay.insert(rows(10))
    assert held(replay) == {8, 9, 10}


def test_rows_that_are_not_valid_are_never_sampled():
    replay = FeatureReplay(2, 4, seed=0)
    replay.insert(rows(1, -1, 2, -2, -3), th.tensor([True, False, True, False, False]))
    assert held(replay) == {1, 2}
    replay.insert(rows(-4, 3, 4, 5), th.tensor([False, True, True, True]))
    assert held(replay) == {2, 3, 4, 5}
    replay.insert(rows(-5, -6), th.zeros(2, dtype=th.bool))
    assert held(replay) == {2, 3, 4, 5}


def test_oversize_with_mask_keeps_the_newest_valid_rows():
    replay = FeatureReplay(2, 3, seed=0)
    mask = th.tensor([True, True, False, True, True, True, False, False])
    replay.insert(rows(*range(8)), mask)
    assert held(replay) == {3, 4, 5}


def test_no_two_rows_are_written_to_one_place():
    """Which of them stays is undefined on an accelerator; the CPU happens to keep the last."""
    places = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "index_put" in func.overloadpacket.__name__:
                places.extend(args[1][0].tolist())
            return func(*args, **(kwargs or {}))

    replay = FeatureReplay(2, 3)
    replay.insert(rows(1))
    with Watch():
        replay.insert(rows(*range(8)), th.arange(8) != 5)
    assert sorted(places) == [0, 1, 2, 3, 3, 3, 3, 3]  # 3 lies outside of what is sampled


def test_equals_a_plain_queue():
    from collections import deque

    generator = th.Generator().manual_seed(3)
    replay, queue, name = FeatureReplay(2, 7, seed=0), deque(maxlen=7), 0
    for _ in range(30):
        n = int(th.randint(0, 12, (), generator=generator))
        features, mask = rows(*range(name, name + n)), th.rand(n, generator=generator) > 0.4
        features = features.reshape(n, 2)
        name += n
        replay.insert(features, mask)
        queue.extend(features[mask][:, 0].tolist())
        if queue:
            assert held(replay) == set(queue)


def test_sampling_is_uniform_and_seeded():
    replay = FeatureReplay(2, 5, seed=0)
    replay.insert(rows(0, 1, 2, 3))
    counts = replay.sample(40_000)[:, 0].long().bincount(minlength=4)
    assert ((counts - 10_000).abs() < 400).all()
    draws = [replay.sample(20, th.Generator().manual_seed(4)) for _ in range(2)]
    assert th.equal(*draws)
    assert not th.equal(replay.sample(20), replay.sample(20))


def test_samples_are_copies():
    replay = FeatureReplay(2, 2, seed=0)
    features = rows(1, 2)
    replay.insert(features)
    features.zero_()
    replay.sample(5).zero_()
    assert held(replay) == {1, 2}


def test_generator_yields_batches():
    replay = FeatureReplay(2, 3)
    replay.insert(rows(1, 2))
    batches = list(replay.feed_forward_generator(4, 5))
    assert [tuple(b.shape) for b in batches] == [(5, 2)] * 4


def test_an_untouched_buffer_is_refused_and_a_masked_one_gives_zeros():
    replay = FeatureReplay(2, 3)
    replay.insert(th.empty(0, 2))
    with pytest.raises(StrlValueError, match="cannot sample from an empty buffer"):
        replay.sample(1)
    with pytest.raises(StrlValueError, match="cannot sample from an empty buffer"):
        next(iter(replay.feed_forward_generator(1, 1)))
    replay.insert(rows(5), th.tensor([False]))
    assert replay.count == 0
    assert (replay.sample(3) == 0.0).all()


def test_a_saved_buffer_continues_bit_for_bit():
    replay, other = FeatureReplay(2, 4, seed=0), FeatureReplay(2, 4, seed=9)
    replay.insert(rows(1, 2, 3, 4, 5, 6), th.arange(6) != 2)
    replay.sample(3)
    state = replay.state_dict()
    assert all(isinstance(value, th.Tensor) for value in state.values())
    other.load_state_dict(state)
    for r in (replay, other):
        r.insert(rows(7))
    assert th.equal(replay.sample(50), other.sample(50))
    assert state["position"] == 1  # a copy: the insert above did not change it
    fresh = FeatureReplay(2, 4)
    other.load_state_dict(fresh.state_dict())
    with pytest.raises(StrlValueError, match="cannot sample from an empty buffer"):
        other.sample(1)


def test_type_and_device_are_kept():
    replay = FeatureReplay(2, 3, dtype=th.float64)
    replay.insert(rows(1))
    assert replay.sample(2).dtype == th.float64
    assert replay.device == th.device("cpu")
    assert AmpReplayBuffer is FeatureReplay


def test_the_host_never_waits():
    replay = FeatureReplay(2, 4)
    with no_host_sync():
        replay.insert(rows(1, 2, 3), th.tensor([True, False, True]))
        replay.insert(rows(*range(9)))
        replay.sample(5)


def test_errors():
    with pytest.raises(StrlValueError, match="buffer_size=0"):
        FeatureReplay(2, 0)
    with pytest.raises(StrlValueError, match="feature_dim=0"):
        FeatureReplay(0, 2)
    replay = FeatureReplay(2, 3)
    with pytest.raises(StrlValueError, match=r"shape \(4, 3\). Expected \(n, 2\)"):
        replay.insert(th.zeros(4, 3))
    with pytest.raises(StrlKeyError, match=r"the state lacks \['generator', 'rows'\]"):
        replay.load_state_dict({"position": th.tensor(0), "count": th.tensor(0)})
    with pytest.raises(StrlValueError, match=r"saved rows have shape \(4, 2\).*Expected \(3, 2\)"):
        replay.load_state_dict(FeatureReplay(2, 4).state_dict())
