"""Older rollouts behind the newest one: every step keeps what belongs to it."""

from __future__ import annotations

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.buffers import QueueRolloutBuffer
from sb3_strl.common.errors import StrlValueError
from tests.envs.toy import PointMass, box

T, N = 4, 2


def filled(ratio: float, rollouts: int) -> QueueRolloutBuffer:
    """Observations, actions, rewards, values and returns of a step say which one it is."""
    buffer = QueueRolloutBuffer(
        T, box(1), box(1, bound=1.0), "cpu", n_envs=N, buffer_dilation_ratio=ratio, gamma=0.0
    )
    nothing = th.zeros(N, dtype=th.bool)
    for rollout in range(rollouts):
        buffer.reset()
        for t in range(T):
            tag = float(rollout * T + t)
            column = th.full((N, 1), tag)
            buffer.add({"policy": column}, column, {}, nothing)
            buffer.add_outcome(th.full((N,), tag), nothing, nothing)
        buffer["values"].copy_(buffer["rewards"] - 1.0)
        buffer.compute_returns_and_advantage(th.zeros(N))  # gamma 0: the return is the reward
    return buffer


@pytest.mark.parametrize(
    ("ratio", "rollouts", "expected"),
    [
        (1.0, 3, range(8, 12)),
        (2.0, 1, range(4)),
        (2.0, 2, range(8)),
        (2.0, 4, range(8, 16)),
        (2.6, 2, range(8)),
        (2.6, 4, range(6, 16)),  # floor(2.6 * 4) = 10 steps
    ],
)
def test_steps_are_in_order_and_carry_their_returns(
    ratio: float, rollouts: int, expected: range
) -> None:
    buffer = filled(ratio, rollouts)
    found = buffer.untie_buffer_loop()
    tags = th.tensor([float(tag) for tag in expected]).unsqueeze(-1).expand(-1, N)
    assert th.equal(found["obs/policy"].squeeze(-1), tags)
    assert th.equal(found["actions"].squeeze(-1), tags)
    for name in ("rewards", "returns"):
        assert th.equal(found[name], tags)
    assert th.equal(found["advantages"], th.ones_like(tags))
    assert buffer.n_old == len(expected) - T


def test_an_epoch_covers_all_valid_steps_and_ppo_sees_the_newest() -> None:
    buffer = filled(2.0, 3)
    batches = list(buffer.get_all(5))
    assert [len(batch["rewards"]) for batch in batches] == [5, 5, 5, 1]
    tags = th.cat([batch["rewards"] for batch in batches])
    assert sorted(tags.tolist()) == sorted([float(t) for t in range(4, 12)] * N)
    for batch in batches:
        assert th.equal(batch["obs/policy"].squeeze(-1), batch["returns"])
    newest = next(buffer.get())
    assert sorted(newest.returns.tolist()) == sorted([float(t) for t in range(8, 12)] * N)


def test_what_it_returns_is_a_copy() -> None:
    for ratio in (1.0, 2.0):
        buffer = filled(ratio, 2)
        buffer.untie_buffer_loop()["rewards"].zero_()
        assert (buffer["rewards"] > 0).all()


def test_an_algorithm_takes_it() -> None:
    model = PPO(
        "MlpGruPolicy",
        PointMass(3),
        n_steps=T,
        n_epochs=1,
        seed=0,
        rollout_buffer_class=QueueRolloutBuffer,
        rollout_buffer_kwargs={"buffer_dilation_ratio": 3.0},
    )
    plain = PPO("MlpGruPolicy", PointMass(3), n_steps=T, n_epochs=1, seed=0)
    for each in (model, plain):
        each.learn(T * 3 * 4)
    for name, value in plain.policy.state_dict().items():
        assert th.equal(value, model.policy.state_dict()[name]), name
    assert len(model.rollout_buffer.untie_buffer_loop()["rewards"]) == 3 * T


def test_mistakes() -> None:
    with pytest.raises(StrlValueError, match=r"QueueRolloutBuffer: buffer_dilation_ratio is 0\.5"):
        filled(0.5, 1)
    buffer = filled(2.0, 1)
    with pytest.raises(StrlValueError, match="batch_size is 0"):
        next(buffer.get_all(0))
    buffer.reset()
    with pytest.raises(StrlValueError, match="only 0 of 4 steps are filled"):
        buffer.untie_buffer_loop()
