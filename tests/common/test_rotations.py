"""Quaternions against closed forms and rotation matrices."""

from __future__ import annotations

import math

import pytest
import torch as th

from sb3_strl.common import rotations as rot


def random_quats(n: int, seed: int = 0) -> th.Tensor:
    return rot.quat_normalize(
        th.randn(n, 4, generator=th.Generator().manual_seed(seed), dtype=th.float64)
    )


def matrix(q: th.Tensor) -> th.Tensor:
    w, x, y, z = q.unbind(-1)
    rows = [
        th.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        th.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        th.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    ]
    return th.stack(rows, -2)


def about_z(angle: float) -> th.Tensor:
    return th.tensor([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)], dtype=th.float64)


def test_normalize_has_unit_length_and_keeps_the_direction() -> None:
    quats = rot.quat_normalize(th.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0]]))
    th.testing.assert_close(quats, th.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0]]))


def test_multiply_composes_rotation_matrices() -> None:
    left, right = random_quats(50), random_quats(50, seed=1)
    th.testing.assert_close(
        matrix(rot.quat_multiply(left, right)), matrix(left) @ matrix(right), atol=1e-12, rtol=0
    )


def test_multiply_broadcasts() -> None:
    left, right = random_quats(5), random_quats(1)[0]
    expected = th.stack([rot.quat_multiply(q, right) for q in left])
    th.testing.assert_close(rot.quat_multiply(left, right), expected)


def test_conjugate_is_the_inverse() -> None:
    quats = random_quats(20)
    identity = rot.quat_multiply(quats, rot.quat_conjugate(quats))
    th.testing.assert_close(identity, th.tensor([1.0, 0, 0, 0]).double().expand(20, 4))


def test_rotate_is_the_rotation_matrix() -> None:
    quats = random_quats(20)
    vectors = th.randn(20, 3, generator=th.Generator().manual_seed(3), dtype=th.float64)
    expected = (matrix(quats) @ vectors.unsqueeze(-1)).squeeze(-1)
    th.testing.assert_close(rot.quat_rotate(quats, vectors), expected)


def test_quarter_turn_about_z_takes_x_to_y() -> None:
    x = th.tensor([1.0, 0.0, 0.0], dtype=th.float64)
    turned = rot.quat_rotate(about_z(math.pi / 2), x)
    th.testing.assert_close(turned, th.tensor([0.0, 1.0, 0.0], dtype=th.float64))


def test_axis_angle_hand_computed() -> None:
    turn = th.tensor([0.0, 0.0, math.pi / 3], dtype=th.float64)
    expected = th.tensor([math.sqrt(3) / 2, 0.0, 0.0, 0.5], dtype=th.float64)
    th.testing.assert_close(rot.quat_from_axis_angle(turn), expected)
    th.testing.assert_close(rot.quat_to_axis_angle(expected), turn)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1.9e-4, 2.1e-4, 0.3, 3.0, 3.14])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_axis_angle_round_trip(angle: float, dtype: th.dtype) -> None:
    axis = th.tensor([2.0, -1.0, 2.0], dtype=dtype) / 3.0
    back = rot.quat_to_axis_angle(rot.quat_from_axis_angle(angle * axis))
    th.testing.assert_close(back, angle * axis, rtol=1e-5, atol=0 if angle < 1e-3 else 1e-6)


def test_axis_angle_of_both_signs_is_one_rotation() -> None:
    quats = random_quats(30)
    turns = rot.quat_to_axis_angle(quats)
    th.testing.assert_close(turns, rot.quat_to_axis_angle(-quats))
    assert turns.norm(dim=-1).max() <= math.pi + 1e-9


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_slerp_about_one_axis_is_linear_in_the_angle(fraction: float) -> None:
    mixed = rot.quat_slerp(about_z(0.4), about_z(2.4), th.tensor(fraction, dtype=th.float64))
    th.testing.assert_close(mixed, about_z(0.4 + 2.0 * fraction))


def test_slerp_equals_the_exponential_form() -> None:
    start, end = random_quats(40), random_quats(40, seed=7)
    fractions = th.linspace(0, 1, 40, dtype=th.float64)
    # slerp(p, q, t) = exp(t log(q p*)) p
    turn = rot.quat_to_axis_angle(rot.quat_multiply(end, rot.quat_conjugate(start)))
    expected = rot.quat_multiply(rot.quat_from_axis_angle(fractions.unsqueeze(1) * turn), start)
    th.testing.assert_close(rot.quat_slerp(start, end, fractions), expected)


def test_slerp_takes_the_shorter_arc_whatever_the_sign() -> None:
    fractions = th.tensor([0.25], dtype=th.float64)
    start, end = about_z(0.2)[None], about_z(0.6)[None]
    th.testing.assert_close(rot.quat_slerp(start, -end, fractions), about_z(0.3)[None])


def test_slerp_of_equal_and_nearly_equal_rotations_is_finite() -> None:
    start = about_z(1.0).float().repeat(3, 1)
    end = th.stack((about_z(1.0), about_z(1.0 + 1e-7), -about_z(1.0))).float()
    mixed = rot.quat_slerp(start, end, th.full((3,), 0.5))
    th.testing.assert_close(mixed, start)


def test_slerp_keeps_its_digits_over_tiny_angles() -> None:
    mixed = rot.quat_slerp(about_z(0.0), about_z(1e-5), th.tensor(0.25, dtype=th.float64))
    th.testing.assert_close(mixed[3].item(), 0.125e-5, rtol=1e-6, atol=0)


def test_continuous_undoes_every_flip() -> None:
    smooth = th.stack([about_z(0.1 * i) for i in range(100)])
    signs = th.randint(0, 2, (100, 1), generator=th.Generator().manual_seed(0)) * 2 - 1
    restored = rot.quat_continuous(smooth * signs)
    th.testing.assert_close(restored, smooth * signs[0])
