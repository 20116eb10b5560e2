"""One rollout: from decisions and outcomes to a buffer that is ready for the update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch as th

from sb3_strl.algorithms.losses import standardize
from sb3_strl.algorithms.sequence_values import Tail, add_tail_values, value_sequences
from sb3_strl.buffers.presets import ON_POLICY, estimate_field, mask_field
from sb3_strl.buffers.rollout_buffer import RolloutBuffer
from sb3_strl.common.action_bounds import action_bounds
from sb3_strl.common.compilation import Compiled
from sb3_strl.common.devices import move_groups
from sb3_strl.common.episode_stats import EpisodeStats
from sb3_strl.common.errors import StrlValueError
from sb3_strl.common.memory_state import PolicyState
from sb3_strl.common.types import TensorDict, TensorStep
from sb3_strl.envs import LazyArray, TensorVecEnv
from sb3_strl.objectives.base import Decision, Objective, RewardTerm, RolloutStep
from sb3_strl.policies.actor_critic import StrlPolicy
from sb3_strl.policies.outputs import ActorOutput

_CHUNK_ROWS = {"cpu": 4096}
_DEFAULT_CHUNK_ROWS = 65536
"""Rows of one forward pass over a whole rollout; few on a CPU, whose caches are small."""


def _decide(
    policy: StrlPolicy, obs: TensorDict, noise: th.Tensor | None
) -> tuple[TensorDict, th.Tensor]:
    params = policy.action_params(obs)
    return params, _draw(policy, params, noise)


def _decide_with_state(
    policy: StrlPolicy,
    obs: TensorDict,
    state: PolicyState,
    masks: TensorDict,
    noise: th.Tensor | None,
) -> tuple[ActorOutput, th.Tensor]:
    out = policy.actor_pass(obs, state, None, masks)
    return out, _draw(policy, out.params, noise)


def _draw(policy: StrlPolicy, params: TensorDict, noise: th.Tensor | None) -> th.Tensor:
    head = policy.action_head
    return head.mode(params) if noise is None else head.sample(params, noise)


class RolloutCollector:
    """
    Everything between policy, environment and buffer during one rollout.

    Only what the next environment step needs is computed at once. Values, log-probabilities and
    time-out bootstraps do not, so they are computed for the whole rollout in one pass at its end,
    and the random numbers of all steps are drawn in one block at its start.

    :param policy: the policy that acts
    :param generator: source of the action noise
    :param timeout_bootstrap: see :class:`~sb3_strl.algorithms.PPO`; final observations are kept for
        ``"auto"`` and ``"terminal"`` alone
    :param proposer: the one objective that may have other actions executed, if there is one
    :param compile_mode: of ``torch.compile``, ``None`` for none
    """

    def __init__(
        self,
        policy: StrlPolicy,
        generator: th.Generator,
        timeout_bootstrap: Literal["auto", "terminal", "last_value", "none"],
        proposer: Objective | None = None,
        compile_mode: str | None = None,
    ) -> None:
        self.policy = policy
        self.generator = generator
        self.device = generator.device
        self.timeout_bootstrap = timeout_bootstrap
        self.proposer = proposer
        self.final_obs: TensorDict = {}
        self._has_final: list[bool] = []
        self._has_warned = False
        space = policy.action_space
        bounds = action_bounds(space, self.device)
        self._bounds = None if bounds is None else (bounds[0].flatten(), bounds[1].flatten())
        self._action_shape = tuple(space.shape or ())
        self.state = PolicyState()
        self.estimates: TensorDict = {}
        self.is_stateful = policy.is_recurrent or bool(policy.estimators)
        self._tails: list[Tail] = []
        self.told: set[str] = set()  # why something could not be compiled
        compiled = compile_mode, "the policy's step", self.told
        self._decide = Compiled(_decide, *compiled)
        self._decide_with_state = Compiled(_decide_with_state, *compiled)

    # ------------------------------------------------------------------ per step

    def start(self, buffer: RolloutBuffer, env: TensorVecEnv, stats: EpisodeStats) -> None:
        """Begin a rollout."""
        buffer.reset()
        self.buffer, self.env, self.stats = buffer, env, stats
        head = self.policy.action_head
        shape = (buffer.buffer_size, buffer.n_envs)
        self.noise = head.draw_noise(shape, self.generator, self.device).unbind(0)
        self.masks = self.policy.draw_masks(shape, self.generator)
        for name, mask in self.masks.items():
            buffer[mask_field(name)].copy_(mask)
        self.logs: dict[str, list[th.Tensor]] = {}
        self._has_final = []

    def _act(self, obs: TensorDict, episode_starts: th.Tensor) -> tuple[TensorDict, th.Tensor]:
        """Return the action distribution's parameters and an action; advance the hidden states."""
        policy, step = self.policy, self.buffer.pos
        noise = None if policy.is_deterministic else self.noise[step]
        if not self.is_stateful:
            return self._decide(policy, obs, noise)
        # The critic's memory advances at the end, see `value`.
        self.buffer.sequences.store(step, self.state._replace(critic=None))
        before = self.state._replace(critic=None).reset(episode_starts)
        masks = {name: mask[step] for name, mask in self.masks.items()}
        out, actions = self._decide_with_state(policy, obs, before, masks, noise)
        self.state = out.state._replace(critic=self.state.critic)
        self.estimates = out.estimates
        for name, estimator in policy.reused_estimates().items():
            estimates = estimator.raw(out.estimates[name])
            self.buffer.storage.write(estimate_field(name), step, estimates)
        return out.params, actions

    @th.no_grad()
    def act(self, obs: TensorDict, episode_starts: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Decide and store the decision.

        What is stored is what is executed: the policy's own action, or in some rows another.

        :return: actions as chosen, and as the environment takes them (inside its bounds)
        """
        params, actions = self._act(obs, episode_starts)
        if self.proposer is None:
            self.buffer.add(obs, actions, params, episode_starts)
        else:
            decision = Decision(self.buffer.pos, obs, actions, episode_starts)
            proposal = self.proposer.propose_actions(decision)
            others = th.zeros_like(episode_starts)
            if proposal is not None:
                others = proposal.mask
                rows = others.view(-1, *[1] * (actions.ndim - 1))
                actions = th.where(rows, proposal.actions.to(actions.dtype), actions)
            self.buffer.add(obs, actions, params, episode_starts)
            self.buffer.put(ON_POLICY, ~others)
        if self._bounds is None:
            return actions, actions
        clipped = actions.clamp(*self._bounds)
        if len(self._action_shape) != 1:
            clipped = clipped.view(-1, *self._action_shape)
        return actions, clipped

    @th.no_grad()
    def step(self, actions: th.Tensor) -> TensorStep:
        """Step the environment and store the outcome."""
        result = self.env.step_tensor(actions)
        if result.rewards.device != self.device:
            result = _move(result, self.device)
        self.dones = result.terminated | result.truncated
        self.buffer.add_outcome(result.rewards, result.terminated, result.truncated)
        self.buffer.add_successor(result.obs, result.final_obs, self.dones)
        self.stats.update(result.rewards, self.dones)
        self._has_final.append(result.final_obs is not None)
        if result.final_obs is not None and self.timeout_bootstrap in ("auto", "terminal"):
            self._store_final(result.final_obs)
        log = result.extras.get("log")
        if log:
            for key, value in log.items():
                # A copy: it is the environment's, which may write the next step's into it.
                kept = th.as_tensor(value, dtype=th.float32).clone()
                self.logs.setdefault(key, []).append(kept)
        return result

    def _store_final(self, final_obs: TensorDict) -> None:
        buffer = self.buffer
        if not self.final_obs:
            for group in self.policy.critic_reader.groups:
                value = final_obs[group]
                self.final_obs[group] = buffer.storage.zeros(value.shape[1:], value.dtype)
        for group, storage in self.final_obs.items():
            storage[buffer.pos - 1].copy_(final_obs[group], non_blocking=True)

    @property
    def has_final_obs(self) -> bool:
        """Whether this rollout keeps final observations, for the values of its time-outs."""
        return bool(self.final_obs) and any(self._has_final)

    def lazy_locals(self, result: TensorStep) -> tuple[Any, LazyArray, LazyArray, Any]:
        """Return ``new_obs, rewards, dones, infos`` as callbacks read them, without a transfer."""
        stats = self.stats
        return (
            self.env.lazy_obs(result.obs),
            LazyArray(result.rewards),
            LazyArray(self.dones),
            self.env.lazy_infos(result, stats.last_returns, stats.last_lengths),
        )

    def as_step(self, actions: th.Tensor, result: TensorStep) -> RolloutStep:
        """Return the step that was just stored as objectives see it."""
        return RolloutStep(self.buffer.pos - 1, actions, result, self.dones)

    # ------------------------------------------------------------------ at the end

    @th.no_grad()
    def value(self, last_obs: TensorDict) -> th.Tensor:
        """
        Fill values and log-probabilities of the whole rollout.

        :param last_obs: observation after the last step
        :return: its value, ``(n_envs,)``
        """
        buffer, head = self.buffer, self.policy.action_head
        if self.policy.critic_memory is None:
            values = self._in_chunks(self.policy.values, buffer.obs(), 2)
            buffer["values"].copy_(values)
            last_values = self.policy.values(last_obs)
        else:
            last_values = self._sequence_values(last_obs)
        dist = {
            name: self._constant(name) if name in head.constant_params else stored.flatten(0, 1)
            for name, stored in buffer.dist().items()
        }
        actions = buffer["actions"].flatten(0, 1)
        log_probs = buffer["log_probs"]
        log_probs.copy_(head.log_prob(dist, actions).view_as(log_probs))
        return last_values

    def _sequence_values(self, last_obs: TensorDict) -> th.Tensor:
        """Run the critic's memory over the rollout; return the value of the last observation."""
        assert self.state.critic is not None
        after, self._tails = value_sequences(self.policy, self.buffer, self.state.critic)
        self.state = self.state._replace(critic=after)
        before = PolicyState(critic=after).reset(self.buffer.dones[-1])
        return self.policy.critic_pass(last_obs, before.critic)[0]

    def _constant(self, name: str) -> th.Tensor:
        """Return a parameter that is the same for all samples, and store it."""
        stored = self.buffer.dist()[name]
        value = self.policy.action_head.params(stored[0])[name]
        stored.copy_(value)
        return value

    def _in_chunks(
        self, function: Callable[[TensorDict], th.Tensor], obs: TensorDict, lead: int
    ) -> th.Tensor:
        """Apply a function of groups with ``lead`` leading dimensions, some rows at a time."""
        shape = next(iter(obs.values())).shape[:lead]
        flat = {group: value.flatten(0, lead - 1) for group, value in obs.items()}
        rows = _CHUNK_ROWS.get(self.device.type, _DEFAULT_CHUNK_ROWS)
        total = shape.numel()
        parts = [
            function(
                move_groups({g: v[start : start + rows] for g, v in flat.items()}, self.device)
            )
            for start in range(0, total, rows)
        ]
        return (parts[0] if len(parts) == 1 else th.cat(parts)).view(shape)

    @th.no_grad()
    def shape_rewards(self, terms: list[RewardTerm]) -> None:
        r"""Form :math:`r = \prod_i s_i \, r_{task} + \sum_i b_i` in place."""
        rewards = self.buffer["rewards"]
        scale = 1.0
        for term in terms:
            scale *= term.task_scale
        if scale != 1.0:
            rewards.mul_(scale)
        for term in terms:
            rewards.add_(term.bonus)

    @th.no_grad()
    def bootstrap(self, gamma: float) -> None:
        r"""
        Add :math:`\gamma V(s_T)` to the reward of every step that ran out of time.

        :raises StrlValueError: if ``"terminal"`` was asked for and the environment has no final
            observations
        """
        mode = self.timeout_bootstrap
        if mode == "none":
            return
        buffer = self.buffer
        cut = buffer["truncated"] & ~buffer["terminated"]
        if mode != "last_value":
            if not all(self._has_final):
                self._miss_final_obs()
            known = th.tensor(self._has_final, device=self.device).unsqueeze(-1)
            self._add_terminal_values(cut & known, gamma)
            cut = cut & ~known
        buffer["rewards"].addcmul_(buffer["values"], cut.to(th.float32), value=gamma)

    def _add_terminal_values(self, cut: th.Tensor, gamma: float) -> None:
        """Add the values of the final observations of the marked steps, in one batch."""
        if self.policy.critic_memory is not None:
            add_tail_values(self.policy, self.buffer, self._tails, self.final_obs, cut, gamma)
            return
        rows = cut.flatten().nonzero().squeeze(-1)  # the one place that asks how many
        if rows.numel():
            there = rows.to(self.buffer.storage_device)
            final = {g: v.flatten(0, 1).index_select(0, there) for g, v in self.final_obs.items()}
            bonus = self._in_chunks(self.policy.values, final, 1).mul_(gamma)
            self.buffer["rewards"].view(-1).index_add_(0, rows, bonus)

    def _miss_final_obs(self) -> None:
        """Refuse or announce that time-outs are bootstrapped with the value before the step."""
        if self.timeout_bootstrap == "terminal":
            raise StrlValueError(
                "PPO: timeout_bootstrap='terminal' needs final observations, which this "
                "environment does not supply. Use 'auto' or 'last_value'."
            )
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "PPO: this environment supplies no final observations, so time-outs are "
                "bootstrapped with the value of the observation before the step. Pass "
                "timeout_bootstrap='last_value' to accept this silently.",
                stacklevel=3,
            )

    def log_means(self) -> dict[str, float]:
        """
        Return what the environment logged during the rollout, one number per key; one transfer.

        Keys that end in ``_max`` or ``_min`` yield the largest or smallest value that is not NaN,
        all others the mean.
        """
        if not self.logs:
            return {}
        values = {
            key: th.cat([value.flatten() for value in parts]).to(self.device)
            for key, parts in self.logs.items()
        }
        results = th.stack([_aggregate(key, value) for key, value in values.items()])
        return dict(zip(values, results.tolist(), strict=True))


def _aggregate(key: str, values: th.Tensor) -> th.Tensor:
    """Return one number for everything that was logged under a key, ``(n,)``."""
    if not key.endswith(("_max", "_min")) or not values.numel():
        return values.mean()
    sign = 1.0 if key.endswith("_max") else -1.0
    largest = (values * sign).nan_to_num(nan=-th.inf, posinf=th.inf, neginf=-th.inf).amax() * sign
    return th.where(values.isnan().all(), th.nan, largest)


def normalize_advantages(buffer: RolloutBuffer) -> None:
    """Standardise a rollout's advantages in place, by those whose action the policy chose."""
    advantages = buffer["advantages"]
    if advantages.numel() > 1:
        mask = buffer[ON_POLICY] if ON_POLICY in buffer.fields else None
        advantages.copy_(standardize(advantages, mask))


def _move(result: TensorStep, device: th.device) -> TensorStep:
    """Bring a step to another device."""

    def groups(obs: TensorDict | None) -> Any:
        return None if obs is None else {key: value.to(device) for key, value in obs.items()}

    return TensorStep(
        groups(result.obs),
        result.rewards.to(device),
        result.terminated.to(device),
        result.truncated.to(device),
        groups(result.final_obs),
        result.extras,
    )
