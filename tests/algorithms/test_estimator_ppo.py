"""Estimators inside PPO's loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import EstimatorPPO
from sb3_strl.common.errors import StrlValueError
from tests.objectives.test_estimation import collect, make, whole

STATS = ("loss", "r2", "rmse", "mae")


@pytest.mark.parametrize(
    ("alias", "estimator"),
    [
        ("EstimatorPolicy", {}),
        ("EstimatorLstmPolicy", {}),
        ("EstimatorGruPolicy", {"use_actor_rnn": True}),
        ("EstimatorPolicy", {"replace_prob": 0.5}),
    ],
)
def test_the_estimate_gets_better(alias: str, estimator: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"n_steps": 16, "n_epochs": 4, "learning_rate": 3e-3}
    model = make(alias, 32, estimator=estimator, **settings)
    model.learn(512, log_interval=None)
    assert model.logger.name_to_value["estimator/r2"] < 0.1
    model.learn(512 * 12, reset_num_timesteps=False, log_interval=None)
    assert model.logger.name_to_value["estimator/r2"] > 0.2


def test_adaptor_and_estimator_learn_from_their_own_losses() -> None:
    settings: dict[str, Any] = {"n_steps": 16, "n_epochs": 4, "learning_rate": 3e-3}
    model = make("PrivilegeEstimatorPolicy", 32, **settings)
    model.learn(512 * 2, log_interval=None)
    logged = model.logger.name_to_value
    assert {f"{part}/{name}" for part in ("estimator", "adaptor") for name in STATS} <= set(logged)


@pytest.mark.parametrize(("prob", "reads_truth"), [(0.0, True), (1.0, False)])
def test_replaced_observations_do_not_reach_the_actor(prob: float, reads_truth: bool) -> None:
    model = make(estimator={"replace_prob": prob})
    collect(model)
    if prob:
        assert model.rollout_buffer["estimator/mask"].all()
    obs = {group: value[0] for group, value in model.rollout_buffer.obs().items()}
    lied = {**obs, "policy": obs["policy"].clone()}
    lied["policy"][:, 4:6] += 3.0  # the noisy velocity
    masks = {"estimator": th.full((4,), bool(prob))} if prob else {}
    truth, lie = (model.policy.actor_pass(o, masks=masks).params["mean"] for o in (obs, lied))
    assert th.allclose(truth, lie) != reads_truth


def test_a_fraction_is_replaced() -> None:
    model = make(n_envs=64, estimator={"replace_prob": 0.25}, n_steps=32)
    collect(model)
    assert abs(float(model.rollout_buffer["estimator/mask"].float().mean()) - 0.25) < 0.03


def test_the_actors_memory_cannot_read_what_it_estimates() -> None:
    with pytest.raises(StrlValueError, match="use_actor_rnn=True estimates from what the actor"):
        make("EstimatorLstmPolicy", estimator={"use_actor_rnn": True, "replace_prob": 0.5})


@pytest.mark.parametrize(
    "alias", ["EstimatorPolicy", "EstimatorLstmPolicy", "PrivilegeEstimatorPolicy"]
)
@pytest.mark.parametrize("reuse", [False, True])
def test_reused_estimates_keep_the_actors_input_still(alias: str, reuse: bool) -> None:
    spec = {"replace_prob": 0.5, "reuse_estimates": reuse}
    parts = {"estimator": spec, **({"adaptor": spec} if "Privilege" in alias else {})}
    model = make(alias, **parts)
    model.learn(2 * model.n_steps * model.n_envs, log_interval=None)  # statistics that are not 0, 1
    collect(model)
    before = log_ratio(model)
    assert before.abs().max() < 1e-5
    with th.no_grad():
        for _, estimator in model.policy.each_estimator():
            for parameter in estimator.net.parameters():
                parameter.add_(0.3)
    assert (log_ratio(model).abs().max() < 1e-5) == reuse


def log_ratio(model: EstimatorPPO) -> th.Tensor:
    """Return the log ratios of the whole rollout."""
    batch, out = whole(model)
    return model.policy.action_head.log_prob(out.params, batch.actions) - batch.old_log_prob
