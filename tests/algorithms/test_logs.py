"""What an environment logs becomes one number per rollout and key."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th

from sb3_strl import PPO
from tests.envs.toy import PointMass

N_STEPS = 4


class Logging(PointMass):
    """Log the same list of values under several keys, the k-th at the k-th step."""

    values: tuple[Any, ...] = (3.0, -1.0, 7.0, 5.0)
    keys: tuple[str, ...] = ("env/force_max", "env/force_min", "env/force")

    def __init__(self) -> None:
        super().__init__(2)
        self.step_number = 0

    def extras(self) -> dict[str, Any]:
        value = self.values[self.step_number % N_STEPS]
        self.step_number += 1
        return {"log": dict.fromkeys(self.keys, value)}


def logged(env: Logging) -> dict[str, float]:
    model = PPO("MlpPolicy", env, n_steps=N_STEPS, n_epochs=1, seed=0)
    found: dict[str, float] = {}
    model.learn(N_STEPS * 2, log_interval=None)
    found.update({key: model.logger.name_to_value[key] for key in env.keys})
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3.0, -1.0, 7.0, 5.0), (7.0, -1.0, 3.5)),
        ((math.nan, -1.0, -7.0, math.nan), (-1.0, -7.0, math.nan)),
        ((math.nan,) * 4, (math.nan,) * 3),
        ((math.inf, 1.0, 2.0, math.nan), (math.inf, 1.0, math.nan)),
        ((-math.inf, 1.0, 2.0, 3.0), (3.0, -math.inf, -math.inf)),
        ((th.tensor([1.0, 4.0]), th.tensor([2.0, math.nan]), 0.5, 3.0), (4.0, 0.5, math.nan)),
    ],
)
def test_names_say_how_a_key_is_aggregated(
    values: tuple[Any, ...], expected: tuple[float, float, float]
) -> None:
    env = Logging()
    env.values = values
    found = list(logged(env).values())
    assert found == pytest.approx(list(expected), nan_ok=True)


def test_nothing_logged_is_nothing() -> None:
    env = Logging()
    env.keys = ()
    assert logged(env) == {}


def test_empty_tensors_do_no_harm() -> None:
    env = Logging()
    env.values = (th.zeros(0),) * 4
    assert all(math.isnan(value) for value in logged(env).values())


class Counting(Logging):
    """Write every step's number into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.number = th.zeros(())

    def extras(self) -> dict[str, Any]:
        self.number += 1.0
        return {"log": dict.fromkeys(self.keys, self.number)}


def test_a_simulator_may_reuse_its_memory() -> None:
    assert list(logged(Counting()).values()) == [4.0, 1.0, 2.5]
