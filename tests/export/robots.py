"""Policies of every kind with statistics that are not trivial."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_strl.policies import POLICY_ALIASES, StrlPolicy
from tests.envs.robot import RobotToy
from tests.integration.test_matrix import KWARGS

PART_KEYS = {
    "visual": "Visual",
    "encoder": "Encoder",
    "adaptor": "Privilege",
    "estimator": "Estimator",
    "amp": "Amp",
}


def make_policy(alias: str, seed: int = 0, **options: Any) -> StrlPolicy:
    """Return a policy of a name, with large weights and the statistics of made-up data."""
    th.manual_seed(seed)
    cls = POLICY_ALIASES[alias]
    kwargs: dict[str, Any] = {"net_arch": [8], "empirical_normalization": True}
    for part in cls.alias_parts or ():
        if part in PART_KEYS:
            kwargs.update(KWARGS[PART_KEYS[part]])
    if cls.alias_rnn:
        kwargs["rnn"] = {"hidden_size": 7, "num_layers": 2}
    env = RobotToy(4)
    kwargs.update(options)
    policy = cls(
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        obs_segments=env.obs_segments,
        **kwargs,
    )
    shake(policy)
    return policy


@th.no_grad()
def shake(policy: StrlPolicy) -> None:
    """Make the weights large enough for every part to matter, and fill the statistics."""
    for parameter in policy.parameters():
        parameter.mul_(1.5).add_(0.1 * th.randn_like(parameter))
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            module.bias.uniform_(-0.2, 0.2)
    policy.set_training_mode(True)
    assert isinstance(policy.observation_space, spaces.Dict)
    obs = {
        name: 2.0 * th.randn(50, *(space.shape or ())) + 1.0
        for name, space in policy.observation_space.spaces.items()
    }
    policy.update_normalizers(obs)
    policy.set_training_mode(False)
