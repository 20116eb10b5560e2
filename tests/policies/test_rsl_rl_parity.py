"""rsl_rl's own weights in our networks: the same configuration gives the same outputs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.common.normalization import (
    EmpiricalDiscountedVariationNormalization,
    EmpiricalNormalization,
)
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.blocks import CNN, MLP, RNN
from sb3_strl.policies.distributions import make_action_head

modules = pytest.importorskip("rsl_rl.modules")
models = pytest.importorskip("rsl_rl.models")
TensorDict = pytest.importorskip("tensordict").TensorDict

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize(
    ("output", "hidden", "activation", "last"),
    list(
        itertools.product(
            [3, (2, 4)], [[8, 8], [-1, 5]], ["elu", "relu", "tanh", "crelu"], [None, "tanh"]
        )
    ),
)
@pytest.mark.filterwarnings("ignore:.*crelu")
def test_perceptrons(output: Any, hidden: list[int], activation: str, last: str | None) -> None:
    theirs = modules.MLP(6, output, hidden, activation, last)
    ours = MLP(6, output, hidden, activation, last)
    ours.load_state_dict(theirs.state_dict())
    x = th.randn(7, 6)
    assert ours(x).shape == theirs(x).shape
    th.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_memories(kind: str, layers: int) -> None:
    theirs, ours = modules.RNN(5, 8, layers, kind), RNN(5, 8, layers, kind)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(4):  # rollout mode keeps its state
        x = th.randn(3, 5)
        th.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
    dones = th.tensor([1, 0, 1])
    theirs.reset(dones)
    ours.reset(dones)
    x = th.randn(3, 5)
    th.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


CNN_OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": [5, 3], "stride": [2, 1]},
    {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "padding": "zeros", "norm": "batch"},
    {"kernel_size": 3, "padding": "reflect", "norm": ["layer", "none"]},
    {"kernel_size": 3, "padding": "replicate", "max_pool": [True, False]},
    {"kernel_size": 3, "padding": "circular", "stride": 2},
    {"kernel_size": 3, "global_pool": "avg"},
    {"kernel_size": 3, "global_pool": "max", "activation": "relu"},
    {"kernel_size": 3, "flatten": False},
]


@pytest.mark.parametrize("options", CNN_OPTIONS, ids=str)
def test_convolutions(options: dict[str, Any]) -> None:
    theirs = modules.CNN((18, 20), 2, [4, 6], **options)
    ours = CNN((18, 20), 2, [4, 6], **options)
    ours.load_state_dict(theirs.state_dict())
    for module in (theirs, ours):
        module.eval()
    x = th.randn(3, 2, 18, 20)
    th.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


@pytest.mark.parametrize("until", [None, 60])
def test_normalisers(until: int | None) -> None:
    theirs = modules.EmpiricalNormalization(4, until=until)
    ours = EmpiricalNormalization(4, until=until)
    for normaliser in (theirs, ours):
        normaliser.train()
    for seed in range(5):
        x = 3.0 * th.randn(20, 4, generator=th.Generator().manual_seed(seed)) + 1.0
        theirs.update(x)
        ours.update(x)
    th.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
    again = EmpiricalNormalization(4)
    again.load_state_dict(theirs.state_dict())
    th.testing.assert_close(again(x), theirs(x), **TOLERANCE)


def test_the_reward_normaliser_on_its_first_step() -> None:
    """Later steps differ: rsl_rl's writes its output over the sum that it goes on with."""
    theirs = modules.EmpiricalDiscountedVariationNormalization([])
    ours = EmpiricalDiscountedVariationNormalization([])
    x = th.randn(50)
    th.testing.assert_close(ours(x.clone()), theirs(x.clone()), **TOLERANCE)


