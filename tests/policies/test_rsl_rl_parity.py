"""Configurations and state dicts of rsl_rl 5 give the same networks here, to 1e-6."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_strl.common.normalization import (
    EmpiricalDiscountedVariationNormalization,
    EmpiricalNormalization,
)
from sb3_strl.common.sequences import split_and_pad_trajectories
from sb3_strl.common.types import TensorDict
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.blocks import CNN, MLP, RNN
from sb3_strl.policies.distributions import (
    DiagonalGaussianHead,
    HeteroscedasticGaussianHead,
    make_action_head,
)
from tests.envs.toy import box

pytest.importorskip("rsl_rl")
tensordict = pytest.importorskip("tensordict")
models = pytest.importorskip("rsl_rl.models")
modules = pytest.importorskip("rsl_rl.modules")
distributions = pytest.importorskip("rsl_rl.modules.distribution")

N_ENVS, ACTIONS = 6, 3


@pytest.fixture(autouse=True)
def restore_argument_checks() -> Iterator[None]:
    """rsl_rl switches PyTorch's argument checks off for the whole process."""
    was = th.distributions.Distribution._validate_args
    yield
    th.distributions.Distribution.set_default_validate_args(was)


def assert_close(mine: th.Tensor, theirs: th.Tensor) -> None:
    assert mine.shape == theirs.shape
    assert th.allclose(mine, theirs, rtol=1e-6, atol=1e-6), (mine - theirs).abs().max()


def scramble(module: nn.Module) -> None:
    """Give every parameter another value, so that none is right by chance."""
    with th.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))


# --------------------------------------------------------------------------- modules

