"""
Train PPO on a Unitree Go1 that EnvPool simulates on the CPU, with asymmetric observations.

    pip install "sb3_strl[envpool]"
    python examples/simulators/train_envpool.py --n-envs 64
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Go1JoystickFlatTerrain-v1")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0 lets EnvPool choose")
    parser.add_argument("--timesteps", type=int, default=3_000_000)
    parser.add_argument("--save", default="envpool_ppo")
    args = parser.parse_args(arguments)

    import envpool

    # Seeds are fixed when the pool is made. state and privileged_state become policy and critic.
    pool = envpool.make(
        args.task,
        env_type="gymnasium",
        num_envs=args.n_envs,
        num_threads=args.threads,
        seed=0,
    )
    env = make_vec(pool)
    model = PPO("MlpPolicy", env, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps)
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
