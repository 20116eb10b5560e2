"""
Train PPO on a ``gymnasium.vector`` environment, in any autoreset mode.

    pip install sb3_strl
    python examples/simulators/train_gymnasium_vector.py --mode SameStep
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Pendulum-v1")
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--mode", default="NextStep", choices=["NextStep", "SameStep", "Disabled"])
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--save", default="gymnasium_vector_ppo")
    args = parser.parse_args(arguments)

    import gymnasium as gym

    batch = gym.make_vec(
        args.task,
        num_envs=args.n_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": args.mode},
    )
    env = make_vec(batch)
    model = PPO("MlpPolicy", env, n_steps=64, gamma=0.9, verbose=1, seed=0)
    model.learn(args.timesteps)
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
