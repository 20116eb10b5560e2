"""Exported files act as the policy does: every alias, memory, estimators, normalisers."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_strl import PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.export import Deployment, export_policy
from sb3_strl.export import policy as policy_module
from sb3_strl.export.files import make_runner
from sb3_strl.export.module import ExportedPolicy
from sb3_strl.export.steps import StepMemory
from sb3_strl.policies import POLICY_ALIASES
from sb3_strl.policies.aliases import PART_WORDS
from sb3_strl.policies.memory import Memory, MemorySpec
from tests.export.robots import make_policy

pytest.importorskip("onnxruntime")

ACTING_WORDS = [word for word in PART_WORDS if word not in ("Amp", "Deterministic")]
COMBINATIONS = [  # the table of aliases is among them
    f"{''.join(itertools.compress(ACTING_WORDS, chosen)) or 'Mlp'}{rnn}Policy"
    for chosen in itertools.product((False, True), repeat=len(ACTING_WORDS))
    for rnn in ("", "Lstm", "Gru")
]
OTHERS = [
    "AmpPolicy",
    "AmpLstmPolicy",
    "EncoderAmpPolicy",
    "EncoderAmpLstmPolicy",
    "VisualDeterministicPolicy",
    "VisualDeterministicLstmPolicy",
    "EstimatorAmpLstmPolicy",
    "EncoderEstimatorAmpLstmPolicy",
    "VisualEncoderPrivilegeEstimatorAmpDeterministicGruPolicy",
]


def prove(alias: str, folder: Path) -> None:
    report = export_policy(make_policy(alias), folder)
    assert {(p.format, p.n_envs) for p in report.parities} == {
        (name, n_envs) for name in ("onnx", "torchscript") for n_envs in (1, 3)
    }
    assert all(p.n_steps == 100 and p.max_error <= 1e-5 for p in report.parities)
    assert sorted(p.name for p in folder.iterdir()) == ["metadata.json", "model.onnx", "model.pt"]
    states = [name for name in report.inputs if name.endswith("_in")]
    assert bool(states) == ("Lstm" in alias or "Gru" in alias)
    n_memories = 1 + ("Estimator" in alias) + ("Privilege" in alias)
    assert sum("cell" in name for name in states) == ("Lstm" in alias) * n_memories


@pytest.mark.integration
@pytest.mark.parametrize("alias", COMBINATIONS)
def test_every_combination_is_proven_over_100_steps(alias: str, tmp_path: Path) -> None:
    prove(alias, tmp_path)


@pytest.mark.parametrize("alias", OTHERS)
def test_what_acts_the_same_way_is_proven_too(alias: str, tmp_path: Path) -> None:
    prove(alias, tmp_path)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_memory_of_elementary_operations_equals_pytorchs(kind: str) -> None:
    memory = Memory(5, MemorySpec(type=kind, hidden_size=4, num_layers=3))
    step, x = StepMemory(memory), th.randn(6, 5)
    state = memory.initial_state(6)
    mine = state
    for _ in range(4):
        output, state = memory(x, state)
        own, mine = step(x, mine)
        assert th.allclose(own, output, atol=1e-6)


class Walls(gym.Env[Any, Any]):
    """An image, a choice and a number; actions of several kinds."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, (1, 12, 12), np.uint8),
                "gear": spaces.Discrete(3, start=1),
                "state": spaces.Box(-1.0, 1.0, (3,), np.float64),
            }
        )
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, bool(self.np_random.random() < 0.1), False, {}


