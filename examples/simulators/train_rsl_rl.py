"""
Train PPO on an environment written for rsl_rl's runner: legged_gym's, or yours.

    pip install sb3_strl
    python examples/simulators/train_rsl_rl.py --factory my_package.envs:make_env --n-envs 4096
"""

from __future__ import annotations

import argparse
import importlib

from sb3_strl import PPO, make_vec
from sb3_strl.callbacks.random_starts import RandomStarts


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="module:function of (n_envs) -> VecEnv")
    parser.add_argument("--n-envs", type=int, default=4_096)
    parser.add_argument("--timesteps", type=int, default=50_000_000)
    parser.add_argument("--save", default="rsl_rl_ppo")
    args = parser.parse_args(arguments)

    module, name = args.factory.split(":")
    factory = getattr(importlib.import_module(module), name)
    # An environment whose reset brings fewer groups than its steps needs zero_step=True.
    env = make_vec(factory(args.n_envs))
    model = PPO("MlpPolicy", env, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps, callback=RandomStarts())
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
