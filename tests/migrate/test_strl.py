"""st_rl's configurations: every documented key, the released run, and what must not be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from torch import nn

from sb3_strl import APPO, ATPPO, PPO, TPPO, EstimatorPPO, EstimatorTPPO
from sb3_strl.cli.config import TrainConfig
from sb3_strl.migrate import (
    Migration,
    Spaces,
    from_strl_config,
    load_rsl_rl_checkpoint,
    load_strl_checkpoint,
)
from sb3_strl.policies import save_policy
from tests.envs.toy import PointMass, box

RELEASED = """
seed: 42
device: cuda:0
num_envs: 4096
num_steps_per_env: 24
max_iterations: 20000
empirical_normalization: true
init_at_random_ep_len: true
policy:
  class_name: AmpActorCriticRecurrent
  init_noise_std: 0.8
  actor_hidden_dims: [512, 256, 128]
  critic_hidden_dims: !!python/tuple [512, 256, 128]
  activation: elu
  rnn_type: lstm
  rnn_hidden_size: 256
  rnn_num_layers: 1
  amp_discriminator:
    style_reward_coef: 1.0
    hidden_dims: [512, 512, 512]
    task_reward_lerp: 0.8
    discriminator_grad_pen: 10.0
    amp_obs_dim: {}
algorithm:
  class_name: APPO
  value_loss_coef: 1.0
  use_clipped_value_loss: true
  clip_param: 0.2
  entropy_coef: 0.01
  num_learning_epochs: 5
  num_mini_batches: 4
  learning_rate: 1e-3
  schedule: adaptive
  gamma: 0.99
  lam: 0.95
  desired_kl: 0.01
  max_grad_norm: 1.0
  discriminator_loss_coef: 1.0
  mimic_loss_coef: 0.001
  bc_loss_coef: 0.0
  amp_obs_dim: 42
storage:
  amp_obs_shape: !!python/tuple [42]
