"""The robot in plain MuJoCo, driven by the file, moves as in the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml

pytest.importorskip("onnxruntime")
pytest.importorskip("mujoco")

from examples import sim_to_sim
from sb3_strl import APPO
from sb3_strl.cli.main import main as strl
from sb3_strl.envs.walker import WalkerVecEnv
from sb3_strl.export import Deployment, export_policy
from sb3_strl.policies import POLICY_ALIASES, StrlPolicy
from tests.export.robots import shake

ROOT = Path(__file__).parents[2]
ROBOT = yaml.safe_load((ROOT / "examples" / "walker.yml").read_text())
N_STEPS = 30


def exported(alias: str, folder: Path) -> tuple[StrlPolicy, WalkerVecEnv]:
    env = WalkerVecEnv(1, seed=4, domain_randomization=False, rsi_prob=0.0)
    th.manual_seed(1)
    kwargs = {"rnn": {"hidden_size": 6}} if "Lstm" in alias else {}
    policy = POLICY_ALIASES[alias](
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        net_arch=[16],
        empirical_normalization=True,
        obs_segments=env.obs_segments,
        **kwargs,
    )
    shake(policy)
    export_policy(policy, folder, formats=["onnx"], deployment=Deployment(**ROBOT))
    return policy, env


@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpLstmPolicy"])
def test_plain_mujoco_moves_as_the_environment(alias: str, tmp_path: Path) -> None:
    policy, env = exported(alias, tmp_path)
    obs = env.reset_tensor()
    command = float(obs["policy"][0, -1])
    expected, state = [env.physics.state[0, 1:10].copy()], None
    for _ in range(N_STEPS):
        actions, state = policy.predict(obs, state, deterministic=True)
        step = env.step_tensor(actions)
        if bool(step.terminated[0]):
            break
        obs = step.obs
        expected.append(env.physics.state[0, 1:10].copy())
    robot = sim_to_sim.OnnxPolicy(tmp_path / "model.onnx")
    result = sim_to_sim.walk(robot, command, (len(expected) - 1) * 0.02, start=expected[0])
    assert len(expected) > 10
    assert len(result.positions) == len(expected)
    moved = np.abs(np.diff(expected, axis=0)).max()
    assert moved > 1e-2
    assert np.allclose(result.positions, expected, atol=1e-3)


def test_the_program_needs_no_torch(tmp_path: Path) -> None:
    exported("MlpPolicy", tmp_path)
    command = [sys.executable, "examples/sim_to_sim.py", str(tmp_path / "model.onnx")]
    command += ["--seconds", "0.2"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (0, 1), done.stderr
    assert "torch was not imported" in done.stdout


def test_the_three_commands_of_the_example(tmp_path: Path) -> None:
    run, robot = tmp_path / "walk", tmp_path / "robot"
    given = ["--config", str(ROOT / "examples" / "walk.yml"), "--n-envs", "4", "--steps", "96"]
    assert strl(["train", *given, "--quiet", "--out", str(run)]) == 0
    model = APPO.load(run / "model.zip")
    assert (model.gamma, model.schedule) == (0.97, "adaptive")
    file = str(ROOT / "examples" / "walker.yml")
    assert strl(["export", str(run / "model.zip"), "--robot", file, "--out", str(robot)]) == 0
    result = sim_to_sim.walk(sim_to_sim.OnnxPolicy(robot / "model.onnx"), 1.2, 0.1)
    assert len(result.positions) == 6


def test_the_robots_file_is_the_environments() -> None:
    env = WalkerVecEnv(1, seed=0)
    assert ROBOT["joint_names"] == [sim_to_sim.load_robot().joint(i).name for i in range(3, 9)]
    assert np.allclose(ROBOT["action_scale"], env._scale)
    assert np.allclose(ROBOT["action_offset"], env._nominal)
    assert ROBOT["control_dt"] == pytest.approx(env.dt)
    gains = sim_to_sim.load_robot().actuator_gainprm[:, 0]
    assert np.allclose(ROBOT["stiffness"], gains)


def test_a_file_without_the_robot_is_refused(tmp_path: Path) -> None:
    env = WalkerVecEnv(1, seed=0)
    policy = POLICY_ALIASES["MlpPolicy"](
        env.observation_space, env.action_space, lambda _: 1e-3, obs_segments=env.obs_segments
    )
    export_policy(policy, tmp_path, formats=["onnx"])
    with pytest.raises(SystemExit, match=r"no joint targets .*Export with --robot"):
        sim_to_sim.walk(sim_to_sim.OnnxPolicy(tmp_path / "model.onnx"), 1.0, 1.0)


def test_what_is_no_policy_of_this_robot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no file .*none\.onnx"):
        sim_to_sim.main([str(tmp_path / "none.onnx")])
    (tmp_path / "text.onnx").write_text("onnx")
    with pytest.raises(SystemExit, match=r"text\.onnx is no ONNX file that runs"):
        sim_to_sim.main([str(tmp_path / "text.onnx")])
    policy, _ = exported("MlpPolicy", tmp_path)
    names = [f"arm_{i}" for i in range(6)]
    export_policy(
        policy, tmp_path, ["onnx"], deployment=Deployment(**{**ROBOT, "joint_names": names})
    )
    with pytest.raises(SystemExit, match=r"joints are \['arm_0'.*Expected those of this robot"):
        sim_to_sim.main([str(tmp_path / "model.onnx")])
    robot = sim_to_sim.OnnxPolicy(tmp_path / "model.onnx")
    robot.metadata["actions"]["order"] = ROBOT["joint_names"]
    robot.metadata["inputs"][0]["segments"][0]["name"] = "lidar"
    with pytest.raises(SystemExit, match=r"observes 'lidar' of 1 numbers. Expected what this"):
        sim_to_sim.walk(robot, 1.0, 1.0)
