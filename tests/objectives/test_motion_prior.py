"""The motion prior's binding to experts, its replay, and what it leaves alone."""

import pytest
import torch as th

from sb3_strl import make_vec
from sb3_strl.common.errors import StrlValueError
from sb3_strl.data import MotionLibrary
from tests.algorithms.test_appo_rules import MOTIONS, collect, first_batch, make
from tests.envs.toy import PointMass

NAMES = ["x", "y", "vx", "vy"]


class Named:
    """Says what its features are."""

    def __init__(self, names: list[str]) -> None:
        self.feature_names = names

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.zeros(n, 8)


class NamedByClass:
    """Says it once for all of its objects, which have no ``__dict__``."""

    __slots__ = ()
    feature_names = ("y", "x", "vx", "vy")

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.zeros(n, 8)


class Nameless:
    """Has neither names nor ``__dict__``."""

    __slots__ = ()

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.zeros(n, 8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Named(["x", "vx", "y", "vy"]), "number 1 is 'y' for the policy and 'vx' for the expert"),
        (NamedByClass(), "number 0 is 'x' for the policy and 'y' for the expert"),
        (Named(NAMES[:3]), "policy has 4 named features per frame and the expert 3"),
        (Named([*NAMES, "z"]), "policy has 4 named features per frame and the expert 5"),
    ],
)
def test_names_of_a_source_are_compared(source: object, message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        make(expert_source=source)


@pytest.mark.parametrize("source", [Named(NAMES), Named([]), Nameless()])
def test_sources_that_fit(source: object) -> None:
    make(expert_source=source).learn(48)


@pytest.mark.parametrize(
    "change", [{"discriminator_loss_coef": 5.0}, {"discriminator_max_grad_norm": 1e-3}]
)
def test_the_policys_step_does_not_see_the_discriminators_gradient(change: dict) -> None:
    """With a tight bound on the global norm, any share of another gradient would show."""
    results = []
    for options in ({"discriminator_loss_coef": 0.0}, change):
        model = make(max_grad_norm=1e-2, **options)
        model.learn(48)
        results.append(
            {k: v for k, v in model.policy.named_parameters() if not k.startswith("discriminator.")}
        )
    assert all(th.equal(value, results[1][key]) for key, value in results[0].items())


def test_a_logged_only_coefficient_changes_nothing() -> None:
    models = [make(mimic_loss_coef=coef) for coef in (0.0, 1.0)]
    for model in models:
        model.learn(48 * 2)
    pairs = zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True)
    assert all(th.equal(a, b) for a, b in pairs)


def test_half_of_the_policys_rows_come_from_the_replay() -> None:
    model = make(amp_replay_size=64)
    batch = first_batch(model)
    prior = model.motion_prior
    past = th.full((1, 8), 1e3)
    prior.replay.insert(past, th.ones(1, dtype=th.bool))
    given = []

    def spy(features, expert, valid, expert_valid, coef):
        given.append((features, valid))
        return original(features, expert, valid, expert_valid, coef=coef)

    original = prior.discriminator.losses
    prior.discriminator.losses = spy
    prior._losses(batch)
    features, valid = given[0]
    half = len(features) // 2
    assert th.equal(features[:half], batch.extras["amp/features"][:half])
    assert th.equal(features[half:], past.expand(len(features) - half, -1))
    assert valid[half:].all()


def test_start_of_the_update_fills_the_replay_with_valid_rows() -> None:
    model = make(PointMass(6, n_frames=4, max_episode_length=9), amp_replay_size=200)
    collect(model)
    model.motion_prior.start_update(model.rollout_buffer)
    n_valid = int(model.rollout_buffer["amp/valid"].sum())
    assert 0 < n_valid < 48
    assert int(model.motion_prior.replay.count) == n_valid


def test_an_environment_that_does_not_fit_is_not_adopted() -> None:
    model = make(PointMass(6))
    env = model.env
    other = PointMass(6)
    other.feature_names = {"ref_obs": NAMES, "ref_motion": NAMES[::-1]}
    with pytest.raises(StrlValueError, match="in a different order"):
        model.set_env(other)
    assert model.env is env
    assert model.tensor_env is env
    model.learn(48)


