"""Configurations: read, checked, overridden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from stable_baselines3.common.type_aliases import Schedule

from sb3_strl.cli.config import (
    TrainConfig,
    apply_overrides,
    config_beside,
    known_algorithms,
    read_options,
    read_yaml,
)
from sb3_strl.cli.values import fitting
from sb3_strl.common.errors import StrlTypeError, StrlValueError


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    given = {
        "env": "Pendulum-v1",
        "algorithm": "appo",
        "total_timesteps": 1e5,
        "hyperparameters": {"n_steps": 8, "amp_replay_size": 3, "policy_kwargs": {"net_arch": [4]}},
    }
    config = TrainConfig.from_dict(given)
    config.save(tmp_path / "config.yml")
    again = TrainConfig.from_dict(read_yaml(tmp_path / "config.yml"))
    assert again == config
    assert again.total_timesteps == 100_000
    assert config_beside(tmp_path / "model.zip")["env"] == "Pendulum-v1"
    assert config_beside(tmp_path / "elsewhere" / "model.zip") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"envv": "x"}, r"unknown key 'envv'. Did you mean 'env'"),
        ({"hyperparameters": {"n_step": 3}}, r"unknown option 'n_step'. Did you mean 'n_steps'"),
        (
            {"hyperparameters": {"policy_kwargs": {"net_arc": []}}},
            r"policy_kwargs: unknown option 'net_arc'. Did you mean 'net_arch'",
        ),
        (
            {"hyperparameters": {"amp_replay_size": 3}},
            r"unknown option 'amp_replay_size'",  # of APPO, not of PPO
        ),
        ({"env_kwargs": [1]}, r"env_kwargs is \[1\]. Expected a mapping"),
    ],
)
def test_unknown_keys_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(StrlTypeError, match=message):
        TrainConfig.from_dict(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "apo"}, r"unknown algorithm 'apo'. Did you mean 'appo'"),
        ({"n_envs": 0}, r"n_envs is 0. Expected a whole number > 0"),
        ({"total_timesteps": 1.5}, r"total_timesteps is 1.5. Expected a whole number"),
        ({"n_envs": "many"}, r"n_envs is 'many'"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        TrainConfig.from_dict(given)


def test_ppo_and_appo_are_known() -> None:
    assert {"ppo", "appo"} <= set(known_algorithms())


def test_scientific_numbers_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text("hyperparameters: {learning_rate: 1e-3, a: [2E4, 1.5e2, e-3]}\n")
    assert read_yaml(file) == {"hyperparameters": {"learning_rate": 1e-3, "a": [2e4, 150.0, "e-3"]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "is no yaml"), ("- 1\n- 2\n", "holds a list. Expected a mapping")],
)
def test_files_that_are_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text(text)
    with pytest.raises(StrlValueError, match=message):
        read_yaml(file)
    with pytest.raises(StrlValueError, match=r"there is no file .*nothing.yml"):
        read_yaml(tmp_path / "nothing.yml")


def test_overrides_go_into_mappings_and_change_nothing_else() -> None:
    given = {"n_steps": 8, "policy_kwargs": {"net_arch": [8], "activation": "elu"}}
    result = apply_overrides(given, ["n_steps=16", "policy_kwargs.net_arch=[4, 4]", "a.b.c=1e-2"])
    assert result == {
        "n_steps": 16,
        "policy_kwargs": {"net_arch": [4, 4], "activation": "elu"},
        "a": {"b": {"c": 0.01}},
    }
    assert given == {"n_steps": 8, "policy_kwargs": {"net_arch": [8], "activation": "elu"}}
    with pytest.raises(StrlValueError, match=r"got 'n_steps'. Expected key=value"):
        apply_overrides({}, ["n_steps"])
    with pytest.raises(StrlValueError, match=r"'n_steps' in 'n_steps.x' is 8. Expected a mapping"):
        apply_overrides(given, ["n_steps.x=1"])
    with pytest.raises(StrlValueError, match=r"hyperparameters are \[1\]. Expected a mapping"):
        apply_overrides([1], ["n_steps=1"])  # type: ignore[arg-type]
    assert apply_overrides(None, ["n_steps=1"]) == {"n_steps": 1}


def test_options_in_one_text() -> None:
    assert read_options("--env-kwargs", "{a: 1e3, b: [x]}") == {"a": 1000.0, "b": ["x"]}
    for text, message in {"g=3": "got 'g=3', a str", "{g: [": "is no yaml", "": "NoneType"}.items():
        with pytest.raises(StrlValueError, match=message):
            read_options("--env-kwargs", text)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (10.0, int, 10),
        (3, float, 3),
        (True, bool | str, True),
        (None, int | None, None),
        (8.0, int | None, 8),
        ([8.0, 4], Sequence[int] | Mapping[str, Sequence[int]] | None, [8, 4]),
        ({"pi": [8.0]}, Sequence[int] | Mapping[str, Sequence[int]], {"pi": [8]}),
        ([0.1, 1], tuple[float, float], [0.1, 1]),
        ("lin_2e-4", float | Schedule, "lin_2e-4"),
        ("rollout", bool | Literal["rollout"], "rollout"),
        ({"a": object}, dict[str, Any], {"a": object}),
    ],
)
def test_values_that_fit(value: Any, hint: Any, expected: Any) -> None:
    found = fitting("here", "it", value, hint)
    assert found == expected
    assert repr(found) == repr(expected)  # 10 and 10.0, 1 and True are equal


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        (1.5, int, "a whole number"),
        (True, int, "a whole number"),
        (float("inf"), int, "a whole number"),
        (float("nan"), float, "a number"),
        ("1", float | None, "a number or null"),
        (1, bool, "true or false"),
        ("abc", Sequence[int] | Mapping[str, Any], "a list of whole numbers or a mapping"),
        (["a"], Sequence[int], "a list of whole numbers"),
        ([1.0], tuple[float, float], "a list of 2 numbers"),
        ({"pi": 3}, Mapping[str, Sequence[int]], "a mapping"),
        ("fast", Literal["fixed", "adaptive"], r"one of \['fixed', 'adaptive'\]"),
        ("exp_3", float | Schedule, "a number or a schedule such as lin_0.001"),
        ("Adam", type[Exception], "a class, in Python alone"),
    ],
)
def test_values_that_do_not_fit(value: Any, hint: Any, words: str) -> None:
    with pytest.raises(StrlTypeError, match=rf"here: it is .*\. Expected {words}\."):
        fitting("here", "it", value, hint)
