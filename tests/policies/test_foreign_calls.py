"""What other libraries ask of policies, without those libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies import load_policy, resolve_policy_name, save_policy

OBS, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


class Small(ActorCriticPolicy):
    """Sets an argument of its parent, as imitation's FeedForward32Policy does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, net_arch=[8, 8])


class Broken(ActorCriticPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("something else")


def test_a_policy_that_sets_its_parents_argument_is_loaded(tmp_path: Path) -> None:
    policy = Small(OBS, ACTIONS, lambda _: 1e-3)
    save_policy(policy, tmp_path / "small.zip")
    again = load_policy(tmp_path / "small.zip", "cpu")
    assert isinstance(again, Small)
    obs = np.ones((4, 3), np.float32)
    expected = policy.predict(obs, deterministic=True)[0]
    assert np.array_equal(again.predict(obs, deterministic=True)[0], expected)


def test_other_type_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(Small(OBS, ACTIONS, lambda _: 1e-3), tmp_path / "small.zip")
    monkeypatch.setattr(Small, "__init__", Broken.__init__)
    with pytest.raises(TypeError, match="something else"):
        load_policy(tmp_path / "small.zip", "cpu")


@pytest.mark.parametrize("name", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_rows_without_memory_are_refused(name: str) -> None:
    cls: Any = resolve_policy_name(name, "test")
    policy = cls(OBS, ACTIONS, lambda _: 1e-3, net_arch=[8])
    obs, actions = th.zeros(4, 3), th.zeros(4, 2)
    with pytest.raises(StrlValueError, match=rf"{name} has a memory .* without Lstm or Gru"):
        policy.evaluate_actions(obs, actions)
    state = policy.initial_state(4)
    _, log_prob, _ = policy.evaluate_actions(obs, actions, state)
    starts = th.ones(1, 4, dtype=th.bool)
    _, again, _ = policy.evaluate_actions(obs[None], actions[None], None, starts)
    assert th.allclose(log_prob, again, atol=1e-6)
