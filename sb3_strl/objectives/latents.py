"""Imitating what a teacher's encoders make of privileged observations."""

from __future__ import annotations

from collections.abc import Mapping

import torch as th
from torch import nn

from sb3_strl.buffers.rollout_buffer import RolloutBatch
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.types import TensorDict
from sb3_strl.objectives.distances import (
    BOUNDED,
    LATENT_DISTANCES,
    check_distance,
    vector_distance,
)
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.stages import output_width

PREFIX = "teacher/latent/"


class LatentDistillation:
    """
    Pairs of encoders, one of the student and one of the teacher.

    :param where: who complains
    :param student: the policy that learns
    :param teacher: the frozen policy, ``None`` if there is none
    :param pairs: teacher's segment by student's segment
    :param target: one of :data:`~sb3_strl.objectives.distances.LATENT_DISTANCES`
    :param coef: weight of every pair
    :raises StrlTypeError: if the teacher has no encoders
    :raises StrlKeyError: if a segment has no encoder
    :raises StrlValueError: if the latents differ in width, or the distance does not fit them
    """

    def __init__(
        self,
        where: str,
        student: StrlPolicy,
        teacher: nn.Module | None,
        pairs: Mapping[str, str],
        target: str,
        coef: float,
    ) -> None:
        check_distance(where, "distill_latent_target", target, LATENT_DISTANCES)
        if not coef >= 0.0:
            raise StrlValueError(
                f"{where}: distill_latent_coef is {coef}. It must not be negative."
            )
        self.student, self.pairs, self.target = student, dict(pairs), target
        self.teacher = teacher if isinstance(teacher, StrlPolicy) else None
        if pairs and teacher is not None and self.teacher is None:
            raise StrlTypeError(
                f"{where}: distill_latent_obs_component_mapping needs a teacher with encoders, but "
                f"it is a {type(teacher).__name__}. Use a teacher with an 'Encoder' policy."
            )
        for mine, theirs in self.pairs.items():
            self._check_pair(where, mine, theirs)

    def _check_pair(self, where: str, mine: str, theirs: str) -> None:
        own = _encoder(where, "student", self.student, mine)
        if self.teacher is not None:
            other = _encoder(where, "teacher", self.teacher, theirs)
            if output_width(own) != output_width(other):
                raise StrlValueError(
                    f"{where}: the student's latent of '{mine}' has {output_width(own)} numbers "
                    f"and the teacher's of '{theirs}' {output_width(other)}. They must be the same."
                )
        last = list(own.modules())[-1]
        if self.target in BOUNDED and not isinstance(last, nn.Tanh):
            raise StrlValueError(
                f"{where}: distill_latent_target '{self.target}' compares latents in [-1, 1], but "
                f"that of '{mine}' ends in {type(last).__name__}. Use 'mse_sum', or encoders with "
                "kwargs=dict(nonlinearity='tanh')."
            )

    def widths(self) -> dict[str, int]:
        """Return the fields of the teacher's latents with their widths."""
        encoders = self.student.actor_reader.encoders
        return {PREFIX + name: output_width(encoders[name]) for name in self.pairs}

    @th.no_grad()
    def of_teacher(self, seen: TensorDict) -> TensorDict:
        """
        Return the fields of one step.

        :param seen: groups as the teacher was trained on, ``(N, ...)``
        """
        if self.teacher is None:
            return {}
        reader = self.teacher.actor_reader
        return {PREFIX + mine: reader.latent(seen, name) for mine, name in self.pairs.items()}

    def distance(self, batch: RolloutBatch) -> TensorDict:
        """Return the distance ``(B,)`` of every pair, named ``latent_<student's segment>``."""
        reader = self.student.actor_reader
        return {
            f"latent_{name}": vector_distance(
                self.target,
                reader.latent(batch.observations, name),
                batch.extras[PREFIX + name],
            )
            for name in self.pairs
        }


def _encoder(where: str, who: str, policy: StrlPolicy, name: str) -> nn.Module:
    encoders = policy.actor_reader.encoders
    if name not in encoders:
        raise StrlValueError(
            f"{where}: distill_latent_obs_component_mapping names '{name}', which no encoder of "
            f"the {who} reads. It encodes: {list(encoders)}."
        )
    return encoders[name]
