"""DAgger in two processes: one trains, this one drives and asks the teacher."""

from __future__ import annotations

import json
import re
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Unpack

from sb3_strl.callbacks.driver import PolicySource, TensorDriver, make_driver
from sb3_strl.callbacks.recorder import DemonstrationRecorder, RecorderKwargs
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.schedules import get_prob_func
from sb3_strl.common.types import TensorDict
from sb3_strl.envs.replay import TEACHER_FIELD
from sb3_strl.policies import load_policy

FROM_TEACHER = "from_teacher"
"""Field that says whether the teacher drove."""

_NUMBER = re.compile(r"(\d+)(?=\D*$)")


class NewestStudent:
    """
    The newest checkpoint of a training that goes on elsewhere.

    Newest is the file that was written last. One that cannot be read, because it is still being
    written or copied, is tried again; after the last attempt the present student stays until the
    folder holds another file.

    :param folder: where the training writes ``*.zip``, need not exist yet
    :param device: where the policy goes
    :param attempts: to read one file, > 0
    :param interval: seconds between two of them
    :raises StrlValueError: if a number makes no sense
    """

    def __init__(
        self,
        folder: str | Path,
        device: th.device,
        attempts: int = 10,
        interval: float = 0.5,
    ) -> None:
        if attempts < 1 or interval < 0:
            raise StrlValueError(
                f"DaggerCollector: load_attempts={attempts}, load_interval={interval}. Expected at "
                "least one attempt and no negative time."
            )
        self.folder = Path(folder)
        self.device = device
        self.attempts, self.interval = attempts, interval
        self.path: Path | None = None
        self.n_updates = 0
        self._seen: tuple[Path, int, int] | None = None

    def find(self) -> tuple[Path, int, int] | None:
        """Return the newest file, when it was written and how large it is."""
        if not self.folder.is_dir():
            return None
        found = []
        for path in self.folder.glob("*.zip"):
            try:
                status = path.stat()
            except FileNotFoundError:  # the training cleans up
                continue
            if not path.name.startswith("."):
                found.append((status.st_mtime_ns, _number(path), path, status.st_size))
        if not found:
            return None
        newest = max(found)
        return newest[2], newest[0], newest[3]

    def load(self) -> BasePolicy | None:
        """
        Return the newest policy, or ``None`` if there is nothing newer than the last one.

        :return: in evaluation mode
        """
        error: Exception | None = None
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.interval)
            newest = self.find()
            if newest is None or newest == self._seen:
                return None
            try:
                n_updates = _n_updates(newest[0])
                policy = load_policy(newest[0], self.device)
            except (StrlValueError, StrlTypeError, OSError) as problem:
                error = problem
                continue
            policy.set_training_mode(False)
            self.path, self.n_updates, self._seen = newest[0], n_updates, newest
            return policy
        self._seen = self.find()
        warnings.warn(
            f"DaggerCollector: the newest student cannot be read after {self.attempts} attempts: "
            f"{error} The one before goes on.",
            stacklevel=3,
        )
        return None


def _number(path: Path) -> int:
    match = _NUMBER.search(path.stem)
    return int(match.group(1)) if match else -1


def _n_updates(path: Path) -> int:
    """Return how many updates a model has seen: its own count, or else the number in its name."""
    if not zipfile.is_zipfile(path):
        raise StrlValueError(f"{path} is no whole archive. Expected a model of this library.")
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data")) if "data" in archive.namelist() else {}
    count = data.get("n_iterations") if isinstance(data, dict) else None
    return count if isinstance(count, int) else max(_number(path), 0)


