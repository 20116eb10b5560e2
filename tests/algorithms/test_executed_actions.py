"""Other actions than the policy's own: what is executed is stored, and PPO learns from its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import PPO
from sb3_strl.algorithms.losses import (
    STAT_NAMES,
    LossSettings,
    PPOTargets,
    gaussian_ppo_loss,
    masked_mean,
    ppo_loss,
    standardize,
)
from sb3_strl.algorithms.minibatch import evaluate_batch
from sb3_strl.common.errors import StrlTypeError
from sb3_strl.common.types import TensorStep
from sb3_strl.objectives import Decision, Objective, Proposal
from tests.envs.toy import PointMass

SETTINGS = LossSettings(0.2, 0.2, None, 0.01, 1.0)


class Pusher(Objective):
    """Executes one constant action in the environments of a mask."""

    def __init__(self, mask: list[bool], action: float = 0.7) -> None:
        super().__init__("pusher")
        self.mask = th.tensor(mask)
        self.action = action
        self.own: list[th.Tensor] = []

    def propose_actions(self, decision: Decision) -> Proposal | None:
        self.own.append(decision.actions.clone())
        return Proposal(th.full_like(decision.actions, self.action), self.mask)


class Silent(Pusher):
    def propose_actions(self, decision: Decision) -> Proposal | None:
        return None


class Witness(PointMass):
    """Keeps the actions that arrive."""

    def __init__(self, n_envs: int = 4) -> None:
        super().__init__(n_envs, max_episode_length=5)
        self.actions: list[th.Tensor] = []

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        self.actions.append(actions.clone())
        return super().step_tensor(actions)


def make(objectives: list[Objective], env: PointMass | None = None, **options: Any) -> PPO:
    class Algorithm(PPO):
        def _make_objectives(self) -> list[Objective]:
            return objectives

    settings: dict[str, Any] = {"n_steps": 8, "n_epochs": 2, "seed": 0, **options}
    alias = settings.pop("policy", "MlpPolicy")
    kwargs = {"net_arch": [8], **settings.pop("policy_kwargs", {})}
    return Algorithm(alias, env or Witness(), policy_kwargs=kwargs, **settings)


def collect(model: PPO) -> None:
    _, callback = model._setup_learn(1)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


MASK = [True, False, False, True]


def test_what_is_executed_is_stored_with_its_own_probability() -> None:
    pusher, env = Pusher(MASK), Witness()
    model = make([pusher], env)
    collect(model)
    buffer, mask = model.rollout_buffer, th.tensor(MASK)
    arrived = th.stack(env.actions)
    assert (arrived[:, mask] == 0.7).all()
    own = th.stack(pusher.own)
    assert th.equal(arrived[:, ~mask], own[:, ~mask].clamp(-1, 1))
    assert th.equal(buffer["on_policy"], (~mask).expand(8, 4))
    assert (buffer["actions"][:, mask] == 0.7).all()
    assert th.equal(buffer["actions"][:, ~mask], own[:, ~mask])
    obs = {group: value.flatten(0, 1) for group, value in buffer.obs().items()}
    _, log_prob, _ = model.policy.evaluate_actions(obs, buffer["actions"].flatten(0, 1))
    assert th.allclose(log_prob, buffer["log_probs"].flatten(), atol=1e-5)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy", "MlpGruPolicy"])
def test_ratio_is_one_with_mixed_control(policy: str) -> None:
    model = make([Pusher(MASK)], policy=policy, n_minibatches=1)
    model.learn(64)
    collect(model)
    buffer = model.rollout_buffer
    batches = buffer.get_sequences(1) if model.policy.is_recurrent else buffer.get()
    batch = next(iter(batches))
    out = evaluate_batch(model.policy, batch, with_values=True)
    log_prob = model.policy.action_head.log_prob(out.params, batch.actions)
    assert (log_prob - batch.old_log_prob).abs().max() < 1e-5
    assert (out.values - batch.old_values).abs().max() < 1e-5


def test_nothing_proposed_is_all_on_policy_and_equals_no_objective() -> None:
    weights = []
    for objectives in ([Silent(MASK)], []):
        model = make(list(objectives))
        model.learn(96)
        weights.append(th.cat([p.flatten() for p in model.policy.parameters()]))
    assert th.allclose(*weights, atol=1e-5)


def test_without_a_proposer_there_is_no_mask_and_the_closed_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    module = "sb3_strl.algorithms.minibatch"
    monkeypatch.setattr(
        f"{module}.gaussian_ppo_loss", lambda *a: calls.append(1) or gaussian_ppo_loss(*a)
    )
    model = make([])
    assert "on_policy" not in model.rollout_buffer.fields
    model.learn(32)
    assert len(calls) == 8


@pytest.mark.parametrize("schedule", ["fixed", "adaptive"])
def test_no_sample_of_its_own_leaves_only_the_value_loss(schedule: str) -> None:
    model = make([Pusher([True] * 4)], schedule=schedule, ent_coef=0.1)
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    model.learn(64)
    for name, parameter in model.policy.named_parameters():
        is_critic = name.startswith("critic")
        assert th.equal(parameter, before[name]) != is_critic, name
    logged = model.logger.name_to_value
    for name in ("policy_gradient_loss", "entropy_loss", "approx_kl", "clip_fraction"):
        assert logged[f"train/{name}"] == 0.0, name
    assert logged["train/value_loss"] > 0.0
    assert logged["train/learning_rate"] == pytest.approx(1e-3)


def test_advantages_are_normalised_over_the_policys_own_samples() -> None:
    model = make([Pusher(MASK)])
    collect(model)
    own = model.rollout_buffer["advantages"][:, ~th.tensor(MASK)]
    assert abs(float(own.mean())) < 1e-5
    assert float(own.std()) == pytest.approx(1.0, abs=1e-4)


def random_case() -> tuple[th.Tensor, th.Tensor, th.Tensor, PPOTargets]:
    generator = th.Generator().manual_seed(0)

    def draw(*shape: int) -> th.Tensor:
        return th.randn(*shape, generator=generator)

    targets = PPOTargets(draw(64, 2), draw(64), draw(64), draw(64), draw(64))
    return draw(64).requires_grad_(), draw(64).requires_grad_(), draw(64), targets


def test_masked_loss_is_the_loss_of_the_subset() -> None:
    log_prob, entropy, values, targets = random_case()
    mask = th.arange(64) % 3 == 0
    loss, stats = ppo_loss(log_prob, entropy, values, targets._replace(on_policy=mask), SETTINGS)
    subset = PPOTargets(*(t[mask] for t in targets[:5]))
    _, expected = ppo_loss(log_prob[mask], entropy[mask], values[mask], subset, SETTINGS)
    for name in ("policy_gradient_loss", "entropy_loss", "approx_kl", "clip_fraction"):
        index = STAT_NAMES.index(name)
        assert stats[index] == pytest.approx(float(expected[index]), rel=1e-5), name
    gradient = th.autograd.grad(loss, log_prob)[0]
    assert (gradient[~mask] == 0).all()
    assert gradient[mask].abs().sum() > 0


def test_ratios_that_overflow_off_policy_do_no_harm() -> None:
    log_prob, entropy, values, targets = random_case()
    mask = th.arange(64) % 2 == 0
    far = targets._replace(on_policy=mask, old_log_prob=th.where(mask, targets[1], -1e3))
    loss, stats = ppo_loss(log_prob, entropy, values, far, SETTINGS)
    assert th.isfinite(stats).all()
    assert th.isfinite(th.autograd.grad(loss, log_prob)[0]).all()


def test_means_of_nothing_are_zero() -> None:
    values, nothing = th.tensor([1.0, th.inf]), th.tensor([False, False])
    assert masked_mean(values, nothing) == 0.0
    assert (standardize(values[:1], nothing[:1]) == 0.0).all()
    one = standardize(th.tensor([3.0, 9.0]), th.tensor([True, False]))
    assert th.equal(one, th.zeros(2))


def test_only_one_objective_may_propose() -> None:
    with pytest.raises(StrlTypeError, match=r"\['pusher', 'pusher'\] all propose actions, but"):
        make([Pusher(MASK), Silent(MASK)])


def test_the_table_names_the_hook() -> None:
    assert Pusher(MASK).describe()[2] == "propose_actions"
