"""Teachers from everywhere: the same labels, frozen, with their own normaliser and memory."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_strl import PPO
from sb3_strl.algorithms import TPPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.objectives.perceptron import PerceptronTeacher, read_teacher_file
from sb3_strl.objectives.teacher import make_teacher, tree_restore, tree_tensors
from sb3_strl.policies.mutex import MutexPolicy
from tests.envs.robot import RobotToy
from tests.envs.toy import PointMass

CRITIC = {"actor": ["critic"]}


def trained(alias: str = "MlpPolicy", env: Any = None, **kwargs: Any) -> PPO:
    """Return a model whose normaliser has seen something."""
    options = {"net_arch": [8], "empirical_normalization": True, "obs_groups": CRITIC, **kwargs}
    model = PPO(alias, env or PointMass(6), n_steps=8, n_epochs=1, seed=1, policy_kwargs=options)
    return model.learn(96)


def make(teacher: Any, env: Any = None, policy_kwargs: Any = None, **options: Any) -> TPPO:
    kwargs = {"net_arch": [8], **(policy_kwargs or {})}
    settings: dict[str, Any] = {"n_steps": 8, "n_epochs": 1, "seed": 2, **options}
    alias = settings.pop("policy", "MlpPolicy")
    return TPPO(alias, env or PointMass(4), teacher=teacher, policy_kwargs=kwargs, **settings)


def collect(model: PPO) -> None:
    _, callback = model._setup_learn(1)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def digest(module: th.nn.Module) -> str:
    state = module.state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()


def test_all_forms_give_the_same_labels(tmp_path: Path) -> None:
    source = trained()
    source.save(tmp_path / "model.zip")
    source.policy.save(str(tmp_path / "policy.zip"))
    forms: list[Any] = [
        source,
        source.policy,
        tmp_path / "model.zip",
        str(tmp_path / "model"),
        tmp_path / "policy.zip",
        {"path": str(tmp_path / "model.zip")},
        {"class_name": "ActorCritic", "teacher_ac_path": str(tmp_path / "policy.zip")},
    ]
    obs = PointMass(5, seed=7).reset_tensor()
    expected = source.policy.act(obs)[0]
    for form in forms:
        assert th.equal(make(form).label_actions(obs), expected)
    legacy: dict[str, Any] = {"teacher_policy": {"class_name": "ActorCritic"}}
    model = make(None, **legacy, teacher_ac_path=tmp_path / "policy.zip")
    assert th.equal(model.label_actions(obs), expected)


def test_the_teacher_is_a_frozen_copy() -> None:
    source = trained()
    model = make(source.policy)
    assert model.distillation.teacher is not None
    teacher = model.distillation.teacher.policy
    before = digest(teacher)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in source.policy.parameters())
    mine = {id(p) for g in model.policy.optimizer.param_groups for p in g["params"]}
    assert not mine & {id(p) for p in teacher.parameters()}
    model.learn(96)
    assert digest(teacher) == before
    source.learn(48)
    assert digest(teacher) == before
    assert digest(source.policy) != before


def test_the_teacher_keeps_its_own_normaliser() -> None:
    source = trained()
    model = make(source, policy_kwargs={"empirical_normalization": True})
    collect(model)
    obs = {group: value.flatten(0, 1) for group, value in model.rollout_buffer.obs().items()}
    labels = model.rollout_buffer["teacher/actions"].flatten(0, 1)
    assert th.allclose(labels, source.policy.act(obs)[0], atol=1e-6)


@pytest.mark.parametrize("with_critic", [True, False])
@pytest.mark.parametrize("from_sample", [True, False])
def test_sources_of_labels(with_critic: bool, from_sample: bool) -> None:
    groups = CRITIC if with_critic else {"actor": ["policy"]}
    source = trained(obs_groups=groups)
    model = make(
        source,
        label_action_with_critic_obs=with_critic,
        action_labels_from_sample=from_sample,
    )
    collect(model)
    buffer = model.rollout_buffer
    obs = {group: value.flatten(0, 1) for group, value in buffer.obs().items()}
    gap = (buffer["teacher/actions"].flatten(0, 1) - source.policy.act(obs)[0]).detach()
    assert (gap.abs().max() > 0.5) == from_sample
    if from_sample:
        assert gap.std() == pytest.approx(1.0, abs=0.3)
    if with_critic:
        assert len(model.distillation.view({"critic": obs["critic"]})["critic"][0]) == 9


def test_segments_are_found_by_name() -> None:
    """A teacher that was trained on sensed values gets the true ones of the same name."""
    source = trained(env=RobotToy(6), obs_groups={"actor": ["policy"]})
    model = make(source, env=RobotToy(4))
    obs = RobotToy(3, seed=5).reset_tensor()
    velocity, mass, proprio, depth = obs["critic"].split([2, 1, 4, 36], -1)
    seen = model.distillation.view(obs)
    assert th.equal(seen["policy"], th.cat([proprio, velocity, mass, depth], -1))


def test_named_groups_for_the_teacher() -> None:
    source = trained(obs_groups={"actor": ["policy", "ref_obs"]})
    groups = {"teacher": ["ref_obs", "policy"]}
    model = make(source, policy_kwargs={"obs_groups": groups})
    obs = PointMass(3, seed=5).reset_tensor()
    assert th.equal(model.label_actions(obs), source.policy.act(obs)[0])


def test_memory_lives_and_is_reset_with_the_episodes() -> None:
    source = trained("MlpLstmPolicy", rnn={"hidden_size": 6})
    model = make(source, env=PointMass(4, max_episode_length=5), n_steps=12)
    collect(model)
    buffer = model.rollout_buffer
    state, expected = None, []
    for t in range(12):
        obs = {group: value[t] for group, value in buffer.obs().items()}
        action, state = source.policy.act(obs, state, buffer["episode_starts"][t])
        expected.append(action)
    assert th.allclose(buffer["teacher/actions"], th.stack(expected), atol=1e-6)
    assert buffer["episode_starts"][5].all()


class FlatPointMass(PointMass):
    """The point mass with one vector, as Stable-Baselines3's own examples have it."""

    def __init__(self, n_envs: int = 4) -> None:
        super().__init__(n_envs, groups=("policy",))
        self.groups = self.observation_space
        assert isinstance(self.groups, spaces.Dict)
        self.observation_space = self.groups["policy"]
        self.obs_segments = None

    def observe(self) -> dict[str, th.Tensor]:
        flat, self.observation_space = self.observation_space, self.groups
        obs = super().observe()
        self.observation_space = flat
        return obs


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_instances_of_stable_baselines3(algorithm: str) -> None:
    env = FlatPointMass(3)
    source = vars(sb3)[algorithm](
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        **({"n_steps": 2, "batch_size": 2} if algorithm == "PPO" else {}),
    )
    source.learn(6)
    source.policy.set_training_mode(True)
    if algorithm == "PPO":  # leaves a graph behind
        source.policy.get_distribution(th.zeros(1, 8))
    model = make(source, env=FlatPointMass(4))
    assert source.policy.training
    obs = FlatPointMass(3).reset_tensor()
    expected, _ = source.predict(obs["policy"].numpy(), deterministic=True)
    assert np.allclose(model.label_actions(obs).clamp(-1, 1), expected, atol=1e-6)
    model.learn(32)