@pytest.mark.filterwarnings("ignore:export_policy.*the same in every step")
@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiBinary(3),
        spaces.Box(-0.3, 0.2, (2, 2), np.float32),
    ],
    ids=lambda space: type(space).__name__,
)
def test_images_choices_and_every_action_space(
    action_space: spaces.Space[Any], tmp_path: Path
) -> None:
    visual = {"channels": [2], "kernel_sizes": [3], "strides": [2], "hidden_sizes": [6]}
    kwargs: dict[str, Any] = {"visual": visual, "net_arch": [8], "empirical_normalization": True}
    kwargs["obs_groups"] = {"actor": ["camera", "gear", "state"]}
    model = PPO("VisualLstmPolicy", Walls(action_space), n_steps=8, policy_kwargs=kwargs)
    model.learn(8)
    invented = export_policy(model, tmp_path / "a")
    real = export_policy(model, tmp_path / "b", env=Walls(action_space), n_steps=30)
    assert max(p.max_error for p in invented.parities + real.parities) <= 1e-5
    assert [p.n_steps for p in real.parities] == [30, 30]


@pytest.mark.filterwarnings("ignore:export_policy.*the same in every step")
@pytest.mark.parametrize(
    ("action_space", "described"),
    [
        (spaces.Discrete(4, start=2), {"start": 2, "n": 4}),
        (spaces.MultiDiscrete([3, 2], start=[0, 5]), {"start": [0, 5], "nvec": [3, 2]}),
        (spaces.MultiBinary(3), {"n": 3}),
    ],
    ids=lambda item: type(item).__name__,
)
def test_the_metadata_say_between_what_is_chosen(
    action_space: spaces.Space[Any], described: dict[str, Any], tmp_path: Path
) -> None:
    cart = gym.make("CartPole-v1")
    policy = POLICY_ALIASES["MlpPolicy"](cart.observation_space, action_space, lambda _: 1e-3)
    export_policy(policy, tmp_path, formats=["torchscript"], n_steps=2)
    actions = json.loads((tmp_path / "metadata.json").read_text())["actions"]
    assert actions["space"] == type(action_space).__name__
    assert {name: actions.get(name) for name in described} == described


