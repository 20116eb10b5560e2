"""One check per rollout that everything is a number, and what to leave behind if it is not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_strl.buffers.rollout_buffer import OBS
from sb3_strl.common.errors import NonFiniteError
from sb3_strl.common.types import TensorDict

if TYPE_CHECKING:
    from sb3_strl.algorithms.base import TensorOnPolicyAlgorithm

_MAX_NAMED = 8


@th.no_grad()
def check_rollout(algorithm: TensorOnPolicyAlgorithm, last_obs: TensorDict) -> None:
    """
    Refuse a rollout with NaN or infinity before anything learns from it.

    The happy path costs one sum per field and a single host transfer: a sum is finite exactly if
    all its terms are (short of overflow, which is not finite either).

    :raises NonFiniteError: naming the fields and environments; the state of the rollout is dumped
        and the model, still unharmed, is saved
    """
    stored = algorithm.rollout_buffer.float_storage()
    stored += [value for value in last_obs.values() if value.is_floating_point()]
    if algorithm.collector.has_final_obs:
        stored += algorithm.collector.final_obs.values()
    sums = [value.sum(dtype=th.float32).to(algorithm.device) for value in stored]
    total = th.stack(sums).sum()
    if bool(total.isfinite()):
        return
    fields = _fields(algorithm, last_obs)
    found = {name: _offenders(value) for name, value in fields.items()}
    found = {name: envs for name, envs in found.items() if envs}
    if not found:  # huge but finite numbers overflowed the sum
        return
    folder = _dump(algorithm, fields)
    named = "; ".join(f"'{name}' in environments {_shorten(envs)}" for name, envs in found.items())
    raise NonFiniteError(
        f"{type(algorithm).__name__}: NaN or infinity from the environment or a teacher after "
        f"{algorithm.num_timesteps} steps: {named}. The rollout was dumped to {folder}/rollout.npz "
        f"and the model, which has not learnt from it, was saved to {folder}/model.zip. Look for "
        "exploding contacts or a division by zero in the simulator, and reset such environments "
        "there."
    )


def _fields(algorithm: TensorOnPolicyAlgorithm, last_obs: TensorDict) -> TensorDict:
    """Return everything that came from the environment, ``(..., n_envs, *)`` each."""
    buffer = algorithm.rollout_buffer
    fields = {"rewards": buffer["rewards"]}
    fields.update({f"observation {group}": value for group, value in buffer.obs().items()})
    fields.update(
        {f"last observation {group}": last_obs[group].unsqueeze(0) for group in buffer.groups}
    )
    names = [name for name in buffer.fields if name.endswith(("/features", "/expert", "/actions"))]
    fields.update({name: buffer[name] for name in names if not name.startswith(OBS)})
    if algorithm.collector.has_final_obs:
        final = algorithm.collector.final_obs
        fields.update({f"final observation {group}": value for group, value in final.items()})
    return {name: value for name, value in fields.items() if value.is_floating_point()}


def _offenders(value: th.Tensor) -> list[int]:
    """Return the environments with a value that is not finite."""
    bad = ~value.isfinite().flatten(2).all(-1) if value.ndim > 2 else ~value.isfinite()
    found: list[int] = bad.any(0).nonzero().flatten().tolist()
    return found


def _shorten(envs: list[int]) -> str:
    if len(envs) <= _MAX_NAMED:
        return str(envs)
    return f"{envs[:_MAX_NAMED]} and {len(envs) - _MAX_NAMED} more"


def _dump(algorithm: TensorOnPolicyAlgorithm, fields: TensorDict) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sb3_strl_nonfinite_"))
    arrays: dict[str, Any] = {
        name.replace(" ", "_").replace("/", "_"): v.cpu().numpy() for name, v in fields.items()
    }
    arrays["actions"] = algorithm.rollout_buffer["actions"].cpu().numpy()
    np.savez_compressed(folder / "rollout.npz", **arrays)
    algorithm.write(folder / "model.zip")
    return folder
