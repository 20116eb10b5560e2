"""A migrated run trains on as it would have with rsl_rl: same noise, same weights after it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_strl.migrate import load_rsl_rl_checkpoint
from tests.migrate.runs import SPACES, Noise, train
from tests.migrate.test_rsl_rl import make_config

pytest.importorskip("rsl_rl")

ITERATIONS, EPOCHS = 5, 2
# What ours does otherwise on purpose is switched off (docs/guide/migration.md): one clipping of all
# gradients instead of two, and no new learning rate before the first step of an update.
SAME = {"schedule": "fixed", "max_grad_norm": 1e9, "num_learning_epochs": EPOCHS}
OURS = {"timeout_bootstrap": "last_value", "seed": 0, "device": "cpu"}  # seed of the environment
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("mlp", "scalar", {}),
    "log": ("mlp", "log", {"use_clipped_value_loss": True}),
    "heteroscedastic": ("mlp", "hetero", {}),
    "normalised": ("mlp-normal", "log", {}),
    "per minibatch": ("mlp", "log", {"normalize_advantage_per_mini_batch": True}),
    "images": ("cnn", "log", {}),
    "adaptive": ("mlp", "log", {"schedule": "adaptive", "desired_kl": 5e-3}),
    # rsl_rl's minibatches of sequences are not drawn at random: the whole rollout is one.
    "lstm": ("lstm", "log", {"num_mini_batches": 1}),
    "gru": ("gru", "scalar", {"num_mini_batches": 1, "use_clipped_value_loss": True}),
}


class Shared:
    """Give both libraries the noise and the permutations that the first one of them drew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, head: Any, theirs: Any) -> None:
        draw, permute = head.draw_noise, th.randperm
        self.noise: list[th.Tensor] = []
        self.orders: list[th.Tensor] = []
        self.is_replaying = False
        calls = 0

        def draw_noise(*args: Any) -> th.Tensor:
            block: th.Tensor = draw(*args)
            self.noise.extend(block.unbind(0))
            return block

        def sample() -> th.Tensor:
            normal = theirs._distribution
            if not th.is_inference_mode_enabled():
                return normal.mean  # drawn in an update, and not used
            return normal.mean + normal.stddev * next(self._noise)

        def randperm(*args: Any, **kwargs: Any) -> th.Tensor:
            nonlocal calls
            if self.is_replaying:
                return next(self._orders)
            # rsl_rl permutes once per update, ours once per epoch.
            if calls % EPOCHS == 0:
                self.orders.append(permute(*args, **kwargs))
            calls += 1
            return self.orders[-1]

        monkeypatch.setattr(head, "draw_noise", draw_noise)
        monkeypatch.setattr(theirs, "sample", sample)
        monkeypatch.setattr(th, "randperm", randperm)

    def replay(self) -> None:
        self.is_replaying = True
        self._noise: Iterator[th.Tensor] = iter(self.noise)
        self._orders: Iterator[th.Tensor] = iter(self.orders)


@pytest.mark.parametrize("case", CASES)
def test_same_weights(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, dist, options = CASES[case]
    config = make_config(model, dist, **{**SAME, **options})
    runner, path = train(config, tmp_path, iterations=0)
    ours = load_rsl_rl_checkpoint(path, config, Noise(), **OURS)
    start = [parameter.detach().clone() for parameter in ours.policy.parameters()]
    shared = Shared(monkeypatch, ours.policy.action_head, runner.alg.actor.distribution)
    ours.learn(ITERATIONS * config["num_steps_per_env"] * 4)
    shared.replay()
    with redirect_stdout(io.StringIO()):
        runner.alg.train_mode()
        runner.learn(ITERATIONS)
    runner.logger.writer = None
    runner.save(str(tmp_path / "theirs.pt"))
    theirs = load_rsl_rl_checkpoint(tmp_path / "theirs.pt", config, SPACES).state_dict()
    moved = [
        (before - after).abs().max()
        for before, after in zip(start, ours.policy.parameters(), strict=True)
    ]
    assert max(moved) > 1e-3
    for name, value in ours.policy.state_dict().items():
        th.testing.assert_close(
            value, theirs[name], atol=1e-6, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}"
        )
