"""A frozen policy that says what it would do."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

from sb3_strl.common.action_bounds import action_bounds, unsquashed
from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known
from sb3_strl.common.types import TensorDict
from sb3_strl.objectives.perceptron import PerceptronTeacher, read_teacher_file
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.aliases import resolve_policy_name
from sb3_strl.policies.mutex_sources import ActingPolicy, copy_policy

TeacherSource = BasePolicy | BaseAlgorithm | str | Path | Mapping[str, Any]

_PATHS = ("path", "teacher_ac_path")
_LEGACY = (
    "class_name",
    "num_actor_obs",
    "num_critic_obs",
    "num_actions",
    "actor_hidden_dims",
    "critic_hidden_dims",
    "activation",
    "init_noise_std",
    "mu_activation",
)
_LEGACY_NAMES = {"ActorCritic": "MlpPolicy", "ActorCriticRecurrent": "MlpLstmPolicy"}


class Label(NamedTuple):
    """
    What a teacher would do.

    :param actions: ``(N, A)`` or ``(N,)``
    :param params: of its distribution, broadcastable to ``(N, ...)``; ``None`` if it has none
    :param state: its memory after the step
    """

    actions: th.Tensor
    params: TensorDict | None
    state: Any


class TeacherModel(ABC):
    """
    One way of asking a policy for labels.

    :param policy: frozen
    """

    has_distribution = False

    def __init__(self, policy: BasePolicy | PerceptronTeacher) -> None:
        self.policy = policy

    def initial_state(self, n_envs: int) -> Any:
        """Return the memory at the start of an episode."""
        del n_envs
        return None

    @abstractmethod
    def label(self, obs: TensorDict, state: Any, starts: th.Tensor, sample: bool) -> Label:
        """
        Label one step.

        :param obs: groups as the teacher was trained on, ``(N, ...)``
        :param state: memory before the step
        :param starts: ``(N,)``, rows whose memory is forgotten first
        :param sample: draw the label from the teacher's distribution instead of taking its mode
        """


class _Strl(TeacherModel):
    """A policy of this library; one pass yields label, distribution and memory."""

    policy: StrlPolicy
    has_distribution = True

    def initial_state(self, n_envs: int) -> Any:
        return self.policy.initial_state(n_envs)

    def label(self, obs: TensorDict, state: Any, starts: th.Tensor, sample: bool) -> Label:
        out, head = self.policy.actor_pass(obs, state.reset(starts)), self.policy.action_head
        if not sample:
            return Label(head.mode(out.params), out.params, out.state)
        first = next(iter(out.params.values()))
        noise = head.draw_noise(first.shape[:-1], None, first.device)
        return Label(head.sample(out.params, noise), out.params, out.state)


class _Acting(TeacherModel):
    """Anything with ``act`` and explicit memory, e.g. a mutex policy."""

    policy: Any

    def initial_state(self, n_envs: int) -> Any:
        return self.policy.initial_state(n_envs)

    def label(self, obs: TensorDict, state: Any, starts: th.Tensor, sample: bool) -> Label:
        actions, state = self.policy.act(obs, state, starts, deterministic=not sample)
        return Label(actions.flatten(1) if actions.ndim > 1 else actions, None, state)


class _Plain(TeacherModel):
    """A policy of Stable-Baselines3 or ``imitation``, without memory."""

    policy: BasePolicy

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__(policy)
        self.has_distribution = isinstance(policy, ActorCriticPolicy)
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self._bounds = action_bounds(policy.action_space, policy.device)

    def label(self, obs: TensorDict, state: Any, starts: th.Tensor, sample: bool) -> Label:
        del starts
        policy = self.policy
        given = obs if self.is_dict else next(iter(obs.values()))
        actions = policy._predict(given, deterministic=not sample)
        if self._bounds is not None:
            actions = actions.reshape(len(actions), -1)
            if policy.squash_output:  # as BasePolicy.predict does, without leaving the device
                low, high = (bound.flatten() for bound in self._bounds)
                actions = unsquashed(actions, low, high)
        return Label(actions, self._params(given), state)

    def _params(self, given: Any) -> TensorDict | None:
        if not isinstance(self.policy, ActorCriticPolicy):
            return None
        found: Any = self.policy.get_distribution(given).distribution
        if isinstance(found, th.distributions.Normal):
            return {"mean": found.loc, "std": found.scale}
        if isinstance(found, th.distributions.Categorical):
            return {"logits": found.logits}
        if isinstance(found, list):
            return {"logits": th.cat([part.logits for part in found], -1)}
        return None


class _Perceptron(TeacherModel):
    """Normaliser and perceptron out of a foreign file."""

    policy: PerceptronTeacher

    def __init__(self, policy: PerceptronTeacher) -> None:
        super().__init__(policy)
        self.has_distribution = policy.std is not None

    def label(self, obs: TensorDict, state: Any, starts: th.Tensor, sample: bool) -> Label:
        del starts
        mean = self.policy(next(iter(obs.values())))
        std = self.policy.std
        if std is None:
            return Label(mean, None, state)
        actions = th.addcmul(mean, std, th.randn_like(mean)) if sample else mean
        return Label(actions, {"mean": mean, "std": std}, state)


def make_teacher(
    where: str, source: TeacherSource, student: StrlPolicy, groups: Sequence[str]
) -> TeacherModel:
    """
    Return a frozen teacher on the student's device.

    :param where: who complains
    :param source: a policy or algorithm, which is copied; the path of a policy or model of this
        library, of a Stable-Baselines3 model with perceptrons, or of a checkpoint of rsl_rl or
        st_rl; or a dict with ``"path"`` (or ``"teacher_ac_path"``) and ``"activation"``, without a
        path ``"class_name"`` and policy keywords for a teacher with random weights
    :param student: whose spaces the teacher must fit
    :param groups: of the student's environment that the teacher's input is made of
    :raises StrlTypeError: if it is nothing of the kind
    :raises StrlValueError: if the file cannot be read or the actions are others
    """
    policy = _resolve(where, source, student, groups)
    policy = policy.to(student.device)
    policy.train(False)
    policy.requires_grad_(False)
    _check_actions(where, policy, student)
    if isinstance(policy, PerceptronTeacher):
        return _Perceptron(policy)
    if isinstance(policy, StrlPolicy):
        return _Strl(policy)
    if isinstance(policy, ActingPolicy):
        return _Acting(policy)
    return _Plain(policy)


def _resolve(
    where: str, source: TeacherSource, student: StrlPolicy, groups: Sequence[str]
) -> BasePolicy | PerceptronTeacher:
    if isinstance(source, BaseAlgorithm):
        return copy_policy(source.policy)
    if isinstance(source, BasePolicy):
        return copy_policy(source)
    if isinstance(source, (str, Path)):
        return read_teacher_file(where, Path(source), None)
    if not isinstance(source, Mapping):
        raise StrlTypeError(
            f"{where}: the teacher is {source!r}. Expected a policy, an algorithm, the path of a "
            "file, or a dict with 'path'."
        )
    options = dict(source)
    found = [options.pop(key) for key in _PATHS if options.get(key) is not None]
    options = {key: value for key, value in options.items() if key not in _PATHS}
    if found:
        check_known(f"{where}: teacher_policy", "key", options, [*_PATHS, *_LEGACY])
        policy = read_teacher_file(where, Path(found[0]), options.get("activation"))
        _check_width(where, options.get("num_actor_obs"), policy)
        return policy
    return _random_policy(where, options, student, groups)


def _check_width(where: str, declared: int | None, policy: BasePolicy | PerceptronTeacher) -> None:
    if declared is None or not isinstance(policy, PerceptronTeacher):
        return
    if declared != policy.input_size:
        raise StrlValueError(
            f"{where}: teacher_policy says num_actor_obs={declared}, but the weights in its file "
            f"read {policy.input_size} numbers. Leave num_actor_obs out."
        )


def _random_policy(
    where: str, options: dict[str, Any], student: StrlPolicy, groups: Sequence[str]
) -> BasePolicy:
    name = str(options.pop("class_name", "ActorCritic"))
    kwargs = {k: v for k, v in options.items() if k not in ("num_actor_obs", "num_critic_obs")}
    kwargs.pop("num_actions", None)
    kwargs.setdefault("obs_groups", {"actor": list(groups)})
    kwargs.setdefault("obs_segments", student.layout.to_dict())
    warnings.warn(
        f"{where}: teacher_policy names no file, so the teacher '{name}' has random weights and "
        "teaches nonsense. Pass teacher='path/of/a/policy.zip'.",
        stacklevel=2,
    )
    policy_class: Any = resolve_policy_name(_LEGACY_NAMES.get(name, name), where)
    policy: BasePolicy = policy_class(
        student.observation_space, student.action_space, lambda _: 0.0, **kwargs
    )
    return policy


def _check_actions(where: str, policy: BasePolicy | PerceptronTeacher, student: StrlPolicy) -> None:
    mine = student.action_space
    if isinstance(policy, PerceptronTeacher):
        size = spaces.utils.flatdim(mine) if isinstance(mine, spaces.Box) else None
        if policy.output_size != size:
            raise StrlValueError(
                f"{where}: the teacher's file makes {policy.output_size} numbers, but the actions "
                f"of this environment are {mine}. Pass a teacher of the same robot."
            )
        return
    theirs = policy.action_space
    both = isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box)
    if (both and mine.shape != theirs.shape) or (not both and mine != theirs):
        raise StrlValueError(
            f"{where}: the teacher's actions are {theirs}, those of this environment {mine}. Pass "
            "a teacher of the same robot."
        )


def tree_tensors(tree: Any) -> list[th.Tensor]:
    """Return the tensors of a memory: tensors, ``None`` and (named) tuples of them."""
    if isinstance(tree, th.Tensor):
        return [tree]
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in tree_tensors(branch)]
    return []


def tree_restore(tree: Any, tensors: Iterator[th.Tensor]) -> Any:
    """Return a memory of the same structure with other tensors, which are copied."""
    if isinstance(tree, th.Tensor):
        return next(tensors).clone().to(tree.device)
    if isinstance(tree, tuple):
        branches = [tree_restore(branch, tensors) for branch in tree]
        kind: Any = type(tree)
        return kind(*branches) if hasattr(tree, "_fields") else kind(branches)
    return tree
