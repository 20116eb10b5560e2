"""Exporting a trained policy: ONNX, TorchScript, metadata, and the proof that they are right."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_strl.common.errors import StrlTypeError, StrlValueError, suggest
from sb3_strl.common.tables import format_table
from sb3_strl.export.files import FILES, METADATA, WRITERS, check_installed, explained, make_runner
from sb3_strl.export.fit import check_fits
from sb3_strl.export.metadata import describe
from sb3_strl.export.module import Deployment, ExportedPolicy
from sb3_strl.export.normalizer import known_ranges, load_vec_normalize
from sb3_strl.export.proof import Parity, compare, env_rollout, invented_rollout
from sb3_strl.policies import MutexPolicy, load_policy

TOLERANCE = 1e-5
_INVENTED_ENVS = (1, 3)
_BLIND = 0.9


@dataclass(frozen=True)
class ExportReport:
    """
    What was written, and how exact it is.

    :param folder: where
    :param files: path by format, ``"metadata"`` among them
    :param inputs: names, in the order of TorchScript's arguments
    :param outputs: names, in order
    :param parities: one for every format and number of environments
    :param tolerance: what the errors were compared with
    """

    folder: Path
    files: dict[str, Path]
    inputs: list[str]
    outputs: list[str]
    parities: list[Parity]
    tolerance: float

    def __str__(self) -> str:
        rows = [
            (p.format, str(p.n_envs), str(p.n_steps), f"{p.max_error:.1e}", f"{p.blind:.0%}")
            for p in self.parities
        ]
        title = f"largest difference from predict (allowed: {self.tolerance:.0e})"
        head = ("format", "environments", "steps", "error", "blind")
        return "\n".join(
            [
                f"Exported to {self.folder}: {', '.join(p.name for p in self.files.values())}",
                f"inputs:  {', '.join(self.inputs)}",
                f"outputs: {', '.join(self.outputs)}",
                format_table(title, head, rows),
            ]
        )


def export_policy(
    policy: BasePolicy | BaseAlgorithm | str | Path,
    path: str | Path,
    formats: Sequence[str] = ("onnx", "torchscript"),
    deployment: Deployment | None = None,
    env: VecEnv | gym.Env[Any, Any] | None = None,
    n_steps: int = 100,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    vec_normalize: VecNormalize | str | Path | None = None,
) -> ExportReport:
    """
    Write the actor for deployment, and prove that what was written acts as ``predict`` does.

    The files take raw observations and hidden states and return clipped, deterministic actions and
    new hidden states; encoders, estimators, normalisation and the choice among the sub-policies of
    a mutex policy are inside. ``metadata.json`` says what every input is; a copy of it is in both
    files. Nothing is left behind if a file does not act as the policy.

    .. code-block:: python

        report = export_policy(model, "robot/", deployment=Deployment(joint_names=names))
        print(report)

    :param policy: a policy, a model (whose ``VecNormalize`` is folded in, if it has one), or the
        file of one
    :param path: folder for ``model.onnx``, ``model.pt`` and ``metadata.json``
    :param formats: ``"onnx"``, ``"torchscript"`` or both
    :param deployment: what is known about the robot
    :param env: where the proof acts, not normalised; ``None`` invents observations
    :param n_steps: steps of the proof, at least 1
    :param tolerance: largest error of an action, relative beyond 1
    :param seed: of the invented observations
    :param vec_normalize: SB3's normaliser that the policy was trained behind, or the file of it
        (a pickle: name only one that you trust), folded in; default that of the model. The file of
        a model does not hold it
    :return: the report; ``print`` shows a table
    :raises StrlTypeError: if the policy is of another library, or a package is missing
    :raises StrlValueError: if a format is unknown, ``n_steps`` is less than 1, the statistics or
        the environment are not of this policy, or a file does not act as the policy
    """
    names = _check_formats(formats)
    folder = Path(path)
    _check_sizes(folder, n_steps)
    actor, normalizer = _resolve(policy)
    if vec_normalize is not None:
        normalizer = (
            vec_normalize
            if isinstance(vec_normalize, VecNormalize)
            else load_vec_normalize(vec_normalize)
        )
    module = ExportedPolicy(actor, deployment, normalizer)
    module.eval()
    if isinstance(actor, MutexPolicy) and env is None:
        raise StrlValueError(
            "export_policy: a mutex policy selects by what it observes, so observations cannot be "
            "invented. Expected env, the environment that it acts in. Pass env=..."
        )
    venv = _as_vec_env(env)
    if venv is not None:
        check_fits("export_policy", actor, venv)
    metadata = describe(actor, module)
    # On the same disk, so that moving is renaming; the folder itself is made when all is proven.
    with tempfile.TemporaryDirectory(dir=_existing(folder), prefix=".export-") as temporary:
        written = {name: Path(temporary) / FILES[name] for name in names}
        parities: list[Parity] = []
        for name, file in written.items():
            with explained(name, "written"):
                WRITERS[name](module, file, metadata)
            found = _prove(name, file, actor, module, venv, n_steps, seed, normalizer)
            _check_proof(found, tolerance)
            parities += found
        _warn_if_blind(parities)
        metadata["proof"] = [asdict(parity) for parity in parities]
        written["metadata"] = Path(temporary) / METADATA
        written["metadata"].write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: file.replace(folder / file.name) for name, file in written.items()}
    return ExportReport(folder, files, module.input_names, module.output_names, parities, tolerance)


def _check_formats(formats: Sequence[str]) -> list[str]:
    names = [formats] if isinstance(formats, str) else list(formats)
    if not names:
        raise StrlValueError(f"export_policy: no formats. Expected some of {list(FILES)}.")
    for name in names:
        if name not in FILES:
            raise StrlValueError(
                f"export_policy: unknown format '{name}'.{suggest(name, FILES)} Known formats: "
                f"{list(FILES)}."
            )
        check_installed(name)
    return names


def _check_sizes(folder: Path, n_steps: int) -> None:
    if n_steps < 1:
        raise StrlValueError(
            f"export_policy: n_steps (--steps) is {n_steps}. Expected a whole number of at least "
            "1: no steps prove nothing."
        )
    if not _existing(folder).is_dir():
        raise StrlValueError(
            f"export_policy: {_existing(folder)} is a file. Expected a folder for "
            f"{[*FILES.values(), METADATA]}. Name another one."
        )


def _existing(folder: Path) -> Path:
    """Return a path itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _resolve(given: Any) -> tuple[BasePolicy, VecNormalize | None]:
    if isinstance(given, str | Path):
        return load_policy(given, "cpu"), None
    if isinstance(given, BaseAlgorithm):
        return given.policy, given.get_vec_normalize_env()
    if isinstance(given, BasePolicy):
        return given, None
    raise StrlTypeError(
        f"export_policy: got a {type(given).__name__}. Expected a policy, a model, or the path of "
        "one."
    )


