"""Checks of PPO's settings, done before anything is built."""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known, suggest
from sb3_strl.objectives.base import Objective
from sb3_strl.objectives.estimation import Estimation
from sb3_strl.objectives.motion_prior import AdversarialMotionPrior
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.distributions import DiagonalGaussianHead, GaussianHead
from sb3_strl.policies.options import fold_legacy_kwargs

if TYPE_CHECKING:
    from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm
    from sb3_strl.algorithms.ppo import PPO

_CHOICES: dict[str, tuple[Any, ...]] = {
    "schedule": ("fixed", "adaptive"),
    "timeout_bootstrap": ("auto", "terminal", "last_value", "none"),
    "normalize_advantage": ("rollout", "minibatch", True, False),
}


def check_policy_class(name: str, policy_class: object) -> type[StrlPolicy]:
    """
    Return a policy's class, which must be one that this library trains.

    :param name: of the algorithm, for the message
    :param policy_class: what was given, or what a file says
    :raises StrlTypeError: if it is another
    """
    if isinstance(policy_class, type) and issubclass(policy_class, StrlPolicy):
        return policy_class
    given = policy_class.__qualname__ if isinstance(policy_class, type) else repr(policy_class)
    raise StrlTypeError(
        f"{name}: the policy is {given}. Expected a name such as 'MlpPolicy', or a subclass of "
        "sb3_strl.policies.StrlPolicy. Models of stable_baselines3 are loaded by its own classes, "
        "e.g. stable_baselines3.PPO.load(path)."
    )


def check_settings(algorithm: PPO) -> None:
    """
    Refuse settings that cannot work, alone or together.

    :raises StrlTypeError: for a setting of the wrong kind
    :raises StrlValueError: naming the settings and what to change
    """
    name = type(algorithm).__name__
    _check_policy_kwargs(algorithm)
    _check_kinds(name, algorithm)
    given = {
        "schedule": algorithm.schedule,
        "timeout_bootstrap": algorithm.timeout_bootstrap,
        "normalize_advantage": algorithm.normalize_advantage,
    }
    for key, value in given.items():
        if value not in _CHOICES[key]:
            raise StrlValueError(f"{name}: {key} is {value!r}. Known: {list(_CHOICES[key])}.")
    _check_sizes(name, algorithm)
    _check_numbers(name, algorithm)
    _check_rates(name, algorithm)
    _check_precision(name, algorithm)
    _check_schedule(name, algorithm)
    _check_normalisation(name, algorithm)


def _check_policy_kwargs(algorithm: PPO) -> None:
    policy_class = algorithm.policy_class
    parameters = inspect.signature(policy_class).parameters
    if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        return  # a user's class, which checks them itself
    known = list(parameters)[3:]  # after the spaces and the learning rate
    given = fold_legacy_kwargs(algorithm.policy_kwargs)
    check_known(f"{policy_class.__name__}: policy_kwargs", "keyword", given, known)


def _check_kinds(name: str, algorithm: PPO) -> None:
    """Refuse texts, and numbers with a point where things are counted."""
    counts: dict[str, Any] = {"n_steps": algorithm.n_steps, "n_epochs": algorithm.n_epochs}
    given: dict[str, Any] = {
        "gamma": algorithm.gamma,
        "gae_lambda": algorithm.gae_lambda,
        "ent_coef": algorithm.ent_coef,
        "vf_coef": algorithm.vf_coef,
        "max_grad_norm": algorithm.max_grad_norm,
    }
    optional_counts = {
        "n_minibatches": algorithm.n_minibatches,
        "batch_size": algorithm.batch_size,
        "sequence_length": algorithm.sequence_length,
    }
    optional = {"desired_kl": algorithm.desired_kl, "target_kl": algorithm.target_kl}
    counts.update((key, value) for key, value in optional_counts.items() if value is not None)
    given.update((key, value) for key, value in optional.items() if value is not None)
    for key, value in counts.items():
        if not isinstance(value, numbers.Integral):
            raise StrlTypeError(
                f"{name}: {key} is {value!r}. Expected a whole number: pass an int, not a "
                "float or a text."
            )
    for key, value in given.items():
        if not isinstance(value, numbers.Real | th.Tensor):
            raise StrlTypeError(f"{name}: {key} is {value!r}. Expected a number, e.g. {key}=0.5.")


