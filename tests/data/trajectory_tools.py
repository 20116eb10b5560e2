"""Demonstrations whose numbers say where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sb3_strl.data.trajectory import Trajectory


def make_trajectories(
    lengths: Sequence[int] = (3, 1, 5),
    dtype: type = np.float32,
    shape: tuple[int, ...] = (4,),
    discrete: bool = False,
    rewards: bool = True,
    infos: bool = False,
    names: Sequence[str] = (),
) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    made = []
    for number, length in enumerate(lengths):

        def draw(rows: int) -> np.ndarray:
            return (rng.random((rows, *shape)) * 255).astype(dtype)

        obs = {name: draw(length + 1) for name in names} if names else draw(length + 1)
        acts = rng.integers(0, 3, length) if discrete else rng.random((length, 2), np.float32)
        made.append(
            Trajectory(
                obs,
                acts,
                rng.random(length) if rewards else None,
                number % 2 == 0,
                [{"step": t, "pos": [number, t]} for t in range(length)] if infos else None,
            )
        )
    return made


def same(one: Trajectory, other: Trajectory) -> None:
    """Assert that two demonstrations are the same, types included."""
    if isinstance(one.obs, Mapping):
        assert isinstance(other.obs, Mapping)
        assert set(one.obs) == set(other.obs)
        pairs = [(one.obs[name], other.obs[name]) for name in one.obs]
    else:
        pairs = [(one.obs, other.obs)]
    pairs.append((one.acts, other.acts))
    assert (one.rews is None) == (other.rews is None)
    if one.rews is not None:
        pairs.append((one.rews, other.rews))
    for left, right in pairs:
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)
    assert one.terminal == other.terminal
    assert (one.infos is None) == (other.infos is None)
    if one.infos is not None:
        assert list(one.infos) == list(other.infos)


def all_same(some: Sequence[Trajectory], others: Sequence[Trajectory]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        same(one, other)