class DaggerCollector(DemonstrationRecorder):
    r"""
    Collects what a teacher would do in the states that a student reaches (Ross et al. 2011,
    https://arxiv.org/abs/1011.0686), while the student is being trained elsewhere.

    An episode is driven by the teacher with probability p(k), decided at its start; k is the number
    of updates that the student has seen. Before every ``rollout_storage_length`` steps the newest
    checkpoint is read; until there is one the teacher drives.

    The dataset holds what was executed as ``actions``, which its rewards belong to, the label as
    ``teacher_actions`` and who drove as ``from_teacher``. :class:`~sb3_strl.algorithms.TPPO` with
    ``pretrain_dataset`` uses the labels; ``read_rollouts(folder, actions="teacher_actions")``
    returns them as demonstrations.

    :param env: a tensor environment, or any ``VecEnv`` of Stable-Baselines3
    :param policy: the teacher, as in :class:`DemonstrationRecorder`; it is always the label
    :param save_dir: folder of the dataset
    :param training_policy_logdir: folder in which the training writes models of this library, e.g.
        with ``CheckpointCallback``; need not exist yet
    :param teacher_act_prob: p(k): ``"linear"``, ``"exp"``, ``"tanh"``, a number in [0, 1], or a
        function of k
    :param update_times_scale: s of the schedules, in updates
    :param action_sample_std: standard deviation of the student's actions around its mode; 0 leaves
        its own distribution
    :param log_to_tensorboard: write the log to ``save_dir/log``, too
    :param load_attempts: to read a checkpoint that is being written
    :param load_interval: seconds between two of them
    :param recorder_kwargs: see :class:`DemonstrationRecorder`; ``seed`` is also that of the drivers
    :raises StrlTypeError: if the teacher cannot act, or the schedule is unknown
    :raises StrlValueError: for options that cannot work
    """

    def __init__(
        self,
        env: VecEnv,
        policy: PolicySource,
        save_dir: str | Path,
        training_policy_logdir: str | Path,
        teacher_act_prob: str | float | Callable[[int], float] = "exp",
        update_times_scale: float = 5000,
        action_sample_std: float = 0.0,
        log_to_tensorboard: bool = False,
        *,
        load_attempts: int = 10,
        load_interval: float = 0.5,
        **recorder_kwargs: Unpack[RecorderKwargs],
    ) -> None:
        self.act_prob = get_prob_func(teacher_act_prob, update_times_scale)
        if action_sample_std < 0 or (
            action_sample_std > 0 and not isinstance(env.action_space, spaces.Box)
        ):
            raise StrlValueError(
                f"DaggerCollector: action_sample_std is {action_sample_std} and the actions are "
                f"{env.action_space}. Expected no negative number, and 0 unless actions are a Box."
            )
        super().__init__(env, policy, save_dir, **recorder_kwargs)
        self.newest = NewestStudent(
            training_policy_logdir, self.env.device, load_attempts, load_interval
        )
        self.action_sample_std = action_sample_std
        self.student: TensorDriver | None = None
        self.use_teacher = th.ones_like(self._starts)
        self.generator = th.Generator(self.env.device)
        self.generator.manual_seed(th.initial_seed() % 2**63 if self.seed is None else self.seed)
        self.logger: Logger | None = None
        if log_to_tensorboard:
            self.logger = configure(str(self.writer.save_dir / "log"), ["tensorboard"])

    def decide(self, obs: TensorDict, starts: th.Tensor) -> tuple[th.Tensor, TensorDict]:
        """
        Let teacher or student act; the label is the teacher's in both cases.

        :param obs: groups ``(N, ...)``
        :param starts: ``(N,)``, who begins an episode
        :return: what is executed, and the fields ``teacher_actions`` and ``from_teacher``
        """
        label = self.driver.act(obs, starts, deterministic=not self.demo_by_sample)
        if self.student is None:
            self.use_teacher = th.ones_like(starts)
            actions = label
        else:
            draws = th.rand(starts.shape, generator=self.generator, device=starts.device)
            drawn = draws < self.act_prob(self.newest.n_updates)
            self.use_teacher = th.where(starts, drawn, self.use_teacher)
            own = self._student_actions(self.student, obs, starts)
            rows = self.use_teacher.view(-1, *[1] * (label.ndim - 1))
            actions = th.where(rows, label.to(own.dtype), own)
        return actions, {TEACHER_FIELD: label, FROM_TEACHER: self.use_teacher}

    def _student_actions(
        self, student: TensorDriver, obs: TensorDict, starts: th.Tensor
    ) -> th.Tensor:
        if not self.action_sample_std:
            return student.act(obs, starts, deterministic=False)
        mode = student.act(obs, starts, deterministic=True)
        noise = th.randn(mode.shape, generator=self.generator, device=mode.device)
        return student.bounded(mode + self.action_sample_std * noise)

    def check_stop(self) -> bool:
        """Return whether there is enough; take the newest student if there is not."""
        self._log()
        if super().check_stop():
            return True
        self.reload()
        return False

    def reload(self) -> bool:
        """
        Take the newest student.

        Its memory goes on from what the one before remembered, if that has the same shape.

        :return: whether there was a newer one
        """
        policy = self.newest.load()
        if policy is None:
            return False
        where = f"{self.where}: student {self.newest.path}"
        driver = make_driver(where, policy, self.env)
        if not isinstance(driver, TensorDriver):
            raise StrlTypeError(
                f"{where}: it is a {type(policy).__name__}, which does not act on tensors. "
                "Expected a policy of this library."
            )
        if self.student is not None and _shapes(driver.state) == _shapes(self.student.state):
            driver.state = self.student.state
        self.student = driver
        return True

    def log_values(self) -> dict[str, float]:
        """Return what the recorder logs, and who drives."""
        values = super().log_values()
        values["dagger/student_updates"] = self.newest.n_updates
        values["dagger/teacher_act_prob"] = (
            1.0 if self.student is None else float(self.act_prob(self.newest.n_updates))
        )
        values["dagger/teacher_fraction"] = float(self.use_teacher.float().mean())
        return values

    def _log(self) -> None:
        if self.logger is None:
            return
        for key, value in self.log_values().items():
            self.logger.record(key, value)
        self.logger.dump(self.num_timesteps)

    def close(self) -> None:
        """Write what is left; see the recorder."""
        try:
            super().close()
        finally:
            if self.logger is not None:
                self.logger.close()


def _shapes(tree: Any) -> Any:
    """Return the structure of a memory with shapes in place of tensors."""
    if isinstance(tree, th.Tensor):
        return tuple(tree.shape)
    if isinstance(tree, tuple):
        return [_shapes(branch) for branch in tree]
    return None
