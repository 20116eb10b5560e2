"""The proof sees what a wrong file does: observations are where the policy tells them apart."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_strl import PPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.export import export_policy
from sb3_strl.export import policy as policy_module
from sb3_strl.export.files import make_runner
from sb3_strl.export.module import ExportedPolicy
from sb3_strl.export.normalizer import known_ranges
from sb3_strl.export.proof import invented_rollout
from sb3_strl.policies import MlpPolicy

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Hot(gym.Env[Any, Any]):
    """Temperatures in Kelvin: far from zero, and close together."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = ACTIONS

    def observe(self) -> Any:
        return self.np_random.normal(1000.0, 2.0, 4).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(), 0.0, False, bool(self.np_random.random() < 0.1), {}


def trained(normalizer: str) -> PPO:
    env: VecEnv = DummyVecEnv([Hot] * 3)
    kwargs: dict[str, Any] = {"net_arch": [8]}
    if normalizer == "VecNormalize":
        env = VecNormalize(env)
    else:
        kwargs["empirical_normalization"] = True
    model = PPO("MlpPolicy", env, n_steps=16, seed=0, policy_kwargs=kwargs)
    model.learn(100)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(2.0)
    return model


@pytest.mark.parametrize("normalizer", ["VecNormalize", "empirical_normalization"])
def test_a_file_that_confuses_columns_is_found_out(
    normalizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(normalizer)
    report = export_policy(model, tmp_path / "right")
    assert max(p.blind for p in report.parities) < 0.5

    def reversed_columns(name: str, path: Path, module: ExportedPolicy) -> Any:
        run = make_runner(name, path, module)
        return lambda inputs: run({"obs_policy": inputs["obs_policy"][:, ::-1].copy()})

    monkeypatch.setattr(policy_module, "make_runner", reversed_columns)
    with pytest.raises(StrlValueError, match="file differs from predict"):
        export_policy(model, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_what_is_invented_lies_around_the_statistics_and_inside_of_the_bounds() -> None:
    infinite, largest = np.inf, np.finfo(np.float32).max
    space = spaces.Box(
        np.array([-infinite, -largest, 0.0, 5.0, -1.0], np.float32),
        np.array([infinite, largest, infinite, infinite, 1.0], np.float32),
    )
    unknown = np.full(2, np.nan)
    ranges = {
        "policy": (np.array([1000.0, -70.0, 0.5, *unknown]), np.array([2.0, 5.0, 1.0, *unknown]))
    }
    rows = np.concatenate([obs for obs, _ in invented_rollout(space, 3, 2000, 0, ranges)])
    assert all(space.contains(row) for row in rows)
    assert rows.mean(axis=0)[:2] == pytest.approx([1000.0, -70.0], abs=0.5)
    assert rows.std(axis=0)[:2] == pytest.approx([2.0, 5.0], rel=0.1)
    assert rows.std(axis=0)[2:].min() > 0.3
    assert rows.max(axis=0)[3] < 20.0


def test_the_policy_knows_where_its_groups_lie() -> None:
    space = spaces.Dict(
        {
            "a": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "b": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "gear": spaces.Discrete(2),
        }
    )
    groups = {"actor": ["b", "gear"]}
    policy = MlpPolicy(
        space,
        ACTIONS,
        lambda _: 0.0,
        obs_groups=groups,
        obs_segments={"b": {"speed": (1,), "pose": (2,)}},
        empirical_normalization=True,
    )
    assert policy.actor_reader.normalizer is not None
    policy.actor_reader.normalizer.mean.copy_(th.arange(5.0))
    ranges = known_ranges(policy, None)
    assert ranges.keys() == {"b", "gear"}
    assert ranges["b"][0].tolist() == [0.0, 1.0, 2.0]
    assert ranges["b"][1] == pytest.approx(1.01)  # what divides: std + eps
    plain = MlpPolicy(space, ACTIONS, lambda _: 0.0, obs_groups=groups)
    assert known_ranges(plain, None) == {}


def test_actions_that_hide_errors_are_reported(tmp_path: Path) -> None:
    policy = MlpPolicy(Hot.observation_space, ACTIONS, lambda _: 0.0, net_arch=[8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_policy(policy, tmp_path, formats=["torchscript"])
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    with pytest.warns(UserWarning, match=r"100% of the compared numbers .* Prove it in an env"):
        report = export_policy(policy, tmp_path, formats=["torchscript"])
    assert [p.blind for p in report.parities] == [1.0, 1.0]
    assert "100%" in str(report)
    proof = json.loads((tmp_path / "metadata.json").read_text())["proof"]
    assert proof[0]["blind"] == 1.0
