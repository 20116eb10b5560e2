"""Probabilities that decay with the number of completed updates."""

from __future__ import annotations

import math
from collections.abc import Callable

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest

ProbFunc = Callable[[int], float]

_CURVES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda x, s: max(0.0, 1.0 - x / s),
    "exp": lambda x, s: (1.0 - 1.0 / s) ** x,
    "tanh": lambda x, s: max(0.0, 0.5 * (1.0 - math.tanh((x - s) / s))),
}


def get_prob_func(schedule: str | float | ProbFunc, scale: float = 100.0) -> ProbFunc:
    r"""
    Return a probability as a function of the number k of completed updates.

    ``linear`` :math:`\max(0, 1 - k/s)`, ``exp`` :math:`(1 - 1/s)^k`,
    ``tanh`` :math:`\tfrac{1}{2}(1 - \tanh((k - s)/s))`, which starts at about 0.88.

    :param schedule: a name, a constant in [0, 1], or a function of k
    :param scale: :math:`s`, updates, at least 1
    :raises StrlValueError: for an unknown name, a constant outside [0, 1], or ``scale < 1``
    :raises StrlTypeError: for anything else
    """
    if isinstance(schedule, str):
        if schedule not in _CURVES:
            raise StrlValueError(
                f"get_prob_func: unknown schedule '{schedule}'.{suggest(schedule, _CURVES)} Known "
                f"schedules: {sorted(_CURVES)}."
            )
        if not scale >= 1.0:
            raise StrlValueError(f"get_prob_func: the scale is {scale}. It must be at least 1.")
        curve = _CURVES[schedule]
        return lambda k: curve(float(k), float(scale))
    if isinstance(schedule, (int, float)):
        value = float(schedule)
        if not 0.0 <= value <= 1.0:
            raise StrlValueError(
                f"get_prob_func: the probability is {value}. Expected one in [0, 1]."
            )
        return lambda _: value
    if callable(schedule):
        function = schedule
        return lambda k: float(function(k))
    raise StrlTypeError(
        f"get_prob_func: {schedule!r} is no schedule. Expected a name, a number or a function of "
        "the number of updates."
    )
