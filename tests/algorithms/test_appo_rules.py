"""The adversarial motion prior inside PPO's loop."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import sb3_strl
from sb3_strl import AMPPPO, APPO, PPO, make_vec
from sb3_strl.common.errors import NonFiniteError, StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.data import Motion, MotionLibrary
from sb3_strl.objectives import AdversarialMotionPrior, Objective, RewardTerm
from tests.envs.toy import PointMass

MOTIONS = Path(sb3_strl.__file__).parent / "envs" / "assets" / "motions"


def make(env=None, lerp: float = 0.5, disc: dict | None = None, **options) -> APPO:
    kwargs = {
        "net_arch": [16],
        "amp_discriminator": {"task_reward_lerp": lerp, "hidden_dims": [16], **(disc or {})},
    }
    settings = {"n_steps": 8, "n_epochs": 2, "seed": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return APPO("AmpPolicy", env or PointMass(6), policy_kwargs=kwargs, **settings)


def collect(model: APPO) -> None:
    _, callback = model._setup_learn(1)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


class Recorder(PointMass):
    """Keeps what it returned, and tells the terminal features from those after the reset."""

    def __init__(self, n_envs: int = 6, with_final: bool = True) -> None:
        super().__init__(n_envs, max_episode_length=5)
        self.steps: list[TensorStep] = []
        self.task: list[th.Tensor] = []
        self.with_final = with_final

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensor(actions)
        step = step._replace(final_obs=step.final_obs if self.with_final else None)
        copies = {k: v.clone() for k, v in step.obs.items()}
        final = step.final_obs and {k: v.clone() for k, v in step.final_obs.items()}
        self.steps.append(step._replace(obs=copies, final_obs=final))
        self.task.append(step.rewards.clone())
        return step


def test_the_alias_is_the_class() -> None:
    assert AMPPPO is APPO


def test_features_are_those_after_the_step_and_terminal_where_the_episode_ended() -> None:
    env = Recorder()
    model = make(env)
    collect(model)
    ended = 0
    for t, step in enumerate(env.steps):
        done = step.terminated | step.truncated
        for group, field in (("ref_obs", "amp/features"), ("ref_motion", "amp/expert")):
            expected = th.where(
                done[:, None], step.final_obs[group].flatten(1), step.obs[group].flatten(1)
            )
            assert th.equal(model.rollout_buffer[field][t], expected)
        valid = step.extras.get("amp_valid", th.ones_like(done))
        assert th.equal(model.rollout_buffer["amp/valid"][t], valid)
        ended += int(done.sum())
        if done.any():
            assert not th.equal(step.final_obs["ref_obs"][done], step.obs["ref_obs"][done])
    assert ended > 0


@pytest.mark.filterwarnings("ignore:PPO. this environment")
def test_without_final_observations_the_last_step_of_an_episode_counts_for_nothing() -> None:
    env = Recorder(with_final=False)
    model = make(env)
    collect(model)
    done = model.rollout_buffer.dones
    assert done.any()
    assert not model.rollout_buffer["amp/valid"][done].any()
    assert not model.rollout_buffer["amp/expert_valid"][done].any()


@pytest.mark.parametrize("lerp", [0.0, 0.8, 1.0])
def test_rewards_mix_style_of_the_discriminator_before_its_update_and_task(lerp: float) -> None:
    env = Recorder()
    model = make(env, lerp=lerp, timeout_bootstrap="none")
    collect(model)
    buffer = model.rollout_buffer
    style = model.policy.discriminator.style_reward(buffer["amp/features"]) * buffer["amp/valid"]
    expected = (1.0 - lerp) * style + lerp * th.stack(env.task)
    assert th.allclose(buffer["rewards"], expected, atol=1e-6)


def test_logged_rewards_are_both() -> None:
    model = make()
    model.learn(96)
    values = model.logger.name_to_value
    for key in ("amp/style_reward", "amp/task_reward", "amp/mixed_reward", "amp/mimic_distance"):
        assert np.isfinite(values[key])
    assert {"amp/expert_accuracy", "amp/policy_accuracy", "amp/grad_norm"} <= set(values)


def test_zero_coefficient_freezes_the_discriminator() -> None:
    for coef, moves in ((0.0, False), (1.0, True)):
        model = make(discriminator_loss_coef=coef)
        before = model.policy.discriminator.head.weight.clone()
        model.learn(96)
        assert th.equal(before, model.policy.discriminator.head.weight) is not moves


def first_batch(model: APPO):
    collect(model)
    return next(iter(model.rollout_buffer.get(48, model.generator)))


def test_coefficient_scales_the_gradient() -> None:
    gradients = []
    for coef in (1.0, 2.0):
        model = make(discriminator_loss_coef=coef)
        total = model.motion_prior._losses(first_batch(model))
        gradients.append(th.autograd.grad(total, model.policy.discriminator.head.weight)[0])
    assert th.allclose(gradients[1], 2.0 * gradients[0], rtol=1e-5)


def test_gradients_of_policy_and_discriminator_are_disjoint() -> None:
    model = make()
    batch = first_batch(model)
    model.motion_prior._losses(batch).backward()
    for name, parameter in model.policy.named_parameters():
        assert (parameter.grad is not None) is name.startswith("discriminator."), name
    model.policy.zero_grad(set_to_none=True)
    model.train()
    owned = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert not owned & {id(p) for p in model.policy.discriminator.parameters()}


def test_joint_mode_trains_both_with_one_optimizer() -> None:
    model = make(discriminator_optimizer="joint", schedule="adaptive")
    owned = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.policy.discriminator.head.parameters()} <= owned
    before = model.policy.discriminator.head.weight.clone()
    model.learn(96)
    assert not th.equal(before, model.policy.discriminator.head.weight)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discriminator_learning_rate", 1e-7),
        ("discriminator_weight_decay", (0.5, 0.5)),
        ("discriminator_max_grad_norm", 0.1),
    ],
)
def test_joint_mode_warns_of_what_its_optimizer_does_not_heed(name: str, value: object) -> None:
    options = {"discriminator_optimizer": "joint", name: value}
    with pytest.warns(UserWarning, match=f"{name} is .*='joint' .*Leave it at .*='separate'"):
        APPO("AmpPolicy", PointMass(2), policy_kwargs={"net_arch": [8]}, **options)


def test_the_shared_normaliser_learns_once_per_update_and_is_frozen_in_between() -> None:
    model = make()
    count = model.policy.discriminator.normalizer.count
    collect(model)
    assert count == 0
    model.train()
    valid = int(model.rollout_buffer["amp/valid"].sum())
    assert count == valid + 48  # the policy's valid rows and the expert's


def test_normalisation_freezes_until_given() -> None:
    model = make(disc={"normalizer_until": 50})
    model.learn(48 * 4)
    assert 50 <= int(model.policy.discriminator.normalizer.count) < 50 + 2 * 48


@pytest.mark.parametrize("loss", ["lsgan", "bce", "wgan"])
@pytest.mark.parametrize("grad_pen_on", ["expert", "policy", "both"])
def test_every_loss_trains(loss: str, grad_pen_on: str) -> None:
    model = make(disc={"loss": loss, "grad_pen_on": grad_pen_on}, amp_replay_size=64)
    model.learn(48 * 2)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    assert int(model.motion_prior.replay.count) == 64


def test_mimic_penalty_is_a_reward_and_the_loss_is_not() -> None:
    with pytest.warns(UserWarning, match="mimic_loss_coef=0.5 has no effect"):
        APPO("AmpPolicy", PointMass(2), mimic_loss_coef=0.5)
    plain, penalised = (
        make(Recorder(with_final=False), timeout_bootstrap="none"),
        make(Recorder(with_final=False), mimic_reward_coef=0.3, timeout_bootstrap="none"),
    )
    for model in (plain, penalised):
        collect(model)
    gap = plain.rollout_buffer["rewards"] - penalised.rollout_buffer["rewards"]
    distance = plain.motion_prior._mimic_distance(plain.rollout_buffer)
    valid = plain.rollout_buffer["amp/valid"]
    assert 0 < valid.sum() < valid.numel()  # the last frames of episodes are not known
    assert th.allclose(gap, 0.3 * distance * valid, atol=1e-5)


class Constant:
    """Expert features that are all alike."""

    feature_names: list[str] = []

    def __init__(self, width: int, value: float = 0.0) -> None:
        self.width, self.value = width, value

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.full((n, self.width), self.value)


def test_any_environment_can_be_judged() -> None:
    kwargs = {"obs_groups": {"amp": ["policy"]}, "net_arch": [8]}
    model = APPO(
        "AmpPolicy", "Pendulum-v1", n_steps=16, expert_source=Constant(3), policy_kwargs=kwargs
    )
    model.learn(32)
    assert model.policy.discriminator.input_dim == 3


def test_a_motion_library_is_an_expert() -> None:
    library = MotionLibrary([MOTIONS / "walk.npz", MOTIONS / "run.npz"], weights=[3.0, 1.0])
    env = make_vec("sb3_strl/Walker-v0", n_envs=4, seed=0)
    model = make(env, expert_source=library)
    model.learn(64)
    names = env.feature_names["ref_obs"]
    speed = model.rollout_buffer["amp/expert"].unflatten(-1, (2, len(names)))
    speed = speed[:, :, -1, names.index("root_vel/x")]
    assert 0.5 < float((speed > 2.0).float().sum()) < 0.6 * speed.numel()  # some run, most walk


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dagger_loss_coef": 0.1}, StrlValueError, "needs labels from somebody other"),
        ({"bc_loss_coef": 0.1}, StrlTypeError, "has never had an effect"),
        ({"discriminator_loss_coef": -1.0}, StrlValueError, "must not be negative"),
        ({"discriminator_optimizer": "own"}, StrlValueError, "Known: "),
        ({"amp_obs_dim": 5}, StrlValueError, "Leave amp_obs_dim out"),
        ({"expert_source": "file"}, StrlTypeError, "Expected 'env', a MotionLibrary"),
        ({"expert_source": Constant(3)}, StrlValueError, "and the expert's 3"),
        ({"disc": {"loss": "gan"}}, StrlValueError, "lsgan"),
        ({"disc": {"hiden_dims": [3]}}, StrlTypeError, "Did you mean 'hidden_dims'"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize("missing", ["ref_obs", "ref_motion"])
def test_a_missing_group_is_named(missing: str) -> None:
    groups = tuple(g for g in ("policy", "critic", "ref_obs", "ref_motion") if g != missing)
    with pytest.raises(StrlKeyError, match=missing):
        make(PointMass(4, groups=groups))


def test_features_in_another_order_are_refused() -> None:
    env = PointMass(4)
    names = env.feature_names["ref_obs"]
    env.feature_names = {"ref_obs": names, "ref_motion": names[::-1]}
    with pytest.raises(StrlValueError, match=f"number 0 is '{names[0]}' for the policy"):
        make(env)


def test_a_policy_without_discriminator_is_refused() -> None:
    with pytest.raises(StrlTypeError, match="has no discriminator"):
        APPO("MlpPolicy", PointMass(4))


def test_an_expert_with_nan_is_refused() -> None:
    width = make().policy.discriminator.input_dim
    model = make(expert_source=Constant(width, float("nan")))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        model.learn(48 * 2)


class Bonus(Objective):
    """Adds a constant."""

    def __init__(self, value: float, scale: float) -> None:
        super().__init__(f"bonus{value}")
        self.term = (scale, value)

    def reward_term(self, buffer) -> RewardTerm:
        scale, value = self.term
        return RewardTerm(scale, th.full_like(buffer["rewards"], value))


def test_the_order_of_objectives_does_not_matter() -> None:
    rewards = []
    for order in (1, -1):

        class Two(PPO):
            def _make_objectives(self, order: int = order) -> list[Objective]:
                return [Bonus(1.0, 0.5), Bonus(-3.0, 0.25)][::order]

        model = Two("MlpPolicy", Recorder(), n_steps=4, timeout_bootstrap="none", seed=0)
        collect(model)
        rewards.append(model.rollout_buffer["rewards"].clone())
    assert th.allclose(rewards[0], rewards[1])
    assert th.allclose(rewards[0], 0.125 * th.stack(model.env.task) - 2.0)


def test_a_loss_that_trains_nothing_is_refused() -> None:
    class Idle(Objective):
        def loss(self, batch, out) -> th.Tensor:
            return th.ones(())

    class WithIdle(PPO):
        def _make_objectives(self) -> list[Objective]:
            return [Idle("idle")]

    with pytest.raises(StrlValueError, match="objective 'idle' does not depend"):
        WithIdle("MlpPolicy", PointMass(2), n_steps=4).learn(8)


def test_style_learns_on_a_circle() -> None:
    """The point mass moves towards the expert's circle; plain PPO has no reason to."""
    errors = {}
    for key, lerp in (("task", 1.0), ("style", 0.0)):
        model = make(
            PointMass(16, max_episode_length=40), lerp=lerp, n_steps=24, seed=1, schedule="adaptive"
        )
        model.learn(24 * 16 * 60)
        errors[key] = model.logger.name_to_value["amp/style_reward"]
    assert errors["style"] > errors["task"]


def test_prior_describes_itself() -> None:
    prior = make().motion_prior
    assert isinstance(prior, AdversarialMotionPrior)
    assert prior.describe()[0] == "amp"


def test_library_motion_with_nan_is_refused() -> None:
    with pytest.raises((NonFiniteError, StrlValueError), match=r"(?i)nan|finite"):
        Motion("bad", {"x": np.full((4, 1), np.nan)}, fps=30.0)


def test_spaces_of_the_walker_fit() -> None:
    env = make_vec("sb3_strl/Walker-v0", n_envs=2, seed=0)
    obs: TensorDict = env.reset_tensor()
    assert isinstance(env.observation_space, spaces.Dict)
    assert {key: tuple(value.shape[1:]) for key, value in obs.items()} == {
        key: space.shape for key, space in env.observation_space.spaces.items()
    }
