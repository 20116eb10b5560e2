"""What every objective is: a closed set of hooks around PPO's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch as th

from sb3_strl.buffers.rollout_buffer import FieldSpec, RolloutBatch, RolloutBuffer
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs.tensor_vec_env import TensorVecEnv
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.outputs import PolicyOutput


@dataclass(frozen=True)
class Context:
    """
    What an objective may bind to.

    :param policy: the policy, built and on its device
    :param env: the tensor face of the environment, ``None`` when a model is loaded without one
    :param device: where all tensors live
    :param generator: source of all random numbers of the algorithm
    :param n_steps: steps per rollout
    :param n_envs: number of environments
    :param learning_rate: initial learning rate of the policy
    :param n_updates: returns the number k of completed updates, which schedules are functions of
    """

    policy: StrlPolicy
    env: TensorVecEnv | None
    device: th.device
    generator: th.Generator
    n_steps: int
    n_envs: int
    learning_rate: float
    n_updates: Callable[[], int] = lambda: 0


class RewardTerm(NamedTuple):
    r"""
    One objective's share of the reward: :math:`r = \prod_i s_i \, r_{task} + \sum_i b_i`.

    :param task_scale: factor on the task reward
    :param bonus: ``(n_steps, n_envs)``, added
    """

    task_scale: float
    bonus: th.Tensor


class Decision(NamedTuple):
    """
    What the policy is about to do.

    :param t: step in the rollout
    :param obs: groups that the environment returned, ``(n_envs, ...)``
    :param actions: the policy's own, ``(n_envs, action_dim)`` or ``(n_envs,)``
    :param episode_starts: ``(n_envs,)``, ``obs`` is the first of its episode
    """

    t: int
    obs: TensorDict
    actions: th.Tensor
    episode_starts: th.Tensor


class Proposal(NamedTuple):
    """
    What is executed instead.

    :param actions: as in :class:`Decision`
    :param mask: ``(n_envs,)`` bool, rows where they replace the policy's
    """

    actions: th.Tensor
    mask: th.Tensor


class RolloutStep(NamedTuple):
    """
    One environment step as objectives see it.

    :param t: step in the rollout
    :param actions: executed actions
    :param result: what the environment returned
    :param dones: ``terminated | truncated``
    """

    t: int
    actions: th.Tensor
    result: TensorStep
    dones: th.Tensor


class Objective:
    """
    A term beside PPO's surrogate, value and entropy losses.

    The constructor holds options, :meth:`setup` binds resources, the other hooks are called by the
    loop. All are optional.

    :param name: prefix of the objective's buffer fields and logger keys
    """

    loss_reads_policy: ClassVar[bool] = True
    """Whether :meth:`loss` looks at the policy's output; if not, that need not carry a graph."""

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, ctx: Context) -> None:
        """Bind to policy and environment; validate options here, not in the constructor."""

    def bind(self, env: TensorVecEnv) -> None:
        """Bind to an environment, the first one or one that replaces it."""

    def policy_kwargs(self) -> Mapping[str, Any]:
        """Return keywords that the policy needs beyond the user's."""
        return {}

    def buffer_fields(self) -> Mapping[str, FieldSpec]:
        """Return the fields to store, named ``<objective>/<field>``."""
        return {}

    def propose_actions(self, decision: Decision) -> Proposal | None:
        """
        Have other actions executed in some environments; ``None`` for none.

        At most one objective may. The loop stores what was executed with its probability under the
        policy, and where that was not the policy's choice only the value loss and the objectives'
        losses see the sample.
        """
        del decision
        return None

    def on_step(self, step: RolloutStep, buffer: RolloutBuffer) -> None:
        """Write this step's fields into the buffer."""

    def reward_term(self, buffer: RolloutBuffer) -> RewardTerm | None:
        """Shape the rewards of a complete rollout, before time-outs are bootstrapped."""
        del buffer
        return None

    def start_update(self, buffer: RolloutBuffer) -> None:
        """Prepare for the epochs on a complete rollout."""

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> th.Tensor | None:
        """Return a scalar to add to PPO's loss; it must depend on the policy."""
        del batch, out
        return None

    def update(self, batch: RolloutBatch) -> None:
        """Update what has its own optimizer, after the policy's step."""

    def stats(self) -> TensorDict:
        """Return what to log for the last rollout and update, 0-d tensors by logger key."""
        return {}

    def rollout_state(self) -> Any:
        """Return what is carried from step to step: tensors in plain containers, or ``None``."""
        return None

    def load_rollout_state(self, state: Any) -> None:
        """Take up what :meth:`rollout_state` returned."""

    def memory(self) -> Mapping[str, int]:
        """Return the bytes of what is kept beside policy and rollout, by what it is."""
        return {}

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Tell whether the objective has a hook of its own."""
        return any(hook in vars(base) for base in cls.__mro__ if base not in (Objective, object))

    def describe(self) -> tuple[str, str, str]:
        """Return name, coefficient and active hooks for ``print(model)``."""
        names = ("propose_actions", "on_step", "reward_term", "loss", "update")
        hooks = [name for name in names if self.overrides(name)]
        return (self.name, "-", ", ".join(hooks))
