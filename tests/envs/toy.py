"""Small tensor environments, pure torch and deterministic, that all tests use."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.tensor_vec_env import TensorVecEnv


def box(*shape: int, bound: float = np.inf) -> spaces.Box:
    return spaces.Box(-bound, bound, shape, np.float32)


class ToyVecEnv(TensorVecEnv):
    """
    Same-step automatic reset, time limit, random terminations and state around three methods.

    Every random number is drawn for all environments, so results do not depend on who finished.
    Tensors named in ``state_names`` (first dimension ``n_envs``) are what ``get_state`` returns
    beside the generator and the step counts.
    """

    state_names: tuple[str, ...] = ()

    def __init__(
        self,
        n_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "cpu",
        seed: int | None = 0,
        max_episode_length: int | None = 20,
        termination_prob: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(n_envs, observation_space, action_space, device, render_mode)
        self.max_episode_length = max_episode_length
        self.termination_prob = termination_prob
        self.generator = th.Generator(device=self.device)
        if seed is not None:
            self.generator.manual_seed(seed)
        self.episode_length_buf = th.zeros(n_envs, dtype=th.int64, device=self.device)
        self._everyone = th.ones(n_envs, dtype=th.bool, device=self.device)

    def rand(self, *shape: int) -> th.Tensor:
        return th.rand(self.num_envs, *shape, generator=self.generator, device=self.device)

    @abstractmethod
    def restart(self, mask: th.Tensor) -> None:
        """Begin new episodes where ``mask`` is true."""

    @abstractmethod
    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Move; return rewards and terminations."""

    @abstractmethod
    def observe(self) -> TensorDict:
        """Return new tensors."""

    def extras(self) -> dict[str, Any]:
        """Return extras of the step, before resets."""
        return {}

    def limits(self) -> th.Tensor | int | None:
        return self.max_episode_length

    def reset_tensor(self) -> TensorDict:
        seed, _ = self.take_reset_request()
        if seed is not None:
            self.generator.manual_seed(seed)
        self.episode_length_buf.zero_()
        self.restart(self._everyone)
        return self.observe()

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        self.episode_length_buf.add_(1)
        rewards, terminated = self.advance(actions)
        terminated = terminated | (self.rand() < self.termination_prob)
        limit = self.limits()
        truncated = th.zeros_like(terminated) if limit is None else self.episode_length_buf >= limit
        final_obs = self.observe()
        extras = self.extras()
        dones = terminated | truncated
        self.episode_length_buf.masked_fill_(dones, 0)
        self.restart(dones)
        return TensorStep(self.observe(), rewards, terminated, truncated, final_obs, extras)

    def get_state(self) -> TensorDict:
        state = {name: getattr(self, name).clone() for name in self.state_names}
        state["episode_length_buf"] = self.episode_length_buf.clone()
        state["generator"] = self.generator.get_state()
        return state

    def set_state(self, state: TensorDict) -> None:
        self.generator.set_state(state["generator"].cpu())
        for name in (*self.state_names, "episode_length_buf"):
            getattr(self, name).copy_(state[name])

    def render_images(self, indices: Any) -> list[np.ndarray]:
        counts = self.episode_length_buf.tolist()
        return [np.full((16, 16, 3), counts[i] % 256, np.uint8) for i in indices]


def put(target: th.Tensor, mask: th.Tensor, value: th.Tensor | float) -> None:
    """Write ``value`` into the rows of ``target`` that ``mask`` names, without a host sync."""
    mask = mask.view(-1, *[1] * (target.ndim - 1))
    target.copy_(th.where(mask, value, target))


