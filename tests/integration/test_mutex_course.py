"""The course of the mutex policy runs, writes what it promises, and measures what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from PIL import Image
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy

from examples import mutex_course
from examples.mutex_env import COURSE, ENV_ACTION_SCALE, CourseVecEnv, Stretch
from examples.mutex_evaluation import Run, run_course
from examples.mutex_skills import SKILLS
from sb3_strl.policies import FieldMutexPolicy

SHORT = (Stretch(0.1, 0.0, 0), Stretch(0.1, 1.0, 1), Stretch(0.06, 2.3, 2))
COMMAND = 21
"""Column of the command in the group ``policy``."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutex")
    options = ["--smoke", "--out", str(folder), "--processes", "1", "--steps", "512"]
    assert mutex_course.main(options) == 0
    return folder


class Still(BasePolicy):
    """Action 0, on which a walker stands for a while."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.zeros(len(observation["policy"]), 6)

    def predict(self, observation: Any, state: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self._predict(observation), state


# ---------------------------------------------------------------------- the course


def test_commands_and_ids_follow_the_course_and_begin_anew() -> None:
    env = CourseVecEnv(2, seed=0, course=SHORT)
    obs = env.reset_tensor()
    seen = [obs, *(env.step_tensor(th.zeros(2, 6)).obs for _ in range(14))]
    env.close()
    commands = [float(obs["policy"][0, COMMAND]) for obs in seen]
    np.testing.assert_allclose(commands, [0.0] * 5 + [1.0] * 5 + [2.3] * 3 + [0.0] * 2, rtol=1e-6)
    ids = [obs["engaging_block"][0].tolist() for obs in seen]
    assert ids == [[0.0] * 3] * 5 + [[0.0, 1.0, 0.0]] * 5 + [[0.0, 0.0, 1.0]] * 3 + [[0.0] * 3] * 2


def test_clipped_commands_are_seen_but_not_rewarded() -> None:
    plain, clipped = (CourseVecEnv(2, seed=0, course=SHORT, limits=x) for x in (None, (0.8, 1.2)))
    for env in (plain, clipped):
        env.reset_tensor()
    for step in range(1, 13):
        expected, given = (env.step_tensor(th.zeros(2, 6)) for env in (plain, clipped))
        np.testing.assert_array_equal(given.rewards, expected.rewards)
        command = float(given.obs["policy"][0, COMMAND])
        assert command == pytest.approx(0.8 if step < 5 else 1.0 if step < 10 else 1.2)
    plain.close()
    clipped.close()


def test_robots_that_have_fallen_count_as_standing() -> None:
    space = CourseVecEnv(1, course=SHORT)
    policy = Still(space.observation_space, space.action_space)
    space.close()
    course = (Stretch(3.0, 1.0, 1),)
    run = run_course(policy, 4, seed=0, course=course)
    assert run.summary()["falls"] == 1.0
    assert run.up[0].all()
    assert not run.speeds[~run.up].any()
    assert not run.rewards[~run.up].any()
    assert (np.diff(run.up.astype(int), axis=0) <= 0).all()


def test_the_summary_equals_the_values_by_hand() -> None:
    run = Run(
        frames=np.zeros((2, 2, 1)),
        commands=np.array([0.0, 1.0]),
        speeds=np.array([[0.5, 0.0], [1.0, 0.0]]),
        up=np.array([[True, True], [True, False]]),
        rewards=np.array([[1.0, 1.0], [2.0, 0.0]]),
        dt=0.02,
    )
    assert run.summary() == {"tracking_error": 0.375, "task_return": 2.0, "falls": 0.5}


# ---------------------------------------------------------------------- the program


@pytest.mark.integration
def test_the_example_writes_what_it_promises(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    names = [name for skill in SKILLS for name in (skill.name, f"{skill.name}, clipped")]
    assert list(results) == [*names, "mutex"]
    for runs in results.values():
        assert all(np.isfinite(value) for run in runs for value in run.values())
    assert "mutex" in (out / "results.txt").read_text()
    for picture in ("course.png", "motion.png"):
        pixels = np.asarray(Image.open(out / picture).convert("RGB"))
        assert pixels.shape[1] >= 1200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 30


@pytest.mark.integration
def test_the_mutex_policy_is_loaded_alone_and_acts_as_the_skill_that_is_meant(out: Path) -> None:
    mutex = FieldMutexPolicy.load(out / "mutex.zip", "cpu")
    scales = np.array([skill.action_scale * 2 for skill in SKILLS])
    np.testing.assert_allclose(mutex.units.ratio, scales / (ENV_ACTION_SCALE * 2), rtol=1e-6)
    env = CourseVecEnv(3, seed=0, course=SHORT)
    obs, state = env.reset_tensor(), None
    for _ in range(12):
        actions, state = mutex.predict(obs, state)
        number = int(obs["engaging_block"][0].argmax())
        ratio = mutex.units.ratio[number]
        seen = {name: values.clone() for name, values in obs.items()}
        seen["policy"][:, 15:21] /= ratio
        skill: Any = mutex.sub_policies[number]
        expected, _ = skill.predict(seen, deterministic=True)
        np.testing.assert_allclose(actions, (expected * ratio).clamp(-1, 1), atol=1e-5)
        obs = env.step_tensor(actions).obs
    env.close()


@pytest.mark.integration
def test_evaluate_policy_sends_it_along_the_course(out: Path) -> None:
    mutex = FieldMutexPolicy.load(out / "mutex.zip", "cpu")
    env = CourseVecEnv(4, seed=0, course=SHORT)
    returns, lengths = evaluate_policy(mutex, env, 4, return_episode_rewards=True)
    env.close()
    assert lengths == [13] * 4
    assert np.isfinite(returns).all()


def test_the_course_needs_every_skill() -> None:
    assert {part.skill for part in COURSE} == set(range(len(SKILLS)))
    for part in COURSE:
        low, high = SKILLS[part.skill].commands
        assert low <= part.speed <= high
