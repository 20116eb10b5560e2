"""Our PPO as the generator of the real imitation's GAIL and AIRL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_strl import PPO
from sb3_strl.common.errors import StrlValueError
from tests.envs.toy import Balance
from tests.integration.imitation_tools import demonstrate, make_venv, mean_return, quiet

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
pytest.importorskip("imitation")
for name in ("datasets", "tqdm", "tensorboard"):
    pytest.importorskip(name)

SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "n_minibatches": 8,
    "n_epochs": 8,
    "gamma": 0.98,
    "learning_rate": 2e-3,
    "ent_coef": 0.0,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [32, 32], "activation": "tanh"},
}


@pytest.fixture(scope="module")
def demos() -> list[Any]:
    return demonstrate("CartPole-v1", 8)


def make_trainer(kind: str, demos: Any, venv: Any, gen: PPO, **kwargs: Any) -> Any:
    from imitation.algorithms.adversarial.airl import AIRL
    from imitation.algorithms.adversarial.gail import GAIL
    from imitation.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet
    from imitation.util.networks import RunningNorm

    th.manual_seed(0)
    cls, net = {"GAIL": (GAIL, BasicRewardNet), "AIRL": (AIRL, BasicShapedRewardNet)}[kind]
    options = {"demo_batch_size": 256, "n_disc_updates_per_round": 4} | kwargs
    return cls(
        demonstrations=demos,
        venv=venv,
        gen_algo=gen,
        reward_net=net(
            venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm
        ),
        allow_variable_horizon=True,
        custom_logger=quiet(),
        **options,
    )


def copies(module: th.nn.Module) -> list[th.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def differs(before: list[th.Tensor], module: th.nn.Module) -> bool:
    return any(not th.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_gail_teaches_our_ppo_what_the_expert_does(demos) -> None:
    venv = make_venv("CartPole-v1", 8)
    gen = PPO("MlpPolicy", venv, **SETTINGS)
    trainer = make_trainer("GAIL", demos, venv, gen)
    assert trainer.gen_train_timesteps == 128 * 8
    before = mean_return(gen, "CartPole-v1")
    trainer.train(6 * 1024)
    assert before < 60
    assert mean_return(trainer.policy, "CartPole-v1") > 150
    # imitation counts rounds by the steps that it asked for.
    assert gen.num_timesteps == 6 * 1024
    assert gen.n_iterations == 6


@pytest.mark.parametrize("kind", ["GAIL", "AIRL"])
def test_both_sides_learn_from_the_learnt_reward(demos, kind: str) -> None:
    venv = make_venv("CartPole-v1")
    gen = PPO("MlpPolicy", venv, **SETTINGS)
    trainer = make_trainer(kind, demos, venv, gen)
    policy, reward = copies(gen.policy), copies(trainer._reward_net)
    trainer.train_gen()
    assert differs(policy, gen.policy)
    # CartPole pays 1 for every step; what PPO stored is what the reward net says.
    buffer = gen.rollout_buffer
    obs, acts = buffer["obs/policy"].numpy(), buffer["actions"].numpy()
    inside = ~buffer["episode_starts"][1:].numpy().astype(bool)
    expected = trainer.reward_train.predict_processed(
        obs[:-1][inside],
        acts[:-1][inside].ravel().astype(int),
        obs[1:][inside],
        np.zeros(inside.sum(), bool),
    )
    stored = buffer["rewards"][:-1].numpy()[inside]
    assert np.allclose(stored, expected, atol=1e-4)
    assert np.abs(stored - 1.0).mean() > 0.1
    for _ in range(3):
        stats = trainer.train_disc()
        assert all(np.isfinite(value) for value in stats.values() if value is not None)
    assert differs(reward, trainer._reward_net)


def test_a_generator_is_saved_and_goes_on_with_another_trainer(demos, tmp_path: Path) -> None:
    venv = make_venv("CartPole-v1")
    gen = PPO("MlpPolicy", venv, **SETTINGS)
    trainer = make_trainer("GAIL", demos, venv, gen)
    trainer.train(1024)
    gen.save(tmp_path / "gen")
    again = PPO.load(tmp_path / "gen", env=make_venv("CartPole-v1", seed=5), device="cpu")
    obs = demos[0].obs[:50]
    assert np.array_equal(
        gen.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0]
    )
    other = make_trainer("GAIL", demos, make_venv("CartPole-v1", seed=5), again)
    with pytest.warns(UserWarning, match=r"the file holds no state for this environment"):
        other.train(512)
    other.train(512)
    assert again.num_timesteps == 2048


def test_normalised_observations_reach_the_generator(demos) -> None:
    venv = VecNormalize(make_venv("CartPole-v1"), norm_reward=False)
    gen = PPO("MlpPolicy", venv, **SETTINGS)
    trainer = make_trainer("GAIL", demos, venv, gen)
    trainer.train(1024)
    assert gen.get_vec_normalize_env() is venv
    assert venv.obs_rms.count > 1000
    assert gen.rollout_buffer["obs/policy"].abs().max() <= 10.0


class AsFloat64(gym.ObservationWrapper):
    """MuJoCo's environments observe in double precision."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self.observation_space = spaces.Box(
            space.low.astype(np.float64), space.high.astype(np.float64), dtype=np.float64
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation.astype(np.float64)


def test_double_precision_and_continuous_actions() -> None:
    wrappers = [AsFloat64]
    demos = demonstrate("Pendulum-v1", 4, wrappers=wrappers)
    assert demos[0].obs.dtype == np.float64
    venv = make_venv("Pendulum-v1", wrappers=wrappers)
    gen = PPO("MlpPolicy", venv, **SETTINGS)
    trainer = make_trainer("AIRL", demos, venv, gen)
    before = copies(trainer._reward_net)
    trainer.train(1024)
    assert differs(before, trainer._reward_net)


def test_a_tensor_environment_is_driven_by_its_numpy_face() -> None:
    from imitation.data import rollout, types

    venv = Balance(4, seed=0)
    gen = PPO("MlpPolicy", venv, **(SETTINGS | {"n_steps": 32}))
    demos = rollout.generate_trajectories(
        gen, venv, rollout.make_sample_until(min_episodes=4), rng=np.random.default_rng(0)
    )
    assert isinstance(demos[0], types.Trajectory)
    trainer = make_trainer("GAIL", demos, venv, gen, demo_batch_size=32)
    before = copies(trainer._reward_net)
    trainer.train(256)
    assert differs(before, trainer._reward_net)
    assert gen.num_timesteps == 256


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_a_generator_with_memory_is_refused(demos, policy: str) -> None:
    venv = make_venv("CartPole-v1")
    options = SETTINGS | {"n_steps": 32, "n_minibatches": 1}
    trainer = make_trainer("GAIL", demos, venv, PPO(policy, venv, **options), demo_batch_size=64)
    with pytest.raises(StrlValueError, match=rf"{policy} has a memory .* use a policy without"):
        trainer.train(128)
