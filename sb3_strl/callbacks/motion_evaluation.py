"""How closely the motion of a policy follows a recorded one, as a criterion for the best model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_strl.callbacks.tensor_evaluation import Evaluation, TensorEvalCallback, run_episodes
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorStep
from sb3_strl.data import Motion
from sb3_strl.data.pose_error import pose_error, reference_cycle
from sb3_strl.envs import TensorVecEnv
from sb3_strl.policies.contract import TensorActorCritic

_FIELD = "joint_pos"


class PoseRecorder:
    """
    Joint angles of every environment's first episode, on its device.

    :param columns: of the joint angles among the features of a frame
    :param group: the observation group with the features, ``(n_envs, K, F)`` or ``(n_envs, F)``
    """

    def __init__(self, columns: list[int], group: str) -> None:
        self.columns, self.group = th.tensor(columns), group
        self._frames: list[th.Tensor] = []
        self._lengths = self._fell = th.zeros(0)

    def __call__(self, step: TensorStep, counted: th.Tensor) -> None:
        """Keep the poses after a step."""
        poses = self._poses(step.obs)
        ended = step.terminated | step.truncated
        if not self._frames:
            self._lengths = th.zeros_like(ended, dtype=th.int64)
            self._fell = th.zeros_like(ended)
        if step.final_obs is not None:
            poses = th.where(ended.unsqueeze(1), self._poses(step.final_obs), poses)
        elif self._frames:  # how the episode ended is not known
            poses = th.where(ended.unsqueeze(1), self._frames[-1], poses)
        self._frames.append(poses)
        counted = counted.to(ended.device)
        self._lengths += counted
        self._fell |= counted & step.terminated

    def _poses(self, obs: dict[str, th.Tensor]) -> th.Tensor:
        features = obs[self.group]
        frame = features[:, -1] if features.ndim == 3 else features
        self.columns = self.columns.to(frame.device)  # moved once
        return frame.index_select(1, self.columns)

    def result(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any], npt.NDArray[Any]]:
        """
        Return what was recorded until the last episode ended.

        :return: poses ``(time, n_envs, joints)``, rad; lengths of the episodes ``(n_envs,)``; and
            ``(n_envs,)``, whether they ended by a fall
        """
        lengths = self._lengths.cpu().numpy()
        poses = th.stack(self._frames[: lengths.max()]).cpu().numpy().astype(np.float64)
        return poses, lengths, self._fell.cpu().numpy()


class MotionEvalCallback(TensorEvalCallback):
    """
    Evaluate by the distance to a reference motion; ``best_model.zip`` is the closest one so far.

    One episode of every environment of ``eval_env`` is cut into windows of one cycle of the
    reference, and dynamic time warping compares each with the cycle from its best phase, see
    :func:`~sb3_strl.data.pose_error.pose_error`. The mean over windows and robots is logged as
    ``eval/pose_error_deg`` beside SB3's ``eval/mean_reward``. It is infinite, and no new best,
    where no window counts or a pose is not finite.

    A robot that has fallen keeps its last pose until ``eval_env.max_episode_length``, so that
    falling early is not rewarded, whatever becomes of the others; where the environment names no
    limit, until one window is full. What follows a time-out does not count, and neither does what
    is left of an episode after its last whole window.

    :param eval_env: environment whose ``feature_names`` name the joint angles ``joint_pos/...``
        and which knows ``frame_dt``, e.g. ``WalkerVecEnv``
    :param motion: looping reference or its path, with the field ``joint_pos``, rad
    :param callback_on_new_best: called when the pose error is the lowest so far
    :param callback_after_eval: called after every evaluation
    :param eval_freq: calls between two evaluations, as in SB3
    :param log_path: folder for ``evaluations.npz``
    :param best_model_save_path: folder for ``best_model.zip``
    :param deterministic: take the mode of the distribution
    :param warm_up: time at the beginning that does not count, s
    :param n_phases: phases of the reference to begin at
    :param group: observation group with the features
    :param eval_seed: seed of every evaluation
    :param verbose: 0 silent, 1 info
    :raises StrlTypeError: if ``eval_env`` or the policy passes no tensors
    :raises StrlKeyError: if a joint of the motion is not among the features
    :raises StrlValueError: if the motion does not loop, there is no ``frame_dt``, or no window fits
        into an episode after the warm-up
    """

    def __init__(
        self,
        eval_env: TensorVecEnv,
        motion: Motion | str | Path,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        eval_freq: int = 10_000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool = True,
        warm_up: float = 1.0,
        n_phases: int = 12,
        group: str = "ref_obs",
        eval_seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        if not isinstance(eval_env, TensorVecEnv):
            raise StrlTypeError(
                f"MotionEvalCallback: eval_env is a {type(eval_env).__name__}. Expected a "
                "TensorVecEnv, whose features have names, e.g. WalkerVecEnv, without wrappers."
            )
        super().__init__(
            eval_env,
            callback_on_new_best,
            callback_after_eval,
            n_eval_episodes=eval_env.num_envs,
            eval_freq=eval_freq,
            log_path=log_path,
            best_model_save_path=best_model_save_path,
            deterministic=deterministic,
            eval_seed=eval_seed,
            verbose=verbose,
        )
        self.motion = motion if isinstance(motion, Motion) else Motion.load(motion)
        if eval_env.frame_dt is None or not self.motion.loop:
            raise StrlValueError(
                f"MotionEvalCallback: motion '{self.motion.name}' has loop={self.motion.loop}, "
                f"eval_env has frame_dt={eval_env.frame_dt}. Expected a looping motion and the "
                "seconds between two frames. Cut a cycle out of the motion, or set env.frame_dt."
            )
        self.dt = eval_env.frame_dt
        self.cycle = reference_cycle(self.motion, self.dt)  # (frames, joints), degrees
        self.columns = _joint_columns(self.motion, eval_env, group)
        self.group, self.warm_up, self.n_phases = group, warm_up, n_phases
        self.best_pose_error = self.last_pose_error = math.inf
        self._check_time()

    def _check_time(self) -> None:
        """Refuse episodes in which nothing would count."""
        limit = self._limit
        if limit is not None and limit < self._first + len(self.cycle):
            raise StrlValueError(
                f"MotionEvalCallback: eval_env.max_episode_length is {limit}. Expected at least "
                f"{self._first + len(self.cycle)} steps: {self._first} of warm_up={self.warm_up} s "
                f"and {len(self.cycle)} of one cycle. Let episodes last longer, or lower warm_up."
            )

    @property
    def _first(self) -> int:
        """The first frame that counts."""
        return round(self.warm_up / self.dt)

    @property
    def _limit(self) -> int | None:
        assert isinstance(self.eval_env, TensorVecEnv)
        return self.eval_env.max_episode_length

    def evaluate(self) -> Evaluation:
        """Run one episode of every environment and compare the poses."""
        policy, env = self.model.policy, self.eval_env
        assert isinstance(env, TensorVecEnv)
        if not isinstance(policy, TensorActorCritic):
            raise StrlTypeError(
                f"MotionEvalCallback: the policy is a {type(policy).__name__}. Expected a policy "
                "of this library, which acts on tensors."
            )
        recorder = PoseRecorder(self.columns, self.group)
        returns, lengths = run_episodes(policy, env, env.num_envs, self.deterministic, recorder)
        self.last_pose_error = self.measure(*recorder.result())
        metrics = {"eval/pose_error_deg": self.last_pose_error}
        return Evaluation(returns, lengths, [], metrics)

    def measure(
        self, poses: npt.NDArray[Any], lengths: npt.NDArray[Any], fell: npt.NDArray[Any]
    ) -> float:
        """
        Return the pose error of some motions, degrees.

        :param poses: ``(time, n, joints)``, rad
        :param lengths: ``(n,)``, frames of each, at most ``time``
        :param fell: ``(n,)``, whether the last pose is kept from there on
        """
        horizon = self._limit or self._first + len(self.cycle)
        ends = np.where(fell, np.maximum(lengths, horizon), lengths)
        n_windows = np.maximum(ends - self._first, 0) // len(self.cycle)
        robots = np.repeat(np.arange(len(ends)), n_windows)
        numbers = np.arange(len(robots)) - np.repeat(n_windows.cumsum() - n_windows, n_windows)
        begins = np.minimum(self._first + numbers * len(self.cycle), lengths[robots] - 1)
        # All windows after a fall are alike: one is compared, and weighs as much as all.
        (robots, begins), weights = np.unique([robots, begins], axis=1, return_counts=True)
        frames = begins[:, None] + np.arange(len(self.cycle))
        frames = np.minimum(frames, lengths[robots, None] - 1)
        windows = np.rad2deg(poses[frames, robots[:, None]])  # (windows, length, joints)
        if not len(windows) or not np.isfinite(windows).all():
            return math.inf
        errors = pose_error(windows, self.cycle, self.n_phases)
        return float(np.average(errors, weights=weights))

    def score(self, evaluation: Evaluation) -> float:
        """Return the negative pose error."""
        return -evaluation.metrics["eval/pose_error_deg"]

    def _on_new_best(self) -> bool:
        self.best_pose_error = self.last_pose_error
        return super()._on_new_best()


def _joint_columns(motion: Motion, env: TensorVecEnv, group: str) -> list[int]:
    """Return where the joints of a motion are among the features of a frame."""
    names = list((env.feature_names or {}).get(group, []))
    wanted = [f"{_FIELD}/{column}" for column in motion.columns.get(_FIELD, [])]
    missing = [name for name in wanted if name not in names]
    if missing or not wanted:
        raise StrlKeyError(
            f"MotionEvalCallback: the group '{group}' has the features {names}, which lack "
            f"{missing or _FIELD} of the motion '{motion.name}'. Name the joints alike on both "
            "sides, in env.feature_names and in the motion's columns."
        )
    return [names.index(name) for name in wanted]
