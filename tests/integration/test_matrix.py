"""Every composition of parts, memory and algorithm trains, saves, loads and acts the same."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_strl import APPO, PPO
from sb3_strl.algorithms.minibatch import evaluate_batch
from tests.envs.robot import RobotToy

pytestmark = pytest.mark.integration

WORDS = ("Visual", "Encoder", "Privilege", "Estimator", "Amp")
KWARGS: dict[str, dict[str, Any]] = {
    "Visual": {
        "visual": {
            "component_names": ["depth"],
            "channels": [4],
            "kernel_sizes": [3],
            "strides": [2],
            "hidden_sizes": [8],
            "latent_size": 5,
        }
    },
    "Encoder": {
        "encoder": {
            "component_names": ["velocity", "proprio"],
            "kwargs": {"hidden_sizes": [6]},
            "output_size": 3,
            "critic_component_names": "shared",
        }
    },
    "Privilege": {
        "adaptor": {
            "obs_components": ["proprio"],
            "target_components": ["mass"],
            "kwargs": {"hidden_sizes": [6]},
            "replace_prob": 0.5,
            "reuse_estimates": False,
        }
    },
    "Estimator": {
        "estimator": {
            "obs_components": ["proprio", "mass"],
            "target_components": ["velocity"],
            "kwargs": {"hidden_sizes": [6]},
            "replace_prob": 0.5,
        }
    },
    "Amp": {"amp_discriminator": {"task_reward_lerp": 0.5, "hidden_dims": [8]}},
}


def alias(words: tuple[str, ...], rnn: str) -> str:
    return f"{''.join(words) or 'Mlp'}{rnn}Policy"


def cases() -> list[tuple[type[PPO], tuple[str, ...], str]]:
    found: list[tuple[type[PPO], tuple[str, ...], str]] = []
    for size in range(len(WORDS) + 1):
        for words in itertools.combinations(WORDS, size):
            for rnn in ("", "Lstm", "Gru"):
                found.append((PPO, words, rnn))
                if "Amp" in words:
                    found.append((APPO, words, rnn))
    return found


def make(algorithm: type[PPO], words: tuple[str, ...], rnn: str, **options: Any) -> PPO:
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    for word in words:
        kwargs.update(KWARGS[word])
    if rnn:
        kwargs["rnn"] = {"hidden_size": 7}
    kwargs.update(options.pop("policy_kwargs", {}))
    settings = {"n_steps": 12, "n_epochs": 1, "n_minibatches": 2, "seed": 3, **options}
    env = RobotToy(4, termination_prob=0.1)
    return algorithm(alias(words, rnn), env, policy_kwargs=kwargs, **settings)


def watch_first_minibatch(model: PPO, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Collect how far ratio and values are from the rollout's on every first minibatch."""
    gaps: list[tuple[float, float]] = []
    original = PPO._minibatch

    def spy(self: PPO, batch: Any) -> bool:
        if self._steps_taken == 0:
            with th.no_grad():
                out = evaluate_batch(self.policy, batch, with_values=True)
                log_prob = self.policy.action_head.log_prob(out.params, batch.actions)
                ratio = (log_prob - batch.old_log_prob).exp()
                value_gap = (out.values - batch.old_values).abs().max()
                gaps.append((float((ratio - 1.0).abs().max()), float(value_gap)))
        return original(self, batch)

    monkeypatch.setattr(PPO, "_minibatch", spy)
    return gaps


@pytest.mark.parametrize(
    ("algorithm", "words", "rnn"),
    cases(),
    ids=[f"{a.__name__}-{alias(w, r)}" for a, w, r in cases()],
)
def test_trains_with_ratio_one_and_finite_gradients(
    algorithm: type[PPO], words: tuple[str, ...], rnn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, words, rnn)
    gaps = watch_first_minibatch(model, monkeypatch)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(12 * 4 * 2)
    assert len(gaps) == 2
    assert max(ratio for ratio, _ in gaps) < 1e-5
    assert max(value for _, value in gaps) < 1e-5
    trained = 0
    for name, parameter in model.policy.named_parameters():
        if parameter.grad is not None:
            assert th.isfinite(parameter.grad).all(), name
        if name.startswith("estimators."):
            assert th.equal(parameter, before[name]), f"{name} has no loss in this algorithm"
        elif not name.startswith("discriminator.") or algorithm is APPO:
            assert not th.equal(parameter, before[name]), f"{name} does not learn"
            trained += 1
    assert trained > 4


@pytest.mark.parametrize("rnn", ["", "Lstm", "Gru"])
@pytest.mark.parametrize("sequence_length", [1, 5, 12])
def test_ratio_is_one_however_sequences_are_cut(
    rnn: str, sequence_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(PPO, ("Privilege", "Estimator"), rnn, sequence_length=sequence_length)
    gaps = watch_first_minibatch(model, monkeypatch)
    model.learn(12 * 4 * 3)
    assert max(max(gap) for gap in gaps) < 1e-5


FRESH = """
import sys
import numpy as np
import torch as th
th.set_num_threads(1)
from sb3_strl import APPO, PPO
obs = dict(np.load(sys.argv[2]))
for line in open(sys.argv[3]).read().split():
    algorithm, alias = line.split("/")
    name = f"{sys.argv[1]}/{algorithm}{alias}"
    expected = np.load(f"{name}.npy")
    model = {"PPO": PPO, "APPO": APPO}[algorithm].load(name)
    assert type(model.policy).__name__ == alias
    for policy in (model, type(model.policy).load(f"{name}.policy")):
        action, state = policy.predict(obs, deterministic=True)
        action, state = policy.predict(obs, state, np.array([1, 0, 0, 1]), deterministic=True)
        assert np.array_equal(action, expected), line
"""


def test_every_alias_loads_in_a_fresh_process_and_acts_the_same(tmp_path: Path) -> None:
    obs = RobotToy(4).reset()
    np.savez(tmp_path / "obs.npz", **obs)
    lines = []
    for algorithm, words, rnn in cases():
        name = f"{algorithm.__name__}{alias(words, rnn)}"
        model = make(algorithm, words, rnn)
        model.learn(48)
        model.save(tmp_path / name)
        model.policy.save(str(tmp_path / f"{name}.policy"))
        _, state = model.predict(obs, deterministic=True)
        starts = np.array([1, 0, 0, 1])
        action, _ = model.predict(obs, state, starts, deterministic=True)
        np.save(tmp_path / f"{name}.npy", action)
        lines.append(f"{algorithm.__name__}/{alias(words, rnn)}")
    (tmp_path / "cases.txt").write_text("\n".join(lines))
    files = [str(tmp_path), str(tmp_path / "obs.npz"), str(tmp_path / "cases.txt")]
    subprocess.run([sys.executable, "-c", FRESH, *files], check=True, timeout=300)
