"""Demonstrations of the real imitation: expert of a motion prior, and labels for a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecExtractDictObs

from sb3_strl import APPO, TPPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.data import (
    RolloutDataset,
    TrajectoryFeatures,
    from_imitation,
    to_imitation,
    to_transitions,
    write_imitation,
    write_rollouts,
)
from sb3_strl.data.trajectory import Trajectory, read_rollouts
from tests.data.trajectory_tools import all_same, make_trajectories
from tests.envs.toy import PointMass
from tests.integration.imitation_tools import demonstrate, make_venv

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
pytest.importorskip("imitation")
pytest.importorskip("pyarrow")

SMALL = {"net_arch": [32, 32], "activation": "tanh"}


# ---------------------------------------------------------------------- expert of a motion prior


def numbered(lengths: tuple[int, ...]) -> list[Any]:
    """Trajectories of imitation; observation t of the d-th is (100 d + t, 0, 0, 0)."""
    ours = []
    for number, steps in enumerate(lengths):
        obs = np.zeros((steps + 1, 4), np.float32)
        obs[:, 0] = 100 * number + np.arange(steps + 1)
        ours.append(Trajectory(obs, np.zeros((steps, 2), np.float32)))
    return to_imitation(ours)


def forms(trajectories: list[Any], folder: Path) -> dict[str, Any]:
    """Return the same demonstrations in every form that imitation has."""
    from imitation.data import rollout, serialize

    serialize.save(folder, trajectories)
    return {
        "objects": trajectories,
        "transitions": rollout.flatten_trajectories(trajectories),
        "folder": folder,
        "loaded": serialize.load(folder),
    }


@pytest.mark.parametrize("form", ["objects", "transitions", "folder", "loaded"])
def test_windows_never_leave_their_demonstration(tmp_path: Path, form: str) -> None:
    given = forms(numbered((6, 2, 9)), tmp_path / "demos")[form]
    source = TrajectoryFeatures(from_imitation(given), lambda obs: obs[:, :2], n_frames=4)
    drawn = source.sample_features(2000, th.Generator().manual_seed(0)).view(-1, 4, 2)[..., 0]
    assert th.equal(drawn - drawn[:, :1], th.arange(4.0).expand_as(drawn))
    # Of the second demonstration, which has three observations, no window can be made.
    assert drawn[:, 0].unique().tolist() == [*range(4), *range(200, 207)]


@pytest.fixture(scope="module")
def circles() -> list[Any]:
    """What an expert of the point mass did, as imitation recorded it: features in its groups."""
    from imitation.data import rollout

    env = PointMass(4, seed=3)

    def expert(obs: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.full((len(obs["policy"]), 2), 0.5, np.float32), None

    return list(
        rollout.generate_trajectories(
            expert, env, rollout.make_sample_until(min_episodes=4), rng=np.random.default_rng(0)
        )
    )


def test_a_motion_prior_learns_from_imitations_demonstrations(circles, tmp_path: Path) -> None:
    env = PointMass(4, seed=0)
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    frames, width = space["ref_obs"].shape or (0, 0)

    def newest_frame(obs: Any) -> np.ndarray:
        return np.asarray(obs["ref_obs"])[:, -1]

    source = TrajectoryFeatures(from_imitation(circles), newest_frame, frames)
    model = APPO(
        "AmpPolicy",
        env,
        expert_source=source,
        n_steps=16,
        n_minibatches=2,
        seed=0,
        device="cpu",
        policy_kwargs={**SMALL, "amp_discriminator": {"hidden_dims": [16]}},
    )
    discriminator = model.policy.discriminator
    assert discriminator is not None
    before = [parameter.clone() for parameter in discriminator.parameters()]
    model.learn(128)
    assert any(not th.equal(a, b) for a, b in zip(before, discriminator.parameters(), strict=True))
    # What it was shown as the expert's are windows of the demonstrations.
    shown = model.rollout_buffer["amp/expert"].flatten(0, 1)
    known = source.windows(th.arange(len(source))).flatten(1)
    assert (shown.unsqueeze(1) == known).all(-1).any(-1).all()
    model.save(tmp_path / "model")
    again = APPO.load(tmp_path / "model", env=env, expert_source=source, device="cpu")
    again.learn(64, reset_num_timesteps=False)
    with pytest.raises(StrlValueError, match=r"a TrajectoryFeatures as expert, which its file"):
        APPO.load(tmp_path / "model", env=env, device="cpu").learn(64)
    wrong = TrajectoryFeatures(from_imitation(circles), newest_frame, frames + 1)
    with pytest.raises(StrlValueError, match=rf"{frames * width} numbers per window and the exp"):
        APPO("AmpPolicy", env, expert_source=wrong, n_steps=16, device="cpu")


# ---------------------------------------------------------------------- labels


@pytest.mark.parametrize("form", ["objects", "transitions", "folder", "loaded"])
def test_a_rollout_dataset_reads_what_imitation_recorded(tmp_path: Path, form: str) -> None:
    from imitation.data import rollout, serialize

    demos = demonstrate("CartPole-v1", 2, n_envs=2)
    serialize.save(tmp_path / "demos", demos)
    given = {
        "objects": demos,
        "transitions": rollout.flatten_trajectories_with_rew(demos),
        "folder": tmp_path / "demos",
        "loaded": serialize.load(tmp_path / "demos"),
    }[form]
    trajectories = from_imitation(given)
    folder = write_rollouts(trajectories, tmp_path / "rollouts")
    back = list(read_rollouts(folder))
    assert [len(trajectory) for trajectory in back] == [len(demo) for demo in demos]
    for demo, trajectory in zip(demos, back, strict=True):
        assert np.allclose(demo.obs, trajectory.obs)
        assert np.array_equal(demo.acts, trajectory.acts)
        assert demo.terminal == trajectory.terminal
    steps = list(RolloutDataset(folder, num_envs=2, device="cpu"))
    assert len(steps) == 500
    assert th.equal(steps[7].observation[0], th.as_tensor(demos[0].obs[7]))
    assert steps[7].action[0].ravel().tolist() == [demos[0].acts[7]]
    assert steps[-1].done.all()


def test_a_student_learns_from_imitations_labels(tmp_path: Path) -> None:
    demos = demonstrate("Pendulum-v1", 6)
    folder = write_rollouts(from_imitation(demos), tmp_path / "rollouts")
    model = TPPO(
        "MlpPolicy",
        make_venv("Pendulum-v1"),
        pretrain_dataset=folder,
        pretrain_iterations=-1,
        using_ppo=False,
        distill_target="mse_sum",
        n_steps=128,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        policy_kwargs=SMALL,
    )
    obs = np.concatenate([demo.obs[:-1] for demo in demos])
    acts = np.concatenate([demo.acts for demo in demos])
    before = np.abs(model.predict(obs, deterministic=True)[0] - acts).mean()
    model.learn(20 * 128 * 4)
    assert np.abs(model.predict(obs, deterministic=True)[0] - acts).mean() < 0.6 * before


# ---------------------------------------------------------------------- there and back


def test_what_we_record_trains_behind_imitations_checks(tmp_path: Path) -> None:
    """imitation's BC takes our trajectories, converted, from memory and from our folder."""
    from imitation.data import rollout, serialize, types

    ours = make_trajectories((30, 20), infos=True)
    write_imitation(tmp_path / "ours", ours)
    loaded = serialize.load(tmp_path / "ours")
    assert isinstance(loaded[0], types.TrajectoryWithRew)
    flat = rollout.flatten_trajectories_with_rew(list(loaded))
    ours_flat = to_transitions(ours)
    for field in ("obs", "acts", "next_obs", "dones", "rews"):
        assert np.allclose(getattr(flat, field), getattr(ours_flat, field))
    assert flat.dones.tolist() == [False] * 29 + [True] + [False] * 20
    all_same(ours, from_imitation(to_imitation(from_imitation(to_imitation(ours)))))


def test_a_group_of_named_observations_is_picked_like_sb3_does(circles) -> None:
    """GAIL knows no dictionaries: SB3's wrapper picks a group, and so does a line of NumPy."""
    venv = VecExtractDictObs(PointMass(4, seed=0), "policy")
    picked = [
        Trajectory(t.obs["policy"], t.acts, t.rews, t.terminal, t.infos)
        for t in from_imitation(circles)
    ]
    flat = to_transitions(picked)
    assert flat.obs.shape[1:] == venv.observation_space.shape
