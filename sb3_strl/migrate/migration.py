"""A configuration of another library as what this one is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from sb3_strl.algorithms import PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.migrate.plain_yaml import to_plain
from sb3_strl.migrate.report import Report
from sb3_strl.migrate.tables import CONFIG_NAMES
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.aliases import resolve_policy_name
from sb3_strl.policies.description import no_learning


class Spaces(NamedTuple):
    """
    What a policy is built for.

    :param observation_space: a Dict of groups, or a single space
    :param action_space: a Box
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]


def spaces_of(env: Any) -> Spaces:
    """
    Return the spaces of an environment, or of a pair of them.

    :raises StrlTypeError: if it is neither
    """
    if isinstance(env, tuple) and len(env) == 2:
        return Spaces(*env)
    if not (hasattr(env, "observation_space") and hasattr(env, "action_space")):
        raise StrlTypeError(
            f"migrate: got {env!r}. Expected an environment, or Spaces(observation_space, "
            "action_space). Make it with sb3_strl.make_vec."
        )
    return Spaces(env.observation_space, env.action_space)


@dataclass
class Migration:
    """
    What a foreign configuration stands for here.

    ``kwargs`` and ``learn`` are plain dicts: change them before :meth:`build` as you like.

    :param algorithm: class
    :param policy: name of the policy
    :param kwargs: arguments of the class beside policy and environment
    :param report: what became of every key
    :param iterations: rollouts to train for, if given
    :param learn: arguments of ``learn`` beside ``total_timesteps``
    :param save_interval: iterations between checkpoints, if given
    :param random_starts: episodes are to begin at random ages, see
        :class:`~sb3_strl.callbacks.RandomStarts`
    :param n_envs: environments, if given
    :param encoders: encoded segments in the order of their list, of ``"actor"`` and ``"critic"``
    """

    algorithm: type[PPO]
    policy: str
    kwargs: dict[str, Any]
    report: Report
    iterations: int | None = None
    learn: dict[str, Any] = field(default_factory=dict)
    save_interval: int | None = None
    random_starts: bool = False
    n_envs: int | None = None
    encoders: dict[str, list[str]] = field(default_factory=dict)

    @property
    def policy_kwargs(self) -> dict[str, Any]:
        """The policy's arguments, as in ``kwargs``."""
        found: dict[str, Any] = self.kwargs.setdefault("policy_kwargs", {})
        return found

    def build(self, env: Any, **overrides: Any) -> PPO:
        """
        Make the algorithm.

        :param env: the environment
        :param overrides: arguments of the algorithm that win over the configuration's, e.g.
            ``device="cpu"`` or ``teacher="teacher.zip"``
        :raises StrlError: if configuration and environment do not fit; see the algorithm
        """
        arguments: Any = {**self.kwargs, **overrides}
        return self.algorithm(self.policy, env, **arguments)

    def build_policy(self, env: Any) -> StrlPolicy:
        """
        Make the policy alone, with random weights.

        :param env: an environment, or a pair of spaces
        """
        found, cls = spaces_of(env), resolve_policy_name(self.policy, "migrate")
        policy: Any = cls(
            found.observation_space, found.action_space, no_learning, **self.policy_kwargs
        )
        if not isinstance(policy, StrlPolicy):
            raise StrlTypeError(
                f"migrate: '{self.policy}' makes a {type(policy).__name__}. Expected a policy of "
                "this library. Name one of sb3_strl.policies."
            )
        return policy

    def total_timesteps(self, n_envs: int) -> int:
        """
        Return the environment steps of all iterations.

        :param n_envs: environments
        :raises StrlValueError: if the configuration does not say how many iterations
        """
        if self.iterations is None:
            raise StrlValueError(
                "Migration: the configuration has no max_iterations. Expected a number of "
                "iterations. Set migration.iterations, or pass total_timesteps to learn."
            )
        return self.iterations * int(self.kwargs["n_steps"]) * n_envs

    def learn_kwargs(self, n_envs: int) -> dict[str, Any]:
        """Return the arguments of ``learn`` for so many environments, but the callbacks."""
        return {"total_timesteps": self.total_timesteps(n_envs), **self.learn}

    def callbacks(self, folder: str) -> list[BaseCallback]:
        """
        Return the callback that saves checkpoints, if any.

        :param folder: where to save them
        """
        if not self.save_interval:
            return []
        steps = self.save_interval * int(self.kwargs["n_steps"])
        return [CheckpointCallback(steps, folder, name_prefix="model")]

    def _own_options(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.kwargs.items() if key != "seed"}
        plain: dict[str, Any] = to_plain(kept, "kwargs")
        return plain

    def train_config(self, env_id: str, n_envs: int) -> dict[str, Any]:
        """
        Return the configuration of ``strl train``.

        :param env_id: id of the environment
        :param n_envs: environments
        :raises StrlValueError: if something cannot be written as plain data
        """
        config: dict[str, Any] = {
            "env": env_id,
            "algorithm": CONFIG_NAMES[self.algorithm.__name__],
            "policy": self.policy,
            "n_envs": n_envs,
        }
        if self.iterations is not None:
            config["total_timesteps"] = self.total_timesteps(n_envs)
        if self.kwargs.get("seed") is not None:
            config["seed"] = int(self.kwargs["seed"])
        if self.save_interval:
            config["checkpoint_interval"] = (
                self.save_interval * int(self.kwargs["n_steps"]) * n_envs
            )
        if self.random_starts:
            config["random_starts"] = True
        return {**config, "hyperparameters": self._own_options()}

    def zoo_config(self, env_id: str, n_envs: int) -> dict[str, Any]:
        """
        Return the configuration of ``strl zoo``.

        :param env_id: id of the environment
        :param n_envs: environments
        :raises StrlValueError: if something cannot be written as plain data
        """
        config: dict[str, Any] = {"n_envs": n_envs, "policy": self.policy}
        if self.iterations is not None:
            config["n_timesteps"] = float(self.total_timesteps(n_envs))
        if self.random_starts:
            config["callback"] = ["sb3_strl.callbacks.RandomStarts"]
        return {env_id: {**config, **self._own_options()}}


def last_name(value: Any, default: str) -> str:
    """Return the class of a dotted path: ``"rsl_rl.models:MLPModel"`` is ``"MLPModel"``."""
    return default if value is None else str(value).replace(":", ".").rpartition(".")[2]


def count(value: Any, where: str) -> int:
    """
    Return a whole number.

    :raises StrlValueError: if it is none
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise StrlValueError(f"migrate: {where} is {value!r}. Expected a whole number. Mend it.")
    return int(value)


def add_defaults(
    kwargs: dict[str, Any], defaults: Mapping[str, Any], report: Report, names: Mapping[str, str]
) -> None:
    """
    Put their defaults where ours are others.

    :param kwargs: of the algorithm, changed
    :param defaults: by our name
    :param names: ours by theirs
    """
    theirs = {ours: key for key, ours in names.items()}
    for ours, value in defaults.items():
        if ours not in kwargs:
            kwargs[ours] = value
            report.add(
                f"algorithm.{theirs[ours]}",
                "default",
                ours,
                value,
                "not given: their default, ours is another",
            )
