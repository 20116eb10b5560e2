"""What PPO's own losses are made of in one minibatch."""

from __future__ import annotations

from typing import Literal

import torch as th

from sb3_strl.algorithms.losses import (
    LossSettings,
    PPOTargets,
    gaussian_ppo_loss,
    masked_mean,
    ppo_loss,
    standardize,
)
from sb3_strl.buffers.presets import ON_POLICY, mask_field
from sb3_strl.buffers.rollout_buffer import RolloutBatch
from sb3_strl.common import distributed
from sb3_strl.policies.action_head import ActionHead
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.distributions import GaussianHead
from sb3_strl.policies.outputs import PolicyOutput


def evaluate_batch(policy: StrlPolicy, batch: RolloutBatch, with_values: bool) -> PolicyOutput:
    """
    Run the policy over a minibatch as it ran in the rollout.

    :param policy: the policy
    :param batch: of the rollout
    :param with_values: run the critic too; else the stored values stand in for its output
    """
    masks = {
        name: batch.extras[mask_field(name)]
        for name, estimator in policy.each_estimator()
        if estimator.replaces
    }
    if with_values:
        return policy.evaluate(batch.observations, batch.sequences, masks)
    sizes = None if batch.sequences is None else batch.sequences.batch_sizes
    state = None if batch.sequences is None else batch.sequences.state
    actor = policy.actor_pass(batch.observations, state, sizes, masks)
    return PolicyOutput(actor.params, batch.old_values, actor.estimates)


def minibatch_loss(
    head: ActionHead,
    batch: RolloutBatch,
    out: PolicyOutput,
    settings: LossSettings,
    normalize_advantage: bool | Literal["rollout", "minibatch"],
) -> tuple[th.Tensor, th.Tensor]:
    """
    Return surrogate + value + entropy loss of a minibatch, and statistics.

    :param head: of the policy
    :param batch: of the rollout; where the policy did not choose the action, only the value loss
        counts
    :param out: of the policy
    :param settings: numbers in the loss
    :param normalize_advantage: see :class:`~sb3_strl.algorithms.PPO`
    """
    on_policy = batch.extras.get(ON_POLICY)
    advantages = batch.advantages
    if normalize_advantage in ("minibatch", True) and len(advantages) > 1:
        advantages = standardize(advantages, on_policy)
    targets = PPOTargets(
        batch.actions, batch.old_log_prob, advantages, batch.old_values, batch.returns, on_policy
    )
    if on_policy is None and isinstance(head, GaussianHead):
        params = out.params
        return gaussian_ppo_loss(params["mean"], params["std"], out.values, targets, settings)
    log_prob, entropy = head.log_prob(out.params, batch.actions), head.entropy(out.params)
    return ppo_loss(log_prob, entropy, out.values, targets, settings)


@th.no_grad()
def minibatch_kl(head: ActionHead, batch: RolloutBatch, out: PolicyOutput) -> th.Tensor:
    r"""
    Return the mean of :math:`KL(\pi_{old} \| \pi)` where the policy chose the action, over all
    processes.
    """
    kl = masked_mean(head.kl(batch.dist, out.params), batch.extras.get(ON_POLICY))
    return distributed.mean(kl)
