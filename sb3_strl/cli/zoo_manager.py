"""What rl_zoo3 must know of this library: algorithms, samplers, batched environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3
import rl_zoo3.callbacks
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt as search
import rl_zoo3.train
import rl_zoo3.utils
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from sb3_strl import make_vec
from sb3_strl.callbacks import TrialEvalCallback
from sb3_strl.cli.config import read_yaml
from sb3_strl.cli.zoo_files import check_options, check_teacher, default_config, zoo_algorithms
from sb3_strl.cli.zoo_monitor import MonitorFile
from sb3_strl.cli.zoo_samplers import convert_params, make_sampler
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs import TensorVecEnv
from sb3_strl.envs.registration import register_gym_ids, tensor_env_ids
from sb3_strl.envs.simulator_tasks import SINGLE_PROCESS, register_simulator_task, split_task


class Hyperparameters(dict[str, Any]):
    """Hyperparameters whose ``update`` keeps the policy's declared options beside drawn ones."""

    def copy(self) -> Hyperparameters:
        """Return the same kind of mapping."""
        return Hyperparameters(self)

    def update(self, *given: Any, **more: Any) -> None:
        """Put drawn values in; ``policy_kwargs`` are merged, where the zoo replaces them."""
        super().update(keep_declared(self, dict(*given, **more)))