def _as_vec_env(env: VecEnv | gym.Env[Any, Any] | None) -> VecEnv | None:
    if env is None or isinstance(env, VecEnv):
        return env
    single = env
    return DummyVecEnv([lambda: Monitor(single)])


def _prove(
    name: str,
    file: Path,
    actor: BasePolicy,
    module: ExportedPolicy,
    env: VecEnv | None,
    n_steps: int,
    seed: int,
    normalizer: VecNormalize | None,
) -> list[Parity]:
    run = make_runner(name, file, module)
    if env is not None:
        rollouts = [env_rollout(actor, env, n_steps, normalizer)]
    else:
        space = actor.observation_space
        ranges = known_ranges(actor, normalizer)
        rollouts = [invented_rollout(space, n, n_steps, seed, ranges) for n in _INVENTED_ENVS]
    return [Parity(name, *compare(actor, module, run, item, normalizer)) for item in rollouts]


def _check_proof(found: Sequence[Parity], tolerance: float) -> None:
    for parity in found:
        if not parity.max_error <= tolerance:
            raise StrlValueError(
                f"export_policy: the {parity.format} file differs from predict by "
                f"{parity.max_error:.1e} in {parity.n_steps} steps of {parity.n_envs} "
                f"environments. Expected at most {tolerance:.0e}, so nothing was written. Actions "
                "may be large or the choice between two of them close: try another tolerance, or "
                "report it."
            )


def _warn_if_blind(parities: Sequence[Parity]) -> None:
    blind = min(parity.blind for parity in parities)
    if blind > _BLIND:
        warnings.warn(
            f"export_policy: {blind:.0%} of the compared numbers in the actions are at their "
            f"bounds, or the same in every step. Expected at most {_BLIND:.0%}: an error of the "
            "file may not show in them. Prove it in an environment in which the actions vary "
            "(env=..., --prove-in-env).",
            stacklevel=3,
        )
