"""The fields that objectives add, by name."""

import pytest
import torch as th
from gymnasium import spaces

from sb3_strl import APPO, PPO
from sb3_strl.buffers import (
    ActionLabelRolloutBuffer,
    EstimatorRolloutBuffer,
    RefMotionRolloutBuffer,
    SarsaRolloutBuffer,
)
from sb3_strl.buffers.presets import (
    action_label_fields,
    estimator_target_fields,
    label_fields,
    ref_motion_fields,
)
from sb3_strl.common.types import TensorStep
from tests.envs.toy import PointMass


def test_fields_of_a_motion_prior() -> None:
    fields = ref_motion_fields(7)
    assert {n: (s.shape, s.dtype) for n, s in fields.items()} == {
        "amp/features": ((7,), th.float32),
        "amp/expert": ((7,), th.float32),
        "amp/valid": ((), th.bool),
        "amp/expert_valid": ((), th.bool),
    }
    assert all(spec.sampled for spec in fields.values())


def test_fields_of_a_teacher() -> None:
    fields = action_label_fields(3)
    assert {n: (s.shape, s.dtype) for n, s in fields.items()} == {
        "teacher/actions": ((3,), th.float32),
        "on_policy": ((), th.bool),
    }


@pytest.mark.parametrize(
    ("buffer_class", "width", "names"),
    [
        (RefMotionRolloutBuffer, {"feature_dim": 7}, ref_motion_fields(7)),
        (ActionLabelRolloutBuffer, {"action_dim": 3}, action_label_fields(3)),
        (
            EstimatorRolloutBuffer,
            {"widths": {"estimator": 3, "adaptor": 1}},
            estimator_target_fields({"estimator": 3, "adaptor": 1}),
        ),
    ],
)
def test_buffers_take_the_arguments_of_sb3(buffer_class: type, width: dict, names: dict) -> None:
    env = PointMass(5)
    buffer = buffer_class(
        4, env.observation_space, env.action_space, "cpu", gae_lambda=0.9, gamma=0.8, n_envs=5,
        **width,
    )  # fmt: skip
    assert (buffer.gae_lambda, buffer.gamma, buffer.n_envs) == (0.9, 0.8, 5)
    for name, spec in names.items():
        assert (buffer[name].shape, buffer[name].dtype) == ((4, 5, *spec.shape), spec.dtype)
    with pytest.raises(TypeError, match="gama"):
        buffer_class(4, env.observation_space, env.action_space, gama=0.8, **width)


def test_an_algorithm_takes_the_preset() -> None:
    model = APPO(
        "AmpPolicy", PointMass(2), n_steps=4, rollout_buffer_class=RefMotionRolloutBuffer,
        rollout_buffer_kwargs={"feature_dim": 8},
        policy_kwargs={"amp_discriminator": {"task_reward_lerp": 0.5}},
    )  # fmt: skip
    model.learn(16)
    assert isinstance(model.rollout_buffer, RefMotionRolloutBuffer)
    assert model.rollout_buffer["amp/features"].abs().sum() > 0


def test_labels_have_the_shape_of_actions() -> None:
    for space, shape, dtype in (
        (spaces.Box(-1.0, 1.0, (2, 3)), (6,), th.float32),
        (spaces.Discrete(3), (), th.int64),
        (spaces.MultiDiscrete([2, 3]), (2,), th.int64),
        (spaces.MultiBinary(4), (4,), th.float32),
    ):
        field = label_fields(space)["teacher/actions"]
        assert (field.shape, field.dtype) == (shape, dtype)


class Teller(PointMass):
    """Keeps what it returned; may keep quiet about the end of episodes."""

    def __init__(self, with_final: bool) -> None:
        super().__init__(3, max_episode_length=4)
        self.with_final = with_final
        self.steps: list[TensorStep] = []

    def step_tensor(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensor(actions)
        if not self.with_final:
            step = step._replace(final_obs=None)
        self.steps.append(step)
        return step


@pytest.mark.parametrize("alias", ["MlpPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize("with_final", [True, False])
@pytest.mark.filterwarnings("ignore:PPO. this environment supplies no final")
def test_successors_are_the_true_ones(alias: str, with_final: bool) -> None:
    env = Teller(with_final)
    model = PPO(
        alias, env, n_steps=10, n_epochs=1, n_minibatches=1, policy_kwargs={"net_arch": [4]},
        rollout_buffer_class=SarsaRolloutBuffer,
    )  # fmt: skip
    model.learn(30)
    buffer = model.rollout_buffer
    assert set(buffer.obs()) == {"policy", "critic"}
    for t, step in enumerate(env.steps):
        dones = step.terminated | step.truncated
        assert th.equal(buffer["next/known"][t], ~dones | with_final)
        for group in buffer.obs():
            after = buffer[f"next/{group}"][t]
            assert th.equal(after[~dones], step.obs[group][~dones])
            if step.final_obs is not None:
                assert th.equal(after[dones], step.final_obs[group][dones])
                assert not dones.any() or not th.equal(after[dones], step.obs[group][dones])
    batches = buffer.get_sequences(1) if model.policy.is_recurrent else buffer.get()
    batch = next(iter(batches))
    moved = batch.extras["next/policy"][:, :2] - batch.observations["policy"][:, :2]
    velocity = batch.extras["next/policy"][:, 2:4]
    known = batch.extras["next/known"]
    assert th.allclose(moved[known], velocity[known], atol=1e-6)  # rows belong together
