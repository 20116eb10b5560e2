"""One training in several processes: begin alike, end together, keep what is each one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn

from sb3_strl.algorithms.training_state import RandomState, read_point
from sb3_strl.common import distributed
from sb3_strl.common.errors import PeerError, StrlValueError
from sb3_strl.common.files import atomic_file

if TYPE_CHECKING:
    from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm
    from sb3_strl.algorithms.saving import SavedAlgorithm

_COMPLETE, _STOPPED, _FAILED = 0, 1, 2
_OWN_BUFFER = "running"
"""RND's discounted sums: one for every environment of this process."""


def join(model: TensorOnPolicyAlgorithm) -> None:
    """
    Begin a training with the other processes: the same parameters, one logger.

    :raises StrlValueError: if the processes do not fit together
    :raises PeerError: if another process is dead
    """
    distributed.start()
    if not distributed.is_active():
        return
    _check_alike(model)
    distributed.broadcast_(_shared_tensors(model))
    if not distributed.is_main():
        model.set_logger(Logger(None, []))
        model.verbose = 0


def _check_alike(model: TensorOnPolicyAlgorithm) -> None:
    where = type(model).__name__
    normalize = model.get_vec_normalize_env()
    if normalize is not None and normalize.training:
        raise StrlValueError(
            f"{where}: VecNormalize learns its statistics from the environments of one process, so "
            "each of the processes would normalise in its own way. Expected the policy's "
            "normaliser, which learns from all: policy_kwargs=dict(empirical_normalization=True). "
            "A VecNormalize with training=False and the same file in all processes will do."
        )
    parameters = sum(p.numel() for group in model.optimizer_groups() for p in group["params"])
    numbers = {
        "n_envs": model.n_envs,
        "n_steps": model.n_steps,
        "samples per minibatch": model.minibatch_size,
        "n_epochs": model.n_epochs,
        "number of parameters": parameters,
        "num_timesteps": model.num_timesteps,
        "updates so far": model._n_updates,
    }
    rows = distributed.gather(list(numbers.values()), model.device)
    for name, values in zip(numbers, zip(*rows, strict=True), strict=True):
        if len(set(values)) > 1:
            raise StrlValueError(
                f"{where}: the processes differ in {name}: {list(values)} by rank. Expected the "
                "same everywhere: construct or load the model with the same arguments in all."
            )
    sequences = model.rollout_buffer.sequences
    is_ragged = model.policy.is_recurrent and model.n_steps % sequences.length
    if is_ragged and model.sequence_minibatches > 1:
        raise StrlValueError(
            f"{where}: with several processes every minibatch must hold as many samples, but "
            f"n_steps={model.n_steps} is not a multiple of sequence_length={sequences.length}. "
            "Choose one that divides it, or n_minibatches=1."
        )


def _shared_tensors(model: TensorOnPolicyAlgorithm) -> Iterator[th.Tensor]:
    """Return parameters, running statistics and learning rates, in the same order everywhere."""
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, nn.Module):
            yield from (parameter.data for parameter in part.parameters())
            for key, buffer in part.named_buffers():
                if key.rpartition(".")[2] != _OWN_BUFFER:
                    yield buffer
    for group in model.optimizer_groups():
        if isinstance(group["lr"], th.Tensor):
            yield group["lr"]


class SharedProgressBar(ProgressBarCallback):
    """SB3's, which counts the steps of one process only."""

    def _on_step(self) -> bool:
        self.pbar.update(self.training_env.num_envs * distributed.world_size())
        return True


# ---------------------------------------------------------------------- end together


@contextmanager
def shared_fate(model: TensorOnPolicyAlgorithm) -> Iterator[None]:
    """Let the other processes know of an error in here, so that they need not wait for nobody."""
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        if distributed.is_active():
            reason = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"rank {distributed.rank()}: {reason}\n")
            try:
                _exchange(model, _FAILED, reason)
            except PeerError as other:
                sys.stderr.write(f"rank {distributed.rank()}: {other}\n")
        raise


def agree(model: TensorOnPolicyAlgorithm, completed: bool) -> bool:
    """
    Return whether the rollout is complete in every process.

    :param model: at the end of its rollout, before anything learns from it
    :param completed: whether it is in this one
    :raises PeerError: if another process failed; with its reason
    """
    if not distributed.is_active():
        return completed
    return _exchange(model, _COMPLETE if completed else _STOPPED, "")


def _exchange(model: TensorOnPolicyAlgorithm, code: int, reason: str) -> bool:
    codes = [row[0] for row in distributed.gather([code], model.device)]
    if _FAILED not in codes:
        return _STOPPED not in codes
    failed = codes.index(_FAILED)
    reason = distributed.tell(reason, failed, model.device)
    if code != _FAILED:
        raise PeerError(
            f"{type(model).__name__}: process {failed} of {len(codes)} failed after "
            f"{model.num_timesteps} steps, so all of them end. Its reason: {reason}\n"
            "Mend that and continue from the last checkpoint."
        )
    return False


# ---------------------------------------------------------------------- what is each one's own


def rank_file(path: str | Path) -> Path:
    """Return where this process keeps what only it has, beside the model of rank 0."""
    target = Path(path)
    return target.with_name(f"{target.name.removesuffix('.zip')}.rank{distributed.rank()}.pt")


def save_rank(model: SavedAlgorithm, path: str | Path) -> None:
    """
    Save environment, hidden states and random numbers of this process, not rank 0.

    :param path: of the model
    """
    with atomic_file(rank_file(path)) as file:
        th.save(model.training_state.state_dict(), file)


def load_rank(model: SavedAlgorithm, path: str | Path | None) -> None:
    """
    Replace what a model file says of rank 0's environments by those of this process.

    Without a file of its own that was saved at the same step, new episodes begin.

    :param model: just loaded
    :param path: of the model, ``None`` if it came from a stream
    """
    point = model._loaded_point
    if distributed.is_main() or point is None:
        return
    file = None if path is None else rank_file(path)
    if file is not None and file.exists():
        own = read_point(th.load(file, map_location=model.device, weights_only=True))
        if own is not None and own.num_timesteps == point.num_timesteps:
            model._loaded_point = own
            return
    # New numbers, neither those of rank 0 nor those of this run's beginning.
    model.generator.manual_seed(model.generator.initial_seed() + point.num_timesteps)
    random = RandomState.capture(model.generator)
    model._loaded_point = replace(point, env_state=None, random=random)
