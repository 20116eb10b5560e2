"""Every field of a row belongs to one transition, and every row is drawn once."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.buffers.presets import action_label_fields, ref_motion_fields
from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBuffer
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from tests.envs.toy import box

SPACE = spaces.Dict({"policy": box(3), "image": spaces.Box(0, 255, (1, 4, 4), np.uint8)})
T, N = 5, 3


def make(action_space: spaces.Space | None = None, **options) -> RolloutBuffer:
    options.setdefault("dist_shapes", {"mean": (2,)})
    return RolloutBuffer(T, SPACE, action_space or box(2, bound=1.0), "cpu", n_envs=N, **options)


def fill(buffer: RolloutBuffer) -> None:
    """Write the number of the transition, ``10 t + n``, into everything."""
    buffer.reset()
    for t in range(T):
        number = 10.0 * t + th.arange(N)
        wide = number.unsqueeze(-1)
        image = wide.to(th.uint8).view(N, 1, 1, 1).expand(-1, 1, 4, 4)
        actions = number.long() if buffer["actions"].ndim == 2 else wide.expand(-1, 2)
        params = {"mean": wide.expand(-1, 2)}
        obs = {"policy": wide.expand(-1, 3), "image": image}
        buffer.add(obs, actions, params, th.tensor([t == 0] * N))
        buffer.add_outcome(number, th.tensor([t == 1, False, False]), th.tensor([False, t == 3, 0]))
        for name in buffer.fields:
            if name.startswith("mine/"):
                buffer.put(name, number.to(buffer[name].dtype))
    for name in ("values", "log_probs", "advantages", "returns"):
        buffer[name].copy_(buffer["rewards"])


def test_fields_have_the_shapes_and_types_of_their_spaces() -> None:
    buffer = make(extra_fields=ref_motion_fields(7))
    table = {name: (tuple(buffer[name].shape[2:]), buffer[name].dtype) for name in buffer.fields}
    assert table == {
        "obs/policy": ((3,), th.float32),
        "obs/image": ((1, 4, 4), th.uint8),
        "actions": ((2,), th.float32),
        "dist/mean": ((2,), th.float32),
        "values": ((), th.float32),
        "log_probs": ((), th.float32),
        "advantages": ((), th.float32),
        "returns": ((), th.float32),
        "rewards": ((), th.float32),
        "episode_starts": ((), th.bool),
        "terminated": ((), th.bool),
        "truncated": ((), th.bool),
        "amp/features": ((7,), th.float32),
        "amp/expert": ((7,), th.float32),
        "amp/valid": ((), th.bool),
        "amp/expert_valid": ((), th.bool),
    }
    assert all(buffer[name].shape[:2] == (T, N) for name in buffer.fields)


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Discrete(4), (), th.int64),
        (spaces.MultiDiscrete([3, 4]), (2,), th.int64),
        (spaces.MultiBinary(2), (2,), th.float32),
        (box(2, 3, bound=1.0), (6,), th.float32),
    ],
)
def test_actions_of_every_kind(space: spaces.Space, shape: tuple, dtype: th.dtype) -> None:
    actions = make(space)["actions"]
    assert (tuple(actions.shape[2:]), actions.dtype) == (shape, dtype)


@pytest.mark.parametrize("size", [None, 1, 4, 15, 100])
def test_an_epoch_draws_every_transition_once_and_keeps_its_parts_together(size) -> None:
    buffer = make(extra_fields={"mine/x": FieldSpec(), "mine/i": FieldSpec((), th.int64)})
    fill(buffer)
    seen = []
    for batch in buffer.get(size, th.Generator().manual_seed(0)):
        number = batch.returns
        assert len(number) <= (size or 15)
        wide = number.unsqueeze(-1)
        assert th.equal(batch.observations["policy"], wide.expand(-1, 3))
        assert th.equal(batch.observations["image"].float().mean((1, 2, 3)), number)
        assert batch.observations["image"].dtype == th.uint8
        assert th.equal(batch.actions, wide.expand(-1, 2))
        assert th.equal(batch.dist["mean"], wide.expand(-1, 2))
        for other in (
            batch.old_values,
            batch.old_log_prob,
            batch.advantages,
            *batch.extras.values(),
        ):
            assert th.equal(other.float(), number)
        assert set(batch.extras) == {"mine/x", "mine/i"}
        seen += number.tolist()
    assert sorted(seen) == sorted(10.0 * t + n for t in range(T) for n in range(N))


@pytest.mark.parametrize("n_minibatches", [1, 4, 7, 15, 40])
def test_as_many_minibatches_as_asked_for(n_minibatches: int) -> None:
    buffer = make()
    fill(buffer)
    sizes = [len(batch.actions) for batch in buffer.get(n_minibatches=n_minibatches)]
    assert len(sizes) == min(n_minibatches, T * N)  # which does not divide 15 but once
    assert sum(sizes) == T * N
    assert max(sizes) - min(sizes) <= 1


def test_every_epoch_has_an_order_of_its_own_and_a_seed_repeats_it() -> None:
    buffer = make()
    fill(buffer)

    def orders(seed: int) -> list[list[float]]:
        generator = th.Generator().manual_seed(seed)
        return [next(buffer.get(None, generator)).returns.tolist() for _ in range(2)]

    first, second = orders(0)
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1)[0] != first


def test_discrete_actions_come_back_flat() -> None:
    buffer = make(spaces.Discrete(100), dist_shapes={"mean": (2,)})
    fill(buffer)
    batch = next(buffer.get(4))
    assert batch.actions.shape == (4,)
    assert batch.actions.dtype == th.int64
    assert th.equal(batch.actions.float(), batch.returns)


def test_distribution_parameters_are_left_out_of_batches_if_nobody_wants_them() -> None:
    buffer = make(sample_dist=False)
    fill(buffer)
    assert next(buffer.get(4)).dist == {}
    assert buffer.dist()["mean"].shape == (T, N, 2)


def test_statistics_change_nothing() -> None:
    buffer = make()
    fill(buffer)
    before = {name: buffer[name].clone() for name in buffer.fields}
    # five pieces: environment 0 ends at 1, environment 1 at 3, and all at the last step
    expected = (15 / 5, pytest.approx(21.0))
    assert buffer.get_statistics() == expected
    assert buffer.get_statistics() == expected
    assert all(th.equal(buffer[name], value) for name, value in before.items())


def test_storage_is_reused_and_overflow_refused() -> None:
    buffer = make()
    address = buffer["obs/policy"].data_ptr()
    fill(buffer)
    assert buffer.full
    with pytest.raises(StrlValueError, match=r"holds 5 steps and is full\. Call reset\(\) first"):
        buffer.add({}, th.zeros(N, 2), {}, th.zeros(N))
    fill(buffer)
    assert buffer["obs/policy"].data_ptr() == address


def test_half_a_rollout_is_no_rollout() -> None:
    buffer = make()
    with pytest.raises(StrlValueError, match="only 0 of 5 steps are filled"):
        next(buffer.get(4))
    fill(buffer)
    with pytest.raises(StrlValueError, match=r"batch_size is 0\. It must be positive"):
        next(buffer.get(0))


def test_names_that_are_not_there() -> None:
    buffer = make()
    with pytest.raises(StrlKeyError, match=r"no field 'reward'\. Did you mean 'rewards'\?"):
        buffer["reward"]
    with pytest.raises(StrlKeyError, match=r"no field 'amp/x'\. Fields: \["):
        buffer.put("amp/x", th.zeros(N))
    with pytest.raises(StrlKeyError, match=r"observation group 'polcy'\. Did you mean 'policy'"):
        make(groups=["polcy"])
    with pytest.raises(StrlTypeError, match=r"field 'values' exists already.*<objective>/values"):
        make(extra_fields={"values": FieldSpec()})


def test_only_the_groups_that_are_read_are_stored() -> None:
    assert list(make(groups=["policy"]).obs()) == ["policy"]


def test_advantages_use_the_stored_flags() -> None:
    buffer = make(gamma=0.5, gae_lambda=0.5)
    fill(buffer)
    buffer["values"].zero_()
    buffer.compute_returns_and_advantage(th.full((N,), 8.0), th.ones(N))
    rewards = buffer["rewards"]
    assert buffer["advantages"][-1].tolist() == (rewards[-1] + 4.0).tolist()
    assert buffer["advantages"][1, 0] == rewards[1, 0]  # terminated
    assert buffer["advantages"][3, 1] == rewards[3, 1]  # truncated; its bootstrap is in the reward
    assert buffer["advantages"][3, 2] == rewards[3, 2] + 0.25 * buffer["advantages"][4, 2]


def test_a_table_of_all_fields() -> None:
    text = make(extra_fields=action_label_fields(2)).describe()
    assert "teacher/actions" in text
    assert "uint8" in text
    assert len(text.splitlines()) == 3 + len(make(extra_fields=action_label_fields(2)).fields)
