"""Weights that change while a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.common.errors import StrlTypeError
from sb3_strl.common.types import TensorDict
from tests.envs.toy import Balance


@pytest.fixture
def saved(tmp_path: Path) -> PPO:
    model = PPO("MlpPolicy", Balance(4), n_steps=4, n_minibatches=1, learning_rate=1e-2, seed=0)
    model.learn(64)
    model.save(tmp_path / "model")
    return model


def critic(weights: TensorDict) -> list[str]:
    return [name for name in weights if name.startswith("critic.")]


def test_some_weights_of_the_file_and_some_of_the_new_policy(saved: PPO, tmp_path: Path) -> None:
    seen: list[TensorDict] = []

    def transform(source: TensorDict, target: TensorDict) -> TensorDict:
        seen.append(target)
        return {**source, **{name: target[name] for name in critic(target)}}

    loaded = PPO.load(
        tmp_path / "model", env=Balance(4), state_dict_transform=transform, learning_rate=1e-3
    )
    mine, theirs = loaded.policy.state_dict(), saved.policy.state_dict()
    replaced = critic(theirs)
    assert replaced
    for name, value in mine.items():
        th.testing.assert_close(value, (seen[0] if name in replaced else theirs)[name])
    assert any(not th.equal(mine[name], theirs[name]) for name in replaced)
    assert not any(state for state in loaded.policy.optimizer.state.values())
    assert any(state for state in saved.policy.optimizer.state.values())
    loaded.learn(16)


def test_it_works_once_and_is_not_saved(saved: PPO, tmp_path: Path) -> None:
    calls: list[int] = []

    def transform(source: TensorDict, target: TensorDict) -> TensorDict:
        calls.append(1)
        return source

    loaded = PPO.load(tmp_path / "model", state_dict_transform=transform)
    loaded.set_parameters(saved.get_parameters())
    loaded.save(tmp_path / "again")
    PPO.load(tmp_path / "again")
    assert calls == [1]
    assert not any("transform" in name for name in vars(loaded))


def test_a_transform_that_returns_nothing(saved: PPO, tmp_path: Path) -> None:
    def transform(source: TensorDict, target: TensorDict) -> None:
        source.update(target)

    with pytest.raises(StrlTypeError, match=r"state_dict_transform returned NoneType. Expected"):
        PPO.load(tmp_path / "model", state_dict_transform=transform)  # type: ignore[arg-type]


def test_missing_weights_are_refused(saved: PPO, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        PPO.load(tmp_path / "model", state_dict_transform=lambda source, target: {})
