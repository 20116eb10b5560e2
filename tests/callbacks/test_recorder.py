"""Demonstrations: what happened is what is loaded, whatever happens in between."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from sb3_strl import PPO
from sb3_strl.callbacks import DemonstrationRecorder
from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.data import RolloutDataset, read_rollouts
from tests.envs.recall import Recall
from tests.envs.toy import CounterEnv, DiscreteToy, NanEnv, PointMass
from tests.objectives.test_teacher import trained

ROOT = Path(__file__).parents[2]


class Fixed:
    """Something with ``predict``; does the same whatever it sees, and remembers what that was."""

    def __init__(self, action: float = 0.25, size: int = 1) -> None:
        self.action, self.size = action, size
        self.calls: list[tuple[Any, Any, np.ndarray, bool]] = []

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        self.calls.append((observation, state, np.array(episode_start), deterministic))
        n = len(episode_start)
        return np.full((n, self.size), self.action, np.float32), (0 if state is None else state + 1)


def record(folder: Path, env: Any = None, policy: Any = None, **options: Any) -> Any:
    settings = {"min_timesteps": 0, "min_episodes": 6, "rollout_storage_length": 5, **options}
    env = CounterEnv(3) if env is None else env
    with DemonstrationRecorder(env, policy or Fixed(), folder, **settings) as recorder:
        recorder.run()
    return recorder


class Tape(CounterEnv):
    """Keeps every step it returned."""

    def __init__(self, n_envs: int = 3, **options: Any) -> None:
        super().__init__(n_envs, **options)
        self.tape: list[Any] = []
        self.actions: list[th.Tensor] = []

    def step_tensor(self, actions: th.Tensor) -> Any:
        step = super().step_tensor(actions)
        self.tape.append(step)
        self.actions.append(actions.clone())
        return step


def test_what_happened_is_what_is_loaded(tmp_path: Path) -> None:
    env = Tape(with_critic=True)
    model = PPO("MlpPolicy", CounterEnv(3, with_critic=True), n_steps=4, seed=0)
    recorder = record(tmp_path, env, model.policy, min_episodes=7)
    found = list(read_rollouts(tmp_path, ("policy", "critic")))
    assert len(found) == recorder.writer.total_trajectories >= 7
    seen = set()
    for trajectory in found:
        obs = trajectory.obs
        index, episode, _ = obs["policy"][0]
        seen.add((index, episode))
        assert (obs["policy"][:, 2] == np.arange(len(trajectory) + 1)).all()
        assert (obs["policy"][:, :2] == (index, episode)).all()  # the last one, too
        assert np.allclose(obs["critic"], obs["policy"] * 10)
        assert np.allclose(trajectory.rews, index + np.arange(1, len(trajectory) + 1) / 100)
        whole = len(trajectory) == 3 + int(index)
        assert trajectory.terminal == (whole and index % 2 == 1)
        own, _ = model.policy.act({k: th.from_numpy(v[:-1]) for k, v in obs.items()})
        assert np.allclose(trajectory.acts, own.detach().clamp(-1, 1).numpy(), atol=1e-6)
    assert len(seen) == len(found)
    frames = sum(len(t) for t in found)
    assert frames == recorder.num_timesteps == len(env.tape) * 3  # nothing is lost or twice


def test_actions_are_stored_as_the_environment_was_given_them(tmp_path: Path) -> None:
    env = Tape()
    record(tmp_path, env, Fixed(7.0))
    assert all((actions == 1.0).all() for actions in env.actions)
    assert all((t.acts == 1.0).all() for t in read_rollouts(tmp_path))


def test_metadata_says_what_there_is(tmp_path: Path) -> None:
    recorder = record(tmp_path, PointMass(3), Fixed(0.1, 2), config={"task": "walk"})
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["config"] == {
        "recorder": "DemonstrationRecorder",
        "groups": ["critic", "policy", "ref_motion", "ref_obs"],
        "task": "walk",
    }
    assert metadata["total_timesteps"] == recorder.num_timesteps
    assert metadata["total_trajectories"] == recorder.total_episodes
    assert list(metadata["obs_segments"]["policy"]) == ["pos", "vel", "phase", "extra"]
    assert metadata["fields"]["amp_valid"] == [[], "bool"]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_configuration_may_come_late(tmp_path: Path) -> None:
    with DemonstrationRecorder(CounterEnv(3), Fixed(), tmp_path, 4, 0, 3) as recorder:
        assert recorder.run({"note": 1}) == tmp_path
        with pytest.raises(StrlTypeError, match="cannot be written as JSON"):
            recorder.run({"note": object()})
    assert json.loads((tmp_path / "metadata.json").read_text())["config"]["note"] == 1


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"keep": "all", "save_partial": False}, {True, False}),
        ({"keep": "truncated"}, {True}),
        ({"success_traj_only": True}, {True}),
        ({"keep": "terminated"}, {False}),
        ({"keep": lambda summary: summary.length == 4}, {False}),
    ],
)
def test_kept_are_those_that_were_asked_for(tmp_path: Path, options: Any, ends: set[bool]) -> None:
    # Environments 0 and 2 run out of time after 3 and 5 steps, environment 1 falls after 4.
    recorder = record(tmp_path, min_episodes=8, **options)
    found = list(read_rollouts(tmp_path))
    assert {not t.terminal for t in found} == ends
    assert len(found) == recorder.total_episodes >= 8
    assert recorder.total_timesteps == sum(len(t) for t in found)
    steps = recorder.num_timesteps // 3
    expected = {3: steps // 3, 4: steps // 4, 5: steps // 5}
    lengths = [len(t) for t in found]
    for length, count in expected.items():
        wanted = (length % 2 == 1) in ends
        assert lengths.count(length) == (count if wanted else 0)
    dropped = sum(expected.values()) - len(found)
    assert recorder.writer.discarded_trajectories == dropped


@pytest.mark.parametrize("save_partial", [True, False])
def test_stops_when_there_is_enough_of_both(tmp_path: Path, save_partial: bool) -> None:
    recorder = record(tmp_path / "a", min_timesteps=100, min_episodes=0, save_partial=save_partial)
    assert 100 <= recorder.total_timesteps < 100 + 3 * 5 + 12
    recorder = record(tmp_path / "b", min_timesteps=3, min_episodes=9, save_partial=save_partial)
    assert recorder.total_episodes >= 9
    nothing = record(tmp_path / "c", keep="terminated", min_episodes=99, max_timesteps=30)
    assert nothing.num_timesteps == 30


def test_episodes_without_end_count_as_they_grow(tmp_path: Path) -> None:
    env = CounterEnv(2, first_length=10**5)
    recorder = record(tmp_path, env, min_timesteps=50, min_episodes=0)
    assert recorder.num_timesteps == 50
    assert recorder.total_episodes == 2  # cut, and kept at the end


def test_a_second_recording_goes_on_with_the_first(tmp_path: Path) -> None:
    first = record(tmp_path, min_episodes=6)
    again = record(tmp_path, min_episodes=6)
    assert again.num_timesteps == 0
    more = record(tmp_path, min_episodes=20)
    found = list(read_rollouts(tmp_path))
    assert len(found) == more.total_episodes >= 20
    assert sum(len(t) for t in found) == first.num_timesteps + more.num_timesteps


def test_a_second_recording_is_of_other_episodes(tmp_path: Path) -> None:
    def starts(name: str) -> list[bytes]:
        return [t.obs["policy"][0].tobytes() for t in read_rollouts(tmp_path / name, ("policy",))]

    def make(seed: int) -> PointMass:
        return PointMass(3, seed=seed)

    for n_episodes in (3, 6, 9):
        record(tmp_path / "a", make(n_episodes), Fixed(0.1, 2), min_episodes=n_episodes, seed=4)
    assert len(set(starts("a"))) == len(starts("a")) >= 9
    record(tmp_path / "b", make(0), Fixed(0.1, 2), min_episodes=3, seed=4)
    assert starts("b") == starts("a")[: len(starts("b"))]


def test_another_environment_is_refused_even_if_there_is_enough(tmp_path: Path) -> None:
    record(tmp_path, config={"task": "count"})
    before = (tmp_path / "metadata.json").read_text()
    with pytest.raises(StrlValueError, match=r"holds frames of \{'obs/policy': \(3,\)"):
        record(tmp_path, DiscreteToy(spaces.Discrete(3), 3), min_episodes=1)
    with pytest.raises(StrlValueError, match="Expected the same"):
        record(tmp_path, CounterEnv(3, with_critic=True), min_episodes=1)
    assert (tmp_path / "metadata.json").read_text() == before


@pytest.mark.parametrize(("limit", "steps"), [(1, 3), (7, 9), (30, 30)])
def test_the_limit_of_steps_is_kept(tmp_path: Path, limit: int, steps: int) -> None:
    assert record(tmp_path, min_episodes=99, max_timesteps=limit).num_timesteps == steps


KILLED = """
import os, sys
from tests.callbacks.test_recorder import CounterEnv, DemonstrationRecorder, Fixed

