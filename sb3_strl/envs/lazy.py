"""What callbacks may read in every step, at no cost to those that do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.lib.mixins import NDArrayOperatorsMixin

from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.conversion import NumpyObs, obs_to_numpy, to_array

Info = dict[str, Any]


class LazyArray(NDArrayOperatorsMixin):
    """
    A tensor that becomes a NumPy array when somebody reads it.

    It behaves as the array: ``np.sum(x)``, ``x[0]``, ``x * 2``, ``for item in x``, ``x.mean()``.
    The transfer happens once, at the first use. Use it in the step it belongs to: environments
    reuse their memory, so after the next step it may hold that step's numbers.

    :param tensor: on any device
    :param dtype: type of the array; default the tensor's
    """

    def __init__(self, tensor: th.Tensor, dtype: Any = None) -> None:
        self.tensor = tensor
        self._dtype = dtype
        self._array: np.ndarray | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._array is None:
            self._array = to_array(self.tensor, self._dtype)
        if copy:
            return np.array(self._array, dtype=dtype)
        return np.asarray(self._array, dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, LazyArray) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for special methods before __init__
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __repr__(self) -> str:
        return f"LazyArray({np.asarray(self)!r})"


def lazy_obs(obs: TensorDict, space: spaces.Space[Any]) -> LazyArray | dict[str, LazyArray]:
    """Present observation groups as the observation space does, without a transfer."""
    if isinstance(space, spaces.Dict):
        return {key: LazyArray(obs[key], part.dtype) for key, part in space.spaces.items()}
    (value,) = obs.values()
    return LazyArray(value, space.dtype)


class LazyInfos(Sequence[Info]):
    """
    SB3's list of info dicts, of which one is built when somebody asks for it.

    The dict of a running environment is empty. The dict of a finished one has
    ``"terminal_observation"`` (where the environment supplies it), ``"TimeLimit.truncated"`` (cut
    *and* not terminal) and ``"episode"`` with return ``r``, length ``l`` and seconds ``t``. A dict
    is built once, so what a wrapper writes into it stays.

    Nothing leaves the device before the first access, which must happen before the next step, or
    after :meth:`materialize`.

    :param step: what ``step_tensor`` returned
    :param space: the observation space, which says how a terminal observation looks
    :param returns: ``(n_envs,)``, return of the episode up to this step, or ``None``
    :param lengths: ``(n_envs,)``, its number of steps, or ``None``
    :param seconds: time since the environment was made
    """

    def __init__(
        self,
        step: TensorStep,
        space: spaces.Space[Any],
        returns: th.Tensor | None = None,
        lengths: th.Tensor | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._step: TensorStep | None = step
        self._n_envs = len(step.rewards)
        self._space = space
        self._returns, self._lengths = returns, lengths
        self._seconds = round(seconds, 6)
        self._rows: dict[int, int] = {}
        self._truncated: list[bool] = []
        self._episodes: list[tuple[float, int]] = []
        self._final: NumpyObs | None = None
        self._infos: dict[int, Info] = {}

    def materialize(self) -> LazyInfos:
        """Fetch what finished environments left behind, so that later steps cannot change it."""
        step, self._step = self._step, None
        if step is None:
            return self
        rows = (step.terminated | step.truncated).nonzero().squeeze(-1)
        self._rows = {env: row for row, env in enumerate(rows.tolist())}
        if not self._rows:
            return self
        self._truncated = (step.truncated & ~step.terminated)[rows].tolist()
        if self._returns is not None and self._lengths is not None:
            returns, lengths = self._returns[rows].tolist(), self._lengths[rows].tolist()
            self._episodes = [(r, int(n)) for r, n in zip(returns, lengths, strict=True)]
        if step.final_obs is not None:
            final = {key: value[rows] for key, value in step.final_obs.items()}
            self._final = obs_to_numpy(final, self._space)
        self._returns = self._lengths = None
        return self

    def _build(self, env: int) -> Info:
        self.materialize()
        row = self._rows.get(env)
        if row is None:
            return {}
        info: Info = {"TimeLimit.truncated": self._truncated[row]}
        if isinstance(self._final, dict):
            info["terminal_observation"] = {k: v[row].copy() for k, v in self._final.items()}
        elif self._final is not None:
            info["terminal_observation"] = self._final[row].copy()
        if self._episodes:
            r, n = self._episodes[row]
            info["episode"] = {"r": r, "l": n, "t": self._seconds}
        return info

    def _position(self, index: int) -> int:
        position = index + self._n_envs if index < 0 else index
        if not 0 <= position < self._n_envs:
            raise IndexError(
                f"LazyInfos: index {index} is out of range. There are {self._n_envs} environments."
            )
        return position

    @overload
    def __getitem__(self, index: int) -> Info: ...

    @overload
    def __getitem__(self, index: slice) -> list[Info]: ...

    def __getitem__(self, index: int | slice) -> Info | list[Info]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n_envs))]
        position = self._position(int(index))
        if position not in self._infos:
            self._infos[position] = self._build(position)
        return self._infos[position]

    def __setitem__(self, index: int, info: Info) -> None:
        self._infos[self._position(int(index))] = info

    def __len__(self) -> int:
        return self._n_envs

    def __repr__(self) -> str:
        return f"LazyInfos({self._n_envs} environments)"
