"""
Environments that behave as published simulators do, bad habits included.

Each follows the interface of the simulator it stands for: what it returns, what it overwrites in
the next step, what it leaves lying in ``extras``. All of them count: an observation is
``(environment, episode, step)``, environment ``i`` ends its episodes after ``3 + i`` steps, even
ones by time limit, odd ones by falling.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

N = 4
FIRST_LENGTH = 3


class Counters:
    """What all doubles count, in tensors that every step overwrites."""

    def __init__(self) -> None:
        self.num_envs, self.device = N, "cpu"
        self.index = th.arange(N)
        self.lengths = FIRST_LENGTH + self.index
        self.episode = th.full((N,), -1)
        self.episode_length_buf = th.zeros(N, dtype=th.int64)
        self.common_step_counter = 0
        self.max_episode_length = FIRST_LENGTH + N
        self.obs_buf = th.zeros(N, 3)
        self.rew_buf = th.zeros(N)
        self.actions: list[th.Tensor] = []
        self.is_closed = False
        self.level = 0.0

    def count(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Step; return who fell and who ran out of time."""
        self.actions.append(actions.clone())
        self.episode_length_buf += 1
        self.common_step_counter += 1
        self.rew_buf[:] = self.index + self.episode_length_buf / 100
        ended = self.episode_length_buf >= self.lengths
        return ended & (self.index % 2 == 1), ended & (self.index % 2 == 0)

    def begin(self, rows: th.Tensor) -> None:
        self.episode[rows] += 1
        self.episode_length_buf[rows] = 0

    def observe(self) -> th.Tensor:
        self.obs_buf[:, 0] = self.index
        self.obs_buf[:, 1] = self.episode
        self.obs_buf[:, 2] = self.episode_length_buf
        return self.obs_buf

    def set_level(self, level: float) -> float:
        self.level = level
        return level * 2

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class LeggedGym(Counters):
    """legged_gym: five things, int64 dones, stale time-outs, ``extras["episode"]``."""

    num_actions = 2

    def __init__(self, privileged: bool = True) -> None:
        super().__init__()
        self.extras: dict[str, Any] = {}
        self.reset_buf = th.zeros(N, dtype=th.int64)
        self.privileged_obs_buf = th.zeros(N, 4) if privileged else None

    def get_observations(self) -> th.Tensor:
        return self.obs_buf

    def get_privileged_observations(self) -> th.Tensor | None:
        return self.privileged_obs_buf

    def reset(self) -> tuple[th.Tensor, th.Tensor | None]:
        self.begin(self.index)
        obs, privileged, *_ = self.step(th.zeros(N, 2))
        return obs, privileged

    def step(self, actions: th.Tensor) -> Any:
        fell, late = self.count(actions)
        self.reset_buf[:] = (fell | late).long()
        rows = self.reset_buf.nonzero().flatten()
        if len(rows):
            self.begin(rows)
            self.extras["episode"] = {"rew_height": th.tensor(float(self.common_step_counter))}
            self.extras["time_outs"] = late
        self.observe()
        if self.privileged_obs_buf is not None:
            self.privileged_obs_buf[:, :3] = self.obs_buf * 10
        return self.obs_buf, self.privileged_obs_buf, self.rew_buf, self.reset_buf, self.extras


class RslRl2(Counters):
    """rsl_rl 2 and st_rl: four things, groups in ``extras["observations"]``."""

    num_actions = 2
    time_out_key = "time_outs"

    def __init__(self, has_more: bool = False) -> None:
        super().__init__()
        self.has_more = has_more

    def get_observations(self) -> tuple[th.Tensor, dict[str, Any]]:
        return self.observe(), {"observations": {"critic": self.obs_buf * 10}}

    def reset(self) -> tuple[th.Tensor, dict[str, Any]]:
        self.begin(self.index)
        return self.get_observations()

    def step(self, actions: th.Tensor) -> Any:
        fell, late = self.count(actions)
        dones = (fell | late).long()
        self.begin(dones.nonzero().flatten())
        obs, extras = self.get_observations()
        if self.has_more:
            extras["ref_motion"] = obs.view(N, 1, 3)
            extras["observations"]["ref_obs"] = obs.view(N, 1, 3) + 1
        extras["amp_valid"] = self.episode_length_buf > 1
        extras[self.time_out_key] = late.float()
        extras["log"] = {"/height": th.tensor(0.5), "note": "no number"}
        return obs, self.rew_buf, dones, extras


class GenesisScene:
    """Stands for ``genesis.Scene``; tests give it that module's name."""


class Genesis(Counters):
    """Genesis's Go2Env: float time-outs, a log rebuilt in every step, a stale first observation."""

    num_actions = 2

    def __init__(self, is_old: bool = False) -> None:
        super().__init__()
        self.scene, self.is_old = GenesisScene(), is_old
        self.extras: dict[str, Any] = {}

    def groups(self) -> Any:
        return self.obs_buf if self.is_old else {"policy": self.obs_buf}

    def get_observations(self) -> Any:
        return (self.obs_buf, {"observations": {}}) if self.is_old else self.groups()

    def reset(self) -> Any:
        self.begin(self.index)
        if self.is_old:
            return self.obs_buf, None  # as it was before
        self.observe()
        return self.groups()

    def step(self, actions: th.Tensor) -> Any:
        fell, late = self.count(actions)
        dones = fell | late
        self.extras["time_outs"] = late.float()
        n = dones.sum()
        mean = th.where(n > 0, th.tensor(float(self.common_step_counter)), th.tensor(0.0))
        self.extras["episode"] = {"rew_height": mean}
        self.begin(dones.nonzero().flatten())
        self.observe()
        return self.groups(), self.rew_buf, dones, self.extras


