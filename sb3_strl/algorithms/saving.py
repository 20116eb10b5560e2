"""Files that a run continues from: what they hold, written whole or not at all."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Self

from sb3_strl.algorithms.parallel import load_rank, save_rank
from sb3_strl.algorithms.rollout import RolloutCollector
from sb3_strl.algorithms.training_state import RandomState, ResumePoint, TrainingState
from sb3_strl.algorithms.transfer import StateDictTransform, check_parameters, transform_parameters
from sb3_strl.common import distributed
from sb3_strl.common.episode_stats import EpisodeStats
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.files import atomic_file
from sb3_strl.common.types import TensorDict
from sb3_strl.envs import TensorVecEnv
from sb3_strl.objectives.base import Objective
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.loading import add_description


def _is_model(path: Path) -> bool:
    """Tell whether a file is a readable archive with the parts of a model."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"data", "policy.pth"} <= set(archive.namelist())


class SavedAlgorithm(OnPolicyAlgorithm):
    """SB3's on-policy algorithm with exact resume points and atomic saving."""

    policy: StrlPolicy
    training_state: TrainingState
    generator: th.Generator
    tensor_env: TensorVecEnv | None
    episode_stats: EpisodeStats
    collector: RolloutCollector
    objectives: list[Objective]
    lr_scheduler: th.optim.lr_scheduler.LRScheduler | None
    _last_obs: Any  # TensorDict | None; SB3 declares arrays
    _last_episode_starts: Any  # Tensor | None
    _resume_point: ResumePoint | None
    _loaded_point: ResumePoint | None
    _is_loading: bool  # there while a file is read

    def _capture(self) -> ResumePoint | None:
        """Return what the next rollout starts from, or ``None`` before the first one."""
        if self._resume_point is not None:
            return self._resume_point  # in mid-rollout: the run resumes at the rollout's start
        if self._last_obs is None or self.tensor_env is None:
            return self._loaded_point
        state = self.tensor_env.get_state()
        obs: TensorDict = self._last_obs
        starts: th.Tensor = self._last_episode_starts
        return ResumePoint(
            num_timesteps=self.num_timesteps,
            obs={key: value.clone() for key, value in obs.items()},
            episode_starts=starts.clone(),
            policy_state=tuple(self.collector.state.map(th.clone)),
            env_state=None
            if state is None
            else {key: value.clone() for key, value in state.items()},
            episode_stats=self.episode_stats.state_dict(),
            random=RandomState.capture(self.generator),
            objectives={o.name: o.rollout_state() for o in self.objectives},
            episodes=list(self.ep_info_buffer or ()),
        )

    def _keep_for_resume(self, point: ResumePoint | None) -> None:
        self._loaded_point = point

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "tensor_env",
            "collector",
            "_run_minibatch",
            "_parameters",
            "_loss_settings",
            "statistics",
            "objectives",
            "min_std",
            "lr_scheduler",
            "generator",
            "episode_stats",
            "_last_obs",
            "_last_episode_starts",
            "_last_original_obs",
            "is_collecting",
            "finished_episodes",
            "_resume_point",
            "_loaded_point",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "training_state"], []

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        state_dict_transform: StateDictTransform | None = None,
        **kwargs: Any,
    ) -> Self:
        """
        Load a model; see SB3.

        :param path: file name or binary stream
        :param env: what to continue on; not needed to predict
        :param device: where to put it
        :param custom_objects: attributes to replace instead of reading them
        :param print_system_info: print versions of now and then
        :param force_reset: forget the last observation of the file's ``data``
        :param state_dict_transform: called with the weights of the file and those of the new
            policy, returns what to load; the optimizers' moments are then left out
        :param kwargs: attributes to change, e.g. ``learning_rate``
        :raises StrlValueError: if the file is not a whole model
        """
        file = None
        if isinstance(path, (str, Path)):
            file = Path(path)
            file = file if file.exists() else file.with_name(f"{file.name}.zip")
            if file.exists() and not _is_model(file):
                raise StrlValueError(
                    f"{cls.__name__}.load: {file} is not a whole model file; it may have been cut "
                    "off while it was copied or written. Take an earlier checkpoint."
                )
        if state_dict_transform is not None:
            kwargs["_state_dict_transform"] = state_dict_transform
        kwargs["_is_loading"] = True
        model = super().load(
            path, env, device, custom_objects, print_system_info, force_reset, **kwargs
        )
        del model._is_loading
        load_rank(model, file)
        if "learning_rate" in kwargs:
            model._restart_learning_rate()
        return model

    def _restart_learning_rate(self) -> None:
        """
        Let ``learning_rate`` count: as the adaptive rate, or as what a scheduler began with.

        What the scheduler had made of the old one, it has then made of the new one.
        """
        rate = float(self.lr_schedule(self._current_progress_remaining))
        groups, scheduler = self.policy.optimizer.param_groups, self.lr_scheduler
        if scheduler is None:
            for group in groups:
                like = group["lr"]
                group["lr"] = th.full_like(like, rate) if isinstance(like, th.Tensor) else rate
            return
        for group, base in zip(groups, scheduler.base_lrs, strict=True):
            group["lr"] = group["lr"] * (rate / float(base)) if base else rate
            group["initial_lr"] = rate
        scheduler.base_lrs = [rate] * len(groups)

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load weights and optimizers, not the point where a run stopped; see SB3.

        :raises StrlValueError: if another algorithm saved them
        """
        transform: StateDictTransform | None = vars(self).pop("_state_dict_transform", None)
        if transform is not None and isinstance(load_path_or_dict, dict):
            load_path_or_dict = transform_parameters(load_path_or_dict, self.policy, transform)
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = load_from_zip_file(
                load_path_or_dict, load_data=False, device=device
            )[1]
        if exact_match:
            names = self._get_torch_save_params()[0]
            check_parameters(type(self).__name__, load_path_or_dict, names)
        point = self._loaded_point
        super().set_parameters(load_path_or_dict, exact_match, device)
        if "_is_loading" not in vars(self):
            self._loaded_point = point

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save everything that a run needs to continue; see SB3.

        A file is written beside the target and moved over it, so that a crash or a full disk leaves
        the previous file whole. With several processes rank 0 writes the model, and the others
        what only they have, beside it; see ``docs/guide/distributed.md``.

        :param path: file name, ``.zip`` is added if there is no suffix; or a binary stream
        :param exclude: attributes to leave out
        :param include: attributes to keep although they are left out by default
        :raises OSError: if the disk is full or the folder cannot be written
        """
        if not isinstance(path, (str, Path)):
            stream = io.BytesIO()  # the caller's may be closed to reading
            super().save(stream, exclude, include)
            add_description(stream, self.policy)
            path.write(stream.getbuffer())
            return
        target = Path(path)
        if target.suffix == "":
            target = target.with_suffix(".zip")
        if distributed.is_main():
            self.write(target, exclude, include)
        else:
            save_rank(self, target)

    def write(
        self,
        target: Path,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the whole model whatever the rank; see :meth:`save`."""
        with atomic_file(target) as file:
            super().save(file, exclude, include)
            add_description(file, self.policy)
