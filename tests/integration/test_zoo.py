"""Every configuration for the zoo trains; the zoo's own scripts work with our algorithms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from stable_baselines3.common.monitor import load_results

pytest.importorskip("rl_zoo3")

from sb3_strl.cli import zoo, zoo_files
from sb3_strl.cli.zoo_files import check_file, check_teacher, zoo_algorithms
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.envs.simulator_tasks import split_task
from sb3_strl.export import export_policy
from tests.integration.zoo_tools import FOLDER, TABLES, restore_zoo, train

pytestmark = pytest.mark.integration

CASES = [
    (algo, env_id)
    for algo, table in TABLES.items()
    for env_id in table
    if env_id != "default" and split_task(env_id) is None
]
"""What runs here: all but the tasks of simulators."""


@pytest.fixture(autouse=True)
def _clean_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    restore_zoo(monkeypatch)


SHORT = ("-n", "2000", "--eval-freq", "-1", "-params", "n_epochs:1")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the zoo's runs lie, teachers among them, as the configurations expect."""
    return tmp_path_factory.mktemp("zoo")


def train_briefly(algo: str, env_id: str, logs: Path) -> Path:
    """Train, the teacher before its student."""
    name = env_id.replace("/", "-")
    run = logs / "logs" / algo / f"{name}_1"
    if run.is_dir():
        return run
    options = TABLES[algo][env_id]
    if "teacher" in options:
        train_briefly(Path(options["teacher"]).parts[1], env_id, logs)
    # A rollout of hundreds of steps in each environment proves no more than one of tens.
    sizes = ["n_steps:64", "batch_size:64"] if options["n_steps"] > 64 else []
    sizes += ["sequence_length:32"] if "sequence_length" in options and sizes else []
    return train(algo, env_id, Path("logs"), *SHORT, *sizes).absolute()


@pytest.mark.parametrize(("algo", "env_id"), CASES)
def test_every_configuration_trains(
    algo: str, env_id: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(logs)
    run = train_briefly(algo, env_id, logs)
    name = env_id.replace("/", "-")
    saved = yaml.unsafe_load((run / name / "config.yml").read_text())
    assert dict(saved)["policy"] == TABLES[algo][env_id]["policy"]
    loaded = zoo_algorithms()[algo].load(run / f"{name}.zip")
    assert loaded.num_timesteps >= 2000
    assert loaded._n_updates >= 1
    assert all(bool(np.isfinite(p.detach().numpy()).all()) for p in loaded.policy.parameters())


def test_every_algorithm_has_configurations() -> None:
    assert set(TABLES) == set(zoo_algorithms())
    covered = {split_task(env_id) and split_task(env_id)[0] for env_id in TABLES["strl_ppo"]}  # type: ignore[index]
    assert covered == {None, "mjlab", "isaaclab", "playground"}


@pytest.mark.parametrize("algo", list(TABLES))
def test_every_key_is_known(algo: str) -> None:
    assert check_file(FOLDER / f"{algo}.yml", algo) == list(TABLES[algo])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: {n_step: 3}}", r"'a': hyperparameters: unknown option 'n_step'. Did you mean 'n_ste"),
        ("{a: {n_timestep: 3}}", r"Did you mean 'n_timesteps'"),
        ("{a: {policy_kwargs: {net_arc: [3]}}}", r"unknown option 'net_arc'. Did you mean 'net_a"),
        ("{a: {teacher: x}}", r"unknown option 'teacher'"),
        ("{a: 3}", r"'a' is 3. Expected a mapping"),
    ],
)
def test_unknown_keys_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text(text)
    with pytest.raises(StrlTypeError, match=message):
        check_file(file, "strl_ppo")


