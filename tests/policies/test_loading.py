"""A policy file is enough to act: nothing else is needed, and nothing in it is executed."""

import io
import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_strl import APPO, PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.files import atomic_file
from sb3_strl.policies import EncoderPolicy, MlpPolicy, StrlPolicy
from sb3_strl.policies.description import (
    decode,
    describe_constructor,
    encode,
    policy_from_description,
)
from sb3_strl.policies.loading import (
    add_description,
    load_policy,
    read_policy_file,
    save_policy,
)
from tests.envs.toy import PointMass, box

SMALL = {"net_arch": [8]}


def make(cls: type = StrlPolicy, space: spaces.Space | None = None, **options) -> StrlPolicy:
    return cls(space or box(12), box(2, bound=1.0), lambda _: 1e-3, **{**SMALL, **options})


def same_action(one, other, obs) -> bool:
    return np.array_equal(
        one.predict(obs, deterministic=True)[0], other.predict(obs, deterministic=True)[0]
    )


def rewrite(path: Path, **entries: bytes) -> None:
    """Replace entries of an archive; names with a dot are spelt with two underscores."""
    with zipfile.ZipFile(path) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    old |= {name.replace("__", "."): content for name, content in entries.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in old.items():
            archive.writestr(name, content)


# ---------------------------------------------------------------------- values


SPACES = [
    box(5),
    box(2, 3, bound=1.0),
    spaces.Box(np.array([-np.inf, 0.1], np.float32), np.array([2.0, np.inf], np.float32)),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Box(-1.0, 1.0, (2,), np.float64),
    spaces.Box(0.0, 1.0, (), np.float32),
    spaces.Discrete(4, start=-1),
    spaces.MultiDiscrete([2, 3], start=[1, 0]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Dict(OrderedDict([("policy", box(3)), ("critic", spaces.Discrete(2))])),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space: spaces.Space) -> None:
    again = decode(json.loads(json.dumps(encode(space), allow_nan=False)))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(again.spaces) == ["policy", "critic"]  # gymnasium would sort them


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        float("inf"),
        "elu",
        [1, [2.5]],
        (1, (2,)),
        {"a": {"b": (3, 3)}},
        {1: 0.5, 2: [0.1, 0.2]},
        {"@": "Box"},
        nn.ELU,
        th.optim.AdamW,
        StrlPolicy,
    ],
    ids=repr,
)
def test_arguments_survive_json(value) -> None:
    again = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert again == value
    assert type(again) is type(value)


def test_numbers_of_numpy_become_plain() -> None:
    assert type(encode(np.int64(3))) is int
    assert type(encode(np.float32(0.5))) is float
    assert np.array_equal(decode(encode(np.eye(2, dtype=np.float32))), np.eye(2))


def test_bounds_of_images_take_no_room() -> None:
    assert len(json.dumps(encode(spaces.Box(0, 255, (3, 64, 64), np.uint8)))) < 300


@pytest.mark.parametrize("value", [lambda x: x, object(), Path])
def test_code_is_no_data(value) -> None:
    with pytest.raises(StrlTypeError, match="cannot be stored as plain data"):
        encode(value)


# ---------------------------------------------------------------------- there and back


