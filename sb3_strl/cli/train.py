"""``strl train``."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.logger import configure

from sb3_strl import make_vec
from sb3_strl.algorithms import PPO
from sb3_strl.cli.config import (
    CONFIG_FILE,
    TrainConfig,
    apply_overrides,
    known_algorithms,
    read_yaml,
)
from sb3_strl.cli.console import has_progress_bar, say
from sb3_strl.common import distributed
from sb3_strl.common.errors import PeerError

_PATIENCE_S = 1.5
"""What others wait, so that the launcher hears first from the process that failed."""

_EXAMPLES = """\
examples:
  strl train --env Pendulum-v1 --n-envs 4 --steps 1e5 --set gamma=0.9 --out runs/pendulum
  strl train --config walk.yml --seed 3 --out runs/walk-3
  strl train --config runs/walk/config.yml --resume runs/walk/model.zip --out runs/walk-more

a configuration has the keys of --help and 'hyperparameters', the keywords of the algorithm:
  env: sb3_strl/Walker-v0
  algorithm: appo
  policy: AmpPolicy
  n_envs: 64
  total_timesteps: 2e6
  hyperparameters:
    n_steps: 24
    policy_kwargs: {net_arch: [256, 128]}"""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "train",
        help="train a policy",
        description="Train a policy; the model, its configuration and its curves go to one folder.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="yaml; what is given here wins over it")
    add("--env", help="id of an environment, default sb3_strl/Walker-v0")
    add("--algo", dest="algorithm", help=f"one of {', '.join(known_algorithms())}")
    add("--policy", help="name of a policy, e.g. MlpPolicy, EncoderAmpLstmPolicy")
    add("--steps", dest="total_timesteps", type=float, help="environment steps, default 1e6")
    add("--n-envs", type=int, help="environments, default 16")
    add("--seed", type=int, help="default 0")
    add("--device", help="cpu, cuda, ...; default auto")
    add("--checkpoint-interval", type=int, help="environment steps between checkpoints")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a hyperparameter")
    add("--resume", metavar="MODEL", help="go on with a saved model")
    add("--out", default="runs/train", help="folder, default runs/train")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def resolve(args: argparse.Namespace) -> TrainConfig:
    """Return the configuration of file and command line."""
    where = "config" if args.config is None else f"config {args.config}"
    given = {} if args.config is None else read_yaml(args.config)
    wishes: dict[str, Any] = {
        "env": args.env,
        "algorithm": args.algorithm,
        "policy": args.policy,
        "total_timesteps": args.total_timesteps,
        "n_envs": args.n_envs,
        "seed": args.seed,
        "device": args.device,
        "checkpoint_interval": args.checkpoint_interval,
    }
    given.update({key: value for key, value in wishes.items() if value is not None})
    if args.set:
        given["hyperparameters"] = apply_overrides(given.get("hyperparameters") or {}, args.set)
    return TrainConfig.from_dict(given, where)


def run(args: argparse.Namespace) -> int:
    """Train."""
    config = resolve(args)
    distributed.start()
    out = Path(args.out)
    seed = distributed.rank_seed(config.seed, config.n_envs)
    env = make_vec(config.env, config.n_envs, seed=seed, env_kwargs=dict(config.env_kwargs))
    try:
        model = _make_model(config, env, args.resume)
        callbacks: list[Any] = []
        if config.checkpoint_interval > 0:
            each = config.checkpoint_interval // (config.n_envs * distributed.world_size())
            callbacks.append(CheckpointCallback(max(1, each), str(out), name_prefix="model"))
        if distributed.is_main():
            _begin(model, config, out)
        with _terminated_like_interrupted():
            stopped = _learn(model, config.total_timesteps, callbacks, args)
            _save(model, out, "Interrupted; saved" if stopped else "Saved")
    finally:
        env.close()
    distributed.stop()
    return 130 if stopped else 0


def _begin(model: PPO, config: TrainConfig, out: Path) -> None:
    """Write the configuration and open the logs; the first of several processes does."""
    out.mkdir(parents=True, exist_ok=True)
    config.save(out / CONFIG_FILE)
    formats = ["csv", "tensorboard"] if find_spec("tensorboard") else ["csv"]
    model.set_logger(configure(str(out), formats))
    n = distributed.world_size()
    where = "" if n == 1 else f" in {n} processes with {config.n_envs} environments each"
    say(f"Training {config.algorithm} on {config.env} for {config.total_timesteps} steps{where}")


def _save(model: PPO, out: Path, done: str) -> None:
    if distributed.is_active() and threading.current_thread() is threading.main_thread():
        # A launcher ends all processes when one has ended; this one has something to finish.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    model.save(out / "model")
    if distributed.is_main():
        say(f"{done} {out / 'model.zip'}{_last_return(model)}")


def _make_model(config: TrainConfig, env: Any, resume: str | None) -> PPO:
    algorithm = known_algorithms()[config.algorithm]
    if resume is not None:
        return algorithm.load(resume, env=env, device=config.device)
    return algorithm(
        config.policy,
        env,
        seed=config.seed,
        device=config.device,
        **config.hyperparameters,
    )


def _learn(model: PPO, steps: int, callbacks: list[Any], args: argparse.Namespace) -> bool:
    """Train; return whether the user stopped it. With several processes a failure is saved, too."""
    bar = has_progress_bar() and not args.quiet
    try:
        model.learn(
            steps,
            callback=callbacks,
            progress_bar=bar,
            reset_num_timesteps=args.resume is None,
        )
    except KeyboardInterrupt:
        return True
    except Exception as error:
        if distributed.is_active() and (isinstance(error, PeerError) or model.is_collecting):
            _save(model, Path(args.out), "A process failed; saved")
            if isinstance(error, PeerError):
                time.sleep(_PATIENCE_S)
        raise
    return False


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, stop a training as Ctrl-C does: it is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
            signal.signal(signal.SIGTERM, before)  # else there is something to finish, see _save


def _last_return(model: PPO) -> str:
    episodes = list(model.ep_info_buffer or ())
    if not episodes:
        return ""
    mean = sum(float(episode["r"]) for episode in episodes) / len(episodes)
    return f"; mean return of the last {len(episodes)} episodes: {mean:.2f}"
