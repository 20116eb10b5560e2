"""
Train PPO on a Brax environment; JAX and torch share the memory of a GPU.

    pip install "sb3_strl[brax]"
    python examples/simulators/train_brax.py --task ant --n-envs 2048
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="inverted_pendulum")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=200_000)
    parser.add_argument("--save", default="brax_ppo")
    args = parser.parse_args(arguments)

    import brax.envs

    # The environment itself: batches, time limits and resets are the adapter's.
    robot = brax.envs.get_environment(args.task)
    env = make_vec(robot, n_envs=args.n_envs, episode_length=500)
    model = PPO("MlpPolicy", env, verbose=1, seed=0)
    model.learn(args.timesteps)
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
