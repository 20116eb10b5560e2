"""
Action distributions as pure functions of their parameters.

PyTorch's and SB3's distribution objects validate, broadcast and allocate on every call. The heads
here hold the few equations a policy gradient needs, take the random numbers from outside (so that a
rollout draws them once, in one block) and never copy anything to the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known
from sb3_strl.policies.action_head import ActionHead
from sb3_strl.policies.discrete import BernoulliHead, CategoricalHead
from sb3_strl.policies.gaussian import (
    DiagonalGaussianHead,
    GaussianHead,
    HeteroscedasticGaussianHead,
    StdType,
)

__all__ = [
    "ActionHead",
    "BernoulliHead",
    "CategoricalHead",
    "DiagonalGaussianHead",
    "GaussianHead",
    "HeteroscedasticGaussianHead",
    "make_action_head",
]

_CLASSES: dict[str, type[DiagonalGaussianHead]] = {
    "gaussian": GaussianHead,
    "heteroscedastic": HeteroscedasticGaussianHead,
}
_RSL_RL_CLASSES: dict[str, type[DiagonalGaussianHead]] = {
    "GaussianDistribution": GaussianHead,
    "HeteroscedasticGaussianDistribution": HeteroscedasticGaussianHead,
}
RSL_RL_OPTIONS = {"init_std": "init_noise_std", "std_type": "noise_std_type"}
"""Our names for rsl_rl's arguments of a Gaussian."""


def make_action_head(
    action_space: spaces.Space[Any],
    init_noise_std: float = 1.0,
    noise_std_type: StdType | None = None,
    distribution_class: str | type[ActionHead] = "gaussian",
    distribution_kwargs: Mapping[str, Any] | None = None,
) -> ActionHead:
    """
    Return the head that fits an action space.

    :param action_space: of the environment
    :param init_noise_std: initial standard deviation of a Gaussian
    :param noise_std_type: what a Gaussian learns, ``"log"`` or ``"scalar"``; ``None``: the class's
        default, which is ``"log"``, and ``"scalar"`` for rsl_rl's names
    :param distribution_class: for Box spaces ``"gaussian"``, ``"heteroscedastic"``, rsl_rl's names
        ``"GaussianDistribution"`` and ``"HeteroscedasticGaussianDistribution"``, or a class derived
        from :class:`ActionHead` that is built from the number of action dimensions
    :param distribution_kwargs: further arguments of the class, e.g. ``std_range``; they go before
        the two above, and rsl_rl's names ``init_std`` and ``std_type`` are understood
    :raises StrlTypeError: if the space is not Box, Discrete or one-dimensional MultiDiscrete or
        MultiBinary, the class is not one of heads, or it does not know an argument
    :raises StrlValueError: if a space of discrete actions is given a Gaussian's options
    """
    if isinstance(action_space, spaces.Box):
        return _make_box_head(
            int(get_action_dim(action_space)),
            init_noise_std,
            noise_std_type,
            distribution_class,
            dict(distribution_kwargs or {}),
        )
    head = _make_discrete_head(action_space)
    if distribution_class != "gaussian" or distribution_kwargs:
        raise StrlValueError(
            f"Policy: distribution_class={distribution_class!r} with distribution_kwargs="
            f"{dict(distribution_kwargs or {})} was given for {action_space}. They choose the "
            "distribution of Box actions: leave both out."
        )
    return head


def _make_discrete_head(action_space: spaces.Space[Any]) -> ActionHead:
    if isinstance(action_space, spaces.Discrete):
        return CategoricalHead([int(action_space.n)], scalar=True, starts=[int(action_space.start)])
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        starts = [int(start) for start in action_space.start]
        return CategoricalHead([int(n) for n in action_space.nvec], scalar=False, starts=starts)
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) == 1:
        return BernoulliHead(int(action_space.shape[0]))
    raise StrlTypeError(
        f"Policy: the action space {action_space} is not supported. Known: Box, Discrete and "
        "one-dimensional MultiDiscrete and MultiBinary. Flatten the actions in a wrapper."
    )


def _make_box_head(
    action_dim: int,
    init_noise_std: float,
    noise_std_type: StdType | None,
    distribution_class: str | type[ActionHead],
    given: dict[str, Any],
) -> ActionHead:
    cls, default_type = _resolve(distribution_class)
    options = given
    if issubclass(cls, DiagonalGaussianHead):
        options = {
            "init_noise_std": init_noise_std,
            "noise_std_type": noise_std_type or default_type,
        }
        for name, value in given.items():
            ours = RSL_RL_OPTIONS.get(name, name)
            if ours != name and ours in given:
                raise StrlValueError(
                    f"{cls.__name__}: distribution_kwargs has both '{name}' and '{ours}', which "
                    "mean the same. Keep one."
                )
            options[ours] = value
    known = list(inspect.signature(cls).parameters)[1:]
    check_known(cls.__name__, "argument", options, known)
    return cls(action_dim, **options)


def _resolve(distribution_class: str | type[ActionHead]) -> tuple[type[ActionHead], StdType]:
    """Return the class and its own kind of standard deviation."""
    if not isinstance(distribution_class, str):
        given: object = distribution_class
        if not (isinstance(given, type) and issubclass(given, ActionHead)):
            raise StrlTypeError(
                f"Policy: distribution_class is {distribution_class!r}. Expected a class derived "
                f"from ActionHead or a name: {[*_CLASSES, *_RSL_RL_CLASSES]}."
            )
        return distribution_class, "log"
    name = distribution_class
    if name.startswith("rsl_rl"):
        name = name.replace(":", ".").rpartition(".")[2]
    if name in _RSL_RL_CLASSES:
        return _RSL_RL_CLASSES[name], "scalar"
    check_known("Policy", "distribution", [name], [*_CLASSES, *_RSL_RL_CLASSES])
    return _CLASSES[name], "log"