class PointMass(ToyVecEnv):
    """
    A point that is pushed around in the plane.

    The task is to be far to the right of nothing in particular: the reward is ``-|pos - target|``
    with a target at (1, 0). The expert runs on the unit circle, ``speed`` radians a step, so task
    and style disagree. Style features of a frame are ``[x, y, vx, vy]``; a window has ``n_frames``
    of them, oldest first, and is valid (``extras["amp_valid"]``) if none of them is a copy made at
    the reset.

    :param n_extra: further columns of the policy group, which mean nothing
    :param groups: which of ``policy``, ``critic``, ``ref_obs``, ``ref_motion`` to offer
    """

    state_names = ("pos", "vel", "phase", "mass", "frames")

    def __init__(
        self,
        n_envs: int = 4,
        n_extra: int = 2,
        n_frames: int = 2,
        groups: tuple[str, ...] = ("policy", "critic", "ref_obs", "ref_motion"),
        speed: float = 0.2,
        **options: Any,
    ) -> None:
        segments = {"pos": (2,), "vel": (2,), "phase": (2,), "extra": (n_extra,)}
        parts = {
            "policy": box(6 + n_extra),
            "critic": box(7 + n_extra),
            "ref_obs": box(n_frames, 4),
            "ref_motion": box(n_frames, 4),
        }
        space = spaces.Dict({name: parts[name] for name in groups})
        super().__init__(n_envs, space, box(2, bound=1.0), **options)
        self.speed, self.n_extra, self.n_frames = speed, n_extra, n_frames
        self.obs_segments = {
            name: value
            for name, value in {
                "policy": segments,
                "critic": {**segments, "mass": (1,)},
            }.items()
            if name in groups
        }
        names = ["x", "y", "vx", "vy"]
        self.feature_names = {name: names for name in ("ref_obs", "ref_motion") if name in groups}
        new = {"device": self.device}
        self.pos, self.vel = th.zeros(n_envs, 2, **new), th.zeros(n_envs, 2, **new)
        self.phase, self.mass = th.zeros(n_envs, **new), th.ones(n_envs, **new)
        self.frames = th.zeros(n_envs, n_frames, 4, **new)
        self.target = th.tensor([1.0, 0.0], **new)
        self.offsets = th.arange(n_frames - 1, -1, -1, **new) * speed

    def restart(self, mask: th.Tensor) -> None:
        put(self.phase, mask, self.rand() * 2 * math.pi)
        put(self.mass, mask, 0.5 + self.rand())
        put(self.pos, mask, self.rand(2) * 2 - 1)
        put(self.vel, mask, 0.0)
        frame = th.cat([self.pos, self.vel], dim=-1)
        put(self.frames, mask, frame.unsqueeze(1).expand(-1, self.n_frames, -1))

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        self.vel.mul_(0.8).add_(0.1 * actions / self.mass.unsqueeze(-1))
        self.pos.add_(self.vel)
        self.phase.add_(self.speed)
        frame = th.cat([self.pos, self.vel], dim=-1).unsqueeze(1)
        self.frames.copy_(th.cat([self.frames[:, 1:], frame], dim=1))
        rewards = -(self.pos - self.target).norm(dim=-1)
        return rewards, self.pos.abs().amax(-1) > 3.0

    def expert(self) -> th.Tensor:
        """Return the expert's windows at the current phases, ``(n_envs, K, 4)``."""
        phase = self.phase.unsqueeze(-1) - self.offsets
        cos, sin = phase.cos(), phase.sin()
        return th.stack([cos, sin, -self.speed * sin, self.speed * cos], dim=-1)

    def observe(self) -> TensorDict:
        clock = th.stack([self.phase.sin(), self.phase.cos()], dim=-1)
        extra = th.zeros(self.num_envs, self.n_extra, device=self.device)
        policy = th.cat([self.pos, self.vel, clock, extra], dim=-1)
        obs = {
            "policy": policy,
            "critic": th.cat([policy, self.mass.unsqueeze(-1)], dim=-1),
            "ref_obs": self.frames.clone(),
            "ref_motion": self.expert(),
        }
        assert isinstance(self.observation_space, spaces.Dict)
        return {name: obs[name] for name in self.observation_space.spaces}

    def extras(self) -> dict[str, Any]:
        return {
            "amp_valid": self.episode_length_buf >= self.n_frames - 1,
            "log": {"env/distance": (self.pos - self.target).norm(dim=-1).mean()},
        }


class NanEnv(PointMass):
    """
    A point mass that breaks: NaN in one place from one step on.

    :param bad_step: first step, counted from the construction, with NaN
    :param bad_env: which environment
    :param bad_key: an observation group, or ``"rewards"``
    """

    def __init__(
        self,
        n_envs: int = 4,
        bad_step: int = 5,
        bad_env: int = 2,
        bad_key: str = "policy",
        **options: Any,
    ) -> None:
        super().__init__(n_envs, **options)
        self.bad_step, self.bad_env, self.bad_key = bad_step, bad_env, bad_key
        self.n_steps = 0

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensor(actions)
        self.n_steps += 1
        if self.n_steps >= self.bad_step:
            broken = step.rewards if self.bad_key == "rewards" else step.obs[self.bad_key]
            broken[self.bad_env] = math.nan
        return step


class CounterEnv(ToyVecEnv):
    """
    Observations that say where they come from: ``(environment, episode, step)``.

    Environment ``i`` ends its episodes after ``first_length + i`` steps, even ones by time limit,
    odd ones by termination. The reward of a step is ``environment + step / 100`` with its new step
    number.

    :param plain: a plain Box instead of a Dict with the group ``policy``
    :param with_critic: add a group ``critic``, ten times the policy group
    """

    state_names = ("episode",)

    def __init__(
        self,
        n_envs: int = 3,
        first_length: int = 3,
        plain: bool = False,
        with_critic: bool = False,
        **options: Any,
    ) -> None:
        space: spaces.Space[Any] = box(3)
        if not plain:
            parts = {"policy": box(3)} | ({"critic": box(3)} if with_critic else {})
            space = spaces.Dict(parts)
        options.setdefault("max_episode_length", first_length + n_envs)
        super().__init__(n_envs, space, box(1, bound=1.0), **options)
        self.with_critic = with_critic
        self.index = th.arange(n_envs, device=self.device)
        self.lengths = first_length + self.index
        self.episode = th.full((n_envs,), -1, dtype=th.int64, device=self.device)

    def limits(self) -> th.Tensor:
        never = th.full_like(self.lengths, 10**6)
        return th.where(self.index % 2 == 0, self.lengths, never)

    def reset_tensor(self) -> TensorDict:
        self.episode.fill_(-1)
        return super().reset_tensor()

    def restart(self, mask: th.Tensor) -> None:
        self.episode.add_(mask)

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        odd = self.index % 2 == 1
        rewards = self.index + self.episode_length_buf / 100
        return rewards, odd & (self.episode_length_buf >= self.lengths)

    def observe(self) -> TensorDict:
        columns = [self.index, self.episode, self.episode_length_buf]
        policy = th.stack(columns, dim=-1).float()
        return {"policy": policy} | ({"critic": policy * 10} if self.with_critic else {})


