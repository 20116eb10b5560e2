"""
The zoo's configurations for simulators train on doubles that show what the tasks show.

Groups, terms and widths of mjlab's were printed by mjlab itself (on a CPU), those of Playground's
robots, Isaac Lab's and st_gym's Lus2 are read from their sources, but the width of Lus2's
``privileged_obs``, which is a guess. The physics is noise, and the simulators' adapters are not in
between: what a configuration names is found, what its algorithm needs is there.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

pytest.importorskip("rl_zoo3")

from sb3_strl.cli.zoo_files import zoo_algorithms
from sb3_strl.common.types import TensorDict
from sb3_strl.envs import registration
from sb3_strl.envs.simulator_tasks import split_task
from tests.envs.toy import ToyVecEnv, box
from tests.integration.zoo_tools import TABLES, restore_zoo, train

pytestmark = pytest.mark.integration

Terms = dict[str, int]
Groups = dict[str, Terms | int]


def mjlab_velocity(joints: int, feet: int, scan: int = 0) -> Groups:
    terms = {
        "base_lin_vel": 3,
        "base_ang_vel": 3,
        "projected_gravity": 3,
        "joint_pos": joints,
        "joint_vel": joints,
        "actions": joints,
        "command": 3,
        **({"height_scan": scan} if scan else {}),
    }
    contacts = {"foot_contact": feet, "foot_contact_forces": 3 * feet}
    return {
        "policy": terms,
        "critic": {**terms, "foot_height": feet, "foot_air_time": feet, **contacts},
    }


def isaac_velocity(joints: int, scan: int = 0) -> Groups:
    terms = {
        "base_lin_vel": 3,
        "base_ang_vel": 3,
        "projected_gravity": 3,
        "velocity_commands": 3,
        "joint_pos": joints,
        "joint_vel": joints,
        "actions": joints,
        **({"height_scan": scan} if scan else {}),
    }
    return {"policy": terms}


ISAAC_ANT: Terms = {
    "base_height": 1,
    "base_lin_vel": 3,
    "base_ang_vel": 3,
    "base_yaw_roll": 2,
    "base_angle_to_target": 1,
    "base_up_proj": 1,
    "base_heading_proj": 1,
    "joint_pos_norm": 8,
    "joint_vel_rel": 8,
    "feet_body_forces": 24,
    "actions": 8,
}
LUS2: Terms = {
    "base_ang_vel_b": 3,
    "projected_gravity": 3,
    "joint_pos": 21,
    "joint_vel": 21,
    "last_actions": 21,
    "velocity_commands": 3,
    "expressive_goal_commands": 42,
}
LUS2_CRITIC: Terms = {
    "base_pos_w": 3,
    "base_quat_w": 4,
    "base_lin_vel_b": 3,
    **LUS2,
    "privileged_obs": 100,
}
MJLAB_CARTPOLE: Terms = {"cart_pos": 1, "pole_angle": 2, "cart_vel": 1, "pole_vel": 1}
TASKS: dict[str, tuple[Groups, int]] = {
    "mjlab/Mjlab-Cartpole-Balance": ({"policy": MJLAB_CARTPOLE, "critic": MJLAB_CARTPOLE}, 1),
    "mjlab/Mjlab-Cartpole-Swingup": ({"policy": MJLAB_CARTPOLE, "critic": MJLAB_CARTPOLE}, 1),
    "mjlab/Mjlab-Velocity-Flat-Unitree-Go1": (mjlab_velocity(12, 4), 12),
    "mjlab/Mjlab-Velocity-Rough-Unitree-Go1": (mjlab_velocity(12, 4, scan=187), 12),
    "mjlab/Mjlab-Velocity-Flat-Unitree-G1": (mjlab_velocity(29, 2), 29),
    "mjlab/Mjlab-Velocity-Rough-Unitree-G1": (mjlab_velocity(29, 2, scan=187), 29),
    "isaaclab/Isaac-Cartpole-v0": ({"policy": {"joint_pos_rel": 2, "joint_vel_rel": 2}}, 1),
    "isaaclab/Isaac-Ant-v0": ({"policy": ISAAC_ANT}, 8),
    "isaaclab/Isaac-Velocity-Flat-Anymal-D-v0": (isaac_velocity(12), 12),
    "isaaclab/Isaac-Velocity-Rough-Anymal-D-v0": (isaac_velocity(12, scan=187), 12),
    "isaaclab/Isaac-Velocity-Flat-Unitree-Go2-v0": (isaac_velocity(12), 12),
    "isaaclab/Isaac-Velocity-Rough-Unitree-Go2-v0": (isaac_velocity(12, scan=187), 12),
    "isaaclab/Isaac-Velocity-Flat-G1-v0": (isaac_velocity(37), 37),
    "isaaclab/Flat-Lus2": ({"policy": LUS2, "critic": LUS2_CRITIC}, 21),
    "playground/CartpoleBalance": ({"policy": 5}, 1),
    "playground/CheetahRun": ({"policy": 17}, 6),
    "playground/WalkerWalk": ({"policy": 24}, 6),
    "playground/Go1JoystickFlatTerrain": ({"policy": 48, "critic": 123}, 12),
    "playground/G1JoystickFlatTerrain": ({"policy": 103, "critic": 165}, 29),
}
WITH_MOTION = {"isaaclab/Flat-Lus2": {"ref_obs": (2, 21), "ref_motion": (2, 21)}}
CASES = [(algo, env_id) for algo, table in TABLES.items() for env_id in table if split_task(env_id)]


class Double(ToyVecEnv):
    """A task's observations, as noise; small actions are rewarded."""

    def __init__(self, env_id: str, n_envs: int, device: Any = "cpu", **options: Any) -> None:
        groups, actions = TASKS[env_id]
        widths = {k: sum(v.values()) if isinstance(v, dict) else v for k, v in groups.items()}
        self.shapes = {k: (v,) for k, v in widths.items()} | WITH_MOTION.get(env_id, {})
        space = spaces.Dict({name: box(*shape) for name, shape in self.shapes.items()})
        super().__init__(n_envs, space, box(actions, bound=100.0), device, options.get("seed", 0))
        named = {
            name: {term: (width,) for term, width in terms.items()}
            for name, terms in groups.items()
            if isinstance(terms, dict)
        }
        self.obs_segments = named or None

    def restart(self, mask: th.Tensor) -> None:
        """Nothing begins."""

    def advance(self, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return -actions.square().mean(-1), self.rand() < 0.05

    def observe(self) -> TensorDict:
        return {name: self.rand(*shape) - 0.5 for name, shape in self.shapes.items()}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulators")


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    restore_zoo(monkeypatch)
    for env_id in TASKS:
        made = functools.partial(Double, env_id)
        monkeypatch.setitem(registration._TENSOR_ENTRY_POINTS, env_id, made)


def train_briefly(algo: str, env_id: str) -> Path:
    """Train for an iteration, the teacher before its student."""
    folder = Path("logs") / algo / f"{env_id.replace('/', '-')}_1"
    if folder.is_dir():
        return folder
    options = TABLES[algo][env_id]
    if "teacher" in options:
        train_briefly(Path(options["teacher"]).parts[1], env_id)
    sizes = ["n_envs:16", "n_epochs:1", "n_minibatches:2"]
    steps = str(16 * options["n_steps"])
    train(algo, env_id, Path("logs"), "-n", steps, "--eval-freq", "-1", "-params", *sizes)
    return folder


@pytest.mark.parametrize(("algo", "env_id"), CASES)
def test_a_simulators_configuration_trains_on_its_double(
    algo: str, env_id: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(logs)
    file = train_briefly(algo, env_id) / f"{env_id.replace('/', '-')}.zip"
    loaded = zoo_algorithms()[algo].load(file)
    assert loaded.num_timesteps == 16 * TABLES[algo][env_id]["n_steps"]
    assert loaded._n_updates >= 1
    assert all(bool(np.isfinite(p.detach().numpy()).all()) for p in loaded.policy.parameters())


def test_every_task_has_a_double() -> None:
    assert set(TASKS) == {env_id for _, env_id in CASES}
