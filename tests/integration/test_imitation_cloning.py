"""Our policies in the real imitation's BC and DAgger, and what these trained as teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, TPPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.policies import load_policy, resolve_policy_name, save_policy
from tests.integration.imitation_tools import (
    EXPERTS,
    as_policy,
    demonstrate,
    make_venv,
    mean_return,
    quiet,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
pytest.importorskip("imitation")
for name in ("datasets", "tqdm"):
    pytest.importorskip(name)

POLICIES: dict[str, dict[str, Any]] = {
    "MlpPolicy": {},
    "EncoderPolicy": {"encoder": {"output_size": 8, "kwargs": {"hidden_sizes": [16]}}},
    "DeterministicPolicy": {},
}
SMALL: dict[str, Any] = {"net_arch": [32, 32], "activation": "tanh"}
NORMALISED = "MlpPolicy with statistics"


@pytest.fixture(scope="module")
def demos() -> dict[str, list[Any]]:
    return {env_id: demonstrate(env_id, 8) for env_id in EXPERTS}


def make_policy(name: str, env: Any, **kwargs: Any) -> Any:
    th.manual_seed(0)
    cls: Any = resolve_policy_name(name, "test")
    options = {**SMALL, **POLICIES.get(name, {}), **kwargs}
    return cls(env.observation_space, env.action_space, lambda _: 1e-3, **options)


def make_bc(demonstrations: Any, env: Any, policy: Any = None, **kwargs: Any) -> Any:
    from imitation.algorithms import bc

    th.manual_seed(0)
    return bc.BC(
        observation_space=env.observation_space,
        action_space=env.action_space,
        rng=np.random.default_rng(0),
        policy=policy,
        demonstrations=demonstrations,
        batch_size=64,
        optimizer_kwargs={"lr": 3e-3},
        custom_logger=quiet(),
        **kwargs,
    )


def loss(trainer: Any, obs: Any, acts: np.ndarray) -> float:
    with th.no_grad():
        return float(trainer.loss_calculator(trainer.policy, obs, acts).neglogp)


def rows(trajectories: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    obs = np.concatenate([trajectory.obs[:-1] for trajectory in trajectories])
    return obs, np.concatenate([trajectory.acts for trajectory in trajectories])


@pytest.mark.parametrize("name", POLICIES)
def test_behaviour_cloning_learns_the_expert_of_cartpole(demos, name: str) -> None:
    env = gym.make("CartPole-v1")
    trainer = make_bc(demos["CartPole-v1"], env, make_policy(name, env))
    obs, acts = rows(demos["CartPole-v1"])
    agreement = [(trainer.policy.predict(obs, deterministic=True)[0] == acts).mean()]
    losses = [loss(trainer, obs, acts)]
    trainer.train(n_epochs=6, progress_bar=False)
    agreement.append((trainer.policy.predict(obs, deterministic=True)[0] == acts).mean())
    losses.append(loss(trainer, obs, acts))
    assert losses[1] < 0.6 * losses[0]
    assert agreement[1] > max(0.8, agreement[0] + 0.2)  # the expert switches at every step
    assert mean_return(trainer.policy, "CartPole-v1") > 400


def test_behaviour_cloning_learns_the_expert_of_pendulum(demos) -> None:
    env = gym.make("Pendulum-v1")
    policy = make_policy("MlpPolicy", env, empirical_normalization=True)
    obs, acts = rows(demos["Pendulum-v1"])
    policy.update_normalizers({"policy": th.from_numpy(obs)})  # BC does not know of statistics
    trainer = make_bc(demos["Pendulum-v1"], env, policy)
    before = np.abs(policy.predict(obs, deterministic=True)[0] - acts).mean()
    trainer.train(n_epochs=30, progress_bar=False)
    assert np.abs(policy.predict(obs, deterministic=True)[0] - acts).mean() < 0.5 * before
    assert mean_return(trainer.policy, "Pendulum-v1") > -500


class ByName(gym.ObservationWrapper):
    """CartPole as groups; the critic's holds noise that an actor must not need."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert env.observation_space is not None
        self.observation_space = spaces.Dict(
            {
                "policy": env.observation_space,
                "critic": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            }
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"policy": observation, "critic": self.np_random.random(2).astype(np.float32)}


