"""Exported mutex policies: selection, windows, commands and the memories of sub-policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_strl.export import export_policy
from sb3_strl.export.files import FILES, make_runner
from sb3_strl.export.module import ExportedPolicy
from sb3_strl.policies import (
    POLICY_ALIASES,
    FieldMutexPolicy,
    MlpPolicy,
    MutexPolicy,
    StrlPolicy,
)
from sb3_strl.policies.mutex_sources import SubPolicy
from tests.export.robots import shake
from tests.policies.mutex_tools import ACTIONS, SEGMENTS, SPACE, FixedPolicy

pytest.importorskip("onnxruntime")


class Course(gym.Env[Any, Any]):
    """Random observations; the obstacle changes now and then."""

    observation_space, action_space = SPACE, ACTIONS

    def __init__(self, n_ids: int) -> None:
        self.n_ids = n_ids
        self.id = 0

    def observe(self) -> dict[str, Any]:
        obs = self.np_random.normal(size=22).astype(np.float32)
        obs[14:] = 0.0
        if self.np_random.random() < 0.3:
            self.id = int(self.np_random.integers(self.n_ids))
        if self.id:
            obs[14 + self.id] = 1.0
        return {"policy": obs}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(), 0.0, bool(self.np_random.random() < 0.1), False, {}


def skill(alias: str, seed: int) -> StrlPolicy:
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    if "Lstm" in alias or "Gru" in alias:
        kwargs["rnn"] = {"hidden_size": 5}
    policy = POLICY_ALIASES[alias](SPACE, ACTIONS, lambda _: 1e-3, obs_segments=SEGMENTS, **kwargs)
    shake(policy)
    return policy


def make_mutex(**options: Any) -> FieldMutexPolicy:
    subs = [
        SubPolicy(skill("MlpLstmPolicy", 0), 0.4),
        SubPolicy(skill("MlpPolicy", 1), [0.2, 0.7]),
        SubPolicy(skill("MlpGruPolicy", 2), None, {"lin_vel": 2.0}),
        SubPolicy(FixedPolicy(0.3)),
    ]
    return FieldMutexPolicy(subs, SPACE, ACTIONS, SEGMENTS, device="cpu", **options)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("mode", ["all", "when_skill", "none"])
def test_selection_and_memories_are_proven(length: int, mode: str, tmp_path: Path) -> None:
    mutex = make_mutex(
        action_smoothing_buffer_len=length,
        reset_non_selected=mode,
        cmd_vel_mapping={0: 0.5, 1: 1.0},
    )
    report = export_policy(mutex, tmp_path, env=Course(4))
    assert [p.n_steps for p in report.parities] == [100, 100]
    assert report.inputs == [
        "obs_policy",
        "window_in",
        "resets_in",
        "sub0_actor_hidden_in",
        "sub0_actor_cell_in",
        "sub2_actor_hidden_in",
    ]


def test_the_metadata_have_the_normalisers_of_the_sub_policies(tmp_path: Path) -> None:
    mutex = make_mutex()
    export_policy(mutex, tmp_path, formats=["torchscript"], env=Course(4), n_steps=5)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["normalizer"]["inside"] is True
    subs = metadata["normalizer"]["sub_policies"]
    assert [sub["index"] for sub in subs] == [0, 1, 2]  # the fourth has none
    for sub in subs:
        policy = mutex.sub_policies[sub["index"]]
        assert isinstance(policy, StrlPolicy)
        assert policy.actor_reader.normalizer is not None
        assert sub["mean"] == policy.actor_reader.normalizer.mean.tolist()


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_a_mutex_policy_with_memory_inside_of_another_one(name: str, tmp_path: Path) -> None:
    inner = FieldMutexPolicy(
        [SubPolicy(skill("MlpGruPolicy", i)) for i in range(4)],
        SPACE,
        ACTIONS,
        SEGMENTS,
        device="cpu",
    )
    others = [SubPolicy(skill("MlpPolicy", i)) for i in range(3)]
    outer = FieldMutexPolicy([SubPolicy(inner), *others], SPACE, ACTIONS, SEGMENTS, device="cpu")
    report = export_policy(outer, tmp_path, formats=[name], env=Course(4))
    assert "sub0_resets_in" in report.inputs
    assert "sub0_sub1_actor_hidden_in" in report.inputs


@pytest.mark.parametrize("policy_class", [SACPolicy, TD3Policy])
def test_squashed_policies_act_between_their_bounds(policy_class: Any, tmp_path: Path) -> None:
    env = gym.make("Pendulum-v1")  # its torque is between -2 and 2
    th.manual_seed(0)
    squashed = policy_class(env.observation_space, env.action_space, lambda _: 1e-3, net_arch=[8])
    plain = MlpPolicy(env.observation_space, env.action_space, lambda _: 1e-3, net_arch=[8])
    mutex = MutexPolicy(
        [squashed, plain], lambda obs: (obs["policy"][:, 1] > 0.0).long(), device="cpu"
    )
    export_policy(mutex, tmp_path, env=env)
    obs = np.array([[1.0, -0.2, 0.5]], np.float32)
    expected, _ = squashed.predict(obs, deterministic=True)
    module = ExportedPolicy(mutex)
    inputs = dict(zip(module.input_names, (t.numpy() for t in module.example()), strict=True))
    for name, file in FILES.items():
        run = make_runner(name, tmp_path / file, module)
        assert run({**inputs, "obs_policy": obs})["actions"] == pytest.approx(expected, abs=1e-5)


def test_drawn_commands_are_the_callers(tmp_path: Path) -> None:
    mutex = make_mutex(cmd_vel_mapping={0: (0.5, 1.5), 2: (0.0, 1.0)})
    report = export_policy(mutex, tmp_path, env=Course(4))
    assert "commands_in" in report.inputs
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    states = {state["input"]: state for state in metadata["states"]}
    assert states["commands_in"]["initial"] == [0.5, 0.0, 0.0, 0.0]
    assert states["resets_in"]["dtype"] == "bool"
    assert metadata["policy"] == "FieldMutexPolicy"
