"""Images become latents, here or elsewhere."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_strl import PPO
from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.common.memory_state import PolicyState
from sb3_strl.common.segments import ObsLayout
from sb3_strl.policies import (
    EncoderPolicy,
    StrlPolicy,
    VisualDeterministicPolicy,
    VisualPolicy,
    load_policy,
)
from sb3_strl.policies.options import resolve_parts
from sb3_strl.policies.visual import VisualSpec, encoder_specs
from tests.envs.toy import ImageToy, PointMass, box

DEPTH = {"proprio": 4, "depth": (1, 6, 8), "command": 3}
TINY = {"channels": [2], "kernel_sizes": [3], "strides": [2], "hidden_sizes": [4]}
MEMORY = {"none": None, "lstm": {"type": "lstm"}, "gru": {"type": "gru"}}


def make(
    space: spaces.Space | None = None, cls: type = VisualPolicy, visual=None, **options
) -> StrlPolicy:
    if space is None:
        space = box(55)
        options.setdefault("obs_segments", DEPTH)
    visual = {**TINY, "latent_size": 5, **(visual or {})}
    policy = cls(
        space,
        box(2, bound=1.0),
        lambda _: 1e-3,
        visual=visual,
        **{"net_arch": [8], "empirical_normalization": True, **options},
    )
    policy.update_normalizers(observe(policy, 30))
    policy.set_training_mode(False)
    return policy


def observe(policy: StrlPolicy, n: int = 6) -> dict[str, th.Tensor]:
    obs = {}
    for group, space in policy.layout.spaces.items():
        if space.dtype == np.uint8:
            obs[group] = th.randint(0, 256, (n, *space.shape), dtype=th.uint8)
        else:
            obs[group] = th.randn(n, *space.shape) * 2.0 + 1.0
    return obs


def rgb(**more: spaces.Space) -> spaces.Dict:
    return spaces.Dict({"policy": box(4), "rgb": spaces.Box(0, 255, (3, 8, 8), np.uint8), **more})


ACTOR_SEES = {"obs_groups": {"actor": ["rgb", "policy"]}}


def leaves(state: PolicyState) -> list[th.Tensor]:
    found: list[th.Tensor] = []
    state.map(lambda leaf: found.append(leaf) or leaf)
    return found


def no_pixels(policy: StrlPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break every encoder of an image."""

    def fail(*_: object) -> None:
        raise AssertionError("an encoder ran")

    for name in policy.encoder_specs[-1].component_names:
        monkeypatch.setattr(policy.actor_reader.encoders[name], "forward", fail)


# ---------------------------------------------------------------------- latents from elsewhere


