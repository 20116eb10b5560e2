"""
Certify an adapter on a machine that has the simulator.

Give a function that makes the simulator's environment; it is wrapped by ``make_vec`` and put
through every promise of the contract, including a short training run::

    python scripts/certify_adapter.py my_robots:make_env --steps 200
    python scripts/certify_adapter.py my_robots:make_env --option zero_step=true --no-seeding

``--steps`` should be longer than an episode: without ends of episodes nothing is learnt about them.
Exit status 0 means certified; the report goes to standard error, ready for an issue.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_strl import PPO, make_vec
from sb3_strl.common.types import TensorStep
from sb3_strl.envs import TensorVecEnv, check_tensor_env

log = logging.getLogger("certify_adapter")


def random_actions(env: TensorVecEnv, seed: int) -> th.Tensor:
    """Draw actions for a batch, small ones where the bounds are those of unclipped actions."""
    rng = np.random.default_rng(seed)
    space = env.action_space
    if isinstance(space, spaces.Box):
        low, high = np.maximum(space.low, -1.0), np.minimum(space.high, 1.0)
        array = rng.uniform(low, high, (env.num_envs, *space.shape)).astype(np.float32)
    else:
        space.seed(seed)
        array = np.stack([space.sample() for _ in range(env.num_envs)])
    return th.tensor(array, device=env.device)


def tensors_of(step: TensorStep) -> list[th.Tensor]:
    """Return every tensor of a step."""
    final = [] if step.final_obs is None else list(step.final_obs.values())
    return [*step.obs.values(), step.rewards, step.terminated, step.truncated, *final]


def check_memory(env: TensorVecEnv) -> str:
    """Complain if the simulator overwrites what an earlier step returned."""
    env.reset_tensor()
    kept = []
    for number in range(5):
        step = env.step_tensor(random_actions(env, number))
        kept.append((tensors_of(step), [tensor.clone() for tensor in tensors_of(step)]))
    for number, (now, then) in enumerate(kept):
        if not all(th.equal(a, b) for a, b in zip(now, then, strict=True)):
            raise AssertionError(f"a tensor of step {number} was overwritten by a later step")
    return f"{len(kept[0][0])} tensors a step, all copies"


def check_ends(env: TensorVecEnv, n_steps: int) -> str:
    """Watch how episodes end; complain about last observations that are first ones."""
    env.reset_tensor()
    n_terminated = n_truncated = n_known = n_moved = 0
    for number in range(n_steps):
        step = env.step_tensor(random_actions(env, number))
        dones = step.terminated | step.truncated
        n_terminated += int(step.terminated.sum())
        n_truncated += int((step.truncated & ~step.terminated).sum())
        if step.final_obs is not None and bool(dones.any()):
            n_known += int(dones.sum())
            n_moved += int(moved_rows(step, dones).sum())
    if n_known and not n_moved:
        raise AssertionError("every last observation equals the first one after the reset")
    summary = f"{n_terminated} terminated, {n_truncated} cut, {n_known} with last observations"
    return summary if n_terminated + n_truncated else f"{summary}: raise --steps to see any end"


def moved_rows(step: TensorStep, dones: th.Tensor) -> th.Tensor:
    """Return which finished rows differ before and after the reset."""
    moved = th.zeros_like(dones)
    for name, last in (step.final_obs or {}).items():
        moved |= (last != step.obs[name]).flatten(1).any(-1)
    return moved & dones


def check_speed(env: TensorVecEnv, n_steps: int = 50) -> str:
    """Measure steps of the whole batch."""
    env.reset_tensor()
    actions = random_actions(env, 0)
    env.step_tensor(actions)
    start = time.perf_counter()
    for _ in range(n_steps):
        float(env.step_tensor(actions).rewards.sum())
    rate = n_steps * env.num_envs / (time.perf_counter() - start)
    return f"{rate:.0f} environment steps per second"


def check_lengths(env: TensorVecEnv) -> str:
    """Randomise the lengths of episodes, where the simulator counts them."""
    if env.episode_length_buf is None or env.max_episode_length is None:
        return "the simulator shows no step counts; RandomStarts cannot be used"
    env.reset_tensor()
    env.randomize_episode_lengths()
    lengths = env.episode_length_buf
    if env.num_envs > 1 and int(lengths.min()) == int(lengths.max()):
        raise AssertionError("all episodes have the same length after randomisation")
    return f"up to {env.max_episode_length} steps"


def check_training(env: TensorVecEnv) -> str:
    """Train for two iterations."""
    model = PPO("MlpPolicy", env, n_steps=8, n_minibatches=2, n_epochs=1, seed=0)
    model.learn(16 * env.num_envs)
    kind = "true last observations" if model.collector.has_final_obs else "the values before"
    return f"{model.num_timesteps} steps; time-outs are bootstrapped with {kind}"


def certify(env: TensorVecEnv, n_steps: int, seeding: bool) -> bool:
    """
    Run every check and report it.

    :param env: the adapter
    :param n_steps: steps of the longer checks
    :param seeding: whether runs of one seed must be equal
    :return: whether all passed
    """

    def contract() -> str:
        check_tensor_env(env, n_steps=n_steps, seeding=seeding)
        return "kept" if seeding else "kept; seeds were not asked for"

    checks: dict[str, Callable[[], str]] = {
        "contract": contract,
        "memory": lambda: check_memory(env),
        "ends": lambda: check_ends(env, n_steps),
        "lengths": lambda: check_lengths(env),
        "speed": lambda: check_speed(env),
        "training": lambda: check_training(env),
    }
    results = [passes(name, check) for name, check in checks.items()]  # all of them, always
    return all(results)


def passes(name: str, check: Callable[[], str]) -> bool:
    """Run one check and report it."""
    try:
        log.info("passed  %-9s %s", name, check())
    except Exception as error:  # noqa: BLE001  whatever a simulator raises belongs in the report
        log.error("FAILED  %-9s %s: %s", name, type(error).__name__, error)
        log.debug("%s", traceback.format_exc())
        return False
    return True


def parse_option(text: str) -> tuple[str, Any]:
    """Read ``name=value``, where the value is JSON or else a string."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("factory", help="module:function, called without arguments")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--no-seeding", action="store_true", help="the simulator cannot be seeded")
    parser.add_argument("--verbose", action="store_true", help="tracebacks of what failed")
    args = parser.parse_args(arguments)
    level = logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(level)

    sys.path.insert(0, str(Path.cwd()))
    module, _, name = args.factory.partition(":")
    thing = getattr(importlib.import_module(module), name)()
    env = make_vec(thing, **dict(parse_option(option) for option in args.option))
    log.info(
        "%s around %s on %s, %d environments",
        type(env).__name__,
        type(thing).__name__,
        env.device,
        env.num_envs,
    )
    log.info("observations %s, actions %s", env.observation_space, env.action_space)
    passed = certify(env, args.steps, not args.no_seeding)
    env.close()
    log.info("certified" if passed else "NOT certified")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
