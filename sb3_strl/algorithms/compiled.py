"""The minibatch, compiled as far as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_strl.algorithms.losses import STAT_NAMES, LossSettings
from sb3_strl.algorithms.minibatch import MinibatchPass, NormalizeAdvantage, run_minibatch
from sb3_strl.buffers.rollout_buffer import RolloutBatch
from sb3_strl.common import distributed
from sb3_strl.common.compilation import Compiled
from sb3_strl.objectives.base import Objective
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.outputs import PolicyOutput

_LOSS = STAT_NAMES.index("loss")


class _Pass(nn.Module):
    """:func:`run_minibatch` as a module, so that its parameters can be arguments."""

    def __init__(self, policy: StrlPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        batch: RolloutBatch,
        settings: LossSettings,
        normalize_advantage: NormalizeAdvantage,
        with_kl: bool,
    ) -> Any:
        """Return the loss to differentiate, and what is reported of it."""
        result = run_minibatch(self.policy, batch, settings, normalize_advantage, with_kl)
        kl = result.stats if result.kl is None else result.kl
        return result.loss, (result.stats, kl)


def _with_gradients(
    module: _Pass,
    parameters: dict[str, th.Tensor],
    batch: RolloutBatch,
    settings: LossSettings,
    normalize_advantage: NormalizeAdvantage,
    with_kl: bool,
) -> tuple[list[th.Tensor], th.Tensor, th.Tensor]:
    """Run a minibatch forward and backward, as one function of tensors."""

    def loss(parameters: dict[str, th.Tensor]) -> Any:
        arguments = (batch, settings, normalize_advantage, with_kl)
        return th.func.functional_call(module, parameters, arguments)

    with th.no_grad():
        gradients, (_, (stats, kl)) = th.func.grad_and_value(loss, has_aux=True)(parameters)
    return list(gradients.values()), stats, kl


class MinibatchRunner:
    """
    Policy and PPO's losses of a minibatch.

    Compiled, a feed-forward policy's gradients come out of the same function: what autograd would
    do at every minibatch (build a graph, run it backwards) is done once, while compiling. That is
    not possible where a memory's own kernels or the loss of an objective need the graph; there
    only the parts between are compiled.

    :param policy: the policy
    :param parameters: what is trained
    :param objectives: what else is optimised
    :param mode: of ``torch.compile``, ``None`` to compile nothing
    :param told: see :class:`~sb3_strl.common.compilation.Compiled`
    """

    def __init__(
        self,
        policy: StrlPolicy,
        parameters: Sequence[nn.Parameter],
        objectives: Sequence[Objective],
        mode: str | None,
        told: set[str] | None = None,
    ) -> None:
        self.policy = policy
        self._plain = Compiled(run_minibatch, mode, "the update", told)
        readers = [o for o in objectives if o.overrides("loss") and o.loss_reads_policy]
        self._with_gradients: Compiled[..., Any] | None = None
        if mode is not None and not readers and not policy.is_recurrent:
            self._with_gradients = Compiled(_with_gradients, mode, "the update", told)
        self._module = _Pass(policy)
        trained = {id(parameter): parameter for parameter in parameters}
        names = {id(p): name for name, p in self._module.named_parameters()}
        self._trained = {names[k]: p for k, p in trained.items() if k in names}

    @property
    def is_compiled(self) -> bool:
        """Whether the minibatch runs compiled, as far as is known."""
        return self._plain.is_compiled

    def __call__(
        self,
        batch: RolloutBatch,
        settings: LossSettings | None,
        normalize_advantage: NormalizeAdvantage,
        with_kl: bool,
    ) -> MinibatchPass:
        """Run a minibatch; see :func:`~sb3_strl.algorithms.minibatch.run_minibatch`."""
        arguments = batch, settings, normalize_advantage, with_kl
        run = self._with_gradients
        if run is not None and settings is not None and not distributed.is_active():
            result = run.attempt(self._module, self._trained, *arguments)
            if result is not None:
                gradients, stats, kl = result
                for parameter, gradient in zip(self._trained.values(), gradients, strict=True):
                    parameter.grad = gradient
                out = PolicyOutput({}, batch.old_values, {})
                return MinibatchPass(out, stats[_LOSS], stats, kl if with_kl else None)
            self._with_gradients, self._plain = None, self._plain.uncompiled()
        return self._plain(self.policy, *arguments)
