"""Names resolve to policies with the parts in their names."""

import pytest
import torch as th
from torch import nn

from sb3_strl import AMPPPO, APPO, PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies import POLICY_ALIASES
from tests.envs.toy import PointMass

SMALL = {"net_arch": [8]}


@pytest.mark.parametrize("alias", ["MlpPolicy", "EncoderPolicy", "AmpPolicy", "EncoderAmpPolicy"])
def test_an_alias_has_the_parts_of_its_name(alias: str) -> None:
    policy = PPO(alias, PointMass(2), policy_kwargs=SMALL).policy
    assert type(policy).__name__ == alias
    assert bool(policy.actor_reader.encoders) == ("Encoder" in alias)
    assert (policy.discriminator is not None) == ("Amp" in alias)


def test_the_free_alias_takes_any_part() -> None:
    policy = PPO("StrlPolicy", PointMass(2), policy_kwargs={**SMALL, "encoder": {}}).policy
    assert policy.actor_reader.encoders
    assert policy.discriminator is None


def test_a_class_may_be_given_instead_of_its_name() -> None:
    policy = PPO(POLICY_ALIASES["EncoderPolicy"], PointMass(2), policy_kwargs=SMALL).policy
    assert type(policy) is POLICY_ALIASES["EncoderPolicy"]


def test_the_card_runs_as_it_is_written() -> None:
    env = PointMass(2)
    APPO("EncoderAmpPolicy", env).learn(48)
    assert AMPPPO is APPO


def test_an_algorithm_with_a_prior_refuses_a_policy_without_discriminator() -> None:
    with pytest.raises(StrlTypeError, match=r"(?i)discriminator|amp"):
        APPO("MlpPolicy", PointMass(2), policy_kwargs=SMALL)


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(StrlValueError, match=r"PPO: unknown policy 'MlPolicy'\. Did you mean 'Mlp"):
        PPO("MlPolicy", PointMass(2))


def test_layers_do_not_share_an_activation_with_parameters() -> None:
    kwargs = {"net_arch": [8, 8], "activation_fn": nn.PReLU}
    policy = PPO("MlpPolicy", PointMass(2), policy_kwargs=kwargs).policy
    slopes = [m for m in policy.modules() if isinstance(m, nn.PReLU)]
    assert len({id(m.weight) for m in slopes}) == len(slopes) == 4


def test_the_discriminator_is_not_in_the_optimizer_of_the_policy() -> None:
    policy = PPO("AmpPolicy", PointMass(2), policy_kwargs=SMALL).policy
    mine = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in policy.ppo_parameters()}
    assert not mine & {id(p) for p in policy.discriminator.parameters()}
    assert isinstance(policy.optimizer, th.optim.Adam)
    assert policy.optimizer.defaults["eps"] == 1e-8