class Deadly(CounterEnv):
    steps = 0
    def step_tensor(self, actions):
        self.steps += 1
        if self.steps == 13:
            os._exit(9)
        return super().step_tensor(actions)

DemonstrationRecorder(Deadly(3), Fixed(), sys.argv[1], 5, 0, 99).run()
"""


@pytest.mark.integration
def test_a_killed_recording_loses_only_what_was_in_memory(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False, cwd=ROOT
    )
    assert done.returncode == 9
    recorder = record(tmp_path, min_episodes=12)
    found = list(read_rollouts(tmp_path))
    assert len(found) == recorder.total_episodes
    frames = sum(len(t) for t in found)
    assert frames == recorder.total_timesteps == 10 * 3 + recorder.num_timesteps
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["total_timesteps"] == frames
    assert not list(tmp_path.glob(".trajectory*"))


def test_an_exception_keeps_what_was_remembered(tmp_path: Path) -> None:
    def interrupted() -> None:
        with DemonstrationRecorder(CounterEnv(3), Fixed(), tmp_path, 64) as recorder:
            for _ in range(4):
                recorder.record_step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sum(len(t) for t in read_rollouts(tmp_path)) == 12


def test_nan_is_refused_and_the_rest_is_whole(tmp_path: Path) -> None:
    env = NanEnv(4, bad_step=12, groups=("policy",))
    with pytest.raises(NonFiniteError, match="'obs/policy' holds NaN"):
        record(tmp_path, env, Fixed(0.1, 2))
    assert sum(len(t) for t in read_rollouts(tmp_path)) == 40


class Hiccup(Tape):
    """Says NaN once, as a reward of the sixth step."""

    def step_tensor(self, actions: th.Tensor) -> Any:
        step = super().step_tensor(actions)
        step.rewards[1] = math.nan if len(self.tape) == 6 else step.rewards[1]
        return step


# Episodes of 3, 4 and 5 steps. Of the first 4 steps 12 frames are kept, or 7 if only whole episodes
# are; steps 5 to 8 are lost; of the 8 after the restart it is 24, or 3 + 3 + 4 + 4 + 5.
@pytest.mark.parametrize(("save_partial", "n_frames"), [(True, 12 + 24), (False, 7 + 19)])
def test_no_trajectory_spans_lost_steps(tmp_path: Path, save_partial: bool, n_frames: int) -> None:
    policy = Fixed()
    options: Any = {"save_partial": save_partial, "max_timesteps": 48, "seed": 3}
    with DemonstrationRecorder(Hiccup(3), policy, tmp_path, 4, **options) as recorder:
        with pytest.raises(NonFiniteError, match="'rewards' holds NaN"):
            recorder.run()
        recorder.run()
        assert {episode["l"] for episode in recorder.episodes} == {3, 4, 5}
        assert not math.isnan(recorder.log_values()["Episode/return_mean"])
    found = [t.obs for t in read_rollouts(tmp_path)]
    for obs in found:
        assert [row.tolist() for row in obs] == [[*obs[0, :2], t] for t in range(len(obs))]
    assert sum(len(obs) - 1 for obs in found) == n_frames
    assert [t for t, call in enumerate(policy.calls) if call[2].all()] == [0, 8]  # memory, too


def test_images_take_one_byte_and_come_back_within_half_a_step(tmp_path: Path) -> None:
    env = PointMass(3, groups=("policy",))
    mapping = {"extra": "normalized_image"}
    env.observe = lambda: {"policy": th.cat([env.pos, env.vel, env.rand(4)], -1)}  # type: ignore[method-assign]
    seen: list[th.Tensor] = []
    policy = Fixed(0.1, 2)
    record(tmp_path, env, policy, min_episodes=3, obs_disassemble_mapping=mapping)
    seen = [call[0]["policy"] for call in policy.calls]
    shard = np.load(next(tmp_path.glob("trajectory_0/*.npz")), allow_pickle=False)
    assert shard["obs/policy/extra"].dtype == np.uint8
    rows = np.concatenate([t.obs[:-1] for t in read_rollouts(tmp_path)])
    given = np.concatenate(seen)
    order, given_order = np.lexsort(rows[:, :2].T), np.lexsort(given[:, :2].T)
    error = np.abs(rows[order] - given[given_order])
    assert error[:, :6].max() == 0
    assert 0 < error[:, 6:].max() <= 1 / 510 + 1e-6


def test_a_policy_with_memory_sees_episodes(tmp_path: Path) -> None:
    policy = Fixed()
    record(tmp_path, policy=policy)
    observation, state, starts, deterministic = policy.calls[0]
    assert (state, deterministic) == (None, True)
    assert starts.all()
    assert policy.calls[5][1] == 4
    assert policy.calls[3][2].tolist() == [True, False, False]  # it ended after 3 steps
    assert (observation["policy"][:, 2] == 0).all()
    sampled = Fixed()
    record(tmp_path, policy=sampled, min_episodes=20, demo_by_sample=True)
    assert not sampled.calls[0][3]


def test_memory_is_that_of_single_steps(tmp_path: Path) -> None:
    env = Recall(4)
    model = PPO("MlpGruPolicy", Recall(4), n_steps=8, seed=0).learn(64)
    record(tmp_path, env, model, min_episodes=8, save_partial=False)
    for trajectory in read_rollouts(tmp_path):
        state: Any = model.policy.initial_state(1)
        for obs, action in zip(trajectory.obs, trajectory.acts, strict=False):
            own, state = model.policy.act({"policy": th.from_numpy(obs[None])}, state)
            assert np.allclose(own[0].detach().clamp(-1, 1).numpy(), action, atol=1e-5)


def test_sb3_policies_and_environments(tmp_path: Path) -> None:
    venv = make_vec_env("Pendulum-v1", 2, seed=0)
    model = sb3.PPO("MlpPolicy", venv, n_steps=16, seed=0)
    recorder = record(tmp_path, venv, model, min_episodes=2, rollout_storage_length=64, seed=3)
    found = list(read_rollouts(tmp_path))
    assert recorder.total_episodes == len(found) >= 2
    whole = [t for t in found if len(t) == 200]
    assert len(whole) == 2
    assert not any(t.terminal for t in whole)
    for trajectory in whole:
        own, _ = model.predict(trajectory.obs[:-1], deterministic=True)
        assert np.allclose(own, trajectory.acts, atol=1e-5)


def test_numbers_are_actions_too(tmp_path: Path) -> None:
    env = DiscreteToy(spaces.Discrete(3), 4)
    model = PPO("MlpPolicy", DiscreteToy(spaces.Discrete(3), 4), n_steps=8, seed=0)
    record(tmp_path, env, model, min_episodes=4)
    trajectory = next(read_rollouts(tmp_path))
    assert trajectory.acts.dtype == np.int64
    assert trajectory.acts.shape == (5,)
    step = RolloutDataset(tmp_path, 2, device="cpu").get_batch()
    assert step.action.dtype == th.int64


def test_teachers_of_every_kind(tmp_path: Path) -> None:
    source = trained()  # reads the critic's group
    source.save(tmp_path / "model.zip")
    for number, policy in enumerate((source, source.policy, tmp_path / "model.zip")):
        folder = tmp_path / str(number)
        record(folder, PointMass(3), policy, min_episodes=3)
        trajectory = next(read_rollouts(folder, ("policy", "critic")))
        obs = {k: th.from_numpy(v[:-1]) for k, v in trajectory.obs.items()}
        own = source.policy.act(obs)[0].detach().clamp(-1, 1).numpy()
        assert np.allclose(own, trajectory.acts, atol=1e-5)


def test_a_policy_of_one_vector_sees_the_group_it_is_shown(tmp_path: Path) -> None:
    critic = sb3.PPO("MlpPolicy", VecMonitor(_plain(9)), n_steps=8, seed=0)
    record(tmp_path, PointMass(3), critic, min_episodes=3, use_critic_obs=True)
    trajectory = next(read_rollouts(tmp_path, "critic"))
    own, _ = critic.predict(trajectory.obs[:-1], deterministic=True)
    assert np.allclose(own, trajectory.acts, atol=1e-5)


def _plain(width: int) -> Any:
    from tests.envs.toy import Balance, box

    env = Balance(3)
    env.observation_space, env.action_space = box(width), box(2, bound=1.0)
    return env


def test_some_groups_only(tmp_path: Path) -> None:
    record(tmp_path, PointMass(3), Fixed(0.1, 2), groups=("policy",))
    shard = np.load(next(tmp_path.glob("trajectory_0/*.npz")), allow_pickle=False)
    assert {n.split("/")[1] for n in shard.files if "/" in n} == {"policy"}


def test_the_log_is_a_table_even_if_nothing_has_ended(tmp_path: Path) -> None:
    with DemonstrationRecorder(CounterEnv(3), Fixed(), tmp_path, 2, 0, 99) as recorder:
        stream = io.StringIO()
        recorder.print_log(stream)
        assert "Episode" not in stream.getvalue()
        for _ in range(6):
            recorder.record_step()
        recorder.flush()
        values = recorder.log_values()
        assert (values["Episode/length_min"], values["Episode/length_max"]) == (3, 5)
        assert values["time/total_episodes"] == 4
        recorder.print_log(stream)
        assert "Episode/return_mean" in stream.getvalue()
        recorder.dump_metadata()


def test_a_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    record(tmp_path, progress_bar=True)
    assert "episodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rollout_storage_length": 0}, StrlValueError, "rollout_storage_length=0"),
        ({"min_episodes": -1}, StrlValueError, "min_episodes=-1"),
        ({"max_timesteps": 0}, StrlValueError, "max_timesteps=0"),
        ({"success_traj_only": True, "keep": "all"}, StrlValueError, "Expected one of them"),
        ({"keep": "some"}, StrlValueError, "keep='some'"),
        ({"groups": ("polcy",)}, StrlTypeError, "Did you mean 'policy'"),
        ({"policy": object()}, StrlTypeError, r"Expected a policy or an algorithm, something"),
        ({"use_critic_obs": True}, StrlValueError, "reads groups by their names"),
    ],
)
def test_options_that_cannot_work(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        record(tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_policies_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"actions are Box.*those of the environment"):
        record(tmp_path, CounterEnv(3), trained())
    with pytest.raises(StrlKeyError, match="reads the observation group 'critic'"):
        record(tmp_path, PointMass(3, groups=("policy",)), trained())
