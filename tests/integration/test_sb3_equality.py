"""With our extensions off and SB3's settings on, PPO is SB3's PPO."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_strl import PPO

pytestmark = pytest.mark.integration

N_ENVS, N_STEPS = 4, 32
SHARED = {
    "n_steps": N_STEPS,
    "batch_size": N_ENVS * N_STEPS,
    "n_epochs": 1,
    "learning_rate": 3e-3,
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "clip_range": 0.1,
    "seed": 0,
    "device": "cpu",
}
OURS = {"use_clipped_value_loss": False, "normalize_advantage": True}


def venv(name: str) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(name, max_episode_steps=13) for _ in range(N_ENVS)])


def pair(name: str, **options) -> tuple[sb3.PPO, PPO]:
    """Two models with equal weights."""
    theirs = sb3.PPO("MlpPolicy", venv(name), **SHARED, **options)
    kwargs = {
        "net_arch": [64, 64],
        "activation": "tanh",
        "ortho_init": True,
        "optimizer_kwargs": {"eps": 1e-5, "fused": False},
    }
    ours = PPO("MlpPolicy", venv(name), policy_kwargs=kwargs, **SHARED, **OURS, **options)
    source, target = theirs.policy, ours.policy
    for net, layers, last in (
        (target.actor, source.mlp_extractor.policy_net, source.action_net),
        (target.critic, source.mlp_extractor.value_net, source.value_net),
    ):
        linears = [layer for layer in [*layers, last] if isinstance(layer, nn.Linear)]
        mine = [layer for layer in net.model if isinstance(layer, nn.Linear)]
        for a, b in zip(mine, linears, strict=True):
            a.load_state_dict(b.state_dict())
    return theirs, ours


def collect(ours: PPO, theirs: sb3.PPO) -> None:
    """Collect with ours and hand the same transitions to theirs."""
    _, callback = ours._setup_learn(N_ENVS * N_STEPS)
    theirs._setup_learn(N_ENVS * N_STEPS)
    buffer = theirs.rollout_buffer
    buffer.reset()
    ours.collect_rollouts(ours.env, callback, ours.rollout_buffer, N_STEPS)
    mine = ours.rollout_buffer
    for t in range(N_STEPS):
        action = mine["actions"][t].numpy()
        buffer.add(
            mine["obs/policy"][t].numpy(),
            action[:, None] if action.ndim == 1 else action,
            mine["rewards"][t].numpy(),  # time-outs are bootstrapped in both
            mine["episode_starts"][t].numpy().astype(np.float32),
            mine["values"][t],
            mine["log_probs"][t],
        )
    with th.no_grad():
        last = theirs.policy.predict_values(ours._last_obs["policy"])
    buffer.compute_returns_and_advantage(last, mine.dones[-1].numpy())


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("clip_vf", [None, 0.05])
def test_one_update_is_the_same(name: str, clip_vf: float | None) -> None:
    theirs, ours = pair(name, clip_range_vf=clip_vf)
    collect(ours, theirs)
    mine, buffer = ours.rollout_buffer, theirs.rollout_buffer
    assert np.allclose(mine["advantages"].numpy(), buffer.advantages, atol=1e-4, rtol=1e-5)
    assert np.allclose(mine["returns"].numpy(), buffer.returns, atol=1e-4, rtol=1e-5)
    mine["advantages"].copy_(th.from_numpy(buffer.advantages))  # from here on, losses alone
    mine["returns"].copy_(th.from_numpy(buffer.returns))
    theirs.train()
    ours.train()
    expected, given = theirs.logger.name_to_value, ours.logger.name_to_value
    for key in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction"):
        name_ = f"train/{key}"
        assert given[name_] == pytest.approx(expected[name_], rel=1e-5, abs=1e-6), key
    for part, net, last in (
        (ours.policy.actor, theirs.policy.mlp_extractor.policy_net, theirs.policy.action_net),
        (ours.policy.critic, theirs.policy.mlp_extractor.value_net, theirs.policy.value_net),
    ):
        linears = [layer for layer in [*net, last] if isinstance(layer, nn.Linear)]
        own = [layer for layer in part.model if isinstance(layer, nn.Linear)]
        for a, b in zip(own, linears, strict=True):
            assert th.allclose(a.weight, b.weight, atol=2e-5)
    if name == "Pendulum-v1":
        assert th.allclose(ours.policy.log_std, theirs.policy.log_std, atol=1e-6)


def test_rewards_of_timeouts_are_those_of_sb3() -> None:
    """SB3 adds gamma V(terminal observation) one environment at a time; we do it in one batch."""
    _, ours = pair("Pendulum-v1")
    _, callback = ours._setup_learn(1)
    ours.collect_rollouts(ours.env, callback, ours.rollout_buffer, N_STEPS)
    buffer = ours.rollout_buffer
    cut = buffer["truncated"]
    assert cut.sum() == N_ENVS * (N_STEPS // 13)
    step = int(cut[:, 0].nonzero()[0])
    final = ours.collector.final_obs["policy"][step]
    expected = ours.gamma * ours.policy.predict_values(final).flatten()
    raw = buffer["rewards"][step] - expected
    assert (raw <= 0).all()  # Pendulum's own rewards are never positive
    assert (raw > -17).all()


LEARNING = {
    "CartPole-v1": (60_000, {"n_steps": 64, "ent_coef": 0.0}, 60.0),
    "Pendulum-v1": (60_000, {"n_steps": 256, "gamma": 0.95, "learning_rate": 1e-3}, 150.0),
    "Acrobot-v1": (60_000, {"n_steps": 256, "ent_coef": 0.0}, 20.0),
}


@pytest.mark.learning
@pytest.mark.parametrize("name", list(LEARNING))
def test_it_learns_what_sb3_learns(name: str) -> None:
    """Mean return of the last 100 training episodes, median of five seeds."""
    steps, options, tolerance = LEARNING[name]
    scores: dict[str, list[float]] = {"sb3": [], "ours": []}
    common = {"batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "device": "cpu", **options}
    adam = {"eps": 1e-5}
    kwargs = {"net_arch": [64, 64], "activation": "tanh", "ortho_init": True}
    mine = {"vf_coef": 0.5, "max_grad_norm": 0.5, "ent_coef": 0.0, **OURS, **common}
    for seed in range(5):
        models = {
            "sb3": sb3.PPO("MlpPolicy", make_vec_env(name, 8, seed=seed), seed=seed, **common),
            "ours": PPO(
                "MlpPolicy",
                make_vec_env(name, 8, seed=seed),
                seed=seed,
                policy_kwargs={**kwargs, "optimizer_kwargs": adam},
                **mine,
            ),
        }
        for key, model in models.items():
            model.learn(steps)
            scores[key].append(float(np.mean([episode["r"] for episode in model.ep_info_buffer])))
    gap = np.median(scores["ours"]) - np.median(scores["sb3"])
    assert gap > -tolerance, scores
