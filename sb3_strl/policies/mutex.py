"""A frozen policy that lets one of several trained policies act, environment by environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import FunctionType
from typing import Any, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import get_device
from torch import nn
from typing_extensions import Self

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.segments import SINGLE_GROUP, ObsLayout, group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.loading import Source, load_policy, save_policy
from sb3_strl.policies.mutex_options import CommandMapping, MutexOptions, ResetMode
from sb3_strl.policies.mutex_sources import (
    ActingPolicy,
    SubPolicySource,
    check_sub_policies,
    common_action_space,
    own_layout,
    resolve_source,
)
from sb3_strl.policies.mutex_state import (
    MutexState,
    forgotten,
    one_hot_rows,
    push_selection,
    tree_to_numpy,
    tree_to_tensors,
)
from sb3_strl.policies.mutex_units import ActionUnits, CommandDraws
from sb3_strl.policies.mutex_view import SubPolicyView, common_groups

Selector = Callable[[TensorDict], th.Tensor]


class MutexPolicy(BasePolicy):
    r"""
    Selector over two or more trained policies, which are copied, frozen and all run every step.

    .. math:: a = \sum_i w_i \, \frac{s_i}{s_{env}} \, a_i(o_i)

    :math:`w_i` is the share of sub-policy i among the last L selections of the environment,
    :math:`s_i` and :math:`s_{env}` are action scales. Each sub-policy sees the observation in its
    own units: the last action multiplied by :math:`s_{env} / s_i`, and its own command if
    ``cmd_vel_mapping`` has one. What the caller passes in is never written to. Segments are found
    by name, so sub-policies may have been trained with fewer or differently ordered segments.

    Everything it remembers is in the :class:`~sb3_strl.policies.mutex_state.MutexState` that
    :meth:`act` and :meth:`predict` take and return. It acts, teaches and is evaluated; it cannot be
    trained. Velocities of ranges are drawn from PyTorch's global generator.

    :param sub_policies: at least two, see :class:`~sb3_strl.policies.mutex_sources.SubPolicy`
    :param selector: maps observation groups ``(N, ...)`` to the selected indices ``(N,)``, integer,
        or to one-hot rows ``(N, P)``; a subclass may override :meth:`select` instead. A file holds
        only its name: pass it again to :meth:`load`
    :param observation_space: of the environment; default that of the first sub-policy
    :param action_space: of the environment; default that of the first sub-policy
    :param obs_segments: named columns of ``observation_space``; default those of the first
        sub-policy if the space is its own
    :param env_action_scale: what action 1 means in the environment, one number or one per action
    :param cmd_vel_mapping: forward velocity given to a sub-policy, by its index: a number, or
        ``(low, high)`` to draw from in every environment at the start of every episode; it is
        multiplied by the sub-policy's ``obs_scales["lin_vel"]``. Others keep the command they see
    :param command_segment: segment that holds the command
    :param command_index: column of the forward velocity in ``command_segment``
    :param last_action_segment: segment whose last ``last_action_size`` columns hold the last
        action, ``None`` if no sub-policy observes it
    :param last_action_size: default the number of actions, A; a multiple of it for several actions
    :param action_smoothing_buffer_len: L, selections that the weights are averaged over
    :param reset_non_selected: whose memory is cleared after a step: ``"all"`` (or True) those
        absent from the whole window; ``"when_skill"`` those but sub-policy 0 while neither they
        nor sub-policy 0 are selected; ``"none"`` (False, None) nobody's
    :param clip_sub_actions: clip every sub-policy's action to the bounds it was trained in before
        it is scaled, as its environment did; False for policies that bound their actions themselves
    :param device: where it acts
    :raises StrlValueError: if there are fewer than two sub-policies, or scales, ranges, indices or
        shapes do not fit
    :raises StrlTypeError: if nothing selects, or an argument is of the wrong type
    :raises StrlKeyError: if a group or segment is missing
    """

    _indices: th.Tensor

    def __init__(
        self,
        sub_policies: Sequence[SubPolicySource],
        selector: Selector | str | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Box | None = None,
        obs_segments: Mapping[str, Any] | None = None,
        *,
        env_action_scale: float | Sequence[float] = 0.5,
        cmd_vel_mapping: CommandMapping | None = None,
        command_segment: str = "proprioception",
        command_index: int = 9,
        last_action_segment: str | None = None,
        last_action_size: int | None = None,
        action_smoothing_buffer_len: int = 1,
        reset_non_selected: ResetMode | bool | None = "all",
        clip_sub_actions: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        name = type(self).__name__
        check_sub_policies(name, sub_policies)
        if selector is None and type(self).select is MutexPolicy.select:
            raise StrlTypeError(
                f"{name}: nothing selects. Pass selector=, a function of the observation groups, "
                "or override select()."
            )
        options = MutexOptions(
            env_action_scale=env_action_scale,
            cmd_vel_mapping=cmd_vel_mapping or {},
            command_segment=command_segment,
            command_index=command_index,
            last_action_segment=last_action_segment,
            last_action_size=last_action_size,
            action_smoothing_buffer_len=action_smoothing_buffer_len,
            reset_non_selected=reset_non_selected,
            clip_sub_actions=clip_sub_actions,
        )
        where = get_device(device)
        subs = [resolve_source(source, where) for source in sub_policies]
        policies: list[Any] = [sub.policy for sub in subs]
        first: BasePolicy = policies[0]
        common = common_action_space(subs)
        box = common if action_space is None else action_space
        if obs_segments is None and observation_space in (None, first.observation_space):
            obs_segments = own_layout(first).to_dict()
        super().__init__(
            observation_space or first.observation_space,
            box,
            features_extractor_class=FlattenExtractor,
        )
        self.selector = selector
        self.options = options
        self.reset_non_selected = options.mode
        self.layout = ObsLayout(self.observation_space, obs_segments)
        self.sub_policies = nn.ModuleList(policies)
        self._acting = [sub if isinstance(sub, ActingPolicy) else None for sub in policies]
        self._scales = [(sub.action_scale, sub.obs_scales) for sub in subs]
        self.units = ActionUnits(subs, options.env_action_scale, box, clip_sub_actions)
        self.commands = CommandDraws(options, subs)
        self.register_buffer("_indices", th.arange(len(subs)), persistent=False)
        self.views = nn.ModuleList(self._make_views(name))
        self.to(where)
        self.train(False)

    # ------------------------------------------------------------------ construction

    def _make_views(self, where: str) -> list[nn.Module]:
        options, ratio = self.options, self.units.ratio
        size = self.n_actions if options.last_action_size is None else options.last_action_size
        if size < 1 or size % self.n_actions:
            raise StrlValueError(
                f"{where}: last_action_size is {size}. Expected a multiple of {self.n_actions}, "
                "the number of actions."
            )
        times = size // self.n_actions
        views: list[nn.Module] = []
        for i, policy in enumerate(self.sub_policies):
            assert isinstance(policy, BasePolicy)
            view = SubPolicyView(self.layout, policy, f"{where}: sub-policy {i}")
            if options.last_action_segment is not None:
                view.recover_last_action(
                    options.last_action_segment, (1.0 / ratio[i]).repeat(times)
                )
            if self.commands.given[i]:
                view.override_command(options.command_segment, options.command_index)
            views.append(view)
        return views

    # ------------------------------------------------------------------ what it is

    @property
    def n_sub_policies(self) -> int:
        """P."""
        return len(self.sub_policies)

    @property
    def n_actions(self) -> int:
        """A, numbers in an action."""
        return int(np.prod(self.action_space.shape or (), dtype=np.int64))

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups that the sub-policies read."""
        views: list[Any] = list(self.views)
        return common_groups(views)

    @property
    def is_recurrent(self) -> bool:
        """Whether the state matters: memory, a window of selections, or drawn commands."""
        remembers = self.commands.random or self.options.action_smoothing_buffer_len > 1
        return remembers or any(
            acting is not None and acting.is_recurrent for acting in self._acting
        )

    def train(self, mode: bool = True) -> MutexPolicy:
        """Stay in evaluation mode: what is frozen is never trained."""
        del mode
        return super().train(False)

    # ------------------------------------------------------------------ acting

    def select(self, obs: TensorDict) -> th.Tensor:
        """
        Return which sub-policy acts.

        :param obs: groups ``(N, ...)``, in the environment's units
        :return: indices ``(N,)``, integer, or one-hot rows ``(N, P)``
        :raises StrlTypeError: if the policy was loaded without its selector
        """
        if not callable(self.selector):
            raise StrlTypeError(
                f"{type(self).__name__}: it was saved with the selector '{self.selector}', and "
                "files hold no functions. Pass it again: "
                f"{type(self).__name__}.load(path, selector=...)."
            )
        return self.selector(obs)

    def initial_state(self, n_envs: int) -> MutexState:
        """Return the memory before the first step: an empty window, no commands, no memory."""
        device, n = self._indices.device, self.n_sub_policies
        return MutexState(
            sub_states=tuple(
                None if acting is None else acting.initial_state(n_envs) for acting in self._acting
            ),
            window=th.zeros(n_envs, self.options.action_smoothing_buffer_len, n, device=device),
            commands=self.commands.initial(n_envs),
            resets=th.zeros(n_envs, n, dtype=th.bool, device=device),
        )

    @th.no_grad()
    def act(
        self,
        obs_groups: TensorDict,
        state: MutexState | None = None,
        episode_starts: th.Tensor | None = None,
        deterministic: bool = True,
    ) -> tuple[th.Tensor, MutexState]:
        """
        Act on tensors; nothing waits for the device.

        A row whose selection is not one of the sub-policies gets an action of NaN, since a check
        would wait; :meth:`predict` on the CPU raises an error.

        :param obs_groups: ``(N, ...)`` by group; never written to
        :param state: of the step before, ``None`` at the start; one of another number of
            environments is replaced by a new one
        :param episode_starts: ``(N,)``, rows that begin an episode, ``None`` for none
        :param deterministic: whether the sub-policies take their mean actions
        :return: actions ``(N, *action_shape)``, not clipped, and the new state
        :raises StrlKeyError: if a group is missing
        """
        self._check_groups(obs_groups)
        return self._act(
            obs_groups, self._one_hot(obs_groups), state, episode_starts, deterministic
        )

    def _act(
        self,
        obs: TensorDict,
        selection: th.Tensor,
        state: MutexState | None,
        episode_starts: th.Tensor | None,
        deterministic: bool,
    ) -> tuple[th.Tensor, MutexState]:
        n_envs, device = len(selection), selection.device
        if state is None or len(state.window) != n_envs:
            state = self.initial_state(n_envs)
            starts = th.ones(n_envs, dtype=th.bool, device=device)
        elif episode_starts is None:
            starts = th.zeros(n_envs, dtype=th.bool, device=device)
        else:
            starts = episode_starts.to(device=device, dtype=th.bool)
        window = push_selection(state.window, selection, starts)
        commands = self.commands(state.commands, starts)
        actions: list[th.Tensor] = []
        sub_states: list[Any] = []
        for i, (sub, view) in enumerate(zip(self.sub_policies, self.views, strict=True)):
            seen = view(obs, commands[:, i])
            acting = self._acting[i]
            if acting is None:
                action, new = self._act_without_memory(sub, seen, deterministic), None
            else:
                forget = starts | state.resets[:, i]
                action, new = acting.act(seen, state.sub_states[i], forget, deterministic)
            actions.append(action.reshape(n_envs, -1))
            sub_states.append(new)
        blended = self.units(th.stack(actions, dim=1), window.mean(dim=1))
        resets = forgotten(window, self.reset_non_selected)
        new_state = MutexState(tuple(sub_states), window, commands, resets)
        return blended.reshape(n_envs, *(self.action_space.shape or ())), new_state

    @staticmethod
    def _act_without_memory(sub: Any, obs: TensorDict, deterministic: bool) -> th.Tensor:
        is_dict = isinstance(sub.observation_space, spaces.Dict)
        action: th.Tensor = sub._predict(obs if is_dict else obs[SINGLE_GROUP], deterministic)
        return action

    def _one_hot(self, obs: TensorDict) -> th.Tensor:
        """Return the selection as ``(N, P)``; NaN in rows that select nobody or several."""
        n_envs = len(next(iter(obs.values())))
        return one_hot_rows(self.select(obs), n_envs, self._indices, type(self).__name__)

    def _check_groups(self, obs: Mapping[str, Any]) -> None:
        for group in self.groups:
            if group not in obs:
                raise StrlKeyError(
                    f"{type(self).__name__}: the observation group '{group}' is missing. Expected "
                    f"{list(self.groups)}, got {list(obs)}."
                )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """
        Return actions inside the bounds of the action space, and the state.

        NumPy in, NumPy out as in SB3; tensors in, tensors out.

        :param observation: one observation or a batch, as the environment returns it
        :param state: what the step before returned, ``None`` at the start
        :param episode_start: ``(N,)``, bool, environments that begin an episode
        :param deterministic: whether the sub-policies take their mean actions
        :return: actions and the new :class:`~sb3_strl.policies.mutex_state.MutexState`
        :raises StrlValueError: if a selection is not one-hot (on accelerators the action is NaN)
        :raises StrlKeyError: if a group is missing
        """
        as_dict = isinstance(observation, Mapping)
        sample = next(iter(observation.values())) if as_dict else observation
        if isinstance(sample, th.Tensor):
            obs = dict(observation) if as_dict else {SINGLE_GROUP: observation}
            return self._predict_groups(obs, state, episode_start, deterministic)
        if as_dict:
            self._check_groups(observation)
            known = group_spaces(self.observation_space)
            observation = {name: values for name, values in observation.items() if name in known}
        tensors, batched = self.obs_to_tensor(observation)
        obs = tensors if isinstance(tensors, dict) else {SINGLE_GROUP: tensors}
        device = self._indices.device
        starts = None if episode_start is None else th.as_tensor(episode_start, device=device)
        state = tree_to_tensors(state, device)
        actions, state = self._predict_groups(obs, state, starts, deterministic)
        array = actions.cpu().numpy()
        return (array if batched else array[0]), tree_to_numpy(state)

    @th.no_grad()
    def _predict_groups(
        self,
        obs: TensorDict,
        state: MutexState | None,
        starts: th.Tensor | None,
        deterministic: bool,
    ) -> tuple[th.Tensor, MutexState]:
        self._check_groups(obs)
        selection = self._one_hot(obs)
        if selection.device.type == "cpu" and bool(selection.isnan().any()):
            row = int(selection.isnan().any(dim=1).nonzero()[0, 0])
            raise StrlValueError(
                f"{type(self).__name__}: the selection of environment {row} names no sub-policy, "
                f"or several. Expected exactly one of {self.n_sub_policies}, numbered from 0."
            )
        actions, new_state = self._act(obs, selection, state, starts, deterministic)
        return self.units.bounded(actions), new_state

    def _predict(self, observation: Any, deterministic: bool = True) -> th.Tensor:
        obs = observation if isinstance(observation, dict) else {SINGLE_GROUP: observation}
        return self.act(obs, deterministic=deterministic)[0]

    # ------------------------------------------------------------------ files

    def _get_constructor_parameters(self) -> dict[str, Any]:
        subs = zip(self.sub_policies, self._scales, strict=True)
        selector = self.selector
        if callable(selector):
            is_function = isinstance(selector, FunctionType)
            selector = selector.__qualname__ if is_function else type(selector).__qualname__
        return {
            "sub_policies": [(sub, *scales) for sub, scales in subs],
            "selector": selector,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "obs_segments": self.layout.to_dict(),
            **asdict(self.options),
        }

    def save(self, path: Source) -> None:
        """
        Write the policy with its sub-policies to one file.

        :param path: file name, used as it is, or a binary stream
        :raises StrlTypeError: if a sub-policy cannot be stored as plain data
        """
        save_policy(self, path)

    @classmethod
    def load(
        cls, path: Source, device: th.device | str = "auto", selector: Selector | None = None
    ) -> Self:
        """
        Load a policy alone; nothing in the file is executed.

        :param path: what :meth:`save` wrote
        :param device: where it acts
        :param selector: the function it was built with, which a file cannot hold
        :raises StrlValueError: if the file is missing, damaged or of another class
        """
        policy = load_policy(path, device, policy_class=cls)
        if selector is not None:
            policy.selector = selector
        return policy

    # ------------------------------------------------------------------ what it is not

    def _refuse(self, what: str) -> NoReturn:
        raise StrlTypeError(
            f"{type(self).__name__}.{what}: this policy selects among frozen policies and cannot "
            "be trained, so it has neither values nor log-probabilities. Use predict() or act(), "
            "or distil it into a student as a teacher."
        )

    def forward(self, obs: Any, deterministic: bool = False) -> NoReturn:
        """Refuse with a StrlTypeError: there is nothing to train."""
        del obs, deterministic
        self._refuse("forward")

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> NoReturn:
        """Refuse with a StrlTypeError: there is nothing to train."""
        del obs, actions
        self._refuse("evaluate_actions")