@pytest.mark.parametrize("rnn", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("kind", ["depth", "rgb", "two", "with encoder", "image alone"])
def test_acting_on_an_embedded_latent(kind: str, rnn, monkeypatch: pytest.MonkeyPatch) -> None:
    space, options = rgb(), dict(ACTOR_SEES)
    cls = VisualPolicy
    if kind == "depth":
        space, options = None, {}
    elif kind == "two":
        space = rgb(depth=box(1, 6, 6))
        options = {"obs_groups": {"actor": ["depth", "policy", "rgb"]}}
    elif kind == "with encoder":
        space, cls = None, StrlPolicy
        options = {"encoder": {"component_names": ["command"], "output_size": 3}}
    elif kind == "image alone":
        options = {"obs_groups": {"actor": ["rgb"], "critic": ["policy"]}}
    policy = make(space, cls, rnn=rnn and {**rnn, "hidden_size": 8}, **options)
    state, starts = policy.initial_state(6), th.tensor([0, 1, 0, 0, 0, 0], dtype=th.bool)
    state = state.map(lambda leaf: leaf + 0.5)
    obs = observe(policy)
    with th.no_grad():
        expected, after = policy.act(obs, state, starts)
        latent_obs = policy.embed_visual_latent(obs)
        no_pixels(policy, monkeypatch)
        actions, state_after = policy.act_with_embedded_latent(latent_obs, state, starts)
    assert th.equal(actions, expected)
    assert all(th.equal(a, b) for a, b in zip(leaves(after), leaves(state_after), strict=True))
    assert bool(leaves(after)) == (rnn is not None)


def test_the_latent_stands_where_the_pixels_stood() -> None:
    policy = make()
    obs = observe(policy)["policy"]
    latent_obs = policy.embed_visual_latent(obs)
    assert latent_obs.shape == (6, 4 + 5 + 3)
    assert th.equal(latent_obs[:, :4], obs[:, :4])
    assert th.equal(latent_obs[:, 9:], obs[:, 52:])
    assert th.equal(latent_obs[:, 4:9], policy.get_encoder_latent(obs, "depth"))


def test_groups_without_images_stay_and_others_are_left_out() -> None:
    policy = make(rgb(critic=box(7)), **ACTOR_SEES)
    obs = observe(policy)
    latent_obs = policy.embed_visual_latent(obs)
    assert set(latent_obs) == {"policy", "rgb"}
    assert latent_obs["policy"] is obs["policy"]
    assert th.equal(latent_obs["rgb"], policy.get_encoder_latent(obs, "rgb"))


def test_the_actions_depend_on_the_latent() -> None:
    policy = make()
    latent_obs = policy.embed_visual_latent(observe(policy)["policy"])
    changed = latent_obs.clone()
    changed[:, 4:9] += 1.0
    actions = [policy.act_with_embedded_latent(obs)[0] for obs in (latent_obs, changed)]
    assert not th.allclose(*actions, atol=1e-3)


def test_what_cannot_be_embedded() -> None:
    policy = make(rgb(), **ACTOR_SEES)
    latent_obs = policy.embed_visual_latent(observe(policy))
    with pytest.raises(StrlKeyError, match=r"the group 'policy' is missing\. Got \['rgb'\]"):
        policy.act_with_embedded_latent({"rgb": latent_obs["rgb"]})
    with pytest.raises(StrlValueError, match=r"group 'rgb' has 4 columns\. Expected 5"):
        policy.act_with_embedded_latent({**latent_obs, "rgb": latent_obs["rgb"][:, :4]})
    blind = EncoderPolicy(box(5), box(2, bound=1.0), lambda _: 1e-3, net_arch=[8])
    with pytest.raises(StrlTypeError, match="EncoderPolicy: there is no visual part"):
        blind.embed_visual_latent(th.zeros(1, 5))


@pytest.mark.parametrize("part", ["estimator", "adaptor"])
def test_an_estimator_of_pixels_needs_the_pixels(part: str) -> None:
    options = {part: {"obs_components": ["proprio", "depth"], "target_components": ["command"]}}
    policy = make(cls=StrlPolicy, **options)
    latent_obs = policy.embed_visual_latent(observe(policy))
    with pytest.raises(StrlValueError, match=rf"the {part} reads the pixels of \['depth'\]"):
        policy.act_with_embedded_latent(latent_obs)


# ---------------------------------------------------------------------- what is built


def test_the_latent_is_linear() -> None:
    policy = make(activation="relu")
    encoder = policy.actor_reader.encoders["depth"]
    layers = [m for m in encoder.modules() if isinstance(m, nn.Linear | nn.ReLU | nn.Conv2d)]
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert layers[-1].out_features == 5
    assert policy.actor_reader.output_dim == 4 + 5 + 3
    latent = policy.get_encoder_latent(observe(policy, 50), "depth")
    assert (latent < 0).any()


def test_images_of_bytes_are_scaled() -> None:
    policy = make(rgb(), **ACTOR_SEES)
    image = th.full((1, 3, 8, 8), 255, dtype=th.uint8)
    obs = {"policy": th.zeros(1, 4), "rgb": image}
    expected = policy.actor_reader.encoders["rgb"](th.ones(1, 3, 8, 8))
    assert th.allclose(policy.get_encoder_latent(obs, "rgb"), expected)


def specs(visual: dict, segments: dict, critic: dict | None = None, encoder=None):
    parts = resolve_parts("P", None, None, encoder=encoder, visual=visual)
    both = {"policy": segments, "critic": segments if critic is None else critic}
    sizes = {
        group: sum(int(np.prod(shape)) for shape in names.values()) for group, names in both.items()
    }
    space = spaces.Dict({group: box(size) for group, size in sizes.items()})
    layout = ObsLayout(space, both)
    return encoder_specs(parts, layout.of(["policy"]), layout.of(["critic"]))


def test_defaults_are_those_of_st_rl() -> None:
    (spec,) = specs({}, DEPTH)
    assert spec.component_names == ("depth",)
    assert spec.output_size == 256
    assert spec.last_linear
    assert not spec.normalize_images
    assert spec.kwargs == {
        "channels": [64, 64],
        "kernel_sizes": [3, 3],
        "strides": [1, 1],
        "hidden_sizes": [256],
    }
    (spec,) = specs({"kwargs": {"channels": [8]}, "kernel_sizes": [5], "strides": [2]}, DEPTH)
    assert spec.kwargs["channels"] == [8]
    (same,) = specs({"channels": [8, 8, 8]}, DEPTH)
    assert same.kwargs["kernel_sizes"] == [3, 3, 3]
    assert spec.kwargs["kernel_sizes"] == [5]


@pytest.mark.parametrize(
    ("critic", "segments", "expected"),
    [
        (None, DEPTH, ("depth",)),
        (None, {"proprio": 4}, None),
        (None, {"proprio": 4, "depth": 48}, None),  # flat: no image to the critic
        ("raw", DEPTH, None),
        ("own", DEPTH, ("depth",)),
        ("shared", DEPTH, "shared"),
    ],
)
def test_what_the_critic_sees(critic, segments: dict, expected) -> None:
    (spec,) = specs({"critic": critic}, DEPTH, segments)
    assert spec.critic_component_names == expected


def test_critic_encoders_are_shared_or_not() -> None:
    for critic, shared in (("shared", True), ("own", False)):
        policy = make(visual={"critic": critic})
        mine, theirs = policy.actor_reader.encoders, policy.critic_reader.encoders
        assert (mine["depth"] is theirs["depth"]) == shared
    policy = make(visual={"critic": "raw"})
    assert policy.critic_reader.output_dim == 55


def test_shared_encoders_find_their_segment_by_name() -> None:
    segments = {"policy": DEPTH, "critic": {"depth": (1, 6, 8), "mass": 2}}
    space = spaces.Dict({"policy": box(55), "critic": box(50)})
    policy = make(space, obs_segments=segments, visual={"critic": "shared"})
    obs = observe(policy)
    obs["critic"][:, :48] = obs["policy"][:, 4:52]
    mine, theirs = (policy.get_encoder_latent(obs, "depth", critic) for critic in (False, True))
    assert th.equal(mine, theirs)
    with pytest.raises(StrlKeyError, match=r"no encoder reads 'dept'.*Did you mean 'depth'"):
        policy.get_encoder_latent(obs, "dept")


def test_images_and_other_segments_side_by_side() -> None:
    segments = {"proprio": 4, "scan": 6, "depth": (1, 6, 8), "heights": 5}
    encoder, visual = specs({}, segments, encoder={"component_names": ["heights"]})
    assert visual.component_names == ("depth",)
    assert encoder.component_names == ("heights",)
    encoder, visual = specs(
        {}, {**segments, "more": (2, 6, 6)}, encoder={"component_names": ["more"]}
    )
    assert visual.component_names == ("depth",)  # what the encoder part names is taken
    policy = make(
        box(63),
        cls=StrlPolicy,
        obs_segments=segments,
        encoder={"output_size": 3},
        visual={"critic": "raw"},
    )
    assert set(policy.actor_reader.encoders) == {"scan", "depth", "heights"}
    assert policy.actor_reader.output_dim == 4 + 3 + 5 + 3
    with pytest.raises(StrlValueError, match=r"both name \['depth'\]"):
        specs({"component_name": "depth"}, segments, encoder={"component_names": ["depth"]})
    with pytest.raises(StrlValueError, match="no segment but the first is left for the encoder"):
        specs({}, {"proprio": 4, "depth": (1, 6, 8)}, encoder={})


@pytest.mark.parametrize(
    ("visual", "error", "message"),
    [
        ({"chanels": [3]}, StrlTypeError, r"unknown key 'chanels'\. Did you mean 'channels'"),
        ({"kwargs": {"chanels": [3]}}, StrlTypeError, "kwargs: unknown key 'chanels'"),
        ({"critic": "both"}, StrlValueError, r"critic is 'both'\. Expected one of \['raw', 'sh"),
        ({"component_names": []}, StrlValueError, "component_names is an empty list"),
        ({"latent_size": 0}, StrlValueError, r"latent_size is 0\. Expected a positive int"),
    ],
)
def test_bad_keywords(visual: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        VisualSpec.from_dict(visual)


def test_names_that_are_no_images() -> None:
    with pytest.raises(
        StrlValueError,
        match=r"the actor reads no image, only \{'policy': \(5,\)\}\. .*'CnnPolicy', needs one: "
        r"name an image group.*Without images use 'MlpPolicy'",
    ):
        VisualPolicy(box(5), box(2, bound=1.0), lambda _: 1e-3)
    with pytest.raises(StrlKeyError, match=r"unknown segment 'dept'\. Did you mean 'depth'"):
        make(visual={"component_names": "dept", "critic": "raw"})
    with pytest.raises(StrlValueError, match=r"needs a \(channels, height, width\) segment"):
        make(visual={"component_names": "command", "critic": "raw"})
    with pytest.raises(StrlTypeError, match="'visual' was given, but this policy has no visual"):
        make(cls=EncoderPolicy)


# ---------------------------------------------------------------------- deterministic, training


def test_a_deterministic_policy_acts_alike_twice(tmp_path) -> None:
    policy = make(cls=VisualDeterministicPolicy)
    obs = observe(policy)
    array = obs["policy"].numpy()
    first, again = policy.predict(array)[0], policy.predict(array)[0]
    assert np.array_equal(first, again)
    assert np.array_equal(first, policy.predict(array, deterministic=True)[0])
    actions, _, log_prob = policy(obs)
    mean = policy.action_params(obs)["mean"]
    assert th.equal(actions, mean)
    (gradient,) = th.autograd.grad(log_prob.sum(), policy.actor.model[-1].weight)
    assert (gradient == 0).all()  # which is why PPO must refuse it
    policy.save(tmp_path / "p")
    assert np.array_equal(load_policy(tmp_path / "p").predict(array)[0], first)
    noisy = make()
    assert not np.array_equal(noisy.predict(array)[0], noisy.predict(array)[0])


@pytest.mark.parametrize("alias", ["DeterministicPolicy", "VisualDeterministicPolicy"])
def test_ppo_refuses_a_policy_that_it_cannot_train(alias: str) -> None:
    env = PointMass(2) if alias == "DeterministicPolicy" else ImageToy(2)
    kwargs = {"net_arch": [8]}
    if alias != "DeterministicPolicy":
        kwargs |= {"visual": TINY, "obs_groups": {"actor": ["image", "vector"]}}
    with pytest.raises(StrlValueError, match=r"PPO: \w*DeterministicPolicy acts with its mean"):
        PPO(alias, env, policy_kwargs=kwargs)


@pytest.mark.parametrize("alias", ["VisualPolicy", "VisualLstmPolicy", "CnnPolicy"])
def test_training_moves_the_encoder(alias: str) -> None:
    kwargs = {
        "net_arch": [8],
        "obs_groups": {"actor": ["image", "vector"]},
        "visual": {**TINY, "latent_size": 5},
    }
    if "Lstm" in alias:
        kwargs["rnn"] = {"hidden_size": 8}
    model = PPO(alias, ImageToy(2, size=12), n_steps=4, policy_kwargs=kwargs)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(8)
    moved = {
        key.split(".")[0]
        for key, value in model.policy.state_dict().items()
        if ".encoders.image." in key and not th.equal(value, before[key])
    }
    assert moved == {"actor_reader", "critic_reader"}
