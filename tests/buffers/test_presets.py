"""The fields that objectives add, by name."""

import torch as th

from sb3_strl.buffers.presets import action_label_fields, ref_motion_fields


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
        "teacher/student_mask": ((), th.bool),
    }
