"""The closed-form gradient of the Gaussian loss is the gradient of the readable loss."""

import pytest
import torch as th

from sb3_strl.algorithms.losses import LossSettings, PPOTargets, gaussian_ppo_loss, ppo_loss
from sb3_strl.policies.distributions import GaussianHead

ROWS, ACTIONS = 64, 4


def problem(seed: int) -> tuple[th.Tensor, th.Tensor, th.Tensor, PPOTargets, GaussianHead]:
    generator = th.Generator().manual_seed(seed)

    def draw(*shape: int) -> th.Tensor:
        return th.randn(*shape, dtype=th.float64, generator=generator)

    head = GaussianHead(ACTIONS).double()
    mean, values, log_std = draw(ROWS, ACTIONS), draw(ROWS), 0.3 * draw(ACTIONS)
    actions = mean + draw(ROWS, ACTIONS)
    old = head.log_prob({"mean": mean, "std": log_std.exp()}, actions) + 0.3 * draw(ROWS)
    targets = PPOTargets(actions, old, draw(ROWS), values + 0.3 * draw(ROWS), draw(ROWS))
    for tensor in (mean, log_std, values):
        tensor.requires_grad_()
    return mean, log_std, values, targets, head


@pytest.mark.parametrize(("clip", "sb3_clip"), [(0.2, None), (None, None), (None, 0.2), (0.2, 0.1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_statistics_and_gradients_agree(
    clip: float | None, sb3_clip: float | None, seed: int
) -> None:
    mean, log_std, values, targets, head = problem(seed)
    settings = LossSettings(0.2, clip, sb3_clip, ent_coef=0.01, vf_coef=0.5)
    params = {"mean": mean, "std": log_std.exp()}
    log_prob, entropy = head.log_prob(params, targets.actions), head.entropy(params)
    expected, expected_stats = ppo_loss(log_prob, entropy, values, targets, settings)
    given, stats = gaussian_ppo_loss(mean, log_std.exp(), values, targets, settings)
    assert th.allclose(given, expected, atol=1e-13)
    assert th.allclose(stats, expected_stats, atol=1e-12)
    assert 0.0 < stats[-1] < 1.0  # some ratios are clipped, some are not
    inputs = [mean, log_std, values]
    for ours, theirs in zip(
        th.autograd.grad(given, inputs), th.autograd.grad(expected, inputs), strict=True
    ):
        assert th.allclose(ours, theirs, atol=1e-12)


def test_the_gradient_scales_with_what_comes_from_above() -> None:
    mean, log_std, values, targets, _ = problem(0)
    settings = LossSettings(0.2, 0.2, None, 0.0, 1.0)
    loss, _ = gaussian_ppo_loss(mean, log_std.exp(), values, targets, settings)
    once = th.autograd.grad(loss, mean, retain_graph=True)[0]
    assert th.allclose(th.autograd.grad(3.0 * loss, mean)[0], 3.0 * once)
