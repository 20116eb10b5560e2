"""``strl migrate``, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml

from sb3_strl import PPO, make_vec
from sb3_strl.cli.config import TrainConfig, read_yaml
from sb3_strl.cli.main import main
from sb3_strl.policies import load_policy
from tests.migrate.test_strl import RELEASED

PENDULUM: dict[str, Any] = {
    "num_steps_per_env": 8, "max_iterations": 3, "num_envs": 16, "seed": 5,
    "policy": {
        "class_name": "ActorCritic", "actor_hidden_dims": [7], "critic_hidden_dims": [6],
        "activation": "elu",
    },
    "algorithm": {"class_name": "PPO", "num_mini_batches": 4, "entropy_coef": 0.01},
    "logger": "wandb",
}  # fmt: skip


def write(folder: Path, config: Any = PENDULUM) -> Path:
    path = folder / "agent.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def checkpoint(folder: Path) -> tuple[Path, dict[str, th.Tensor]]:
    state = {
        "actor.0.weight": th.randn(7, 3), "actor.0.bias": th.randn(7),
        "actor.2.weight": th.randn(1, 7), "actor.2.bias": th.randn(1),
        "critic.0.weight": th.randn(6, 3), "critic.0.bias": th.randn(6),
        "critic.2.weight": th.randn(1, 6), "critic.2.bias": th.randn(1), "std": th.ones(1),
    }  # fmt: skip
    path = folder / "model_2.pt"
    th.save({"model_state_dict": state, "iter": 2, "optimizer_state_dict": {}}, path)
    return path, state


def test_the_released_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, RELEASED), tmp_path / "out"
    assert main(["migrate", str(path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "algorithm.clip_param" in said
    assert {file.name for file in out.iterdir()} == {"config.yml", "zoo.yml", "report.txt"}
    assert (out / "report.txt").read_text().strip() in said
    config = TrainConfig.from_dict(read_yaml(out / "config.yml"))
    assert (config.algorithm, config.policy, config.n_envs) == ("appo", "AmpLstmPolicy", 4096)
    (zoo,) = yaml.safe_load((out / "zoo.yml").read_text()).values()
    assert zoo["n_timesteps"] == 1.96608e9


def test_a_checkpoint(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    file, state = checkpoint(tmp_path)
    given = ["--env", "Pendulum-v1", "--checkpoint", str(file), "--out", str(out)]
    assert main(["migrate", str(path), *given]) == 0
    obs = th.randn(4, 3)
    hidden = th.nn.functional.elu(obs @ state["actor.0.weight"].T + state["actor.0.bias"])
    wanted = hidden @ state["actor.2.weight"].T + state["actor.2.bias"]
    policy: Any = load_policy(out / "model.zip", "cpu")
    assert th.allclose(policy.act({"policy": obs})[0], wanted, atol=1e-6)
    model = PPO.load(out / "model.zip", env=make_vec("Pendulum-v1", 16))
    assert (model.num_timesteps, model.n_minibatches) == (3 * 8 * 16, 4)
    model.learn(8 * 16, reset_num_timesteps=False)
    assert model.n_iterations == 4
    # What it wrote can be trained.
    more = ["--config", str(out / "config.yml"), "--quiet", "--out", str(tmp_path / "more")]
    assert main(["train", *more, "--resume", str(out / "model.zip"), "--steps", "128"]) == 0


def test_rsl_rl_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dist = {"class_name": "GaussianDistribution", "init_std": 0.5}
    config = {
        "actor": {"class_name": "MLPModel", "distribution_cfg": dist}, "critic": {},
        "algorithm": {"class_name": "PPO"}, "obs_groups": {"actor": ["policy"]},
    }  # fmt: skip
    out = tmp_path / "out"
    assert main(["migrate", str(write(tmp_path, config)), "--out", str(out)]) == 0
    assert "rsl_rl -> sb3_strl" in capsys.readouterr().out
    options = read_yaml(out / "config.yml")["hyperparameters"]
    assert options["ent_coef"] == 0.01
    assert options["policy_kwargs"]["distribution_kwargs"] == {"init_std": 0.5}


def test_values_of_a_distribution_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "actor": {"distribution_cfg": {"class_name": "GaussianDistribution", "std_range": "x"}},
        "critic": {}, "algorithm": {"class_name": "PPO"}, "obs_groups": {"actor": ["policy"]},
    }  # fmt: skip
    assert main(["migrate", str(write(tmp_path, config)), "--out", str(tmp_path / "out")]) == 1
    assert "std_range is 'x'. Expected a list of 2 numbers" in capsys.readouterr().err


def test_one_segment_may_be_a_text(tmp_path: Path) -> None:
    policy = PENDULUM["policy"] | {"class_name": "EncoderActorCritic"}
    config = PENDULUM | {"policy": policy | {"encoder_component_names": "scan"}}
    assert main(["migrate", str(write(tmp_path, config)), "--out", str(tmp_path / "out")]) == 0
    options = read_yaml(tmp_path / "out" / "config.yml")["hyperparameters"]
    assert options["policy_kwargs"]["encoder"]["component_names"] == "scan"


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    path = str(write(tmp_path, {**PENDULUM, "num_step_per_env": 2}))
    assert main(["migrate", path, *out]) == 1
    assert "Did you mean 'num_steps_per_env'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["migrate", path, "--lenient", *out]) == 0
    assert main(["migrate", str(tmp_path / "none.yaml"), *out]) == 1
    assert main(["migrate"]) == 2
    assert main(["migrate", path, "--from", "skrl"]) == 2
    good = str(write(tmp_path))
    assert main(["migrate", good, "--checkpoint", "model.pt", *out]) == 1
    assert "needs the environment" in capsys.readouterr().err
    file, _ = checkpoint(tmp_path)
    file.write_bytes(file.read_bytes()[:300])
    given = ["--env", "Pendulum-v1", "--checkpoint", str(file)]
    assert main(["migrate", good, *given, *out]) == 1
    assert "is cut off or damaged" in capsys.readouterr().err


@pytest.mark.parametrize("n_envs", [0, -5])
def test_a_number_of_environments(
    n_envs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["migrate", str(write(tmp_path)), "--n-envs", str(n_envs), *out]) == 1
    assert f"--n-envs is {n_envs}. Expected a whole number > 0" in capsys.readouterr().err
    assert main(["migrate", str(write(tmp_path, PENDULUM | {"num_envs": n_envs})), *out]) == 1
    assert f"num_envs is {n_envs}. Expected a whole number > 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_wants_to_run_something(tmp_path: Path) -> None:
    text = f"seed: !!python/object/apply:os.system ['touch {tmp_path}/mark']\n"
    assert main(["migrate", str(write(tmp_path, text)), "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "mark").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--help"]) == 0
    assert "strl migrate" in capsys.readouterr().out.split("examples:")[1]