class Balance(ToyVecEnv):
    """
    Keep an unstable point near zero: one number to steer, falls over in a few steps by itself.

    Reward 1 a step, episodes of at most 100 steps; PPO learns it in seconds.
    """

    state_names = ("x",)

    def __init__(self, n_envs: int = 16, **options: Any) -> None:
        options.setdefault("max_episode_length", 100)
        super().__init__(n_envs, box(2), box(1, bound=1.0), **options)
        self.x = th.zeros(n_envs, 2, device=self.device)

    def restart(self, mask: th.Tensor) -> None:
        put(self.x, mask, self.rand(2) * 0.2 - 0.1)

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        angle, speed = self.x.unbind(-1)
        speed = speed + 0.1 * (2.0 * angle + 3.0 * actions.view(-1).clamp(-1.0, 1.0))
        angle = angle + 0.1 * speed
        self.x.copy_(th.stack([angle, speed], dim=-1))
        return th.ones_like(angle), angle.abs() > 0.5

    def observe(self) -> TensorDict:
        return {"policy": self.x.clone()}


class DiscreteToy(ToyVecEnv):
    """
    Say what you see: one reward for every part of the action that equals the observed number.

    :param action_space: Discrete, MultiDiscrete or MultiBinary
    """

    state_names = ("wanted",)

    def __init__(self, action_space: spaces.Space[Any], n_envs: int = 8, **options: Any) -> None:
        if isinstance(action_space, spaces.Discrete):
            sizes = [int(action_space.n)]
        elif isinstance(action_space, spaces.MultiDiscrete):
            sizes = [int(n) for n in action_space.nvec]
        else:
            assert isinstance(action_space, spaces.MultiBinary)
            sizes = [2] * int(np.prod(action_space.shape))
        options.setdefault("max_episode_length", 5)
        super().__init__(n_envs, box(sum(sizes)), action_space, **options)
        self.sizes = sizes
        self._sizes = th.tensor(sizes, device=self.device)
        self.wanted = th.zeros(n_envs, len(sizes), dtype=th.int64, device=self.device)

    def draw(self) -> th.Tensor:
        return (self.rand(len(self.sizes)) * self._sizes).long()

    def restart(self, mask: th.Tensor) -> None:
        put(self.wanted, mask, self.draw())

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        said = actions.view(self.num_envs, -1).long()
        rewards = (said == self.wanted).float().mean(-1)
        self.wanted.copy_(self.draw())
        return rewards, th.zeros_like(rewards, dtype=th.bool)

    def observe(self) -> TensorDict:
        parts = [th.nn.functional.one_hot(self.wanted[:, i], n) for i, n in enumerate(self.sizes)]
        return {"policy": th.cat(parts, dim=-1).float()}


class ImageToy(ToyVecEnv):
    """
    A uint8 image ``(channels, size, size)`` and a vector; the reward is for steering the bright
    column.
    """

    state_names = ("column",)

    def __init__(self, n_envs: int = 2, channels: int = 3, size: int = 36, **options: Any) -> None:
        space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (channels, size, size), np.uint8),
                "vector": box(4),
            }
        )
        super().__init__(n_envs, space, box(1, bound=1.0), **options)
        self.channels, self.size = channels, size
        self.column = th.zeros(n_envs, device=self.device)
        self._grid = th.arange(size, device=self.device)

    def restart(self, mask: th.Tensor) -> None:
        put(self.column, mask, self.rand() * (self.size - 1))

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        self.column.add_(actions.view(-1)).clamp_(0, self.size - 1)
        rewards = -(self.column / (self.size - 1) - 0.5).abs()
        return rewards, th.zeros_like(rewards, dtype=th.bool)

    def observe(self) -> TensorDict:
        bright = (self._grid - self.column.unsqueeze(-1)).abs() < 1.0
        image = (bright * 255).to(th.uint8).view(-1, 1, 1, self.size)
        clock = (self.episode_length_buf / 20).unsqueeze(-1)
        return {
            "image": image.expand(-1, self.channels, self.size, -1).clone(),
            "vector": th.cat([clock, clock.square(), clock.sin(), clock.cos()], dim=-1),
        }
