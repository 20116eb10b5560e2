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
from sb3_strl.callbacks import MotionEvalCallback, tensor_evaluation
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict
from sb3_strl.data import Motion
from sb3_strl.data.pose_error import pose_error, reference_cycle
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


def frozen(after: int) -> np.ndarray:
    """Return ``(after, 1, joints)``: the reference, followed by who falls then."""
    frames = [CYCLE[t % len(CYCLE)].double().numpy() for t in range(after)]
    return np.stack(frames)[:, None]


def test_falling_costs_the_same_whoever_else_survives() -> None:
    # A limit of 65 frames less a warm-up of 5: three windows of 20.
    callback = MotionEvalCallback(Player(max_episode_length=65), CLIP, warm_up=5 * DT)
    fell, stood = frozen(25), frozen(65)
    alone = callback.measure(fell, np.array([25]), np.array([True]))
    kept = np.concatenate([fell, np.repeat(fell[-1:], 40, axis=0)])
    rows = pose_error(kept[5:].reshape(3, 20, -1) * (180 / np.pi), callback.cycle)
    assert rows[0] < 1e-4 < 5.0 < rows[1] == rows[2]
    assert alone == pytest.approx(rows.mean())
    both = np.concatenate([kept, stood], axis=1)
    lengths, falls = np.array([25, 65]), np.array([True, False])
    assert callback.measure(both, lengths, falls) == pytest.approx(rows.mean() / 2, abs=1e-4)


def test_without_a_limit_a_fallen_robot_fills_one_window() -> None:
    callback = MotionEvalCallback(Player(max_episode_length=None), CLIP, warm_up=5 * DT)
    last = np.repeat(frozen(3)[-1:], 20, axis=0)[:, 0] * (180 / np.pi)
    error = callback.measure(frozen(3), np.array([3]), np.array([True]))
    assert error == pytest.approx(pose_error(last[None], callback.cycle)[0])


def test_the_warm_up_never_counts() -> None:
    callback = MotionEvalCallback(Player(max_episode_length=40), CLIP, warm_up=15 * DT)
    poses, falls = frozen(38), np.array([False])
    poses[:15] = np.nan
    assert callback.measure(poses, np.array([38]), falls) < 1e-4
    # A time-out leaves no whole window: nothing counts, not even the beginning.
    assert callback.measure(frozen(34), np.array([34]), falls) == math.inf
    with pytest.raises(StrlValueError, match=r"is 34. Expected at least 35 steps: 15 of warm_up="):
        MotionEvalCallback(Player(max_episode_length=34), CLIP, warm_up=15 * DT)


@pytest.mark.parametrize("every", [1, 7, 64])
def test_how_often_the_ends_are_looked_at_does_not_matter(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falling() -> Player:
        env = Player(4, max_episode_length=70, termination_prob=0.1)
        env.offset = 0.2
        return env

    expected = measure(falling())
    monkeypatch.setattr(tensor_evaluation, "_CHECK_EVERY", every)
    assert measure(falling()) == expected


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
    env.max_episode_length = 120
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
