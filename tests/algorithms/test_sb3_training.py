"""With SB3's settings PPO trains what SB3's does: same start, same noise, same weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
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
AS_SB3: dict[str, Any] = {"use_clipped_value_loss": False, "normalize_advantage": "minibatch"}
NETWORK: dict[str, Any] = {
    "net_arch": [64, 64],
    "activation": "tanh",
    "ortho_init": True,
    "optimizer_kwargs": {"eps": 1e-5},
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
NAMES = {
    "actor.model.0.": "mlp_extractor.policy_net.0.",
    "actor.model.2.": "mlp_extractor.policy_net.2.",
    "actor.model.4.": "action_net.",
    "critic.model.0.": "mlp_extractor.value_net.0.",
    "critic.model.2.": "mlp_extractor.value_net.2.",
    "critic.model.4.": "value_net.",
    "action_head.std_param": "log_std",
}
NAMES_WITH_MEMORY = {
    "actor_memory.rnn.": "lstm_actor.",
    "critic_memory.rnn.": "lstm_critic.",
    "actor.model.0.": "mlp_extractor.policy_net.0.",
    "actor.model.2.": "action_net.",
    "critic.model.0.": "mlp_extractor.value_net.0.",
    "critic.model.2.": "value_net.",
    "action_head.std_param": "log_std",
}


def make_env(task: str) -> VecEnv:
    return VecNormalize(make_vec_env(task, N_ENVS, seed=0))


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
            # Neighbours are environments in our rollout, and steps in SB3's.
            return order % N_ENVS * N_STEPS + order // N_ENVS

        monkeypatch.setattr(distribution, "sample", sample)
        monkeypatch.setattr(np.random, "permutation", permutation)


def assert_same_training(
    ours: PPO, theirs: Any, names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start both with our weights, train both, and compare."""
    start = {name: p.detach().clone() for name, p in ours.policy.named_parameters()}
    twins = dict(pairs(ours, theirs, names))
    with th.no_grad():
        for name, twin in twins.items():
            twin.copy_(start[name])
    recorder = Recorder(monkeypatch, ours.policy.action_head)
    total = ITERATIONS * N_STEPS * N_ENVS
    ours.learn(total)
    recorder.replay(monkeypatch, theirs.policy)
    theirs.learn(total)
    assert theirs._n_updates == ours._n_updates
    for name, p in ours.policy.named_parameters():
        assert (p - start[name]).abs().max() > 1e-4, name
        th.testing.assert_close(
            p, twins[name], atol=1e-5, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}"
        )


def pairs(ours: PPO, theirs: Any, names: dict[str, str]) -> Iterator[tuple[str, th.Tensor]]:
    """Yield every parameter of ours by name with SB3's that means the same."""
    known = dict(theirs.policy.named_parameters())
    for name, _ in ours.policy.named_parameters():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        yield name, known.pop(name.replace(prefix, names[prefix]))
    assert not known


@pytest.mark.parametrize("case", CASES)
def test_same_weights_as_sb3(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, options = CASES[case]
    given = {**COMMON, **AS_SB3, **options}
    ours = PPO("MlpPolicy", make_env(task), policy_kwargs=NETWORK, **given)
    theirs = SB3PPO("MlpPolicy", make_env(task), **{**COMMON, **options})
    assert_same_training(ours, theirs, NAMES, monkeypatch)


@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1"])
def test_same_weights_as_sb3_contrib(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecurrentPPO cuts its rollouts at random places: here one minibatch, cut nowhere."""
    options = {**COMMON, "batch_size": N_ENVS * N_STEPS, "learning_rate": 1e-3}
    network = {**NETWORK, "net_arch": [16], "rnn": {"hidden_size": 8}}
    ours = PPO("MlpLstmPolicy", make_env(task), policy_kwargs=network, **options, **AS_SB3)
    network = {"net_arch": [16], "lstm_hidden_size": 8}
    theirs = RecurrentPPO("MlpLstmPolicy", make_env(task), policy_kwargs=network, **options)
    monkeypatch.setattr(np.random, "randint", lambda *bounds: 0)
    assert_same_training(ours, theirs, NAMES_WITH_MEMORY, monkeypatch)