def test_instances_with_groups() -> None:
    source = sb3.PPO("MultiInputPolicy", PointMass(3), policy_kwargs={"net_arch": [8]}, seed=0)
    groups = {"teacher": ["policy", "critic", "ref_obs", "ref_motion"]}
    env = PointMass(4)
    env.obs_segments = None
    model = make(source, env=env, policy_kwargs={"obs_groups": groups}, distill_target="kl")
    model.learn(32)
    label = model.label_actions(PointMass(3).reset_tensor())
    assert th.isfinite(label).all()


@pytest.mark.parametrize("activation", [None, th.nn.ELU])
def test_files_of_stable_baselines3_are_read_without_code(tmp_path: Path, activation: Any) -> None:
    kwargs: dict[str, Any] = {"net_arch": [8, 6]}
    if activation is not None:
        kwargs["activation_fn"] = activation
    source = sb3.PPO("MlpPolicy", FlatPointMass(3), policy_kwargs=kwargs, seed=0)
    source.save(tmp_path / "m")
    model = make(tmp_path / "m.zip", env=FlatPointMass(4), distill_target="kl")
    obs = FlatPointMass(3).reset_tensor()
    expected = source.policy._predict(obs["policy"], deterministic=True)
    assert th.allclose(model.label_actions(obs), expected, atol=1e-6)
    model.learn(32)


