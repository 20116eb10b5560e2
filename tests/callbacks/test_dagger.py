"""Who drives, who labels, and which student."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, TPPO
from sb3_strl.callbacks import DaggerCollector
from sb3_strl.callbacks.dagger import NewestStudent
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data import RolloutDataset, read_rollouts
from tests.envs.toy import DiscreteToy, PointMass
from tests.objectives.test_teacher import trained

N = 4


def student(folder: Path, number: int = 1, seed: int = 5, alias: str = "MlpPolicy") -> PPO:
    """Write a checkpoint of an untrained student and return it."""
    model = PPO(alias, PointMass(N), n_steps=8, seed=seed, policy_kwargs={"net_arch": [8]})
    model.n_iterations = number
    model.save(folder / f"model_{number}.zip")
    later = time.time_ns() + number * 10**9
    os.utime(folder / f"model_{number}.zip", ns=(later, later))
    return model


def collect(folder: Path, students: Path, p: Any = 0.5, **options: Any) -> DaggerCollector:
    settings: dict[str, Any] = {
        "min_timesteps": 0,
        "min_episodes": 12,
        "rollout_storage_length": 7,
        "seed": 0,
        "load_interval": 0.0,
        **options,
    }
    env, teacher = settings.pop("env", None), settings.pop("teacher", None)
    env = env or PointMass(N, max_episode_length=9)
    with DaggerCollector(env, teacher or trained(), folder, students, p, **settings) as collector:
        collector.run()
    return collector


def rows(folder: Path) -> dict[str, np.ndarray]:
    dataset = RolloutDataset(folder, 1, device="cpu")
    steps = list(dataset)
    found = {
        name: th.cat([step.extras[name] for step in steps]).numpy() for name in steps[0].extras
    }
    for name in ("observation", "privileged_observation", "action", "done"):
        found[name] = th.cat([step.named()[name] for step in steps]).numpy()
    return found


def mode(model: Any, found: dict[str, np.ndarray]) -> np.ndarray:
    obs = {
        "policy": th.from_numpy(found["observation"]),
        "critic": th.from_numpy(found["privileged_observation"]),
    }
    return model.policy.act(obs)[0].detach().clamp(-1, 1).numpy()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_label_is_always_the_teachers(tmp_path: Path, p: float) -> None:
    teacher, model = trained(), student(tmp_path)
    collect(tmp_path / "data", tmp_path, p, teacher=teacher, action_sample_std=1e-6)
    found = rows(tmp_path / "data")
    labels = mode(teacher, found)
    assert np.allclose(found["teacher_actions"], labels, atol=1e-5)
    driver = labels if p else mode(model, found)
    assert np.allclose(found["action"], driver, atol=1e-4)
    assert found["from_teacher"].all() == bool(p)
    assert not np.allclose(labels, mode(model, found), atol=0.01)


def test_both_drive_and_change_with_the_episode_only(tmp_path: Path) -> None:
    teacher, model = trained(), student(tmp_path)
    collect(tmp_path / "data", tmp_path, 0.5, teacher=teacher, action_sample_std=1e-6)
    found = rows(tmp_path / "data")
    by_teacher = found["from_teacher"]
    assert 0.2 < by_teacher.mean() < 0.8
    expected = np.where(by_teacher[:, None], mode(teacher, found), mode(model, found))
    assert np.allclose(found["action"], expected, atol=1e-4)
    changed = by_teacher[1:] != by_teacher[:-1]
    assert changed.any()
    assert found["done"][:-1][changed].all()


def test_without_a_student_the_teacher_drives(tmp_path: Path) -> None:
    collector = collect(tmp_path / "data", tmp_path / "nowhere", 0.0)
    found = rows(tmp_path / "data")
    assert found["from_teacher"].all()
    assert np.array_equal(found["action"], found["teacher_actions"])
    assert collector.log_values()["dagger/teacher_act_prob"] == 1.0


def test_the_newest_student_is_taken_at_every_check(tmp_path: Path) -> None:
    collector = collect(tmp_path / "data", tmp_path, 0.0, min_episodes=0)
    collector = DaggerCollector(
        PointMass(N), trained(), tmp_path / "more", tmp_path, 0.0, min_episodes=99
    )
    with collector:
        assert collector.student is None
        for number in (1, 10, 9):  # written in this order; 10 is the newest
            model = student(tmp_path, number, seed=number)
            assert not collector.check_stop()
            newest = number if number != 9 else 10
            assert collector.newest.path == tmp_path / f"model_{newest}.zip"
            assert collector.newest.n_updates == newest
            assert collector.student is not None
            if number == newest:
                obs = PointMass(N).reset_tensor()
                starts = th.ones(N, dtype=th.bool)
                own = model.policy.act(obs)[0].detach().clamp(-1, 1)
                assert th.equal(collector.student.act(obs, starts), own)
        taken = collector.student
        assert not collector.reload()
        assert collector.student is taken
        collector.record_step()


def test_the_schedule_counts_the_students_updates(tmp_path: Path) -> None:
    student(tmp_path, 3)
    asked: list[int] = []

    def p(k: int) -> float:
        asked.append(k)
        return 0.5

    collect(tmp_path / "data", tmp_path, p)
    assert set(asked) == {3}


def test_a_student_keeps_its_memory_when_it_is_replaced(tmp_path: Path) -> None:
    student(tmp_path, 1, alias="MlpGruPolicy")
    with DaggerCollector(PointMass(N), trained(), tmp_path / "d", tmp_path, 0.0) as collector:
        collector.reload()
        for _ in range(3):
            collector.record_step()
        before = collector.student.state
        student(tmp_path, 2, alias="MlpGruPolicy")
        assert collector.reload()
        assert collector.student.state is before
        student(tmp_path, 3, alias="MlpPolicy")
        assert collector.reload()
        collector.record_step()


def test_a_checkpoint_that_is_being_written_is_tried_again(tmp_path: Path) -> None:
    student(tmp_path, 1)
    whole = (tmp_path / "model_1.zip").read_bytes()
    (tmp_path / "model_1.zip").write_bytes(whole[: len(whole) // 2])
    newest = NewestStudent(tmp_path, th.device("cpu"), attempts=50, interval=0.02)
    timer = threading.Timer(0.1, (tmp_path / "model_1.zip").write_bytes, (whole,))
    timer.start()
    assert newest.load() is not None
    timer.join()


def test_a_damaged_checkpoint_does_not_stop_the_collection(tmp_path: Path) -> None:
    student(tmp_path, 1)
    newest = NewestStudent(tmp_path, th.device("cpu"), attempts=3, interval=0.0)
    assert newest.load() is not None
    (tmp_path / "model_2.zip").write_bytes(b"PK nothing")
    os.utime(tmp_path / "model_2.zip", (time.time() + 99,) * 2)
    with pytest.warns(UserWarning, match="cannot be read after 3 attempts.*The one before goes on"):
        assert newest.load() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest.load() is None  # once is enough
    student(tmp_path, 200)
    assert newest.load() is not None
    assert newest.n_updates == 200


def test_a_collection_trains_a_student_on_labels(tmp_path: Path) -> None:
    student(tmp_path)
    collect(tmp_path / "data", tmp_path, 0.0)
    model = TPPO(
        "MlpPolicy",
        PointMass(N),
        pretrain_dataset=tmp_path / "data",
        pretrain_iterations=-1,
        distill_target="mse_sum",
        n_steps=8,
        seed=0,
    )
    model.learn(32)
    buffer = model.rollout_buffer
    assert not th.allclose(buffer["teacher/actions"], buffer["actions"])
    labelled = next(read_rollouts(tmp_path / "data", actions="teacher_actions"))
    assert not np.allclose(labelled.acts, next(read_rollouts(tmp_path / "data")).acts)


def test_a_second_collection_draws_anew(tmp_path: Path) -> None:
    student(tmp_path)
    first = collect(tmp_path / "data", tmp_path, min_episodes=4, seed=3)
    again = collect(tmp_path / "data", tmp_path, min_episodes=8, seed=3)
    assert first.generator.initial_seed() == 3 != again.generator.initial_seed()
    found = rows(tmp_path / "data")
    begun = found["observation"][np.r_[True, found["done"][:-1]]]
    assert len(np.unique(begun, axis=0)) == len(begun)


def test_noise_is_what_was_asked_for(tmp_path: Path) -> None:
    model = student(tmp_path)
    collect(tmp_path / "data", tmp_path, 0.0, action_sample_std=0.1, min_episodes=60)
    found = rows(tmp_path / "data")
    noise = found["action"] - mode(model, found)
    assert noise.std() == pytest.approx(0.1, rel=0.1)


def test_numbers_are_actions_too(tmp_path: Path) -> None:
    def make() -> DiscreteToy:
        return DiscreteToy(spaces.Discrete(3), N)

    PPO("MlpPolicy", make(), n_steps=8, seed=3).save(tmp_path / "model_1.zip")
    teacher = PPO("MlpPolicy", make(), n_steps=8, seed=4)
    collect(tmp_path / "data", tmp_path, 0.5, env=make(), teacher=teacher)
    found = next(read_rollouts(tmp_path / "data", actions="teacher_actions"))
    assert found.acts.dtype == np.int64


def test_the_log_goes_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    student(tmp_path)
    collect(tmp_path / "data", tmp_path, log_to_tensorboard=True)
    assert list((tmp_path / "data" / "log").glob("events*"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"action_sample_std": -1.0}, StrlValueError, "action_sample_std is -1.0"),
        ({"load_attempts": 0}, StrlValueError, "load_attempts=0"),
        ({"p": "sometimes"}, StrlValueError, "sometimes"),
        ({"teacher": object()}, StrlTypeError, "DaggerCollector: the policy is"),
    ],
)
def test_options_that_cannot_work(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        collect(tmp_path / "data", tmp_path, **options)