def keep_declared(declared: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return drawn hyperparameters with what the configuration declares beside them.

    :param declared: by the configuration
    :param drawn: by the search
    """
    found = dict(drawn)
    mine, theirs = declared.get("policy_kwargs"), drawn.get("policy_kwargs")
    if isinstance(mine, dict) and isinstance(theirs, dict):
        found["policy_kwargs"] = merge_policy_kwargs(mine, theirs)
    if declared.get("sequence_length") and drawn.get("sequence_length"):  # drawn: what fits
        found["sequence_length"] = min(declared["sequence_length"], drawn["sequence_length"])
    return found


def merge_policy_kwargs(declared: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a policy's options with drawn ones over them.

    :param declared: by the configuration: parts, normalisation, ...
    :param drawn: by the search
    """
    kept = dict(declared)
    if "activation_fn" in drawn:
        kept.pop("activation", None)  # the same thing under this library's name
    return {**kept, **drawn}


class StrlExperimentManager(ExperimentManager):
    """
    rl_zoo3's manager, for batched environments too.

    :param arguments: as there
    :param options: as there
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        algo = options["algo"] if "algo" in options else arguments[1]
        if algo in zoo_algorithms() and not options.get("config"):
            options["config"] = default_config(algo)
        super().__init__(*arguments, **options)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        Make environments; those that are batches of tensors are made as a whole.

        :param n_envs: how many
        :param eval_env: whether they are for evaluation
        :param no_log: write no files
        """
        env_id = self.env_name.gym_id
        if not self._is_batch:
            return super().create_envs(n_envs, eval_env, no_log)
        if self.env_wrapper is not None or self.frame_stack is not None:
            raise StrlTypeError(
                f"strl zoo: '{env_id}' is a batch of tensors, so env_wrapper and frame_stack do "
                "not fit. Expected none of them. Use vec_env_wrapper, or options of the "
                "environment in env_kwargs."
            )
        if eval_env and (split_task(env_id) or ("",))[0] in SINGLE_PROCESS:
            raise StrlValueError(
                f"strl zoo: '{env_id}' exists once per process, so there is none to evaluate on. "
                "Expected a training without evaluation. Pass --eval-freq -1."
            )
        kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
        device: Any = "cpu" if self.device == "auto" else self.device
        if split_task(env_id) is not None:  # simulators are for accelerators, where there is one
            device = get_device(self.device)
        env: VecEnv = make_vec(
            env_id, n_envs, device=device, seed=self.seed, env_kwargs=dict(kwargs)
        )
        if self.vec_env_wrapper is not None:
            env = self.vec_env_wrapper(env)
        return self._maybe_normalize(env, eval_env)

    def create_callbacks(self) -> None:
        """Make rl_zoo3's callbacks, and for a batch of tensors the one that writes monitor.csv."""
        super().create_callbacks()  # type: ignore[no-untyped-call]
        if self._is_batch and not self.optimize_hyperparameters:
            if self.monitor_kwargs:
                raise StrlTypeError(
                    f"strl zoo: '{self.env_name.gym_id}' is a batch of tensors, so monitor_kwargs "
                    f"{self.monitor_kwargs} do not fit. Expected none. Return what you want to see "
                    'as extras["log"] of the environment.'
                )
            self.callbacks.append(MonitorFile(self.save_path, self.env_name.gym_id))

    @property
    def _is_batch(self) -> bool:
        return self.algo in zoo_algorithms() and self.env_name.gym_id in tensor_env_ids()

    def objective(self, trial: Any) -> float:
        """
        Train with drawn hyperparameters.

        :param trial: Optuna's
        :return: mean return
        """
        if self.algo in zoo_algorithms():
            self._hyperparams = Hyperparameters(self._hyperparams)
        return float(super().objective(trial))

    def load_trial(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return the drawn hyperparameters of a trial, over the declared options of the policy."""
        drawn: dict[str, Any] = super().load_trial(*arguments, **options)
        if self.algo not in zoo_algorithms():
            return drawn
        table = read_yaml(self.config) if self.config.endswith((".yml", ".yaml")) else {}
        declared = table.get(self.env_name.gym_id) or table.get("default") or {}
        return keep_declared(declared, drawn)

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> Any:
        """Go on at the rate that an adaptive one or a scheduler had reached, unless asked for."""
        moves = hyperparams.get("schedule") == "adaptive" or hyperparams.get("lr_scheduler_class")
        asked = "learning_rate" in (self.custom_hyperparams or {})
        if self.algo in zoo_algorithms() and moves and not asked:
            hyperparams.pop("learning_rate", None)
        return super()._load_pretrained_agent(hyperparams, env)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the configuration; what ``-params`` says of minibatches goes before it."""
        found: tuple[dict[str, Any], dict[str, Any]] = super().read_hyperparameters()
        custom = self.custom_hyperparams or {}
        sizes = {"batch_size", "n_minibatches"}
        if self.algo in zoo_algorithms() and len(sizes & custom.keys()) == 1:
            for name in sizes - custom.keys():
                for table in found:
                    table.pop(name, None)
        return found

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        if self.algo in zoo_algorithms():
            where = f"strl zoo: '{self.env_name.gym_id}'"
            check_options(where, self.algo, hyperparams)
            check_teacher(where, hyperparams.get("teacher"), self.env_name.gym_id)
        name = hyperparams.get("rollout_buffer_class")
        if isinstance(name, str):
            hyperparams["rollout_buffer_class"] = rl_zoo3.utils.get_class_by_name(name)
        return super()._preprocess_hyperparams(hyperparams)


_original_test_env: Callable[..., VecEnv] = rl_zoo3.utils.create_test_env


def create_test_env(env_id: str, n_envs: int = 1, **options: Any) -> VecEnv:
    """
    Make the environment of ``enjoy`` and of videos; batched ones as a whole.

    :param env_id: of the environment
    :param n_envs: how many
    :param options: of rl_zoo3's function of this name
    """
    if env_id not in tensor_env_ids():
        return _original_test_env(env_id, n_envs, **options)
    kwargs = dict(options.get("env_kwargs") or {})
    if options.get("should_render", True):
        kwargs.setdefault("render_mode", "rgb_array")
    env: VecEnv = make_vec(env_id, n_envs, seed=options.get("seed", 0), env_kwargs=kwargs)
    if options.get("log_dir"):
        env = VecMonitor(env, str(Path(options["log_dir"]) / "0.monitor.csv"))
    hyperparams = options.get("hyperparams") or {}
    wrapper = rl_zoo3.utils.get_wrapper_class(hyperparams, "vec_env_wrapper")
    if wrapper is not None:
        env = wrapper(env)  # type: ignore[arg-type, assignment]
    if options.get("stats_path") is None or not hyperparams.get("normalize"):
        return env
    return _with_statistics(env, Path(options["stats_path"]) / "vecnormalize.pkl")


def _with_statistics(env: VecEnv, file: Path) -> VecNormalize:
    """Normalise observations as in training; rewards are those of the environment."""
    if not file.is_file():
        raise StrlValueError(
            f"strl zoo: there is no {file}, whose statistics the model was trained with. Expected "
            "the folder that strl zoo train wrote."
        )
    normalized = VecNormalize.load(str(file), env)
    normalized.training = normalized.norm_reward = False
    return normalized


def _only_as_batch(**options: Any) -> gym.Env[Any, Any]:
    raise StrlTypeError(
        f"gymnasium.make: this environment is a batch of tensors (options {sorted(options)}). "
        "Expected sb3_strl.make_vec or strl zoo with an algorithm of sb3_strl."
    )


_original_trial_callback: Callable[..., Any] = rl_zoo3.callbacks.TrialEvalCallback


def make_trial_callback(eval_env: VecEnv, trial: Any, **options: Any) -> Any:
    """
    Make what evaluates during a trial; on a batch of tensors, nothing is copied to the host.

    :param eval_env: environment
    :param trial: Optuna's
    :param options: of rl_zoo3's callback
    """
    make = TrialEvalCallback if isinstance(eval_env, TensorVecEnv) else _original_trial_callback
    return make(eval_env, trial, **options)


def register(arguments: Sequence[str] = ()) -> None:
    """
    Tell rl_zoo3, which looks everything up in tables, and gymnasium, whose ids it demands.

    :param arguments: of the command line; tasks of simulators among them are registered
    """
    algorithms = zoo_algorithms()
    rl_zoo3.ALGOS.update(algorithms)
    for name, algorithm in algorithms.items():
        search.HYPERPARAMS_SAMPLER[name] = make_sampler(algorithm)
        search.HYPERPARAMS_CONVERTER[name] = convert_params
    vars(rl_zoo3.train)["ExperimentManager"] = StrlExperimentManager
    vars(rl_zoo3.utils)["create_test_env"] = create_test_env
    vars(rl_zoo3.exp_manager)["TrialEvalCallback"] = make_trial_callback
    register_gym_ids()
    for argument in arguments:
        register_simulator_task(argument)
    for env_id in tensor_env_ids():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=_only_as_batch)
