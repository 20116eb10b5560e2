"""
Train PPO on a Unitree robot of mjlab. On a GPU use thousands of environments.

    pip install sb3_strl mjlab  # in an environment of its own: it pins MuJoCo
    python examples/simulators/train_mjlab.py --n-envs 4096 --device cuda:0
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec
from sb3_strl.callbacks.random_starts import RandomStarts


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Mjlab-Velocity-Flat-Unitree-Go1")
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timesteps", type=int, default=100_000)
    parser.add_argument("--save", default="mjlab_ppo")
    args = parser.parse_args(arguments)

    import mjlab.tasks  # noqa: F401  registers the tasks
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.registry import load_env_cfg

    cfg = load_env_cfg(args.task)
    cfg.scene.num_envs = args.n_envs
    cfg.seed = 0
    env = make_vec(ManagerBasedRlEnv(cfg, device=args.device))
    model = PPO("MlpPolicy", env, ent_coef=0.01, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps, callback=RandomStarts())
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