def test_a_library_stays_bound_to_the_environment_that_fits() -> None:
    env, other = (make_vec("sb3_strl/Walker-v0", n_envs=2, seed=0) for _ in range(2))
    model = make(env, expert_source=MotionLibrary(MOTIONS / "walk.npz"))
    names = env.feature_names["ref_obs"]
    other.feature_names = {"ref_obs": names[:-1], "ref_motion": names[:-1]}
    with pytest.raises(StrlValueError, match="numbers per window and the expert's"):
        model.set_env(other)
    model.learn(16)


def test_windows_that_span_a_reset_earn_nothing_and_teach_nothing() -> None:
    env = PointMass(6, n_frames=4, max_episode_length=6)
    told = []
    step_tensor = env.step_tensor

    def spy(actions):
        told.append(step_tensor(actions))
        return told[-1]

    env.step_tensor = spy
    model = make(env, lerp=0.25, timeout_bootstrap="none")
    collect(model)
    buffer = model.rollout_buffer
    valid = th.stack([step.extras["amp_valid"] for step in told])
    assert valid.any()
    assert not valid.all()
    assert th.equal(buffer["amp/valid"], valid)
    task = th.stack([step.rewards for step in told])
    assert th.allclose(buffer["rewards"][~valid], 0.25 * task[~valid])
    style = model.policy.discriminator.style_reward(buffer["amp/features"][valid])
    assert th.allclose(buffer["rewards"][valid], 0.25 * task[valid] + 0.75 * style, atol=1e-6)

    losses = []
    for spoil in (0.0, 50.0):
        batch = next(iter(buffer.get(48, th.Generator().manual_seed(0))))
        features, mask = batch.extras["amp/features"], batch.extras["amp/valid"]
        spoiled = th.where(mask.unsqueeze(-1), features, features + spoil)
        extras = {**batch.extras, "amp/features": spoiled}
        losses.append(float(model.motion_prior._losses(batch._replace(extras=extras))))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("optimizer", ["separate", "joint"])
def test_the_discriminator_learns_from_some_rows_of_a_minibatch(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = PointMass(6, n_frames=4, max_episode_length=9)
    model = make(env, discriminator_batch_size=5, discriminator_optimizer=optimizer)
    discriminator, seen = model.motion_prior.discriminator, []
    original = discriminator.losses

    def spy(*sides: th.Tensor, coef: float) -> object:
        seen.append(sides)
        return original(*sides, coef=coef)

    monkeypatch.setattr(discriminator, "losses", spy)
    model.learn(48)
    stored = model.rollout_buffer
    names = ("features", "expert", "valid", "expert_valid")
    columns = [stored[f"amp/{name}"].flatten(0, 1).flatten(1) for name in names[:2]]
    columns += [stored[f"amp/{name}"].flatten()[:, None].float() for name in names[2:]]
    whole = th.cat(columns, -1)
    assert 0 < int(stored["amp/valid"].sum()) < len(whole)
    for features, expert, valid, expert_valid in seen:
        assert [len(side) for side in (features, expert, valid, expert_valid)] == [5] * 4
        flags = th.stack((valid, expert_valid), -1).float()
        rows = th.cat((features, expert, flags), -1)
        assert (rows[:, None] == whole[None]).all(-1).any(-1).all()
    assert len({tuple(features.flatten().tolist()) for features, *_ in seen}) == len(seen)


def test_as_many_rows_as_there_are_is_all_of_them() -> None:
    models = [make(discriminator_batch_size=size).learn(96) for size in (None, 10_000)]
    first, second = (model.policy.state_dict() for model in models)
    for name, value in first.items():
        assert th.equal(value, second[name]), name


def test_a_discriminator_needs_rows() -> None:
    with pytest.raises(StrlValueError, match="discriminator_batch_size is 0"):
        make(discriminator_batch_size=0)
