"""
Train PPO on the Go2 of Genesis's locomotion examples: run it where their go2_env.py lies.

    pip install sb3_strl genesis-world tensordict
    python examples/simulators/train_genesis.py --n-envs 4096
"""

from __future__ import annotations

import argparse

from sb3_strl import PPO, make_vec
from sb3_strl.callbacks.random_starts import RandomStarts


def main(arguments: list[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-envs", type=int, default=4_096)
    parser.add_argument("--timesteps", type=int, default=40_000_000)
    parser.add_argument("--save", default="genesis_ppo")
    args = parser.parse_args(arguments)

    import genesis as gs
    from go2_env import Go2Env  # examples/locomotion of Genesis
    from go2_train import get_cfgs

    gs.init(logging_level="warning")
    env_cfg, obs_cfg, reward_cfg, command_cfg = get_cfgs()
    env = make_vec(
        Go2Env(
            num_envs=args.n_envs,
            env_cfg=env_cfg,
            obs_cfg=obs_cfg,
            reward_cfg=reward_cfg,
            command_cfg=command_cfg,
        )
    )
    model = PPO("MlpPolicy", env, ent_coef=0.01, schedule="adaptive", verbose=1, seed=0)
    model.learn(args.timesteps, callback=RandomStarts())
    model.save(args.save)
    env.close()


if __name__ == "__main__":
    main()
