"""Rollouts are cut where episodes begin, and nothing is lost or mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_strl.common.sequences import (
    EpisodeMap,
    split_and_pad_trajectories,
    unpad_trajectories,
)


def _starts(seed: int, steps: int = 9, n_envs: int = 4, p: float = 0.3) -> th.Tensor:
    generator = th.Generator().manual_seed(seed)
    return th.rand(steps, n_envs, generator=generator) < p


def _sequences(plan, n_envs: int) -> list[list[tuple[int, int]]]:
    """Unpack a plan into lists of (step, environment)."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(int(plan.batch_sizes[0]))]
    rows = iter(plan.rows.tolist())
    for count in plan.batch_sizes.tolist():
        for sequence in range(count):
            found[sequence].append(divmod(next(rows), n_envs))
    assert next(rows, None) is None
    return found


@pytest.mark.parametrize("length", [1, 2, 4, 9, 100])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_once_in_order_and_cut_at_starts(length: int, seed: int) -> None:
    starts = _starts(seed)
    plan = EpisodeMap(starts, length).plan()
    sequences = _sequences(plan, 4)
    assert sorted(row for sequence in sequences for row in sequence) == [
        (t, n) for t in range(9) for n in range(4)
    ]
    lengths = [len(sequence) for sequence in sequences]
    assert lengths == sorted(lengths, reverse=True)
    for index, sequence in enumerate(sequences):
        (first, env), (last, _) = sequence[0], sequence[-1]
        assert sequence == [(t, env) for t in range(first, last + 1)]
        assert first % length == 0 or starts[first, env]
        assert not any(starts[t, env] for t, _ in sequence[1:])
        assert first // length == last // length
        assert (int(plan.heads[index]), int(plan.tails[index])) == (first * 4 + env, last * 4 + env)
        end = last + 1
        assert end == 9 or end % length == 0 or starts[end, env]


def test_chunks_are_chosen_and_their_last_sequences_named() -> None:
    starts = _starts(1)
    episodes = EpisodeMap(starts, 4)  # three chunks per environment
    chosen = np.array([0, 4, 11])  # environment 0 from 0, 1 from 4, 3 from 8
    plan = episodes.plan(chosen)
    rows = {divmod(row, 4) for row in plan.rows.tolist()}
    assert rows == {(t, 0) for t in range(4)} | {(t, 1) for t in range(4, 8)} | {(8, 3)}
    ends = [divmod(int(plan.tails[place]), 4) for place in plan.final]
    assert ends == [(3, 0), (7, 1), (8, 3)]


@pytest.mark.parametrize("dtype", [th.bool, th.int64])
@pytest.mark.parametrize("trailing", [(), (3,), (2, 2)])
def test_padding_and_back(dtype: th.dtype, trailing: tuple[int, ...]) -> None:
    values = th.randn(9, 4, *trailing) + 10.0
    dones = _starts(2).to(dtype)
    padded, mask = split_and_pad_trajectories(values, dones)
    ends = dones.bool().clone()
    ends[-1] = True
    assert padded.shape[1] == int(ends.sum())
    assert (padded[~mask] == 0).all()
    assert th.equal(
        padded[mask].sort().values if not trailing else padded[mask].sum(),
        (values.flatten().sort().values if not trailing else padded[mask].sum()),
    )
    assert th.equal(unpad_trajectories(padded, mask), values)
    first = int(ends[:, 0].nonzero()[0]) + 1  # the first piece of the first environment
    assert th.equal(padded[:first, 0], values[:first, 0])
    assert int(mask[:, 0].sum()) == first


def test_padding_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"values have shape \(3, 2\) and dones \(3, 1\)"):
        split_and_pad_trajectories(th.zeros(3, 2), th.zeros(3, 1))
    padded, mask = split_and_pad_trajectories(th.randn(9, 4), _starts(2))
    with pytest.raises(ValueError, match="do not make whole environments of 9 steps"):
        unpad_trajectories(padded[:, 1:], mask[:, 1:])
