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
from sb3_strl.data.pose_error import cut_windows, pose_error, reference_cycle
from sb3_strl.envs import TensorVecEnv
from sb3_strl.policies.contract import TensorActorCritic

_FIELD = "joint_pos"


class PoseRecorder:
    """
    Joint angles of every environment's first episode.

    A robot that has fallen keeps its last pose, so that falling early is not rewarded; what follows
    a time-out does not count.

    :param columns: of the joint angles among the features of a frame
    :param group: the observation group with the features, ``(n_envs, K, F)`` or ``(n_envs, F)``
    """

    def __init__(self, columns: list[int], group: str) -> None:
        self.columns, self.group = th.tensor(columns), group
        self._frames: list[th.Tensor] = []
        self._ends: th.Tensor | None = None
        self._previous = th.zeros(0)

    def __call__(self, step: TensorStep, counted: th.Tensor) -> None:
        """Keep the poses after a step."""
        poses = self._poses(step.obs)
        ended = step.terminated | step.truncated
        previous = self._previous if self._frames else poses
        if step.final_obs is None:  # how the episode ended is not known
            poses = th.where(ended.unsqueeze(1), previous, poses)
        else:
            poses = th.where(ended.unsqueeze(1), self._poses(step.final_obs), poses)
        counted = counted.to(poses.device)
        self._previous = th.where(counted.unsqueeze(1), poses, previous)
        if self._ends is None:
            self._ends = th.full_like(ended, 2**31 - 1, dtype=th.int64)
        cut = counted & step.truncated & ~step.terminated
        self._frames.append(self._previous)
        self._ends = th.where(cut, len(self._frames), self._ends)

    def _poses(self, obs: dict[str, th.Tensor]) -> th.Tensor:
        features = obs[self.group]
        frame = features[:, -1] if features.ndim == 3 else features
        self.columns = self.columns.to(frame.device)  # moved once
        return frame.index_select(1, self.columns)

    def result(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return poses ``(time, n_envs, joints)``, rad, and how many of an environment count."""
        assert self._ends is not None
        poses = th.stack(self._frames).cpu().numpy().astype(np.float64)
        return poses, self._ends.clamp(max=len(poses)).cpu().numpy()


class MotionEvalCallback(TensorEvalCallback):
    """
    Evaluate by the distance to a reference motion; ``best_model.zip`` is the closest one so far.

    One episode of every environment of ``eval_env`` is cut into windows of one cycle of the
    reference, and dynamic time warping compares each with the cycle from its best phase, see
    :func:`~sb3_strl.data.pose_error.pose_error`. The mean over windows and robots is logged as
    ``eval/pose_error_deg`` beside SB3's ``eval/mean_reward``. It is infinite, and no new best,
    where no window counts or a pose is not finite.

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
    :raises StrlValueError: if the motion does not loop or there is no ``frame_dt``
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

    def measure(self, poses: npt.NDArray[Any], ends: npt.NDArray[Any]) -> float:
        """
        Return the pose error of some motions, degrees.

        :param poses: ``(time, n, joints)``, rad
        :param ends: ``(n,)``, how many frames of each count
        """
        length, first = len(self.cycle), round(self.warm_up / self.dt)
        angles = np.rad2deg(poses)
        frames = np.broadcast_to(np.arange(len(poses))[:, None, None], (*poses.shape[:2], 1))
        windows = cut_windows(angles, length, first)
        last = cut_windows(frames, length, first)[:, -1, 0].reshape(poses.shape[1], -1)
        counts = (last < ends[:, None]).reshape(-1)
        if not counts.any() or not np.isfinite(windows[counts]).all():
            return math.inf
        return float(pose_error(windows[counts], self.cycle, self.n_phases).mean())

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
