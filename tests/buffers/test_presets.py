"""The fields that objectives add, by name."""

import pytest
import torch as th

from sb3_strl import APPO
from sb3_strl.buffers import ActionLabelRolloutBuffer, RefMotionRolloutBuffer
from sb3_strl.buffers.presets import action_label_fields, ref_motion_fields
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
