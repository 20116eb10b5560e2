"""The embedded task: many planar human walkers on real physics, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_strl.common.errors import StrlKeyError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import walker_task as task
from sb3_strl.envs.tensor_vec_env import TensorVecEnv
from sb3_strl.envs.walker_kinematics import JOINT_NAMES, STANDING_HEIGHT, sole_height
from sb3_strl.envs.walker_measures import LocomotionMeasures, Moved
from sb3_strl.envs.walker_options import (
    MotionSource,
    action_space,
    check_options,
    feature_names,
    motion_library,
    observation_space,
    randomization,
    velocity_range,
)
from sb3_strl.envs.walker_physics import POS, VEL, DomainRandomization, WalkerPhysics
from sb3_strl.envs.walker_render import draw_walker, render_mujoco
from sb3_strl.envs.walker_task import WalkerRewards

_N_ACTIONS = len(JOINT_NAMES)
_ALL = slice(None)


class WalkerVecEnv(LocomotionMeasures, TensorVecEnv):
    """
    A planar biped of human size that shall walk at a commanded velocity in the style of a motion.

    Actions in [-1, 1] move the targets of six position motors, ``nominal + action_scale * a``. Each
    robot carries a phase of a reference clip: an episode begins in the clip's state at that phase
    (reference-state initialisation, Peng et al. 2018, https://arxiv.org/abs/1804.02717) or
    standing, and the phase advances with time.

    Observation groups: ``policy`` (22, noisy proprioception, segments ``PROPRIOCEPTION``),
    ``critic`` (29, the same without noise and the privileged state), ``ref_obs`` and ``ref_motion``
    (``(n_frames, 17)``, style features of the robot and of its clip, oldest frame first, the newest
    of both at the same phase). ``extras["amp_valid"]`` is False where the window of ``ref_obs``
    (of ``final_obs`` in rows that finished) holds frames from before the episode.

    A robot whose physics diverges, or that is given an action of NaN, shows NaN in its reward and
    in ``final_obs``, is terminated and starts afresh.

    :param n_envs: number of robots
    :param device: where the tensors are; the physics stays on the CPU
    :param seed: of every random number here; None takes one from the operating system
    :param motion: reference clips, their paths or a library; None takes the walking clip
    :param render_mode: ``"rgb_array"`` or None
    :param n_frames: ``K``, frames in ``ref_obs`` and ``ref_motion``
    :param command_range: range of the commanded velocity, drawn in each episode, m/s; None takes
        20 % around the mean speed of the reference clips
    :param action_scale: what action 1 adds to the target of hip, knee and ankle, rad
    :param rewards: weights of the task reward
    :param domain_randomization: True for the defaults, False for none, or the ranges
    :param rsi_prob: probability that an episode begins in a state of the reference
    :param max_episode_length: steps until the episode is truncated
    :param min_height: height of the hip below which the robot has fallen, m
    :param max_pitch: lean of the torso beyond which the robot has fallen, rad
    :param decimation: physics steps of 5 ms per environment step
    :param n_threads: threads of the physics; None takes the processors of this process
    :param image_size: width and height of an image, pixels
    :param render_backend: ``"drawing"`` (our own, needs nothing) or ``"mujoco"`` (needs OpenGL)
    :raises StrlValueError: if an argument is out of bounds
    :raises StrlKeyError: if the motion lacks a field
    """

    max_episode_length: int
    episode_length_buf: th.Tensor

    def __init__(
        self,
        n_envs: int,
        device: th.device | str = "cpu",
        seed: int | None = None,
        motion: MotionSource | None = None,
        render_mode: str | None = None,
        *,
        n_frames: int = 2,
        command_range: tuple[float, float] | None = None,
        action_scale: tuple[float, float, float] = (1.2, 1.5, 0.8),
        rewards: WalkerRewards | None = None,
        domain_randomization: bool | DomainRandomization = True,
        rsi_prob: float = 0.8,
        max_episode_length: int = 500,
        min_height: float = 0.6,
        max_pitch: float = 1.0,
        decimation: int = 4,
        n_threads: int | None = None,
        image_size: tuple[int, int] = (320, 240),
        render_backend: str = "drawing",
    ) -> None:
        counts = {
            "n_envs": n_envs,
            "n_frames": n_frames,
            "max_episode_length": max_episode_length,
            "decimation": decimation,
        }
        check_options(counts, rsi_prob, action_scale, render_mode, render_backend)
        self.domain_randomization = randomization(domain_randomization)
        self.library = motion_library(motion)
        self.rewards = WalkerRewards() if rewards is None else rewards
        self.command_range = velocity_range(command_range, self.library)
        self.rsi_prob = rsi_prob
        self.n_frames = n_frames
        self.min_height, self.max_pitch = min_height, max_pitch
        self.image_size, self.render_backend = image_size, render_backend
        self.physics = WalkerPhysics(
            n_envs, decimation, n_threads, self.domain_randomization.n_models
        )
        self.dt = self.frame_dt = self.physics.dt
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1.0 / self.dt)}
        super().__init__(n_envs, observation_space(n_frames), action_space(), device, render_mode)
        self._allocate(n_envs, action_scale)
        self.max_episode_length = max_episode_length
        self.obs_segments = {
            "policy": dict(task.PROPRIOCEPTION),
            "critic": {**task.PROPRIOCEPTION, **task.PRIVILEGED},
        }
        self.feature_names = feature_names(self.library)
        self._reseed(seed)

    def _allocate(self, n_envs: int, action_scale: tuple[float, float, float]) -> None:
        """Make what lives as long as the environment."""
        config = self.domain_randomization
        self._generator = th.Generator()
        self._nominal = th.tensor(task.NOMINAL_POSE)
        self._scale = th.tensor(action_scale * 2)
        self._noise_scale = th.tensor(
            [config.noise_base_ang_vel, config.noise_pitch]
            + [config.noise_joint_pos] * _N_ACTIONS
            + [config.noise_joint_vel] * _N_ACTIONS
        )
        self._noisy = bool((self._noise_scale > 0).any())
        self._loops = th.tensor([clip.loop for clip in self.library.motions])
        self._state = th.zeros(n_envs, self.physics.state.shape[1])
        self._history = th.zeros(n_envs, self.n_frames, len(task.FEATURE_NAMES))
        self._frames_seen = th.zeros(n_envs, dtype=th.int64)
        self._last_action = th.zeros(n_envs, _N_ACTIONS)
        self._commands = th.zeros(n_envs, 1)
        self._clip_ids = th.zeros(n_envs, dtype=th.int64)
        self._clip_times = th.zeros(n_envs)
        self._contacts = th.zeros(n_envs, 2)
        self._params = th.zeros(n_envs, 3)
        self.episode_length_buf = th.zeros(n_envs, dtype=th.int64)
        self._moved = Moved(self._state, self._commands, self._params)

    # ------------------------------------------------------------------ steps

    def reset_tensor(self) -> TensorDict:
        """
        Start an episode in every environment, with new random numbers if a seed was asked for.

        :return: observation groups
        """
        seed, _ = self.take_reset_request()
        if seed is not None:
            self._reseed(seed)
        self._reset_rows(th.arange(self.num_envs))
        obs = self._observe(_ALL)
        return obs if self.device.type == "cpu" else task.move_together(obs, self.device)

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """
        Advance every robot by ``dt`` and restart those that are done.

        :param actions: ``(n_envs, 6)``; clipped to [-1, 1]
        :return: see :class:`~sb3_strl.common.types.TensorStep`; ``extras`` holds ``amp_valid``
            ``(n_envs,)`` and the mean reward terms under ``log``
        :raises StrlValueError: if the actions have another shape
        """
        if actions.shape != (self.num_envs, _N_ACTIONS):
            raise StrlValueError(
                f"WalkerVecEnv.step_tensor: actions have shape {tuple(actions.shape)}. Expected "
                f"({self.num_envs}, {_N_ACTIONS}), one row per environment."
            )
        actions = actions.detach().to(device="cpu", dtype=th.float32).clamp(-1.0, 1.0)
        self._push()
        self.physics.step(th.addcmul(self._nominal, self._scale, actions).numpy())
        self._read_physics(actions)
        terms = task.reward_terms(
            self._state,
            th.from_numpy(self.physics.torques),
            actions - self._last_action,
            self._commands,
            self.rewards,
        ).to(th.float32)
        self._last_action = actions
        # NaN anywhere in the state reaches the reward, where the algorithm looks for it.
        rewards = terms.sum(dim=0) + 0.0 * self._state.sum(dim=1)
        self._advance_episode()
        terminated = task.has_fallen(self._state, self.min_height, self.max_pitch)
        truncated = self.episode_length_buf >= self.max_episode_length
        amp_valid = self._frames_seen >= self.n_frames
        final_obs = self._observe(_ALL)
        obs = final_obs
        self._moved = Moved(self._state, self._commands, self._params)
        rows = th.from_numpy(np.flatnonzero((terminated | truncated).numpy()))
        if len(rows):
            self._moved = self._moved.copy()
            self._reset_rows(rows)
            obs = task.splice(final_obs, rows, self._observe(rows))
        names = [f"reward/{name}" for name in task.REWARD_NAMES]
        log = dict(zip(names, terms.mean(dim=1).unbind(), strict=True))
        extras = {"amp_valid": amp_valid, "log": log}
        step = TensorStep(obs, rewards, terminated, truncated, final_obs, extras)
        return step if self.device.type == "cpu" else task.step_to(step, self.device)

    def _push(self) -> None:
        """Kick some robots: a random change of the forward velocity at random times."""
        config = self.domain_randomization
        if config.push_interval > 0.0 and config.push_velocity > 0.0:
            draws = th.rand(2, self.num_envs, generator=self._generator).numpy()
            pushed = draws[0] < self.dt / config.push_interval
            self.physics.state[:, VEL.start] += (
                pushed * (2.0 * draws[1] - 1.0) * config.push_velocity
            )

    def _read_physics(self, actions: th.Tensor) -> None:
        """Copy the physics' results; an action of NaN, which MuJoCo ignores, becomes visible."""
        self._state = th.from_numpy(self.physics.state).to(th.float32)
        self._state += 0.0 * actions.sum(dim=1, keepdim=True)
        forces = th.from_numpy(self.physics.contact_forces)
        self._contacts = (forces / self.physics.pool.weight).to(th.float32)

    def _advance_episode(self) -> None:
        """Advance counters, the phases of the clips and the history of features."""
        self.episode_length_buf += 1
        self._frames_seen += 1
        times = self._clip_times + self.dt
        ended = ~self._loops[self._clip_ids] & (times > self.library.durations[self._clip_ids])
        # A clip that does not loop begins again, where a whole window has passed.
        self._clip_times = th.where(ended, (self.n_frames - 1) * self.dt, times)
        frame = task.feature_frame(self._state).unsqueeze(1)
        self._history = th.cat((self._history[:, 1:], frame), dim=1)

    def _observe(self, rows: th.Tensor | slice) -> TensorDict:
        """Return the observation groups of some robots, as new tensors on the CPU."""
        state, params = self._state[rows], self._params[rows]
        commands, actions = self._commands[rows], self._last_action[rows]
        sensed = task.sensed_quantities(state)
        clean = task.proprioception(sensed, self._nominal, actions, commands)
        noisy = clean
        if self._noisy:
            noise = th.empty_like(sensed).uniform_(-1.0, 1.0, generator=self._generator)
            measured = th.addcmul(sensed, self._noise_scale, noise)
            noisy = task.proprioception(measured, self._nominal, actions, commands)
        height = state[:, task.HEIGHT : task.HEIGHT + 1]
        privileged = (state[:, task.BASE_VEL], height, self._contacts[rows], params[:, :2])
        return {
            "policy": noisy,
            "critic": th.cat((clean, *privileged), dim=1),
            "ref_obs": self._history[rows].clone(),
            "ref_motion": self._expert(self._clip_ids[rows], self._clip_times[rows]),
        }

    def _expert(self, clip_ids: th.Tensor, clip_times: th.Tensor) -> th.Tensor:
        """Return the reference's windows that end at the given phases: ``(n, K, F)``."""
        return self.library.windows(clip_ids, clip_times, task.FEATURES, self.n_frames, self.dt)

    # ----------------------------------------------------------------- resets

    def _reset_rows(self, rows: th.Tensor) -> None:
        """Start an episode in some environments."""
        n = len(rows)
        clip_ids, clip_times = self.library.sample(n, self._generator, self.n_frames, self.dt)
        draws = th.rand(n, 3 + _N_ACTIONS, generator=self._generator)
        from_reference = draws[:, :1] < self.rsi_prob
        low, high = self.command_range
        model_ids = (draws[:, 2] * len(self.physics.pool.models)).long()

        state, lift = self._initial_state(clip_ids, clip_times, from_reference, draws[:, 3:])
        frame = task.feature_frame(state).unsqueeze(1)
        past = self._expert(clip_ids, clip_times)[:, :-1]
        past[:, :, 0] += lift
        past = th.where(from_reference.unsqueeze(2), past, frame)

        self._history[rows] = th.cat((past, frame), dim=1)
        self._state[rows] = state
        self._commands[rows] = low + (high - low) * draws[:, 1:2]
        self._clip_ids[rows], self._clip_times[rows] = clip_ids, clip_times
        self._params[rows] = self.physics.pool.params[model_ids]
        self._last_action[rows] = 0.0
        self._contacts[rows] = 0.0
        self._frames_seen[rows] = 1
        self.episode_length_buf[rows] = 0
        index = rows.numpy()
        self.physics.state[index] = state.numpy()
        self.physics.warmstart[index] = 0.0
        self.physics.model_ids[index] = model_ids.numpy()
        self.physics.refresh_models()

    def _initial_state(
        self,
        clip_ids: th.Tensor,
        clip_times: th.Tensor,
        from_reference: th.Tensor,
        draws: th.Tensor,
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return physics states ``(n, 19)`` and by how much the reference was lifted ``(n, 1)``."""
        clip = self.library.state_at(clip_ids, clip_times)
        state = th.zeros(len(clip_ids), self._state.shape[1])
        state[:, task.HEIGHT] = clip["root_pos"][:, 1]
        state[:, task.PITCH] = clip["root_pitch"][:, 0]
        state[:, task.JOINT_POS] = clip["joint_pos"]
        state[:, task.BASE_VEL] = clip["root_vel"]
        state[:, task.PITCH_VEL] = clip["root_pitch_vel"][:, 0]
        state[:, task.JOINT_VEL] = clip["joint_vel"]
        standing = th.zeros_like(state)
        standing[:, task.HEIGHT] = STANDING_HEIGHT
        standing[:, task.JOINT_POS] = self._nominal + 0.05 * (2.0 * draws - 1.0)
        state = th.where(from_reference, state, standing)
        pos = state.numpy()[:, POS]
        clearance = sole_height(pos[:, :2], pos[:, 2], pos[:, 3:])
        depth = -th.from_numpy(clearance).to(th.float32).unsqueeze(1)
        # Feet may be in the air in the reference; who begins standing stands on the ground.
        lift = th.where(from_reference, depth.clamp(min=0.0), depth)
        state[:, task.HEIGHT] += lift[:, 0]
        return state, lift

    # ------------------------------------------------------- random numbers, state

    def _reseed(self, seed: int | None) -> None:
        """Restart the random numbers and redraw the pool of models, as the constructor does."""
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        config = self.domain_randomization
        ranges = th.tensor([config.friction, config.added_mass, config.motor_strength])
        draws = th.rand(config.n_models, 3, generator=self._generator)
        self.physics.pool.set_params(ranges[:, 0] + draws * (ranges[:, 1] - ranges[:, 0]))

    def get_state(self) -> TensorDict:
        """
        Return everything that the next step depends on, as tensors on the CPU.

        :return: see :meth:`set_state`
        """
        state = {name: values.clone() for name, values in self._state_tensors().items()}
        state["generator"] = self._generator.get_state()
        state["pool"] = self.physics.pool.params.clone()
        return state

    def set_state(self, state: TensorDict) -> None:
        """
        Continue where :meth:`get_state` was called, bit for bit.

        :param state: what :meth:`get_state` returned, of an environment made alike
        :raises StrlKeyError: if an entry is missing
        :raises StrlValueError: if an entry has another shape
        """
        mine = self._state_tensors()
        shapes = {name: tuple(values.shape) for name, values in mine.items()}
        shapes["generator"] = tuple(self._generator.get_state().shape)
        shapes["pool"] = tuple(self.physics.pool.params.shape)
        for name, shape in shapes.items():
            if name not in state:
                raise StrlKeyError(
                    f"WalkerVecEnv.set_state: '{name}' is missing. Expected {sorted(shapes)}, "
                    "as get_state returns them."
                )
            if tuple(state[name].shape) != shape:
                raise StrlValueError(
                    f"WalkerVecEnv.set_state: '{name}' has shape {tuple(state[name].shape)}. "
                    f"Expected {shape}. Make the environment with the options of the saved one."
                )
        for name, values in mine.items():
            values.copy_(state[name])
        self._generator.set_state(state["generator"].cpu())
        self.physics.pool.set_params(state["pool"].cpu())
        self.physics.refresh_models()

    def _state_tensors(self) -> TensorDict:
        """Return the tensors that :meth:`set_state` may write into, NumPy's memory included."""
        return {
            "physics": th.from_numpy(self.physics.state),
            "warmstart": th.from_numpy(self.physics.warmstart),
            "model_ids": th.from_numpy(self.physics.model_ids),
            "state": self._state,
            "history": self._history,
            "frames_seen": self._frames_seen,
            "actions": self._last_action,
            "commands": self._commands,
            "clip_ids": self._clip_ids,
            "clip_times": self._clip_times,
            "contacts": self._contacts,
            "params": self._params,
            "episode_lengths": self.episode_length_buf,
        }

    # ------------------------------------------------------- images, end

    def render_images(self, indices: Sequence[int]) -> Sequence[npt.NDArray[np.uint8] | None]:
        """
        Draw some robots, each in the middle of its own image.

        :param indices: which
        :return: images ``(height, width, 3)``
        :raises StrlValueError: if MuJoCo's renderer is asked for and there is no OpenGL
        """
        if self.render_backend == "mujoco":
            return [render_mujoco(self.physics, i, self.image_size) for i in indices]
        pos, speeds = self.physics.state[:, POS], self.physics.state[:, VEL.start]
        return [
            draw_walker(
                pos[i, :2],
                pos[i, 2],
                pos[i, 3:],
                size=self.image_size,
                label=f"{speeds[i]:.1f} m/s",
            )
            for i in indices
        ]

    def close(self) -> None:
        """Stop the threads of the physics."""
        self.physics.close()
