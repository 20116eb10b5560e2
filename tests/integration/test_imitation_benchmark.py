"""The comparison with imitation's GAIL: both see the same, and it writes what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th

from benchmarks import imitation_gail
from benchmarks.learning import Place, Run, read_rows
from examples.demo_training import POLICY
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.policies import EncoderPolicy, load_policy

pytest.importorskip("mujoco")
gail_walker = pytest.importorskip("benchmarks.gail_walker", exc_type=ImportError)
Flat, Grouped = gail_walker.Flat, gail_walker.Grouped

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


def walker(**options: object) -> WalkerVecEnv:
    return WalkerVecEnv(3, seed=0, n_frames=5, n_threads=1, **options)  # type: ignore[arg-type]


def test_groups_survive_the_way_through_rows() -> None:
    plain, there_and_back = walker(), Grouped(Flat(walker()), walker().observation_space)
    first, again = plain.reset(), there_and_back.reset()
    ended = 0
    rng = np.random.default_rng(0)
    for _ in range(80):
        assert isinstance(first, dict)
        assert first.keys() == again.keys()
        for name in first:
            assert np.array_equal(first[name], again[name])
        actions = rng.uniform(-1, 1, (3, 6)).astype(np.float32)
        first, rewards, dones, infos = plain.step(actions)
        again, rewards_again, dones_again, infos_again = there_and_back.step(actions)
        assert np.array_equal(rewards, rewards_again)
        assert np.array_equal(dones, dones_again)
        for env in np.flatnonzero(dones):
            ended += 1
            last, last_again = (i[env]["terminal_observation"] for i in (infos, infos_again))
            assert all(np.array_equal(last[name], last_again[name]) for name in last)
    assert ended > 0


def test_the_demonstrations_are_what_appo_is_shown() -> None:
    env = walker(rsi_prob=1.0, domain_randomization=False)
    flat = Flat(env)
    part, shape = flat.columns["ref_obs"]
    demos = [
        th.from_numpy(demo.obs[:, part]).view(-1, *shape)
        for demo in gail_walker.demonstrations(env, flat)
    ]
    windows = th.cat(demos)
    steps = (windows[1:] - windows[:-1])[: len(demos[0]) - 1].abs().amax()
    for window in env.reset_tensor()["ref_motion"]:
        nearest = (windows - window).abs().flatten(1).amax(1).min()
        assert nearest < steps / 16
    # Consecutive windows of one demonstration share all frames but one.
    assert all(th.allclose(demo[1:, :-1], demo[:-1, 1:], atol=1e-4) for demo in demos)


def test_the_discriminator_sees_the_window_after_the_step_alone() -> None:
    flat = Flat(walker())
    th.manual_seed(0)
    net = gail_walker.WindowRewardNet(flat, (16,)).eval()
    rows = th.randn(4, *(flat.observation_space.shape or ()))
    acts, dones = th.randn(4, 6), th.zeros(4)
    logits = net(rows, acts, rows, dones)
    other = rows.clone()
    other[:, : flat.columns["ref_obs"][0].start] += 1
    other[:, flat.columns["ref_obs"][0].stop :] += 1
    assert th.equal(net(rows + 1, acts + 1, other, dones + 1), logits)
    other[:, flat.columns["ref_obs"][0]] += 1
    assert not th.equal(net(rows, acts, other, dones), logits)


def test_the_generator_is_appos_policy() -> None:
    env = walker()
    policies = []
    for cls in (gail_walker.FlatEncoderPolicy, EncoderPolicy):
        th.manual_seed(0)
        options = {**POLICY, "obs_segments": env.obs_segments}
        policies.append(cls(env.observation_space, env.action_space, lambda _: 1e-3, **options))
    flat = th.from_numpy(Flat(walker()).reset())
    groups = env.reset_tensor()
    actions = th.zeros(3, 6)
    ours, plain = policies[0], policies[1]
    expected = plain.evaluate_actions(groups, actions)
    for given in (flat, groups):
        for found, wanted in zip(ours.evaluate_actions(given, actions), expected, strict=True):
            assert th.equal(found, wanted)


@pytest.mark.parametrize("arm", ["gail", "appo"])
def test_smoke_run_writes_a_row_and_a_policy(tmp_path: Path, arm: str) -> None:
    imitation_gail.main(["--one", arm, "0", "--smoke", "--out", str(tmp_path)])
    (row,) = read_rows(Place(tmp_path).rows)
    assert row["arm"] == arm
    assert row["steps"] == 2048
    for key in imitation_gail.COLUMNS:
        assert np.isfinite(row[key])
    policy = load_policy(Place(tmp_path).policy(Run(arm, 0)), "cpu")
    assert type(policy).__name__ == {"gail": "FlatEncoderPolicy", "appo": "EncoderAmpPolicy"}[arm]
    table = imitation_gail.report([row, {**row, "seed": 1}])
    assert table.count("\n") == 2
    assert f"| {arm} | 2 |" in table
