"""Running statistics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch as th

from sb3_strl.common.errors import NonFiniteError, StrlValueError
from sb3_strl.common.normalization import (
    EmpiricalDiscountedVariationNormalization,
    EmpiricalNormalization,
    Normalize,
    Normalizer,
    RunningMeanStd,
)
from tests.host_sync import no_host_sync


def batches(shape=(3,), sizes=(1, 7, 64, 5, 100), offset=5.0):
    generator = th.Generator().manual_seed(0)
    return [th.randn(n, *shape, generator=generator) * 3.0 + offset for n in sizes]


def assert_moments(norm, data, **tolerance):
    data = data.double().reshape(-1, *norm.mean.shape)
    close = {"rtol": 1e-5, "atol": 1e-6} | tolerance
    np.testing.assert_allclose(norm.mean, data.mean(0), **close)
    np.testing.assert_allclose(norm.var, data.var(0, unbiased=False), **close)
    np.testing.assert_allclose(norm.std, data.std(0, unbiased=False), **close)
    assert norm.count == len(data)


@pytest.mark.parametrize("shape", [3, (3,), (2, 4), ()])
def test_moments_of_five_batches_equal_those_of_all_data(shape):
    size = (shape,) if isinstance(shape, int) else shape
    data = batches(size)
    norm = EmpiricalNormalization(shape)
    for batch in data:
        norm.update(batch)
    assert_moments(norm, th.cat(data))


def test_by_hand():
    norm = EmpiricalNormalization(1, eps=0.5)
    norm.update(th.tensor([[1.0], [3.0]]))  # mean 2, variance 1
    norm.update(th.tensor([[8.0]]))  # of 1, 3, 8: mean 4, variance (9 + 1 + 16) / 3
    assert norm.mean.item() == pytest.approx(4.0)
    assert norm.var.item() == pytest.approx(26.0 / 3.0)
    std = (26.0 / 3.0) ** 0.5
    assert norm(th.tensor([[7.0]])).item() == pytest.approx(3.0 / (std + 0.5))


def test_starts_as_almost_the_identity():
    norm = EmpiricalNormalization(2, eps=1e-2)
    assert th.allclose(norm(th.tensor([[1.01, -2.02]])), th.tensor([[1.0, -2.0]]))
    assert norm.count.dtype == th.long


def test_moments_survive_a_large_offset():
    data = batches((2,), offset=5000.0)
    norm = EmpiricalNormalization(2)
    for batch in data:
        norm.update(batch)
    assert_moments(norm, th.cat(data), rtol=1e-4)


def test_moments_of_a_first_batch_with_small_variance():
    norm = EmpiricalNormalization(1)
    data = th.randn(500, 1) * 1e-4
    norm.update(data)
    assert_moments(norm, data, atol=0.0, rtol=1e-4)


def test_leading_dimensions_are_samples():
    data = th.randn(4, 5, 3)
    norm = EmpiricalNormalization(3)
    norm.update(data)
    assert_moments(norm, data)
    assert norm(data).shape == data.shape


def test_forward_is_pure_and_equals_the_formula():
    norm = EmpiricalNormalization(3, eps=0.1)
    norm.update(batches()[3])
    x = th.randn(6, 3)
    kept, state = x.clone(), copy.deepcopy(norm.state_dict())
    first, second = norm(x), norm(x)
    assert th.equal(first, second)
    assert th.equal(x, kept)
    assert all(th.equal(state[k], v) for k, v in norm.state_dict().items())
    assert th.allclose(first, (x - norm.mean) / (norm.std + 0.1))


def test_inverse_undoes_forward():
    norm = EmpiricalNormalization(3)
    norm.update(batches()[2])
    x = th.randn(6, 3) * 10.0
    assert th.allclose(norm.inverse(norm(x)), x, atol=1e-5)


def test_evaluation_mode_is_frozen():
    norm = EmpiricalNormalization(3).eval()
    norm.update(th.full((4, 3), 9.0))
    assert norm.count == 0
    assert (norm.mean == 0.0).all()


@pytest.mark.parametrize("until", [6, 8])
def test_until_stops_after_the_batch_that_reaches_it(until):
    data = batches(sizes=(4, 4, 4))
    norm = EmpiricalNormalization(3, until=until)
    for batch in data:
        norm.update(batch)
    assert_moments(norm, th.cat(data[:2]))


def test_mask_selects_samples():
    data = th.cat(batches())
    mask = th.arange(len(data)) % 3 == 0
    masked = EmpiricalNormalization(3)
    masked.update(data[:50], mask[:50])
    masked.update(data[50:], mask[50:])
    assert_moments(masked, data[mask])


def test_mask_over_several_leading_dimensions():
    data, mask = th.randn(4, 6, 3), th.rand(4, 6) > 0.5
    norm = EmpiricalNormalization(3)
    norm.update(data, mask)
    assert_moments(norm, data[mask])


@pytest.mark.parametrize("seen_before", [False, True])
def test_no_samples_change_nothing(seen_before):
    norm = EmpiricalNormalization(3)
    if seen_before:
        norm.update(batches()[1])
    state = copy.deepcopy(norm.state_dict())
    norm.update(th.empty(0, 3))
    norm.update(th.randn(5, 3), th.zeros(5, dtype=th.bool))
    norm.update(th.full((2, 3), th.nan))
    assert all(th.equal(state[k], v) for k, v in norm.state_dict().items())


@pytest.mark.parametrize("bad", [th.nan, th.inf, -th.inf])
def test_samples_that_are_not_finite_are_left_out(bad):
    data = th.cat(batches())
    poisoned = data.clone()
    poisoned[3, 1] = bad
    poisoned[9] = bad
    keep = th.ones(len(data), dtype=th.bool)
    keep[[3, 9]] = False
    norm = EmpiricalNormalization(3)
    norm.update(poisoned)
    assert_moments(norm, data[keep])


def test_samples_that_are_not_finite_can_be_refused():
    norm = EmpiricalNormalization(2, on_nonfinite="raise")
    x = th.tensor([[1.0, 2.0], [th.nan, 0.0]])
    with pytest.raises(NonFiniteError, match="the data contain NaN or infinity"):
        norm.update(x)
    assert norm.count == 0
    norm.update(x, th.tensor([True, False]))  # what is masked is not looked at
    assert norm.count == 1


def test_constant_features_have_a_bounded_gain():
    norm, floored = EmpiricalNormalization(1), EmpiricalNormalization(1, std_floor=0.5)
    for n in (norm, floored):
        n.update(th.full((10, 1), 1000.0))
    assert norm(th.tensor([[1000.0]])).item() == 0.0
    assert norm(th.tensor([[1001.0]])).item() == pytest.approx(100.0)
    assert floored(th.tensor([[1001.0]])).item() == pytest.approx(1.0 / 0.51)


def test_statistics_survive_state_dict_copy_and_conversion():
    norm = EmpiricalNormalization(3)
    norm.update(batches()[2])
    x = th.randn(4, 3)
    loaded = EmpiricalNormalization(3)
    loaded.load_state_dict(norm.state_dict())
    assigned = EmpiricalNormalization(3)
    assigned.load_state_dict(norm.state_dict(), assign=True)
    for other in (loaded, assigned, copy.deepcopy(norm), norm.to("cpu")):
        assert th.equal(other(x), norm(x))
        assert other.count == norm.count
    assert set(norm.state_dict()) == {"mean", "var", "std", "count"}
    loaded.update(x)
    norm.update(x)
    assert th.equal(loaded(x), norm(x))


def test_nested_module_refreshes_when_its_parent_is_loaded():
    parent, other = (th.nn.Sequential(EmpiricalNormalization(3)) for _ in range(2))
    parent[0].update(batches()[2])
    other.load_state_dict(parent.state_dict())
    x = th.randn(4, 3)
    assert th.equal(other(x), parent(x))


def test_neither_autograd_nor_the_host_is_involved():
    norm = EmpiricalNormalization(3, until=1000)
    x = th.randn(8, 3, requires_grad=True)
    with no_host_sync():
        norm.update(x, th.rand(8) > 0.5)
        norm.update(x)
        y = norm(x)
    assert not any(b.requires_grad for b in norm.buffers())
    assert list(norm.parameters()) == []
    (gradient,) = th.autograd.grad(y.sum(), x)
    assert th.allclose(gradient, (1.0 / (norm.std + norm.eps)).expand(8, 3))


def test_errors_of_empirical_normalization():
    with pytest.raises(StrlValueError, match=r"got data of shape \(4, 2\).*Expected \(\.\.\., 3\)"):
        EmpiricalNormalization(3).update(th.zeros(4, 2))
    with pytest.raises(StrlValueError, match="on_nonfinite is 'ignore'"):
        EmpiricalNormalization(3, on_nonfinite="ignore")
    with pytest.raises(StrlValueError, match="eps=-1"):
        EmpiricalNormalization(3, eps=-1.0)
    with pytest.raises(StrlValueError, match="constant features divide by zero"):
        EmpiricalNormalization(3, eps=0.0)


def test_normalize_scales_to_unit_length():
    x = th.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert th.allclose(Normalize()(x), th.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", [th.Tensor, np.ndarray])
def test_running_mean_std_equals_sb3(kind):
    from stable_baselines3.common.running_mean_std import RunningMeanStd as Sb3RunningMeanStd

    ours, theirs = RunningMeanStd(shape=(3,)), Sb3RunningMeanStd(shape=(3,))
    for batch in batches():
        ours.update(batch if kind is th.Tensor else batch.numpy())
        theirs.update(batch.numpy().astype(np.float64))
    ours.update(th.empty(0, 3))
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(ours.var, theirs.var, rtol=1e-12)
    assert ours.count.item() == pytest.approx(theirs.count)
    other = RunningMeanStd(shape=(3,))
    other.load_state_dict(ours.state_dict())
    assert th.equal(other.var, ours.var)


def test_normalizer_formula_and_clip():
    norm = Normalizer(2, epsilon=0.5, clip_obs=3.0)
    with th.no_grad():
        norm.mean.copy_(th.tensor([1.0, 0.0]))
        norm.var.copy_(th.tensor([3.5, 0.5]))
    x = th.tensor([[5.0, -100.0]])
    expected = [[2.0, -3.0]]  # 4 / sqrt(4), clipped
    np.testing.assert_allclose(norm(x), expected)
    np.testing.assert_allclose(norm.normalize_torch(x, "cpu"), expected)
    np.testing.assert_allclose(norm.normalize(x.numpy()), expected)
    assert norm.normalize(x.numpy()).dtype == np.float32
    assert norm.count.item() == pytest.approx(1e-4)  # none of these has learnt


def test_normalizer_learns_pairs_of_batches_stacked():
    policy, expert = batches()[1:3], batches(offset=-2.0)[1:3]
    norm, stacked = Normalizer(3), Normalizer(3)
    norm.update_normalizer(policy, expert)
    for pair in zip(policy, expert, strict=True):
        stacked.update(th.vstack(pair))
    assert th.equal(norm.mean, stacked.mean)
    assert th.equal(norm.var, stacked.var)


def test_discounted_variation_by_hand():
    edvn = EmpiricalDiscountedVariationNormalization(gamma=0.5)
    rewards = th.tensor([[1.0, 3.0], [2.0, 2.0]])
    out = [edvn(r) for r in rewards]
    # sums: (1, 3), then (2.5, 3.5)
    assert th.allclose(out[0], rewards[0] / np.std([1.0, 3.0]))
    assert th.allclose(out[1], rewards[1] / np.std([1.0, 3.0, 2.5, 3.5]).astype(np.float32))


def test_discounted_variation_starts_anew_where_an_episode_ended():
    edvn = EmpiricalDiscountedVariationNormalization(gamma=0.5)
    edvn(th.tensor([1.0, 3.0]), th.tensor([True, False]))
    edvn(th.tensor([2.0, 2.0]))
    expected = np.array([1.0, 3.0, 2.0, 3.5])
    assert edvn.emp_norm.mean.item() == pytest.approx(expected.mean())
    assert edvn.emp_norm.std.item() == pytest.approx(expected.std(), rel=1e-6)


def test_discounted_variation_does_not_alias_its_input_or_output():
    edvn, other = (EmpiricalDiscountedVariationNormalization(gamma=0.9) for _ in range(2))
    rewards = th.tensor([1.0, 2.0])
    edvn(rewards).mul_(1000.0)
    rewards.fill_(77.0)
    other(th.tensor([1.0, 2.0]))
    assert th.equal(edvn(th.ones(2)), other(th.ones(2)))


def test_discounted_variation_is_saved_whole():
    edvn, other = (EmpiricalDiscountedVariationNormalization() for _ in range(2))
    edvn(th.tensor([1.0, 2.0, 5.0]))
    fresh = copy.deepcopy(other.state_dict())
    other.load_state_dict(edvn.state_dict())
    rewards = th.tensor([0.5, -1.0, 2.0])
    assert th.equal(edvn(rewards), other(rewards))
    other.load_state_dict(fresh)  # and back to one that has seen nothing
    assert th.equal(other(th.ones(2)), th.ones(2))


def test_discounted_variation_passes_rewards_on_without_a_spread():
    edvn = EmpiricalDiscountedVariationNormalization()
    assert th.equal(edvn(th.full((4,), 3.0)), th.full((4,), 3.0))


def test_discounted_variation_is_frozen_in_evaluation_mode():
    edvn = EmpiricalDiscountedVariationNormalization()
    edvn(th.tensor([1.0, 3.0]))
    edvn.eval()
    with no_host_sync():
        out = edvn(th.tensor([5.0, 5.0]))
    assert th.allclose(out, th.tensor([5.0, 5.0]))  # the spread of 1 and 3 is 1
    assert edvn.emp_norm.count == 2


def test_discounted_variation_forgets_a_reward_that_is_not_finite():
    edvn = EmpiricalDiscountedVariationNormalization()
    with no_host_sync():
        edvn(th.tensor([1.0, th.nan]), th.tensor([False, False]))
    out = edvn(th.tensor([1.0, 2.0]))
    assert th.isfinite(out).all()
    assert edvn.emp_norm.count == 3
