"""SB3's contract: predict, evaluate_actions, get_distribution, with NumPy and with tensors."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_strl import APPO, PPO
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.policies import StrlPolicy
from tests.envs.toy import CounterEnv, DiscreteToy, ImageToy, PointMass, box

SMALL = {"net_arch": [8]}


def policy(space: spaces.Space, action_space: spaces.Space | None = None, **options) -> StrlPolicy:
    action_space = action_space or box(2, bound=1.0)
    return StrlPolicy(space, action_space, lambda _: 1e-3, net_arch=[8], **options)


ACTIONS = [
    box(2, bound=1.0),
    box(2, 3, bound=1.0),
    spaces.Discrete(4),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_sb3s_contract(space: spaces.Space) -> None:
    net = policy(box(5), space)
    obs = th.randn(7, 5)
    actions, values, log_prob = net(obs)
    assert actions.shape == (7, *(space.shape or ()))
    assert values.shape == (7, 1)
    again, log_prob_again, entropy = net.evaluate_actions(obs, actions)
    assert th.allclose(again, values)
    assert th.allclose(log_prob, log_prob_again, atol=1e-6)
    assert log_prob.shape == entropy.shape == (7,)
    assert th.equal(net.predict_values(obs), values)
    distribution = net.get_distribution(obs)
    expected = distribution.log_prob(actions.flatten(1) if actions.ndim > 2 else actions)
    assert th.allclose(expected, log_prob, atol=1e-5)


@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_numpy_and_tensors_predict_the_same(space: spaces.Space) -> None:
    net = policy(box(5), space, empirical_normalization=True)
    obs = np.random.default_rng(0).normal(3.0, 2.0, (7, 5)).astype(np.float32)
    net.update_normalizers({"policy": th.from_numpy(obs)})
    given, state = net.predict(obs, deterministic=True)
    tensor, _ = net.predict(th.from_numpy(obs), deterministic=True)
    assert state is None
    assert isinstance(tensor, th.Tensor)
    assert np.allclose(given, tensor.numpy(), atol=1e-6)
    assert np.allclose(given, net.predict({"policy": th.from_numpy(obs)}, deterministic=True)[0])
    single, _ = net.predict(obs[0], deterministic=True)
    assert np.allclose(single, given[0], atol=1e-6)
    assert space.contains(np.asarray(single, space.dtype))


def test_actions_are_clipped_to_their_bounds() -> None:
    space = spaces.Box(
        np.array([-1.0, 0.0], np.float32), np.array([0.5, 2.0], np.float32), dtype=np.float32
    )
    net = policy(box(5), space, init_noise_std=50.0)
    obs = np.zeros((200, 5), np.float32)
    for actions in (net.predict(obs)[0], net.predict(th.from_numpy(obs))[0].numpy()):
        assert (actions >= space.low).all()
        assert (actions <= space.high).all()
        assert (actions == space.low).any()
        assert (actions == space.high).any()


def test_prediction_normalises_as_training_does() -> None:
    model = PPO("MlpPolicy", PointMass(8), policy_kwargs={**SMALL, "empirical_normalization": True})
    model.learn(24 * 8 * 2)
    obs = model.tensor_env.reset_tensor()
    expected = model.policy.action_params(obs)["mean"].clamp(-1.0, 1.0)
    assert th.allclose(model.policy.predict(obs, deterministic=True)[0], expected)
    raw = model.policy.actor(obs["policy"])
    assert not th.allclose(raw.clamp(-1.0, 1.0), expected, atol=1e-3)


def test_acting_needs_the_actors_groups_only() -> None:
    net = policy(spaces.Dict({"policy": box(5), "critic": box(7)}))
    assert net.predict({"policy": np.zeros((3, 5), np.float32)})[0].shape == (3, 2)


def test_the_noise_is_random_and_the_mode_is_not() -> None:
    net = policy(box(5))
    obs = np.zeros((3, 5), np.float32)
    assert not np.allclose(net.predict(obs)[0], net.predict(obs)[0])
    assert np.allclose(
        net.predict(obs, deterministic=True)[0], net.predict(obs, None, None, True)[0]
    )


def test_images_channel_by_channel() -> None:
    model = PPO(
        "EncoderPolicy",
        ImageToy(2),
        n_steps=4,
        policy_kwargs={
            **SMALL,
            "obs_groups": {"actor": ["image", "vector"]},
            "encoder": {"component_names": ["image"]},
        },
    )
    model.learn(16)
    obs = model.tensor_env.reset_tensor()
    given = {key: value.numpy() for key, value in obs.items()}
    numpy_actions = model.predict(given, deterministic=True)[0]
    assert np.allclose(numpy_actions, model.policy.predict(obs, deterministic=True)[0], atol=1e-6)


@pytest.mark.parametrize("make_env", [lambda: PointMass(3), lambda: CounterEnv(3, plain=True)])
def test_evaluate_policy_on_a_tensor_environment(make_env) -> None:
    model = PPO("MlpPolicy", make_env(), policy_kwargs=SMALL)
    mean, _ = evaluate_policy(model, make_env(), n_eval_episodes=3, warn=False)
    assert np.isfinite(mean)


def test_evaluate_policy_on_a_gymnasium_environment() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL, n_steps=64)
    model.learn(512)
    assert model.num_timesteps == 512
    returns, lengths = evaluate_policy(
        model, model.get_env(), n_eval_episodes=2, return_episode_rewards=True
    )
    assert lengths == [200, 200]
    assert all(-2000.0 < value < 0.0 for value in returns)


def test_discrete_observations() -> None:
    net = policy(spaces.Discrete(4), spaces.Discrete(3))
    assert net.predict(np.array([0, 3]))[0].shape == (2,)
    assert net.predict(2)[0].shape == ()


def test_learning_with_discrete_actions_and_plain_observations() -> None:
    model = PPO("MlpPolicy", DiscreteToy(spaces.Discrete(3), 16), policy_kwargs=SMALL, seed=0)
    model.learn(24 * 16 * 25)
    mean, _ = evaluate_policy(model, DiscreteToy(spaces.Discrete(3), 16), 32, warn=False)
    assert mean > 3.5  # of 5


def test_a_policy_saves_and_loads_by_itself(tmp_path) -> None:
    net = policy(box(12), obs_segments={"a": 5, "b": 7}, encoder={}, empirical_normalization=True)
    net.update_normalizers({"policy": th.randn(20, 12)})
    net.save(tmp_path / "policy.pt")
    loaded = StrlPolicy.load(tmp_path / "policy.pt")
    obs = np.ones((2, 12), np.float32)
    assert np.array_equal(
        net.predict(obs, None, None, True)[0], loaded.predict(obs, None, None, True)[0]
    )


def test_actor_and_critic_share_nothing() -> None:
    net = policy(box(5))
    net.predict_values(th.randn(4, 5)).sum().backward()
    assert all(p.grad is None for p in net.actor.parameters())
    assert all(p.grad is not None for p in net.critic.parameters())


def test_mu_activation_bounds_the_mean() -> None:
    net = policy(box(5), mu_activation="tanh")
    assert net.action_params({"policy": th.randn(50, 5) * 100})["mean"].abs().max() <= 1.0


def test_orthogonal_initialisation_has_sb3s_gains() -> None:
    net = policy(box(5), ortho_init=True)
    first, last = (m for m in net.actor.modules() if isinstance(m, th.nn.Linear))
    assert th.allclose(first.weight.T @ first.weight, 2.0 * th.eye(5), atol=1e-5)
    assert th.allclose(last.weight @ last.weight.T, 1e-4 * th.eye(2), atol=1e-6)
    assert (first.bias == 0).all()


def test_groups_that_are_missing() -> None:
    space = spaces.Dict({"proprio": box(5), "height": box(2)})
    with pytest.raises(StrlKeyError, match=r"no group 'policy'\. It has: \['height', 'proprio'\]"):
        policy(space)
    net = policy(space, obs_groups={"actor": ["proprio", "height"], "critic": "height"})
    assert net.obs_sets["critic"] == ["height"]
    assert net.actor_reader.output_dim == 7
    with pytest.raises(StrlKeyError, match=r"reads the group 'ref_obs', but this environment has"):
        policy(box(5), amp_discriminator={})
    with pytest.raises(StrlValueError, match=r"amp_input_dim is 3, but .*\['ref_obs'\] have 8"):
        policy(PointMass(2).observation_space, amp_discriminator={}, amp_input_dim=3)
    with pytest.raises(StrlTypeError, match=r"use_sde=True\) is not supported"):
        policy(box(5), use_sde=True)
    with pytest.raises(
        StrlKeyError, match=r"unknown set 'actr'\. Did you mean 'actor'\? Known sets"
    ):
        policy(space, obs_groups={"actr": ["proprio"]})
    both = PointMass(2).observation_space
    with pytest.raises(
        StrlKeyError, match=r"unknown set 'policy'\. Did .*rsl_rl's 'policy' is 'act"
    ):
        policy(both, obs_groups={"policy": ["policy", "critic"], "critic": ["critic"]})
    with pytest.raises(StrlKeyError, match="ref_motion"):
        APPO("AmpPolicy", PointMass(2, groups=("policy", "ref_obs")), policy_kwargs=SMALL)
