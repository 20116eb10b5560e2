"""PPO with a teacher, and DAgger."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_strl import TPPO
from sb3_strl.common.errors import NonFiniteError, StrlTypeError, StrlValueError
from tests.envs.toy import PointMass
from tests.host_sync import no_host_sync
from tests.objectives.test_teacher import collect, make, trained


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy", "DeterministicMlpPolicy"])
def test_dagger_leaves_the_critic_alone(policy: str) -> None:
    model = make(
        trained(),
        PointMass(32),
        policy=policy,
        using_ppo=False,
        teacher_act_prob="linear",
        update_times_scale=4,
        learning_rate=3e-3,
        n_epochs=2,
    )
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    model.learn(256 * 2, log_interval=None)
    first = model.logger.name_to_value["distill/l1distance"]
    model.learn(256 * 8, reset_num_timesteps=False, log_interval=None)
    for name, parameter in model.policy.named_parameters():
        rests = name.startswith("critic") or "std_param" in name
        assert th.equal(parameter, before[name]) == rests, name
    logged = model.logger.name_to_value
    assert logged["distill/l1distance"] < 0.9 * first
    assert "train/value_loss" not in logged
    assert (model.rollout_buffer["advantages"] == 0).all()
    assert model.rollout_buffer["on_policy"].all()  # after ten updates the student drives


def test_a_deterministic_student_needs_dagger() -> None:
    with pytest.raises(
        StrlValueError, match=r"Distil a teacher into it with TPPO\(using_ppo=False"
    ):
        make(trained(), policy="DeterministicMlpPolicy")


def test_student_with_its_own_reward_learns_from_both() -> None:
    model = make(trained(), PointMass(16), teacher_act_prob=0.5)
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    model.learn(128 * 3)
    for name, parameter in model.policy.named_parameters():
        assert not th.equal(parameter, before[name]), name
    logged = model.logger.name_to_value
    assert logged["train/policy_gradient_loss"] != 0.0
    parts = logged["train/policy_gradient_loss"] + logged["train/value_loss"]
    assert logged["train/loss"] == pytest.approx(parts + logged["distill/loss"], rel=1e-3)
    assert {"distill/teacher_fraction", "distill/teacher_act_prob"} <= set(logged)


def test_the_adaptive_rate_follows_the_students_samples() -> None:
    model = make(trained(), schedule="adaptive", teacher_act_prob=1.0, learning_rate=1e-3)
    model.learn(32 * 4)
    assert model.current_lr == pytest.approx(1e-3)  # no sample of its own, no divergence
    model = make(trained(), schedule="adaptive", teacher_act_prob=0.0, learning_rate=1e-3)
    model.learn(32 * 4)
    assert model.current_lr != pytest.approx(1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler_class_name": "StepLR", "lr_scheduler": {"step_size": 1, "gamma": 0.5}},
        {"lr_scheduler_class": "StepLR", "lr_scheduler_kwargs": {"step_size": 1, "gamma": 0.5}},
    ],
)
def test_the_scheduler_steps_once_per_update(options: dict[str, Any]) -> None:
    model = make(trained(), learning_rate=0.008, **options)
    for expected in (0.004, 0.002, 0.001):
        model.learn(32, reset_num_timesteps=False)
        assert model.current_lr == pytest.approx(expected)


def test_nested_keywords_lose_against_direct_ones() -> None:
    model = make(trained(), ppo={"gamma": 0.5, "n_steps": 3, "gae_lambda": 0.4})
    assert (model.gamma, model.n_steps, model.gae_lambda) == (0.5, 8, 0.4)
    with pytest.raises(StrlTypeError, match=r"ppo: unknown keyword 'gama'\. Did you mean 'gamma'"):
        make(trained(), ppo={"gama": 0.5})
    with pytest.raises(TypeError, match="teecher"):
        make(trained(), teecher=1)


def test_loading_and_predicting_need_no_teacher(tmp_path: Path) -> None:
    source = trained()
    source.policy.save(str(tmp_path / "teacher.zip"))
    path = tmp_path / "teacher.zip"
    model = make(path, teacher_act_prob=0.5).learn(64)
    model.save(tmp_path / "m.zip")
    path.unlink()
    obs = PointMass(3, seed=9).reset()
    expected, _ = model.predict(obs, deterministic=True)
    for env in (None, PointMass(4)):
        loaded = TPPO.load(tmp_path / "m.zip", env=env)
        assert (loaded.predict(obs, deterministic=True)[0] == expected).all()
    with pytest.raises(
        StrlValueError, match=r"loaded without its teacher.*TPPO\.load\(path, env, t"
    ):
        loaded.learn(32, reset_num_timesteps=False)
    again = TPPO.load(tmp_path / "m.zip", env=PointMass(4), teacher=source)
    again.learn(32, reset_num_timesteps=False)


def test_the_table_shows_the_objective() -> None:
    text = str(make(trained()))
    assert "teacher" in text
    assert "propose_actions, on_step, loss" in text
    assert "on_policy" in text


def test_a_second_run_starts_with_fresh_memory_and_drivers() -> None:
    source = trained("MlpGruPolicy", rnn={"hidden_size": 5})
    model = make(source, PointMass(4, max_episode_length=1000), teacher_act_prob=0.5)
    model.learn(32)
    collect(model)  # resets the environment
    buffer = model.rollout_buffer
    assert buffer["episode_starts"][0].all()
    obs = {group: value[0] for group, value in buffer.obs().items()}
    assert th.allclose(buffer["teacher/actions"][0], source.policy.act(obs)[0], atol=1e-6)


def test_no_warning_with_a_real_teacher() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(trained()).learn(32)


@pytest.mark.parametrize("options", [{}, {"buffer_dilation_ratio": 2.0, "distill_target": "kl"}])
def test_neither_steps_nor_minibatches_wait_for_the_device(options: dict[str, Any]) -> None:
    model = make(trained(), teacher_act_prob=0.5, normalize_advantage="minibatch", **options)
    model.learn(64)
    model._setup_learn(1)
    assert model.tensor_env is not None
    collector, buffer = model.collector, model.rollout_buffer
    collector.start(buffer, model.tensor_env, model.episode_stats)
    obs, starts = model._last_obs, model._last_episode_starts
    for _ in range(model.n_steps):
        with no_host_sync():
            actions, clipped = collector.act(obs, starts)
            result = collector.step(clipped)
            model.distillation.on_step(collector.as_step(actions, result), buffer)
        obs, starts = result.obs, collector.dones
    collector.value(obs)
    model.distillation.start_update(buffer)
    for batch in buffer.get(8):
        with no_host_sync():
            assert model._minibatch(batch)


def test_a_teacher_that_says_nan_is_named() -> None:
    source = trained()
    with th.no_grad():
        next(source.policy.actor.parameters()).fill_(th.nan)
    model = make(source, teacher_act_prob=0.0)
    with pytest.raises(NonFiniteError, match=r"or a teacher .*'teacher/actions' in environments"):
        model.learn(32)


def test_dagger_never_asks_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(trained(), using_ppo=False)

    def asked(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(model.policy, "critic_pass", asked)
    model.learn(64)
