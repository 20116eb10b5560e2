"""
Drive the embedded robot in plain MuJoCo from an exported file: no torch, no sb3_strl.

.. code-block:: shell

    strl train --config examples/walk.yml --out runs/walk
    strl export runs/walk/model.zip --robot examples/walker.yml --out robot
    python examples/sim_to_sim.py robot/model.onnx --seconds 10 --command 1.2

What the robot needs to know is inside of ``model.onnx``: the order of the observation's segments,
the hidden states, the joints, the scale of the actions and the time between two of them. What the
segments *mean* (signs, units) is the environment's, and is written down in :func:`sense`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

Array = npt.NDArray[np.float32]

STANDING_HEIGHT = 0.89  # of the hip, m
FALLEN_HEIGHT, FALLEN_PITCH = 0.6, 1.0  # m, rad
JOINT_VEL_SCALE = 0.1  # joint velocities are observed in units of 10 rad/s


class OnnxPolicy:
    """
    A policy of one robot, with its memory.

    :param path: ``model.onnx`` as ``strl export`` writes it
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise SystemExit(f"sim_to_sim: there is no file {path}. Expected strl export's .onnx.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise SystemExit(f"sim_to_sim: {path} is no ONNX file that runs: {error}") from error
        known = self.session.get_modelmeta().custom_metadata_map
        if "sb3_strl" not in known:
            raise SystemExit(
                f"sim_to_sim: {path} does not say what it is. Write it by strl export."
            )
        self.metadata: dict[str, Any] = json.loads(known["sb3_strl"])
        self.reset()

    def reset(self) -> None:
        """Forget everything, at the start of an episode."""
        self.states: dict[str, npt.NDArray[Any]] = {}
        for state in self.metadata["states"]:
            shape = [1 if size == "n_envs" else size for size in state["shape"]]
            value = np.zeros(shape, state["dtype"])
            if state["initial"] != 0:
                value[...] = np.asarray(state["initial"]).reshape(shape)
            self.states[state["input"]] = value

    def act(self, segments: dict[str, Array]) -> dict[str, Array]:
        """
        Act once.

        :param segments: numbers by segment of the observation
        :return: ``actions`` and, if the file knows the robot, ``targets``
        """
        inputs: dict[str, npt.NDArray[Any]] = dict(self.states)
        for group in self.metadata["inputs"]:
            parts = [np.ravel(segments[part["name"]]) for part in group["segments"]]
            shape = [1, *group["shape"][1:]]
            inputs[group["name"]] = np.concatenate(parts).astype(group["dtype"]).reshape(shape)
        names = self.metadata["outputs"]
        outputs = dict(zip(names, self.session.run(None, inputs), strict=True))
        for state in self.metadata["states"]:
            self.states[state["input"]] = outputs[state["output"]]
        return {name: value[0] for name, value in outputs.items() if name in ("actions", "targets")}


def load_robot() -> mujoco.MjModel:
    """Return the walker's model, found without importing the library."""
    found = find_spec("sb3_strl")
    installed = list(found.submodule_search_locations or ()) if found else []
    beside = Path(__file__).parents[1] / "sb3_strl"  # in a checkout
    folder = Path(installed[0]) if installed else beside
    return mujoco.MjModel.from_xml_path(str(folder / "envs" / "assets" / "walker.xml"))


def check_robot(metadata: dict[str, Any], model: mujoco.MjModel) -> None:
    """
    Refuse a policy of another robot.

    :param metadata: of the policy
    :param model: the robot
    """
    known = metadata["actions"]
    if "offset" not in known or "control_dt" not in metadata["deployment"]:
        raise SystemExit(
            "sim_to_sim: the file has no joint targets or no control_dt. Export with --robot FILE."
        )
    joints = [model.actuator(i).name for i in range(model.nu)]
    if known["order"] != joints:
        raise SystemExit(
            f"sim_to_sim: the policy's joints are {known['order']}. Expected those of this robot, "
            f"{joints}. Name them so under joint_names in the file for --robot."
        )
    none = np.zeros(len(joints), np.float32)
    heard = sense(np.zeros(model.nq), np.zeros(model.nv), none, none, 0.0)
    sizes = {name: value.size for name, value in heard.items()}
    for group in metadata["inputs"]:
        for part in group["segments"]:
            if sizes.get(part["name"]) != part["stop"] - part["start"]:
                raise SystemExit(
                    f"sim_to_sim: the policy observes '{part['name']}' of "
                    f"{part['stop'] - part['start']} numbers. Expected what this robot senses: "
                    f"{sizes}."
                )


def sense(
    qpos: npt.NDArray[Any],
    qvel: npt.NDArray[Any],
    nominal: Array,
    last_action: Array,
    command: float,
) -> dict[str, Array]:
    """
    Return what the robot's sensors say, as the policy was trained to hear it.

    :param qpos: forward, up, pitch, then the joints, m and rad
    :param qvel: likewise, m/s and rad/s
    :param nominal: joint positions that action 0 stands for, rad
    :param last_action: clipped
    :param command: forward velocity, m/s
    """
    pitch = float(qpos[2])
    return {
        "base_ang_vel": np.array([qvel[2]], np.float32),
        "base_orientation": np.array([np.sin(pitch), np.cos(pitch)], np.float32),
        "joint_pos": np.asarray(qpos[3:] - nominal, np.float32),
        "joint_vel": np.asarray(qvel[3:] * JOINT_VEL_SCALE, np.float32),
        "last_action": last_action,
        "command": np.array([command], np.float32),
    }


@dataclass
class Walk:
    """
    What happened.

    :param positions: of the robot at every step, ``(9,)`` each
    :param fell_after: s, ``None`` if it did not
    :param dt: time between two steps, s
    """

    dt: float
    positions: list[npt.NDArray[Any]] = field(default_factory=list)
    fell_after: float | None = None

    @property
    def distance(self) -> float:
        """How far the robot came, m."""
        return float(self.positions[-1][0] - self.positions[0][0])

    @property
    def speed(self) -> float:
        """Mean forward velocity, m/s."""
        return self.distance / (self.dt * max(1, len(self.positions) - 1))


def walk(
    policy: OnnxPolicy,
    command: float,
    seconds: float,
    start: npt.NDArray[Any] | None = None,
) -> Walk:
    """
    Let the robot walk.

    :param policy: of the walker, exported with its joints and scales
    :param command: forward velocity, m/s
    :param seconds: until it is over, or the robot fell
    :param start: positions ``(9,)`` to begin with, default standing
    """
    model = load_robot()
    check_robot(policy.metadata, model)
    known = policy.metadata["actions"]
    dt = float(policy.metadata["deployment"]["control_dt"])
    data = mujoco.MjData(model)
    order = [model.actuator(f"{name}").id for name in known["order"]]
    nominal = np.asarray(known["offset"], np.float32)
    data.qpos[1], data.qpos[3:] = STANDING_HEIGHT, nominal
    if start is not None:
        data.qpos[:] = start
    mujoco.mj_forward(model, data)
    substeps = round(dt / model.opt.timestep)
    last_action = np.zeros(len(order), np.float32)
    result = Walk(dt, [data.qpos.copy()])
    policy.reset()
    for step in range(round(seconds / dt)):
        output = policy.act(sense(data.qpos, data.qvel, nominal, last_action, command))
        last_action = output["actions"]
        data.ctrl[order] = output["targets"]
        for _ in range(substeps):
            mujoco.mj_step(model, data)
        result.positions.append(data.qpos.copy())
        if data.qpos[1] < FALLEN_HEIGHT or abs(data.qpos[2]) > FALLEN_PITCH:
            result.fell_after = (step + 1) * dt
            break
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk and say how far; 1 if the robot fell."""
    parser = argparse.ArgumentParser(description="Drive the walker from an ONNX file alone.")
    parser.add_argument("model", help="model.onnx")
    parser.add_argument("--seconds", type=float, default=10.0, help="default 10")
    parser.add_argument("--command", type=float, default=1.2, help="m/s, default 1.2")
    args = parser.parse_args(arguments)
    result = walk(OnnxPolicy(args.model), args.command, args.seconds)
    print(f"{result.distance:.2f} m in {len(result.positions) - 1} steps: {result.speed:.2f} m/s")
    if result.fell_after is not None:
        print(f"fell after {result.fell_after:.2f} s")
    print(f"torch was {'' if 'torch' in sys.modules else 'not '}imported")
    return int(result.fell_after is not None)


if __name__ == "__main__":
    raise SystemExit(main())
