"""The rollout buffer: identifiable data in, the same transitions out."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.buffers import (
    ActionLabelRolloutBuffer,
    FieldSpec,
    RefMotionRolloutBuffer,
    RolloutBuffer,
)
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError

T, N = 5, 3
SPACE = spaces.Dict(
    {
        "policy": spaces.Box(-np.inf, np.inf, (4,), np.float32),
        "image": spaces.Box(0, 255, (1, 2, 2), np.uint8),
        "unused": spaces.Box(-1.0, 1.0, (2,), np.float32),
    }
)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


def make(**options) -> RolloutBuffer:
    settings = {
        "groups": ["policy", "image"],
        "dist_shapes": {"mean": (2,), "std": (2,)},
        "extra_fields": {"x/flag": FieldSpec((), th.bool), "x/wide": FieldSpec((2, 3))},
        **options,
    }
    return RolloutBuffer(T, SPACE, ACTIONS, "cpu", 0.9, 0.99, N, **settings)


def fill(buffer: RolloutBuffer) -> None:
    """Every number of transition (t, n) is 10 t + n."""
    for t in range(T):
        tag = 10.0 * t + th.arange(float(N))
        buffer.add(
            {
                "policy": tag[:, None].expand(N, 4),
                "image": tag.to(th.uint8).view(N, 1, 1, 1).expand(N, 1, 2, 2),
            },
            tag[:, None].expand(N, 2),
            {"mean": tag[:, None].expand(N, 2), "std": th.ones(2)},
            th.arange(N) == t,
        )
        buffer.put("x/flag", tag % 2 == 0)
        buffer.put("x/wide", tag.view(N, 1, 1).expand(N, 2, 3))
        buffer.add_outcome(tag, th.arange(N) == t, th.zeros(N, dtype=th.bool))
    for name in ("values", "log_probs", "advantages", "returns"):
        buffer[name].copy_(buffer["rewards"])


def test_every_field_of_a_batch_names_the_same_transition() -> None:
    buffer = make()
    fill(buffer)
    seen = []
    for batch in buffer.get(4):
        tag = batch.old_values
        assert th.equal(batch.observations["policy"], tag[:, None].expand(-1, 4))
        assert batch.observations["image"].dtype == th.uint8
        assert th.equal(batch.observations["image"].flatten(1)[:, 0].float(), tag)
        assert th.equal(batch.actions[:, 1], tag)
        assert th.equal(batch.dist["mean"][:, 0], tag)
        assert th.equal(batch.extras["x/flag"], tag % 2 == 0)
        assert th.equal(batch.extras["x/wide"], tag.view(-1, 1, 1).expand(-1, 2, 3))
        for other in (batch.old_log_prob, batch.advantages, batch.returns):
            assert th.equal(other, tag)
        seen += tag.tolist()
    assert sorted(seen) == sorted(10.0 * t + n for t in range(T) for n in range(N))


def test_every_epoch_has_another_order() -> None:
    buffer = make()
    fill(buffer)
    generator = th.Generator().manual_seed(0)
    orders = [next(iter(buffer.get(None, generator))).old_values.tolist() for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1])


def test_only_stored_groups_are_there() -> None:
    assert "unused" not in make().obs()
    with pytest.raises(StrlKeyError, match="Did you mean 'policy'"):
        make(groups=["polcy"])


def test_statistics_change_nothing() -> None:
    buffer = make()
    fill(buffer)
    before = buffer["terminated"].clone()
    first, second = buffer.get_statistics(), buffer.get_statistics()
    assert first == second
    assert first[0] == pytest.approx(T * N / 6)  # three episodes end, three pieces are cut
    assert th.equal(before, buffer["terminated"])


def test_misuse_is_refused() -> None:
    buffer = make()
    with pytest.raises(StrlValueError, match="only 0 of 5 steps"):
        next(iter(buffer.get()))
    fill(buffer)
    with pytest.raises(StrlValueError, match="is full"):
        fill(buffer)
    with pytest.raises(StrlValueError, match="batch_size is 0"):
        next(iter(buffer.get(0)))
    with pytest.raises(StrlKeyError, match="Did you mean 'rewards'"):
        buffer["reward"]
    with pytest.raises(StrlKeyError, match="no field 'x/flg'"):
        buffer.put("x/flg", th.zeros(N))
    with pytest.raises(StrlTypeError, match="exists already"):
        make(extra_fields={"values": FieldSpec()})
    with pytest.raises(TypeError, match="gama"):
        make(gama=0.9)


def test_parameters_of_the_distribution_may_stay_out_of_the_batches() -> None:
    buffer = make(sample_dist=False)
    fill(buffer)
    assert next(iter(buffer.get())).dist == {}
    assert buffer.dist()["mean"].shape == (T, N, 2)


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Discrete(3), (), th.int64),
        (spaces.MultiDiscrete([2, 3]), (2,), th.int64),
        (spaces.MultiBinary(4), (4,), th.float32),
        (spaces.Box(-1.0, 1.0, (2, 3)), (6,), th.float32),
    ],
)
def test_actions_are_stored_as_their_space_says(
    space, shape: tuple[int, ...], dtype: th.dtype
) -> None:
    buffer = RolloutBuffer(T, SPACE, space, "cpu", n_envs=N)
    assert buffer["actions"].shape == (T, N, *shape)
    assert buffer["actions"].dtype == dtype


def test_presets_declare_their_fields() -> None:
    motion = RefMotionRolloutBuffer(T, SPACE, ACTIONS, "cpu", n_envs=N, feature_dim=7)
    assert motion["amp/features"].shape == motion["amp/expert"].shape == (T, N, 7)
    assert motion["amp/valid"].dtype == th.bool
    labels = ActionLabelRolloutBuffer(T, SPACE, ACTIONS, "cpu", n_envs=N, action_dim=2)
    assert labels["teacher/actions"].shape == (T, N, 2)
    with pytest.raises(TypeError, match="feature_dim"):
        RefMotionRolloutBuffer(T, SPACE, ACTIONS)
    with pytest.raises(TypeError, match="sizes"):
        RefMotionRolloutBuffer(T, SPACE, ACTIONS, feature_dim=7, sizes=3)


def test_the_table_of_fields() -> None:
    text = make().describe()
    assert "x/wide" in text
    assert "(5, 3, 2, 3)" in text
