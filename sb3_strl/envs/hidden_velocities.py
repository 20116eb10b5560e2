"""Classic control whose velocities only the critic, a teacher or an estimator's loss sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_strl.common.errors import StrlTypeError, StrlValueError

Array = npt.NDArray[np.float32]

# Columns of the observation that are velocities, by the id with them hidden.
_TASKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "sb3_strl/CartPoleHidden-v1": ("CartPole-v1", (1, 3)),
    "sb3_strl/PendulumHidden-v1": ("Pendulum-v1", (2,)),
    "sb3_strl/AcrobotHidden-v1": ("Acrobot-v1", (4, 5)),
    "sb3_strl/MountainCarContinuousHidden-v0": ("MountainCarContinuous-v0", (1,)),
}


class HiddenVelocities(gym.ObservationWrapper[dict[str, Array], Any, Array]):
    """
    Split an observation in two groups: ``"policy"`` without velocities and ``"critic"`` with them.

    ``critic`` holds the columns of ``policy`` first and then the velocities, so
    ``obs_segments={"policy": {"position": n}, "critic": {"position": n, "velocity": m}}``.

    :param env: whose observation is a vector
    :param velocities: its columns that are hidden from ``policy``
    :raises StrlTypeError: if the observation is no vector
    :raises StrlValueError: if it has no such columns, or no others
    """

    def __init__(self, env: gym.Env[Array, Any], velocities: Sequence[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise StrlTypeError(
                f"HiddenVelocities: the observation is {space}. Expected a vector, a Box (n,). "
                "Flatten it first."
            )
        width = space.shape[0]
        hidden = sorted(set(velocities))
        if not hidden or hidden[0] < 0 or hidden[-1] >= width or len(hidden) == width:
            raise StrlValueError(
                f"HiddenVelocities: velocities is {list(velocities)} of {width} columns. Expected "
                f"some, but not all, of 0 to {width - 1}."
            )
        self._seen = [column for column in range(width) if column not in hidden]
        self._all = [*self._seen, *hidden]
        groups: Any = {
            "policy": spaces.Box(space.low[self._seen], space.high[self._seen]),
            "critic": spaces.Box(space.low[self._all], space.high[self._all]),
        }
        self.observation_space = cast("spaces.Space[dict[str, Array]]", spaces.Dict(groups))

    def observation(self, observation: Array) -> dict[str, Array]:
        """Return both groups."""
        return {"policy": observation[self._seen], "critic": observation[self._all]}


def make_hidden(task: str, **options: Any) -> gym.Env[Any, Any]:
    """
    Make one of the registered tasks.

    :param task: the id
    :param options: of the environment with velocities
    """
    env_id, velocities = _TASKS[task]
    return HiddenVelocities(gym.make(env_id, **options), velocities)


def hidden_env_ids() -> list[str]:
    """Return the registered ids."""
    return list(_TASKS)
