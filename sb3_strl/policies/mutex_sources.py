"""Where the sub-policies of a mutex policy come from: instances, files, or folders of runs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import ObsLayout, Segment, group_spaces
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.loading import load_policy

_CHECKPOINT = re.compile(r"^(?:.*_)?model_(\d+)(?:_steps)?\.(?:zip|pt|pth)$")
_ACTING_SETS = ("actor", "estimator", "adaptor")


class SubPolicy(NamedTuple):
    """
    A sub-policy and the units in which it was trained.

    :param policy: a policy, a saved policy or model, or a folder with ``model_<steps>.zip`` files
        and optionally a ``config.json``
    :param action_scale: what action 1 meant in its environment, one number or one per action;
        ``None`` takes ``control.action_scale`` of ``config.json``, else the mutex policy's own
    :param obs_scales: factors of its observations by name; ``"lin_vel"`` is that of the command.
        ``None`` takes ``normalization.obs_scales`` of ``config.json``, else 1
    """

    policy: BasePolicy | str | Path
    action_scale: float | Sequence[float] | None = None
    obs_scales: Mapping[str, float] | None = None

    @property
    def box(self) -> spaces.Box:
        """
        Action space of a loaded policy.

        :raises StrlTypeError: if actions are not continuous
        """
        space = self.policy.action_space if isinstance(self.policy, BasePolicy) else None
        if not isinstance(space, spaces.Box):
            raise StrlTypeError(
                f"MutexPolicy: a sub-policy has the action space {space}. Expected a Box: actions "
                "are scaled and averaged."
            )
        return space


SubPolicySource = (
    SubPolicy
    | tuple[BasePolicy | str | Path, float | Sequence[float] | None, Mapping[str, float] | None]
    | BasePolicy
    | str
    | Path
)


@runtime_checkable
class ActingPolicy(Protocol):
    """A policy that acts on tensors with explicit memory."""

    @property
    def is_recurrent(self) -> bool:
        """Whether it has memory."""
        ...

    def initial_state(self, n_envs: int) -> Any:
        """Return the memory at the start of an episode."""
        ...

    def act(
        self,
        obs_groups: TensorDict,
        state: Any,
        episode_starts: th.Tensor,
        deterministic: bool = True,
    ) -> tuple[th.Tensor, Any]:
        """Return actions ``(N, *action_shape)`` and the new memory."""
        ...


def check_sub_policies(where: str, given: Any) -> None:
    """
    Refuse what is not a list of at least two.

    :param where: who complains
    :param given: the sub-policies
    :raises StrlTypeError: if it is no list
    :raises StrlValueError: if it is too short
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise StrlTypeError(
            f"{where}: sub_policies is {given!r}. Expected a list of policies, paths or SubPolicy "
            "tuples."
        )
    if len(given) < 2:
        raise StrlValueError(
            f"{where}: there are {len(given)} sub-policies. Expected at least two to choose from."
        )


def newest_model(folder: Path) -> Path:
    """
    Return the checkpoint with the largest number, ``model_900.zip`` before ``model_1000.zip``.

    :param folder: of a run, with files such as ``model_1000.zip`` or ``rl_model_1000_steps.zip``
    :raises StrlValueError: if there is none
    """
    found = [
        (int(match.group(1)), path)
        for path in sorted(folder.iterdir())
        if (match := _CHECKPOINT.match(path.name)) is not None
    ]
    if not found:
        names = sorted(path.name for path in folder.iterdir())[:8]
        raise StrlValueError(
            f"MutexPolicy: the folder {folder} holds no checkpoint. Expected files such as "
            f"'model_1000.zip' or 'rl_model_1000_steps.zip'; it holds {names}. Name the file."
        )
    return max(found, key=lambda entry: entry[0])[1]