def _check_sizes(name: str, algorithm: PPO) -> None:
    sizes = {
        "n_steps": algorithm.n_steps,
        "n_epochs": algorithm.n_epochs,
        "n_minibatches": algorithm.n_minibatches,
        "batch_size": algorithm.batch_size,
        "sequence_length": algorithm.sequence_length,
    }
    for key, value in sizes.items():
        if value is not None and value < 1:
            raise StrlValueError(f"{name}: {key} is {value}. It must be at least 1.")
    if algorithm.batch_size is not None and algorithm.n_minibatches is not None:
        raise StrlValueError(
            f"{name}: both batch_size={algorithm.batch_size} and n_minibatches="
            f"{algorithm.n_minibatches} were given. Give one of them."
        )
    total = algorithm.n_steps * algorithm.n_envs
    if (algorithm.n_minibatches or 1) > total:
        raise StrlValueError(
            f"{name}: n_minibatches is {algorithm.n_minibatches}, but a rollout has only "
            f"n_steps * n_envs = {total} samples. Use fewer minibatches or more steps."
        )


def _check_numbers(name: str, algorithm: PPO) -> None:
    for key, value in {"gamma": algorithm.gamma, "gae_lambda": algorithm.gae_lambda}.items():
        if not 0.0 <= value <= 1.0:
            raise StrlValueError(f"{name}: {key} is {value}. It must lie in [0, 1].")
    positive = {
        "max_grad_norm": algorithm.max_grad_norm,
        "desired_kl": algorithm.desired_kl,
        "target_kl": algorithm.target_kl,
    }
    for key, bound in positive.items():
        if bound is not None and not bound > 0.0:
            raise StrlValueError(f"{name}: {key} is {bound}. It must be positive.")
    floor = np.asarray(algorithm.clip_min_std, dtype=np.float64)
    width = int(np.prod(algorithm.action_space.shape or (), dtype=np.int64))
    if floor.shape not in ((), (width,)) or not (floor >= 0.0).all():
        raise StrlValueError(
            f"{name}: clip_min_std is {algorithm.clip_min_std}. Give a number, or one per action "
            f"dimension, of which this environment has {width}; none may be negative."
        )


def _check_rates(name: str, algorithm: PPO) -> None:
    """Refuse what is neither a number nor a schedule, and numbers out of range."""
    rates: dict[str, Any] = {
        "learning_rate": algorithm.learning_rate,
        "clip_range": algorithm.clip_range,
        "clip_range_vf": algorithm.clip_range_vf,
    }
    if algorithm.clip_range_vf is None:
        del rates["clip_range_vf"]
    for key, value in rates.items():
        is_number = isinstance(value, numbers.Real)
        if not is_number and not callable(value):
            raise StrlTypeError(
                f"{name}: {key} is {value!r}. Expected a number, or a function of the remaining "
                f"progress such as {key}=lambda left: 1e-3 * left; texts such as 'lin_0.001' are "
                "for configuration files."
            )
        first = value if is_number else float(value(1.0))
        # A schedule may be 0: rl_zoo3 loads models with one, to look at them.
        zero_works = key == "learning_rate" or not is_number
        if not (0.0 <= first < math.inf) or (first == 0.0 and not zero_works):
            what = "a number of at least 0" if key == "learning_rate" else "a positive number"
            example = "1e-3" if key == "learning_rate" else "0.2"
            hint = "; None disables it" if key == "clip_range_vf" else ""
            raise StrlValueError(
                f"{name}: {key} is {first}{'' if is_number else ' at the start'}. Expected {what}, "
                f"e.g. {example}{hint}."
            )


def _check_precision(name: str, algorithm: PPO) -> None:
    kind = algorithm.device.type
    if algorithm.autocast and not th.amp.is_autocast_available(kind):
        raise StrlValueError(
            f"{name}: autocast=True needs bfloat16, which device '{kind}' does not compute with. "
            "Use autocast=False."
        )


def _check_schedule(name: str, algorithm: PPO) -> None:
    if algorithm.schedule != "adaptive":
        return
    if algorithm.lr_scheduler_class is not None:
        raise StrlValueError(
            f"{name}: schedule='adaptive' and lr_scheduler_class="
            f"{algorithm.lr_scheduler_class!r} would both write the learning rate. Use one of them."
        )
    rate = FloatSchedule(algorithm.learning_rate)
    if rate(1.0) != rate(0.0):
        raise StrlValueError(
            f"{name}: schedule='adaptive' starts from one learning rate, but learning_rate changes "
            f"from {rate(1.0)} to {rate(0.0)}. Give a number, or schedule='fixed'."
        )


def _check_normalisation(name: str, algorithm: PPO) -> None:
    normalizes = algorithm.policy_kwargs.get("empirical_normalization", False)
    wrapper = algorithm.get_vec_normalize_env()
    if normalizes and isinstance(wrapper, VecNormalize) and wrapper.norm_obs:
        raise StrlValueError(
            f"{name}: observations would be normalised twice, by VecNormalize and by "
            "empirical_normalization=True. Pass norm_obs=False to VecNormalize, or switch the "
            "policy's off."
        )


