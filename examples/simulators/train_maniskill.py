"""
Train PPO on a ManiSkill task, simulated on a GPU.

    pip install sb3_strl mani_skill  # in an environment of its own: it pins Gymnasium
    python examples/simulators/train_maniskill.py --task PushCube-v1 --n-envs 512
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="PushCube-v1")
    parser.add_argument("--n-envs", type=int, default=512)
    parser.add_argument("--timesteps", type=int, default=5_000_000)
    parser.add_argument("--save", default="maniskill_ppo")
    args = parser.parse_args(arguments)

    import gymnasium as gym
    import mani_skill.envs  # noqa: F401  registers the tasks

    task = gym.make(
        args.task,
        num_envs=args.n_envs,
        obs_mode="state",
        control_mode="pd_joint_delta_pos",
        sim_backend="gpu",
    )
    env = make_vec(task)
    model = PPO("MlpPolicy", env, gamma=0.8, gae_lambda=0.9, verbose=1, seed=0)
    model.learn(args.timesteps)
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
