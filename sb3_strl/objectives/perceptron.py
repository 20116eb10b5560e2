"""Teachers from files of other libraries: tensors are read, nothing is executed."""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.policies.activations import get_activation_cls
from sb3_strl.policies.loading import DESCRIPTION, WEIGHTS, load_policy

_READ = (
    "Expected a policy or model of this library, a Stable-Baselines3 model with an 'MlpPolicy', or "
    "a checkpoint of rsl_rl or st_rl whose actor is a perceptron. Load anything else yourself and "
    "pass the policy."
)
_LAYER = re.compile(r"^(\d+)\.weight$")
_IGNORED = ("critic", "value_net", "mlp_extractor.value_net", "std", "log_std", "distribution")
_NORMALIZERS = ("actor_obs_normalizer.", "obs_normalizer.")


class PerceptronTeacher(nn.Module):
    r"""
    :math:`\mu(o) = W_n \, \phi(\dots \phi(W_1 \hat o + b_1)) + b_n` with a frozen normaliser.

    :param weights: of the layers, first to last, as ``(weight, bias)``
    :param activation: behind every layer but the last
    :param normalizer: of the observation, ``None`` for none
    :param std: ``(A,)``, of the action noise, if known
    """

    std: th.Tensor | None

    def __init__(
        self,
        weights: list[tuple[th.Tensor, th.Tensor]],
        activation: type[nn.Module],
        normalizer: EmpiricalNormalization | None,
        std: th.Tensor | None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for weight, bias in weights:
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict({"weight": weight, "bias": bias})
            layers += [linear, activation()]
        self.net = nn.Sequential(*layers[:-1])
        self.normalizer = normalizer
        self.input_size = int(weights[0][0].shape[1])
        self.output_size = int(weights[-1][0].shape[0])
        self.register_buffer("std", std)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        """Return the mean action ``(N, A)`` for observations ``(N, dim)``."""
        x = obs.flatten(1).float()
        mean: th.Tensor = self.net(x if self.normalizer is None else self.normalizer(x))
        return mean


def read_teacher_file(
    where: str, path: Path, activation: str | None
) -> BasePolicy | PerceptronTeacher:
    """
    Read a teacher; no code in the file is executed.

    :param where: who complains
    :param path: ``.zip`` may be left out
    :param activation: of a foreign perceptron; default what a Stable-Baselines3 model says it has,
        ``"elu"`` for the others
    :raises StrlValueError: if there is no such file, or it holds something else
    """
    file = next((p for p in (path, path.with_name(f"{path.name}.zip")) if p.is_file()), None)
    if file is None:
        raise StrlValueError(f"{where}: there is no teacher file {path}. Check the path.")
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as entries:
            names = set(entries.namelist())
            if DESCRIPTION in names:
                return load_policy(file, "cpu")
            if {"data", WEIGHTS} <= names:
                return _from_sb3(where, file, entries, activation)
    return _from_checkpoint(where, file, _load(where, file, file.read_bytes()), activation)


def _load(where: str, file: Path, content: bytes) -> Any:
    try:
        return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise StrlValueError(
            f"{where}: the teacher file {file} is damaged, or needs code to be executed, which was "
            f"not done ({type(error).__name__}). {_READ}"
        ) from error


def _layers(
    where: str, file: Path, state: Mapping[str, th.Tensor], prefixes: tuple[str, ...]
) -> list[tuple[th.Tensor, th.Tensor]]:
    """Return weights and biases of numbered linear layers, in order."""
    layers: list[tuple[th.Tensor, th.Tensor]] = []
    for prefix in prefixes:
        found = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
        numbers = sorted(int(m.group(1)) for name in found if (m := _LAYER.match(name)))
        names = [f"{prefix}{n}." for n in numbers] or ([prefix] if "weight" in found else [])
        for name in names:
            weight, bias = state[f"{name}weight"], state.get(f"{name}bias")
            layers.append((weight, th.zeros(len(weight)) if bias is None else bias))
    fits = all(a[0].shape[0] == b[0].shape[-1] for a, b in itertools.pairwise(layers))
    if not layers or not fits or any(weight.ndim != 2 for weight, _ in layers):
        raise StrlValueError(
            f"{where}: the teacher file {file} has no actor of linear layers; its entries begin "
            f"with {sorted({name.split('.')[0] for name in state})}. {_READ}"
        )
    return layers


def _refuse_rest(
    where: str, file: Path, state: Mapping[str, th.Tensor], known: tuple[str, ...]
) -> None:
    rest = sorted({n.split(".")[0] for n in state if not n.startswith((*known, *_IGNORED))})
    if rest:
        raise StrlValueError(
            f"{where}: the teacher in {file} has {rest} beside a perceptron, which cannot be left "
            f"out. {_READ}"
        )


def _std(state: Mapping[str, th.Tensor], size: int) -> th.Tensor | None:
    for name, value in state.items():
        if name in ("std", "distribution.std_param") and value.shape == (size,):
            return value.clone()
        if name in ("log_std", "distribution.log_std_param") and value.shape == (size,):
            return value.exp()
    return None


def _from_sb3(
    where: str, file: Path, entries: zipfile.ZipFile, activation: str | None
) -> PerceptronTeacher:
    state = _load(where, file, entries.read(WEIGHTS))
    prefixes = ("mlp_extractor.policy_net.", "action_net.")
    _refuse_rest(where, file, state, prefixes)
    layers = _layers(where, file, state, prefixes)
    if activation is None:
        kwargs = json.loads(entries.read("data")).get("policy_kwargs", {})
        # A class is written as "<class 'torch.nn.modules.activation.ReLU'>".
        named = re.findall(r"\w+", str(kwargs.get("activation_fn", "Tanh")))
        activation = named[-1].lower()
    return PerceptronTeacher(
        layers, get_activation_cls(activation), None, _std(state, len(layers[-1][0]))
    )


def _from_checkpoint(
    where: str, file: Path, content: Any, activation: str | None
) -> PerceptronTeacher:
    keys = list(content) if isinstance(content, Mapping) else []
    if "model_state_dict" in keys:
        state, prefix = content["model_state_dict"], "actor."
    elif "actor_state_dict" in keys:
        state, prefix = content["actor_state_dict"], "mlp."
    else:
        raise StrlValueError(f"{where}: the teacher file {file} holds {keys[:8]}. {_READ}")
    _refuse_rest(where, file, state, (prefix, *_NORMALIZERS, "discriminator"))
    layers = _layers(where, file, state, (prefix,))
    statistics = dict(content.get("obs_norm_state_dict") or {})
    for start in _NORMALIZERS:
        statistics.update(
            {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}
        )
    normalizer = None
    if statistics:
        normalizer = EmpiricalNormalization(int(layers[0][0].shape[1]))
        normalizer.load_state_dict(statistics)
    size = len(layers[-1][0])
    return PerceptronTeacher(
        layers, get_activation_cls(activation or "elu"), normalizer, _std(state, size)
    )
