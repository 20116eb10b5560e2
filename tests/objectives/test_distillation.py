"""Distilling a teacher: mixing, distances, coefficients, latents, memory, older steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from sb3_strl import PPO, TPPO
from sb3_strl.algorithms.minibatch import evaluate_batch
from sb3_strl.buffers.dilated_queue import DilatedQueue
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.common.memory_state import PolicyState
from sb3_strl.objectives.distances import ACTION_DISTANCES, action_distance
from sb3_strl.objectives.latents import LatentDistillation
from sb3_strl.objectives.perceptron import PerceptronTeacher
from sb3_strl.objectives.resampling import resample_states
from tests.envs.robot import RobotToy
from tests.envs.toy import PointMass
from tests.objectives.test_teacher import collect, make, trained

ENCODER = {"component_names": ["velocity"], "kwargs": {"hidden_sizes": [6]}, "output_size": 3}


def first_batch(model: PPO) -> tuple[Any, Any]:
    for objective in model.objectives:
        objective.start_update(model.rollout_buffer)
    buffer = model.rollout_buffer
    batches = buffer.get_sequences(1) if model.policy.is_recurrent else buffer.get()
    batch = next(iter(batches))
    return batch, evaluate_batch(model.policy, batch, with_values=True)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_who_acts(p: float) -> None:
    model = make(trained(), PointMass(200, max_episode_length=4), teacher_act_prob=p, n_steps=12)
    collect(model)
    buffer = model.rollout_buffer
    driven = ~buffer["on_policy"]
    assert driven.float().mean() == pytest.approx(p, abs=0.03 if 0 < p < 1 else 0.0)
    labels, actions = buffer["teacher/actions"], buffer["actions"]
    assert th.equal(labels[driven], actions[driven])
    assert not (labels[~driven] == actions[~driven]).any()
    obs = {group: value.flatten(0, 1) for group, value in buffer.obs().items()}
    log_prob = model.policy.evaluate_actions(obs, actions.flatten(0, 1))[1]
    assert th.allclose(log_prob, buffer["log_probs"].flatten(), atol=1e-5)


def test_the_driver_changes_with_the_episode_only() -> None:
    env = PointMass(64, max_episode_length=7, termination_prob=0.1)
    model = make(trained(), env, teacher_act_prob=0.5, n_steps=16)
    model.learn(64 * 16 * 2)
    buffer = model.rollout_buffer
    changed = buffer["on_policy"][1:] != buffer["on_policy"][:-1]
    assert changed.any()
    assert not (changed & ~buffer["episode_starts"][1:]).any()


def test_the_schedule_counts_completed_updates() -> None:
    seen: list[int] = []

    def schedule(k: int) -> float:
        seen.append(k)
        return 0.5

    model = make(trained(), teacher_act_prob=schedule)
    model.learn(32 * 3)
    assert seen == [0, 0, 1, 1, 2, 2]  # for the rollout, and for the log after its update


@pytest.mark.parametrize(
    ("coef", "expected"),
    [(2.5, [2.5, 2.5, 2.5]), ("linear", [1.0, 0.75, 0.5]), (lambda k: 3.0 - k, [3.0, 2.0, 1.0])],
)
def test_coefficients_are_numbers_or_schedules(coef: Any, expected: list[float]) -> None:
    model = make(trained(), distillation_loss_coef=coef, update_times_scale=4)
    for value in expected:
        model.learn(32, reset_num_timesteps=False, log_interval=None)
        assert model.logger.name_to_value["distill/coef"] == value
        k = model.n_iterations
        assert k == expected.index(value) + 1 or coef == 2.5


@pytest.mark.parametrize("name", ACTION_DISTANCES)
@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpGruPolicy"])
def test_the_loss_is_the_mean_distance_and_falls(name: str, alias: str) -> None:
    source = trained(mu_activation="tanh")
    model = make(
        source,
        PointMass(16),
        policy=alias,
        policy_kwargs={"mu_activation": "tanh", "net_arch": [16]},
        distill_target=name,
        distillation_loss_coef=0.5,
        using_ppo=False,
        learning_rate=3e-3,
        teacher_act_prob=0.5,
    )
    collect(model)
    batch, out = first_batch(model)
    loss = model.distillation.loss(batch, out)
    assert loss is not None
    dist = {k.removeprefix("teacher/dist/"): v for k, v in batch.extras.items() if "/dist/" in k}
    head, labels = model.policy.action_head, batch.extras["teacher/actions"]
    expected = action_distance(name, head, out.params, labels, dist).mean()
    assert th.allclose(loss, 0.5 * expected)
    model.learn(128 * 2, log_interval=None)
    first = model.logger.name_to_value["distill/l1distance"]
    model.learn(128 * 25, reset_num_timesteps=False, log_interval=None)
    assert model.logger.name_to_value["distill/l1distance"] < 0.8 * first
    logged = set(model.logger.name_to_value)
    assert ("distill/loss_above_minimum" in logged) == (name == "tanh")
    assert "distill/l1_before_tanh" in logged


@pytest.mark.parametrize("target", ["real", "mse_sum", "l1", "tanh", "scaled_tanh"])
def test_latents_are_matched_by_the_students_encoder_alone(target: str) -> None:
    encoder = {**ENCODER, "kwargs": {"hidden_sizes": [6], "nonlinearity": "tanh"}}
    source = trained("EncoderPolicy", RobotToy(6), encoder=encoder)
    model = make(
        source,
        RobotToy(16),
        policy="EncoderPolicy",
        policy_kwargs={"encoder": encoder},
        distill_latent_obs_component_mapping={"velocity": "velocity"},
        distill_latent_target=target,
        distillation_loss_coef=0.0,
        learning_rate=3e-3,
        using_ppo=False,
    )
    collect(model)
    batch, out = first_batch(model)
    teacher = model.distillation.teacher
    assert teacher is not None
    z = model.policy.get_encoder_latent(batch.observations, "velocity")
    stored = batch.extras["teacher/latent/velocity"]
    assert th.allclose(stored, source.policy.get_encoder_latent(batch.observations, "velocity"))
    seen = model.distillation.view(batch.observations)
    assert not model.distillation.latents.of_teacher(seen).popitem()[1].requires_grad
    if target == "mse_sum":
        loss = model.distillation.loss(batch, out)
        assert loss is not None
        assert th.allclose(loss, (z - stored).square().sum(-1).mean())
    before = {n: p.clone() for n, p in model.policy.named_parameters()}
    frozen = {n: p.clone() for n, p in teacher.policy.named_parameters()}
    model.learn(128, log_interval=None)
    first = model.logger.name_to_value["distill/latent_velocity"]
    for name, parameter in model.policy.named_parameters():
        assert th.equal(parameter, before[name]) != name.startswith("actor_reader.enc"), name
    model.learn(128 * 20, reset_num_timesteps=False, log_interval=None)
    assert model.logger.name_to_value["distill/latent_velocity"] < first
    assert all(th.equal(p, frozen[n]) for n, p in teacher.policy.named_parameters())


def test_latents_must_fit() -> None:
    source = trained("EncoderPolicy", RobotToy(6), encoder=ENCODER)
    options: dict[str, Any] = {
        "env": RobotToy(4),
        "policy": "EncoderPolicy",
        "policy_kwargs": {"encoder": ENCODER},
        "distill_latent_obs_component_mapping": {"velocity": "velocity"},
    }
    with pytest.raises(StrlValueError, match=r"compares latents in \[-1, 1\], but that of 'veloc"):
        make(source, **options, distill_latent_target="tanh")
    with pytest.raises(StrlValueError, match=r"unknown distill_latent_target 'kl'"):
        make(source, **options, distill_latent_target="kl")
    with pytest.raises(StrlValueError, match=r"distill_latent_coef is -1\.0"):
        make(source, **options, distill_latent_coef=-1.0)
    wide = {**options, "policy_kwargs": {"encoder": {**ENCODER, "output_size": 4}}}
    with pytest.raises(StrlValueError, match=r"latent of 'velocity' has 4 numbers and the teacher"):
        make(source, **wide)
    perceptron = PerceptronTeacher([(th.zeros(2, 3), th.zeros(2))], th.nn.ELU, None, None)
    student, pair = source.policy, {"velocity": "velocity"}
    with pytest.raises(StrlTypeError, match="needs a teacher with encoders, but it is a Perceptr"):
        LatentDistillation("T", student, perceptron, pair, "real", 1.0)
    for mapping, who in (({"mass": "velocity"}, "student"), ({"velocity": "mass"}, "teacher")):
        with pytest.raises(StrlValueError, match=rf"'mass', which no encoder of the {who} reads"):
            make(source, **{**options, "distill_latent_obs_component_mapping": mapping})


@pytest.mark.parametrize("alias", ["MlpGruPolicy", "MlpLstmPolicy"])
def test_random_memory_is_for_the_distance_alone(alias: str) -> None:
    model = make(trained(), policy=alias, hidden_state_resample_prob=1.0, teacher_act_prob=0.5)
    model.learn(32)
    collect(model)
    batch, out = first_batch(model)
    log_prob = model.policy.action_head.log_prob(out.params, batch.actions)
    assert (log_prob - batch.old_log_prob).abs().max() < 1e-5
    params = model.distillation._params(batch, out.params)
    gap = (params["mean"] - out.params["mean"]).abs().sum(-1)
    heads = int(batch.sequences.batch_sizes[0])
    assert (gap[:heads] > 1e-6).all()


@pytest.mark.parametrize("reuse", [False, True])
def test_the_rollouts_estimates_are_read_under_random_memory_and_not_in_older_steps(
    reuse: bool,
) -> None:
    model = make(
        trained(env=RobotToy(6)),
        RobotToy(6),
        policy="EstimatorGruPolicy",
        policy_kwargs={
            "estimator": {
                "obs_components": ["proprio", "mass"],
                "target_components": ["velocity"],
                "kwargs": {"hidden_sizes": [6]},
                "replace_prob": 1.0,
                "reuse_estimates": reuse,
            }
        },
        hidden_state_resample_prob=1.0,
        buffer_dilation_ratio=2.0,
    )
    distillation = model.distillation
    for _ in range(2):
        collect(model)
        batch, out = first_batch(model)
    older = distillation._old_batch(len(batch.advantages))
    assert older is not None

    def means() -> list[th.Tensor]:
        found = []
        for part, params in ((batch, out.params), (older, {})):
            distillation.generator.manual_seed(0)
            found.append(distillation._params(part, params)["mean"].detach())
        return found

    before = means()
    with th.no_grad():
        for _, estimator in model.policy.each_estimator():
            for parameter in estimator.net.parameters():
                parameter.add_(0.3)
    after = means()
    assert th.equal(before[0], after[0]) == reuse
    assert not th.allclose(before[1], after[1])


def test_states_are_replaced_as_a_whole() -> None:
    lstm = (th.zeros(2, 500, 3), th.zeros(2, 500, 3))
    state = PolicyState(actor=lstm, estimator=th.zeros(1, 500, 4))
    new = resample_states(state, 0.3, th.Generator().manual_seed(0))
    assert isinstance(new.actor, tuple)
    assert isinstance(new.estimator, th.Tensor)
    assert new.critic is None
    replaced = [leaf.ne(0).any(0).any(-1) for leaf in (*new.actor, new.estimator)]
    assert th.equal(replaced[0], replaced[1])
    assert th.equal(replaced[0], replaced[2])
    assert replaced[0].float().mean() == pytest.approx(0.3, abs=0.06)
    values = new.actor[0][:, replaced[0]]
    assert -1 <= values.min() < -0.9
    assert 0.9 < values.max() <= 1


def test_queue_keeps_the_steps_in_order() -> None:
    model = make(trained(), n_steps=4)
    queue = DilatedQueue(2.5, 4)
    buffer = model.rollout_buffer
    for rollout in range(4):
        steps = th.arange(4.0) + 4 * rollout
        buffer["rewards"].copy_(steps.unsqueeze(-1).expand(4, 4))
        queue.push(buffer, ["rewards"])
        old = queue.old()["rewards"][:, 0].tolist()
        newest = 4 * rollout
        assert old == [float(s) for s in range(max(0, newest - 6), newest)]
    twin = DilatedQueue(2.5, 4)
    twin.load_state_dict(queue.state_dict())
    assert th.equal(twin.old()["rewards"], queue.old()["rewards"])
    other = DilatedQueue(3.0, 4)
    other.load_state_dict(queue.state_dict())
    assert other.n_old == 0
    with pytest.raises(
        StrlValueError, match=r"buffer_dilation_ratio is 0\.5\. It must be at least"
    ):
        make(trained(), buffer_dilation_ratio=0.5)


@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpGruPolicy"])
def test_older_steps_are_imitated_and_ppo_sees_the_newest(
    alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(trained(), policy=alias, buffer_dilation_ratio=2.5, teacher_act_prob=0.5)
    sizes: list[tuple[int, int]] = []
    original = type(model.distillation)._action_distance

    def spy(self: Any, batch: Any, params: Any) -> th.Tensor:
        sizes.append((len(batch.advantages), len(batch.extras["teacher/actions"])))
        labels, source = batch.extras["teacher/actions"], self.teacher.policy
        assert th.allclose(labels, source.act(batch.observations)[0], atol=1e-5)
        return original(self, batch, params)

    monkeypatch.setattr(type(model.distillation), "_action_distance", spy)
    model.learn(32 * 3)
    old = [new for ppo, new in sizes if ppo == 0]
    ppo = [new for size, new in sizes if size]
    assert ppo == [8] * 12
    assert sum(old[:4]) == 32  # the second rollout's share of the first
    assert sum(old[4:]) == 48  # and the third's of one and a half


def test_bad_options() -> None:
    source = trained()
    for options, match in (
        ({"hidden_state_resample_prob": 0.5}, r"the policy MlpPolicy has no memory\. Set it to 0"),
        ({"hidden_state_resample_prob": 1.5}, r"hidden_state_resample_prob is 1\.5\. It must be"),
        ({"distill_target": "rael"}, r"unknown distill_target 'rael'\. Did you mean 'real'"),
        ({"distill_target": "tanh"}, r"compares means in \[-1, 1\]"),
        ({"distillation_loss_coef": -1.0}, r"distillation_loss_coef is -1\.0"),
        ({"teacher_act_prob": 1.5}, r"the probability is 1\.5"),
        ({"teacher_act_prob": "expp"}, r"unknown schedule 'expp'\. Did you mean 'exp'"),
        ({"update_times_scale": 0.5}, r"the scale is 0\.5"),
    ):
        with pytest.raises(StrlValueError, match=match):
            make(source, **options)  # type: ignore[arg-type]


def test_everything_off_leaves_nothing_to_learn() -> None:
    model = make(trained(), distillation_loss_coef=0.0, using_ppo=False)
    with pytest.raises(StrlValueError, match="using_ppo=False leaves no loss to train on"):
        model.learn(32)
    assert isinstance(model, TPPO)