def rsl_state(style: str) -> dict[str, Any]:
    """Return a checkpoint as three generations of rsl_rl write it, for 9 inputs and 2 actions."""
    net = th.nn.Sequential(th.nn.Linear(9, 4), th.nn.ELU(), th.nn.Linear(4, 2))
    layers = dict(net.state_dict())
    norm = {
        "_mean": th.full((1, 9), 0.1),
        "_var": th.full((1, 9), 4.0),
        "_std": th.full((1, 9), 2.0),
        "count": th.tensor(100),
    }
    if style == "5":
        state: dict[str, Any] = {f"mlp.{k}": v for k, v in layers.items()}
        state.update({f"obs_normalizer.{k}": v for k, v in norm.items()})
        state["distribution.std_param"] = th.full((2,), 0.5)
        return {"actor_state_dict": state, "critic_state_dict": {}, "iter": 3, "net": net}
    state = {f"actor.{k}": v for k, v in layers.items()}
    state.update({"std": th.full((2,), 0.5), "critic.0.weight": th.zeros(3, 3)})
    if style == "3":
        state.update({f"actor_obs_normalizer.{k}": v for k, v in norm.items()})
        return {"model_state_dict": state, "iter": 3, "net": net}
    return {"model_state_dict": state, "obs_norm_state_dict": norm, "iter": 3, "net": net}


@pytest.mark.parametrize("style", ["2", "3", "5"])
def test_checkpoints_of_rsl_rl(tmp_path: Path, style: str) -> None:
    th.manual_seed(0)
    content = rsl_state(style)
    net = content.pop("net")
    th.save(content, tmp_path / "model_3.pt")
    model = make({"path": tmp_path / "model_3.pt", "activation": "elu"}, distill_target="kl")
    obs = PointMass(5, seed=7).reset_tensor()
    expected = net((obs["critic"] - 0.1) / (2.0 + 0.01))
    assert th.allclose(model.label_actions(obs), expected, atol=1e-6)
    model.learn(32)
    assert (model.rollout_buffer["teacher/dist/std"] == 0.5).all()
    sampled = make(tmp_path / "model_3.pt", action_labels_from_sample=True).label_actions(obs)
    assert not th.allclose(sampled, expected)


def test_a_mutex_policy_teaches() -> None:
    subs = [trained().policy, trained().policy]
    mutex = MutexPolicy(
        subs,
        lambda obs: (obs["critic"][:, 0] > 0).long(),
        env_action_scale=1.0,
        action_smoothing_buffer_len=2,
        last_action_segment=None,
    )
    model = make(mutex, teacher_act_prob=1.0)
    model.learn(64)
    obs = PointMass(5, seed=7).reset_tensor()
    starts = th.ones(5, dtype=th.bool)
    expected = mutex.act(obs, mutex.initial_state(5), starts)[0]
    assert th.allclose(model.label_actions(obs), expected, atol=1e-6)
    with pytest.raises(StrlTypeError, match="'kl' needs the teacher's distribution, which a Mutex"):
        make(mutex, distill_target="kl")


def test_discrete_actions() -> None:
    def env() -> PointMass:
        env = PointMass(4)
        env.action_space = spaces.Discrete(3)
        env.advance = lambda actions: PointMass.advance(  # type: ignore[method-assign]
            env, th.stack([actions - 1.0, actions * 0.0], -1)
        )
        return env

    source = PPO(
        "MlpPolicy", env(), n_steps=8, policy_kwargs={"net_arch": [8], "obs_groups": CRITIC}
    )
    for target in ("max_log_prob", "kl"):
        model = make(source, env=env(), distill_target=target, teacher_act_prob=0.5)
        model.learn(32 * 4)
        assert model.rollout_buffer["teacher/actions"].dtype == th.int64
    with pytest.raises(StrlValueError, match=r"'real' compares vectors, but the actions are Discr"):
        make(source, env=env())


def test_without_a_file_the_teacher_is_random_and_says_so() -> None:
    for name in ("ActorCritic", "MlpGruPolicy"):
        with pytest.warns(UserWarning, match=rf"the teacher '{name}' has random weights"):
            model = make({"class_name": name, "net_arch": [4]})
        model.learn(32)


