"""
Train PPO on a task of MuJoCo Playground (MJX).

    pip install "sb3_strl[brax]" playground
    python examples/simulators/train_playground.py --task Go1JoystickFlatTerrain --n-envs 4096
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="CartpoleBalance")
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--impl", default=None, help="jax or warp; default the task's")
    parser.add_argument("--timesteps", type=int, default=500_000)
    parser.add_argument("--save", default="playground_ppo")
    args = parser.parse_args(arguments)

    from mujoco_playground import registry

    overrides = None if args.impl is None else {"impl": args.impl}
    robot = registry.load(args.task, config_overrides=overrides)
    length = registry.get_default_config(args.task).episode_length
    env = make_vec(robot, n_envs=args.n_envs, episode_length=length)
    model = PPO("MlpPolicy", env, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps)
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
