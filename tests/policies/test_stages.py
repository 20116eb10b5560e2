"""From groups to features: encoders, shared encoders, images, one-hot parts."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.stages import EncoderSpec
from tests.envs.toy import box

ACTIONS = box(2, bound=1.0)
SEGMENTS = {"a": 3, "b": (2, 2), "c": 5}


def policy(space: spaces.Space, **options) -> StrlPolicy:
    th.manual_seed(0)
    return StrlPolicy(space, ACTIONS, lambda _: 1e-3, net_arch=[8], **options)


def encoded(names: list[str], **encoder) -> StrlPolicy:
    spec = {"component_names": names, "output_size": 4, **encoder}
    return policy(box(12), obs_segments=SEGMENTS, encoder=spec)


def test_latents_replace_their_columns_in_place() -> None:
    net = encoded(["b"])
    obs = {"policy": th.randn(6, 12)}
    features = net.actor_reader(obs)
    latent = net.get_encoder_latent(obs, "b")
    assert latent.shape == (6, 4)
    assert net.actor_reader.output_dim == 12 - 4 + 4
    expected = th.cat([obs["policy"][:, :3], latent, obs["policy"][:, 7:]], -1)
    assert th.equal(features, expected)
    assert th.equal(net.get_encoder_latent(obs["policy"], "b"), latent)


def test_the_order_of_the_names_does_not_matter() -> None:
    first, second = encoded(["b", "c"]), encoded(["c", "b"])
    second.load_state_dict(first.state_dict())
    obs = {"policy": th.randn(6, 12)}
    assert th.equal(first.actor_reader(obs), second.actor_reader(obs))


def test_every_component_may_have_its_own_size_and_network() -> None:
    net = encoded(["b", "c"], output_size=[4, 7], kwargs=[{"hidden_sizes": [5]}, {}])
    assert net.actor_reader.output_dim == 3 + 4 + 7
    assert net.actor_reader.encoders["b"].model[0].out_features == 5
    with pytest.raises(StrlValueError, match="output_size has 3 entries for 2 components"):
        encoded(["b", "c"], output_size=[4, 7, 9])


def test_all_but_the_first_segment_is_the_default() -> None:
    net = policy(box(12), obs_segments=SEGMENTS, encoder={})
    assert list(net.actor_reader.encoders) == ["b", "c"]
    assert list(policy(box(12), encoder={}).actor_reader.encoders) == ["policy"]


def test_leading_dimensions_are_free() -> None:
    net = encoded(["b", "c"])
    obs = th.randn(5, 6, 12)
    flat = net.actor_reader({"policy": obs.flatten(0, 1)})
    assert th.allclose(net.actor_reader({"policy": obs}).flatten(0, 1), flat, atol=1e-6)


TWO = spaces.Dict({"policy": box(12), "critic": box(7)})


def test_a_shared_encoder_finds_its_segment_by_name() -> None:
    """The critic has ``b`` in other columns than the actor."""
    net = policy(
        TWO,
        obs_segments={"policy": SEGMENTS, "critic": {"mass": 3, "b": (2, 2)}},
        encoder={"component_names": ["b"], "critic_component_names": "shared", "output_size": 4},
    )
    assert net.critic_reader.encoders["b"] is net.actor_reader.encoders["b"]
    obs = {"policy": th.randn(6, 12), "critic": th.randn(6, 7)}
    obs["critic"][:, 3:] = obs["policy"][:, 3:7]
    assert th.equal(net.get_encoder_latent(obs, "b"), net.get_encoder_latent(obs, "b", critic=True))
    expected = th.cat([obs["critic"][:, :3], net.get_encoder_latent(obs, "b")], -1)
    assert th.equal(net.critic_reader(obs), expected)
    parameters = list(map(id, net.ppo_parameters()))
    assert len(parameters) == len(set(parameters))


def test_a_critic_with_encoders_of_its_own() -> None:
    net = policy(
        TWO,
        obs_segments={"policy": SEGMENTS, "critic": {"mass": 3, "b": (2, 2)}},
        encoder={
            "component_names": ["c"],
            "critic_component_names": ["b"],
            "critic_kwargs": {"hidden_sizes": [6]},
            "output_size": 4,
        },
    )
    assert list(net.critic_reader.encoders) == ["b"]
    assert net.critic_reader.encoders["b"].model[0].out_features == 6


def test_encoders_that_cannot_be_shared() -> None:
    share = {"component_names": ["b"], "critic_component_names": "shared"}
    with pytest.raises(StrlValueError, match=r"'b' has shape \(2, 2\) for the actor and \(4,\)"):
        policy(TWO, obs_segments={"policy": SEGMENTS, "critic": {"m": 3, "b": 4}}, encoder=share)
    with pytest.raises(StrlKeyError, match=r"shared critic encoder: unknown segment 'b'"):
        policy(TWO, obs_segments={"policy": SEGMENTS, "critic": {"m": 7}}, encoder=share)


def test_wrong_names_and_classes() -> None:
    with pytest.raises(StrlKeyError, match=r"unknown segment 'bb'.*The actor has: \['a', 'b', 'c"):
        encoded(["bb"])
    with pytest.raises(StrlTypeError, match=r"unknown class_name 'MlpModl'\. Did you mean 'MlpMod"):
        encoded(["b"], class_name="MlpModl")
    with pytest.raises(StrlValueError, match=r"needs a \(channels, height, width\) segment"):
        encoded(["b"], class_name="Conv2dHeadModel")
    with pytest.raises(StrlTypeError, match=r"unknown key 'output'.*Did you mean 'output_size'"):
        EncoderSpec.from_dict({"output": 3})
    with pytest.raises(StrlKeyError, match=r"no encoder reads 'c'.*Encoded segments: \['b'\]"):
        encoded(["b"]).get_encoder_latent(th.zeros(1, 12), "c")


@pytest.mark.parametrize("name", ["type", "keys", "foot.left"])
def test_names_that_no_module_can_carry(name: str) -> None:
    with pytest.raises(StrlValueError, match=f"segment '{name}' has a name .* Rename the segment"):
        policy(box(5), obs_segments={"rest": 3, name: 2}, encoder={"component_names": [name]})


IMAGE = spaces.Dict({"image": spaces.Box(0, 255, (3, 12, 12), np.uint8), "vector": box(4)})


def image_policy(**options) -> StrlPolicy:
    return policy(IMAGE, obs_groups={"actor": ["image", "vector"]}, **options)


def test_bytes_are_scaled_and_floats_are_not() -> None:
    obs = {"image": th.randint(0, 256, (2, 3, 12, 12), dtype=th.uint8), "vector": th.randn(2, 4)}
    features = image_policy().actor_reader(obs)
    assert th.allclose(features[:, :432], obs["image"].flatten(1) / 255.0)
    assert th.equal(features[:, 432:], obs["vector"])
    raw = image_policy(normalize_images=False).actor_reader(obs)
    assert th.equal(raw[:, :432], obs["image"].flatten(1).float())


def test_images_get_a_cnn_and_stay_outside_the_running_statistics() -> None:
    net = image_policy(
        encoder={"component_names": ["image"], "output_size": 6}, empirical_normalization=True
    )
    obs = {"image": th.randint(0, 256, (8, 3, 12, 12), dtype=th.uint8), "vector": th.randn(8, 4)}
    net.update_normalizers(obs)
    assert net.actor_reader.normalizer.mean.numel() == 4
    features = net.actor_reader(obs)
    assert features.shape == (8, 10)
    assert th.allclose(features[:, 6:].mean(0), th.zeros(4), atol=1e-5)


@pytest.mark.parametrize(
    ("normalize_images", "is_raw"), [(False, True), (True, False)], ids=["raw", "normalised"]
)
def test_image_segments_of_a_vector_group(normalize_images: bool, is_raw: bool) -> None:
    net = policy(
        box(2 + 64),
        obs_segments={"state": 2, "depth": (1, 8, 8)},
        encoder={"component_names": ["depth"], "normalize_images": normalize_images},
        empirical_normalization=True,
    )
    obs = th.randn(16, 66) * 5 + 3
    before = net.get_encoder_latent(obs, "depth")
    net.update_normalizers({"policy": obs})
    assert th.equal(net.get_encoder_latent(obs, "depth"), before) == is_raw


def test_discrete_groups_are_one_hot() -> None:
    space = spaces.Dict(
        {
            "mode": spaces.Discrete(3, start=1),
            "pair": spaces.MultiDiscrete([2, 3]),
            "bits": spaces.MultiBinary(2),
        }
    )
    net = policy(space, obs_groups={"actor": ["mode", "pair", "bits"]})
    obs = {
        "mode": th.tensor([1, 3]),
        "pair": th.tensor([[0, 2], [1, 0]]),
        "bits": th.tensor([[1, 0], [0, 1]]),
    }
    expected = [[1, 0, 0, 1, 0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 1, 0, 0, 0, 1]]
    assert net.actor_reader(obs).tolist() == expected


def test_normalisers_off_is_the_identity_and_on_has_numpys_moments() -> None:
    off = policy(box(3))
    obs = th.randn(5, 40, 3) * th.tensor([1.0, 10.0, 0.1]) + 4
    off.update_normalizers({"policy": obs})
    assert th.equal(off.actor_reader({"policy": obs}), obs)
    on = policy(box(3), empirical_normalization=True)
    on.update_normalizers({"policy": obs[:2]})
    on.update_normalizers({"policy": obs[2:]})
    flat = obs.flatten(0, 1).numpy().astype(np.float64)
    assert np.allclose(on.actor_reader.normalizer.mean.numpy(), flat.mean(0), atol=1e-5)
    normal = on.actor_reader({"policy": obs}).flatten(0, 1)
    assert th.allclose(normal.std(0, unbiased=False), th.ones(3), atol=0.11)
    assert th.allclose(normal.mean(0), th.zeros(3), atol=1e-4)


def test_a_critic_may_read_some_segments_in_another_order() -> None:
    wanted = {"c": 5, "a": 3}
    net = policy(box(12), obs_segments=SEGMENTS, critic_obs_segments=wanted)
    obs = th.randn(2, 12)
    assert th.equal(net.critic_reader({"policy": obs}), th.cat([obs[:, 7:], obs[:, :3]], -1))
    with pytest.raises(StrlValueError, match=r"'a' is declared with 4 columns, .* gives it 3"):
        policy(box(12), obs_segments=SEGMENTS, critic_obs_segments={"a": 4})
    with pytest.raises(StrlKeyError, match=r"critic_obs_segments: unknown segment 'x'"):
        policy(box(12), obs_segments=SEGMENTS, critic_obs_segments={"x": 4})


def test_a_cnn_of_rsl_rl_encodes_images() -> None:
    options = {"output_channels": [4, 6], "kernel_size": 3, "stride": 2, "padding": "zeros"}
    encoder = {"component_names": ["image"], "class_name": "CNN", "kwargs": options}
    space = spaces.Dict({"policy": box(3), "image": box(2, 9, 8)})
    groups = {"actor": ["policy", "image"]}
    net = policy(space, obs_groups=groups, encoder=encoder)
    obs = {"policy": th.randn(5, 3), "image": th.randn(5, 2, 9, 8)}
    latent = net.actor_reader.encoders["image"](obs["image"])
    assert net.actor_reader.output_dim == 3 + latent.shape[-1]
    assert th.equal(net.actor_reader(obs), th.cat([obs["policy"], latent], -1))
    flat = policy(
        box(3 + 2 * 9 * 8), obs_segments={"a": 3, "image": (2, 9, 8)}, encoder=encoder
    )  # the same image as columns of a vector
    flat.load_state_dict(net.state_dict(), strict=False)
    vector = {"policy": th.cat([obs["policy"], obs["image"].flatten(1)], -1)}
    assert th.allclose(flat.actor_reader(vector), net.actor_reader(obs), atol=1e-6)
    with pytest.raises(StrlValueError, match="CNN needs a \\(channels, height, width\\) segment"):
        encoded(["b"], class_name="CNN", kwargs=options)
    unflat = {**encoder, "kwargs": {**options, "flatten": False}}
    with pytest.raises(StrlValueError, match="flatten=False yields images"):
        policy(space, obs_groups=groups, encoder=unflat)
