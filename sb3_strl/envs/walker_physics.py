"""Many planar walkers stepped by MuJoCo's multi-threaded batch, and their randomised models."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
import torch as th
from mujoco import rollout

from sb3_strl.common.errors import StrlValueError

FloatArray = npt.NDArray[np.float64]

MODEL_PATH = Path(__file__).parent / "assets" / "walker.xml"

# Layout of MuJoCo's full physics state: time, positions, velocities.
N_STATE = 19
POS = slice(1, 10)
VEL = slice(10, 19)
N_JOINTS = 6
N_DOF = 9
N_SENSORS = 8
_BROKEN = 1e6  # beyond this the integration has diverged, whatever the unit


@dataclass(frozen=True, kw_only=True)
class DomainRandomization:
    """
    What differs from robot to robot and what disturbs it; every range is uniform.

    :param n_models: size of the pool of randomised models that the robots draw from at each reset
    :param friction: range of the sole's sliding friction
    :param added_mass: range of the mass added to the torso, kg
    :param motor_strength: range of the factor on gains and torque limits of all motors
    :param push_interval: mean time between two pushes, s; 0 switches them off
    :param push_velocity: largest change of the forward velocity by a push, m/s
    :param noise_base_ang_vel: amplitude of the noise on the pitch velocity, rad/s
    :param noise_pitch: amplitude of the noise on the pitch, rad
    :param noise_joint_pos: amplitude of the noise on joint positions, rad
    :param noise_joint_vel: amplitude of the noise on joint velocities, rad/s
    :raises StrlValueError: if a range is empty or a value is out of bounds
    """

    n_models: int = 32
    friction: tuple[float, float] = (0.6, 1.2)
    added_mass: tuple[float, float] = (-3.0, 6.0)
    motor_strength: tuple[float, float] = (0.9, 1.1)
    push_interval: float = 4.0
    push_velocity: float = 0.3
    noise_base_ang_vel: float = 0.1
    noise_pitch: float = 0.02
    noise_joint_pos: float = 0.01
    noise_joint_vel: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = self.__dict__[field.name]
            if isinstance(value, tuple):
                ok = len(value) == 2 and np.isfinite(value).all() and value[0] <= value[1]
                wanted = "a pair (low, high) of finite numbers with low <= high"
            else:
                ok, wanted = np.isfinite(value) and value >= 0, "a finite number >= 0"
            if not ok:
                raise StrlValueError(
                    f"DomainRandomization: {field.name} is {value}. Expected {wanted}."
                )
        if self.n_models < 1:
            raise StrlValueError("DomainRandomization: n_models is 0. Expected at least 1 model.")
        for name, low, least in (
            ("friction", self.friction[0], 0.0),
            ("motor_strength", self.motor_strength[0], 0.0),
            ("added_mass", self.added_mass[0], -20.0),
        ):
            if low < least:
                raise StrlValueError(
                    f"DomainRandomization: {name} begins at {low}. Expected at least {least:g}."
                )

    @classmethod
    def off(cls) -> DomainRandomization:
        """Return the configuration in which all robots are alike and nothing disturbs them."""
        return cls(
            n_models=1,
            friction=(0.9, 0.9),
            added_mass=(0.0, 0.0),
            motor_strength=(1.0, 1.0),
            push_interval=0.0,
            push_velocity=0.0,
            noise_base_ang_vel=0.0,
            noise_pitch=0.0,
            noise_joint_pos=0.0,
            noise_joint_vel=0.0,
        )


class ModelPool:
    """
    Compiled models that differ in friction, torso mass and motor strength.

    Compiling or changing a model costs a thousand times a step, so the variants are made once and
    robots draw one of them at each reset.

    :param n_models: number of variants
    """

    def __init__(self, n_models: int) -> None:
        self._nominal = mujoco.MjModel.from_xml_path(str(MODEL_PATH))
        self._scratch = mujoco.MjData(self._nominal)
        copies = [copy.copy(self._nominal) for _ in range(n_models)]
        # An object array hands out the models of all robots in one indexing operation.
        self.models: npt.NDArray[Any] = np.empty(n_models, dtype=object)
        self.models[:] = copies
        self.params = th.zeros(n_models, 3)
        self.weight = float(self._nominal.body_subtreemass[0]) * 9.81
        self.timestep = float(self._nominal.opt.timestep)

    def set_params(self, params: th.Tensor) -> None:
        """
        Make the variants.

        :param params: ``(n_models, 3)``: sliding friction, added mass in kg, motor strength
        """
        self.params = params.to(th.float32)
        nominal = self._nominal
        soles = nominal.geom_priority == 1
        torso = nominal.body("torso").id
        for model, (friction, added_mass, strength) in zip(
            self.models, self.params.double().numpy(), strict=True
        ):
            model.geom_friction[soles, 0] = friction
            ratio = 1.0 + added_mass / nominal.body_mass[torso]
            model.body_mass[torso] = nominal.body_mass[torso] * ratio
            model.body_inertia[torso] = nominal.body_inertia[torso] * ratio
            model.actuator_gainprm[:] = nominal.actuator_gainprm * strength
            model.actuator_biasprm[:] = nominal.actuator_biasprm * strength
            model.actuator_forcerange[:] = nominal.actuator_forcerange * strength
            mujoco.mj_setConst(model, self._scratch)


class WalkerPhysics:
    """
    The state of ``n_envs`` walkers and the C++ batch that advances it.

    One call of :meth:`step` advances all robots by ``decimation`` physics steps on a persistent
    pool of threads. The acceleration of the last physics step is the next call's warm start, so
    the next state depends on nothing but ``state``, ``warmstart``, the models and the targets.

    :param n_envs: number of robots
    :param decimation: physics steps per call
    :param n_threads: size of the pool; None takes the processors of this process, 0 or 1 steps on
        the calling thread
    :param n_models: size of the pool of models
    """

    def __init__(self, n_envs: int, decimation: int, n_threads: int | None, n_models: int) -> None:
        self.pool = ModelPool(n_models)
        self.dt = self.pool.timestep * decimation
        self._decimation = decimation
        if n_threads is None:
            n_threads = _available_threads()
        # A handful of robots is stepped sooner than a pool wakes up.
        n_threads = 0 if n_threads <= 1 or n_envs < 8 else n_threads
        self._rollout: rollout.Rollout | None = rollout.Rollout(nthread=n_threads)
        self._data = [mujoco.MjData(self.pool.models[0]) for _ in range(max(1, n_threads))]
        self._chunk = max(1, n_envs // (4 * max(1, n_threads)))
        self.state: FloatArray = np.zeros((n_envs, N_STATE))
        self.warmstart: FloatArray = np.zeros((n_envs, N_DOF))
        self._targets: FloatArray = np.zeros((n_envs, decimation, N_JOINTS))
        self._states: FloatArray = np.zeros((n_envs, decimation, N_STATE))
        self._sensors: FloatArray = np.zeros((n_envs, decimation, N_SENSORS))
        self.model_ids = np.zeros(n_envs, dtype=np.int64)
        self._models: list[mujoco.MjModel] = []
        self.refresh_models()

    @property
    def contact_forces(self) -> FloatArray:
        """Normal force under the right and the left foot, N: ``(n_envs, 2)``."""
        return self._sensors[:, -1, :2]

    @property
    def torques(self) -> FloatArray:
        """Torques of the motors, N m: ``(n_envs, 6)``."""
        return self._sensors[:, -1, 2:]

    def refresh_models(self) -> None:
        """Look up every robot's model after ``model_ids`` changed."""
        self._models = self.pool.models[self.model_ids].tolist()

    def step(self, targets: FloatArray | npt.NDArray[np.float32]) -> None:
        """
        Advance all robots; a robot whose integration diverges holds NaN afterwards.

        :param targets: ``(n_envs, 6)``, target positions of the motors, rad
        """
        if self._rollout is None:
            raise StrlValueError("WalkerVecEnv.step: the environment is closed. Make a new one.")
        self._targets[:] = targets[:, None]
        self._rollout.rollout(
            self._models,
            self._data,
            self.state,
            self._targets,
            skip_checks=True,
            nstep=self._decimation,
            initial_warmstart=self.warmstart,
            state=self._states,
            sensordata=self._sensors,
            chunk_size=self._chunk,
        )
        single = self._decimation == 1
        before = self.state[:, VEL] if single else self._states[:, -2, VEL]
        np.subtract(self._states[:, -1, VEL], before, out=self.warmstart)
        self.state[:] = self._states[:, -1]
        self.warmstart /= self.pool.timestep
        # max() propagates NaN and the comparison is false for it.
        broken = ~(np.abs(self.state).max(axis=1) < _BROKEN)
        self.state[broken] = np.nan

    def close(self) -> None:
        """Stop the threads."""
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None


def _available_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
