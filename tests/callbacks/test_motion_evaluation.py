"""Distance to a reference motion as the criterion for the best model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

import sb3_strl
from sb3_strl import PPO
from sb3_strl.callbacks import MotionEvalCallback
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict
from sb3_strl.data import Motion
from sb3_strl.data.pose_error import reference_cycle
from tests.envs.toy import PointMass, ToyVecEnv, box

WALK = Path(sb3_strl.__file__).parent / "envs" / "assets" / "motions" / "walk.npz"
CLIP = Motion.load(WALK)
DT = CLIP.duration / 20
CYCLE = th.from_numpy(reference_cycle(CLIP, DT)).deg2rad().float()


class Player(ToyVecEnv):
    """Plays the reference from random phases, wrong by ``offset`` rad; the wronger, the richer."""

    def __init__(self, n_envs: int = 4, **options: Any) -> None:
        from gymnasium import spaces

        space = spaces.Dict({"policy": box(1), "ref_obs": box(2, 7)})
        options.setdefault("max_episode_length", 60)
        super().__init__(n_envs, space, box(1, bound=1.0), **options)
        self.frame_dt = DT
        joints = [f"joint_pos/{name}" for name in CLIP.columns["joint_pos"]]
        self.feature_names = {"ref_obs": ["root_pos/z", *reversed(joints)]}
        self.phase = th.zeros(n_envs, dtype=th.int64)
        self.offset, self.falls = 0.0, th.zeros(n_envs, dtype=th.bool)

    def restart(self, mask: th.Tensor) -> None:
        self.phase = th.where(mask, (self.rand() * len(CYCLE)).long(), self.phase)

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        self.phase += 1
        fallen = self.falls & (self.episode_length_buf >= 2)
        self.falls &= ~fallen  # what comes after the first episode would be perfect
        return th.full((self.num_envs,), self.offset), fallen

    def observe(self) -> TensorDict:
        pose = CYCLE[self.phase % len(CYCLE)] + self.offset
        frame = th.cat([th.ones(self.num_envs, 1), pose.flip(-1)], dim=-1)
        window = th.stack([th.full_like(frame, 9.0), frame], dim=1)
        return {"policy": pose[:, :1], "ref_obs": window}


def make(env: Any, **options: Any) -> PPO:
    return PPO("MlpPolicy", env, n_steps=4, n_minibatches=1, n_epochs=1, seed=0, **options)


def measure(env: Any, **options: Any) -> float:
    callback = MotionEvalCallback(env, CLIP, eval_freq=4, warm_up=0.0, **options)
    make(Player()).learn(4, callback=callback)
    return callback.last_pose_error


def test_the_reference_itself_is_at_no_distance() -> None:
    assert measure(Player()) < 0.3


def test_a_constant_error_is_seen_in_degrees() -> None:
    env = Player()
    env.offset = 1.0  # too far for warping to help much
    assert 45.0 < measure(env) <= math.degrees(1.0) + 1e-3


def test_a_fallen_robot_keeps_its_pose_and_a_time_out_ends_the_count() -> None:
    env = Player(4)
    env.falls[:] = True
    fallen = measure(env)
    assert fallen > 5.0
    # Half of them stop after one cycle: what is frozen afterwards does not count.
    cut = Player(4)
    cut.limits = lambda: th.tensor([25, 60, 25, 60])  # type: ignore[method-assign]
    assert measure(cut) < 0.3


def test_the_best_model_is_the_closest_not_the_richest(tmp_path: Path) -> None:
    env = Player()
    offsets = [0.4, 0.1, 0.3, 0.2]

    class Change(BaseCallback):
        def _on_step(self) -> bool:
            env.offset = offsets[self.n_calls % 4]
            return True

    env.offset = offsets[0]
    best = tmp_path / "best"
    callback = MotionEvalCallback(
        env,
        WALK,
        callback_after_eval=Change(),
        eval_freq=4,
        log_path=str(tmp_path),
        best_model_save_path=str(best),
        warm_up=0.0,
    )
    model = make(Player())
    model.learn(64, callback=callback, log_interval=None)
    data = np.load(tmp_path / "evaluations.npz", allow_pickle=False)
    errors = data["pose_error_deg"]
    assert errors.argsort().tolist() == [1, 3, 2, 0]
    assert data["results"].mean(1).argmax() == 0
    assert callback.best_pose_error == errors[1]
    assert PPO.load(best / "best_model").num_timesteps == data["timesteps"][1]


def test_a_pose_that_is_not_finite_is_no_best(tmp_path: Path) -> None:
    env = Player()
    env.offset = math.nan
    assert measure(env, best_model_save_path=str(tmp_path / "best")) == math.inf
    assert not (tmp_path / "best" / "best_model.zip").exists()


def test_the_walker_has_what_it_takes() -> None:
    env = sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=4, seed=0, n_threads=1)
    env.max_episode_length = 80
    callback = MotionEvalCallback(env, WALK, eval_freq=2, eval_seed=0)
    model = make(sb3_strl.make_vec("sb3_strl/Walker-v0", n_envs=4, seed=0, n_threads=1))
    model.learn(8, callback=callback)
    assert 1.0 < callback.last_pose_error < 90.0


def test_bad_arguments() -> None:
    with pytest.raises(StrlTypeError, match="eval_env is a VecMonitor"):
        MotionEvalCallback(VecMonitor(PointMass(2)), CLIP)  # type: ignore[arg-type]
    with pytest.raises(StrlValueError, match="eval_env has frame_dt=None"):
        MotionEvalCallback(PointMass(2), CLIP)
    point = PointMass(2)
    point.frame_dt = 0.02
    with pytest.raises(StrlKeyError, match=r"lack \['joint_pos/right_hip'"):
        MotionEvalCallback(point, CLIP)
    once = Motion("once", CLIP.fields, CLIP.fps, False, CLIP.columns, "", "")
    with pytest.raises(StrlValueError, match="'once' has loop=False"):
        MotionEvalCallback(Player(), once)
