"""A standard deviation that depends on the state works in every kind of policy."""

from __future__ import annotations

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies.gaussian import HeteroscedasticGaussianHead
from tests.envs.robot import RobotToy
from tests.integration.test_matrix import KWARGS, watch_first_minibatch


@pytest.mark.parametrize("schedule", ["fixed", "adaptive"])
@pytest.mark.parametrize("rnn", ["", "Lstm", "Gru"])
@pytest.mark.parametrize("part", ["Mlp", "Encoder", "Estimator"])
def test_ratio_is_one_and_the_deviation_learns(
    part: str, rnn: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kwargs = {
        "net_arch": [8],
        "init_noise_std": 0.5,
        "distribution_class": "heteroscedastic",
        "mu_activation": "tanh",
        "ortho_init": True,
        **KWARGS.get(part, {}),
    }
    if rnn:
        kwargs["rnn"] = {"hidden_size": 6}
    env = RobotToy(4)
    model = PPO(
        f"{part}{rnn}Policy", env, n_steps=12, seed=0, schedule=schedule, policy_kwargs=kwargs
    )
    assert isinstance(model.policy.action_head, HeteroscedasticGaussianHead)
    gaps = watch_first_minibatch(model, monkeypatch)
    model.learn(48)
    assert th.allclose(model.rollout_buffer["dist/std"], th.tensor(0.5), atol=1e-6)
    model.learn(48 * 3, reset_num_timesteps=False)
    assert max(max(gap) for gap in gaps) < 1e-5
    assert model.rollout_buffer["dist/std"].std() > 1e-4


def test_the_choice_survives_a_file(tmp_path) -> None:
    kwargs = {
        "distribution_class": "heteroscedastic",
        "distribution_kwargs": {"std_range": (0.1, 2)},
    }
    model = PPO("MlpPolicy", RobotToy(2), n_steps=4, policy_kwargs=kwargs)
    model.save(tmp_path / "model")
    head = PPO.load(tmp_path / "model").policy.action_head
    assert isinstance(head, HeteroscedasticGaussianHead)
    assert head.std_range == model.policy.action_head.std_range


@pytest.mark.parametrize("floor", [0.2, [0.01, 0.2]])
def test_a_floor_that_would_have_no_effect_is_refused(floor) -> None:
    ranged = {"std_range": (0.1, 2.0)}
    kwargs = {"distribution_class": "heteroscedastic", "distribution_kwargs": ranged}
    message = r"^PPO: clip_min_std is .* std_range=\(0\.1, 2\.0\)\. Leave clip_min_std out and set"
    with pytest.raises(StrlValueError, match=message):
        PPO("MlpPolicy", RobotToy(2), n_steps=4, clip_min_std=floor, policy_kwargs=kwargs)
    PPO("MlpPolicy", RobotToy(2), n_steps=4, clip_min_std=0.1, policy_kwargs=kwargs)