def test_the_zoo_refuses_unknown_keys_before_it_builds_anything(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("Pendulum-v1: {n_timesteps: 100, policy: MlpPolicy, n_epoch: 3}")
    with pytest.raises(StrlTypeError, match=r"strl zoo: 'Pendulum-v1'.*Did you mean 'n_epochs'"):
        train("strl_ppo", "Pendulum-v1", tmp_path, "--conf-file", str(file))


def test_a_teacher_that_was_not_trained_is_asked_for(tmp_path: Path) -> None:
    there = tmp_path / "teacher.zip"
    there.touch()
    for teacher in (None, str(there), {"path": str(there)}, {"class_name": "ActorCritic"}):
        check_teacher("here", teacher, "a-v0")
    with pytest.raises(StrlValueError, match=r"here.*zoo train --algo appo --env a-v0, or"):
        check_teacher("here", {"path": "logs/appo/Walker_1/none.zip"}, "a-v0")
    with pytest.raises(StrlValueError, match=r"no file. Expected a trained model"):
        train("tppo", "sb3_strl/PendulumHidden-v1", tmp_path, "-params", "teacher:'none.zip'")


def test_the_zoos_ppo_stays_stable_baselines3s() -> None:
    import rl_zoo3
    import stable_baselines3

    from sb3_strl import APPO, PPO
    from sb3_strl.cli.zoo_manager import register

    register()
    assert rl_zoo3.ALGOS["ppo"] is stable_baselines3.PPO
    assert rl_zoo3.ALGOS["strl_ppo"] is PPO
    assert rl_zoo3.ALGOS["appo"] is APPO


def test_batched_environments_are_made_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sb3_strl.cli import zoo_manager
    from sb3_strl.envs.walker import WalkerVecEnv

    made: list[Any] = []
    original = zoo_manager.make_vec

    def spy(*arguments: Any, **options: Any) -> Any:
        made.append(original(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(zoo_manager, "make_vec", spy)
    run = train(
        "appo",
        "sb3_strl/Walker-v0",
        tmp_path,
        *("-n", "3072", "--eval-freq", "1536", "--eval-episodes", "1"),
        *("--env-kwargs", "max_episode_length:30"),
    )
    assert sorted(env.num_envs for env in made) == [1, 64]
    assert all(isinstance(env, WalkerVecEnv) and env.max_episode_length == 30 for env in made)
    assert (run / "best_model.zip").is_file()
    assert len(np.load(run / "evaluations.npz", allow_pickle=False)["timesteps"]) == 2


def test_enjoy_runs_what_train_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algo, env_id in (("strl_ppo", "CartPoleNoVel-v1"), ("appo", "sb3_strl/Walker-v0")):
        train(algo, env_id, tmp_path, "-n", "600", "--eval-freq", "-1")
        capsys.readouterr()
        given = ["--algo", algo, "--env", env_id, "-f", str(tmp_path), "-n", "400", "--no-render"]
        assert zoo.run_with(["enjoy", *given, "--num-threads", "1"]) == 0
        assert "Mean reward" in capsys.readouterr().out


class Hub:
    """What the uploader asks of Hugging Face's interface."""

    uploads: ClassVar[list[Path]] = []

    def create_repo(self, repo_id: str, **options: Any) -> str:
        return f"hub/{repo_id}"

    def snapshot_download(self, repo_id: str, local_dir: Path) -> None:
        local_dir.mkdir(parents=True)

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.uploads.append(folder_path)


@pytest.mark.parametrize(
    ("algo", "env_id"), [("strl_ppo", "Pendulum-v1"), ("appo", "sb3_strl/Walker-v0")]
)
def test_push_to_hub_uploads_the_model_and_its_card(
    algo: str, env_id: str, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(logs)
    train_briefly(algo, env_id, logs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "uploads", [])
    given = ["--algo", algo, "--env", env_id, "-f", str(logs / "logs"), "-orga", "me"]
    assert zoo.run_with(["push_to_hub", *given, "--no-render", "--device", "cpu"]) == 0
    (folder,) = Hub.uploads
    card = (folder / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "stable-baselines3"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["type"] == "mean_reward"
    assert env_id in card
    model = folder / f"{algo}-{env_id.replace('/', '-')}.zip"
    assert zoo_algorithms()[algo].load(model, device="cpu").num_timesteps > 0


def test_a_batch_is_enjoyed_as_it_was_normalised(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_strl import make_vec
    from sb3_strl.cli import zoo_manager

    trained = VecNormalize(make_vec("sb3_strl/Walker-v0", 2, seed=0))
    trained.reset()
    for _ in range(5):
        trained.step(np.ones((2, 6), np.float32))
    given: dict[str, Any] = {"stats_path": str(tmp_path), "hyperparams": {"normalize": True}}
    with pytest.raises(StrlValueError, match=r"there is no .*vecnormalize.pkl"):
        zoo_manager.create_test_env("sb3_strl/Walker-v0", 1, should_render=False, **given)
    trained.save(str(tmp_path / "vecnormalize.pkl"))
    env = zoo_manager.create_test_env("sb3_strl/Walker-v0", 1, should_render=False, **given)
    assert isinstance(env, VecNormalize)
    assert not env.training
    assert not env.norm_reward
    seen: Any = env.reset()
    raw: Any = env.get_original_obs()
    assert not np.allclose(seen["policy"], raw["policy"])
    np.testing.assert_allclose(seen["policy"], trained.normalize_obs(raw)["policy"], rtol=1e-5)


@pytest.mark.parametrize(
    ("algo", "env_id"), [("strl_ppo", "Pendulum-v1"), ("appo", "sb3_strl/Walker-v0")]
)
def test_optuna_searches(algo: str, env_id: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    given = ["--algo", algo, "--env", env_id, "-f", str(tmp_path), "-n", "600", "-optimize"]
    more = ["--n-trials", "2", "--n-startup-trials", "2", "--n-evaluations", "1", "--seed", "3"]
    more += ["--eval-episodes", "1", "--num-threads", "1", "--no-optim-plots"]
    more += ["-params", "n_envs:2", "--optimization-log-path", str(tmp_path / "log")]
    assert zoo.run_with(["train", *given, *more]) == 0
    (report,) = (tmp_path / algo).glob("report_*.csv")
    table = report.read_text()
    assert table.count("COMPLETE") + table.count("PRUNED") == 2
    assert "COMPLETE" in table
    assert ("discriminator_learning_rate" in table) == (algo == "appo")


def test_a_stored_trial_trains_with_the_declared_parts(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    storage = ["--storage", f"sqlite:///{tmp_path / 'study.db'}", "--study-name", "s"]
    given = ["--algo", "strl_ppo", "--env", "CartPoleNoVel-v1", "-f", str(tmp_path), "-n", "300"]
    more = ["--n-trials", "2", "--n-startup-trials", "2", "--n-evaluations", "1", "--seed", "3"]
    more += ["--eval-episodes", "1", "--num-threads", "1", "--no-optim-plots", "-optimize"]
    assert zoo.run_with(["train", *given, *storage, *more]) == 0
    assert zoo.run_with(["train", *given, *storage, "--trial-id", "1", "--eval-freq", "-1"]) == 0
    (model,) = (tmp_path / "strl_ppo").glob("*/CartPoleNoVel-v1.zip")
    policy = zoo_algorithms()["strl_ppo"].load(model).policy
    assert policy.is_recurrent
    assert policy.actor_memory is not None
    assert policy.actor_memory.output_size == 64


def test_drawn_options_leave_the_parts_of_the_policy() -> None:
    from torch import nn

    from sb3_strl.cli.zoo_manager import Hyperparameters

    declared = {"activation": "elu", "net_arch": [4], "rnn": {"hidden_size": 3}}
    given = Hyperparameters({"policy_kwargs": declared, "n_steps": 8})
    drawn = {"policy_kwargs": {"net_arch": [2], "activation_fn": nn.Tanh}, "n_steps": 16}
    mixed = given.copy()
    mixed.update(drawn)
    assert mixed["n_steps"] == 16
    assert mixed["policy_kwargs"] == {
        "net_arch": [2],
        "activation_fn": nn.Tanh,
        "rnn": {"hidden_size": 3},
    }
    assert given == {"policy_kwargs": declared, "n_steps": 8}


def test_declared_lengths_of_sequences_stay_where_they_fit() -> None:
    from sb3_strl.cli.zoo_manager import Hyperparameters

    for drawn, kept in ((256, 32), (16, 16)):
        given = Hyperparameters(sequence_length=32, gamma=0.9)
        given.update({"sequence_length": drawn})
        assert given == {"sequence_length": kept, "gamma": 0.9}


@pytest.mark.parametrize("wanted", ["batch_size:32", "n_minibatches:2"])
def test_what_is_asked_of_minibatches_goes_before_the_configuration(
    wanted: str, tmp_path: Path
) -> None:
    algo, task = ("strl_ppo", "sb3_strl/Walker-v0")  # with n_minibatches
    if wanted.startswith("n"):
        task = "Pendulum-v1"  # with batch_size
    run = train(
        algo, task, tmp_path, "-n", "64", "--eval-freq", "-1", "-params", "n_envs:4", wanted
    )
    name, _, value = wanted.partition(":")
    model = zoo_algorithms()[algo].load(run / f"{task.replace('/', '-')}.zip")
    assert (model.batch_size, model.n_minibatches) in ((int(value), None), (None, int(value)))
    saved = yaml.unsafe_load((run / task.replace("/", "-") / "config.yml").read_text())
    assert {"batch_size", "n_minibatches"} & dict(saved).keys() == {name}


def test_episodes_of_a_batch_are_drawn_as_those_of_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    task, options = "sb3_strl/Walker-v0", ["-n", "480", "--eval-freq", "-1", "-params", "n_envs:4"]
    options.append("env_kwargs:dict(max_episode_length=20)")
    run = train("appo", task, tmp_path, *options)
    frame = load_results(str(run))
    assert 20 <= len(frame) <= 480
    assert frame["l"].max() <= 20
    assert frame["r"].abs().sum() > 0.0
    given = ["-a", "appo", "-e", "Walker", "-f", str(tmp_path)]
    assert zoo.run_with(["plot_train", *given]) == 0
    options.append("normalize:dict(norm_obs=False,norm_reward=True)")
    normalised = load_results(str(train("appo", task, tmp_path / "other", *options)))
    # The task's returns, not those that the update sees.
    assert normalised["r"][0] == pytest.approx(frame["r"][0], rel=1e-4)
    options[-1] = "monitor_kwargs:dict(info_keywords=('x',))"
    with pytest.raises(StrlTypeError, match=r"so monitor_kwargs .* do not fit"):
        train("appo", task, tmp_path, *options)


def test_what_draws_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    find = zoo.find_spec
    monkeypatch.setattr(zoo, "find_spec", lambda name: None if name == "seaborn" else find(name))
    with pytest.raises(StrlTypeError, match=r"\['seaborn'\] is not installed.*sb3_strl\[zoo\]"):
        zoo.run_with(["plot_train"])


def test_a_model_of_the_zoo_is_exported_from_its_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = train("strl_ppo", "PendulumNoVel-v1", tmp_path, "-n", "600", "--eval-freq", "-1")
    report = export_policy(run / "PendulumNoVel-v1.zip", tmp_path / "robot")
    assert max(parity.max_error for parity in report.parities) <= 1e-5


def test_help_lists_the_algorithms_in_a_fresh_process() -> None:
    command = [sys.executable, "-m", "sb3_strl.cli", "zoo", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("strl_ppo", "appo", "estimator_atppo", "ppo_lstm"))


def test_what_the_zoo_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    from sb3_strl.cli import zoo_manager
    from sb3_strl.envs import registration

    with pytest.raises(StrlValueError, match=r"unknown script 'trian'. Did you mean 'train'"):
        zoo.run_with(["trian"])
    with pytest.raises(StrlTypeError, match=r"do not fit. Expected none of them"):
        train("appo", "sb3_strl/Walker-v0", tmp_path, "-n", "64", "-params", "frame_stack:2")
    with pytest.raises(StrlValueError, match=r"there is no zoo_configs/nobody.yml"):
        zoo_files.default_config("nobody")
    monkeypatch.setitem(registration._TENSOR_ENTRY_POINTS, "ours/Batch-v0", "a:B")
    monkeypatch.setitem(gym.registry, "ours/Batch-v0", None)
    del gym.registry["ours/Batch-v0"]
    zoo_manager.register()
    with pytest.raises(StrlTypeError, match=r"is a batch of tensors .* Expected sb3_strl.make_vec"):
        gym.make("ours/Batch-v0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--algo", "strl_ppo", "--env", "Nonsense-v0"], "Nonsense-v0 not found"),
        (["train", "--algo", "appo", "--env", "CartPole-v1"], "Hyperparameters not found"),
        (["enjoy", "--algo", "appo", "--env", "CartPole-v1", "-f", "nologs"], "was not found"),
    ],
)
def test_refusals_of_the_zoo_are_sentences(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StrlValueError, match=f"strl zoo {arguments[0]}: .*{message}"):
        zoo.run_with(arguments)


def test_errors_below_the_zoo_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_run", lambda script: int("a defect"))
    with pytest.raises(ValueError, match="a defect") as caught:
        zoo.run_with(["train"])
    assert not isinstance(caught.value, StrlValueError)


def test_without_rl_zoo3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(StrlTypeError, match=r"pip install 'sb3_strl\[zoo\]'"):
        zoo.run_with(["train"])


class Trial:
    """Notes what it is asked for, and answers with the smallest value."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        self.names.append(name)
        return low


@pytest.mark.parametrize(
    ("algo", "names"),
    [
        ("strl_ppo", set()),
        ("appo", {"discriminator_learning_rate"}),
        ("tppo", {"distillation_loss_coef", "update_times_scale"}),
        ("estimator_ppo", {"estimator_loss_coef"}),
        (
            "estimator_atppo",
            {"discriminator_learning_rate", "distillation_loss_coef", "update_times_scale"}
            | {"estimator_loss_coef"},
        ),
    ],
)
def test_the_search_draws_what_an_algorithm_has(algo: str, names: set[str]) -> None:
    from sb3_strl.cli.config import check_hyperparameters
    from sb3_strl.cli.zoo_samplers import sample_objectives

    trial = Trial()
    drawn = sample_objectives(trial, zoo_algorithms()[algo])
    assert set(drawn) == set(trial.names) == names
    check_hyperparameters("here", zoo_algorithms()[algo], drawn)


def test_every_algorithm_has_a_sampler() -> None:
    import rl_zoo3.hyperparams_opt as search

    from sb3_strl.cli.zoo_manager import register

    register()
    assert set(zoo_algorithms()) <= set(search.HYPERPARAMS_SAMPLER)
    assert set(zoo_algorithms()) <= set(search.HYPERPARAMS_CONVERTER)


def test_trials_on_batches_of_tensors_are_evaluated_by_our_callback() -> None:
    import rl_zoo3.callbacks
    import rl_zoo3.exp_manager

    from sb3_strl import make_vec
    from sb3_strl.callbacks import TrialEvalCallback
    from sb3_strl.cli.zoo_manager import register

    register()
    make: Any = vars(rl_zoo3.exp_manager)["TrialEvalCallback"]
    env = make_vec("Pendulum-v1", 1)
    assert type(make(env, Trial(), eval_freq=3)) is TrialEvalCallback
    assert type(make(env.venv, Trial(), eval_freq=3)) is rl_zoo3.callbacks.TrialEvalCallback


def test_a_simulator_that_exists_once_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_strl.cli import zoo_manager

    task = "isaaclab/Isaac-Cartpole-v0"
    zoo_manager.register(["--env", task])
    manager = object.__new__(zoo_manager.StrlExperimentManager)
    manager.env_name, manager.algo = zoo_manager.rl_zoo3.exp_manager.EnvironmentName(task), "appo"
    manager.env_wrapper = manager.frame_stack = None
    with pytest.raises(StrlValueError, match=r"exists once per process.*Pass --eval-freq -1"):
        manager.create_envs(1, eval_env=True)
