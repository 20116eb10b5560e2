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
from types import FrameType
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.utils import get_device

from sb3_strl import make_vec
from sb3_strl.algorithms import APPO, PPO
from sb3_strl.callbacks import DiscriminatorDoctor, RandomStarts
from sb3_strl.cli.config import (
    TrainConfig,
    apply_overrides,
    known_algorithms,
    read_options,
    read_yaml,
)
from sb3_strl.cli.console import complain, has_progress_bar, say
from sb3_strl.cli.resuming import Resumption, plan
from sb3_strl.cli.run_folder import RunFolder
from sb3_strl.cli.running import checked_device
from sb3_strl.cli.values import built
from sb3_strl.common import distributed
from sb3_strl.common.errors import PeerError, StrlValueError
from sb3_strl.envs import TensorVecEnv
from sb3_strl.envs.simulator_tasks import split_task

_PATIENCE_S = 1.5
"""What others wait, so that the launcher hears first from the process that failed."""

_EXAMPLES = """\
examples:
  strl train --env Pendulum-v1 --n-envs 4 --steps 1e5 --set gamma=0.9 --out runs/pendulum
  strl train --config walk.yml --seed 3 --out runs/walk-3
  strl train --resume runs/walk/model.zip --steps 1e6 --out runs/walk        goes on there
  strl train --resume runs/walk/model.zip --set gamma=0.95 --out runs/walk-more

a configuration has the keys of --help and 'hyperparameters', the keywords of the algorithm:
  env: sb3_strl/Walker-v0
  algorithm: appo
  policy: AmpPolicy
  n_envs: 64
  total_timesteps: 2e6
  seed: 0
  hyperparameters:
    gamma: 0.97
    schedule: adaptive
    desired_kl: 0.02
    policy_kwargs:
      net_arch: [256, 128]
      init_noise_std: 0.5
      empirical_normalization: true
      amp_discriminator: {hidden_dims: [256, 128], task_reward_lerp: 0.5}"""


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
    add("--env-kwargs", metavar="YAML", help="its options, e.g. '{max_episode_length: 500}'")
    add("--steps", dest="total_timesteps", type=float, help="environment steps, default 1e6")
    add("--n-envs", type=int, help="environments, default 16")
    add("--seed", type=int, help="default 0")
    add("--device", help="cpu, cuda, ...; default auto")
    add("--checkpoint-interval", type=int, help="environment steps between checkpoints")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a hyperparameter")
    add("--resume", metavar="MODEL", help="go on with a saved model and its settings")
    add("--out", default="runs/train", help="folder, default runs/train")
    add("--overwrite", action="store_true", help="replace the run that lies in --out")
    add("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def read_given(args: argparse.Namespace) -> dict[str, Any]:
    """Return what file and command line say, by key of a configuration."""
    given = {} if args.config is None else read_yaml(args.config)
    wishes: dict[str, Any] = {
        "env": args.env,
        "algorithm": args.algorithm,
        "policy": args.policy,
        "total_timesteps": args.total_timesteps,
        "n_envs": args.n_envs,
        "env_kwargs": None
        if args.env_kwargs is None
        else read_options("--env-kwargs", args.env_kwargs),
        "seed": args.seed,
        "device": args.device,
        "checkpoint_interval": args.checkpoint_interval,
    }
    given.update({key: value for key, value in wishes.items() if value is not None})
    if args.set:
        given["hyperparameters"] = apply_overrides(given.get("hyperparameters"), args.set)
    return given


def run(args: argparse.Namespace) -> int:
    """Train."""
    where = "config" if args.config is None else f"config {args.config}"
    given = read_given(args)
    resumption = None if args.resume is None else plan(args.resume, given, where)
    config = TrainConfig.from_dict(given, where) if resumption is None else resumption.config
    resumed = None if resumption is None else resumption.checkpoint.file
    folder = RunFolder(Path(args.out), resumed, args.overwrite)
    folder.check_free()
    distributed.start()
    device = config.device
    if device != "auto":
        checked_device(device)
    env = _make_env(config, device)
    try:
        model = _make_model(config, env, resumption, device)
        if distributed.is_main():
            _begin(model, config, folder)
            for name, (was, now) in ({} if resumption is None else resumption.changes).items():
                say(f"Changed: {name} was {was}, is {now} from here on")
        with _terminated_like_interrupted():
            doctors = _doctors(model)
            callbacks = [*_callbacks(config, args.out), *doctors]
            stopped = _learn(model, config.total_timesteps, callbacks, args)
            _save(model, folder.path, "Interrupted; saved" if stopped else "Saved")
        for doctor in doctors:
            if doctor.verdicts:
                say(doctor.report)
    finally:
        env.close()
    distributed.stop()
    return 130 if stopped else 0


def _make_env(config: TrainConfig, device: str) -> TensorVecEnv:
    """
    Make the environment where it will be trained on.

    :raises StrlValueError: if Gymnasium cannot
    """
    _check_module(config.env)
    where: Any = "cpu" if device == "auto" else device
    if split_task(config.env) is not None:  # simulators are for accelerators, where there is one
        where = get_device(device)
    seed = distributed.rank_seed(config.seed, config.n_envs)
    try:
        return make_vec(
            config.env, config.n_envs, device=where, seed=seed, env_kwargs=dict(config.env_kwargs)
        )
    except gym.error.Error as error:
        raise StrlValueError(
            f"strl train: the environment '{config.env}' cannot be made ({error}). Expected an "
            "id that gymnasium.make knows, or one of this library."
        ) from error


def _check_module(env_id: str) -> None:
    """Refuse ``module:id`` of a module that is not there; what goes wrong in it is its own."""
    module, colon, _ = env_id.partition(":")
    try:
        is_there = not colon or find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        is_there = False
    if not is_there:
        raise StrlValueError(
            f"strl train: there is no module '{module}', which --env '{env_id}' names. Expected "
            "one that Python can import. Install it, or run in its folder."
        )


def _callbacks(config: TrainConfig, out: str) -> list[BaseCallback]:
    found: list[BaseCallback] = [RandomStarts()] if config.random_starts else []
    if config.checkpoint_interval > 0:
        each = config.checkpoint_interval // (config.n_envs * distributed.world_size())
        found.append(CheckpointCallback(max(1, each), out, name_prefix="model"))
    return found


def _doctors(model: PPO) -> list[DiscriminatorDoctor]:
    """Return who examines the discriminator, where there is one; of several processes one does."""
    is_patient = isinstance(model, APPO) and distributed.is_main()
    return [DiscriminatorDoctor(verbose=0)] if is_patient else []


def _begin(model: PPO, config: TrainConfig, folder: RunFolder) -> None:
    """Write the configuration and open the logs; the first of several processes does."""
    suffix = folder.prepare(config)
    formats = ["csv", "tensorboard"] if find_spec("tensorboard") else ["csv"]
    out = str(folder.path)
    model.set_logger(Logger(out, [make_output_format(name, out, suffix) for name in formats]))
    n = distributed.world_size()
    where = "" if n == 1 else f" in {n} processes with {config.n_envs} environments each"
    say(f"Training {config.algorithm} on {config.env} for {config.total_timesteps} steps{where}")
    if suffix:
        say(f"The curves go on in {folder.path / f'progress{suffix}.csv'}")


def _save(model: PPO, out: Path, done: str) -> None:
    if distributed.is_active():
        _ignore_signals()
    model.save(out / "model")
    if distributed.is_main():
        say(f"{done} {out / 'model.zip'}{_last_return(model)}")


def _make_model(
    config: TrainConfig, env: TensorVecEnv, resumption: Resumption | None, device: str
) -> PPO:
    if resumption is not None:
        return resumption.load(env, device)
    return known_algorithms()[config.algorithm](
        config.policy, env, seed=config.seed, device=device, **built(config.hyperparameters)
    )


def _learn(model: PPO, steps: int, callbacks: list[Any], args: argparse.Namespace) -> bool:
    """Train; return whether a signal stopped it, also one that came while a failure was handled."""
    try:
        _learn_or_fail(model, steps, callbacks, args)
    except KeyboardInterrupt as stop:
        if isinstance(stop.__context__, PeerError):
            complain(f"strl train: {stop.__context__}")
        return True
    return False


def _learn_or_fail(model: PPO, steps: int, callbacks: list[Any], args: argparse.Namespace) -> None:
    """Train; with several processes a failure is saved, too."""
    try:
        model.learn(
            steps,
            callback=callbacks,
            progress_bar=has_progress_bar() and not args.quiet,
            reset_num_timesteps=args.resume is None,
        )
    except Exception as error:
        if distributed.is_active() and (isinstance(error, PeerError) or model.is_collecting):
            _save(model, Path(args.out), "A process failed; saved")
            if isinstance(error, PeerError):
                time.sleep(_PATIENCE_S)
        raise


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, stop a training as Ctrl-C does: it is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = [signal.signal(number, _interrupt) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)  # else there is something to finish, see below


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame  # which every handler is told
    if distributed.is_active():
        _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """A launcher ends all processes when one has ended; this one has something to finish."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _last_return(model: PPO) -> str:
    episodes = list(model.ep_info_buffer or ())
    if not episodes:
        return ""
    mean = sum(float(episode["r"]) for episode in episodes) / len(episodes)
    return f"; mean return of the last {len(episodes)} episodes: {mean:.2f}"
