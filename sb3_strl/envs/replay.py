"""Recorded demonstrations in the place of a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_strl.common.errors import StrlKeyError, StrlValueError, suggest
from sb3_strl.common.segments import group_spaces
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.data.rollout_files import Transition
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

TEACHER_FIELD = "teacher_actions"
"""Field of a dataset with what a teacher would have done where somebody else acted."""

_OBS, _NEXT = "obs/", "next_obs/"
_PASSED_ON = ("amp_valid",)


class ReplayEnv(TensorVecEnv):
    """
    Plays a dataset back as if it were a simulator; what it is told to do changes nothing.

    Steps come in rollouts: :meth:`begin` reads one as a whole, so that a rollout never consists of
    half a dataset. The first observation of a new trajectory follows the last one of the trajectory
    before, as after a reset.

    :param dataset: the recording
    :param like: the environment it stands in for
    :param needed: groups that somebody reads
    :raises StrlKeyError: if a needed group was not recorded
    :raises StrlValueError: if shapes or the number of environments differ
    """

    def __init__(
        self, dataset: RolloutDataset, like: TensorVecEnv, needed: Sequence[str] | None = None
    ) -> None:
        available = group_spaces(like.observation_space)
        self.groups = tuple(available if needed is None else needed)
        space = like.observation_space
        if isinstance(space, spaces.Dict):
            space = spaces.Dict({group: available[group] for group in self.groups})
        super().__init__(like.num_envs, space, like.action_space, like.device)
        self.dataset = dataset
        self.max_episode_length = like.max_episode_length
        self.obs_segments = like.obs_segments
        self.feature_names = like.feature_names
        self.frame_dt = like.frame_dt
        if dataset.num_envs != self.num_envs:
            raise StrlValueError(
                f"ReplayEnv: the dataset plays {dataset.num_envs} environments. Expected "
                f"{self.num_envs}, as many as the algorithm has: RolloutDataset(..., num_envs="
                f"{self.num_envs})."
            )
        self._shapes = {group: tuple(available[group].shape or ()) for group in self.groups}
        self._checked = False
        self._rows: Transition | None = None
        self._n_rows = self._row = 0
        self._starts = th.ones(self.num_envs, dtype=th.bool, device=self.device)

    # ------------------------------------------------------------------ rollouts

    def begin(self, n_steps: int) -> TensorDict | None:
        """
        Read the next steps.

        :param n_steps: of a rollout
        :return: the first observation, or ``None`` if an environment has not that many left
        """
        self._check_groups()
        try:
            rows = self.dataset.get_batch(n_steps)
        except StopIteration:
            return None
        if len(rows.reward) < n_steps or bool(rows.padding.any()):
            return None
        self._check_shapes(rows)
        self._rows = rows.map(lambda tensor: tensor.to(self.device))
        self._n_rows, self._row = n_steps, 0
        return self._obs(0)

    @property
    def starts(self) -> th.Tensor:
        """Which environments are about to see the first frame of a trajectory, ``(n_envs,)``."""
        return self._starts

    def executed(self) -> th.Tensor:
        """Return what was executed in the present frame, ``(n_envs, *action_shape)``."""
        return self._present().action[self._row]

    def labels(self) -> th.Tensor:
        """Return what a teacher would have done in the present frame, or else what was done."""
        rows = self._present()
        return rows.extras.get(TEACHER_FIELD, rows.action)[self._row]

    def state_dict(self) -> dict[str, Any]:
        """Return where the dataset is, between two rollouts."""
        return {"dataset": self.dataset.state_dict(), "starts": self._starts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.dataset.load_state_dict(state["dataset"])
        self._starts = state["starts"].clone().to(self.device)

    # ------------------------------------------------------------------ tensor face

    def reset_tensor(self) -> TensorDict:
        """
        Begin the dataset anew and read one step.

        :raises StrlValueError: if there is none
        """
        self.take_reset_request()
        self.dataset.reset()
        self._starts = th.ones_like(self._starts)
        obs = self.begin(1)
        if obs is None:
            raise StrlValueError(
                f"ReplayEnv: {[str(folder) for folder in self.dataset.data_dirs]} holds no step "
                f"for {self.num_envs} environments. Record more trajectories."
            )
        return obs

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        """
        Return what followed in the recording.

        :param actions: without effect
        :raises StrlValueError: if the rollout is over and the dataset has no more steps
        """
        del actions
        rows, row = self._present(), self._row
        ended, after = rows.done[row], self._obs(row, after=True)
        self._starts = ended.clone()
        self._row += 1
        return TensorStep(
            # The observation after the last step of a rollout is the recorded one: whether it ended
            # an episode says `terminated`, and what follows an end belongs to the next rollout.
            obs=self._obs(self._row) if self._row < self._n_rows else after,
            rewards=rows.reward[row],
            terminated=ended & ~rows.timeout[row],
            truncated=ended & rows.timeout[row],
            final_obs=after,
            extras={name: rows.extras[name][row] for name in _PASSED_ON if name in rows.extras},
        )

    def _present(self) -> Transition:
        if self._rows is None or self._row >= self._n_rows:
            raise StrlValueError(
                f"ReplayEnv: the rollout of {self._n_rows} steps is over. Expected a call of "
                "begin(n_steps), which reads the next one."
            )
        return self._rows

    def _obs(self, row: int, after: bool = False) -> TensorDict:
        """Return the observation before, or after, one of the steps."""
        rows = self._rows
        assert rows is not None
        group, privileged = self.dataset.groups
        prefix = _NEXT if after else _OBS
        named = {
            privileged: rows.next_privileged_observation if after else rows.privileged_observation,
            group: rows.next_observation if after else rows.observation,
        }
        return {
            name: (named[name] if name in named else rows.extras[prefix + name])[row]
            for name in self.groups
        }

    # ------------------------------------------------------------------ checks

    def _check_groups(self) -> None:
        if self._checked:
            return
        recorded = self.dataset.recorded_groups()
        for group in self.groups:
            if group not in recorded:
                raise StrlKeyError(
                    f"ReplayEnv: the dataset has no observation group '{group}', which is read in "
                    f"training.{suggest(group, recorded)} It holds {sorted(recorded)}. Record the "
                    "demonstrations with all groups of the environment."
                )
        self._checked = True

    def _check_shapes(self, rows: Transition) -> None:
        self._rows = rows
        given = {name: tuple(value.shape[1:]) for name, value in self._obs(0).items()}
        given["actions"] = tuple(rows.action.shape[2:])
        expected = {**self._shapes, "actions": tuple(self.action_space.shape or ())}
        wrong = [name for name, shape in expected.items() if given[name] != shape]
        if wrong:
            name = wrong[0]
            raise StrlValueError(
                f"ReplayEnv: '{name}' was recorded with shape {given[name]}. Expected "
                f"{expected[name]}, as in the environment {type(self).__name__} stands in for. Use "
                "demonstrations of the same robot."
            )
        discrete = not isinstance(self.action_space, spaces.Box)
        if discrete == rows.action.is_floating_point():
            raise StrlValueError(
                f"ReplayEnv: the recorded actions are of type {rows.action.dtype}. Expected those "
                f"of {self.action_space}. Use demonstrations of the same robot."
            )
