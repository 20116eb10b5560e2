"""On an accelerator: nothing waits for the device inside a rollout or a minibatch."""

import pytest
import torch as th

from sb3_strl import APPO, PPO
from sb3_strl.algorithms.rollout import RolloutCollector
from tests.envs.toy import PointMass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("algorithm", "alias"), [(PPO, "MlpPolicy"), (APPO, "EncoderAmpPolicy")])
def test_steps_and_minibatches_do_not_synchronise(
    algorithm: type[PPO], alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(function):
        def wrapper(*args):
            th.cuda.set_sync_debug_mode("error")
            try:
                return function(*args)
            finally:
                th.cuda.set_sync_debug_mode("default")

        return wrapper

    env = PointMass(64, device="cuda")
    model = algorithm(alias, env, n_steps=8, schedule="adaptive", device="cuda", seed=0)
    model.learn(64 * 8)  # lazy initialisation may wait
    monkeypatch.setattr(RolloutCollector, "act", strict(RolloutCollector.act))
    monkeypatch.setattr(RolloutCollector, "step", strict(RolloutCollector.step))
    monkeypatch.setattr(PPO, "_train_epoch", strict(PPO._train_epoch))
    model.learn(64 * 8 * 2, reset_num_timesteps=False)
    assert model.rollout_buffer["rewards"].is_cuda