class IsaacLab(Counters):
    """Isaac Lab: five things, all of them overwritten, one dict of extras forever."""

    def __init__(self, keeps_final: bool = False, is_finite: bool = False) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(is_finite_horizon=is_finite)
        if keeps_final:
            self.cfg.compute_final_obs = True
        self.single_action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.render_mode = None
        self.extras: dict[str, Any] = {}
        self.terminated, self.time_outs = th.zeros(2, N, dtype=th.bool).unbind(0)
        self.observation_manager = SimpleNamespace(
            active_terms={"policy": ["who", "when"], "parts": ["a", "b"]},
            group_obs_term_dim={"policy": [(1,), (2,)], "parts": [(1,), (2,)]},
        )
        self.resets: list[int | None] = []

    @property
    def unwrapped(self) -> IsaacLab:
        return self

    def groups(self) -> dict[str, Any]:
        obs = self.observe()
        return {"policy": obs, "parts": {"a": obs[:, :1], "b": obs[:, 1:]}}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.resets.append(seed)
        self.episode[:] = -1
        self.begin(self.index)
        return self.groups(), self.extras

    def step(self, action: th.Tensor) -> Any:
        with th.inference_mode():
            action = action * 1.0
        fell, late = self.count(action)
        self.terminated[:], self.time_outs[:] = fell, late
        rows = (fell | late).nonzero().flatten()
        if len(rows):
            if getattr(self.cfg, "compute_final_obs", False):
                self.extras["final_obs"] = {"policy": self.observe().clone()}
                self.extras["final_obs"]["parts"] = {
                    "a": self.obs_buf[:, :1].clone(),
                    "b": self.obs_buf[:, 1:].clone(),
                }
            self.extras["log"] = {"Episode_Reward/height": th.tensor(float(len(rows)))}
            self.begin(rows)
        return self.groups(), self.rew_buf, self.terminated, self.time_outs, self.extras


class Mjlab(IsaacLab):
    """mjlab: Isaac Lab's interface, groups ``actor`` and ``critic``, resets on request."""

    def __init__(self, auto_reset: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.cfg.auto_reset = auto_reset
        self.single_action_space = SimpleNamespace(low=-np.inf, high=np.inf, shape=(2,))
        self.pending = th.zeros(N, dtype=th.bool)

    def groups(self) -> dict[str, Any]:
        return {"actor": self.observe(), "critic": self.obs_buf * 10}

    def reset(self, *, seed: int | None = None, env_ids: Any = None, options: Any = None) -> Any:
        self.extras["log"] = {}
        if env_ids is None:
            self.resets.append(seed)
            self.episode[:] = -1
            env_ids = self.index
        self.extras["log"]["Episode/count"] = len(env_ids)
        self.begin(env_ids)
        self.pending[env_ids] = False
        return self.groups(), self.extras

    def step(self, action: th.Tensor) -> Any:
        assert not self.pending.any(), "must be reset first"
        self.extras["log"] = {"Metrics/force": 1.0}
        self.terminated[:], self.time_outs[:] = self.count(action)
        dones = self.terminated | self.time_outs
        if self.cfg.auto_reset:
            self.begin(dones.nonzero().flatten())
        else:
            self.pending |= dones
        return self.groups(), self.rew_buf, self.terminated, self.time_outs, self.extras


class ManiSkill(Counters):
    """ManiSkillVectorEnv: ``final_observation`` and metrics in the infos of steps with an end."""

    auto_reset = True
    render_mode = "rgb_array"

    def __init__(self) -> None:
        super().__init__()
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.spec = SimpleNamespace(max_episode_steps=FIRST_LENGTH + N)
        self.unwrapped = SimpleNamespace(device="cpu", render_mode="rgb_array", table="round")

    def groups(self) -> dict[str, Any]:
        rgb = self.episode_length_buf.to(th.uint8).view(N, 1, 1, 1).expand(N, 8, 8, 3)
        return {"state": self.observe(), "sensor_data": {"camera": {"rgb": rgb}}}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.unwrapped.elapsed_steps = self.episode_length_buf
        if not options:
            self.episode[:] = -1
        self.begin(self.index if not options else options["env_idx"])
        return self.groups(), {}

    def step(self, actions: th.Tensor) -> Any:
        fell, late = self.count(actions)
        infos: dict[str, Any] = {"episode": {"return": self.rew_buf.clone()}}
        obs = self.groups()
        rows = (fell | late).nonzero().flatten()
        if len(rows):
            final = {"state": self.obs_buf.clone(), "sensor_data": {"camera": {}}}
            final["sensor_data"]["camera"]["rgb"] = obs["sensor_data"]["camera"]["rgb"].clone()
            metrics = {"return": self.rew_buf.clone(), "success_once": fell.clone()}
            obs, _ = self.reset(options={"env_idx": rows})
            infos = {"final_observation": final, "final_info": {"episode": metrics}}
        return obs, self.rew_buf, fell, late, infos

    def render(self) -> th.Tensor:
        return th.zeros(N, 16, 16, 3, dtype=th.uint8)
