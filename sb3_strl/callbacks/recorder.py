"""Demonstrations: a policy drives, and everything that happens is written down."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self, TypedDict

from sb3_strl.callbacks.driver import PolicySource, make_driver
from sb3_strl.common.episode_stats import EpisodeStats
from sb3_strl.common.errors import StrlTypeError, StrlValueError, check_known
from sb3_strl.common.segments import SINGLE_GROUP
from sb3_strl.common.tables import format_table
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.data.rollout_writer import Keep, RolloutWriter
from sb3_strl.data.stored_trajectory import Segments
from sb3_strl.envs import as_tensor_env

_OBS, _FINAL = "obs/", "final/"
_PASSED_ON = ("amp_valid",)
_LOGGED_EPISODES = 100


class RecorderKwargs(TypedDict, total=False):
    """The keywords of :class:`DemonstrationRecorder` after the first three, as a type."""

    rollout_storage_length: int
    min_timesteps: int
    min_episodes: int
    success_traj_only: bool
    use_critic_obs: bool
    obs_disassemble_mapping: Mapping[str, str] | None
    demo_by_sample: bool
    keep: Keep | None
    save_partial: bool
    obs_segments: Segments | None
    groups: Sequence[str] | None
    config: Mapping[str, Any] | None
    max_timesteps: int | None
    seed: int | None
    progress_bar: bool


class DemonstrationRecorder:
    """
    Lets a policy act and writes a rollout dataset, which
    :class:`~sb3_strl.data.RolloutDataset` reads.

    Every environment writes trajectories of its own, divided where episodes end. A trajectory
    appears in the folder once it has ended, as a whole; what was recorded there before is counted
    and continued, also after a crash. Steps stay on the device until ``rollout_storage_length`` of
    them go to disk together. What is stored as action is what the environment was given: inside
    its bounds. Until :meth:`close`, or the end of ``with``, nobody else may write to the folder.

    :param env: a tensor environment, or any ``VecEnv`` of Stable-Baselines3; episodes begin anew
    :param policy: a policy or algorithm, with or without memory, a mutex policy, anything with
        SB3's ``predict``, or the path of a policy or model of this library
    :param save_dir: folder of the dataset, made if need be
    :param rollout_storage_length: steps T between two writings, > 0
    :param min_timesteps: stop once as many frames are kept, those of earlier runs included ...
    :param min_episodes: ... and as many episodes
    :param success_traj_only: short for ``keep="truncated"``: who survives until the time limit has
        succeeded
    :param use_critic_obs: show a policy that reads one vector the group ``"critic"``
    :param obs_disassemble_mapping: ``{segment: "normalized_image"}`` stores a segment with values
        in [0, 1] in one byte per number
    :param demo_by_sample: draw actions from the policy's distribution instead of taking its mode
    :param keep: which trajectories stay: ``"all"`` (the default), ``"truncated"``,
        ``"terminated"``, or a function of :class:`~sb3_strl.data.TrajectorySummary`
    :param save_partial: keep the unfinished trajectories at the end, cut where they are; only where
        all are kept
    :param obs_segments: shapes of the segments by name, by group; default those of ``env``
    :param groups: observation groups to record, default all
    :param config: anything JSON can hold, written into ``metadata.json``
    :param max_timesteps: stop after as many steps of all environments, kept or not; ``None`` for no
        limit
    :param seed: of the environment; a folder that holds something goes on with another that follows
        from both, so that no episode is recorded twice
    :param progress_bar: show one
    :raises StrlTypeError: if the policy cannot act
    :raises StrlKeyError: if there is no such group
    :raises StrlValueError: for options that cannot work, or a folder with other data
    """

    def __init__(
        self,
        env: VecEnv,
        policy: PolicySource,
        save_dir: str | Path,
        rollout_storage_length: int = 64,
        min_timesteps: int = 1_000_000,
        min_episodes: int = 10_000,
        success_traj_only: bool = False,
        use_critic_obs: bool = False,
        obs_disassemble_mapping: Mapping[str, str] | None = None,
        demo_by_sample: bool = False,
        *,
        keep: Keep | None = None,
        save_partial: bool = True,
        obs_segments: Segments | None = None,
        groups: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        max_timesteps: int | None = None,
        seed: int | None = None,
        progress_bar: bool = False,
    ) -> None:
        self.where = type(self).__name__
        self._check(rollout_storage_length, min_timesteps, min_episodes, max_timesteps)
        if success_traj_only and keep not in (None, "truncated"):
            raise StrlValueError(
                f"{self.where}: success_traj_only=True and keep={keep!r}. Expected one of them; "
                "success_traj_only=True means keep='truncated'."
            )
        if progress_bar and find_spec("tqdm") is None:
            raise StrlTypeError(
                f"{self.where}: progress_bar=True needs tqdm, which is not installed. Install it "
                "with pip install tqdm, or leave the bar out."
            )
        self.env = as_tensor_env(env)
        self.rollout_storage_length = rollout_storage_length
        self.min_timesteps, self.min_episodes = min_timesteps, min_episodes
        self.max_timesteps = max_timesteps
        self.demo_by_sample = demo_by_sample
        self.progress_bar = progress_bar
        self.driver = make_driver(self.where, policy, self.env, use_critic_obs)
        self.groups = self._known_groups(groups)
        segments = self.env.obs_segments if obs_segments is None else obs_segments
        self.writer = RolloutWriter(
            save_dir,
            self.env.num_envs,
            {group: parts for group, parts in (segments or {}).items() if group in self.groups},
            obs_disassemble_mapping,
            keep or ("truncated" if success_traj_only else "all"),
            save_partial,
            {"recorder": self.where, "groups": list(self.groups), **(config or {})},
            self._shapes(),
        )
        self.seed = _continued(seed, self.writer.total_timesteps)
        self.stats = EpisodeStats(self.env.num_envs, self.env.device, rollout_storage_length)
        self.episodes: deque[dict[str, float]] = deque(maxlen=_LOGGED_EPISODES)
        self.num_timesteps = 0
        self._obs: TensorDict | None = None
        self._starts = th.ones(self.env.num_envs, dtype=th.bool, device=self.env.device)
        self._rows: TensorDict = {}
        self._n_rows = 0
        self._has_final = True

    # ------------------------------------------------------------------ running

    def run(self, config: Mapping[str, Any] | None = None) -> Path:
        """
        Record until there is enough.

        :param config: more to write into ``metadata.json``
        :return: the folder
        """
        if config:
            self.writer.add_config(config)
        with _Bar(self.progress_bar, self.min_timesteps, self.min_episodes) as bar:
            bar.show(self.total_timesteps, self.total_episodes)
            while not self.check_stop():
                for _ in range(self._steps_to_go()):
                    self.record_step()
                self.flush()
                bar.show(self.total_timesteps, self.total_episodes)
        return self.writer.save_dir

    @property
    def total_timesteps(self) -> int:
        """Frames that are in the folder or will be if the recording ends now."""
        return self.writer.total_timesteps + self.writer.pending_timesteps

    @property
    def total_episodes(self) -> int:
        """Whole episodes in the folder."""
        return self.writer.total_trajectories

    def check_stop(self) -> bool:
        """Return whether there is enough."""
        if self.max_timesteps is not None and self.num_timesteps >= self.max_timesteps:
            return True
        enough = self.total_timesteps >= self.min_timesteps
        return enough and self.total_episodes >= self.min_episodes

    def _steps_to_go(self) -> int:
        """Return how many steps go to disk together next."""
        if self.max_timesteps is None:
            return self.rollout_storage_length
        left = math.ceil((self.max_timesteps - self.num_timesteps) / self.env.num_envs)
        return min(self.rollout_storage_length, left)

    @th.no_grad()
    def record_step(self) -> None:
        """Act once in every environment and remember what happened."""
        if self._n_rows == self.rollout_storage_length:
            self.flush()
        if self._obs is None:
            if self.seed is not None and not self.num_timesteps:
                self.env.seed(self.seed)
            self._obs = self.env.reset_tensor()
        actions, extras = self.decide(self._obs, self._starts)
        # Before the step: a simulator may reuse the memory of its observations.
        for group in self.groups:
            self._put(_OBS + group, self._obs[group])
        self._put("actions", actions)
        for name, value in extras.items():
            self._put(name, value)
        step = self.env.step_tensor(actions)
        self._remember(step)
        self._obs = step.obs
        self._n_rows += 1
        self.num_timesteps += self.env.num_envs

    def decide(self, obs: TensorDict, starts: th.Tensor) -> tuple[th.Tensor, TensorDict]:
        """
        Choose what is executed, and what else is stored with it.

        :param obs: groups ``(N, ...)``
        :param starts: ``(N,)``, who begins an episode
        :return: actions ``(N, *action_shape)`` inside the bounds, further fields ``(N, ...)``
        """
        return self.driver.act(obs, starts, deterministic=not self.demo_by_sample), {}

    def _remember(self, step: TensorStep) -> None:
        """Store the outcome of a step."""
        dones = step.terminated | step.truncated
        self._put("rewards", step.rewards)
        self._put("terminated", step.terminated)
        self._put("truncated", step.truncated)
        for group in self.groups:
            after = step.obs[group]
            if step.final_obs is not None:
                rows = dones.view(-1, *[1] * (after.ndim - 1))
                after = th.where(rows, step.final_obs[group], after)
            self._put(_FINAL + group, after)
        self._has_final &= step.final_obs is not None
        for name in _PASSED_ON:
            if name in step.extras:
                self._put(name, step.extras[name])
        self.stats.update(step.rewards, dones)
        self._starts = dones.clone()

    def _put(self, name: str, value: th.Tensor) -> None:
        if name not in self._rows:
            self._rows[name] = value.new_zeros((self.rollout_storage_length, *value.shape))
        self._rows[name][self._n_rows].copy_(value)

    def flush(self) -> None:
        """
        Write what is remembered to disk.

        :raises NonFiniteError: if the environment or the policy said NaN; these steps are dropped,
            unfinished trajectories end before them, and all environments begin new episodes
        """
        n, has_final = self._n_rows, self._has_final
        self._n_rows, self._has_final = 0, True
        if not n:
            return
        try:
            self._write(n, has_final)
        except Exception:
            self._begin_anew()
            raise
        self.episodes.extend(self.stats.flush())

    def _write(self, n: int, has_final: bool) -> None:
        rows = {name: value[:n].cpu().numpy() for name, value in self._rows.items()}
        named = {"actions", "rewards", "terminated", "truncated"}
        self.writer.write(
            _under(_OBS, rows),
            rows["actions"],
            rows["rewards"],
            rows["terminated"],
            rows["truncated"],
            _under(_FINAL, rows) if has_final else None,
            {k: v for k, v in rows.items() if k not in named and not k.startswith((_OBS, _FINAL))},
        )

    def _begin_anew(self) -> None:
        """Let no trajectory reach over steps that are lost."""
        self.writer.end_trajectories()
        self.stats.reset()
        self._obs = None
        self._starts = th.ones_like(self._starts)

    def close(self) -> None:
        """Write what is left, complete or remove the unfinished trajectories, write the totals."""
        try:
            self.flush()
        finally:
            self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ reporting

    def dump_metadata(self) -> None:
        """Write ``metadata.json``; happens by itself with every :meth:`flush`."""
        self.writer.dump_metadata()

    def log_values(self) -> dict[str, float]:
        """Return totals, and mean, largest and smallest values of the last 100 episodes."""
        values: dict[str, float] = {
            "time/total_timesteps": self.total_timesteps,
            "time/total_episodes": self.total_episodes,
            "time/discarded_episodes": self.writer.discarded_trajectories,
        }
        for name, key in (("return", "r"), ("length", "l")):
            found = [episode[key] for episode in self.episodes]
            if found:
                values[f"Episode/{name}_mean"] = sum(found) / len(found)
                values[f"Episode/{name}_max"] = max(found)
                values[f"Episode/{name}_min"] = min(found)
        return values

    def print_log(self, stream: TextIO | None = None) -> None:
        """
        Write a table of :meth:`log_values`.

        :param stream: default the standard output
        """
        rows = [(name, f"{value:.6g}") for name, value in self.log_values().items()]
        text = format_table(self.where, ("", "value"), rows)
        (sys.stdout if stream is None else stream).write(f"{text}\n")

    # ------------------------------------------------------------------ checks

    def _check(self, length: int, steps: int, episodes: int, limit: int | None) -> None:
        if length < 1 or steps < 0 or episodes < 0 or (limit is not None and limit < 1):
            raise StrlValueError(
                f"{self.where}: rollout_storage_length={length}, min_timesteps={steps}, "
                f"min_episodes={episodes}, max_timesteps={limit}. Expected at least 1 step of "
                "storage and of the limit, and no negative number."
            )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what is recorded, as the writer names it."""
        space = self.env.observation_space
        inner = space.spaces if isinstance(space, spaces.Dict) else {SINGLE_GROUP: space}
        found = {_OBS + group: tuple(inner[group].shape or ()) for group in self.groups}
        return {**found, "actions": tuple(self.env.action_space.shape or ())}

    def _known_groups(self, groups: Sequence[str] | None) -> tuple[str, ...]:
        space = self.env.observation_space
        have = list(space.spaces) if isinstance(space, spaces.Dict) else [SINGLE_GROUP]
        if groups is not None:
            check_known(f"{self.where}: groups", "group", groups, have)
        return tuple(have if groups is None else groups)


def _continued(seed: int | None, n_frames: int) -> int | None:
    """Return a seed that has not been used for these frames."""
    if seed is None or not n_frames:
        return seed
    return int(np.random.SeedSequence([seed, n_frames]).generate_state(1)[0] >> 1)


class _Bar:
    """
    A progress bar, or nothing.

    :param shown: whether there is one
    :param steps: frames to keep
    :param episodes: episodes to keep
    """

    def __init__(self, shown: bool, steps: int, episodes: int) -> None:
        self._counts_steps = steps > 0
        self._bar: Any = None
        if shown:
            tqdm: Any = import_module("tqdm")
            unit = " steps" if self._counts_steps else " episodes"
            total = steps if self._counts_steps else episodes
            self._bar = tqdm.tqdm(total=total, unit=unit, leave=False, file=sys.stderr)

    def show(self, steps: int, episodes: int) -> None:
        if self._bar is None:
            return
        now = steps if self._counts_steps else episodes
        self._bar.update(min(now, self._bar.total) - self._bar.n)
        self._bar.set_postfix(episodes=episodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _under(prefix: str, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the entries with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in rows.items() if k.startswith(prefix)}
