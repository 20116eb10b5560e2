"""What a checkpoint holds beside parameters, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch as th

from sb3_strl.common.types import TensorDict

_EPISODE = ("r", "l", "t")


@dataclass(frozen=True)
class RandomState:
    """
    States of every random generator a run draws from.

    :param algorithm: the algorithm's own generator
    :param torch: PyTorch's global CPU generator
    :param numpy: NumPy's legacy global generator: keys and ``(position, has_gauss)`` with the
        cached Gaussian
    :param python: Python's ``random``: version and words
    """

    algorithm: th.Tensor
    torch: th.Tensor
    numpy: tuple[th.Tensor, int, int, float]
    python: tuple[int, th.Tensor, float | None]

    @classmethod
    def capture(cls, generator: th.Generator) -> RandomState:
        """Read all generators."""
        numpy_state = cast(
            "tuple[str, np.ndarray, int, int, float]",
            np.random.get_state(legacy=True),  # noqa: NPY002
        )
        _, keys, position, has_gauss, cached = numpy_state
        version, words, gauss = random.getstate()
        return cls(
            algorithm=generator.get_state(),
            torch=th.get_rng_state(),
            numpy=(
                th.from_numpy(keys.astype(np.int64)),
                int(position),
                int(has_gauss),
                float(cached),
            ),
            python=(version, th.tensor(words, dtype=th.int64), gauss),
        )

    def restore(self, generator: th.Generator) -> None:
        """Write all generators."""
        generator.set_state(self.algorithm.cpu())
        th.set_rng_state(self.torch.cpu())
        keys, position, has_gauss, cached = self.numpy
        words = keys.cpu().numpy().astype(np.uint32)
        np.random.set_state(("MT19937", words, position, has_gauss, cached))  # noqa: NPY002
        version, state, gauss = self.python
        random.setstate((version, tuple(state.tolist()), gauss))


@dataclass(frozen=True)
class ResumePoint:
    """
    Everything that the next rollout starts from.

    :param num_timesteps: environment steps before it
    :param obs: groups that the policy acts on first
    :param episode_starts: ``(n_envs,)``
    :param policy_state: hidden states, a plain tuple in the order of
        :class:`~sb3_strl.common.memory_state.PolicyState`
    :param env_state: state of the environment, ``None`` if it offers none
    :param episode_stats: running returns and lengths
    :param random: the random generators
    :param objectives: what objectives carry from step to step, by name
    :param episodes: SB3's window of finished episodes
    """

    num_timesteps: int
    obs: TensorDict
    episode_starts: th.Tensor
    policy_state: tuple[Any, ...]
    env_state: TensorDict | None
    episode_stats: TensorDict
    random: RandomState
    objectives: dict[str, Any] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)


class TrainingState:
    """
    A resume point behind the ``state_dict`` interface that SB3's files are made of.

    :param capture: returns the current resume point
    :param keep: receives a loaded one; the next ``learn(reset_num_timesteps=False)`` applies it
    :param scheduler: returns the learning-rate scheduler, ``None`` without one
    """

    def __init__(
        self,
        capture: Callable[[], ResumePoint | None],
        keep: Callable[[ResumePoint | None], None],
        scheduler: Callable[[], th.optim.lr_scheduler.LRScheduler | None],
    ) -> None:
        self._capture = capture
        self._keep = keep
        self._scheduler = scheduler

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and plain containers only, so that a safe loader reads them."""
        scheduler = self._scheduler()
        state: dict[str, Any] = {
            "lr_scheduler": None if scheduler is None else scheduler.state_dict(),
            "point": None,
        }
        point = self._capture()
        if point is not None:
            # Monitor's numbers may be NumPy's, which a safe loader refuses.
            episodes = [{k: float(e[k]) for k in _EPISODE if k in e} for e in point.episodes]
            plain = {"random": dict(vars(point.random)), "episodes": episodes}
            state["point"] = {**vars(point), **plain}
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """
        Keep a saved state for the next call of ``learn``.

        A learning-rate scheduler that only the file or only the model has is ignored with a
        warning.
        """
        del strict  # a file that was saved before the first rollout holds no resume point
        scheduler, saved = self._scheduler(), state.get("lr_scheduler")
        if (scheduler is None) != (saved is None):
            who = "the file" if scheduler is None else "the model"
            warnings.warn(
                f"load: only {who} has a learning-rate scheduler; its state is ignored.",
                stacklevel=3,
            )
        elif scheduler is not None and saved is not None:
            scheduler.load_state_dict(saved)
        self._keep(read_point(state))


def read_point(state: dict[str, Any]) -> ResumePoint | None:
    """Return the resume point of a saved training state, ``None`` if it has none."""
    point = state.get("point")
    if point is None:
        return None
    return ResumePoint(**{**point, "random": RandomState(**point["random"])})