def test_the_statistics_of_vec_normalize_are_folded_in(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=1.5)
    model = PPO("MlpPolicy", venv, n_steps=64, policy_kwargs={"net_arch": [8]})
    model.learn(128)
    report = export_policy(model, tmp_path, env=DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    assert max(p.max_error for p in report.parities) <= 1e-5
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["normalizer"].keys() == {"inside", "vec_normalize"}
    described = metadata["normalizer"]["vec_normalize"]["policy"]
    assert described["mean"] == pytest.approx(venv.obs_rms.mean)  # type: ignore[union-attr]
    variance = venv.obs_rms.var  # type: ignore[union-attr]
    assert described["std"] == pytest.approx(np.sqrt(variance + venv.epsilon))
    assert described["clip"] == 1.5


def test_a_model_file_is_exported_without_its_environment(tmp_path: Path) -> None:
    model = PPO("MlpGruPolicy", "Pendulum-v1", n_steps=8, policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "model")
    report = export_policy(tmp_path / "model.zip", tmp_path / "robot", formats="onnx")
    assert [*report.files] == ["onnx", "metadata"]
    table = str(report)
    assert "model.onnx" in table
    assert "actor_hidden_in" in table
    assert "1e-05" in table


def test_the_metadata_say_what_every_number_is(tmp_path: Path) -> None:
    policy = make_policy("EncoderEstimatorLstmPolicy")
    deployment = Deployment(
        joint_names=["hip", "knee"],
        action_scale=[0.5, 0.25],
        action_offset=0.1,
        stiffness=20.0,
        damping=[1.0, 2.0],
        control_dt=0.02,
    )
    report = export_policy(policy, tmp_path, deployment=deployment)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    (group,) = metadata["inputs"]
    assert (group["name"], group["dtype"], group["shape"]) == (
        "obs_policy",
        "float32",
        ["n_envs", 43],
    )
    assert group["segments"][1] == {"name": "velocity", "start": 4, "stop": 6, "shape": [2]}
    assert group["segments"][3]["shape"] == [1, 6, 6]
    assert metadata["states"][0] == {
        "input": "estimator_hidden_in",
        "output": "estimator_hidden_out",
        "dtype": "float32",
        "shape": [2, "n_envs", 7],
        "initial": 0,
    }
    assert metadata["actions"]["order"] == ["hip", "knee"]
    assert metadata["actions"]["scale"] == [0.5, 0.25]
    assert metadata["actions"]["low"] == [-1.0, -1.0]
    assert metadata["deployment"] == {
        "stiffness": 20.0,
        "damping": [1.0, 2.0],
        "joint_names": ["hip", "knee"],
        "control_dt": 0.02,
    }
    assert policy.actor_reader.normalizer is not None
    assert metadata["normalizer"]["mean"] == policy.actor_reader.normalizer.mean.tolist()
    assert metadata["outputs"] == report.outputs
    assert {"sb3_strl", "torch", "python", "onnx"} <= set(metadata["versions"])
    assert len(metadata["proof"]) == 4
    # Both files carry a copy.
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    inside = json.loads(session.get_modelmeta().custom_metadata_map["sb3_strl"])
    assert inside["inputs"] == metadata["inputs"]
    extra = {"metadata.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        th.jit.load(str(tmp_path / "model.pt"), _extra_files=extra)
    assert json.loads(extra["metadata.json"])["states"] == metadata["states"]


def test_targets_are_scaled_and_shifted_actions(tmp_path: Path) -> None:
    deployment = Deployment(action_scale=[0.5, 2.0], action_offset=[1.0, -1.0])
    policy = make_policy("MlpPolicy")
    export_policy(policy, tmp_path, deployment=deployment)
    module = ExportedPolicy(policy, deployment)
    run = make_runner("onnx", tmp_path / "model.onnx", module)
    out = run({"obs_policy": np.ones((5, 43), np.float32)})
    expected = np.array([1.0, -1.0]) + np.array([0.5, 2.0]) * out["actions"]
    assert np.allclose(out["targets"], expected, atol=1e-6)
    assert np.abs(out["targets"] - out["actions"]).max() > 0.1


# ---------------------------------------------------------------------- what is refused


def test_a_wrong_file_is_found_out_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(name: str, path: Path, module: ExportedPolicy) -> Any:
        run = make_runner(name, path, module)
        fresh = {f"{s.name}_in": s.initial.numpy() for s in module.step.states}
        return lambda inputs: run(
            {n: np.zeros_like(v) if n in fresh else v for n, v in inputs.items()}
        )

    monkeypatch.setattr(policy_module, "make_runner", forgetful)
    with pytest.raises(StrlValueError, match=r"the onnx file differs from .*Expected at"):
        export_policy(make_policy("MlpLstmPolicy"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
@pytest.mark.parametrize("damaged", ["file", "input"])
def test_what_a_runtime_refuses_is_said_in_a_sentence(
    name: str, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(format_name: str, path: Path, module: ExportedPolicy) -> Any:
        if damaged == "file":
            path.write_bytes(b"nonsense")
        run = make_runner(format_name, path, module)
        return lambda inputs: run({key: value[:, :-1] for key, value in inputs.items()})

    monkeypatch.setattr(policy_module, "make_runner", damage)
    done = "loaded" if damaged == "file" else "run"
    with pytest.raises(
        StrlValueError, match=rf"the {name} file cannot be {done} \(.*Pass formats="
    ):
        export_policy(make_policy("MlpPolicy"), tmp_path, formats=[name])
    assert not list(tmp_path.iterdir())


def test_what_an_exporter_refuses_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setitem(policy_module.WRITERS, "onnx", refuse)
    with pytest.raises(
        StrlValueError, match=r"cannot be written \(RuntimeError: no such operation"
    ):
        export_policy(make_policy("MlpPolicy"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    policy = make_policy("EncoderEstimatorAmpLstmPolicy")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    parameters = [p.requires_grad for p in policy.parameters()]
    export_policy(policy, tmp_path, formats=["torchscript"])
    assert policy.state_dict().keys() == before.keys()
    assert all(th.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert [p.requires_grad for p in policy.parameters()] == parameters
    assert not isinstance(policy.actor_memory, StepMemory)


@pytest.mark.parametrize("n_steps", [0, -3])
def test_a_proof_has_steps(n_steps: int, tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=rf"n_steps .* is {n_steps}. Expected .* at least 1"):
        export_policy(make_policy("MlpPolicy"), tmp_path, n_steps=n_steps)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "robot"
    with pytest.raises(StrlValueError, match="nothing was written"):
        export_policy(make_policy("MlpPolicy"), folder, ["torchscript"], tolerance=-1.0)
    assert not list(tmp_path.iterdir())
    folder.parent.write_text("")
    with pytest.raises(StrlValueError, match=r"new is a file. Expected a folder for"):
        export_policy(make_policy("MlpPolicy"), folder)


def test_the_environment_is_one_of_the_policy(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"the policy observes \{.*has Box of shape \(3,\)"):
        export_policy(make_policy("MlpPolicy"), tmp_path, env=gym.make("Pendulum-v1"))
    policy = PPO("MlpPolicy", "MountainCarContinuous-v0", n_steps=8).policy
    with pytest.raises(StrlValueError, match=r"acts in Box of shape \(1,\).*has Discrete\(3\)"):
        export_policy(policy, tmp_path, env=gym.make("MountainCar-v0"))


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(StrlValueError, match=r"unknown format 'onx'. Did you mean 'onnx'"):
        export_policy(make_policy("MlpPolicy"), tmp_path, formats=["onx"])
    with pytest.raises(StrlValueError, match=r"no formats. Expected some of"):
        export_policy(make_policy("MlpPolicy"), tmp_path, formats=[])
    theirs = SB3PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8)
    with pytest.raises(StrlTypeError, match=r"got a ActorCriticPolicy. Expected a policy of"):
        export_policy(theirs, tmp_path)
    wrong: Any = 3
    with pytest.raises(StrlTypeError, match=r"got a int. Expected a policy, a model, or the path"):
        export_policy(wrong, tmp_path)
    sampling = {
        "obs_components": ["proprio"],
        "target_components": ["velocity"],
        "replace_prob": 0.5,
        "inference_replace": "sample",
    }
    with pytest.raises(StrlValueError, match="estimator replaces observations at random"):
        export_policy(make_policy("EstimatorPolicy", estimator=sampling), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"joint_names": ["hip"]}, "there are 1 joint_names. Expected 2"),
        ({"action_scale": [1.0, 2.0, 3.0]}, "action_scale has 3 numbers. Expected one, or 2"),
        ({"damping": [1.0, 2.0, 3.0]}, "damping has 3 numbers"),
        ({"stiffness": "hard"}, "stiffness is 'hard'. Expected a finite number, or 2"),
        ({"stiffness": [1.0, None]}, r"stiffness is \[1.0, None\]. Expected a finite number"),
        ({"damping": float("nan")}, "damping is nan. Expected a finite number"),
        ({"joint_names": "ab"}, "joint_names is 'ab'. Expected a list of names"),
        ({"control_dt": "fast"}, "control_dt is 'fast'. Expected the time between two steps"),
    ],
)
def test_a_deployment_fits_the_actions(options: dict[str, Any], message: str) -> None:
    with pytest.raises((StrlValueError, StrlTypeError), match=message):
        ExportedPolicy(make_policy("MlpPolicy"), Deployment(**options))


def test_choices_have_no_scale() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8)
    with pytest.raises(StrlValueError, match="Expected continuous actions"):
        ExportedPolicy(model.policy, Deployment(action_scale=1.0))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sb3_strl.export import files

    monkeypatch.setattr(files, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(StrlTypeError, match=rf"needs \['{missing}'\].*sb3_strl\[export\]"):
        export_policy(make_policy("MlpPolicy"), tmp_path)


def test_a_mutex_policy_needs_an_environment(tmp_path: Path) -> None:
    from tests.export.test_mutex import make_mutex

    with pytest.raises(StrlValueError, match=r"observations cannot be invented. Expected env"):
        export_policy(make_mutex(), tmp_path)
