"""Buffers by the name of what they add; declarations only."""

from __future__ import annotations

import torch as th

from sb3_strl.buffers.rollout_buffer import FieldSpec


def ref_motion_fields(feature_dim: int) -> dict[str, FieldSpec]:
    """
    Fields of an adversarial motion prior.

    :param feature_dim: width M of the style features of one window
    """
    return {
        "amp/features": FieldSpec((feature_dim,)),
        "amp/expert": FieldSpec((feature_dim,)),
        "amp/valid": FieldSpec((), th.bool),
        "amp/expert_valid": FieldSpec((), th.bool),
    }


def action_label_fields(action_dim: int) -> dict[str, FieldSpec]:
    """
    Fields of a teacher's labels.

    :param action_dim: number of action dimensions
    """
    return {
        "teacher/actions": FieldSpec((action_dim,)),
        "teacher/student_mask": FieldSpec((), th.bool),
    }
