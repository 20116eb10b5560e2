"""With SB3's settings PPO trains what SB3's does: same start, same noise, same weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_strl import PPO
from sb3_strl.policies.action_head import ActionHead

N_ENVS, N_STEPS, ITERATIONS = 4, 64, 6
COMMON: dict[str, Any] = {
    "n_steps": N_STEPS,
    "batch_size": 64,
    "n_epochs": 4,
    "learning_rate": 3e-4,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "seed": 0,
    "device": "cpu",
}
AS_SB3: dict[str, Any] = {
    "use_clipped_value_loss": False,
    "normalize_advantage": "minibatch",
    "policy_kwargs": {
        "net_arch": [64, 64],
        "activation": "tanh",
        "ortho_init": True,
        "optimizer_kwargs": {"eps": 1e-5},
    },
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # 200 steps per episode: every fourth rollout has time-outs.
    "Gaussian actions, time-outs": ("Pendulum-v1", {"gamma": 0.9}),
    "rates that fall": (
        "Pendulum-v1",
        {"learning_rate": lambda left: 2e-3 * left, "clip_range": lambda left: 0.2 * left},
    ),
    "discrete actions, falls": ("CartPole-v1", {"ent_coef": 0.01, "learning_rate": 1e-3}),
    "clipped values": ("CartPole-v1", {"clip_range_vf": 0.1, "learning_rate": 1e-3}),
    "target divergence": ("CartPole-v1", {"target_kl": 2e-3, "learning_rate": 3e-3}),
    "raw advantages": ("CartPole-v1", {"normalize_advantage": False, "learning_rate": 1e-3}),
}
LAYERS = {
    "actor.model.0": "mlp_extractor.policy_net.0",
    "actor.model.2": "mlp_extractor.policy_net.2",
    "actor.model.4": "action_net",
    "critic.model.0": "mlp_extractor.value_net.0",
    "critic.model.2": "mlp_extractor.value_net.2",
    "critic.model.4": "value_net",
}


def make_env(task: str) -> VecEnv:
    return VecNormalize(make_vec_env(task, N_ENVS, seed=0))


def pairs(ours: PPO, theirs: SB3PPO) -> Iterator[tuple[str, th.Tensor, th.Tensor]]:
    """Return the parameters of both that mean the same."""
    a, b = dict(ours.policy.named_parameters()), dict(theirs.policy.named_parameters())
    for layer, name in LAYERS.items():
        for kind in ("weight", "bias"):
            yield name, a[f"{layer}.{kind}"], b[f"{name}.{kind}"]
    if "log_std" in b:
        yield "log_std", a["action_head.std_param"], b["log_std"]


class Recorder:
    """Keep the noise and the permutations that ours drew, and have SB3 use them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, head: ActionHead) -> None:
        self.head, self.noise, self.orders = head, list[th.Tensor](), list[th.Tensor]()
        draw, permute = head.draw_noise, th.randperm

        def draw_noise(*args: Any) -> th.Tensor:
            block = draw(*args)
            self.noise.extend(block.unbind(0))
            return block

        def randperm(*args: Any, **kwargs: Any) -> th.Tensor:
            self.orders.append(permute(*args, **kwargs))
            return self.orders[-1]

        monkeypatch.setattr(head, "draw_noise", draw_noise)
        monkeypatch.setattr(th, "randperm", randperm)

    def replay(self, monkeypatch: pytest.MonkeyPatch, policy: ActorCriticPolicy) -> None:
        noise, orders = iter(self.noise), iter(self.orders)
        distribution = policy.action_dist

        def sample() -> th.Tensor:
            inner: Any = distribution.distribution
            if hasattr(inner, "logits"):
                return self.head.sample({"logits": inner.logits}, next(noise)).flatten()
            return self.head.sample({"mean": inner.mean, "std": inner.stddev}, next(noise))

        def permutation(total: int) -> np.ndarray:
            order = next(orders).numpy()
            # Ours counts environments first, SB3 steps.
            return order % N_ENVS * N_STEPS + order // N_ENVS

        monkeypatch.setattr(distribution, "sample", sample)
        monkeypatch.setattr(np.random, "permutation", permutation)


@pytest.mark.parametrize("case", CASES)
def test_same_weights_as_sb3_after_training(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, options = CASES[case]
    ours = PPO("MlpPolicy", make_env(task), **{**COMMON, **AS_SB3, **options})
    theirs = SB3PPO("MlpPolicy", make_env(task), **{**COMMON, **options})
    with th.no_grad():
        for _, a, b in pairs(ours, theirs):
            b.copy_(a)
    start = ours.policy.actor.model[0].weight.detach().clone()
    recorder = Recorder(monkeypatch, ours.policy.action_head)
    total = ITERATIONS * N_STEPS * N_ENVS
    ours.learn(total)
    recorder.replay(monkeypatch, theirs.policy)
    theirs.learn(total)
    assert theirs._n_updates == ours._n_updates
    assert (ours.policy.actor.model[0].weight - start).abs().max() > 1e-3
    for name, a, b in pairs(ours, theirs):
        th.testing.assert_close(a, b, atol=1e-5, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}")
