"""On an accelerator: observations on the host, hidden layers in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import PPO
from tests.envs.toy import PointMass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device"),
]


def train(alias: str, **options: Any) -> PPO:
    env = PointMass(64, device="cuda", termination_prob=0.05)
    kwargs = {"empirical_normalization": True}
    model = PPO(alias, env, n_steps=8, device="cuda", seed=0, policy_kwargs=kwargs, **options)
    return model.learn(3 * 64 * 8)


@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpLstmPolicy"])
def test_storage_on_the_host_changes_no_number(alias: str) -> None:
    far, near = train(alias, storage_device="cpu"), train(alias)
    for value in far.rollout_buffer.obs().values():
        assert value.is_pinned()
    expected = near.policy.state_dict()
    for key, value in far.policy.state_dict().items():
        th.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)


def test_bfloat16_trains_and_memory_is_logged() -> None:
    model = train("MlpPolicy", autocast=True)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    assert model.logger.name_to_value["perf/gpu_memory_mb"] > 0
