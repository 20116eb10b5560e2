"""Windows of features that are computed from demonstrations: an expert for a motion prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from sb3_strl.data.trajectory import Obs, Trajectory

FeatureFunction = Callable[[Obs], npt.ArrayLike]


class TrajectoryFeatures:
    r"""
    Windows of K frames of features along demonstrations, ``expert_source`` of ``APPO``.

    Frame t of a demonstration is :math:`x_t = f(o_t)`, and a window that ends there is
    :math:`(x_{t - (K - 1) s}, \dots, x_{t - s}, x_t)` with s = ``frame_step``. Windows lie inside
    one demonstration. All of them are equally likely, so a longer demonstration counts for more.

    :param trajectories: demonstrations of ``T + 1`` observations each; those of imitation are
        converted by :func:`~sb3_strl.data.from_imitation`
    :param feature_fn: f, from all observations of a demonstration, ``(T + 1, ...)`` or by name, to
        their features ``(T + 1, F)``, in the order of the environment's ``ref_obs``
    :param n_frames: K
    :param frame_step: s, in steps of the demonstrations
    :param feature_names: F names, compared with the environment's if both are known
    :param device: where the features live, the algorithm's
    :raises StrlTypeError: if something among the demonstrations is of another kind
    :raises StrlValueError: if there is none, none is long enough, or the features do not fit
    :raises NonFiniteError: if a feature is NaN or infinite
    """

    def __init__(
        self,
        trajectories: Iterable[Trajectory],
        feature_fn: FeatureFunction,
        n_frames: int,
        frame_step: int = 1,
        feature_names: Sequence[str] = (),
        device: th.device | str = "cpu",
    ) -> None:
        if n_frames < 1 or frame_step < 1:
            raise StrlValueError(
                f"TrajectoryFeatures: n_frames is {n_frames} and frame_step {frame_step}. Expected "
                "whole numbers of at least 1."
            )
        self.n_frames, self.frame_step = n_frames, frame_step
        self.feature_names = list(feature_names)
        frames = _all_features(trajectories, feature_fn)
        width = frames[0].shape[1]
        if self.feature_names and len(self.feature_names) != width:
            raise StrlValueError(
                f"TrajectoryFeatures: there are {len(self.feature_names)} feature_names, but "
                f"feature_fn makes {width} features. Expected one name for each."
            )
        span = (n_frames - 1) * frame_step
        offsets = np.cumsum([0, *(len(rows) for rows in frames)])
        starts = [
            np.arange(first, first + max(len(rows) - span, 0))
            for first, rows in zip(offsets[:-1], frames, strict=True)
        ]
        self._starts = th.as_tensor(np.concatenate(starts), device=device)
        if len(self._starts) == 0:
            longest = max(len(rows) for rows in frames)
            raise StrlValueError(
                f"TrajectoryFeatures: a window of {n_frames} frames, {frame_step} apart, needs "
                f"{span + 1} observations, but the longest demonstration has {longest}. Take fewer "
                "frames or longer demonstrations."
            )
        self._frames = th.as_tensor(np.concatenate(frames), device=device)
        self._steps = th.arange(0, span + 1, frame_step, device=device)

    def __len__(self) -> int:
        return len(self._starts)

    def windows(self, numbers: th.Tensor) -> th.Tensor:
        """
        Return windows by number, in the order of the demonstrations.

        :param numbers: ``(n,)``, int64, from 0 to ``len(self) - 1``
        :return: ``(n, K, F)``, oldest frame first
        """
        rows = self._starts[numbers].unsqueeze(1) + self._steps
        return self._frames[rows]

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        """
        Draw windows.

        :param n: how many
        :param generator: of random numbers, on the same device
        :return: ``(n, K F)``, oldest frame first
        """
        starts = self._starts
        numbers = th.randint(len(starts), (n,), generator=generator, device=starts.device)
        return self.windows(numbers).flatten(1)


def _all_features(
    trajectories: Iterable[Trajectory], feature_fn: FeatureFunction
) -> list[npt.NDArray[np.float32]]:
    found: list[npt.NDArray[np.float32]] = []
    for number, trajectory in enumerate(trajectories):
        if not isinstance(trajectory, Trajectory):
            raise StrlTypeError(
                f"TrajectoryFeatures: demonstration {number} is a {type(trajectory).__name__}. "
                "Expected sb3_strl.data.Trajectory. Convert those of imitation first: "
                "from_imitation(demonstrations)."
            )
        found.append(_features(number, trajectory, feature_fn))
        if found[-1].shape[1] != found[0].shape[1]:
            raise StrlValueError(
                f"TrajectoryFeatures: feature_fn makes {found[-1].shape[1]} features of "
                f"demonstration {number} and {found[0].shape[1]} of the first. Expected the same "
                "number for all."
            )
    if not found:
        raise StrlValueError("TrajectoryFeatures: there are no demonstrations. Pass at least one.")
    return found


def _features(
    number: int, trajectory: Trajectory, feature_fn: FeatureFunction
) -> npt.NDArray[np.float32]:
    given: Any = feature_fn(trajectory.obs)
    rows = np.asarray(given, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(trajectory) + 1 or rows.shape[1] == 0:
        raise StrlValueError(
            f"TrajectoryFeatures: feature_fn made an array of shape {rows.shape} of demonstration "
            f"{number}, which has {len(trajectory) + 1} observations. Expected shape "
            f"({len(trajectory) + 1}, F): one row of features for every observation."
        )
    if not np.isfinite(rows).all():
        raise NonFiniteError(
            f"TrajectoryFeatures: the features of demonstration {number} hold NaN or infinity. "
            "Repair the demonstration or feature_fn."
        )
    return rows
