"""
Train PPO on an Isaac Lab task, manager-based or direct. Run it with Isaac Lab's Python.

    isaaclab.sh -p -m pip install sb3_strl
    python examples/simulators/train_isaaclab.py --task Isaac-Ant-Direct-v0
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec
from sb3_strl.callbacks.random_starts import RandomStarts


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Isaac-Velocity-Flat-Anymal-D-v0")
    parser.add_argument("--n-envs", type=int, default=4_096)
    parser.add_argument("--timesteps", type=int, default=50_000_000)
    parser.add_argument("--save", default="isaaclab_ppo")
    args = parser.parse_args(arguments)

    from isaaclab.app import AppLauncher

    app = AppLauncher(headless=True).app  # before anything else of Isaac Lab is imported
    import gymnasium as gym
    import isaaclab_tasks  # noqa: F401  registers the tasks
    from isaaclab_tasks.utils import parse_env_cfg

    cfg = parse_env_cfg(args.task, device="cuda:0", num_envs=args.n_envs)
    cfg.seed = 0
    if hasattr(cfg, "compute_final_obs"):
        cfg.compute_final_obs = True  # exact values of time-outs, where Isaac Lab can
    env = make_vec(gym.make(args.task, cfg=cfg))
    model = PPO("MlpPolicy", env, ent_coef=0.005, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps, callback=RandomStarts())
    model.save(args.save)
    env.close()
    app.close()


if __name__ == "__main__":
    main()
