"""Compiled training computes what uncompiled training does, and gives way where it cannot run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import APPO, PPO
from sb3_strl.common.compilation import Compiled, compile_mode
from tests.envs.robot import RobotToy
from tests.envs.toy import DiscreteToy, PointMass

SMALL: dict[str, Any] = {"net_arch": [8, 8], "optimizer_kwargs": {"eps": 1e-3}}


def _train(compile: bool | str, make: Callable[..., PPO], n_iterations: int = 3) -> PPO:  # noqa: A002
    model = make(compile=compile)
    return model.learn(n_iterations * model.n_steps * model.n_envs)


def _ppo(alias: str, env: Callable[..., Any], **more: Any) -> Callable[..., PPO]:
    def make(**settings: Any) -> PPO:
        kwargs = {**SMALL, **more.get("policy_kwargs", {})}
        rest = {key: value for key, value in more.items() if key != "policy_kwargs"}
        return PPO(alias, env(8), n_steps=6, seed=0, policy_kwargs=kwargs, **rest, **settings)

    return make


def _appo(**settings: Any) -> PPO:
    return APPO("AmpPolicy", PointMass(8), n_steps=6, seed=0, policy_kwargs=SMALL, **settings)


MAKERS = {
    "gaussian, adaptive": _ppo(
        "MlpPolicy",
        PointMass,
        schedule="adaptive",
        clip_range=lambda left: (
            0.1 + 0.1 * left
        ),  # numbers in the loss may change without a rebuild
        policy_kwargs={"empirical_normalization": True},
    ),
    "discrete": _ppo("MlpPolicy", lambda n: DiscreteToy(spaces.Discrete(3), n)),
    "memory": _ppo("MlpLstmPolicy", PointMass, policy_kwargs={"rnn": {"hidden_size": 8}}),
    "reused estimates": _ppo(
        "EstimatorPolicy",
        RobotToy,
        policy_kwargs={
            "estimator": {
                "obs_components": ["proprio"],
                "target_components": ["velocity"],
                "replace_prob": 0.5,
            }
        },
    ),
    "motion prior": _appo,
}


@pytest.mark.integration
@pytest.mark.parametrize("name", MAKERS)
def test_same_numbers_as_uncompiled(name: str, tmp_path: Path) -> None:
    th._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile:")
        compiled = _train(True, MAKERS[name])
    plain = _train(False, MAKERS[name])
    assert compiled._run_minibatch.is_compiled
    assert not plain._run_minibatch.is_compiled
    expected = plain.policy.state_dict()
    for key, value in compiled.policy.state_dict().items():
        th.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)
    compiled.save(tmp_path / "model")
    loaded = type(compiled).load(tmp_path / "model", env=compiled.env)
    assert loaded.compile is True


@pytest.mark.integration
def test_gradients_come_out_of_the_compiled_function() -> None:
    th._dynamo.reset()
    model = MAKERS["gaussian, adaptive"](compile=True)
    model.learn(model.n_steps * model.n_envs)
    assert model._run_minibatch._with_gradients is not None
    assert MAKERS["memory"](compile=True)._run_minibatch._with_gradients is None


@pytest.mark.parametrize("name", ["gaussian, adaptive", "memory", "motion prior"])
def test_gives_way_with_one_warning_that_says_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(function: Any, **_: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no C++ compiler\nand a long trace")

        return run

    monkeypatch.setattr(th, "compile", refuse)
    with pytest.warns(UserWarning, match=r"RuntimeError: no C\+\+ compiler$") as caught:
        compiled = _train(True, MAKERS[name])
    said = [str(w.message) for w in caught if "no C++ compiler" in str(w.message)]
    assert len(said) == 1  # for the policy's step and the update
    assert not compiled._run_minibatch.is_compiled
    plain = _train(False, MAKERS[name])
    for mine, other in zip(compiled.policy.parameters(), plain.policy.parameters(), strict=True):
        assert th.equal(mine, other)


def test_another_reason_is_another_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reason: str) -> int:
        raise ValueError(reason)

    monkeypatch.setattr(th, "compile", lambda function, **_: fail)
    told: set[str] = set()
    for reason, n_warnings in (("no compiler", 1), ("no compiler", 0), ("no memory", 1)):
        function = Compiled(len, "default", "a function", told)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert function(reason) == len(reason)
        assert [f"ValueError: {reason}" in str(w.message) for w in caught] == [True] * n_warnings


def test_modes() -> None:
    cpu, gpu = th.device("cpu"), th.device("cuda")
    assert compile_mode(False, gpu) is None
    assert compile_mode(True, cpu) == "default"
    assert compile_mode(True, gpu) == "reduce-overhead"
    assert compile_mode(True, gpu, graphs=False) == "default"
    with pytest.raises(ValueError, match=r"unknown mode 'reduce-overhed'.*reduce-overhead"):
        PPO("MlpPolicy", PointMass(2), compile="reduce-overhed")