@pytest.mark.parametrize("std_type", ["scalar", "log"])
@pytest.mark.parametrize("name", ["GaussianDistribution", "HeteroscedasticGaussianDistribution"])
def test_distributions(name: str, std_type: str) -> None:
    options = {"init_std": 0.7, "std_type": std_type, "std_range": (0.05, 2.0)}
    theirs = getattr(modules.distribution, name)(3, **options)
    head = make_action_head(
        spaces.Box(-1, 1, (3,)), distribution_class=name, distribution_kwargs=options
    )
    shape = (9, 3) if name == "GaussianDistribution" else (9, 2, 3)
    generator = th.Generator().manual_seed(0)
    first, second = (0.3 + 0.5 * th.rand(shape, generator=generator) for _ in range(2))
    actions = th.randn(9, 3, generator=generator)
    theirs.update(first)
    params = head.params(first)
    th.testing.assert_close(head.log_prob(params, actions), theirs.log_prob(actions), **TOLERANCE)
    th.testing.assert_close(head.entropy(params), theirs.entropy, **TOLERANCE)
    old = tuple(part.clone() for part in theirs.params)
    theirs.update(second)
    expected = theirs.kl_divergence(old, theirs.params)
    th.testing.assert_close(head.kl(params, head.params(second)), expected, **TOLERANCE)


def _observations(**shapes: tuple[int, ...]) -> Any:
    generator = th.Generator().manual_seed(3)
    data = {name: th.randn(6, *shape, generator=generator) for name, shape in shapes.items()}
    return TensorDict(data, batch_size=6)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_whole_perceptron_model(normalize: bool) -> None:
    obs = _observations(policy=(5,), critic=(7,))
    sets = {"actor": ["policy"], "critic": ["policy", "critic"]}
    distribution = {"class_name": "GaussianDistribution", "init_std": 0.5}
    common = {"hidden_dims": [16, 8], "activation": "elu", "obs_normalization": normalize}
    actor = models.MLPModel(obs, sets, "actor", 2, distribution_cfg=distribution, **common)
    critic = models.MLPModel(obs, sets, "critic", 1, **common)
    for model in (actor, critic):
        model.train()
        model.update_normalization(obs)
        model.eval()
    policy = StrlPolicy(
        spaces.Dict({"policy": _box(5), "critic": _box(7)}),
        _box(2, 1.0),
        lambda _: 1e-3,
        net_arch=[16, 8],
        obs_groups=sets,
        empirical_normalization=normalize,
        distribution_class="GaussianDistribution",
        distribution_kwargs={"init_std": 0.5},
    )
    _copy(actor, policy.actor, policy.actor_reader.normalizer)
    _copy(critic, policy.critic, policy.critic_reader.normalizer)
    groups = dict(obs.items())
    th.testing.assert_close(policy.act(groups)[0], actor(obs), **TOLERANCE)
    th.testing.assert_close(policy.values(groups), critic(obs).squeeze(-1), **TOLERANCE)
    assert policy.action_params(groups)["std"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_whole_recurrent_model(kind: str) -> None:
    obs = _observations(policy=(5,))
    actor = models.RNNModel(
        obs,
        {"actor": ["policy"]},
        "actor",
        2,
        [16],
        rnn_type=kind,
        rnn_hidden_dim=12,
        rnn_num_layers=2,
    ).eval()
    policy = StrlPolicy(
        spaces.Dict({"policy": _box(5)}),
        _box(2, 1.0),
        lambda _: 1e-3,
        net_arch=[16],
        rnn={"type": kind, "hidden_size": 12, "num_layers": 2},
    )
    _copy(actor, policy.actor, None)
    assert policy.actor_memory is not None
    policy.actor_memory.load_state_dict(actor.rnn.state_dict())
    state, starts = None, None
    for step in range(5):
        groups = {"policy": obs["policy"] + step}
        action, state = policy.act(groups, state, starts)
        with th.no_grad():
            expected = actor(TensorDict(groups, batch_size=6)).clone()
        th.testing.assert_close(action.detach(), expected, **TOLERANCE)
        starts = th.tensor([0, 1, 0, 0, 1, 0])
        with th.no_grad():
            actor.reset(starts)


def _box(size: int, bound: float = np.inf) -> spaces.Box:
    return spaces.Box(-bound, bound, (size,), np.float32)


def _copy(model: Any, trunk: th.nn.Module, normalizer: th.nn.Module | None) -> None:
    """Copy layer by layer, in order."""
    theirs = [layer for layer in model.mlp.modules() if isinstance(layer, th.nn.Linear)]
    ours = [layer for layer in trunk.modules() if isinstance(layer, th.nn.Linear)]
    for source, target in zip(theirs, ours, strict=True):
        target.load_state_dict(source.state_dict())
    if normalizer is not None:
        normalizer.load_state_dict(model.obs_normalizer.state_dict())
