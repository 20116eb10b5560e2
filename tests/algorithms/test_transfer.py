"""Weights that change while a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import stable_baselines3
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_strl import APPO, PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict
from tests.envs.toy import Balance, PointMass


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


def test_the_file_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    APPO("AmpPolicy", PointMass(2), policy_kwargs={"net_arch": [8]}).save(tmp_path / "amp")
    message = r"^PPO: these are parameters of another algorithm, APPO or .*\['motion_prior.optimi"
    with pytest.raises(StrlValueError, match=message):
        PPO.load(tmp_path / "amp")
    with pytest.raises(StrlValueError, match=message):
        PPO("MlpPolicy", PointMass(2)).set_parameters(str(tmp_path / "amp.zip"))


def test_models_of_stable_baselines3_are_left_to_it(tmp_path: Path) -> None:
    stable_baselines3.PPO("MlpPolicy", "Pendulum-v1").save(tmp_path / "theirs")
    message = r"^PPO: the policy is ActorCriticPolicy\. Expected .* stable_baselines3\.PPO\.load"
    with pytest.raises(StrlTypeError, match=message):
        PPO.load(tmp_path / "theirs")
    with pytest.raises(StrlTypeError, match=message):
        PPO(ActorCriticPolicy, "Pendulum-v1")
    with pytest.raises(StrlTypeError, match=r"the policy is None\. Expected a name such as"):
        PPO(None, "Pendulum-v1")