@pytest.mark.parametrize("name", ["MlpPolicy", "EncoderPolicy"])
def test_observations_by_name(name: str) -> None:
    from imitation.data import rollout, types

    venv = make_venv("CartPole-v1", wrappers=[ByName])
    expert = as_policy(lambda obs: EXPERTS["CartPole-v1"](obs["policy"]))
    demos = rollout.rollout(
        expert, venv, rollout.make_sample_until(min_episodes=4), rng=np.random.default_rng(0)
    )
    assert isinstance(demos[0].obs, types.DictObs)
    trainer = make_bc(demos, venv, make_policy(name, venv))
    trainer.train(n_epochs=5, progress_bar=False)
    names = ("policy", "critic")
    obs = {key: np.concatenate([t.obs.get(key)[:-1] for t in demos]) for key in names}
    acts = np.concatenate([t.acts for t in demos])
    assert (trainer.policy.predict(obs, deterministic=True)[0] == acts).mean() > 0.75


def test_one_batch_has_the_shapes_that_imitation_expects(demos) -> None:
    env = gym.make("Pendulum-v1")
    policy = make_policy("MlpPolicy", env)
    obs, acts = rows(demos["Pendulum-v1"])
    values, log_prob, entropy = policy.evaluate_actions(th.tensor(obs[:7]), th.tensor(acts[:7]))
    assert values.shape == (7, 1)
    assert log_prob.shape == entropy.shape == (7,)


