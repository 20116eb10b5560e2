"""Expert features drawn from recorded motions."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th

from sb3_strl.common.errors import NonFiniteError
from sb3_strl.data import MotionLibrary


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
