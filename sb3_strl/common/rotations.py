"""Unit quaternions in the order ``wxyz``: what motions and their retargeting need."""

from __future__ import annotations

import torch as th

_SMALL_ANGLE = 1e-4


def quat_normalize(quats: th.Tensor) -> th.Tensor:
    """
    Scale quaternions to unit length.

    :param quats: ``(..., 4)``, wxyz, not zero
    :return: ``(..., 4)``
    """
    lengths: th.Tensor = th.linalg.vector_norm(quats, dim=-1, keepdim=True)
    return quats / lengths


def quat_conjugate(quats: th.Tensor) -> th.Tensor:
    """
    Return the inverse rotation of unit quaternions.

    :param quats: ``(..., 4)``, wxyz
    :return: ``(..., 4)``
    """
    return th.cat((quats[..., :1], -quats[..., 1:]), dim=-1)


def quat_multiply(left: th.Tensor, right: th.Tensor) -> th.Tensor:
    """
    Hamilton product: the rotation ``right`` followed by the rotation ``left``.

    :param left: ``(..., 4)``, wxyz
    :param right: ``(..., 4)``, wxyz
    :return: ``(..., 4)``
    """
    left_w, left_v = left[..., :1], left[..., 1:]
    right_w, right_v = right[..., :1], right[..., 1:]
    left_v, right_v = th.broadcast_tensors(left_v, right_v)
    scalar = left_w * right_w - (left_v * right_v).sum(dim=-1, keepdim=True)
    vector = left_w * right_v + right_w * left_v + th.linalg.cross(left_v, right_v)
    return th.cat((scalar, vector), dim=-1)


def quat_rotate(quats: th.Tensor, vectors: th.Tensor) -> th.Tensor:
    """
    Rotate vectors by unit quaternions, ``v' = q v q*``.

    :param quats: ``(..., 4)``, wxyz
    :param vectors: ``(..., 3)``
    :return: ``(..., 3)``
    """
    axis, vectors = th.broadcast_tensors(quats[..., 1:], vectors)
    twice = 2.0 * th.linalg.cross(axis, vectors)
    rotated: th.Tensor = vectors + quats[..., :1] * twice + th.linalg.cross(axis, twice)
    return rotated


def quat_from_axis_angle(rotation_vectors: th.Tensor) -> th.Tensor:
    """
    Exponential map, ``q = (cos(a/2), sin(a/2) u)`` for a turn by ``a`` about the unit axis ``u``.

    :param rotation_vectors: ``(..., 3)``, axis times angle, rad
    :return: ``(..., 4)``, wxyz
    """
    angles = rotation_vectors.norm(dim=-1, keepdim=True)
    # sinc is smooth at zero, where sin(a/2)/a would be 0/0; torch's sinc contains a factor pi.
    scale = 0.5 * th.sinc(angles / (2.0 * th.pi))
    return th.cat((th.cos(0.5 * angles), scale * rotation_vectors), dim=-1)


def quat_to_axis_angle(quats: th.Tensor) -> th.Tensor:
    """
    Logarithmic map, the inverse of :func:`quat_from_axis_angle`, with angles in ``[0, pi]``.

    :param quats: ``(..., 4)``, wxyz, unit length; ``q`` and ``-q`` give the same answer
    :return: ``(..., 3)``, axis times angle, rad
    """
    quats = th.where(quats[..., :1] < 0.0, -quats, quats)
    sines = quats[..., 1:].norm(dim=-1, keepdim=True)
    angles = 2.0 * th.atan2(sines, quats[..., :1])
    # Near the identity angle / sin(angle / 2) tends to 2, and the quotient itself loses all digits.
    scale = th.where(sines < _SMALL_ANGLE, 2.0, angles / sines.clamp(min=_SMALL_ANGLE))
    return scale * quats[..., 1:]


def quat_slerp(start: th.Tensor, end: th.Tensor, fractions: th.Tensor) -> th.Tensor:
    """
    Spherical linear interpolation along the shorter arc (Shoemake 1985).

    ``slerp(p, q, t) = (sin((1-t) a) p + sin(t a) q) / sin(a)`` with ``cos(a) = p . q``. The sign of
    ``end`` is flipped where needed, because ``q`` and ``-q`` are one rotation and the longer arc
    would turn the body the other way round.

    :param start: ``(..., 4)``, wxyz, unit length
    :param end: ``(..., 4)``, wxyz, unit length
    :param fractions: ``(...)``, 0 at ``start`` and 1 at ``end``
    :return: ``(..., 4)``, unit length, in the hemisphere of ``start`` at fraction 0
    """
    fractions = fractions.unsqueeze(-1)
    cosines = (start * end).sum(dim=-1, keepdim=True)
    end = th.where(cosines < 0.0, -end, end)
    # atan2 keeps its digits at small angles, where acos of a number close to one has lost them.
    angles = 2.0 * th.atan2(
        (start - end).norm(dim=-1, keepdim=True), (start + end).norm(dim=-1, keepdim=True)
    )
    sines = th.sin(angles).clamp(min=_SMALL_ANGLE)
    small = angles < _SMALL_ANGLE
    start_weight = th.where(small, 1.0 - fractions, th.sin((1.0 - fractions) * angles) / sines)
    end_weight = th.where(small, fractions, th.sin(fractions * angles) / sines)
    return quat_normalize(start_weight * start + end_weight * end)


def quat_continuous(quats: th.Tensor) -> th.Tensor:
    """
    Flip signs so that neighbours in time lie in the same hemisphere.

    :param quats: ``(n_frames, 4)``, wxyz
    :return: ``(n_frames, 4)``, the same rotations; the first row keeps its sign
    """
    flips = (quats[1:] * quats[:-1]).sum(dim=-1) < 0.0
    # A flip changes every later sign: the running parity of the flips is the sign of each frame.
    parity = flips.long().cumsum(dim=0) % 2
    signs = th.cat((th.ones_like(parity[:1]), 1 - 2 * parity))
    return quats * signs.unsqueeze(-1).to(quats.dtype)
