"""Estimator and adaptor: what they read, predict and replace."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.estimation import Estimator
from tests.envs.robot import RobotToy

B = 7
ESTIMATOR = {"obs_components": ["proprio"], "target_components": ["velocity"]}
ADAPTOR = {"obs_components": ["proprio", "velocity"], "target_components": ["mass"]}


def make(estimator: dict[str, Any] | None = None, **kwargs: Any) -> StrlPolicy:
    th.manual_seed(0)
    env = RobotToy(B)
    options = {"net_arch": [8], "obs_segments": env.obs_segments, **kwargs}
    spec = None if estimator is None else {**ESTIMATOR, **estimator}
    policy = StrlPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3, estimator=spec, **options
    )
    return policy.train(False)


def observation(seed: int = 0) -> dict[str, th.Tensor]:
    env = RobotToy(B, seed=seed)
    env.reset_tensor()
    return env.step_tensor(th.ones(B, 2)).obs


def stage(policy: StrlPolicy, name: str = "estimator") -> Estimator:
    found = dict(policy.each_estimator())[name]
    assert isinstance(found, Estimator)
    return found


def changed(obs: dict[str, th.Tensor], columns: slice) -> dict[str, th.Tensor]:
    other = {key: value.clone() for key, value in obs.items()}
    other["policy"][:, columns] += 1.0
    return other


def test_the_estimate_replaces_the_sensed_value_where_the_mask_says() -> None:
    policy, obs = make({"replace_prob": 0.5}), observation()
    other = changed(obs, slice(4, 6))  # another velocity
    mask = th.tensor([1, 0, 1, 0, 1, 0, 1]).bool()
    ours = policy.actor_pass(obs, masks={"estimator": mask}).params["mean"]
    theirs = policy.actor_pass(other, masks={"estimator": mask}).params["mean"]
    assert th.equal(ours[mask], theirs[mask])
    assert not th.isclose(ours[~mask], theirs[~mask]).any(-1).any()


def test_the_spliced_values_have_the_units_of_the_observation() -> None:
    policy = make({"replace_prob": 1.0}, empirical_normalization=True)
    policy.train()
    for seed in range(20):
        obs = observation(seed)
        obs = {key: 3.0 * value + 5.0 for key, value in obs.items()}
        policy.update_normalizers(obs)
    policy.train(False)
    part = stage(policy)
    assert part.normalizer is not None
    target = part.target(obs)
    assert th.allclose(part.raw(part.standardized_target(obs)), target, atol=1e-5)

    class Oracle(nn.Module):
        def forward(self, x: th.Tensor) -> th.Tensor:
            return part.standardized_target(obs)

    part.net = Oracle()  # type: ignore[assignment]
    perfect = policy.actor_pass(obs).params["mean"]
    true = {**obs, "policy": obs["policy"].clone()}
    true["policy"][:, 4:6] = target
    never = {"estimator": th.zeros(B, dtype=th.bool)}
    assert th.allclose(perfect, policy.actor_pass(true, masks=never).params["mean"], atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "share"), [(None, 1.0), ("always", 1.0), ("never", 0.0), ("sample", 0.5)]
)
def test_inference_modes(mode: str | None, share: float) -> None:
    policy = make({"replace_prob": 0.5, "inference_replace": mode})
    obs = observation()
    obs = {key: value[:1].expand(400, -1).clone() for key, value in obs.items() if "c" in key}
    ours = policy.act(obs)[0]
    sensed = policy.actor_pass(obs, masks={"estimator": th.zeros(400).bool()}).params["mean"]
    replaced = (ours != sensed).any(-1).float().mean()
    assert replaced == pytest.approx(share, abs=0.15 if mode == "sample" else 0.0)


def test_nothing_is_replaced_without_a_probability() -> None:
    policy, obs = make({}), observation()
    assert policy.draw_masks((3,), None) == {}
    other = changed(obs, slice(4, 6))
    assert not th.equal(policy.act(obs)[0], policy.act(other)[0])


def test_masks_have_the_probability() -> None:
    policy = make({"replace_prob": 0.3}, adaptor={**ADAPTOR, "replace_prob": 0.8})
    masks = policy.draw_masks((100, 100), th.Generator().manual_seed(0))
    assert {name: mask.dtype for name, mask in masks.items()} == {
        "adaptor": th.bool,
        "estimator": th.bool,
    }
    assert masks["estimator"].float().mean() == pytest.approx(0.3, abs=0.02)
    assert masks["adaptor"].float().mean() == pytest.approx(0.8, abs=0.02)
    assert not th.equal(masks["estimator"], masks["adaptor"])


def test_the_estimator_reads_what_the_adaptor_put_in() -> None:
    spec = {"obs_components": ["mass"], "replace_prob": 1.0}
    policy = make(spec, adaptor={**ADAPTOR, "replace_prob": 1.0})
    obs = observation()
    other = changed(obs, slice(6, 7))  # another guess of the mass
    ours, theirs = policy.estimate(obs), policy.estimate(other)
    assert th.equal(ours["estimator"], theirs["estimator"])
    none = {"adaptor": th.zeros(B).bool(), "estimator": th.zeros(B).bool()}
    raw = policy.actor_pass(obs, masks=none).estimates["estimator"]
    assert not th.equal(raw, policy.actor_pass(other, masks=none).estimates["estimator"])


@pytest.mark.parametrize("rnn", [None, {"type": "lstm", "hidden_size": 5}])
def test_gradients_are_disjoint(rnn: dict[str, Any] | None) -> None:
    policy = make({"replace_prob": 1.0}, adaptor={**ADAPTOR, "replace_prob": 1.0}, rnn=rnn)
    out = policy.actor_pass(observation())
    named = dict(policy.named_parameters())
    action = th.autograd.grad(
        out.params["mean"].sum(), list(named.values()), allow_unused=True, retain_graph=True
    )
    for name, gradient in zip(named, action, strict=True):
        assert not (name.startswith("estimators.") and gradient is not None), name
    for which in ("estimator", "adaptor"):
        loss = out.estimates[which].sum()
        gradients = th.autograd.grad(
            loss, list(named.values()), allow_unused=True, retain_graph=True
        )
        reached = {name for name, g in zip(named, gradients, strict=True) if g is not None}
        assert reached
        assert all(name.startswith(f"estimators.{which}.") for name in reached)


def test_use_actor_rnn_trains_the_shared_memory() -> None:
    policy = make({"use_actor_rnn": True}, rnn={"type": "gru", "hidden_size": 5})
    out = policy.actor_pass(observation())
    assert policy.initial_state(2).estimator is None
    out.estimates["estimator"].sum().backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None}
    assert any(name.startswith("actor_memory.") for name in reached)
    assert not any(name.startswith(("actor.", "critic")) for name in reached)


def test_a_memory_of_its_own_or_none() -> None:
    rnn = {"type": "lstm", "hidden_size": 5}
    assert make({}, rnn=rnn).initial_state(3).estimator is not None
    assert make({"rnn": False}, rnn=rnn).initial_state(3).estimator is None
    assert make({}).initial_state(3).estimator is None


def test_a_target_that_only_the_critic_has() -> None:
    env = RobotToy(B)
    segments = {
        "policy": {"proprio": (4,), "noisy": (2,), "guess": (1,), "depth": (1, 6, 6)},
        "critic": env.obs_segments["critic"],
    }
    policy = make({}, obs_segments=segments)
    assert policy.estimate(observation())["estimator"].shape == (B, 2)
    with pytest.raises(KeyError, match="unknown segment 'velocity'"):
        make({"replace_prob": 0.5}, obs_segments=segments)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"obs_components": ["propio"]}, KeyError, "unknown segment 'propio'.*Did you mean"),
        ({"target_components": ["velocty"]}, KeyError, "velocty"),
        ({"target_components": []}, TypeError, r"\['target_components'\] must be given"),
        ({"replace_prob": 1.5}, ValueError, r"replace_prob is 1.5. It must be in \[0, 1\]"),
        ({"inference_replace": "maybe"}, ValueError, "inference_replace is 'maybe'"),
        ({"use_actor_rnn": True}, ValueError, "needs a recurrent policy"),
        ({"use_actor_rnn": True, "replace_prob": 0.1}, ValueError, "nothing can be replaced"),
        ({"kwarg": {}}, TypeError, "unknown key 'kwarg'.*Did you mean 'kwargs'"),
    ],
)
def test_bad_options_are_refused(spec: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(spec)


def test_the_adaptor_has_no_share_of_the_actors_memory() -> None:
    with pytest.raises(ValueError, match="the adaptor cannot use the actor's memory"):
        make(adaptor={**ADAPTOR, "use_actor_rnn": True}, rnn={"type": "lstm"})
