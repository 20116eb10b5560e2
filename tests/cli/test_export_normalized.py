"""Models trained behind VecNormalize, as rl_zoo3 leaves them: statistics are never forgotten."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_strl import PPO
from sb3_strl.cli.main import main
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.data import read_rollouts
from sb3_strl.export import export_policy

FORMATS = ("--formats", "torchscript", "--steps", "10")


def configure(file: Path, normalize: Any) -> None:
    """Write what rl_zoo3 writes beside the statistics."""
    pairs = [("n_steps", 64), ("normalize", normalize), ("policy", "MlpPolicy")]
    file.with_name("config.yml").write_text(yaml.dump(OrderedDict(pairs)))


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    """Return vecnormalize.pkl in the layout of rl_zoo3; the model lies above it."""
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=2.0)
    model = PPO("MlpPolicy", venv, n_steps=64, policy_kwargs={"net_arch": [8]})
    model.learn(64)
    model.save(tmp_path / "Pendulum-v1.zip")
    file = tmp_path / "Pendulum-v1" / "vecnormalize.pkl"
    file.parent.mkdir()
    venv.save(str(file))
    configure(file, True)
    return file


def command(name: str, statistics: Path, *options: str) -> int:
    model = str(statistics.parents[1] / "Pendulum-v1.zip")
    out = str(statistics.parents[1] / "out")
    more: dict[str, list[str]] = {
        "export": ["--out", out, *FORMATS],
        "evaluate": ["--env", "Pendulum-v1", "--episodes", "1", "--quiet"],
        "play": ["--env", "Pendulum-v1", "--steps", "2", "--quiet", "--out", f"{out}.gif"],
        "collect": [
            *("--env", "Pendulum-v1", "--steps", "40", "--n-envs", "2", "--quiet"),
            *("--out", out),
        ],
    }
    return main([name, model, *more[name], *options])


@pytest.mark.parametrize("name", ["export", "evaluate", "play", "collect"])
def test_statistics_that_lie_there_are_not_forgotten(
    name: str, statistics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "play":
        pytest.importorskip("PIL.Image")
    assert command(name, statistics) == 1
    text = capsys.readouterr().err
    assert f"--vec-normalize {statistics}" in text
    assert "--vec-normalize none" in text
    assert not (statistics.parents[1] / "out").exists()


def test_the_file_that_is_named_is_folded_in(statistics: Path) -> None:
    assert command("export", statistics, "--vec-normalize", str(statistics)) == 0
    out = statistics.parents[1] / "out"
    metadata = json.loads((out / "metadata.json").read_text())
    described = metadata["normalizer"]["vec_normalize"]["policy"]
    assert described["clip"] == 2.0
    assert len(described["mean"]) == 3
    given = ["--vec-normalize", str(statistics), "--prove-in-env", "--env", "Pendulum-v1"]
    assert command("export", statistics, *given) == 0
    assert command("export", statistics, "--vec-normalize", "none") == 0
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["normalizer"] == {"inside": False}


def test_python_takes_the_file_too(statistics: Path, tmp_path: Path) -> None:
    model = tmp_path / "Pendulum-v1.zip"
    export_policy(model, tmp_path / "a", ["torchscript"], vec_normalize=statistics)
    metadata = json.loads((tmp_path / "a" / "metadata.json").read_text())
    assert metadata["normalizer"]["inside"] is True
    with pytest.raises(StrlValueError, match=r"there is no file 'none.pkl'"):
        export_policy(model, tmp_path / "b", vec_normalize="none.pkl")
    with pytest.raises(StrlValueError, match=r"cannot be read .*Expected what VecNormalize.save"):
        export_policy(model, tmp_path / "b", vec_normalize=statistics.with_name("config.yml"))


def test_statistics_of_other_observations_are_refused(statistics: Path, tmp_path: Path) -> None:
    cart = PPO("MlpPolicy", "CartPole-v1", n_steps=8)
    with pytest.raises(StrlValueError, match=r"\(3,\)\}, but the policy observes .*\(4,\)"):
        export_policy(cart, tmp_path / "a", vec_normalize=statistics)


def test_the_environment_is_normalised_and_its_rewards_are_not(
    statistics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", statistics, "--vec-normalize", str(statistics)) == 0
    mean = float(capsys.readouterr().out.split("return")[1].split()[0])
    assert mean < -100.0  # of Pendulum; normalised rewards do not go beyond 10 times 200 steps
    before = statistics.read_bytes()
    assert command("collect", statistics, "--vec-normalize", str(statistics)) == 0
    trajectory = next(read_rollouts(statistics.parents[1] / "out"))
    obs: Any = trajectory.obs
    seen = np.asarray(obs["policy"] if isinstance(obs, dict) else obs)
    # Raw angular velocities are up to 8, cosine and sine make a circle.
    assert np.abs(seen).max() <= 2.0
    assert not np.allclose(np.hypot(seen[:, 0], seen[:, 1]), 1.0, atol=0.05)
    assert statistics.read_bytes() == before


@pytest.mark.parametrize(
    ("normalize", "code"),
    [
        ({"norm_obs": False, "norm_reward": True}, 0),
        ("dict(norm_obs=False, norm_reward=True)", 0),
        ("{'norm_obs': False}", 0),
        (False, 0),
        ({"norm_reward": False}, 1),
        ("dict(norm_obs=open('x'))", 1),
        (None, 1),
    ],
)
def test_statistics_of_rewards_alone_are_no_nuisance(
    normalize: Any, code: int, statistics: Path
) -> None:
    configure(statistics, normalize)
    assert command("evaluate", statistics) == code


@pytest.mark.parametrize("text", ["", "normalize: [", "!!python/object/apply:os.getcwd []", None])
def test_what_cannot_be_read_says_nothing(text: str | None, statistics: Path) -> None:
    file = statistics.with_name("config.yml")
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert command("evaluate", statistics) == 1


def test_statistics_of_sb3s_checkpoints_are_found(
    statistics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = statistics.parents[1]
    (folder / "Pendulum-v1.zip").rename(folder / "rl_model_64_steps.zip")
    statistics.rename(folder / "rl_model_vecnormalize_64_steps.pkl")
    given = ["--env", "Pendulum-v1", "--episodes", "1", "--quiet"]
    assert main(["evaluate", str(folder / "rl_model_64_steps.zip"), *given]) == 1
    assert "rl_model_vecnormalize_64_steps.pkl" in capsys.readouterr().err


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    from stable_baselines3.common.save_util import save_to_pkl

    save_to_pkl(tmp_path / "x.pkl", {"mean": 0.0})
    cart = PPO("MlpPolicy", "CartPole-v1", n_steps=8)
    with pytest.raises(StrlTypeError, match=r"x\.pkl holds a dict. Expected"):
        export_policy(cart, tmp_path / "a", vec_normalize=tmp_path / "x.pkl")