save_interval: 500
log_interval: 10
experiment_name: lus2_flat
run_name: ''
logger: tensorboard
neptune_project: isaaclab
wandb_project: isaaclab
resume: false
load_run: .*
load_checkpoint: model_.*.pt
"""
RELEASED_POLICY = {
    "net_arch": {"pi": [512, 256, 128], "vf": [512, 256, 128]}, "activation": "elu",
    "init_noise_std": 0.8, "empirical_normalization": True,
    "rnn": {"type": "lstm", "hidden_size": 256, "num_layers": 1},
    "amp_discriminator": {
        "style_reward_coef": 1.0, "discriminator_grad_pen": 10.0, "hidden_dims": [512, 512, 512],
        "task_reward_lerp": 0.8,
    },
}  # fmt: skip
RELEASED_KWARGS = {
    "n_steps": 24, "n_minibatches": 4, "n_epochs": 5, "learning_rate": 1e-3, "schedule": "adaptive",
    "desired_kl": 0.01, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2, "seed": 42,
    "use_clipped_value_loss": True, "vf_coef": 1.0, "ent_coef": 0.01, "max_grad_norm": 1.0,
    "discriminator_loss_coef": 1.0, "mimic_loss_coef": 0.001, "amp_obs_dim": 42,
    "policy_kwargs": RELEASED_POLICY,
}  # fmt: skip


def test_the_released_run() -> None:
    migration = from_strl_config(RELEASED)
    assert migration.algorithm is APPO
    assert migration.policy == "AmpLstmPolicy"
    assert migration.kwargs == RELEASED_KWARGS
    assert migration.learn_kwargs(4096) == {"total_timesteps": 1_966_080_000, "log_interval": 10}
    assert (migration.n_envs, migration.save_interval) == (4096, 500)
    assert migration.random_starts
    (callback,) = migration.callbacks("runs")
    assert callback.save_freq == 500 * 24  # type: ignore[attr-defined]
    dropped = set(migration.report.of("dropped"))
    assert {"storage", "load_run", "algorithm.bc_loss_coef", "device"} <= dropped
    assert "policy.amp_discriminator.amp_obs_dim" in dropped
    assert not migration.report.of("unknown")
    text = str(migration.report)
    assert "algorithm.clip_param" in text
    assert "clip_range" in text


def test_the_released_run_as_files() -> None:
    migration = from_strl_config(RELEASED)
    config = yaml.safe_load(yaml.safe_dump(migration.train_config("Lus2-Flat-v0", 4096)))
    parsed = TrainConfig.from_dict(config)
    assert (parsed.algorithm, parsed.total_timesteps, parsed.seed) == ("appo", 1_966_080_000, 42)
    assert parsed.checkpoint_interval == 500 * 24 * 4096
    assert parsed.random_starts
    zoo = yaml.safe_load(yaml.safe_dump(migration.zoo_config("Lus2-Flat-v0", 4096)))
    (entry,) = zoo.values()
    expected = {key: value for key, value in RELEASED_KWARGS.items() if key != "seed"}
    assert entry == {
        "n_envs": 4096, "n_timesteps": 1.96608e9, "policy": "AmpLstmPolicy",
        "callback": ["sb3_strl.callbacks.RandomStarts"], **expected,
    }  # fmt: skip


def small(text: str = RELEASED, **algorithm: Any) -> dict[str, Any]:
    """Return the released run for a tiny environment."""
    config: dict[str, Any] = yaml.safe_load(text.replace("!!python/tuple", ""))
    config["algorithm"] |= {"amp_obs_dim": 8, "learning_rate": 1e-3, **algorithm}
    config |= {"num_steps_per_env": 4, "max_iterations": 1}
    config["policy"] |= {
        "actor_hidden_dims": [8],
        "critic_hidden_dims": [8],
        "rnn_hidden_size": 8,
    }
    config["policy"]["amp_discriminator"] |= {"hidden_dims": [8]}
    return config


def train(migration: Migration, env: Any, **overrides: Any) -> PPO:
    model = migration.build(env, device="cpu", **overrides)
    model.learn(**migration.learn_kwargs(env.num_envs))
    assert model.n_iterations == 1
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    return model


@pytest.mark.filterwarnings("ignore:APPO. mimic_loss_coef")
def test_the_released_run_trains() -> None:
    env = PointMass()
    model = train(from_strl_config(small(), env), env)
    assert type(model) is APPO
    assert type(model.policy).__name__ == "AmpLstmPolicy"


TEACHER_KEYS = {
    "label_action_with_critic_obs": True, "teacher_act_prob": "exp", "update_times_scale": 50,
    "using_ppo": True, "distillation_loss_coef": 0.5, "distill_target": "l1",
    "distill_latent_coef": 0.7, "distill_latent_target": "mse_sum",
    "distill_latent_obs_component_mapping": {"extra": "extra"}, "buffer_dilation_ratio": 2.0,
    "hidden_state_resample_prob": 0.1, "action_labels_from_sample": True,
}  # fmt: skip
SEGMENTS = {"pos": [2], "vel": [2], "phase": [2], "extra": [2]}


def critic_segments() -> dict[str, Any]:
    layout = PointMass().obs_segments
    assert layout is not None
    return {name: list(shape) for name, shape in layout["critic"].items()}


@pytest.mark.parametrize("unset", [{}, None])
@pytest.mark.parametrize("place", ["top", "algorithm", "policy"])
def test_normalisation_that_nobody_set(place: str, unset: Any) -> None:
    config: dict[str, Any] = {"policy": {}, "algorithm": {}}
    (config if place == "top" else config[place])["empirical_normalization"] = unset
    migration = from_strl_config(config)
    assert "empirical_normalization" not in migration.policy_kwargs
    path = "empirical_normalization" if place == "top" else f"{place}.empirical_normalization"
    assert path in migration.report.of("dropped")


@pytest.mark.filterwarnings("ignore:APPO. mimic_loss_coef")
def test_a_student_with_encoders_and_a_motion_prior(tmp_path: Path) -> None:
    env = PointMass()
    encoders = {
        "encoder_component_names": ["extra"], "encoder_class_name": "MlpModel",
        "encoder_kwargs": {"hidden_sizes": [8]}, "encoder_output_size": 4,
    }  # fmt: skip
    spec = {"component_names": ["extra"], "output_size": 4, "kwargs": {"hidden_sizes": [8]}}
    teacher = PPO("EncoderPolicy", env, policy_kwargs={"encoder": spec}, device="cpu")
    save_policy(teacher.policy, tmp_path / "teacher.zip")
    config = small(class_name="ATPPO", **TEACHER_KEYS)
    config["algorithm"]["teacher_policy"] = {
        "class_name": "ActorCritic", "teacher_ac_path": str(tmp_path / "teacher.zip"),
        "num_actor_obs": 8,
    }  # fmt: skip
    config["algorithm"]["label_action_with_critic_obs"] = False
    critic = critic_segments()
    config["policy"] |= {
        "class_name": "EncoderAmpActorCriticRecurrent", **encoders, "obs_segments": SEGMENTS,
        "critic_obs_segments": critic, "critic_encoder_component_names": None,
    }  # fmt: skip
    migration = from_strl_config(config, env)
    assert migration.algorithm is ATPPO
    assert migration.policy == "EncoderAmpLstmPolicy"
    assert migration.policy_kwargs["encoder"] == {
        "component_names": ["extra"], "class_name": "MlpModel", "output_size": 4,
        "kwargs": {"hidden_sizes": [8]},
    }  # fmt: skip
    assert migration.policy_kwargs["obs_segments"] == {"policy": SEGMENTS, "critic": critic}
    assert migration.kwargs["teacher"] == str(tmp_path / "teacher.zip")
    given = {**TEACHER_KEYS, "label_action_with_critic_obs": False}
    assert {key: migration.kwargs[key] for key in given} == given
    train(migration, env)


@pytest.mark.parametrize(
    ("theirs", "value", "ours"),
    [
        ("num_learning_epochs", 3, "n_epochs"),
        ("num_mini_batches", 2, "n_minibatches"),
        ("clip_param", 0.1, "clip_range"),
        ("gamma", 0.9, "gamma"),
        ("lam", 0.8, "gae_lambda"),
        ("value_loss_coef", 0.3, "vf_coef"),
        ("entropy_coef", 0.2, "ent_coef"),
        ("learning_rate", 2e-4, "learning_rate"),
        ("max_grad_norm", 0.4, "max_grad_norm"),
        ("use_clipped_value_loss", False, "use_clipped_value_loss"),
        ("clip_min_std", [0.1, 0.2], "clip_min_std"),
        ("schedule", "adaptive", "schedule"),
        ("desired_kl", None, "desired_kl"),
        ("lr_scheduler_class_name", "StepLR", "lr_scheduler_class"),
        ("lr_scheduler", {"step_size": 2}, "lr_scheduler_kwargs"),
    ],
)
def test_keys_of_ppo(theirs: str, value: Any, ours: str) -> None:
    for nested in (False, True):
        section = {"ppo": {theirs: value}} if nested else {theirs: value}
        migration = from_strl_config({"algorithm": {"class_name": "TPPO", **section}})
        assert migration.kwargs[ours] == value
        path = f"algorithm.ppo.{theirs}" if nested else f"algorithm.{theirs}"
        assert migration.report.of("mapped")[path].ours == ours


def test_direct_keys_win_over_nested_ones() -> None:
    section = {"class_name": "TPPO", "ppo": {"gamma": 0.5, "lam": 0.6}, "gamma": 0.7}
    kwargs = from_strl_config({"algorithm": section}).kwargs
    assert (kwargs["gamma"], kwargs["gae_lambda"]) == (0.7, 0.6)


def test_defaults_of_st_rl_are_kept() -> None:
    migration = from_strl_config({})
    assert migration.algorithm is PPO
    assert migration.policy == "MlpPolicy"
    assert migration.kwargs == {
        "n_steps": 24, "n_epochs": 1, "n_minibatches": 1, "gamma": 0.998, "policy_kwargs": {}
    }  # fmt: skip
    assert len(migration.report.of("default")) == 3


@pytest.mark.parametrize("key", list(TEACHER_KEYS))
def test_keys_of_teachers(key: str) -> None:
    value = TEACHER_KEYS[key]
    migration = from_strl_config({"algorithm": {"class_name": "TPPO", key: value}})
    assert migration.algorithm is TPPO
    assert migration.kwargs[key] == value
    dropped = from_strl_config({"algorithm": {"class_name": "PPO", key: value}})
    assert key not in dropped.kwargs
    assert f"algorithm.{key}" in dropped.report.of("dropped")


def test_forms_of_a_teacher() -> None:
    def teacher(**section: Any) -> Any:
        migration = from_strl_config({"algorithm": {"class_name": "TPPO", **section}})
        return migration.kwargs.get("teacher"), migration.report

    assert teacher(teacher_policy="a.zip")[0] == "a.zip"
    assert teacher(teacher_ac_path="b.pt")[0] == "b.pt"
    options = {"teacher_ac_path": "c.pt", "activation": "tanh", "num_actions": 3}
    assert teacher(teacher_policy=options)[0] == {"path": "c.pt", "activation": "tanh"}
    given, report = teacher(teacher_policy={}, teacher_policy_class_name="ActorCriticRecurrent")
    assert given is None
    assert (
        "no file of the ActorCriticRecurrent"
        in report.of("differs")["algorithm.teacher_policy"].note
    )
    _, report = teacher(teacher_policy=options | {"class_name": "ActorCriticRecurrent"})
    assert "migrate its own run" in report.of("differs")["algorithm.teacher_policy"].note
    with pytest.raises(ValueError, match="mu_activation is 'tanh'"):
        teacher(teacher_policy=options | {"mu_activation": "tanh"})


def test_estimators() -> None:
    section = {
        "class_name": "EstimatorPPO", "estimator_loss_func": "l1_loss",
        "estimator_loss_kwargs": {}, "num_mini_batches": 2,
    }  # fmt: skip
    policy = {
        "class_name": "StateAcRecurrent", "rnn_type": "gru", "rnn_hidden_size": 8,
        "estimator_obs_components": ["pos", "phase"], "estimator_target_components": ["vel"],
        "estimator_kwargs": {"hidden_sizes": [8]}, "replace_state_prob": 0.5,
        "use_actor_rnn": False, "obs_segments": SEGMENTS, "critic_obs_segments": critic_segments(),
        "num_actor_obs": 8, "num_critic_obs": 9, "num_actions": 2, "actor_hidden_dims": [8],
        "critic_hidden_dims": [8],
    }  # fmt: skip
    config = {"algorithm": section, "policy": policy, "num_steps_per_env": 4, "max_iterations": 1}
    env = PointMass()
    migration = from_strl_config(config, env)
    assert migration.algorithm is EstimatorPPO
    assert migration.policy == "EstimatorGruPolicy"
    assert migration.kwargs["estimator_loss_func"] == "l1_loss"
    assert migration.policy_kwargs["estimator"]["replace_prob"] == 0.5
    train(migration, env)
    assert from_strl_config({**config, "algorithm": {"class_name": "EstimatorTPPO"}}).algorithm is (
        EstimatorTPPO
    )


def test_a_memory_that_the_class_has_not_is_dropped() -> None:
    policy = {"class_name": "ActorCritic", "rnn_type": "lstm", "amp_discriminator": {"x": 1}}
    migration = from_strl_config({"policy": policy})
    assert migration.policy_kwargs == {}
    assert {"policy.rnn_type", "policy.amp_discriminator"} <= set(migration.report.of("dropped"))


def test_the_meaning_of_crelu() -> None:
    assert from_strl_config({"policy": {"activation": "crelu"}}).policy_kwargs["activation"] == (
        "relu"
    )


def test_the_layout_of_legged_gym() -> None:
    config = {
        "runner": {
            "policy_class_name": "ActorCriticRecurrent", "algorithm_class_name": "PPO",
            "num_steps_per_env": 12, "max_iterations": 5, "experiment_name": "x", "resume": False,
        },
        "policy": {"rnn_type": "lstm"}, "runner_class_name": "OnPolicyRunner", "seed": 1,
    }  # fmt: skip
    migration = from_strl_config(config)
    assert migration.policy == "MlpLstmPolicy"
    assert (migration.kwargs["n_steps"], migration.iterations) == (12, 5)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"algorithm": {"clip_parm": 1}}, "'algorithm.clip_parm' Did you mean 'clip_param'"),
    ({"algorithm": {"ppo": {"gama": 1}}}, "'algorithm.ppo.gama' Did you mean 'gamma'"),
    ({"policy": {"actor_hiden_dims": []}}, "Did you mean 'actor_hidden_dims'"),
    ({"num_step_per_env": 3}, "Did you mean 'num_steps_per_env'"),
    ({"algorithm": {"class_name": "AMPPO"}}, "Did you mean 'APPO'"),
    ({"policy": {"class_name": "ActorCritc"}}, "Did you mean 'ActorCritic'"),
    ({"policy": {"class_name": "ActorCriticMutex"}}, "cannot be trained itself"),
    ({"algorithm": {"class_name": "APPO"}}, "needs a discriminator"),
    ({"algorithm": {"optimizer_class_name": "Lion"}}, "optimizer_class_name is 'Lion'"),
    ({"algorithm": "PPO"}, "Expected a mapping of keys"),
    (
        {"algorithm": {"class_name": "APPO", "amp_obs_dim": "x"}, "policy": {}},
        "Expected the number of features",
    ),
    (
        {
            "algorithm": {"class_name": "APPO"},
            "policy": {"class_name": "AmpActorCritic", "amp_discriminator": {"style_coef": 1}},
        },
        "'policy.amp_discriminator.style_coef' Did you mean 'style_reward_coef'",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_would_train_something_else_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        from_strl_config(config)


def test_all_unknown_keys_are_named_at_once() -> None:
    config = {"algorithm": {"one": 1}, "policy": {"two": 2}, "three": 3}
    with pytest.raises(TypeError, match=r"three.*algorithm\.one.*policy\.two"):
        from_strl_config(config)
    report = from_strl_config(config, strict=False).report
    assert set(report.of("unknown")) == {"algorithm.one", "policy.two", "three"}


def test_segments_of_a_critic_that_is_not_there() -> None:
    env = PointMass(groups=("policy",))
    policy = {"obs_segments": SEGMENTS, "critic_obs_segments": SEGMENTS}
    assert from_strl_config({"policy": policy}, env).policy_kwargs["obs_segments"] == {
        "policy": SEGMENTS
    }
    with pytest.raises(ValueError, match="no group 'critic'"):
        from_strl_config({"policy": {**policy, "critic_obs_segments": {"all": 8}}}, env)


def test_other_optimizers_and_values_that_yaml_cannot_hold() -> None:
    migration = from_strl_config({"algorithm": {"optimizer_class_name": "AdamW"}})
    assert migration.policy_kwargs["optimizer_class"] is th.optim.AdamW
    with pytest.raises(ValueError, match=r"optimizer_class is .* which yaml cannot hold"):
        migration.train_config("x", 1)
    assert (
        "optimizer_class"
        not in from_strl_config({"algorithm": {"optimizer_class_name": "Adam"}}).policy_kwargs
    )
    with pytest.raises(ValueError, match="has no max_iterations"):
        migration.learn_kwargs(4)


# --------------------------------------------------------------------------- what is never run

MARK = "SB3_STRL_TEST_WAS_HERE"
EVIL = [
    f"!!python/object/apply:os.system ['touch {{}}/{MARK}']",
    f"!!python/object/new:os.system ['touch {{}}/{MARK}']",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{}/"
    + MARK
    + "']]",
    f"!!python/object/apply:subprocess.check_output [[touch, '{{}}/{MARK}']]",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!custom {{a: 1}}",
]


@pytest.mark.parametrize("evil", EVIL)
def test_tags_are_never_run(evil: str, tmp_path: Path) -> None:
    value = evil.format(tmp_path)
    file = tmp_path / "agent.yaml"
    for text in (f"gadget: {value}\nseed: 1", f"storage: {{x: [{value}]}}\nseed: 1"):
        file.write_text(text)
        migration = from_strl_config(file)
        assert migration.kwargs["seed"] == 1
        assert set(migration.report.of("dropped")) & {"gadget", "storage"}
    for text in (f"seed: {value}", f"algorithm: {{gamma: {value}}}", f"policy: {value}\nseed: 1"):
        file.write_text(text)
        with pytest.raises(ValueError, match="stands for Python code and was not run"):
            from_strl_config(str(file))
    assert [item.name for item in tmp_path.iterdir()] == ["agent.yaml"]


def test_tuples_are_understood() -> None:
    text = "policy:\n  actor_hidden_dims: !!python/tuple\n  - 8\n  - 4\n"
    assert from_strl_config(text).policy_kwargs["net_arch"] == {"pi": [8, 4]}
    with pytest.raises(ValueError, match="was not run"):
        from_strl_config("seed: !!python/tuple 3\nnum_envs: 2")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        from_strl_config(tmp_path / "agent.yaml")
    file = tmp_path / "agent.yaml"
    file.write_text("a: [1\nb: 2")
    with pytest.raises(ValueError, match="is no yaml"):
        from_strl_config(file)
    file.write_text("- 1\n- 2\n")
    with pytest.raises(TypeError, match="holds a list"):
        from_strl_config(file)
    file.write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(ValueError, match="is no text"):
        from_strl_config(file)
    file.write_bytes(b"a: " + b"1" * (5 * 2**20))
    with pytest.raises(ValueError, match=r"Name the agent\.yaml"):
        from_strl_config(file)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="Write its aliases out"):
        from_strl_config(file)
    file.write_text("a: &a\n  b: *a\nseed: 1\n")
    with pytest.raises(ValueError, match="nests more than"):
        from_strl_config(file)


# --------------------------------------------------------------------------- checkpoints


class Theirs(nn.Module):
    """An actor-critic with the names that st_rl's checkpoints have."""

    def __init__(self, recurrent: bool, encoded: bool) -> None:
        super().__init__()
        width = 8
        if encoded:
            self.encoders = nn.ModuleList([self.encoder()])
            width = 6 + 4
        if recurrent:
            self.memory_a, self.memory_c = nn.Module(), nn.Module()
            self.memory_a.rnn, self.memory_c.rnn = nn.LSTM(width, 5), nn.LSTM(8, 5)
        inner = (5, 5) if recurrent else (width, 8)
        self.actor = nn.Sequential(nn.Linear(inner[0], 7), nn.ELU(), nn.Linear(7, 2))
        self.critic = nn.Sequential(nn.Linear(inner[1], 6), nn.ELU(), nn.Linear(6, 1))
        self.std = nn.Parameter(th.tensor([0.3, 0.6]))

    @staticmethod
    def encoder() -> nn.Module:
        model = nn.Module()
        model.model = nn.Sequential(nn.Linear(2, 3), nn.ELU(), nn.Linear(3, 4), nn.ELU())
        return model

    def forward(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        actor = obs
        if hasattr(self, "encoders"):
            latent = self.encoders[0].model(obs[:, 6:])
            actor = th.cat([obs[:, :6], latent], -1)
        critic = obs
        if hasattr(self, "memory_a"):
            actor = self.memory_a.rnn(actor.unsqueeze(0))[0].squeeze(0)
            critic = self.memory_c.rnn(critic.unsqueeze(0))[0].squeeze(0)
        return self.actor(actor), self.critic(critic).squeeze(-1)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
@th.no_grad()
def test_checkpoints(recurrent: bool, encoded: bool, tmp_path: Path) -> None:
    name = f"{'Encoder' if encoded else ''}ActorCritic{'Recurrent' if recurrent else ''}"
    policy: dict[str, Any] = {
        "class_name": name, "actor_hidden_dims": [7], "critic_hidden_dims": [6],
        "rnn_hidden_size": 5, "encoder_component_names": ["extra"], "encoder_output_size": 4,
        "encoder_kwargs": {"hidden_sizes": [3]}, "obs_segments": SEGMENTS,
    }  # fmt: skip
    theirs = Theirs(recurrent, encoded)
    statistics = {"_mean": th.randn(1, 8), "_var": th.rand(1, 8) + 0.5, "count": th.tensor(9)}
    statistics["_std"] = statistics["_var"].sqrt()
    content = {
        "model_state_dict": theirs.state_dict(), "optimizer_state_dict": {}, "iter": 4,
        "infos": None, "obs_norm_state_dict": statistics,
        "privileged_obs_norm_state_dict": statistics,
    }  # fmt: skip
    th.save(content, tmp_path / "model_4.pt")
    spaces = Spaces(box(8), box(2, bound=9.0))
    migration = from_strl_config({"policy": policy, "empirical_normalization": True})
    mine = load_strl_checkpoint(tmp_path / "model_4.pt", migration, spaces)
    obs = th.randn(5, 8)
    actions, values = theirs((obs - statistics["_mean"]) / (statistics["_std"] + 1e-2))
    groups = {"policy": obs}
    assert th.allclose(mine.act(groups)[0], actions, atol=1e-6)
    assert th.allclose(mine.critic_pass(groups)[0], values, atol=1e-6)
    assert th.allclose(mine.action_params(groups)["std"], theirs.std, atol=1e-6)
    if not encoded:
        older = {
            "empirical_normalization": True, "obs_groups": {"policy": ["policy"]},
            "policy": {k: v for k, v in policy.items() if "encoder" not in k and "seg" not in k},
            "algorithm": {"class_name": "PPO"},
        }  # fmt: skip
        again = load_rsl_rl_checkpoint(tmp_path / "model_4.pt", older, spaces)
        assert th.allclose(again.act(groups)[0], actions, atol=1e-6)
        assert th.allclose(again.action_params(groups)["std"], theirs.std, atol=1e-6)
    if encoded:
        content["model_state_dict"]["encoders.1.model.0.bias"] = th.zeros(3)
        th.save(content, tmp_path / "model_5.pt")
        with pytest.raises(ValueError, match=r"encoders.1.model.0.bias.* have no place"):
            load_strl_checkpoint(tmp_path / "model_5.pt", migration, spaces)