OPTIONS = [
    {},
    {"rnn": {"type": "gru", "hidden_size": 6}, "empirical_normalization": True},
    {
        "obs_segments": {"a": 5, "b": (7,)},
        "estimator": {"obs_components": ["a"], "target_components": ["b"], "replace_prob": 0.5},
        "rnn": {"type": "lstm", "hidden_size": 6},
    },
    {
        "obs_segments": {"a": 3, "b": (1, 3, 3)},
        "visual": {"channels": [2], "hidden_sizes": [], "latent_size": 4},
    },
    {"activation": "tanh", "init_noise_std": 0.5, "noise_std_type": "scalar"},
    {"activation_fn": nn.SiLU, "optimizer_class": th.optim.SGD, "net_arch": {"pi": [4], "vf": []}},
    {"obs_segments": {"a": 5, "b": (7,)}, "encoder": {"output_size": 3}},
    {"empirical_normalization": True, "normalizer_until": 1e6, "mu_activation": "tanh"},
    {"amp_discriminator": {"hidden_dims": [4]}, "amp_input_dim": 6},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_loaded_policy_acts_alike(tmp_path: Path, options: dict) -> None:
    net = make(**options)
    net.update_normalizers({"policy": th.randn(20, 12) * 3.0 + 1.0})
    save_policy(net, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt", policy_class=StrlPolicy)
    obs = th.randn(5, 12)
    assert type(again) is StrlPolicy
    assert same_action(net, again, obs)
    assert th.equal(net.predict_values(obs), again.predict_values(obs))
    theirs = again.state_dict()
    assert all(th.equal(value, theirs[name]) for name, value in net.state_dict().items())
    assert type(again.optimizer) is type(net.optimizer)


@pytest.mark.parametrize("action_space", [spaces.Discrete(4), spaces.MultiBinary(3)], ids=str)
def test_other_actions(tmp_path: Path, action_space: spaces.Space) -> None:
    net = StrlPolicy(spaces.Discrete(3), action_space, lambda _: 1e-3, **SMALL)
    save_policy(net, tmp_path / "p")
    assert same_action(net, load_policy(tmp_path / "p"), np.array([0, 1, 2]))


def test_a_stream_will_do() -> None:
    net, stream = make(), io.BytesIO()
    save_policy(net, stream)
    stream.seek(0)
    assert same_action(net, load_policy(stream), np.ones(12, np.float32))


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_policy(make(), tmp_path / "p")
    th.manual_seed(3)
    expected = th.rand(4)
    th.manual_seed(3)
    load_policy(tmp_path / "p")
    assert th.equal(th.rand(4), expected)


def test_a_policy_of_stable_baselines3(tmp_path: Path) -> None:
    net = ActorCriticPolicy(box(4), box(2, bound=1.0), lambda _: 1e-3, net_arch=[8])
    save_policy(net, tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert type(again) is ActorCriticPolicy
    assert same_action(net, again, np.ones(4, np.float32))


def test_a_compiled_policy_is_saved_without_its_wrapper(tmp_path: Path) -> None:
    net = make()
    save_policy(th.compile(net), tmp_path / "p")
    assert same_action(net, load_policy(tmp_path / "p"), np.ones(12, np.float32))


class OwnPolicy(StrlPolicy):
    """A user's policy."""


class HoldingPolicy(StrlPolicy):
    """A policy whose arguments hold another policy."""

    def __init__(self, inner: StrlPolicy, **options) -> None:
        super().__init__(**options)
        self.inner = inner
        self._arguments["inner"] = inner


def test_policies_inside_policies(tmp_path: Path) -> None:
    inner = make(EncoderPolicy)
    outer = HoldingPolicy(
        inner,
        observation_space=box(3),
        action_space=box(1, bound=1.0),
        lr_schedule=lambda _: 1e-3,
        **SMALL,
    )
    save_policy(outer, tmp_path / "p")
    again = load_policy(tmp_path / "p", policy_class=HoldingPolicy)
    assert type(again.inner) is EncoderPolicy
    assert same_action(inner, again.inner, th.randn(4, 12))


def test_the_class_is_the_files_or_a_child_of_it(tmp_path: Path) -> None:
    save_policy(make(EncoderPolicy), tmp_path / "encoder")
    save_policy(make(), tmp_path / "plain")
    assert type(load_policy(tmp_path / "encoder")) is EncoderPolicy
    assert type(load_policy(tmp_path / "encoder", policy_class=StrlPolicy)) is EncoderPolicy
    assert type(load_policy(tmp_path / "plain", policy_class=OwnPolicy)) is OwnPolicy
    with pytest.raises(StrlValueError, match="holds a EncoderPolicy, not a MlpPolicy"):
        load_policy(tmp_path / "encoder", policy_class=MlpPolicy)


def test_a_class_that_has_moved(tmp_path: Path) -> None:
    description = describe_constructor(make(OwnPolicy)) | {"policy": "__main__.OwnPolicy"}
    assert type(policy_from_description(description, OwnPolicy)) is OwnPolicy
    with pytest.raises(StrlValueError, match=r"no policy class '__main__.OwnPolicy'.*Import"):
        policy_from_description(description)
    with pytest.raises(StrlValueError, match=r"no policy class '__main__.OwnPolicy'"):
        policy_from_description(description, StrlPolicy)  # it would act differently


# ---------------------------------------------------------------------- models


def test_a_model_is_a_policy_file_too(tmp_path: Path) -> None:
    kwargs = {**SMALL, "encoder": {"output_size": 4}, "empirical_normalization": True}
    model = APPO("EncoderAmpPolicy", PointMass(2), policy_kwargs=kwargs).learn(48)
    model.save(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    obs = model.tensor_env.reset_tensor()
    assert type(policy) is type(model.policy)
    assert same_action(model, policy, obs)
    assert same_action(model, APPO.load(tmp_path / "model"), obs)  # still a model


def test_a_model_in_a_stream_is_one_too(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", PointMass(2), policy_kwargs=SMALL)
    with (tmp_path / "model.zip").open("wb") as stream:  # closed to reading
        model.save(stream)
    policy = load_policy(tmp_path / "model")
    assert same_action(model, policy, model.tensor_env.reset_tensor())


def test_policies_save_and_load_themselves(tmp_path: Path) -> None:
    net = make(EncoderPolicy)
    net.save(tmp_path / "p")
    again = StrlPolicy.load(tmp_path / "p", "cpu")
    assert type(again) is EncoderPolicy
    assert same_action(net, again, np.ones(12, np.float32))
    with pytest.raises(StrlValueError, match="holds a EncoderPolicy, not a MlpPolicy"):
        MlpPolicy.load(tmp_path / "p")


@pytest.mark.integration
def test_a_fresh_process_needs_the_file_only(tmp_path: Path) -> None:
    model = PPO("EncoderPolicy", PointMass(2), policy_kwargs=SMALL)
    model.save(tmp_path / "model.zip")
    obs = {key: value.numpy() for key, value in model.tensor_env.reset_tensor().items()}
    np.savez(tmp_path / "obs.npz", **obs)
    script = (
        "import sys, numpy as np\n"
        "from sb3_strl.policies.loading import load_policy\n"
        "obs = dict(np.load(sys.argv[2], allow_pickle=False))\n"
        "actions = load_policy(sys.argv[1]).predict(obs, deterministic=True)[0]\n"
        "np.save(sys.argv[3], actions)\n"
    )
    files = [str(tmp_path / name) for name in ("model.zip", "obs.npz", "actions.npy")]
    subprocess.run([sys.executable, "-c", script, *files], check=True, timeout=120)
    expected = model.predict(obs, deterministic=True)[0]
    assert np.array_equal(np.load(tmp_path / "actions.npy", allow_pickle=False), expected)


def test_a_checkpoint_is_worth_more_than_its_description(tmp_path: Path) -> None:
    net = make()
    net._arguments["mu_activation"] = lambda x: x
    with pytest.raises(StrlTypeError, match=r"StrlPolicy: argument 'mu_activation': .*plain data"):
        save_policy(net, tmp_path / "p")
    assert not list(tmp_path.iterdir())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", "{}")
    with pytest.warns(UserWarning, match="The model is saved, but"):
        add_description(stream, net)
    assert zipfile.ZipFile(stream).namelist() == ["data"]


# ---------------------------------------------------------------------- bad files


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "boom")


def test_weights_with_code_are_refused(tmp_path: Path) -> None:
    path, crater = tmp_path / "p", tmp_path / "crater"
    save_policy(make(), path)
    stream = io.BytesIO()
    th.save({"weight": Bomb(crater)}, stream)
    rewrite(path, policy__pth=stream.getvalue())
    with pytest.raises(StrlValueError, match="damaged or not ours, and nothing in it was executed"):
        load_policy(path)
    assert not crater.exists()
    stream.seek(0)
    th.load(stream, weights_only=False)  # the bomb is a real one
    assert crater.exists()


def test_files_of_stable_baselines3_are_refused(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    th.save({"state_dict": {}, "data": Bomb(crater)}, tmp_path / "policy.pt")
    with pytest.raises(StrlValueError, match=r"has no \['policy.json', 'policy.pth'\].*pickle"):
        load_policy(tmp_path / "policy.pt")
    assert not crater.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off(tmp_path: Path, share: float) -> None:
    save_policy(make(), tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StrlValueError, match=r"load_policy: .*cut off"):
        load_policy(tmp_path / "p")


def test_a_file_with_a_flipped_bit(tmp_path: Path) -> None:
    save_policy(make(), tmp_path / "p")
    content = bytearray((tmp_path / "p").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(StrlValueError, match=r"damaged or not ours.*CRC"):
        load_policy(tmp_path / "p")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"there is no file .*nothing"):
        load_policy(tmp_path / "nothing")


def test_a_folder_is_answered_with_the_file_in_it(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"is a folder\. Expected a file in it, .*model\.zip"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"format 2\. Expected 1"),
        ({"policy": "os.system"}, r"no policy class 'os.system'"),
        ({"policy": "torch.nn.modules.linear.Linear"}, "no policy class"),
        ({"arguments": {"net_arc": [8]}}, r"unknown argument 'net_arc'\. Did you mean 'net_arch'"),
        ({"arguments": {"net_arch": {"@": "code"}}}, "unknown kind of value 'code'"),
        ({"arguments": {"net_arch": {"@": "class", "name": "os.system"}}}, "no module or optim"),
        ({"arguments": {"net_arch": {"@": "Box"}}}, r"arguments of StrlPolicy are damaged \(KeyE"),
    ],
)
def test_descriptions_that_lie(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "p"
    save_policy(make(), path)
    description = read_policy_file(path).description
    description["arguments"] |= change.pop("arguments", {})
    rewrite(path, policy__json=json.dumps(description | change).encode())
    with pytest.raises(
        StrlValueError if "net_arc'" not in message else StrlTypeError, match=message
    ):
        load_policy(path)


def test_entries_of_the_wrong_kind(tmp_path: Path) -> None:
    path = tmp_path / "p"
    save_policy(make(), path)
    rewrite(path, policy__json=b"[1]")
    with pytest.raises(StrlValueError, match="holds no description or no weights"):
        load_policy(path)
    rewrite(path, policy__json=b"{")
    with pytest.raises(StrlValueError, match=r"damaged or not ours.*JSONDecodeError"):
        load_policy(path)


def test_weights_of_another_policy(tmp_path: Path) -> None:
    save_policy(make(), tmp_path / "p")
    save_policy(make(net_arch=[9]), tmp_path / "q")
    with zipfile.ZipFile(tmp_path / "q") as archive:
        rewrite(tmp_path / "p", policy__pth=archive.read("policy.pth"))
    with pytest.raises(StrlValueError, match=r"(?s)weights do not fit the StrlPolicy.*size mism"):
        load_policy(tmp_path / "p")


def write_half(path: Path) -> None:
    with atomic_file(path) as stream:
        stream.write(b"second")
        raise OSError("disk full")


def test_a_failure_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "p"
    with atomic_file(path) as stream:
        stream.write(b"first")
    with pytest.raises(OSError, match="disk full"):
        write_half(path)
    assert path.read_bytes() == b"first"
    assert [file.name for file in path.parent.iterdir()] == ["p"]
