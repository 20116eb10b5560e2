"""Configurations: read, checked, overridden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sb3_strl.cli.config import (
    TrainConfig,
    apply_overrides,
    config_beside,
    known_algorithms,
    read_yaml,
)
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
