"""What PPO's own losses are made of in one minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch as th

from sb3_strl.algorithms.losses import (
    STAT_NAMES,
    LossSettings,
    PPOTargets,
    gaussian_ppo_loss,
    masked_mean,
    ppo_loss,
    standardize,
)
from sb3_strl.buffers.presets import ON_POLICY, estimate_field, mask_field
from sb3_strl.buffers.rollout_buffer import RolloutBatch
from sb3_strl.common import distributed
from sb3_strl.common.errors import StrlValueError
from sb3_strl.objectives.base import Objective
from sb3_strl.policies.action_head import ActionHead
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.distributions import GaussianHead
from sb3_strl.policies.outputs import PolicyOutput

_LOSS = STAT_NAMES.index("loss")
NormalizeAdvantage = bool | Literal["rollout", "minibatch"]


class MinibatchPass(NamedTuple):
    """
    What a minibatch comes to before other objectives and the optimizer.

    :param out: of the policy
    :param loss: PPO's own, ``None`` without it
    :param stats: of :data:`~sb3_strl.algorithms.losses.STAT_NAMES`, ``None`` without PPO's loss
    :param kl: exact divergence from the policy that acted, ``None`` if nobody asks
    """

    out: PolicyOutput
    loss: th.Tensor | None
    stats: th.Tensor | None
    kl: th.Tensor | None


def run_minibatch(
    policy: StrlPolicy,
    batch: RolloutBatch,
    settings: LossSettings | None,
    normalize_advantage: NormalizeAdvantage,
    with_kl: bool,
) -> MinibatchPass:
    """
    Run the policy over a minibatch and take PPO's losses: a function of tensors alone.

    :param policy: the policy
    :param batch: of the rollout
    :param settings: numbers in the loss, ``None`` for no loss of PPO's
    :param normalize_advantage: see :class:`~sb3_strl.algorithms.PPO`
    :param with_kl: whether to compute the divergence
    """
    out = evaluate_batch(policy, batch, settings is not None)
    kl = minibatch_kl(policy.action_head, batch, out) if with_kl else None
    if settings is None:
        return MinibatchPass(out, None, None, kl)
    loss, stats = minibatch_loss(policy.action_head, batch, out, settings, normalize_advantage)
    return MinibatchPass(out, loss, stats, kl)


def add_objectives(
    result: MinibatchPass, batch: RolloutBatch, objectives: Sequence[Objective], who: str
) -> tuple[th.Tensor, th.Tensor]:
    """
    Return the sum of all losses, and statistics.

    :param result: of :func:`run_minibatch`
    :param objectives: what is optimised besides
    :param who: the algorithm, for messages
    :raises StrlValueError: if a loss does not depend on parameters, or there is none at all
    """
    extra: th.Tensor | None = None
    for objective in objectives:
        term = objective.loss(batch, result.out)
        if term is None:
            continue
        if not term.requires_grad:
            raise StrlValueError(
                f"{who}: the loss of objective '{objective.name}' does not depend on anything that "
                "is trained. Return None from loss() to add nothing."
            )
        extra = term if extra is None else extra + term
    if result.loss is not None and result.stats is not None:
        if extra is None:
            return result.loss, result.stats
        loss, stats = result.loss + extra, result.stats.clone()
        stats[_LOSS] = loss.detach()
        return loss, stats
    if extra is None:
        raise StrlValueError(
            f"{who}: using_ppo=False leaves no loss to train on. Give a coefficient that is not 0."
        )
    return extra, extra.detach().view(1)


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
    stored = {name: batch.extras[estimate_field(name)] for name in policy.reused_estimates()}
    if with_values:
        return policy.evaluate(batch.observations, batch.sequences, masks, stored)
    sizes = None if batch.sequences is None else batch.sequences.batch_sizes
    state = None if batch.sequences is None else batch.sequences.state
    actor = policy.actor_pass(
        batch.observations, state, sizes, masks, keep_state=False, stored=stored
    )
    return PolicyOutput(actor.params, batch.old_values, actor.estimates)


def minibatch_loss(
    head: ActionHead,
    batch: RolloutBatch,
    out: PolicyOutput,
    settings: LossSettings,
    normalize_advantage: NormalizeAdvantage,
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
    if on_policy is None and isinstance(head, GaussianHead) and not th.compiler.is_compiling():
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
