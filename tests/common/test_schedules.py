"""Decaying probabilities."""

import math

import pytest

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.schedules import get_prob_func


@pytest.mark.parametrize(
    ("name", "start", "at_scale", "at_two"),
    [
        ("linear", 1.0, 0.0, 0.0),
        ("exp", 1.0, 0.9**10, 0.9**20),
        ("tanh", 0.5 * (1 + math.tanh(1)), 0.5, 0.5 * (1 - math.tanh(1))),
    ],
)
def test_curves(name: str, start: float, at_scale: float, at_two: float) -> None:
    prob = get_prob_func(name, 10)
    assert [prob(0), prob(10), prob(20)] == pytest.approx([start, at_scale, at_two])
    assert all(0.0 <= prob(k) <= 1.0 for k in range(100))


def test_exp_with_scale_one_is_a_step() -> None:
    prob = get_prob_func("exp", 1)
    assert [prob(0), prob(1), prob(2)] == [1.0, 0.0, 0.0]


def test_numbers_and_functions() -> None:
    assert get_prob_func(0.3)(7) == 0.3
    assert get_prob_func(lambda k: 1 / (1 + k))(3) == 0.25


@pytest.mark.parametrize(
    ("schedule", "scale", "error", "message"),
    [
        ("exponential", 10, StrlValueError, "unknown schedule 'exponential'"),
        ("liner", 10, StrlValueError, "Did you mean 'linear'"),
        ("linear", 0.5, StrlValueError, "at least 1"),
        (1.5, 10, StrlValueError, r"in \[0, 1\]"),
        (None, 10, StrlTypeError, "is no schedule"),
    ],
)
def test_errors(schedule: object, scale: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        get_prob_func(schedule, scale)