NAMES = ["elu", "selu", "relu", "crelu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish"]
NAMES += ["mish", "identity"]
WIDTHS = [[8], (16, -1), [-1, 8, 4]]


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("last", [None, "tanh"])
def test_mlp(activation: str, last: str | None) -> None:
    for output, hidden in itertools.product([3, (2, 3), [2, 2, 1]], WIDTHS):
        config = {"hidden_dims": hidden, "activation": activation, "last_activation": last}
        theirs = modules.MLP(5, output, **config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # crelu
            mine = MLP(5, output, **config)
        mine.load_state_dict(theirs.state_dict())
        x = 2.0 * th.randn(7, 4, 5)
        assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("kind", ["lstm", "gru", "LSTM"])
@pytest.mark.parametrize("layers", [1, 2])
@th.no_grad()
def test_rnn(kind: str, layers: int) -> None:
    config = {"hidden_dim": 8, "num_layers": layers, "type": kind}
    theirs, mine = modules.RNN(5, **config), RNN(5, **config)
    mine.load_state_dict(theirs.state_dict())
    x, dones = th.randn(15, N_ENVS, 5), (th.rand(15, N_ENVS) < 0.3).long()
    for t in range(15):
        assert_close(mine(x[t]), theirs(x[t]))
        theirs.reset(dones[t])
        mine.reset(dones[t])
    padded, masks = split_and_pad_trajectories(x, dones)
    leaf = th.randn(layers, padded.shape[1], 8)
    state = leaf if kind == "gru" else (leaf, 0.5 * leaf)
    assert_close(mine(padded, masks, state), theirs(padded, masks, state))


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def dims(cnn: CNN) -> tuple[int, ...]:
    if isinstance(cnn.output_dim, int):
        return (cnn.output_dim,)
    assert cnn.output_channels is not None
    return (cnn.output_channels, *cnn.output_dim)


CNN_OPTIONS: dict[str, list[Any]] = {
    "stride": [1, 2, [2, 3]],
    "dilation": [1, (1, 2)],
    "padding": ["none", "zeros", "reflect", "replicate", "circular"],
    "norm": ["none", "batch", ["layer", "batch"]],
    "max_pool": [False, [True, False]],
    "global_pool": ["none", "max", "avg"],
}


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("padding", CNN_OPTIONS["padding"])
@th.no_grad()
def test_cnn(padding: str, flatten: bool) -> None:
    image = th.randn(2, 3, 25, 22)
    grid = [values for name, values in CNN_OPTIONS.items() if name != "padding"]
    for stride, dilation, norm, max_pool, global_pool in itertools.product(*grid):
        config = {
            "input_dim": (25, 22), "input_channels": 3, "output_channels": [4, 5],
            "kernel_size": [5, 3], "stride": stride, "dilation": dilation, "padding": padding,
            "norm": norm, "activation": "tanh", "max_pool": max_pool, "global_pool": global_pool,
            "flatten": flatten,
        }  # fmt: skip
        theirs, mine = modules.CNN(**config), CNN(**config)
        scramble(theirs)
        if padding == "zeros" and any(min(c.padding) < 0 for c in convolutions(theirs)):
            with pytest.raises(RuntimeError, match="negative padding"):
                theirs(image)
            assert mine(image)[0].numel() == th.Size(dims(mine)).numel()
            continue
        theirs(image)  # moves the statistics of batch normalisation
        mine.load_state_dict(theirs.state_dict())
        assert mine.output_dim == theirs.output_dim
        assert mine.output_channels == theirs.output_channels
        for training in (True, False):
            assert_close(mine.train(training)(image), theirs.train(training)(image))


# --------------------------------------------------------------------------- normalisers


@pytest.mark.parametrize("shape", [4, (4,), [2, 3]])
@pytest.mark.parametrize("until", [None, 30])
def test_empirical_normalization(shape: Any, until: int | None) -> None:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    theirs = modules.EmpiricalNormalization(shape, 1e-2, until)
    mine = EmpiricalNormalization(shape, 1e-2, until)
    for n in (1, 7, 30, 30):
        x = 3.0 * th.randn(n, *size) + 2.0
        mine.update(x)
        theirs.update(x)
        assert_close(mine(x), theirs(x))
    loaded = EmpiricalNormalization(shape, 1e-2, until)
    loaded.load_state_dict(theirs.state_dict())
    x = th.randn(5, *size)
    assert_close(loaded(x), theirs(x))
    assert_close(loaded.inverse(x), theirs.inverse(x))
    assert_close(loaded.mean, theirs.mean)
    assert loaded.count == theirs.count
    loaded.update(x)
    theirs.update(x)
    assert_close(loaded(x), theirs(x))


@pytest.mark.parametrize("until", [None, 20])
def test_discounted_variation(until: int | None) -> None:
    # rsl_rl knows no episode ends and keeps the sum out of its state dict.
    config = {"shape": (), "eps": 1e-2, "gamma": 0.9, "until": until}
    theirs = modules.normalization.EmpiricalDiscountedVariationNormalization(**config)
    mine = EmpiricalDiscountedVariationNormalization(**config)
    for _ in range(12):
        rewards = 4.0 * th.randn(N_ENVS) + 1.0
        assert_close(mine(rewards), theirs(rewards))
    loaded = EmpiricalDiscountedVariationNormalization(**config).eval()
    loaded.load_state_dict(theirs.state_dict())
    assert_close(loaded(rewards), theirs.eval()(rewards))
    assert_close(mine.eval()(rewards), theirs(rewards))


# --------------------------------------------------------------------------- distributions

HETERO = "HeteroscedasticGaussianDistribution"
DISTRIBUTIONS: list[dict[str, Any]] = [
    {"class_name": "GaussianDistribution"},
    {"class_name": "GaussianDistribution", "init_std": 0.4, "std_type": "log"},
    {"class_name": "GaussianDistribution", "std_range": (0.9, 1.05), "std_type": "log"},
    {"class_name": "GaussianDistribution", "std_range": [0.9, 1.05], "learn_std": False},
    {"class_name": HETERO},
    {"class_name": HETERO, "init_std": 0.4, "std_type": "log"},
    {"class_name": HETERO, "init_std": 0.4, "std_range": (0.3, 0.8)},
    {"class_name": HETERO, "init_std": 0.4, "std_range": (0.3, 0.8), "std_type": "log"},
]


def make_head(config: dict[str, Any]) -> DiagonalGaussianHead:
    """What a policy makes of ``distribution_class`` and ``distribution_kwargs``."""
    options = {key: value for key, value in config.items() if key != "class_name"}
    head = make_action_head(
        box(ACTIONS),
        distribution_class=config["class_name"],
        distribution_kwargs=options,
    )
    assert isinstance(head, DiagonalGaussianHead)
    return head


def make_theirs(config: dict[str, Any]) -> Any:
    options = {key: value for key, value in config.items() if key != "class_name"}
    classes = {
        "GaussianDistribution": distributions.GaussianDistribution,
        HETERO: distributions.HeteroscedasticGaussianDistribution,
    }
    return classes[config["class_name"]](ACTIONS, **options)


@pytest.mark.parametrize("config", DISTRIBUTIONS)
@pytest.mark.parametrize("moved", [False, True])
def test_distributions(config: dict[str, Any], moved: bool) -> None:
    theirs, mine = make_theirs(config).double(), make_head(config).double()
    if moved:
        scramble(theirs)
        for parameter in theirs.parameters():
            parameter.data[0] += 1.0  # out of the narrow ranges
    if moved or not list(theirs.parameters()):
        mine.load_state_dict(theirs.state_dict())
    learnt = [p for p in theirs.parameters() if p.requires_grad]
    assert len(list(mine.parameters())) == len(learnt)
    outputs = th.randn(2, 32, mine.input_dim, dtype=th.float64)
    both: list[tuple[Any, TensorDict]] = []
    for output in outputs:
        shaped = output if isinstance(theirs.input_dim, int) else output.view(-1, *theirs.input_dim)
        theirs.update(shaped)
        params = mine.params(output)
        both.append((theirs.params, params))
        assert_close(params["mean"], theirs.mean)
        assert_close(params["std"].expand_as(theirs.std), theirs.std)
        assert_close(mine.mode(params), theirs.deterministic_output(shaped))
        actions = theirs.mean + theirs.std * th.randn(32, ACTIONS)
        assert_close(mine.log_prob(params, actions), theirs.log_prob(actions))
        assert_close(mine.entropy(params), theirs.entropy)
    (old_theirs, old), (new_theirs, new) = both
    assert_close(mine.kl(old, new), theirs.kl_divergence(old_theirs, new_theirs))


@pytest.mark.parametrize("config", DISTRIBUTIONS[4:])
def test_initial_noise(config: dict[str, Any]) -> None:
    theirs, mine = make_theirs(config), make_head(config)
    their_mlp, my_mlp = (cls(5, theirs.input_dim, [8]) for cls in (modules.MLP, MLP))
    my_mlp.load_state_dict(their_mlp.state_dict())
    theirs.init_mlp_weights(their_mlp)
    mine.init_output_layer(my_mlp.output_layer)
    x = th.randn(9, 5)
    assert_close(my_mlp(x), their_mlp(x))
    assert_close(mine.params(my_mlp(x))["std"], th.full((9, ACTIONS), config.get("init_std", 1.0)))


# --------------------------------------------------------------------------- models


class Model(nn.Module):
    """rsl_rl's model from our parts: normaliser, encoders, memory, perceptron, head."""

    def __init__(self, obs: TensorDict, vector: int, output: int, config: dict[str, Any]) -> None:
        super().__init__()
        normalize = config.get("obs_normalization", False)
        self.obs_normalizer = EmpiricalNormalization(vector) if normalize else nn.Identity()
        self.rnn, width = None, vector
        if "rnn_type" in config:
            width = config["rnn_hidden_dim"]
            self.rnn = RNN(vector, width, config["rnn_num_layers"], config["rnn_type"])
        self.cnns = nn.ModuleDict()
        for group in [name for name, value in obs.items() if value.ndim == 4]:
            cnn = CNN(tuple(obs[group].shape[2:]), obs[group].shape[1], **config["cnn_cfg"])
            self.cnns[group] = cnn
            width += cnn.output_dim
        dist = config.get("distribution_cfg")
        self.distribution = None if dist is None else make_head(dist)
        shape: int | list[int] = output
        if isinstance(self.distribution, HeteroscedasticGaussianHead):
            shape = [2, output]
        self.mlp = MLP(width, shape, config["hidden_dims"], config["activation"])

    def forward(self, obs: TensorDict, groups: list[str]) -> th.Tensor:
        vectors = [obs[name] for name in groups if name not in self.cnns]
        latent = self.obs_normalizer(th.cat(vectors, -1))
        if self.rnn is not None:
            latent = self.rnn(latent).squeeze(0)
        latents = [self.cnns[name](obs[name]) for name in groups if name in self.cnns]
        output = self.mlp(th.cat([latent, *latents], -1))
        self.last_output = output
        head = self.distribution
        return output if head is None else head.mode(head.params(output))


CNN_CONFIG = {
    "output_channels": [4, 6], "kernel_size": [5, 3], "stride": 2, "padding": "replicate",
    "norm": "layer", "activation": "relu", "global_pool": "none",
}  # fmt: skip
MODELS = {
    "MLPModel": {},
    "RNNModel-lstm": {"rnn_type": "lstm", "rnn_hidden_dim": 8, "rnn_num_layers": 2},
    "RNNModel-gru": {"rnn_type": "gru", "rnn_hidden_dim": 8, "rnn_num_layers": 1},
    "CNNModel": {"cnn_cfg": CNN_CONFIG},
}


@pytest.mark.parametrize("dist", [None, DISTRIBUTIONS[1], DISTRIBUTIONS[7]])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", list(MODELS))
@th.no_grad()
def test_models(name: str, normalize: bool, dist: dict[str, Any] | None) -> None:
    config = {
        "hidden_dims": [16, -1], "activation": "elu", "obs_normalization": normalize,
        "distribution_cfg": dist, **MODELS[name],
    }  # fmt: skip
    obs = {"state": th.randn(N_ENVS, 5), "goal": th.randn(N_ENVS, 2)}
    if "cnn_cfg" in config:
        obs |= {"depth": th.randn(N_ENVS, 1, 20, 16), "rgb": th.randn(N_ENVS, 3, 20, 16)}
    groups = ["goal", *sorted(obs.keys() - {"goal"})]
    batch = tensordict.TensorDict(obs, [N_ENVS])
    theirs = getattr(models, name.split("-")[0])(
        batch, {"actor": groups}, "actor", ACTIONS, **config
    )
    scramble(theirs)
    theirs.update_normalization(batch)
    mine = Model({name: obs[name] for name in groups}, 7, ACTIONS, config)
    mine.load_state_dict(theirs.state_dict())
    for _ in range(3):  # the memories move on
        assert_close(mine(obs, groups), theirs(batch))
    if dist is not None:
        mine(obs, groups)
        theirs(batch, stochastic_output=True)
        params = mine.distribution.params(mine.last_output)
        assert_close(params["mean"], theirs.output_mean)
        assert_close(params["std"].expand_as(theirs.output_std), theirs.output_std)


@pytest.mark.parametrize("dist", [DISTRIBUTIONS[2], DISTRIBUTIONS[6]])
@th.no_grad()
def test_a_policy_takes_the_weights_of_an_actor(dist: dict[str, Any]) -> None:
    obs = {"policy": th.randn(N_ENVS, 5)}
    config = {"hidden_dims": [16, 8], "obs_normalization": True, "distribution_cfg": dist}
    batch = tensordict.TensorDict(obs, [N_ENVS])
    theirs = models.MLPModel(batch, {"actor": ["policy"]}, "actor", ACTIONS, **config)
    scramble(theirs)
    theirs.update_normalization(batch)
    options = {key: value for key, value in dist.items() if key != "class_name"}
    policy = StrlPolicy(
        spaces.Dict({"policy": box(5)}),
        box(ACTIONS),
        lambda _: 1e-3,
        actor_hidden_dims=[16, 8],
        empirical_normalization=True,
        distribution_class=dist["class_name"],
        distribution_kwargs=options,
    )
    policy.actor.model.load_state_dict(theirs.mlp.state_dict())
    policy.action_head.load_state_dict(theirs.distribution.state_dict())
    (normalizer,) = [m for m in policy.actor_reader.modules() if type(m) is EmpiricalNormalization]
    normalizer.load_state_dict(theirs.obs_normalizer.state_dict())
    assert_close(policy.act(obs)[0], theirs(batch))
    actions = theirs(batch, stochastic_output=True)
    _, log_prob, entropy = policy.evaluate_actions(obs, actions)
    assert_close(log_prob, theirs.get_output_log_prob(actions))
    assert_close(entropy, theirs.output_entropy)
