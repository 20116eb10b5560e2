"""The invariants that find most bugs, for every alias and algorithm."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_strl import APPO, PPO
from sb3_strl.algorithms import ppo as ppo_module
from sb3_strl.envs import NumpyBridge, TensorVecEnv
from tests.envs.toy import DiscreteToy, ImageToy, PointMass
from tests.host_sync import no_host_sync

pytestmark = pytest.mark.integration

CASES = [
    (PPO, "MlpPolicy"),
    (PPO, "EncoderPolicy"),
    (PPO, "AmpPolicy"),
    (APPO, "AmpPolicy"),
    (APPO, "EncoderAmpPolicy"),
]
AMP = {"amp_discriminator": {"task_reward_lerp": 0.5, "hidden_dims": [16]}}


def make(algorithm: type[PPO], alias: str, env: TensorVecEnv, **options) -> PPO:
    kwargs = {"net_arch": [16, 16], **options.pop("policy_kwargs", {})}
    if "Amp" in alias:
        kwargs.update(AMP)
    settings = {"n_steps": 8, "n_epochs": 2, "n_minibatches": 3, "seed": 3, **options}
    return algorithm(alias, env, policy_kwargs=kwargs, **settings)


def first_ratios(model: PPO, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train; return how far the first minibatch's ratio was from 1 in every update."""
    gaps: list[float] = []
    original = PPO._minibatch

    def spy(self, batch):
        if self._steps_taken == 0:
            with th.no_grad():
                out = self.policy.evaluate(batch.observations)
                log_prob = self.policy.action_head.log_prob(out.params, batch.actions)
                gaps.append(float(((log_prob - batch.old_log_prob).exp() - 1.0).abs().max()))
                assert th.allclose(out.values, batch.old_values, atol=1e-4)
        return original(self, batch)

    monkeypatch.setattr(PPO, "_minibatch", spy)
    model.learn(n_steps)
    return gaps


@pytest.mark.parametrize(("algorithm", "alias"), CASES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("schedule", ["fixed", "adaptive"])
def test_ratio_is_one_before_the_first_step(
    algorithm: type[PPO],
    alias: str,
    normalize: bool,
    schedule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = PointMass(6, termination_prob=0.05)
    options = {"policy_kwargs": {"empirical_normalization": normalize}, "schedule": schedule}
    model = make(algorithm, alias, env, **options)
    gaps = first_ratios(model, 8 * 6 * 5, monkeypatch)
    assert len(gaps) == 5
    assert max(gaps) < 1e-5


@pytest.mark.parametrize(
    "env",
    [
        DiscreteToy(spaces.Discrete(4, start=2)),
        DiscreteToy(spaces.MultiDiscrete([3, 4])),
        DiscreteToy(spaces.MultiBinary(3)),
        ImageToy(4),
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary", "image"],
)
@pytest.mark.parametrize("alias", ["MlpPolicy", "EncoderPolicy"])
def test_ratio_is_one_for_every_kind_of_action(
    env: TensorVecEnv, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {}
    if isinstance(env.observation_space, spaces.Dict):
        options = {"obs_groups": {"actor": list(env.observation_space.spaces)}}
    gaps = first_ratios(make(PPO, alias, env, policy_kwargs=options), 200, monkeypatch)
    assert gaps
    assert max(gaps) < 1e-5


class PassThrough(VecEnvWrapper):
    """A wrapper that knows nothing of tensors."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


@pytest.mark.parametrize(("algorithm", "alias"), CASES)
def test_numpy_path_trains_as_the_tensor_path(algorithm: type[PPO], alias: str) -> None:
    direct = make(algorithm, alias, PointMass(6, termination_prob=0.05))
    hidden = PassThrough(PointMass(6, termination_prob=0.05))
    # A foreign wrapper hides the names of the segments.
    segments = {"obs_segments": PointMass(6).obs_segments}
    bridged = make(algorithm, alias, hidden, policy_kwargs=segments)
    assert isinstance(bridged.tensor_env, NumpyBridge)
    direct.learn(8 * 6 * 4)
    bridged.learn(8 * 6 * 4)
    ours, theirs = direct.policy.state_dict(), bridged.policy.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert th.allclose(value.float(), theirs[name].float(), atol=1e-6), name


@pytest.mark.parametrize(("algorithm", "alias"), CASES)
def test_steps_and_minibatches_never_wait_for_the_device(
    algorithm: type[PPO], alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, alias, PointMass(6, termination_prob=0.05), schedule="adaptive")
    watched = []
    act, step = ppo_module.RolloutCollector.act, ppo_module.RolloutCollector.step
    epoch = PPO._train_epoch

    def watch(function):
        def wrapper(*args):
            watched.append(function.__name__)
            with no_host_sync():
                return function(*args)

        return wrapper

    monkeypatch.setattr(ppo_module.RolloutCollector, "act", watch(act))
    monkeypatch.setattr(ppo_module.RolloutCollector, "step", watch(step))
    monkeypatch.setattr(PPO, "_train_epoch", watch(epoch))
    for objective in model.objectives:
        monkeypatch.setattr(objective, "on_step", watch(objective.on_step))
    model.learn(8 * 6 * 2)
    assert {"act", "step", "_train_epoch"} <= set(watched)


def test_the_watch_sees_a_transfer() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        th.ones(3).sum().item()


RESUME = """
import sys
import torch as th
th.set_num_threads(1)
from tests.integration.test_invariants import load_and_finish
load_and_finish(*sys.argv[1:])
"""


def load_and_finish(algorithm: str, source: str, target: str) -> None:
    """Resume in a fresh process; the environment is seeded otherwise, its state comes along."""
    model = {"PPO": PPO, "APPO": APPO}[algorithm].load(source, env=PointMass(6, seed=99))
    model.learn(8 * 6 * 3, reset_num_timesteps=False)
    model.save(target)


@pytest.mark.parametrize(("algorithm", "alias"), [CASES[1], CASES[4]])
@pytest.mark.parametrize("schedule", ["fixed", "adaptive"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    algorithm: type[PPO], alias: str, schedule: str, tmp_path: Path
) -> None:
    options = {"schedule": schedule, "policy_kwargs": {"empirical_normalization": True}}
    if algorithm is APPO:
        options["amp_replay_size"] = 100
    model = make(algorithm, alias, PointMass(6), **options)
    model.learn(8 * 6 * 2)
    model.save(tmp_path / "half")
    model.learn(8 * 6 * 3, reset_num_timesteps=False)
    arguments = [algorithm.__name__, str(tmp_path / "half.zip"), str(tmp_path / "whole.zip")]
    subprocess.run([sys.executable, "-c", RESUME, *arguments], check=True, timeout=120)
    resumed = algorithm.load(tmp_path / "whole", env=PointMass(6))
    assert resumed.num_timesteps == model.num_timesteps
    assert resumed.current_lr == model.current_lr
    pairs = [(model.policy.state_dict(), resumed.policy.state_dict())]
    if isinstance(model, APPO):
        pairs.append(
            (model.motion_prior.replay.state_dict(), resumed.motion_prior.replay.state_dict())
        )
    for ours, theirs in pairs:
        for name, value in ours.items():
            assert th.equal(value, theirs[name]), name
