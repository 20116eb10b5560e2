"""What rsl_rl's own runner trained and saved acts and values the same here, to 1e-6."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from gymnasium import spaces

from sb3_strl.common.types import TensorDict
from sb3_strl.migrate import (
    Spaces,
    from_rsl_rl_config,
    load_checkpoint,
    load_rsl_rl_checkpoint,
)
from sb3_strl.policies import StrlPolicy
from tests.envs.toy import PointMass, box
from tests.migrate.runs import SPACES, Noise, observations, train

pytest.importorskip("rsl_rl")
tensordict = pytest.importorskip("tensordict")

HETERO = "HeteroscedasticGaussianDistribution"
CNN = {
    "output_channels": [4, 6], "kernel_size": [5, 3], "stride": 2, "padding": "replicate",
    "norm": "layer", "activation": "relu", "max_pool": [True, False],
}  # fmt: skip
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "scalar": {"class_name": "GaussianDistribution", "init_std": 0.7},
    "log": {"class_name": "GaussianDistribution", "init_std": 0.4, "std_type": "log"},
    "hetero": {"class_name": HETERO, "init_std": 0.5, "std_type": "log", "std_range": [0.2, 2.0]},
}
RNN = {"class_name": "RNNModel", "rnn_hidden_dim": 8}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"class_name": "MLPModel", "hidden_dims": [16, 8]},
    "mlp-normal": {"class_name": "rsl_rl.models:MLPModel", "obs_normalization": True},
    "mlp-wide": {"class_name": "MLPModel", "hidden_dims": [-1, 8], "activation": "crelu"},
    "lstm": {**RNN, "rnn_type": "lstm", "rnn_num_layers": 2, "obs_normalization": True},
    "gru": {**RNN, "rnn_type": "gru", "hidden_dims": [-1]},
    "cnn": {"class_name": "CNNModel", "cnn_cfg": CNN, "hidden_dims": [-1, 8]},
    "cnn-normal": {"class_name": "CNNModel", "cnn_cfg": CNN, "obs_normalization": True},
}


def make_config(model: str = "mlp", dist: str = "scalar", **algorithm: Any) -> dict[str, Any]:
    """Return what ``OnPolicyRunner`` takes."""
    network = {"hidden_dims": [8], **copy.deepcopy(MODELS[model])}
    vectors, images = ["extra", "policy"], ["rgb", "depth"]
    groups = ["rgb", *vectors, "depth"] if network["class_name"] == "CNNModel" else vectors
    critic = ["policy", *images] if network["class_name"] == "CNNModel" else ["policy"]
    return {
        "seed": 3,
        "num_steps_per_env": 6,
        "save_interval": 50,
        "max_iterations": 7,
        "obs_groups": {"actor": groups, "critic": critic},
        "actor": {**network, "distribution_cfg": DISTRIBUTIONS[dist]},
        "critic": {**network, "hidden_dims": [12]},
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 2,
            "clip_param": 0.3, "gamma": 0.97, "lam": 0.9, "value_loss_coef": 0.5,
            "entropy_coef": 0.02, "learning_rate": 2e-3, "max_grad_norm": 0.7, "optimizer": "adam",
            "use_clipped_value_loss": False, "schedule": "adaptive", "desired_kl": 0.02,
            "rnd_cfg": None, "symmetry_cfg": None, **algorithm,
        },
    }  # fmt: skip


def assert_close(mine: th.Tensor, theirs: th.Tensor) -> None:
    assert mine.shape == theirs.shape
    assert th.allclose(mine, theirs, rtol=1e-6, atol=1e-6), (mine - theirs).abs().max()


@th.no_grad()
def assert_same(state: TensorDict, before: TensorDict) -> None:
    assert [name for name in before if not th.equal(state[name], before[name])] == []
    assert state.keys() == before.keys()


def assert_same_policy(policy: StrlPolicy, runner: Any) -> None:
    """Act, value and judge actions beside rsl_rl for a few steps, with an end in between."""
    alg, state = runner.alg, None
    for model in (alg.actor, alg.critic):
        model.reset()
    starts = th.ones(4, dtype=th.bool)
    for step in range(4):
        groups: TensorDict = {name: (1.0 + step) * value for name, value in observations().items()}
        batch = tensordict.TensorDict(groups, [4])
        before = policy.initial_state(4) if state is None else state
        before = before.reset(starts)
        actions, state = policy.act(groups, before, th.zeros(4, dtype=th.bool))
        values, critic = policy.critic_pass(groups, before.critic)
        state = state._replace(critic=critic)
        drawn = alg.actor(batch, stochastic_output=True)
        params = policy.actor_pass(groups, before).params
        assert_close(
            policy.action_head.log_prob(params, drawn), alg.actor.get_output_log_prob(drawn)
        )
        assert_close(policy.action_head.entropy(params), alg.actor.output_entropy)
        assert_close(actions, alg.actor.output_mean)
        assert_close(values, alg.critic(batch).squeeze(-1))
        starts = th.tensor([False, True, False, step == 1])
        alg.actor.reset(starts.long())
        alg.critic.reset(starts.long())


@pytest.mark.parametrize("dist", list(DISTRIBUTIONS))
@pytest.mark.parametrize("model", list(MODELS))
def test_round_trip(model: str, dist: str, tmp_path: Path) -> None:
    config = make_config(model, dist)
    runner, path = train(config, tmp_path)
    policy = load_rsl_rl_checkpoint(path, config, SPACES)
    assert_same_policy(policy, runner)


def test_shared_encoders(tmp_path: Path) -> None:
    config = make_config("cnn", share_cnn_encoders=True)
    runner, path = train(config, tmp_path)
    policy = load_rsl_rl_checkpoint(path, config, SPACES)
    assert policy.critic_reader.encoders["rgb"] is policy.actor_reader.encoders["rgb"]
    assert_same_policy(policy, runner)


@pytest.mark.parametrize("model", ["mlp-normal", "lstm", "cnn"])
def test_a_migrated_run_goes_on_training(model: str, tmp_path: Path) -> None:
    config = make_config(model)
    runner, path = train(config, tmp_path)
    env = Noise()
    algorithm = load_rsl_rl_checkpoint(path, config, env, device="cpu")
    assert_same_policy(algorithm.policy, runner)
    assert algorithm.n_iterations == 2
    assert algorithm.num_timesteps == 2 * 6 * 4
    assert algorithm.current_lr == pytest.approx(runner.alg.learning_rate)
    before = [p.clone() for p in algorithm.policy.actor.parameters()]
    algorithm.learn(6 * 4, reset_num_timesteps=False)
    assert any(
        (a != b).any() for a, b in zip(before, algorithm.policy.actor.parameters(), strict=True)
    )
    algorithm.save(tmp_path / "model.zip")
    again = type(algorithm).load(tmp_path / "model.zip")
    obs = observations()
    assert_close(again.policy.act(obs)[0], algorithm.policy.act(obs)[0])


def test_intrinsic_reward(tmp_path: Path) -> None:
    rnd = {
        "weight": 50.0, "num_outputs": 3, "predictor_hidden_dims": [8], "target_hidden_dims": [-1],
        "state_normalization": True, "reward_normalization": True,
        "weight_schedule": {"mode": "linear", "initial_step": 0, "final_step": 90,
                            "final_value": 0.1},
    }  # fmt: skip
    config = make_config(rnd_cfg=rnd)
    config["obs_groups"]["rnd_state"] = ["extra", "policy"]
    runner, path = train(config, tmp_path)
    migration = from_rsl_rl_config(config, Noise())
    options = migration.kwargs["rnd_kwargs"]
    assert options["weight"] == pytest.approx(50.0 * 0.02)
    assert options["weight_schedule"] == "linear"
    assert options["final_step"] == 90
    model = migration.build(Noise(), device="cpu")
    load_checkpoint(path, model, migration)
    (mine,) = [item for item in model.objectives if item.name == "rnd"]
    x, theirs = th.randn(5, 7), runner.alg.rnd
    assert_close(mine.modules["predictor"](x), theirs.predictor(x))
    assert_close(mine.modules["target"](x), theirs.target(x))
    assert_close(mine.modules["states"](x), theirs.state_normalizer(x))
    content = th.load(path, weights_only=True)
    del content["rnd_state_dict"]["predictor.0.bias"]
    th.save(content, tmp_path / "damaged.pt")
    untouched = migration.build(Noise(), device="cpu")
    before = copy.deepcopy(untouched.policy.state_dict())
    with pytest.raises(ValueError, match=r"there is nothing for \['predictor.model.0.bias'\]"):
        load_checkpoint(tmp_path / "damaged.pt", untouched, migration)
    assert untouched.num_timesteps == 0
    assert_same(untouched.policy.state_dict(), before)
    # The runner's own configuration holds the weight that it has multiplied already.
    done = copy.deepcopy(config)
    done["algorithm"]["rnd_cfg"] |= {"weight": 1.0, "num_states": 7, "obs_groups": {}}
    assert from_rsl_rl_config(done).kwargs["rnd_kwargs"]["weight"] == 1.0
    with pytest.raises(ValueError, match="multiplies by the seconds per step"):
        from_rsl_rl_config(config)


def test_every_key_arrives() -> None:
    config = make_config("lstm", normalize_advantage_per_mini_batch=True, use_mixed_precision=False)
    config |= {"logger": "tensorboard", "run_name": "", "device": "cuda:0", "clip_actions": 1.0}
    text = yaml.safe_dump(config)
    migration = from_rsl_rl_config(text, Noise(n_envs=8))
    assert migration.policy == "MlpLstmPolicy"
    assert migration.kwargs == {
        "n_steps": 6, "seed": 3, "n_epochs": 2, "n_minibatches": 2, "clip_range": 0.3,
        "gamma": 0.97, "gae_lambda": 0.9, "vf_coef": 0.5, "ent_coef": 0.02, "learning_rate": 2e-3,
        "max_grad_norm": 0.7, "use_clipped_value_loss": False, "schedule": "adaptive",
        "desired_kl": 0.02, "normalize_advantage": "minibatch",
        "policy_kwargs": {
            "net_arch": {"pi": [8], "vf": [12]}, "activation": "elu",
            "empirical_normalization": True,
            "rnn": {"type": "lstm", "hidden_size": 8, "num_layers": 2, "critic": True},
            "obs_groups": {"actor": ["extra", "policy"], "critic": ["policy"]},
            "obs_segments": {}, "distribution_class": "GaussianDistribution",
            "distribution_kwargs": {"init_std": 0.7},
        },
    }  # fmt: skip
    assert migration.learn_kwargs(8) == {"total_timesteps": 7 * 6 * 8}
    assert migration.n_envs == 8
    assert set(migration.report.of("dropped")) >= {"logger", "run_name", "device"}
    assert "clip_actions" in migration.report.of("differs")
    assert not migration.report.of("unknown")


def test_defaults_of_rsl_rl_are_kept() -> None:
    config = {"actor": {"distribution_cfg": DISTRIBUTIONS["log"]}, "critic": {}, "algorithm": {}}
    migration = from_rsl_rl_config(config)
    assert migration.kwargs["ent_coef"] == 0.01
    assert migration.kwargs["schedule"] == "adaptive"
    assert set(migration.report.of("default")) == {"algorithm.entropy_coef", "algorithm.schedule"}


def test_groups_that_share_the_names_of_segments() -> None:
    env = PointMass()
    config = make_config()
    config["obs_groups"] = {"actor": ["policy"], "critic": ["policy", "critic"]}
    model = from_rsl_rl_config(config, env).build(env, device="cpu")
    assert model.policy.critic_reader.groups == ("policy", "critic")


def test_older_configurations() -> None:
    config = {
        "num_steps_per_env": 24, "empirical_normalization": True,
        "obs_groups": {"policy": ["policy"], "critic": ["policy", "extra"]},
        "policy": {
            "class_name": "ActorCriticRecurrent", "init_noise_std": 0.5, "noise_std_type": "log",
            "actor_hidden_dims": [32], "critic_hidden_dims": [16], "activation": "elu",
            "rnn_type": "gru", "rnn_hidden_size": 12, "rnn_num_layers": 1,
        },
        "algorithm": {"class_name": "PPO", "entropy_coef": 0.0, "schedule": "fixed"},
    }  # fmt: skip
    migration = from_rsl_rl_config(config)
    assert migration.policy == "MlpGruPolicy"
    options = migration.policy_kwargs
    assert options["net_arch"] == {"pi": [32], "vf": [16]}
    assert options["rnn"]["hidden_size"] == 12
    assert options["obs_groups"] == {"actor": ["policy"], "critic": ["policy", "extra"]}
    assert options["distribution_kwargs"] == {"init_std": 0.5, "std_type": "log"}
    assert options["empirical_normalization"] is True


@pytest.mark.parametrize("unset", [{}, None])
def test_what_isaac_lab_leaves_unset_takes_the_normalisation_of_the_run(unset: Any) -> None:
    policy = {"actor_obs_normalization": unset, "critic_obs_normalization": unset}
    older = {"policy": policy, "algorithm": {}, "empirical_normalization": True}
    newer = broken(empirical_normalization=True, policy={}, critic__obs_normalization=unset)
    for config in (older, newer):
        migration = from_rsl_rl_config(config)
        assert migration.policy_kwargs["empirical_normalization"] is True
        assert migration.report.of("mapped")["empirical_normalization"].value is True
    migration = from_rsl_rl_config(older | {"empirical_normalization": unset})
    assert migration.policy_kwargs["empirical_normalization"] is False
    assert migration.report.of("dropped")["empirical_normalization"].note == "an unset field"
    policy = {"actor_obs_normalization": False, "critic_obs_normalization": False}
    migration = from_rsl_rl_config(older | {"policy": policy})
    assert migration.policy_kwargs["empirical_normalization"] is False
    assert "goes before it" in migration.report.of("dropped")["empirical_normalization"].note


@pytest.mark.parametrize("value", [{}, None, False, True])
def test_the_normalisation_of_models_goes_before_that_of_the_run(value: Any) -> None:
    config = broken(
        empirical_normalization=value,
        actor__obs_normalization=False,
        critic__obs_normalization=False,
    )
    migration = from_rsl_rl_config(config)
    assert migration.policy_kwargs["empirical_normalization"] is False
    assert "empirical_normalization" in migration.report.of("dropped")


def test_models_of_version_4() -> None:
    noise = {"stochastic": True, "init_noise_std": 0.5, "noise_std_type": "log"}
    network = {"class_name": "MLPModel", "state_dependent_std": False}
    unset = {"stochastic": False, "init_noise_std": {}, "noise_std_type": "scalar"}
    config = {"actor": network | noise, "critic": network | unset, "policy": {}, "algorithm": {}}
    migration = from_rsl_rl_config(config)
    assert migration.policy_kwargs["distribution_class"] == "GaussianDistribution"
    assert migration.policy_kwargs["distribution_kwargs"] == {"init_std": 0.5, "std_type": "log"}
    keys = {"stochastic", "init_noise_std", "noise_std_type", "state_dependent_std"}
    assert {f"actor.{key}" for key in keys} <= migration.report.of("mapped").keys()
    assert {f"critic.{key}" for key in keys} <= migration.report.of("dropped").keys()
    config["actor"] |= {"state_dependent_std": True}
    assert from_rsl_rl_config(config).policy_kwargs["distribution_class"] == HETERO
    # Isaac Lab keeps both in one file; the newer key counts.
    config["actor"] |= {"distribution_cfg": DISTRIBUTIONS["scalar"], "init_noise_std": {}}
    options = from_rsl_rl_config(config).policy_kwargs["distribution_kwargs"]
    assert options == {"init_std": 0.7}


def test_intrinsic_reward_resolves_its_groups_and_activation_as_rsl_rl() -> None:
    rnd = {"weight": 1.0, "activation": "crelu"}
    config = make_config(rnd_cfg=rnd)
    with pytest.raises(ValueError, match="or pass env="):
        from_rsl_rl_config(config, step_dt=0.02)
    options = from_rsl_rl_config(config, Noise()).kwargs["rnd_kwargs"]
    assert options["groups"] == ["policy"]
    assert options["activation"] == "celu"
    known = {"policy": box(5), "extra": box(2), "rnd_state": box(3)}
    found = Spaces(spaces.Dict(known), box(3, bound=100.0))
    options = from_rsl_rl_config(config, found, step_dt=0.02).kwargs["rnd_kwargs"]
    assert options["groups"] == ["rnd_state"]


def distillation(**student: Any) -> dict[str, Any]:
    """Return a distillation of what :func:`make_config` trains."""
    network = {"class_name": "MLPModel", "hidden_dims": [16, 8]}
    return {
        "num_steps_per_env": 6,
        "obs_groups": {"student": ["policy"], "teacher": ["extra", "policy"]},
        "student": network | student, "teacher": network,
        "algorithm": {
            "class_name": "Distillation", "num_learning_epochs": 2, "gradient_length": 3,
        },
    }  # fmt: skip


def teacher_of(model: Any) -> Any:
    return next(item.teacher for item in model.objectives if hasattr(item, "teacher"))


@pytest.mark.parametrize("activation", ["relu", "crelu", "elu"])
def test_a_teacher_has_the_activation_of_its_section(activation: str, tmp_path: Path) -> None:
    config = make_config()
    for side in ("actor", "critic"):
        config[side]["activation"] = activation
    runner, path = train(config, tmp_path, 1)
    given = distillation(distribution_cfg=DISTRIBUTIONS["scalar"])
    given["teacher"] = config["actor"]
    migration = from_rsl_rl_config(given, Noise(), teacher=path)
    assert "teacher.activation" in migration.report.of("mapped")
    teacher = teacher_of(migration.build(Noise(), device="cpu")).policy
    obs = observations()
    labels = runner.alg.actor(tensordict.TensorDict(obs, [4]))
    assert_close(teacher(th.cat([obs["extra"], obs["policy"]], -1)), labels)
    # A model of this library knows its own.
    kept = from_rsl_rl_config(given, Noise(), teacher="model.zip")
    assert kept.kwargs["teacher"] == "model.zip"


@pytest.mark.parametrize("stochastic", [{}, {"stochastic": False}])
def test_a_student_without_noise(stochastic: dict[str, Any], tmp_path: Path) -> None:
    config = make_config()
    _, path = train(config, tmp_path, 1)
    given = distillation(**stochastic) | {"teacher": config["actor"]}
    migration = from_rsl_rl_config(given, Noise(), teacher=path)
    assert "student.distribution_cfg" in migration.report.of("differs")
    model = migration.build(Noise(), device="cpu")
    obs = observations()
    drawn = model.policy.forward(obs)[0]
    assert th.allclose(drawn, model.policy.act(obs)[0], atol=1e-4)
    model.learn(24)
    assert th.allclose(model.policy.action_head.std, th.tensor(1e-6))
    if not stochastic:
        runner, saved = train({**given, "save_interval": 50}, tmp_path, 0, path)
        policy = load_rsl_rl_checkpoint(saved, migration, SPACES)
        wanted = runner.alg.student(tensordict.TensorDict(obs, [4]))
        assert_close(policy.act(obs)[0], wanted)


def test_distillation(tmp_path: Path) -> None:
    config = make_config()
    _, path = train(config, tmp_path, 1)
    given = distillation(distribution_cfg=DISTRIBUTIONS["scalar"])
    env = Noise()
    migration = from_rsl_rl_config(given, env, teacher=str(path))
    assert migration.kwargs["using_ppo"] is False
    assert migration.kwargs["n_minibatches"] == 2
    assert migration.kwargs["distillation_loss_coef"] == pytest.approx(1 / 3)
    model = migration.build(env, device="cpu")
    model.learn(24)
    assert model.n_iterations == 1


def broken(**changes: Any) -> dict[str, Any]:
    config = make_config()
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    return config


REFUSED: list[tuple[dict[str, Any], str]] = [
    (broken(critic__activation="relu"), "the activation of the actor is elu, that of the critic"),
    (broken(critic__obs_normalization=True), "the obs_normalization of the actor is False"),
    (broken(critic__class_name="RNNModel"), "the memory of the actor is None"),
    (broken(actor__class_name="MLPModle"), "Did you mean 'MLPModel'"),
    (broken(actor__distribution_cfg=None), "would have no noise"),
    (broken(actor__distribution_cfg={"class_name": "BetaDistribution"}), "has no other for Box"),
    (broken(critic__distribution_cfg=DISTRIBUTIONS["log"]), "value is one number"),
    (broken(algorithm__symmetry_cfg={"use_mirror_loss": True}), "another policy is learnt"),
    (broken(algorithm__share_cnn_encoders=True), "share_cnn_encoders is true"),
    (broken(algorithm__class_name="PPPO"), "Did you mean 'PPO'"),
    (broken(algorithm__optimizer="adagrad"), "algorithm.optimizer is 'adagrad'"),
    (broken(algorithm__clip_parm=0.1), "'algorithm.clip_parm' Did you mean 'clip_param'"),
    (broken(actor__hiden_dims=[1]), "'actor.hiden_dims' Did you mean 'hidden_dims'"),
    (broken(num_step_per_env=3), "'num_step_per_env' Did you mean 'num_steps_per_env'"),
    (broken(num_steps_per_env=2.5), "Expected a whole number"),
    (broken(actor="MLPModel"), "Expected a mapping of keys"),
    (broken(actor__class_name="CNNModel"), "images is not known"),
    (broken(actor__hidden_dims=[-1]), "the width of the input, which is not known"),
    (broken(obs_groups={"actor": ["extra"]}), "obs_groups has no 'critic'"),
    (broken(policy={"class_name": "X"}, actor={}), "there is no actor.distribution_cfg"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_would_train_something_else_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        from_rsl_rl_config(config)


def test_unknown_keys_are_reported_if_wanted() -> None:
    migration = from_rsl_rl_config(broken(algorithm__clip_parm=0.1), strict=False)
    assert "clip_param" in migration.report.of("unknown")["algorithm.clip_parm"].note
    assert "algorithm.clip_parm" in str(migration.report)


def test_groups_that_do_not_exist() -> None:
    config = make_config("cnn")
    config["obs_groups"]["actor"] = ["polici"]
    with pytest.raises(ValueError, match="Did you mean 'policy'"):
        from_rsl_rl_config(config, SPACES)


# --------------------------------------------------------------------------- files


def test_damaged_checkpoints(tmp_path: Path) -> None:
    config = make_config()
    _, path = train(config, tmp_path, 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        load_rsl_rl_checkpoint(path, config, SPACES)
    with pytest.raises(ValueError, match="there is no file"):
        load_rsl_rl_checkpoint(tmp_path / "nothing.pt", config, SPACES)
    th.save({"weights": th.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"holds \['weights'\]"):
        load_rsl_rl_checkpoint(path, config, SPACES)


def test_a_checkpoint_of_another_configuration(tmp_path: Path) -> None:
    _, path = train(make_config("lstm"), tmp_path, 1)
    without = make_config("lstm")
    without["actor"]["obs_normalization"] = without["critic"]["obs_normalization"] = False
    with pytest.raises(ValueError, match=r"'actor.obs_normalizer._mean'.* have no place"):
        load_rsl_rl_checkpoint(path, without, SPACES)
    _, plain = train(make_config("mlp"), tmp_path, 1)
    with_statistics = make_config("mlp")
    for side in ("actor", "critic"):
        with_statistics[side]["obs_normalization"] = True
    with pytest.raises(ValueError, match=r"there is nothing for \['actor_reader.normalizer.mean'"):
        load_rsl_rl_checkpoint(plain, with_statistics, SPACES)
    _, path = train(make_config("lstm"), tmp_path, 1)
    other = make_config("lstm")
    other["actor"]["rnn_hidden_dim"] = other["critic"]["rnn_hidden_dim"] = 9
    migration = from_rsl_rl_config(other, SPACES)
    policy = migration.build_policy(SPACES)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match="do not fit the configuration"):
        load_checkpoint(path, policy, migration)
    assert_same(policy.state_dict(), before)


def test_the_report_of_a_checkpoint(tmp_path: Path) -> None:
    config = make_config()
    _, path = train(config, tmp_path)
    migration = from_rsl_rl_config(config, SPACES)
    report = load_checkpoint(path, migration.build_policy(SPACES), migration)
    loaded = report.of("loaded")
    assert loaded["actor.mlp.0.weight"].ours == "actor.model.0.weight"
    assert loaded["critic.mlp.2.bias"].ours == "critic.model.2.bias"
    assert "optimizer_state_dict" in report.of("dropped")
    assert "actor.mlp.0.weight" in str(migration.report)
