"""Expert features drawn from recorded motions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch as th

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.data import MotionLibrary
from sb3_strl.envs.tensor_vec_env import TensorVecEnv


@runtime_checkable
class ExpertSource(Protocol):
    """Where expert features come from if not from the environment."""

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        """Return ``(n, M)`` windows, flattened oldest frame first."""


@runtime_checkable
class NamedFeatures(Protocol):
    """An expert source that says what its features are; their order is then checked."""

    feature_names: Sequence[str]


class MotionFeatures:
    """
    Windows of a motion library as expert features, drawn at random times by weight of the clips.

    :param library: the motions
    :param fields: names of fields or columns, in the order of the environment's ``ref_obs``
    :param n_frames: frames K per window, oldest first
    :param frame_dt: seconds between two frames
    :raises NonFiniteError: if a drawn window holds NaN or infinity
    """

    def __init__(
        self, library: MotionLibrary, fields: Sequence[str], n_frames: int, frame_dt: float
    ) -> None:
        self.library = library
        self.fields = list(fields)
        self.n_frames = n_frames
        self.frame_dt = frame_dt
        self.feature_names = library.feature_names(self.fields)
        probe = self.sample_features(64, th.Generator(library.durations.device).manual_seed(0))
        if not bool(probe.isfinite().all()):
            raise NonFiniteError(
                f"MotionFeatures: the motions hold NaN or infinity in {self.fields}. Repair the "
                "clips."
            )

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        """Return ``(n, n_frames * n_features)``."""
        windows = self.library.sample_windows(
            n, self.fields, self.n_frames, self.frame_dt, generator=generator
        )
        return windows.flatten(1)


@dataclass(frozen=True)
class MissingExpert:
    """
    Stands for an expert source that a saved model had and that was not given again.

    :param kind: name of its class
    """

    kind: str


def resolve_expert(source: object, env: TensorVecEnv, groups: Sequence[str]) -> ExpertSource | None:
    """
    Return what draws expert features, ``None`` where the environment's own channel is meant.

    :param source: ``"env"``, a motion library, or an expert source
    :param env: tells features, frames and their spacing when a library is given
    :param groups: observation groups that the discriminator reads
    :raises StrlTypeError: if the source is something else
    :raises StrlValueError: if a library is given and the environment does not say which features,
        or a loaded model lacks its source
    """
    if source == "env":
        return None
    if isinstance(source, MissingExpert):
        raise StrlValueError(
            f"APPO: this model was trained with a {source.kind} as expert, which its file does not "
            "hold. Pass it again: APPO.load(path, env=env, expert_source=...); or "
            "expert_kind='env' to take the environment's own channel from now on."
        )
    if isinstance(source, MotionLibrary):
        names = (env.feature_names or {}).get(groups[0] if groups else "", [])
        if len(groups) != 1 or not names or env.frame_dt is None:
            raise StrlValueError(
                "APPO: expert_source is a MotionLibrary, but the environment does not say which "
                f"features its groups {list(groups)} hold (feature_names) or how many seconds lie "
                "between two frames (frame_dt). Pass expert_source=MotionFeatures(library, fields, "
                "n_frames, frame_dt)."
            )
        shape = group_spaces(env.observation_space)[groups[0]].shape or (1,)
        return MotionFeatures(source, names, int(shape[0]), env.frame_dt)
    if isinstance(source, ExpertSource):
        return source
    raise StrlTypeError(
        f"APPO: expert_source is {source!r}. Expected 'env', a MotionLibrary, or an object with "
        "sample_features(n, generator)."
    )
