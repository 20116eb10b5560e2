"""Returns and advantages."""

from __future__ import annotations

import torch as th

from sb3_strl.common.errors import StrlValueError


def gae(
    rewards: th.Tensor,
    values: th.Tensor,
    dones: th.Tensor,
    last_values: th.Tensor,
    gamma: float,
    gae_lambda: float,
) -> tuple[th.Tensor, th.Tensor]:
    r"""
    Generalised advantage estimation over one rollout (Schulman et al. 2016, eq. 16,
    https://arxiv.org/abs/1506.02438).

    .. math::
        \delta_t = r_t + \gamma (1 - d_t) V_{t+1} - V_t, \quad
        \hat A_t = \delta_t + \gamma \lambda (1 - d_t) \hat A_{t+1}, \quad
        R_t = \hat A_t + V_t

    A time-out is not a terminal state: its bootstrap :math:`\gamma V(s_T)` is already part of
    ``rewards``, after every objective has shaped them.

    :param rewards: ``(n_steps, n_envs)``
    :param values: ``(n_steps, n_envs)``, :math:`V_t`
    :param dones: ``(n_steps, n_envs)``, bool, the episode ended *with* step t
    :param last_values: ``(n_envs,)``, value of the observation after the last step
    :param gamma: discount, in [0, 1]
    :param gae_lambda: trade-off between bias (0) and variance (1), in [0, 1]
    :return: advantages and returns, each ``(n_steps, n_envs)``
    :raises StrlValueError: if the shapes disagree
    """
    if not rewards.shape == values.shape == dones.shape or last_values.shape != rewards.shape[1:]:
        raise StrlValueError(
            f"gae: rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and dones "
            f"{tuple(dones.shape)} must be (n_steps, n_envs), last_values "
            f"{tuple(last_values.shape)} must be (n_envs,)."
        )
    discount = (~dones).to(rewards.dtype).mul_(gamma)
    next_values = th.cat([values[1:], last_values.unsqueeze(0)])
    advantages = th.addcmul(rewards, discount, next_values).sub_(values)  # holds delta first
    decay = discount.mul_(gae_lambda).unbind(0)
    rows = advantages.unbind(0)
    for step in range(len(rows) - 2, -1, -1):
        rows[step].addcmul_(decay[step], rows[step + 1])
    return advantages, advantages + values
