"""What every algorithm owes to Stable-Baselines3: environments, rollouts, resuming."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped
from typing_extensions import Self

from sb3_strl.algorithms.guard import check_rollout
from sb3_strl.algorithms.memory_use import gpu_memory_mb
from sb3_strl.algorithms.parallel import SharedProgressBar, agree, join, shared_fate
from sb3_strl.algorithms.rollout import normalize_advantages
from sb3_strl.algorithms.saving import SavedAlgorithm
from sb3_strl.algorithms.settings import check_action_space
from sb3_strl.algorithms.training_state import ResumePoint, TrainingState
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common import distributed
from sb3_strl.common.episode_stats import EpisodeStats
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import PolicyState
from sb3_strl.common.tables import format_table
from sb3_strl.common.types import TensorDict
from sb3_strl.envs import NumpyBridge, TensorVecEnv, as_tensor_env
from sb3_strl.envs.wrapper_state import state_of_env
from sb3_strl.policies.aliases import resolve_policy_name


def is_monitored(env: VecEnv) -> bool:
    """Tell whether a ``Monitor`` or ``VecMonitor`` writes episodes into the infos."""
    return is_vecenv_wrapped(env, VecMonitor) or bool(env.env_is_wrapped(Monitor)[0])


class TensorOnPolicyAlgorithm(SavedAlgorithm):
    """
    SB3's on-policy algorithm with observations that stay tensors, exact resuming and atomic saving.

    Subclasses own the networks, the loop and the update; this class only adapts SB3's interface.
    """

    n_iterations: int
    n_epochs: int
    is_collecting: bool
    normalize_advantage: bool | Literal["rollout", "minibatch"]
    using_ppo: bool
    rollout_buffer: RolloutBuffer

    # ------------------------------------------------------------------ construction

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        return resolve_policy_name(policy_name, type(self).__name__, self.policy_aliases)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_action_space("PPO", env.action_space)  # before SB3 does, which only asserts
        if isinstance(env, TensorVecEnv):
            return env
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        """Say nothing: with a simulator on the GPU a small network belongs there too."""

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything, with several processes each one differently; see SB3."""
        super().set_random_seed(distributed.rank_seed(seed, self.n_envs))

    def _setup_runtime(self) -> None:
        """Create what lives as long as this object and is not a hyperparameter."""
        self.generator = th.Generator(device=self.device)
        seed = distributed.rank_seed(self.seed, self.n_envs)
        self.generator.manual_seed(th.initial_seed() % 2**63 if seed is None else seed)
        self.tensor_env = None if self.env is None else as_tensor_env(self.env, self.device)
        self.episode_stats = EpisodeStats(self.n_envs, device=self.device)
        self.training_state = TrainingState(
            self._capture, self._keep_for_resume, lambda: self.lr_scheduler
        )
        self.is_collecting = False
        self.finished_episodes: list[dict[str, float]] = []  # of the last rollout
        self._resume_point: ResumePoint | None = None
        self._loaded_point: ResumePoint | None = None

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Replace the environment, or keep the present one if an objective refuses; see SB3."""
        before = (self.env, self.n_envs)
        super().set_env(env, force_reset)
        assert self.env is not None
        tensor_env = as_tensor_env(self.env, self.device)
        try:
            for objective in self.objectives:
                objective.bind(tensor_env)
        except Exception:
            self.env, self.n_envs = before
            raise
        self.tensor_env = tensor_env

    @property
    def reads_infos(self) -> bool:
        """Whether episodes come from ``Monitor``'s infos instead of being counted on the device."""
        env = self.tensor_env
        return isinstance(env, NumpyBridge) and is_monitored(env.venv)

    def _record_episodes(self) -> None:
        """Hand the episodes that ended in this rollout to SB3's log window; one transfer."""
        episodes = self.episode_stats.flush()
        if not self.reads_infos:
            self.finished_episodes = episodes
            if self.ep_info_buffer is not None:
                self.ep_info_buffer.extend(episodes)

    def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
        """Read the infos of the environments that finished only."""
        finished = [infos[int(i)] for i in np.flatnonzero(np.asarray(dones))]
        self.finished_episodes += [info["episode"] for info in finished if "episode" in info]
        super()._update_info_buffer(finished, np.ones(len(finished), bool))

    def _require_env(self) -> TensorVecEnv:
        if self.tensor_env is None:
            raise StrlValueError(
                f"{type(self).__name__}: there is no environment to train on. Pass env= to the "
                "constructor or to load(), or call set_env(env)."
            )
        return self.tensor_env

    def __str__(self) -> str:
        objectives = [objective.describe() for objective in self.objectives]
        return "\n\n".join(
            [
                f"{type(self).__name__}({type(self.policy).__name__}, n_envs={self.n_envs}, "
                f"n_steps={self.n_steps}, device={self.device})",
                format_table("objectives", ("name", "coefficient", "hooks"), objectives),
                self.rollout_buffer.describe(),
                self.policy.describe(),
            ]
        )

    # ------------------------------------------------------------------ learning

    def learn(
        self,
        total_timesteps: int = 1_000_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train, under ``torchrun`` together with the other processes; see SB3.

        :param total_timesteps: environment steps, summed over all environments of all processes
        :param callback: called at every step
        :param log_interval: iterations between two log dumps, ``None`` for none
        :param tb_log_name: name of the run, default the name of the class
        :param reset_num_timesteps: start counting anew and reset the environment; ``False``
            continues exactly where the run, or the file it was loaded from, stopped
        :param progress_bar: show a progress bar
        :return: the algorithm
        :raises PeerError: if another process of the same training failed
        """
        self._require_env()
        join(self)
        return super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar and distributed.is_main(),
        )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """Use a progress bar that counts the steps of all processes; see SB3."""
        if not progress_bar or distributed.world_size() == 1:
            return super()._init_callback(callback, progress_bar)
        given = callback if isinstance(callback, list) else [callback] if callback else []
        made = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given]
        return super()._init_callback([*made, SharedProgressBar()])

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        point, self._loaded_point = self._loaded_point, None
        if reset_num_timesteps:
            self._begin_anew()
        elif point is not None:
            self.num_timesteps = point.num_timesteps
            self._last_obs = point.obs if self._restore_env(point) else None
        fresh = reset_num_timesteps or self._last_obs is None
        result = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if fresh:
            env = self._require_env()
            self._last_obs = self._to_device(env.to_tensors(self._last_obs))
            self._last_episode_starts = th.ones(self.n_envs, dtype=th.bool, device=self.device)
            self.episode_stats.reset()
            self.collector.state = self.policy.initial_state(self.n_envs)
        if not reset_num_timesteps and point is not None:
            self._take_up(point, fresh)
        return result

    def _take_up(self, point: ResumePoint, fresh: bool) -> None:
        """Go on from a point, with an environment that could be put back to it or a fresh one."""
        point.random.restore(self.generator)  # after SB3's reset, which may draw numbers
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.clear()
        self.ep_info_buffer.extend(point.episodes)
        if not fresh:
            self._last_episode_starts = point.episode_starts
        elif not self.is_pretraining or len(point.episode_starts) != self.n_envs:
            return
        self.collector.state = PolicyState.from_any(point.policy_state, self.device)
        self.episode_stats.load_state_dict(point.episode_stats)
        for objective in self.objectives:
            objective.load_rollout_state(point.objectives.get(objective.name))

    @property
    def is_pretraining(self) -> bool:
        """Whether the next rollout comes from elsewhere than the environment."""
        return False

    def _begin_anew(self) -> None:
        """Forget the run before; the environment is reset next."""
        self.n_iterations = 0
        self._resume_point = None

    def _restore_env(self, point: ResumePoint) -> bool:
        env = self._require_env()
        if point.env_state is None or point.episode_starts.shape[0] != env.num_envs:
            warnings.warn(
                f"{type(self).__name__}: the file holds no state for this environment, so its "
                "episodes "
                "start anew; everything else continues exactly.",
                stacklevel=4,
            )
            return False
        is_wrapped = isinstance(env, NumpyBridge)
        env.set_state(point.env_state if is_wrapped else state_of_env(point.env_state))
        return True

    def _to_device(self, obs: TensorDict) -> TensorDict:
        return {group: value.to(self.device) for group, value in obs.items()}

    # ------------------------------------------------------------------ collecting

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Fill the buffer with one rollout; see SB3.

        :return: whether the rollout is complete (``False``: a callback stopped it)
        :raises NonFiniteError: if the environment produced NaN or infinity
        :raises PeerError: if another process could not complete its rollout
        """
        self.policy.set_training_mode(False)
        self.is_collecting = True
        self.finished_episodes = []
        self._resume_point = None
        self._resume_point = self._capture()
        if self._resume_point is not None:
            # What a resumed run begins with: how tensors lie in memory changes last digits.
            self._last_obs = dict(self._resume_point.obs)
        world_size = distributed.world_size()
        going, n_steps = True, 0
        with shared_fate(self):
            tensor_env = self._step_source()
            collector = self.collector
            collector.start(rollout_buffer, tensor_env, self.episode_stats)
            callback.on_rollout_start()
            is_monitored = self.reads_infos
            obs_tensor: Any = self._last_obs
            while going and n_steps < n_rollout_steps:
                actions, clipped_actions = collector.act(obs_tensor, self._last_episode_starts)
                result = collector.step(clipped_actions)
                self.num_timesteps += env.num_envs * world_size
                for objective in self.objectives:
                    objective.on_step(collector.as_step(actions, result), rollout_buffer)
                new_obs, rewards, dones, infos = collector.lazy_locals(result)
                obs_tensor = self._last_obs = result.obs
                self._last_episode_starts = collector.dones
                n_steps += 1
                callback.update_locals(locals())
                going = callback.on_step()
                if going and is_monitored:
                    self._update_info_buffer(infos, dones)
            if going:
                rollout_buffer.storage.settle()
                check_rollout(self, obs_tensor)
        if not agree(self, going):
            return False
        self._finish_rollout(obs_tensor)
        callback.update_locals(locals())
        callback.on_rollout_end()
        self.is_collecting = False
        return True

    def _step_source(self) -> TensorVecEnv:
        """Return what the coming rollout steps through, where ``_last_obs`` is its observation."""
        return self._require_env()

    def _finish_rollout(self, last_obs: TensorDict) -> None:
        """Value, shape and bootstrap the rollout, then compute its advantages."""
        buffer, collector = self.rollout_buffer, self.collector
        self._record_episodes()
        last_values = collector.value(last_obs) if self.using_ppo else None
        terms = [objective.reward_term(buffer) for objective in self.objectives]
        collector.shape_rewards([term for term in terms if term is not None])
        if last_values is not None:
            collector.bootstrap(self.gamma)
            buffer.compute_returns_and_advantage(last_values)
            if self.normalize_advantage == "rollout":
                normalize_advantages(buffer)
        for key, value in collector.log_means().items():
            self.logger.record(key, value)
        megabytes = gpu_memory_mb(self.device)
        if megabytes is not None:
            self.logger.record("perf/gpu_memory_mb", megabytes)

    # ------------------------------------------------------------------ for subclasses

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the policy's optimizer."""
        return self.policy.optimizer.param_groups

    @property
    @abstractmethod
    def minibatch_size(self) -> int:
        """Samples per minibatch."""

    @property
    @abstractmethod
    def sequence_minibatches(self) -> int:
        """Minibatches per epoch for a policy with memory."""

    @abstractmethod
    def train(self) -> None:
        """Update the policy on the rollout in the buffer."""