def _read_config(folder: Path) -> dict[str, Any]:
    """Return ``action_scale`` and ``obs_scales`` of ``config.json``, where it has them."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    return {
        "action_scale": config.get("control", {}).get("action_scale"),
        "obs_scales": config.get("normalization", {}).get("obs_scales"),
    }


def copy_policy(policy: BasePolicy) -> BasePolicy:
    """Return a copy; the caller may go on training the policy."""
    try:
        return copy.deepcopy(policy)
    except RuntimeError:
        # Stable-Baselines3's policies keep the distribution of their last call, and with it a graph
        # that cannot be copied. A call without gradient replaces it.
        mode = policy.training
        policy.predict(policy.observation_space.sample(), deterministic=True)
        policy.set_training_mode(mode)
        return copy.deepcopy(policy)


def resolve_source(source: SubPolicySource, device: th.device) -> SubPolicy:
    """
    Return a sub-policy whose policy is a frozen copy on the device.

    :param source: see :class:`SubPolicy`
    :param device: where it shall act
    :raises StrlTypeError: if it is none of these
    :raises StrlValueError: if there is no such file
    """
    given: tuple[Any, ...] = source if isinstance(source, tuple) else (source,)
    if not 1 <= len(given) <= len(SubPolicy._fields) or not isinstance(
        given[0], (BasePolicy, str, Path)
    ):
        raise StrlTypeError(
            f"MutexPolicy: a sub-policy is {source!r}. Expected a policy, the path of a saved "
            "policy or model, or SubPolicy(policy, action_scale, obs_scales)."
        )
    policy, action_scale, obs_scales = SubPolicy(*given)
    if isinstance(policy, (str, Path)):
        path = Path(policy)
        if path.is_dir():
            config = _read_config(path)
            action_scale = config.get("action_scale") if action_scale is None else action_scale
            obs_scales = config.get("obs_scales") if obs_scales is None else obs_scales
            path = newest_model(path)
        loaded: BasePolicy = load_policy(path, device)
    else:
        loaded = copy_policy(policy).to(device)
    loaded.set_training_mode(False)
    loaded.requires_grad_(False)
    return SubPolicy(loaded, action_scale, obs_scales)


def own_layout(policy: BasePolicy) -> ObsLayout:
    """Return the named columns that a policy was built with."""
    layout: Any = vars(policy).get("layout")
    return layout if isinstance(layout, ObsLayout) else ObsLayout(policy.observation_space)


def acting_groups(policy: BasePolicy) -> tuple[str, ...]:
    """Return the groups that a policy needs to act; what others read is left out."""
    sets: Any = vars(policy).get("obs_sets")
    if not isinstance(sets, Mapping):
        return tuple(group_spaces(policy.observation_space))
    needed = [group for name, groups in sets.items() if name in _ACTING_SETS for group in groups]
    return tuple(dict.fromkeys(needed))


def column_map(layout: ObsLayout, policy: BasePolicy, where: str) -> dict[str, th.Tensor | None]:
    """
    Return for each group that a sub-policy reads the columns to hand it.

    :param layout: of the observations that arrive
    :param policy: the sub-policy
    :param where: who complains
    :return: column numbers by group, ``None`` for a group that is handed over as it is
    :raises StrlKeyError: if a group or a segment is missing
    :raises StrlValueError: if a segment has another shape
    """
    theirs = own_layout(policy)
    columns: dict[str, th.Tensor | None] = {}
    for group in acting_groups(policy):
        mine, wanted = layout.of([group], where), theirs.segments[group]
        same = [(s.name, s.shape) for s in mine] == [(s.name, s.shape) for s in wanted]
        undivided = [group] in ([s.name for s in mine], [s.name for s in wanted])
        if same or (undivided and _width(mine) == _width(wanted)):
            columns[group] = None
        else:
            columns[group] = _gather(layout, wanted, where)
    return columns


def _width(segments: Sequence[Segment]) -> int:
    return sum(segment.size for segment in segments)


def _gather(layout: ObsLayout, wanted: Sequence[Segment], where: str) -> th.Tensor:
    parts = []
    for segment in wanted:
        found = layout.find(segment.name, [segment.group], where)
        if found.shape != segment.shape:
            raise StrlValueError(
                f"{where}: segment '{segment.name}' of group '{segment.group}' has shape "
                f"{found.shape}, but the sub-policy was trained with {segment.shape}. Pass the "
                "observation_space and obs_segments of the environment."
            )
        parts.append(th.arange(found.start, found.stop))
    return th.cat(parts)


def common_action_space(subs: Sequence[SubPolicy]) -> spaces.Box:
    """
    Return the action space of the first sub-policy, which all share in shape.

    :param subs: loaded
    :raises StrlTypeError: if actions are not continuous
    :raises StrlValueError: if the shapes differ
    """
    boxes = [sub.box for sub in subs]
    shapes = [box.shape for box in boxes]
    if len(set(shapes)) != 1:
        raise StrlValueError(
            f"MutexPolicy: the sub-policies have actions of shapes {shapes}. Expected one shape."
        )
    return boxes[0]
