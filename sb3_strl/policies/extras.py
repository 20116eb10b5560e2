"""What users do with a whole policy: save it, load it alone, adapt it, embed its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch as th
from typing_extensions import Self

from sb3_strl.common.memory_state import PolicyState
from sb3_strl.policies.contract import Obs, TensorActorCritic
from sb3_strl.policies.loading import Source, load_policy, save_policy
from sb3_strl.policies.misaligned import (
    MisalignedReport,
    SourceLayout,
    load_misaligned_state_dict,
)
from sb3_strl.policies.precision import bfloat16_networks, full_precision, set_bfloat16
from sb3_strl.policies.visual import act_with_embedded_latent, embed_visual_latent

if TYPE_CHECKING:
    from sb3_strl.policies.actor_critic import StrlPolicy


class PolicyExtras(TensorActorCritic):
    """Methods that delegate to the functions of the same names in this folder."""

    def use_bfloat16(self, enabled: bool) -> None:
        """
        Run hidden layers of encoders and trunks in bfloat16 wherever a distribution or a value is
        asked for; acting (``predict``, ``act``) stays in float32.

        Memories, estimators, the discriminator, the last layers and all arithmetic behind them stay
        float32, as do parameters and gradients.

        :param enabled: ``False`` for float32 everywhere
        """
        policy = cast("StrlPolicy", self)
        parts = policy.actor_reader, policy.critic_reader, policy.actor, policy.critic
        set_bfloat16(bfloat16_networks(*parts), enabled)

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups that acting, valuing and estimating read, each once."""
        policy = cast("StrlPolicy", self)
        names = [*policy.actor_reader.groups, *policy.critic_reader.groups]
        names += [target.group for _, part in policy.each_estimator() for target in part.targets]
        return tuple(dict.fromkeys(names))

    @property
    def statistics_groups(self) -> tuple[str, ...]:
        """Observation groups that running statistics read, each once."""
        policy = cast("StrlPolicy", self)
        readers = policy.actor_reader, policy.critic_reader
        names = [g for reader in readers if reader.normalizer for g in reader.vector_groups]
        for _, estimator in policy.each_estimator():
            if estimator.normalizer is not None:
                names += [target.group for target in estimator.targets]
        return tuple(dict.fromkeys(names))

    def save(self, path: Source) -> None:
        """
        Write the policy alone to a file, see :func:`~sb3_strl.policies.loading.save_policy`.

        :param path: file name, used as it is, or a binary stream
        """
        save_policy(self, path)

    @classmethod
    def load(cls, path: Source, device: th.device | str = "auto") -> Self:
        """
        Load a policy alone from a policy or model file; no code in it is executed.

        :param path: file name, or a binary stream
        :param device: where to put it
        :return: a policy of this class or of the derived class that the file names
        :raises StrlValueError: see :func:`~sb3_strl.policies.loading.load_policy`
        """
        return load_policy(path, device, policy_class=cls)

    def load_misaligned_state_dict(
        self,
        src_state_dict: Mapping[str, th.Tensor],
        src_layout: SourceLayout,
        src_critic_layout: SourceLayout | None = None,
        *,
        strict_missing: bool = False,
        zero_new: bool = False,
    ) -> MisalignedReport:
        """
        Load weights by segment name.

        The arguments are those of
        :func:`~sb3_strl.policies.misaligned.load_misaligned_state_dict`.

        :return: what was copied, copied in part, skipped and left over
        """
        return load_misaligned_state_dict(
            cast("StrlPolicy", self),
            src_state_dict,
            src_layout,
            src_critic_layout,
            strict_missing=strict_missing,
            zero_new=zero_new,
        )

    def embed_visual_latent(self, obs: Obs) -> Obs:
        """
        Replace the images in an observation by their latents.

        :param obs: a vector ``(B, dim)`` or groups
        :return: the same with latents in place of pixels, see
            :func:`~sb3_strl.policies.visual.embed_visual_latent`
        """
        with full_precision(self):
            return embed_visual_latent(cast("StrlPolicy", self), obs)

    def act_with_embedded_latent(
        self,
        latent_obs: Obs,
        state: PolicyState | None = None,
        episode_starts: th.Tensor | None = None,
        deterministic: bool = True,
    ) -> tuple[th.Tensor, PolicyState]:
        """
        Act on what :meth:`embed_visual_latent` returned; no encoder of an image runs.

        :param latent_obs: a vector or groups, with latents
        :param state: what the step before returned; ``None`` for zeros
        :param episode_starts: ``(N,)``, rows whose state is forgotten first
        :param deterministic: take the mode instead of a sample
        :return: actions ``(N, *action_shape)`` as chosen, not clipped, and the new state
        """
        policy = cast("StrlPolicy", self)
        with full_precision(self):
            return act_with_embedded_latent(
                policy, latent_obs, state, episode_starts, deterministic
            )
