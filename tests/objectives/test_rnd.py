"""Random network distillation."""

from pathlib import Path

import pytest
import torch as th

from sb3_strl import APPO, PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.toy import PointMass


def make(**options) -> PPO:
    kwargs = {
        "num_outputs": 4,
        "predictor_hidden_dims": [16],
        "target_hidden_dims": [16],
        **options,
    }
    settings = {"n_steps": 8, "seed": 0, "policy_kwargs": {"net_arch": [8]}}
    return PPO("MlpPolicy", PointMass(6), rnd_kwargs=kwargs, **settings)


def test_only_the_predictor_learns_and_familiar_states_lose_their_reward() -> None:
    model = make()
    target = [p.clone() for p in model.rnd.modules["target"].parameters()]
    model.learn(48)
    states = model.rollout_buffer["rnd/states"].clone()
    before = model.rnd.intrinsic_rewards(states).mean()
    for _ in range(60):
        for batch in model.rollout_buffer.get(48):
            model.rnd.update(batch)
    after = model.rnd.intrinsic_rewards(states).mean()
    assert after < 0.5 * before
    assert all(
        th.equal(a, b)
        for a, b in zip(target, model.rnd.modules["target"].parameters(), strict=True)
    )


def test_the_reward_is_the_distance_times_the_weight() -> None:
    model = make(weight=0.5)
    _, callback = model._setup_learn(1)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)
    states = model.rollout_buffer["rnd/states"]
    nets = model.rnd.modules
    expected = 0.5 * (nets["predictor"](states) - nets["target"](states)).norm(dim=-1)
    assert th.allclose(model.rnd.reward_term(model.rollout_buffer).bonus, expected, atol=1e-6)


def test_state_survives_saving(tmp_path: Path) -> None:
    model = make(
        state_normalization=True,
        reward_normalization=True,
        weight_schedule="linear",
        final_step=100,
    )
    model.learn(96)
    model.save(tmp_path / "m")
    loaded = PPO.load(tmp_path / "m", env=PointMass(6))
    states = th.randn(3, 6, model.rnd._dim)
    assert th.equal(loaded.rnd.intrinsic_rewards(states), model.rnd.intrinsic_rewards(states))
    assert loaded.rnd.weight() == model.rnd.weight() == pytest.approx(1 - 16 / 100)
    model.learn(48, reset_num_timesteps=False)
    loaded.learn(48, reset_num_timesteps=False)
    for a, b in zip(model.rnd.modules.parameters(), loaded.rnd.modules.parameters(), strict=True):
        assert th.equal(a, b)


def test_step_schedule() -> None:
    model = make(weight_schedule="step", final_step=9, weight=1.0, final_weight=0.25)
    assert model.rnd.weight() == 1.0
    model.learn(96)
    assert model.rnd.weight() == 0.25


def test_with_a_motion_prior() -> None:
    amp = {"amp_discriminator": {"task_reward_lerp": 0.5}, "net_arch": [8]}
    model = APPO("AmpPolicy", PointMass(4), n_steps=8, rnd_kwargs={}, policy_kwargs=amp)
    model.learn(64)
    assert {"rnd/intrinsic_reward", "amp/style_reward"} <= set(model.logger.name_to_value)


def test_errors() -> None:
    with pytest.raises(StrlTypeError, match="Did you mean 'weight'"):
        make(weigth=1.0)
    with pytest.raises(StrlValueError, match="weight_schedule is 'cosine'"):
        make(weight_schedule="cosine")
    with pytest.raises(StrlValueError, match="must come after"):
        make(weight_schedule="linear")


def test_the_normaliser_of_rewards_takes_another_number_of_environments(tmp_path: Path) -> None:
    model = make(reward_normalization=True)
    model.learn(96)
    model.save(tmp_path / "m")
    other = PPO.load(tmp_path / "m", env=PointMass(3))
    with pytest.warns(UserWarning, match="episodes start anew"):
        other.learn(24, reset_num_timesteps=False)
    assert other.rnd.modules["rewards"].running.shape == (3,)


def test_the_normaliser_of_rewards_learns_once_per_rollout() -> None:
    model = make(reward_normalization=True)
    model.learn(48 * 3)
    assert int(model.rnd.modules["rewards"].emp_norm.count) == 48 * 3


def test_the_state_is_terminal_where_the_episode_ended() -> None:
    model = make()
    env = model.env
    seen = []
    original = env.step_tensor

    def spy(actions):
        seen.append(original(actions))
        return seen[-1]

    env.step_tensor = spy
    env.max_episode_length = 3
    model.learn(48)
    ended = 0
    for t, step in enumerate(seen):
        done = (step.terminated | step.truncated)[:, None]
        expected = th.where(done, step.final_obs["critic"], step.obs["critic"])
        assert th.equal(model.rollout_buffer["rnd/states"][t], expected)
        ended += int(done.sum())
    assert ended > 0