def find_proposer(algorithm: TensorOnPolicyAlgorithm) -> Objective | None:
    """
    Return the objective that may have other actions executed.

    :raises StrlTypeError: if there are several
    """
    found = [item for item in algorithm.objectives if item.overrides("propose_actions")]
    if len(found) > 1:
        raise StrlTypeError(
            f"{type(algorithm).__name__}: the objectives {[item.name for item in found]} all "
            "propose actions, but an environment executes one. Keep one of them."
        )
    return found[0] if found else None


def check_policy(algorithm: PPO) -> None:
    """
    Refuse settings that the policy cannot be trained with.

    :raises StrlValueError: if minibatches cannot hold whole sequences, nothing could be learned, or
        the action noise cannot have the floor that was asked for
    """
    name, policy = type(algorithm).__name__, algorithm.policy
    _check_floor(name, algorithm)
    _warn_of_untrained_parts(name, algorithm)
    if policy.is_deterministic and algorithm.using_ppo:
        raise StrlValueError(
            f"{name}: {type(policy).__name__} acts with its mean, where the gradient of the "
            "log-probability is zero, so PPO's surrogate cannot train it. Distil a teacher into "
            "it with TPPO(using_ppo=False), or use the policy without 'Deterministic'."
        )
    if not policy.is_recurrent:
        return
    sequences = algorithm.rollout_buffer.sequences
    if algorithm.batch_size is not None and algorithm.batch_size < sequences.length:
        raise StrlValueError(
            f"{name}: batch_size is {algorithm.batch_size}, less than one sequence of "
            f"{sequences.length} steps. Raise it, or set sequence_length to at most "
            f"{algorithm.batch_size}."
        )
    wanted = algorithm.n_minibatches
    if wanted is not None and wanted > sequences.n_sequences:
        raise StrlValueError(
            f"{name}: n_minibatches is {wanted}, but a policy with memory trains on whole "
            f"sequences and there are {sequences.n_sequences}: {sequences.n_envs} environments "
            f"times {sequences.n_chunks} pieces of {sequences.length} steps. Use fewer, more "
            "environments or a smaller sequence_length."
        )


def _warn_of_untrained_parts(name: str, algorithm: PPO) -> None:
    policy, objectives = algorithm.policy, algorithm.objectives
    untrained = []
    if policy.discriminator is not None and not any(
        isinstance(objective, AdversarialMotionPrior) for objective in objectives
    ):
        untrained.append(("a discriminator", "APPO or ATPPO"))
    if policy.estimators and not any(isinstance(objective, Estimation) for objective in objectives):
        untrained.append(("an estimator", "EstimatorPPO or another Estimator... class"))
    for part, algorithms in untrained:
        warnings.warn(
            f"{name}: the policy {type(policy).__name__} has {part}, which {name} does not train. "
            f"Use {algorithms}, or a policy without it.",
            stacklevel=5,
        )


def _check_floor(name: str, algorithm: PPO) -> None:
    """Refuse a floor of a standard deviation that is no parameter, but computed in every state."""
    head = algorithm.policy.action_head
    if not isinstance(head, DiagonalGaussianHead) or isinstance(head, GaussianHead):
        return
    if float(np.max(algorithm.clip_min_std)) > head.std_range[0]:
        raise StrlValueError(
            f"{name}: clip_min_std is {algorithm.clip_min_std}, but a {type(head).__name__} "
            "computes its standard deviation in every state, within "
            f"std_range={head.std_range}. Leave clip_min_std out and set the range instead: "
            "policy_kwargs=dict(distribution_kwargs=dict(std_range=(smallest, largest)))."
        )


def check_action_space(name: str, space: spaces.Space[Any]) -> None:
    """
    Refuse a Box without bounds.

    :raises StrlValueError: naming the space
    """
    if isinstance(space, spaces.Box) and not np.all(np.isfinite([space.low, space.high])):
        raise StrlValueError(
            f"{name}: the action space {space} has infinite bounds. Give finite ones; actions are "
            "clipped to them before they reach the environment."
        )


def make_lr_scheduler(
    scheduler_class: str | type[th.optim.lr_scheduler.LRScheduler] | None,
    kwargs: Mapping[str, Any] | None,
    optimizer: th.optim.Optimizer,
) -> th.optim.lr_scheduler.LRScheduler | None:
    """
    Build a PyTorch learning-rate scheduler by name or class.

    :raises StrlTypeError: if there is no scheduler of that name
    """
    if scheduler_class is None:
        return None
    if isinstance(scheduler_class, str):
        known = {
            key: value
            for key, value in vars(th.optim.lr_scheduler).items()
            if isinstance(value, type) and issubclass(value, th.optim.lr_scheduler.LRScheduler)
        }
        if scheduler_class not in known:
            raise StrlTypeError(
                f"PPO: unknown lr_scheduler_class '{scheduler_class}'."
                f"{suggest(scheduler_class, known)} Known: {sorted(known)}."
            )
        scheduler_class = known[scheduler_class]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of")
        return scheduler_class(optimizer, **dict(kwargs or {}))
