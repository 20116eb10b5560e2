"""What a configuration tells a policy's parts is checked before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import APPO, PPO
from sb3_strl.cli.config import TrainConfig
from sb3_strl.cli.parts import fitting_parts
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from tests.envs.robot import RobotToy

ESTIMATOR = {"obs_components": ["proprio"], "target_components": ["velocity"]}
VALID: list[dict[str, Any]] = [
    {"encoder": {"component_names": "proprio"}},
    {"encoder": {"component_names": ["proprio", "mass"], "class_name": [None, "MlpModel"]}},
    {"encoder": {"component_names": ["proprio", "mass"], "kwargs": [{"hidden_sizes": [8]}, {}]}},
    {"encoder": {"component_names": ["proprio"], "kwargs": {"hidden_sizes": 4}}},
    {"encoder": {"component_names": ["proprio"], "kwargs": {"hidden_sizes": None}}},
    {
        "encoder": {
            "component_names": ["depth"],
            "critic_component_names": "shared",
            "class_name": "Conv2dHeadModel",
            "output_size": 5.0,
            "kwargs": {"channels": [4], "kernel_sizes": [3], "strides": [1]},
        }
    },
    {"visual": {"component_name": "depth", "strides": [1, [1, 2]], "hidden_sizes": 8}},
    {"visual": {"component_names": "depth", "kwargs": {"channels": [4], "use_maxpool": True}}},
    {"rnn": {"type": None, "hidden_size": 8.0}},
    {"rnn": {"type": "gru", "critic": False}},
    {"estimator": {**ESTIMATOR, "kwargs": {"hidden_sizes": [8], "nonlinearity": "tanh"}}},
    {"estimator": {**ESTIMATOR, "obs_components": "proprio", "normalize_targets": None}},
    {"adaptor": {"obs_components": ["proprio"], "target_components": ["mass"], "replace_prob": 1}},
    {"amp_discriminator": {"hidden_dims": [], "normalizer_until": 10.0, "wgan_eta": 1}},
    {"distribution_kwargs": {"std_range": [0.1, 2], "learn_std": False, "noise_std_type": "log"}},
    {
        "distribution_class": "HeteroscedasticGaussianDistribution",
        "distribution_kwargs": {"init_std": 0.5, "std_type": "log"},
    },
    {"optimizer_kwargs": {"betas": [0.9, 0.95], "eps": 1e-5, "fused": None}},
    {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
]


@pytest.mark.parametrize("part", VALID, ids=str)
def test_what_a_policy_takes_is_let_through(part: dict[str, Any]) -> None:
    config = TrainConfig.from_dict({"hyperparameters": {"policy_kwargs": part}})
    kwargs = config.hyperparameters["policy_kwargs"]
    algorithm = APPO if "amp_discriminator" in part else PPO
    model = algorithm("StrlPolicy", RobotToy(4), n_steps=8, policy_kwargs=kwargs)
    model.learn(32)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"rnn": {"hidden_size": 1.5}}, r"rnn: hidden_size is 1.5. Expected a whole number"),
        ({"rnn": {"hidden_sise": 8}}, r"rnn: unknown option 'hidden_sise'. Did you mean 'hidden"),
        ({"rnn": {"return": None}}, r"rnn: unknown option 'return'"),
        ({"rnn": {3: 4}}, r"rnn: the key 3 is no text"),
        (
            {"amp_discriminator": {"hidden_dims": "x"}},
            r"amp_discriminator: hidden_dims is 'x'. Expected a list of whole numbers",
        ),
        (
            {"estimator": {**ESTIMATOR, "target_components": [3]}},
            r"estimator: target_components is \[3\]. Expected a list of texts or a text",
        ),
        (
            {"estimator": {**ESTIMATOR, "kwargs": {"hidden_size": 3}}},
            r"estimator: kwargs: unknown option 'hidden_size'. Did you mean 'hidden_sizes'",
        ),
        (
            {"adaptor": {**ESTIMATOR, "kwargs": {"hidden_sizes": [2.5]}}},
            r"adaptor: kwargs: hidden_sizes is \[2.5\]. Expected a list of whole numbers",
        ),
        ({"encoder": {"kwargs": [{"hidden_sizes": "x"}]}}, r"encoder: kwargs: hidden_sizes is 'x'"),
        (
            {"visual": {"chanels": [4]}},
            r"visual: unknown option 'chanels'. Did you mean 'channels'",
        ),
        ({"visual": {"kernel_sizes": 3}}, r"visual: kernel_sizes is 3. Expected a list"),
        ({"visual": {"kwargs": {3: 3}}}, r"visual: kwargs: the key 3 is no text"),
        (
            {"distribution_kwargs": {"std_range": "x"}},
            r"distribution_kwargs: std_range is 'x'. Expected a list of 2 numbers",
        ),
        ({"distribution_kwargs": {"std_range": [0.1, None]}}, r"std_range is \[0.1, None\]. Exp"),
        ({"distribution_kwargs": {"std_range": None}}, r"std_range is None. Expected a list of 2"),
        ({"distribution_kwargs": {"learn_std": 3}}, r"learn_std is 3. Expected true or false"),
        ({"distribution_kwargs": {"init_std": "x"}}, r"init_std is 'x'. Expected a number"),
        ({"distribution_kwargs": {"std_type": 3}}, r"std_type is 3. Expected one of \['log', 'sc"),
        (
            {"distribution_kwargs": {"stdrange": [0.1, 1]}},
            r"distribution_kwargs: unknown option 'stdrange'. Did you mean 'std_range'",
        ),
        ({"distribution_kwargs": {3: 3}}, r"distribution_kwargs: the key 3 is no text"),
        ({"optimizer_kwargs": {"eps": "x"}}, r"optimizer_kwargs: eps is 'x'. Expected a number"),
        ({"optimizer_kwargs": {"betas": [0.9]}}, r"betas is \[0.9\]. Expected a list of 2 values"),
        ({"optimizer_kwargs": {"epz": 1}}, r"optimizer_kwargs: unknown option 'epz'. Did you mean"),
    ],
)
def test_what_no_part_takes_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(StrlTypeError, match=message):
        TrainConfig.from_dict({"algorithm": "appo", "hyperparameters": {"policy_kwargs": part}})


def test_numbers_are_whole_where_they_must_be() -> None:
    found = fitting_parts("here", {"rnn": {"hidden_size": 8.0}, "encoder": {"output_size": 4.0}})
    assert type(found["rnn"]["hidden_size"]) is int
    assert type(found["encoder"]["output_size"]) is int


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"optimizer_kwargs": {"eps": -1}}, r"FlatAdam refuses optimizer_kwargs .*'eps': -1"),
        ({"log_std_init": 1000}, r"log_std_init is 1000.*Expected a small number: 0.0 for 1"),
        ({"visual": {"strides": [0, 1]}}, r"stride \(0, 0\).*Expected positive ints"),
        ({"visual": {"channels": [0, 1]}}, r"channels is \[0, 1\]. Expected positive ints"),
    ],
)
def test_what_does_not_work_is_a_sentence(part: dict[str, Any], message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        PPO("StrlPolicy", RobotToy(4), policy_kwargs=part)
