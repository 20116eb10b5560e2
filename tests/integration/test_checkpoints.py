"""Saving: whole or not at all, at any moment, and readable without what trained it."""

import inspect
import os
import signal
import subprocess
import sys
import time
import typing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_strl import APPO, PPO
from sb3_strl.algorithms.ppo_kwargs import PPOKwargs
from tests.envs.toy import PointMass

pytestmark = pytest.mark.integration

SMALL = {"n_steps": 8, "n_epochs": 2, "seed": 0, "policy_kwargs": {"net_arch": [16]}}


def equal(first: PPO, second: PPO) -> bool:
    pairs = zip(
        first.policy.state_dict().values(), second.policy.state_dict().values(), strict=True
    )
    return all(th.equal(a, b) for a, b in pairs)


def test_a_checkpoint_from_the_middle_of_a_rollout_resumes_bit_for_bit(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", PointMass(6), **SMALL)
    # Step 21 is the fifth of the third rollout.
    model.learn(8 * 6 * 5, callback=CheckpointCallback(21, str(tmp_path), name_prefix="m"))
    resumed = PPO.load(tmp_path / "m_126_steps.zip", env=PointMass(6, seed=7))
    resumed.learn(8 * 6 * 3, reset_num_timesteps=False)
    assert resumed.num_timesteps == model.num_timesteps == 8 * 6 * 5
    assert equal(model, resumed)


def test_a_model_predicts_without_environment(tmp_path: Path) -> None:
    model = APPO("EncoderAmpPolicy", PointMass(6), **SMALL)
    model.learn(48)
    model.save(tmp_path / "model")
    loaded = APPO.load(tmp_path / "model")
    obs = model.env.reset()
    expected, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    tensors = {key: th.as_tensor(value) for key, value in obs.items()}
    given, _ = loaded.predict(tensors, deterministic=True)
    assert isinstance(given, th.Tensor)
    assert np.allclose(given.numpy(), expected)
    with pytest.raises(ValueError, match="no environment to train on"):
        loaded.learn(48)


def test_another_number_of_environments(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", PointMass(6), **SMALL)
    model.learn(48)
    model.save(tmp_path / "model")
    other = PPO.load(tmp_path / "model", env=PointMass(3))
    with pytest.warns(UserWarning, match="episodes start anew"):
        other.learn(24, reset_num_timesteps=False)
    assert other.num_timesteps == 48 + 24


def test_rates_of_the_adaptive_schedule_survive(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", PointMass(6), schedule="adaptive", **SMALL)
    model.learn(48 * 3)
    assert model.current_lr != pytest.approx(1e-3)
    model.save(tmp_path / "model")
    assert PPO.load(tmp_path / "model").current_lr == model.current_lr


def test_only_one_side_has_a_scheduler(tmp_path: Path) -> None:
    PPO("MlpPolicy", PointMass(2), **SMALL).save(tmp_path / "plain")
    options = {"lr_scheduler_class": "StepLR", "lr_scheduler_kwargs": {"step_size": 1}}
    with pytest.warns(UserWarning, match="only the model has a learning-rate scheduler"):
        PPO.load(tmp_path / "plain", **options)
    PPO("MlpPolicy", PointMass(2), **options, **SMALL).save(tmp_path / "scheduled")
    with pytest.warns(UserWarning, match="only the file has a learning-rate scheduler"):
        PPO.load(tmp_path / "scheduled", lr_scheduler_class=None)


SLOW_SAVE = """
import sys, time
import torch as th
th.set_num_threads(1)
from stable_baselines3.common import base_class
from sb3_strl import PPO
from tests.envs.toy import PointMass
whole = base_class.save_to_zip_file
def slow(stream, **parts):
    stream.write(b"half a file")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
base_class.save_to_zip_file = slow
PPO("MlpPolicy", PointMass(2), n_steps=4).save(sys.argv[1])
"""


def test_a_kill_in_mid_save_leaves_the_previous_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    PPO("MlpPolicy", PointMass(2), **SMALL).save(target)
    before = target.read_bytes()
    command = [sys.executable, "-c", SLOW_SAVE, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert target.read_bytes() == before
    assert PPO.load(target).num_timesteps == 0


def test_a_full_disk_leaves_the_previous_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PPO("MlpPolicy", PointMass(2), **SMALL)
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()

    def full(stream, **parts) -> None:
        stream.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stable_baselines3.common.base_class.save_to_zip_file", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    assert (tmp_path / "model.zip").read_bytes() == before


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    PPO("MlpPolicy", PointMass(2), **SMALL).save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "broken.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole model file"):
        PPO.load(tmp_path / "broken")


def test_tensors_in_the_file_need_no_pickle(tmp_path: Path) -> None:
    model = APPO("AmpPolicy", PointMass(2), amp_replay_size=8, schedule="adaptive", **SMALL)
    model.learn(32)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        for name in names:
            with archive.open(name) as file:
                th.load(file, weights_only=True)
    assert {"policy.pth", "motion_prior.optimizer.pth", "training_state.pth"} <= set(names)


class Zeros:
    """An expert that does not travel with the file."""

    def sample_features(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.zeros(n, int(np.prod(PointMass(1).observation_space["ref_obs"].shape)))


def test_an_expert_source_has_to_be_given_again(tmp_path: Path) -> None:
    source = Zeros()
    APPO("AmpPolicy", PointMass(2), expert_source=source, **SMALL).save(tmp_path / "model")
    assert APPO.load(tmp_path / "model").expert_kind == "Zeros"
    with pytest.raises(ValueError, match="trained with a Zeros as expert"):
        APPO.load(tmp_path / "model", env=PointMass(2))
    APPO.load(tmp_path / "model", env=PointMass(2), expert_source=source).learn(16)
    late = APPO.load(tmp_path / "model")
    with pytest.raises(ValueError, match="trained with a Zeros as expert"):
        late.set_env(PointMass(2))
    with pytest.raises(ValueError, match="no environment to train on"):
        late.learn(16)
    APPO.load(tmp_path / "model", env=PointMass(2), expert_kind="env").learn(16)


def test_the_typed_keywords_are_those_of_the_constructor() -> None:
    parameters = inspect.signature(PPO.__init__).parameters
    names = set(parameters) - {"self", "policy", "env", "_init_setup_model"}
    assert names == set(typing.get_type_hints(PPOKwargs))
