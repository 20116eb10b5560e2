"""Advantages against a loop that is too simple to be wrong."""

import pytest
import torch as th

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.returns import gae


def brute_force(rewards, values, dones, last, gamma: float, lam: float) -> th.Tensor:
    """Sum discounted errors up to the end of the episode or of the rollout."""
    n_steps, n_envs = rewards.shape
    following = th.cat([values[1:], last[None]])
    result = th.zeros_like(rewards)
    for env in range(n_envs):
        for start in range(n_steps):
            weight = 1.0
            for t in range(start, n_steps):
                done = bool(dones[t, env])
                ahead = 0.0 if done else gamma * following[t, env]
                result[start, env] += weight * (rewards[t, env] + ahead - values[t, env])
                if done:
                    break
                weight *= gamma * lam
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("n_steps", "n_envs", "gamma", "lam"),
    [(9, 3, 0.97, 0.9), (1, 4, 0.9, 0.9), (7, 1, 0.9, 0.0), (6, 2, 1.0, 1.0), (6, 2, 0.0, 0.9)],
)
def test_gae_equals_brute_force(seed: int, n_steps: int, n_envs: int, gamma, lam) -> None:
    th.manual_seed(seed)
    rewards, values = th.randn(2, n_steps, n_envs, dtype=th.float64)
    dones, last = th.rand(n_steps, n_envs) < 0.3, th.randn(n_envs, dtype=th.float64)
    advantages, returns = gae(rewards, values, dones, last, gamma, lam)
    expected = brute_force(rewards, values, dones, last, gamma, lam)
    assert th.allclose(advantages, expected, atol=1e-12)
    assert th.allclose(returns, expected + values, atol=1e-12)


def test_by_hand() -> None:
    rewards = th.tensor([[1.0], [2.0], [3.0]])
    values = th.tensor([[10.0], [20.0], [30.0]])
    dones = th.tensor([[False], [True], [False]])
    advantages, returns = gae(rewards, values, dones, th.tensor([40.0]), 0.5, 0.5)
    # delta: 1+10-10, 2-20, 3+20-30; the second step ends its episode
    assert advantages.flatten().tolist() == [1.0 - 0.25 * 18.0, -18.0, -7.0]
    assert returns.flatten().tolist() == [6.5, 2.0, 23.0]


def test_inputs_stay_as_they_were() -> None:
    rewards, values, last = th.randn(4, 2), th.randn(4, 2), th.randn(2)
    dones = th.zeros(4, 2, dtype=th.bool)
    before = [x.clone() for x in (rewards, values, dones, last)]
    gae(rewards, values, dones, last, 0.9, 0.9)
    assert all(map(th.equal, before, (rewards, values, dones, last)))


def test_nothing_flows_over_the_end_of_an_episode() -> None:
    rewards, values = th.randn(4, 1), th.randn(4, 1)
    dones = th.tensor([[False], [True], [False], [True]])
    first, _ = gae(rewards, values, dones, th.zeros(1), 0.9, 0.9)
    rewards[2:], values[2:] = 1e6, -1e6
    second, _ = gae(rewards, values, dones, th.full((1,), 1e9), 0.9, 0.9)
    assert th.equal(first[:2], second[:2])


def test_last_values_of_another_shape_are_refused() -> None:
    zeros = th.zeros(3, 2)
    with pytest.raises(StrlValueError, match=r"last_values \(2, 1\) must be \(n_envs,\)"):
        gae(zeros, zeros, zeros.bool(), th.zeros(2, 1), 0.9, 0.9)
