"""Estimating what the robot cannot sense: the state estimator and the privilege adaptor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch as th
from torch import nn

from sb3_strl.common.errors import StrlKeyError, StrlTypeError, StrlValueError, check_known, suggest
from sb3_strl.common.memory_state import MemoryState
from sb3_strl.common.normalization import EmpiricalNormalization
from sb3_strl.common.segments import ObsLayout, is_image_group
from sb3_strl.common.types import TensorDict
from sb3_strl.policies.memory import Memory, MemorySpec
from sb3_strl.policies.networks import MlpModel
from sb3_strl.policies.stages import ObsReader

_DEFAULT_HIDDEN = (256, 128)
_REPLACE = ("always", "never", "sample")


@dataclass(frozen=True, kw_only=True)
class EstimatorSpec:
    """
    A network that predicts privileged segments from sensed ones.

    :param obs_components: actor segments it reads
    :param target_components: segments it predicts, found among the critic's groups
    :param kwargs: arguments of :class:`~sb3_strl.policies.networks.MlpModel` (``hidden_sizes``,
        ``nonlinearity``)
    :param rnn: give it a memory of its own where the policy is recurrent
    :param use_actor_rnn: read the output of the actor's memory instead; both losses train it then
    :param replace_prob: probability with which the estimate replaces the actor's own segments of
        these names during a rollout
    :param inference_replace: what ``predict`` does: ``"always"`` replace, ``"never"``, or
        ``"sample"`` with ``replace_prob``; default ``"always"`` where ``replace_prob`` is positive
    :param reuse_estimates: let the update read the estimates that the rollout acted on, not those
        of the network as it is by then. What the actor reads stands still during an update, so that
        divergence and ratios, and a learning rate that adapts to them, are the actor's own.
        Older rollouts that a student imitates are estimated anew
    :param normalize_targets: predict targets in units of their running statistics; default as
        ``empirical_normalization`` of the policy
    """

    obs_components: tuple[str, ...]
    target_components: tuple[str, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rnn: bool = True
    use_actor_rnn: bool = False
    replace_prob: float = 0.0
    inference_replace: str | None = None
    reuse_estimates: bool = True
    normalize_targets: bool | None = None

    @classmethod
    def from_dict(cls, name: str, given: Mapping[str, Any]) -> EstimatorSpec:
        """
        Build from plain data.

        :param name: ``"estimator"`` or ``"adaptor"``, for messages
        :raises StrlTypeError: on an unknown or missing key
        :raises StrlValueError: on values that contradict each other
        """
        where = f"EstimatorSpec '{name}'"
        check_known(where, "key", given, [item.name for item in fields(cls)])
        missing = [key for key in ("obs_components", "target_components") if not given.get(key)]
        if missing:
            raise StrlTypeError(
                f"{where}: {missing} must be given, the segments to read and those to predict: "
                f'policy_kwargs=dict({name}=dict(obs_components=["proprio"], '
                'target_components=["base_lin_vel"])).'
            )
        values: dict[str, Any] = {
            key: _names(value) if key.endswith("components") else value
            for key, value in given.items()
        }
        spec = cls(**values)
        spec._check(where, name)
        return spec

    def _check(self, where: str, name: str) -> None:
        if not 0.0 <= self.replace_prob <= 1.0:
            raise StrlValueError(
                f"{where}: replace_prob is {self.replace_prob}. It must be in [0, 1]."
            )
        if self.inference_replace is not None and self.inference_replace not in _REPLACE:
            raise StrlValueError(
                f"{where}: inference_replace is {self.inference_replace!r}. Known values: "
                f"{list(_REPLACE)}."
            )
        if self.use_actor_rnn and self.replace_prob > 0:
            raise StrlValueError(
                f"{where}: use_actor_rnn=True estimates from what the actor has already read, so "
                f"nothing can be replaced, but replace_prob is {self.replace_prob}. Set it to 0."
            )
        if self.use_actor_rnn and name == "adaptor":
            raise StrlValueError(f"{where}: the adaptor cannot use the actor's memory. Leave it.")


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


class Estimator(nn.Module):
    r"""
    Estimate :math:`\hat y` of privileged segments, and put it in their place.

    ``sub-observation -> [memory] -> MLP -> estimate in target units``. The estimate enters the
    actor's raw observation without gradient, so that the estimator learns from its own loss alone.

    :param name: ``"estimator"`` or ``"adaptor"``, for messages
    :param spec: what to read and predict
    :param layout: the environment's layout
    :param reader: the actor's reader
    :param target_groups: where targets are looked up
    :param memory: kind of the policy's memory, ``None`` for a feed-forward policy
    :param activation: hidden activation
    :param normalize_targets: what ``None`` in the spec means
    :raises StrlKeyError: for an unknown segment
    :raises StrlValueError: if a segment cannot be read or replaced
    """

    columns: th.Tensor
    target_columns: th.Tensor

    def __init__(
        self,
        name: str,
        spec: EstimatorSpec,
        layout: ObsLayout,
        reader: ObsReader,
        target_groups: Sequence[str],
        memory: MemorySpec | None,
        activation: type[nn.Module],
        normalize_targets: bool,
    ) -> None:
        super().__init__()
        self.where = f"EstimatorSpec '{name}'"
        self.spec = spec
        self.layout = layout
        self.targets = [
            layout.find(target, target_groups, self.where) for target in spec.target_components
        ]
        for target in self.targets:
            if is_image_group(layout.spaces[target.group]):
                raise StrlValueError(
                    f"{self.where}: '{target.name}' is an image, which cannot be predicted. Name "
                    "segments of vector groups."
                )
        self.output_size = sum(target.size for target in self.targets)
        spans = reader.spans()
        index = self._columns_of(spec.obs_components, spans)
        self.register_buffer("columns", th.tensor(index), persistent=False)
        replaced = self._replaced(spans) if spec.replace_prob > 0 else []
        self.register_buffer("target_columns", th.tensor(replaced).long(), persistent=False)
        self.memory: Memory | None = None
        width = len(index)
        if spec.use_actor_rnn:
            if memory is None:
                raise StrlValueError(
                    f"{self.where}: use_actor_rnn=True needs a recurrent policy. Use an alias that "
                    "ends in LstmPolicy or GruPolicy, or give rnn=dict(type=...)."
                )
            width = memory.hidden_size
        elif memory is not None and spec.rnn:
            self.memory = Memory(width, memory)
            width = memory.hidden_size
        options = {"hidden_sizes": _DEFAULT_HIDDEN, "nonlinearity": activation, **spec.kwargs}
        self.net = MlpModel(width, output_size=self.output_size, **options)
        wants = spec.normalize_targets
        self.normalizer: EmpiricalNormalization | None = None
        if normalize_targets if wants is None else wants:
            self.normalizer = EmpiricalNormalization(self.output_size)

    def _columns_of(self, names: Sequence[str], spans: Mapping[str, Sequence[int]]) -> list[int]:
        columns: list[int] = []
        for name in names:
            if name not in spans:
                raise StrlKeyError(
                    f"{self.where}: unknown segment '{name}'.{suggest(name, spans)} The actor "
                    f"reads these vector segments: {list(spans)}."
                )
            columns += spans[name]
        return columns

    def _replaced(self, spans: Mapping[str, Sequence[int]]) -> list[int]:
        for target in self.targets:
            if target.name in spans and len(spans[target.name]) != target.size:
                raise StrlValueError(
                    f"{self.where}: '{target.name}' has {len(spans[target.name])} columns for the "
                    f"actor and {target.size} for the critic, so the estimate cannot replace it."
                )
        return self._columns_of([target.name for target in self.targets], spans)

    @property
    def replaces(self) -> bool:
        """Whether estimates may enter the actor's observation."""
        return self.spec.replace_prob > 0

    @property
    def reuses(self) -> bool:
        """Whether updates read what it said in the rollout."""
        return self.replaces and self.spec.reuse_estimates

    def forward(
        self,
        normal: th.Tensor,
        state: MemoryState | None,
        batch_sizes: th.Tensor | None,
        keep_state: bool = True,
    ) -> tuple[th.Tensor, MemoryState | None]:
        """
        Estimate from the normalised observation vector.

        :param normal: ``(B, vector_dim)``
        :param state: of the own memory
        :param batch_sizes: see :class:`~sb3_strl.policies.memory.Memory`
        :param keep_state: likewise
        :return: estimate ``(B, E)`` in units of the target's statistics, and the new state
        """
        x = normal.index_select(-1, self.columns)
        if self.memory is not None:
            assert state is not None
            x, state = self.memory(x, state, batch_sizes, keep_state)
        return self.net(x), state

    def raw(self, estimate: th.Tensor) -> th.Tensor:
        """Return an estimate in the units of the observation."""
        return estimate if self.normalizer is None else self.normalizer.inverse(estimate)

    def draw_mask(self, shape: Sequence[int], generator: th.Generator | None) -> th.Tensor:
        """Decide where the estimate replaces the observation, bool."""
        device = self.columns.device
        return th.rand(tuple(shape), generator=generator, device=device) < self.spec.replace_prob

    def inference_mask(self, rows: int) -> th.Tensor | None:
        """Return the decision in ``predict``, ``(rows, 1)`` bool; ``None`` for never."""
        mode = self.spec.inference_replace or "always"
        if mode == "never":
            return None
        if mode == "sample":
            return self.draw_mask((rows, 1), None)
        return th.ones((rows, 1), dtype=th.bool, device=self.columns.device)

    def splice(
        self,
        vector: th.Tensor,
        estimate: th.Tensor,
        mask: th.Tensor | None,
        stored: th.Tensor | None = None,
    ) -> th.Tensor:
        """
        Return the raw vector with estimates in place of the marked rows' segments.

        :param vector: raw, ``(B, vector_dim)``; not changed
        :param estimate: as :meth:`forward` returns it; no gradient flows into it
        :param mask: ``(B,)`` bool, ``None`` for nothing
        :param stored: raw estimates ``(B, E)`` to use instead
        """
        if mask is None or not self.replaces:
            return vector
        mine = vector.index_select(-1, self.target_columns)
        new = self.raw(estimate.detach()) if stored is None else stored
        mixed = th.where(mask.view(-1, 1), new, mine)
        return vector.index_copy(-1, self.target_columns, mixed)

    def target(self, obs: TensorDict) -> th.Tensor:
        """Return the true values ``(..., E)``, raw."""
        parts = []
        for segment in self.targets:
            group = obs[segment.group]
            rank = len(self.layout.spaces[segment.group].shape or ())
            flat = group.flatten(group.ndim - rank) if rank else group.unsqueeze(-1)
            parts.append(flat[..., segment.start : segment.stop].float())
        return th.cat(parts, -1)

    def standardized_target(self, obs: TensorDict) -> th.Tensor:
        """Return the true values ``(..., E)`` in the units of :meth:`forward`."""
        target = self.target(obs)
        return target if self.normalizer is None else self.normalizer(target)

    @th.no_grad()
    def update_normalizer(self, obs: TensorDict) -> None:
        """Add the targets of a rollout to their running statistics."""
        if self.normalizer is not None:
            self.normalizer.update(self.target(obs).reshape(-1, self.output_size))