@pytest.mark.parametrize("name", ["MlpLstmPolicy", "MlpGruPolicy", "EncoderLstmPolicy"])
def test_a_policy_with_memory_is_refused(demos, name: str) -> None:
    env = gym.make("CartPole-v1")
    kwargs = POLICIES["EncoderPolicy"] if name.startswith("Encoder") else {}
    trainer = make_bc(demos["CartPole-v1"], env, make_policy(name, env, **kwargs))
    before = [parameter.clone() for parameter in trainer.policy.parameters()]
    with pytest.raises(StrlValueError, match=rf"{name} has a memory .* BC, DAgger, GAIL and AIRL"):
        trainer.train(n_epochs=1, progress_bar=False)
    after = list(trainer.policy.parameters())
    assert all(th.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_was_cloned_survives_imitations_pickle_and_our_file(demos, tmp_path: Path) -> None:
    from imitation.util import util

    env = gym.make("CartPole-v1")
    trainer = make_bc(demos["CartPole-v1"], env, make_policy("EncoderPolicy", env))
    trainer.train(n_epochs=1, progress_bar=False)
    obs, _ = rows(demos["CartPole-v1"])
    expected = trainer.policy.predict(obs, deterministic=True)[0]
    util.save_policy(trainer.policy, tmp_path / "pickled.pt")
    save_policy(trainer.policy, tmp_path / "ours.zip")
    pickled = th.load(tmp_path / "pickled.pt", weights_only=False)
    for again in (pickled, load_policy(tmp_path / "ours.zip", "cpu")):
        assert np.array_equal(again.predict(obs, deterministic=True)[0], expected)


def test_ppo_goes_on_from_a_cloned_policy(demos) -> None:
    venv = make_venv("CartPole-v1")
    model = PPO("MlpPolicy", venv, n_steps=64, device="cpu", seed=0, policy_kwargs=SMALL)
    trainer = make_bc(demos["CartPole-v1"], venv, model.policy)
    trainer.train(n_epochs=3, progress_bar=False)
    assert mean_return(model, "CartPole-v1") > 400
    model.learn(256)
    assert mean_return(model, "CartPole-v1") > 100


def test_dagger_improves_our_policy(tmp_path: Path) -> None:
    from imitation.algorithms.dagger import SimpleDAggerTrainer
    from stable_baselines3.common.policies import BasePolicy

    class Expert(BasePolicy):
        def _predict(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
            return th.from_numpy(EXPERTS["CartPole-v1"](observation.numpy()))

    venv = make_venv("CartPole-v1")
    policy = make_policy("MlpPolicy", venv)
    assert mean_return(policy, "CartPole-v1") < 150
    trainer = SimpleDAggerTrainer(
        venv=venv,
        scratch_dir=tmp_path,
        expert_policy=Expert(venv.observation_space, venv.action_space),
        rng=np.random.default_rng(0),
        bc_trainer=make_bc(None, venv, policy),
        custom_logger=quiet(),
    )
    trainer.train(2000, bc_train_kwargs={"n_epochs": 8, "progress_bar": False})
    assert mean_return(trainer.policy, "CartPole-v1") > 400
    # What it left on disk is read without imitation.
    from sb3_strl.data import from_imitation

    folders = sorted((tmp_path / "demos" / "round-000").glob("*.npz"))
    read = [trajectory for folder in folders for trajectory in from_imitation(folder)]
    assert sum(map(len, read)) > 500


# ---------------------------------------------------------------------- teachers


def normalised_policy(env: Any) -> Any:
    from imitation.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
    from imitation.util.networks import RunningNorm

    return FeedForward32Policy(
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        features_extractor_class=NormalizeFeaturesExtractor,
        features_extractor_kwargs={"normalize_class": RunningNorm},
    )


@pytest.fixture(scope="module")
def cloned(demos) -> dict[str, Any]:
    """Policies that BC trained: imitation's default, the same with statistics, and ours."""
    env = gym.make("CartPole-v1")
    made = {
        "imitation's default": None,
        "imitation's with statistics": normalised_policy(env),
        "ours": make_policy("MlpPolicy", env),
    }
    found = {}
    for name, policy in made.items():
        trainer = make_bc(demos["CartPole-v1"], env, policy)
        trainer.train(n_epochs=3, progress_bar=False)
        found[name] = trainer.policy
    return found


KINDS = ["imitation's default", "imitation's with statistics", "ours"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["instance", "file"])
def test_a_cloned_policy_teaches(cloned, demos, tmp_path: Path, kind: str, how: str) -> None:
    source = cloned[kind]
    source.set_training_mode(True)  # as BC leaves it
    teacher: Any = source
    if how == "file":
        teacher = tmp_path / "teacher.zip"
        save_policy(source, teacher)
    student = TPPO(
        "MlpPolicy",
        make_venv("CartPole-v1"),
        teacher=teacher,
        using_ppo=False,
        teacher_act_prob=0.0,
        distill_target="kl",
        n_steps=128,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        policy_kwargs=SMALL,
    )
    # What the teacher says is what the cloned policy does.
    obs, _ = rows(demos["CartPole-v1"])
    labels = student.distillation.label({"policy": th.from_numpy(obs)})
    source.set_training_mode(False)
    expected, _ = source.predict(obs, deterministic=True)
    assert np.array_equal(labels.numpy().ravel(), expected)
    frozen = student.distillation.teacher.policy.state_dict()
    before = {key: value.clone() for key, value in frozen.items()}
    student.learn(128 * 4 * 6)
    # RunningNorm goes on counting wherever it is left in training mode.
    assert all(th.equal(frozen[key], value) for key, value in before.items())
    agreement = student.predict(obs, deterministic=True)[0] == expected
    assert agreement.mean() > 0.7


def test_pickled_policies_are_not_executed(cloned, tmp_path: Path) -> None:
    from imitation.util import util

    path = tmp_path / "policy.pt"
    util.save_policy(cloned["imitation's default"], path)
    with pytest.raises(StrlValueError, match=r"needs code to be executed, which was not done"):
        TPPO("MlpPolicy", make_venv("CartPole-v1"), teacher=path, distill_target="kl", device="cpu")
