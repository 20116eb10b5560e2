"""Several names for one thing; parts are tested with the aliases."""

import math

import pytest
from torch import nn

from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies.options import NetOptions, resolve_net_options

NOTHING = dict.fromkeys(
    (
        "net_arch",
        "actor_hidden_dims",
        "critic_hidden_dims",
        "activation",
        "activation_fn",
        "init_noise_std",
        "log_std_init",
    )
)


def resolve(**given) -> NetOptions:
    return resolve_net_options(**{**NOTHING, **given})


def test_defaults() -> None:
    assert resolve() == NetOptions((256, 256, 256), (256, 256, 256), nn.ELU, 1.0)


@pytest.mark.parametrize(
    ("given", "pi", "vf"),
    [
        ({"net_arch": [4, 5]}, (4, 5), (4, 5)),
        ({"net_arch": []}, (), ()),
        ({"net_arch": {"pi": [4], "vf": []}}, (4,), ()),
        ({"net_arch": {"pi": [4]}}, (4,), (256, 256, 256)),
        ({"actor_hidden_dims": [4], "critic_hidden_dims": [5]}, (4,), (5,)),
        ({"net_arch": {"vf": [5]}, "actor_hidden_dims": [4]}, (4,), (5,)),
        ({"net_arch": [4], "actor_hidden_dims": (4,)}, (4,), (4,)),
    ],
)
def test_widths(given: dict, pi: tuple, vf: tuple) -> None:
    options = resolve(**given)
    assert (options.pi, options.vf) == (pi, vf)


def test_synonyms_of_activation_and_noise() -> None:
    assert resolve(activation="tanh").activation is nn.Tanh
    assert resolve(activation_fn=nn.ReLU).activation is nn.ReLU
    assert resolve(activation="tanh", activation_fn=nn.Tanh).activation is nn.Tanh
    assert resolve(log_std_init=-1.0).init_noise_std == math.exp(-1.0)
    assert resolve(init_noise_std=0.3).init_noise_std == 0.3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"net_arch": [4], "actor_hidden_dims": [5]}, r"net_arch\['pi'\]=\(4,\) and actor_hidden"),
        ({"net_arch": [4], "critic_hidden_dims": [5]}, r"net_arch\['vf'\]=\(4,\) and critic_hid"),
        ({"activation": "tanh", "activation_fn": nn.ReLU}, "activation=.* and activation_fn="),
        ({"init_noise_std": 0.5, "log_std_init": 0.0}, r"init_noise_std=0.5 and exp\(log_std_i"),
    ],
)
def test_synonyms_that_disagree(given: dict, message: str) -> None:
    with pytest.raises(StrlValueError, match=f"{message}.*Give one of them"):
        resolve(**given)


def test_net_arch_has_two_keys() -> None:
    with pytest.raises(StrlTypeError, match=r"unknown keys \['qf'\]\. Known keys: \['pi', 'vf'\]"):
        resolve(net_arch={"qf": [4]})


@pytest.mark.parametrize("layers", [[{"pi": [8], "vf": [8]}], [64, {"pi": [8], "vf": [8]}]])
def test_the_older_spelling_of_net_arch_is_answered_with_the_newer(layers: list) -> None:
    with pytest.raises(StrlTypeError, match=r"as older .* Write net_arch=dict\(pi=\[\.\.\.\], vf="):
        resolve(net_arch=layers)


@pytest.mark.parametrize("widths", [64, "64", [8.5], ["x"], [None]])
@pytest.mark.parametrize("name", ["net_arch", "actor_hidden_dims"])
def test_widths_are_whole_numbers(name: str, widths: object) -> None:
    with pytest.raises(StrlTypeError, match=f"{name} is .* Expected a list of whole numbers"):
        resolve(**{name: widths})


@pytest.mark.parametrize("value", [1000, "-1"])
def test_a_logarithm_that_is_none_is_a_sentence(value: object) -> None:
    with pytest.raises(
        StrlValueError, match=r"log_std_init is .*Expected a small number: 0\.0 for"
    ):
        resolve(log_std_init=value)
