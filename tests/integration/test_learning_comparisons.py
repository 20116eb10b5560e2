"""The comparisons of learning run, and measure what their pages say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch as th

from benchmarks import estimation, learning, teacher_student
from benchmarks.hidden_walker import (
    GROUPS,
    LAGS,
    TRUTH,
    evaluate,
    group_sets,
    make_robots,
    safe_speed,
)
from benchmarks.learning import Interval, Place, Run, interval, iqm
from sb3_strl import PPO, TPPO, EstimatorTPPO
from sb3_strl.buffers.presets import ON_POLICY
from sb3_strl.policies import StrlPolicy, load_policy, save_policy

TINY = {"n_steps": 4, "n_epochs": 1, "n_minibatches": 1, "device": "cpu", "seed": 0}


# ------------------------------------------------------------------ statistics


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert iqm(np.array([100.0, 1.0, 2.0, 3.0, -50.0])) == pytest.approx(2.0)
    assert iqm(np.array([[4.0, 2.0], [0.0, 1.0]])).tolist() == [3.0, 0.5]


def test_interval_is_that_of_rliable(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        from rliable import library, metrics
    except (ImportError, TypeError):  # TypeError: of arch < 8 beside pandas 3
        pytest.skip("rliable is not there, or does not go with what is")
    base = library.StratifiedBootstrap.__mro__[1]
    original = base.__init__

    def without_random_state(self, *args, random_state=None, **kwargs) -> None:
        original(self, *args, **kwargs)  # arch 8 calls it otherwise; rliable draws from NumPy's

    monkeypatch.setattr(base, "__init__", without_random_state)
    scores = np.random.default_rng(1).normal(size=(5, 2))
    mine = interval(scores)
    _, theirs = library.get_interval_estimates(
        {"arm": scores}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=4000
    )
    assert mine.point == pytest.approx(metrics.aggregate_iqm(scores))
    assert (mine.low, mine.high) == pytest.approx(theirs["arm"][:, 0], abs=0.08)


def test_interval_of_equal_seeds_is_a_point() -> None:
    assert interval([3.0, 3.0, 3.0]) == Interval(3.0, 3.0, 3.0)
    assert f"{Interval(1.0, 0.5, 2.0):.1f}" == "1.0 [0.5, 2.0]"


def test_interval_covers_the_spread_of_seeds() -> None:
    estimate = interval([0.0, 1.0, 2.0, 3.0, 4.0])
    assert estimate.point == pytest.approx(2.0)
    assert 0.0 <= estimate.low < 1.0
    assert 3.0 < estimate.high <= 4.0


def test_crossing_is_interpolated_and_may_never_come() -> None:
    curve = [(0, 0.0), (100, 10.0), (200, 30.0)]
    assert teacher_student.first_crossing(curve, 20.0) == pytest.approx(150.0)
    assert teacher_student.first_crossing(curve, -1.0) == 0.0
    assert teacher_student.first_crossing(curve, 31.0) is None


# ------------------------------------------------------------------ rows and pages


def test_line_that_was_cut_off_is_no_finished_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    learning.append_row(path, {"arm": "a", "seed": 0})
    with path.open("a") as file:
        file.write('{"arm": "b", "se')
    assert learning.read_rows(path) == [{"arm": "a", "seed": 0}]
    assert learning.read_rows(tmp_path / "nothing") == []


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, ran = Place(tmp_path), []
    learning.append_row(place.rows, {"arm": "a", "seed": 0})

    def note(script: str, run: Run, place: Place, extra: list[str]) -> int:
        del script, place, extra
        ran.append(run)
        return int(run.arm == "broken")

    monkeypatch.setattr(learning, "_run_process", note)
    stages = [[Run("a", 0), Run("a", 1)], [Run("b", 0)]]
    learning.run_processes("script", stages, place, jobs=2, extra=[])
    assert sorted(ran, key=lambda run: run.arm) == [Run("a", 1), Run("b", 0)]
    with pytest.raises(RuntimeError, match=r"runs failed. See .*broken-seed0.log"):
        learning.run_processes("script", [[Run("broken", 0)]], place, jobs=1, extra=[])


def test_section_of_a_page_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    learning.write_section(page, "a", "new")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    learning.write_section(page, "b", "more")
    assert "<!-- b -->\nmore\n<!-- /b -->" in page.read_text()


# ------------------------------------------------------------------ robots


def test_groups_hold_what_their_segments_say() -> None:
    env = make_robots(4, 0, randomized=True)
    env.reset_tensor()
    step = env.step_tensor(th.zeros(4, 6))
    assert {name: value.shape[1] for name, value in step.obs.items()} == {
        name: sum(shape[0] for shape in parts.values()) for name, parts in GROUPS.items()
    }
    th.testing.assert_close(step.obs["velocity"], env._state[:, 10:12])
    th.testing.assert_close(step.obs["height"], env._state[:, 2:3])
    models = [env.physics.pool.models[i] for i in env.physics.model_ids]
    sole = int(np.flatnonzero(models[0].geom_priority == 1)[0])
    friction = [model.geom_friction[sole, 0] for model in models]
    assert step.obs["parameters"][:, 0].numpy() == pytest.approx(friction)
    assert len(set(friction)) > 1
    env.close()


def test_nominal_robots_are_alike_but_sense_as_badly_as_the_others() -> None:
    env, other = (make_robots(4, 0, randomized=randomized) for randomized in (False, True))
    parameters = env.reset_tensor()["parameters"]
    th.testing.assert_close(parameters, th.tensor([[0.9, 0.0]]).expand(4, 2))
    mine, theirs = env.domain_randomization, other.domain_randomization
    assert mine.noise_joint_pos == theirs.noise_joint_pos > 0.0
    env.close()
    other.close()


def test_safe_speed_keeps_the_momentum() -> None:
    parameters = th.tensor([[0.9, 0.0], [0.2, 70.0], [0.9, -35.0]])
    assert safe_speed(parameters)[:, 0].tolist() == pytest.approx([1.0, 0.5, 2.0])


def test_robot_is_paid_for_the_safe_speed_and_told_the_command_alone() -> None:
    env = make_robots(64, 0, randomized=True)
    obs = env.reset_tensor()
    start = sum(shape[0] for shape in list(GROUPS["policy"].values())[:-1])
    told = obs["policy"][:, start:]
    assert ((told > 1.1 - 1e-5) & (told < 1.3 + 1e-5)).all()
    th.testing.assert_close(env._commands, told * safe_speed(obs["parameters"]))
    assert th.corrcoef(th.stack((told[:, 0], obs["parameters"][:, 1])))[0, 1].abs() < 0.3
    env.close()


def test_history_is_what_was_sensed_and_begins_anew_with_an_episode() -> None:
    env = make_robots(4, 0, randomized=True)
    env.min_height = 0.75  # some fall soon, some not at all
    seen = [env.reset_tensor()["policy"][:, :-1]]
    begin = th.zeros(4, dtype=th.long)
    fell = 0
    for i in range(1, 60):
        step = env.step_tensor(th.zeros(4, 6))
        assert step.final_obs is not None
        done = step.terminated | step.truncated
        ended = step.final_obs["policy"][:, :-1]
        for obs, frame, first in (
            (step.final_obs, ended, begin),
            (step.obs, step.obs["policy"][:, :-1], th.where(done, i, begin)),
        ):
            frames = th.stack([*seen, frame])
            for j, lag in enumerate(LAGS):
                at = th.maximum(th.full((4,), i - lag), first)
                mine = obs["history"].view(4, len(LAGS), -1)[:, j]
                assert th.equal(mine, frames[at, th.arange(4)])
        begin = th.where(done, i, begin)
        seen.append(step.obs["policy"][:, :-1])
        fell += int(step.terminated.sum())
    assert fell > 0
    env.close()


def test_truth_has_no_noise() -> None:
    env = make_robots(64, 0, randomized=True)
    obs = env.reset_tensor()
    joints = env._state[:, 4:10] - env._nominal
    th.testing.assert_close(obs["clean"][:, 3:9], joints)
    error = (obs["policy"] - obs["clean"])[:, 3:9].abs()
    assert 0.002 < float(error.max()) <= 0.0025 + 1e-6  # a quarter of the task's 0.01 rad
    env.close()


def test_robots_continue_bit_for_bit() -> None:
    env = make_robots(8, 0, randomized=True)
    env.reset_tensor()
    for _ in range(3):
        env.step_tensor(th.full((8, 6), 0.3))
    state = env.get_state()
    first = env.step_tensor(th.zeros(8, 6))
    env.set_state(state)
    second = env.step_tensor(th.zeros(8, 6))
    assert all(th.equal(first.obs[name], second.obs[name]) for name in GROUPS)
    env.close()


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    env = make_robots(4, 0, randomized=True)
    sets = group_sets(TRUTH)
    model = PPO("MlpPolicy", env, policy_kwargs={"net_arch": [8], "obs_groups": sets}, **TINY)
    path = tmp_path / "teacher.zip"
    save_policy(model.policy, path)
    return path


def test_hidden_parameters_reach_the_teacher_and_nobody_else(teacher: Path) -> None:
    env = make_robots(4, 0, randomized=True)
    student = TPPO(
        "EstimatorPolicy",
        env,
        teacher=teacher,
        policy_kwargs={
            **teacher_student.STUDENT_POLICY,
            "obs_groups": group_sets(teacher_student.REMEMBERED),
        },
        **TINY,
    )
    obs = env.reset_tensor()
    changed = {**obs, **{name: obs[name] + 5.0 for name in TRUTH}}
    assert not th.allclose(student.label_actions(obs), student.label_actions(changed))
    starts = th.ones(4, dtype=th.bool)
    before = student.policy.initial_state(4)
    mine = [student.policy.act(o, before, starts, deterministic=True)[0] for o in (obs, changed)]
    assert th.equal(*mine)


# ------------------------------------------------------------------ ratios


@pytest.mark.parametrize("algorithm", [EstimatorTPPO, teacher_student.InvalidRatios])
def test_only_the_ablation_has_ratios_other_than_one(
    algorithm: type[EstimatorTPPO], teacher: Path
) -> None:
    policy_kwargs = {
        "net_arch": [8],
        "obs_groups": group_sets(teacher_student.SENSED),
        "init_noise_std": 0.2,
        "estimator": {"obs_components": ["joint_pos"], "target_components": ["friction"]},
    }
    model = algorithm(
        "EstimatorPolicy",
        make_robots(4, 0, randomized=True),
        teacher=teacher,
        teacher_act_prob=0.5,
        policy_kwargs=policy_kwargs,
        **{**TINY, "learning_rate": 0.0},
    )
    model.learn(4 * 4)
    buffer, policy = model.rollout_buffer, model.policy
    assert isinstance(policy, StrlPolicy)
    obs = {name: value.flatten(0, 1) for name, value in buffer.obs().items()}
    now = policy.action_head.log_prob(policy.action_params(obs), buffer["actions"].flatten(0, 1))
    ratios = (now - buffer["log_probs"].flatten()).exp()
    drove = model.distillation.use_teacher
    assert drove is not None
    assert drove.any()
    mine = (~drove).repeat(4)
    th.testing.assert_close(ratios[mine], th.ones_like(ratios[mine]))
    if algorithm is EstimatorTPPO:
        th.testing.assert_close(ratios, th.ones_like(ratios))
        assert th.equal(buffer[ON_POLICY].flatten(), mine)
    else:
        assert ((ratios[~mine] - 1.0).abs() > 0.01).all()
        assert buffer[ON_POLICY].all()


# ------------------------------------------------------------------ programs


def _report(module: object, place: Place, page: Path, picture: Path) -> str:
    arguments = ["--report", "--seeds", "0", "--out", str(place.folder)]
    module.main([*arguments, "--markdown", str(page), "--plot", str(picture)])  # type: ignore[attr-defined]
    return page.read_text()


@pytest.mark.integration
def test_teacher_and_student_are_trained_and_reported(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    place = Place(tmp_path)
    for arm in teacher_student.ARMS:
        common = ["--smoke", "--out", str(tmp_path)]
        teacher_student.main(["--one", arm, "0", *common])
    rows = {row["arm"]: row for row in learning.read_rows(place.rows)}
    assert set(rows) == set(teacher_student.ARMS)
    assert rows["student"]["clip_fraction"] < rows["invalid"]["clip_fraction"]
    assert len(rows["student"]["curve"]) >= 2
    policy = load_policy(place.policy(Run("dr", 0)), device="cpu")
    assert isinstance(policy, StrlPolicy)
    again = evaluate(policy, n_robots=8, n_steps=10)
    assert rows["dr"]["return"] == pytest.approx(float(again.returns.mean()))
    page = _report(teacher_student, place, tmp_path / "page.md", tmp_path / "p.png")
    assert page.count("| teacher |") == 1
    assert "| as the reference |" in page
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.integration
def test_estimators_are_trained_and_reported(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    place = Place(tmp_path)
    for arm in ("without", "estimator"):
        estimation.main(["--one", arm, "0", "--smoke", "--out", str(tmp_path)])
    rows = {row["arm"]: row for row in learning.read_rows(place.rows)}
    assert rows["estimator"]["r2_forward"] <= 1.0
    assert "r2_forward" not in rows["without"]
    json.dumps(rows)
    page = _report(estimation, place, tmp_path / "page.md", tmp_path / "p.png")
    assert "| estimator |" in page
    assert (tmp_path / "p.png").exists()


def test_unknown_arm_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown arm 'techer'\. Known: .*'teacher'"):
        teacher_student.train(Run("techer", 0), Place(Path()), smoke=True)
