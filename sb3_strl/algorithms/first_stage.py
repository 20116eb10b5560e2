"""The first of two stages: rollouts out of recorded demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_strl.common import distributed
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.segments import group_spaces
from sb3_strl.data.rollout_dataset import RolloutDataset
from sb3_strl.envs.replay import ReplayEnv
from sb3_strl.envs.tensor_vec_env import TensorVecEnv

if TYPE_CHECKING:
    from sb3_strl.algorithms.tppo import TPPO

Demonstrations = str | Path | Sequence[str | Path] | RolloutDataset


def check_stage(
    where: str, dataset: object, kind: str | None, n_iterations: int, distill_target: str
) -> None:
    """
    Refuse options that cannot work.

    :param where: name of the algorithm
    :param dataset: what was given
    :param kind: type of what the model was once given, when it is loaded without it
    :param n_iterations: rollouts of the first stage
    :param distill_target: distance of actions
    :raises StrlTypeError: if there are iterations and no dataset, or a dataset of another kind
    :raises StrlValueError: for other options
    """
    if n_iterations and kind is None:
        raise StrlTypeError(
            f"{where}: pretrain_iterations is {n_iterations}, but there are no demonstrations. "
            "Pass pretrain_dataset=, the folder of a rollout dataset."
        )
    if dataset is not None and n_iterations == 0:
        raise StrlValueError(
            f"{where}: pretrain_dataset is given, but pretrain_iterations is 0, so it would not be "
            "used. Expected a number of rollouts, or -1 for all."
        )
    if n_iterations and distill_target == "kl":
        raise StrlValueError(
            f"{where}: distill_target 'kl' compares distributions, and a dataset holds actions. "
            "Use another distance, e.g. 'mse_sum' or 'max_log_prob', for pretrain_dataset."
        )
    if dataset is None or isinstance(dataset, RolloutDataset):
        return
    folders = [dataset] if isinstance(dataset, (str, Path)) else dataset
    if not isinstance(folders, Sequence) or not all(isinstance(f, (str, Path)) for f in folders):
        raise StrlTypeError(
            f"{where}: pretrain_dataset is {dataset!r}. Expected a folder, several, or a "
            "RolloutDataset."
        )
    missing = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise StrlValueError(
            f"{where}: pretrain_dataset: there is no folder {missing}. Expected what "
            "DemonstrationRecorder or 'strl collect' wrote."
        )


def open_replay(model: TPPO, env: TensorVecEnv, state: Any) -> ReplayEnv:
    """
    Return the demonstrations in the place of the environment, at their beginning or at a state.

    :param model: whose first stage it is
    :param env: what it stands in for
    :param state: of :meth:`~sb3_strl.envs.replay.ReplayEnv.state_dict`; ``None`` begins anew
    :raises StrlValueError: if the model was loaded without its demonstrations
    """
    source = model.pretrain_dataset
    if source is None:
        where = type(model).__name__
        raise StrlValueError(
            f"{where}: the model was loaded without its demonstrations, which its first stage "
            f"needs. Pass them again: {where}.load(path, env, pretrain_dataset=...)."
        )
    if not isinstance(source, RolloutDataset):
        source = RolloutDataset(
            source,
            model.n_envs,
            dataset_loops=0,
            random_shuffle_traj_order=True,
            device=model.device,
            seed=distributed.rank_seed(model.seed, model.n_envs),
        )
    replay = ReplayEnv(source, env, _needed(model, env))
    if state is not None:
        replay.load_state_dict(state)
    else:
        source.reset()
    return replay


def _needed(model: TPPO, env: TensorVecEnv) -> list[str]:
    """Return the groups that policy, teacher and the other objectives read."""
    if any(type(o).overrides("on_step") for o in model.objectives if o is not model.distillation):
        return list(group_spaces(env.observation_space))
    needed = [*model.policy.groups]
    if model.distillation.latents.widths():
        needed += model.distillation.view.sources()
    return list(dict.fromkeys(needed))


def episode_means(episodes: Sequence[dict[str, float]]) -> dict[str, float]:
    """
    Return what SB3 logs of episodes, under the names of its ``rollout/`` section.

    :param episodes: ``{"r": return, "l": length}`` each
    :return: nothing if none has ended
    """
    if not episodes:
        return {}
    return {
        "ep_rew_mean": sum(e["r"] for e in episodes) / len(episodes),
        "ep_len_mean": sum(e["l"] for e in episodes) / len(episodes),
    }
