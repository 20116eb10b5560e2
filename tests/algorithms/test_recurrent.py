"""Rollouts with memory: values, bootstraps and states as if computed step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.common.memory_state import PolicyState
from tests.envs.robot import RobotToy
from tests.envs.toy import PointMass

T, N = 12, 5


def make(alias: str = "MlpLstmPolicy", **options: Any) -> PPO:
    kwargs = {"net_arch": [8], "rnn": {"hidden_size": 6}, "empirical_normalization": True}
    kwargs.update(options.pop("policy_kwargs", {}))
    env = options.pop("env", None) or PointMass(N, max_episode_length=5, termination_prob=0.05)
    settings = {"n_steps": T, "n_epochs": 1, "seed": 0, **options}
    return PPO(alias, env, policy_kwargs=kwargs, **settings)


def watch_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keep every rollout before it is trained on."""
    seen: list[dict[str, Any]] = []
    original = PPO.train

    def spy(self: PPO) -> None:
        buffer, collector = self.rollout_buffer, self.collector
        names = ("values", "episode_starts", "terminated", "truncated", "rewards", "actions")
        kept = {name: buffer[name].clone() for name in names}
        kept["obs"] = {key: value.clone() for key, value in buffer.obs().items()}
        kept["final"] = {key: value.clone() for key, value in collector.final_obs.items()}
        kept["before"] = self._resume_point.policy_state
        kept["after"] = PolicyState(*collector.state)
        kept["policy"] = {k: v.clone() for k, v in self.policy.state_dict().items()}
        kept["last_obs"] = {key: value.clone() for key, value in self._last_obs.items()}
        kept["advantages"] = buffer["advantages"].clone()
        kept["returns"] = buffer["returns"].clone()
        seen.append(kept)
        original(self)

    monkeypatch.setattr(PPO, "train", spy)
    return seen


@th.no_grad()
def replay(policy: Any, rollout: dict[str, Any]) -> tuple[th.Tensor, th.Tensor, PolicyState]:
    """Step through a rollout; return values, values of final observations, and the last state."""
    state = PolicyState.from_any(rollout["before"], th.device("cpu"))
    values, finals = [], []
    for t in range(T):
        now = {key: value[t] for key, value in rollout["obs"].items()}
        state = state.reset(rollout["episode_starts"][t])
        out = policy.actor_pass(now, state)
        value, critic = policy.critic_pass(now, state.critic)
        state = out.state._replace(critic=critic)
        values.append(value)
        final = {key: value[t] for key, value in rollout["final"].items()}
        finals.append(policy.critic_pass(final, critic)[0])
    return th.stack(values), th.stack(finals), state


@pytest.mark.parametrize("alias", ["MlpLstmPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize("sequence_length", [None, 5])
def test_values_bootstraps_and_states_are_those_of_single_steps(
    alias: str, sequence_length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = watch_rollouts(monkeypatch)
    gamma = 0.9
    model = make(alias, sequence_length=sequence_length, gamma=gamma, normalize_advantage=False)
    twin = make(alias).policy
    model.learn(T * N * 3)
    task = PointMass(N, max_episode_length=5, termination_prob=0.05, seed=0)
    task.reset_tensor()
    for rollout in rollouts:
        twin.load_state_dict(rollout["policy"])
        twin.set_training_mode(False)
        values, finals, state = replay(twin, rollout)
        assert th.allclose(rollout["values"], values, atol=1e-5)
        for part, expected in zip(rollout["after"], state, strict=True):
            if part is not None:
                pairs = zip(
                    part if isinstance(part, tuple) else [part],
                    expected if isinstance(expected, tuple) else [expected],
                    strict=True,
                )
                assert all(th.allclose(a, b, atol=1e-5) for a, b in pairs)
        cut = rollout["truncated"] & ~rollout["terminated"]
        assert cut.any()
        bonus = th.where(cut, gamma * finals, 0.0)
        position = rollout["final"]["critic"][..., :2]
        ended = rollout["truncated"] | rollout["terminated"]
        task_reward = -(position - th.tensor([1.0, 0.0])).norm(dim=-1)
        got = rollout["rewards"] - task_reward
        assert th.allclose(got[ended], bonus[ended], atol=1e-4)


def test_advantages_use_the_value_of_the_last_observation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollouts = watch_rollouts(monkeypatch)
    model = make(gae_lambda=1.0, gamma=0.9, normalize_advantage=False)
    twin = make().policy
    model.learn(T * N)
    rollout = rollouts[0]
    twin.load_state_dict(rollout["policy"])
    twin.set_training_mode(False)
    dones = rollout["truncated"] | rollout["terminated"]
    state = rollout["after"].reset(dones[-1])
    with th.no_grad():
        last = twin.critic_pass(rollout["last_obs"], state.critic)[0]
    expected = rollout["rewards"][-1] + 0.9 * th.where(dones[-1], 0.0, last)
    assert th.allclose(rollout["returns"][-1], expected, atol=1e-5)


@pytest.mark.parametrize("alias", ["MlpLstmPolicy", "MlpGruPolicy", "PrivilegeEstimatorLstmPolicy"])
@pytest.mark.parametrize("sequence_length", [None, 5])
def test_resumed_equals_uninterrupted(
    alias: str, sequence_length: int | None, tmp_path: Any
) -> None:
    kwargs: dict[str, Any] = {}
    if "Estimator" in alias:
        spec = {"obs_components": ["proprio"], "replace_prob": 0.5}
        kwargs = {
            "adaptor": {**spec, "target_components": ["mass"]},
            "estimator": {**spec, "target_components": ["velocity"]},
        }

    def fresh() -> PPO:
        env = RobotToy(N, max_episode_length=5, termination_prob=0.05)
        return make(alias, env=env, sequence_length=sequence_length, policy_kwargs=kwargs)

    whole = fresh().learn(T * N * 4)
    first = fresh().learn(T * N * 2)
    first.save(tmp_path / "model")
    env = RobotToy(N, max_episode_length=5, termination_prob=0.05)
    second = PPO.load(tmp_path / "model", env=env)
    second.learn(T * N * 2, reset_num_timesteps=False)
    ours, theirs = whole.policy.state_dict(), second.policy.state_dict()
    for name, value in ours.items():
        assert th.equal(value, theirs[name]), name


def test_memory_helps_where_the_observation_is_not_enough() -> None:
    """The reward asks for the sign that was shown in the first step only."""
    from tests.envs.recall import Recall

    def score(alias: str) -> float:
        env = Recall(32)
        model = PPO(
            alias,
            env,
            n_steps=16,
            learning_rate=3e-3,
            seed=0,
            policy_kwargs={"net_arch": [16], "rnn": {"hidden_size": 16}}
            if "Lstm" in alias
            else {"net_arch": [16]},
        )
        model.learn(32 * 16 * 60)
        return float(model.rollout_buffer["rewards"].mean())

    assert score("MlpLstmPolicy") > 0.8
    assert score("MlpPolicy") < 0.4