def test_what_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(StrlTypeError, match=r"there is no teacher\. Pass teacher=, a policy"):
        make(None)
    with pytest.raises(StrlTypeError, match=r"the teacher is 3\. Expected a policy"):
        make(3)
    with pytest.raises(StrlTypeError, match=r"several teachers were given"):
        make("a.zip", teacher_policy="b.zip")
    with pytest.raises(StrlValueError, match=r"there is no teacher file .*missing\.zip"):
        make(tmp_path / "missing.zip")
    with pytest.raises(StrlTypeError, match=r"unknown key 'actvation'\. Did you mean 'activation'"):
        make({"path": "a", "actvation": "elu"})
    env = PointMass(2)
    env.action_space = spaces.Box(-1.0, 1.0, (3,))
    stranger = PPO("MlpPolicy", env, n_steps=4)
    with pytest.raises(StrlValueError, match=r"the teacher's actions are Box\(.*\(3,\)"):
        make(stranger)
    wide = trained(env=RobotToy(6))
    with pytest.raises(
        StrlValueError, match=r"reads \['critic of shape \(43,\)'\], but the groups"
    ):
        make(wide)
    several = trained(env=RobotToy(6), obs_groups={"actor": ["policy", "ref_obs"]})
    with pytest.raises(StrlValueError, match=r"Choose what it is shown: label_action_with_critic"):
        make(several)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"weights": {}}, r"holds \['weights'\]"),
        (
            {"model_state_dict": {"memory_a.rnn.weight": th.zeros(2, 2)}},
            r"has \['memory_a'\] beside",
        ),
        ({"model_state_dict": {"std": th.zeros(2)}}, "has no actor of linear layers"),
        (
            {
                "model_state_dict": {
                    "actor.0.weight": th.zeros(4, 9),
                    "actor.2.weight": th.zeros(2, 5),
                }
            },
            "has no actor of linear layers",
        ),
        (
            {"model_state_dict": {"actor.0.weight": th.zeros(3, 9)}},
            r"makes 3 numbers, but the actions",
        ),
        (
            {"model_state_dict": {"actor.0.weight": th.zeros(2, 7)}},
            r"reads \['policy of shape \(7,\)'\]",
        ),
    ],
)
def test_foreign_files(tmp_path: Path, state: dict[str, Any], match: str) -> None:
    th.save(state, tmp_path / "c.pt")
    with pytest.raises(StrlValueError, match=match):
        make(tmp_path / "c.pt")


def test_a_declared_width_is_checked(tmp_path: Path) -> None:
    th.save({"model_state_dict": {"actor.0.weight": th.zeros(2, 9)}}, tmp_path / "c.pt")
    make({"path": tmp_path / "c.pt", "num_actor_obs": 9})
    with pytest.raises(StrlValueError, match=r"says num_actor_obs=8, but the weights"):
        make({"path": tmp_path / "c.pt", "num_actor_obs": 8})


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    th.save({"model_state_dict": {"actor.0.weight": Bomb(mark)}}, tmp_path / "c.pt")
    with pytest.raises(StrlValueError, match="damaged, or needs code to be executed"):
        read_teacher_file("T", tmp_path / "c.pt", None)
    with zipfile.ZipFile(tmp_path / "sb3.zip", "w") as entries:
        entries.write(tmp_path / "c.pt", "policy.pth")
        entries.writestr("data", "{}")
    with pytest.raises(StrlValueError, match="damaged, or needs code to be executed"):
        read_teacher_file("T", tmp_path / "sb3.zip", None)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:100])
    with pytest.raises(StrlValueError, match="damaged, or needs code"):
        read_teacher_file("T", tmp_path / "cut.pt", None)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(StrlValueError, match="damaged, or needs code"):
        read_teacher_file("T", tmp_path / "empty.pt", None)
    assert not mark.exists()


def test_memories_are_taken_apart_and_put_together() -> None:
    state = trained("MlpLstmPolicy", rnn={"hidden_size": 3}).policy.initial_state(2)
    tensors = [th.full_like(leaf, i) for i, leaf in enumerate(tree_tensors(state), 1)]
    restored = tree_restore(state, iter(tensors))
    assert type(restored) is type(state)
    assert [float(leaf.mean()) for leaf in tree_tensors(restored)] == [1.0, 2.0, 3.0, 4.0]
    assert tree_restore(None, iter([])) is None


def test_a_plain_policy_of_another_library() -> None:
    """What ``imitation`` trains is a policy of Stable-Baselines3."""
    source = sb3.PPO("MlpPolicy", FlatPointMass(3), policy_kwargs={"net_arch": [32, 32]}).policy
    assert isinstance(source, BasePolicy)
    student = make(source, env=FlatPointMass(4)).policy
    teacher = make_teacher("T", source, student, ["policy"])
    assert teacher.initial_state(3) is None
    assert not isinstance(teacher.policy, PerceptronTeacher)
