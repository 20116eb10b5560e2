"""Functional JAX environments: Brax, MJX, MuJoCo Playground."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from torch.utils.dlpack import from_dlpack

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.simulator import SimulatorVecEnv, default_names, derive_space, flatten, rename

_DEFAULT_LENGTH = 1000
_PHYSICS = ("pipeline_state", "data")


class BraxVecEnv(SimulatorVecEnv):
    """
    A batch of a functional environment: ``reset(key) -> state``, ``step(state, action) -> state``.

    Give the environment itself (``brax.envs.get_environment(...)`` or
    ``mujoco_playground.registry.load(...)``). Its wrappers for batches, time limits and automatic
    resets are taken off, because their reset loses the last observation; time limit and action
    repeat are read from them. A wrapper for domain randomisation stays.

    One compiled function does a step and what surrounds it. Tensors cross by DLPack: on a GPU
    without a copy, so **do not write into them**; on a CPU they are copied.

    State, step counts and random keys are what :meth:`get_state` returns, so runs resume exactly.

    :param env: the environment
    :param n_envs: number of environments; default that of the batching wrapper, else 1
    :param device: where the tensors live; default where JAX computes
    :param seed: of the random keys; ``None`` takes any
    :param episode_length: steps until an episode is cut; default that of the wrapper, else 1000
    :param action_repeat: steps of the simulator in one of ours; default that of the wrapper, else 1
    :param resets: ``"new"``: every episode begins with ``env.reset`` and a new key; a step in which
        somebody finished costs a reset of the batch. ``"first"``: physics and observations return
        to those of the very first reset and everything else goes on, as Brax's own automatic reset
        does; free, but starts never vary
    :param groups: ``{our name: the environment's}``; ``state`` and ``privileged_state`` are called
        ``policy`` and ``critic``
    :raises StrlTypeError: if it is no such environment
    :raises StrlValueError: if an option is out of range
    """

    def __init__(
        self,
        env: Any,
        n_envs: int | None = None,
        device: th.device | str | None = None,
        seed: int | None = None,
        episode_length: int | None = None,
        action_repeat: int | None = None,
        resets: Literal["new", "first"] = "new",
        groups: Mapping[str, str] | None = None,
    ) -> None:
        where = type(self).__name__
        if resets not in ("new", "first"):
            raise StrlValueError(f"{where}: resets is '{resets}'. Expected 'new' or 'first'.")
        if not hasattr(env, "action_size") or not callable(getattr(env, "reset", None)):
            raise StrlTypeError(
                f"{where}: the {type(env).__name__} has no action_size or reset(). Expected a "
                "functional environment of Brax or MuJoCo Playground, not its Gymnasium wrapper."
            )
        self._jax = importlib.import_module("jax")
        self._batch, known = unwrap(env, self._jax.vmap)
        n_envs = n_envs or known.get("batch_size") or 1
        self.episode_length = episode_length or known.get("episode_length") or _DEFAULT_LENGTH
        self.action_repeat = action_repeat or known.get("action_repeat") or 1
        self.resets, self._n = resets, n_envs
        self._names = None if groups is None else dict(groups)
        self._reset_fn = self._jax.jit(self._reset_all)
        self._step_fn = self._jax.jit(self._step_all)
        entropy = np.random.SeedSequence().generate_state(1)[0]
        self._key = self._jax.random.PRNGKey(int(entropy) if seed is None else seed)
        self._start()
        example = from_dlpack(self._state.reward)
        self._jax_device = example.device
        obs = {k: _to_float(from_dlpack(v)) for k, v in self._groups(self._state.obs).items()}
        bound = np.ones(int(env.action_size), dtype=np.float32)
        SimulatorVecEnv.__init__(
            self,
            env,
            n_envs,
            obs,
            spaces.Box(-bound, bound),
            device or example.device,
            observation_space=derive_space(obs),
            groups=groups,
        )
        self.max_episode_length = -(-self.episode_length // self.action_repeat)

    # ------------------------------------------------------------------ compiled

    def _groups(self, obs: Any) -> dict[str, Any]:
        found = flatten(obs)
        return rename(found, self._names or default_names(list(found)))

    def _reset_all(self, key: Any) -> Any:
        return self._batch.reset(self._jax.random.split(key, self._n))

    def _step_all(self, state: Any, first: Any, steps: Any, key: Any, actions: Any) -> Any:
        """Step, find who finished, and begin their new episodes; traced by JAX."""
        jnp, lax = self._jax.numpy, self._jax.lax
        reward = jnp.zeros_like(state.reward)
        for _ in range(self.action_repeat):
            state = self._batch.step(state, actions)
            reward = reward + state.reward
        steps = steps + self.action_repeat
        cut = jnp.asarray(state.info.get("truncation", 0.0)) != 0  # an environment's own time limit
        terminated = (state.done != 0) & ~cut
        truncated = (steps >= self.episode_length) | cut
        dones = terminated | truncated
        key, used = self._jax.random.split(key)
        if self.resets == "new":
            start = lax.cond(dones.any(), self._reset_all, lambda _: state, used)
        else:
            parts = [name for name in (*_PHYSICS, "obs") if hasattr(state, name)]
            start = state.replace(**{name: getattr(first, name) for name in parts})

        def choose(new: Any, old: Any) -> Any:
            if jnp.ndim(old) == 0 or old.shape[0] != self._n:  # belongs to all environments
                return old
            return jnp.where(dones.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        after = self._jax.tree.map(choose, start, state)
        after = after.replace(done=jnp.zeros_like(state.done))
        means = {name: jnp.mean(value) for name, value in state.metrics.items()}
        outcome = (
            self._groups(after.obs),
            self._groups(state.obs),
            reward,
            terminated,
            truncated,
            means,
        )
        return after, jnp.where(dones, 0, steps), key, outcome

    def _start(self) -> None:
        self._key, used = self._jax.random.split(self._key)
        self._state = self._first = self._reset_fn(used)
        self._steps = self._jax.numpy.zeros(self._n, dtype="int32")

    # ------------------------------------------------------------------ tensor face

    def reset_tensor(self) -> TensorDict:
        """Reset every environment; see the base class."""
        seed, _ = self.take_reset_request()
        if seed is not None:
            self._key = self._jax.random.PRNGKey(seed)
        self._start()
        return self._to_groups(self._groups(self._state.obs))

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """Step every environment; see the base class."""
        self._state, self._steps, self._key, outcome = self._step_fn(
            self._state, self._first, self._steps, self._key, self._to_jax(actions.detach())
        )
        obs, final, rewards, terminated, truncated, means = outcome
        return TensorStep(
            obs=self._to_groups(obs),
            rewards=_to_float(self._to_torch(rewards)),
            terminated=self._to_torch(terminated),
            truncated=self._to_torch(truncated),
            final_obs=self._to_groups(final),
            extras={"log": {f"metrics/{k}": self._to_torch(v) for k, v in means.items()}},
        )

    def _to_groups(self, obs: Mapping[str, Any]) -> TensorDict:
        return {name: _to_float(self._to_torch(value)) for name, value in obs.items()}

    def _to_torch(self, array: Any) -> th.Tensor:
        tensor = from_dlpack(array)
        # JAX's arrays never change, but nobody keeps a tensor on the CPU from being written to.
        copy = tensor.device.type == "cpu"
        return tensor.to(self.device, copy=copy)

    def _to_jax(self, tensor: th.Tensor) -> Any:
        return self._jax.dlpack.from_dlpack(tensor.to(self._jax_device).contiguous())

    # ------------------------------------------------------------------ state

    @property
    def episode_length_buf(self) -> th.Tensor | None:  # type: ignore[override]
        """Steps of the simulator since the last reset, ``(n_envs,)``; a copy."""
        return self._to_torch(self._steps).to(th.int64)

    def randomize_episode_lengths(self, generator: th.Generator | None = None) -> None:
        """
        Pretend that episodes have been running for random times, lest they end together.

        :param generator: source of randomness
        """
        device = self.device if generator is None else generator.device
        steps = th.randint(self.episode_length, (self._n,), generator=generator, device=device)
        self._steps = self._to_jax(steps.to(th.int32))

    def get_state(self) -> TensorDict:
        """Return the simulator's state, step counts and random key."""
        leaves = self._jax.tree.leaves((self._state, self._first, self._steps, self._key))
        return {f"leaf_{index}": self._leaf_to_torch(leaf) for index, leaf in enumerate(leaves)}

    def set_state(self, state: TensorDict) -> None:
        """
        Continue exactly where :meth:`get_state` was called.

        :raises StrlValueError: if the state is one of another environment
        """
        present = (self._state, self._first, self._steps, self._key)
        leaves, structure = self._jax.tree.flatten(present)
        shapes = [tuple(np.shape(leaf)) for leaf in leaves]
        given = [tuple(value.shape) for value in state.values()]
        if shapes != given:
            raise StrlValueError(
                f"{type(self).__name__}: the state has {len(given)} tensors, and this environment "
                f"{len(shapes)}, or their shapes differ. Expected a state of the same environment, "
                f"with n_envs={self._n}."
            )
        new = [self._leaf_to_jax(state[f"leaf_{index}"], leaf) for index, leaf in enumerate(leaves)]
        self._state, self._first, self._steps, self._key = structure.unflatten(new)

    def _leaf_to_torch(self, leaf: Any) -> th.Tensor:
        array = self._jax.numpy.asarray(leaf)
        if array.dtype == "uint32":  # torch saves few operations on it; the bits are kept
            array = self._jax.lax.bitcast_convert_type(array, "int32")
        return from_dlpack(array).clone()

    def _leaf_to_jax(self, tensor: th.Tensor, like: Any) -> Any:
        array = self._jax.numpy.array(self._to_jax(tensor))  # a copy, which torch cannot change
        dtype = self._jax.numpy.asarray(like).dtype
        if dtype == "uint32":
            return self._jax.lax.bitcast_convert_type(array, "uint32")
        return array.astype(dtype)


class _Vmapped:
    """Two functions for a batch, as Brax's batching wrapper has them."""

    def __init__(self, env: Any, vmap: Any) -> None:
        self.reset, self.step = vmap(env.reset), vmap(env.step)


def unwrap(env: Any, vmap: Any) -> tuple[Any, dict[str, int]]:
    """
    Take off Brax's wrappers for batches, time limits and automatic resets.

    :param env: an environment, wrapped or not
    :param vmap: ``jax.vmap``
    :return: an object with ``reset`` and ``step`` of a batch, and what the wrappers knew:
        ``episode_length``, ``action_repeat``, ``batch_size``
    """
    known: dict[str, int] = {}
    while True:
        name = type(env).__name__
        for option in ("episode_length", "action_repeat", "batch_size"):
            value = vars(env).get(option)
            if name.endswith("Wrapper") and isinstance(value, int):
                known.setdefault(option, value)
        if "DomainRandomization" in name:
            return env, known
        if name not in _TAKEN_OFF:
            return _Vmapped(env, vmap), known
        env = env.env


_TAKEN_OFF = ("VmapWrapper", "EpisodeWrapper", "AutoResetWrapper", "BraxAutoResetWrapper")


def _to_float(tensor: th.Tensor) -> th.Tensor:
    return tensor if tensor.dtype == th.uint8 else tensor.to(th.float32)
