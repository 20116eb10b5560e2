"""Pictures of the walker: a small drawing of our own, and MuJoCo's renderer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sb3_strl.common.errors import StrlValueError
from sb3_strl.envs.walker_kinematics import SOLE_RADIUS, FloatArray, forward_kinematics

if TYPE_CHECKING:
    from sb3_strl.envs.walker_physics import WalkerPhysics

Colour = tuple[int, int, int]
Picture = npt.NDArray[np.uint8]

BLUE: Colour = (62, 110, 178)
_SKY: Colour = (247, 248, 250)
_GROUND: Colour = (222, 224, 228)
_LINE: Colour = (150, 155, 163)
_TEXT: Colour = (60, 64, 72)
_SKIN: Colour = (226, 184, 152)
_SUPERSAMPLING = 3  # PIL draws without antialiasing
_VISIBLE_HEIGHT = 2.2  # m from the lower to the upper edge
_TICK = 0.5  # m between two marks on the ground
_UPPER_ARM, _FOREARM = 0.30, 0.27


@dataclass(frozen=True)
class Camera:
    """
    What a picture shows: a side view without perspective.

    :param centre: forward position in the middle of the picture, m
    :param scale: pixels per metre
    :param ground: row of the ground, pixels from the top
    :param width: of the picture, pixels
    """

    centre: float
    scale: float
    ground: float
    width: float

    def pixel(self, point: npt.ArrayLike) -> tuple[float, float]:
        """Return column and row of a point ``(x, z)`` in m."""
        x, z = np.asarray(point, dtype=np.float64)
        return (
            self.width / 2 + (float(x) - self.centre) * self.scale,
            self.ground - float(z) * self.scale,
        )


def draw_walker(
    root_pos: npt.ArrayLike,
    root_pitch: npt.ArrayLike,
    joint_pos: npt.ArrayLike,
    size: tuple[int, int] = (320, 240),
    color: Colour = BLUE,
    label: str = "",
) -> Picture:
    """
    Draw one pose; the camera follows and the marks on the ground scroll.

    :param root_pos: ``(2,)``, hip position ``(x, z)``, m
    :param root_pitch: rad
    :param joint_pos: ``(6,)``, rad
    :param size: width and height, pixels
    :param color: of the body
    :param label: text in the upper left corner
    :return: ``(height, width, 3)``
    """
    x = float(np.asarray(root_pos, dtype=np.float64).reshape(-1)[0])
    return draw_poses(
        np.reshape(root_pos, (1, 2)),
        np.reshape(root_pitch, (1, 1)),
        np.reshape(joint_pos, (1, 6)),
        size=size,
        color=color,
        label=label,
        centre=0.0 if math.isnan(x) else x,
    )


def draw_poses(
    root_pos: npt.ArrayLike,
    root_pitch: npt.ArrayLike,
    joint_pos: npt.ArrayLike,
    size: tuple[int, int] = (960, 240),
    color: Colour = BLUE,
    label: str = "",
    centre: float | None = None,
) -> Picture:
    """
    Draw several poses into one picture, at the places where they are.

    Poses that hold NaN are left out.

    :param root_pos: ``(n, 2)``, m
    :param root_pitch: ``(n, 1)`` or ``(n,)``, rad
    :param joint_pos: ``(n, 6)``, rad
    :param size: width and height, pixels
    :param color: of the body
    :param label: text in the upper left corner
    :param centre: forward position in the middle; by default the middle of the poses, m
    :return: ``(height, width, 3)``
    """
    pos = np.asarray(root_pos, dtype=np.float64).reshape(-1, 2)
    pitch = np.asarray(root_pitch, dtype=np.float64).reshape(-1)
    joints = np.asarray(joint_pos, dtype=np.float64).reshape(-1, 6)
    shown = np.isfinite(pos).all(axis=1) & np.isfinite(pitch) & np.isfinite(joints).all(axis=1)
    pos, pitch, joints = pos[shown], pitch[shown], joints[shown]
    if centre is None:
        centre = float(pos[:, 0].min() + pos[:, 0].max()) / 2 if len(pos) else 0.0
    width, height = (side * _SUPERSAMPLING for side in size)
    camera = Camera(centre, scale=height / _VISIBLE_HEIGHT, ground=height * 0.88, width=width)
    image = Image.new("RGB", (width, height), _SKY)
    draw = ImageDraw.Draw(image)
    _draw_ground(draw, camera, height)
    points = forward_kinematics(pos, pitch, joints)
    for i in range(len(pos)):
        body = {name: values[i] for name, values in points.items()}
        _draw_body(draw, camera, body, float(pitch[i]), joints[i], color)
    image = image.resize(size, Image.Resampling.LANCZOS)
    if label:
        font = ImageFont.load_default(size=max(10.0, size[1] / 16))
        ImageDraw.Draw(image).text((size[1] / 30, size[1] / 40), label, fill=_TEXT, font=font)
    return np.asarray(image, dtype=np.uint8)


def draw_film_strip(
    root_pos: npt.ArrayLike,
    root_pitch: npt.ArrayLike,
    joint_pos: npt.ArrayLike,
    size: tuple[int, int] = (960, 240),
    color: Colour = BLUE,
    label: str = "",
    spacing: float | None = None,
) -> Picture:
    """
    Draw the poses of a motion side by side, evenly spaced whatever the distance covered.

    :param root_pos: ``(n, 2)``, m; the forward position is replaced by the spacing
    :param root_pitch: ``(n, 1)`` or ``(n,)``, rad
    :param joint_pos: ``(n, 6)``, rad
    :param size: width and height, pixels
    :param color: of the body
    :param label: text in the upper left corner
    :param spacing: between two poses, m; None fills the picture
    :return: ``(height, width, 3)``
    """
    pos = np.array(root_pos, dtype=np.float64).reshape(-1, 2)
    if spacing is None:
        visible = size[0] / size[1] * _VISIBLE_HEIGHT
        spacing = visible / max(1, len(pos))
    pos[:, 0] = np.arange(len(pos)) * spacing
    return draw_poses(pos, root_pitch, joint_pos, size=size, color=color, label=label)


def render_mujoco(physics: WalkerPhysics, index: int, size: tuple[int, int]) -> Picture:
    """
    Render one robot with MuJoCo, which needs OpenGL (``MUJOCO_GL=egl`` or ``osmesa``).

    :param physics: the robots
    :param index: which robot
    :param size: width and height, pixels
    :return: ``(height, width, 3)``
    :raises StrlValueError: if no OpenGL context can be made
    """
    import mujoco  # pictures of our own do not need it

    model = physics.pool.models[physics.model_ids[index]]
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, physics.state[index], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    mujoco.mj_forward(model, data)
    width, height = size
    try:
        renderer = mujoco.Renderer(model, height, width)
    # What a missing driver raises depends on the platform and the back end.
    except Exception as error:
        raise StrlValueError(
            f"WalkerVecEnv: MuJoCo cannot render here ({error}). Expected OpenGL: set MUJOCO_GL to "
            "'egl' or 'osmesa', or use render_backend='drawing'."
        ) from error
    with renderer:
        renderer.update_scene(data, camera="side")
        return np.asarray(renderer.render(), dtype=np.uint8)


def _draw_ground(draw: ImageDraw.ImageDraw, camera: Camera, height: float) -> None:
    """Draw the floor with marks every half metre; each second metre is shaded."""
    draw.rectangle((0, camera.ground, camera.width, height), fill=_GROUND)
    reach = camera.width / camera.scale / 2 + 2.0
    first = math.floor((camera.centre - reach) / _TICK)
    for i in range(first, math.ceil((camera.centre + reach) / _TICK) + 1):
        column = camera.pixel((i * _TICK, 0.0))[0]
        if i % 4 == 0:
            far = column + 2 * _TICK * camera.scale
            shade = tuple(channel - 12 for channel in _GROUND)
            draw.rectangle((column, camera.ground, far, height), fill=shade)
        length = (0.06 if i % 2 == 0 else 0.03) * camera.scale
        draw.line((column, camera.ground, column, camera.ground + length), fill=_LINE, width=3)
    draw.line((0, camera.ground, camera.width, camera.ground), fill=_LINE, width=4)


def _draw_body(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    body: dict[str, FloatArray],
    pitch: float,
    joints: FloatArray,
    color: Colour,
) -> None:
    """Draw from far to near: left limbs, trunk and head, right limbs."""
    far = _mixed(color, (25, 28, 36), 0.45)
    up = body["neck"] - body["hip"]
    up = up / np.linalg.norm(up)
    forward = np.array([up[1], -up[0]])
    shoulder = body["neck"] - 0.06 * up
    _draw_leg(draw, camera, body, "left", far)
    # Arms swing against the legs; the model has none.
    _draw_arm(draw, camera, shoulder, pitch, float(joints[0]), far)
    _capsule(draw, camera, body["hip"], body["hip"] + 0.40 * up, 0.115, color)
    _capsule(draw, camera, shoulder - 0.10 * up, shoulder - 0.02 * up, 0.125, color)
    _capsule(draw, camera, body["neck"], body["neck"] + 0.08 * up, 0.05, _SKIN)
    head = body["neck"] + 0.19 * up + 0.03 * forward
    _capsule(draw, camera, head - 0.02 * up, head + 0.03 * up, 0.10, _SKIN)
    nose = head + 0.10 * forward
    _capsule(draw, camera, nose, nose - 0.02 * up, 0.02, _SKIN)
    _draw_leg(draw, camera, body, "right", color, outline=True)
    _draw_arm(draw, camera, shoulder, pitch, float(joints[3]), _mixed(color, (255, 255, 255), 0.25))


def _draw_leg(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    body: dict[str, FloatArray],
    side: str,
    color: Colour,
    outline: bool = False,
) -> None:
    """Draw thigh, shank and foot; an outline parts the near leg from trunk and far leg."""
    hip, knee, ankle = body["hip"], body[f"{side}_knee"], body[f"{side}_ankle"]
    heel, toe = body[f"{side}_heel"], body[f"{side}_toe"]
    shoe = _mixed(color, (20, 20, 24), 0.55)
    if outline:
        edge = _mixed(color, (20, 20, 24), 0.35)
        _capsule(draw, camera, hip, knee, 0.085, edge)
        _capsule(draw, camera, knee, ankle, 0.06, edge)
    _capsule(draw, camera, hip, knee, 0.077, color)
    _capsule(draw, camera, knee, ankle, 0.052, color)
    sole = [camera.pixel(point) for point in (ankle, heel, toe)]
    draw.polygon(sole, fill=shoe)
    _capsule(draw, camera, ankle, heel, 0.035, shoe)
    _capsule(draw, camera, ankle, toe, 0.022, shoe)
    _capsule(draw, camera, heel, toe, SOLE_RADIUS, shoe)


def _draw_arm(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    shoulder: FloatArray,
    pitch: float,
    opposite_hip: float,
    color: Colour,
) -> None:
    """Draw an arm that swings with the leg of the other side."""
    swing = 0.8 * (opposite_hip - 0.15) - pitch
    elbow = shoulder + _UPPER_ARM * np.array([math.sin(swing), -math.cos(swing)])
    bend = swing + 0.35 + 0.4 * max(0.0, opposite_hip)
    hand = elbow + _FOREARM * np.array([math.sin(bend), -math.cos(bend)])
    _capsule(draw, camera, shoulder, elbow, 0.048, color)
    _capsule(draw, camera, elbow, hand, 0.038, color)
    _capsule(draw, camera, hand, hand, 0.045, _mixed(_SKIN, color, 0.25))


def _capsule(
    draw: ImageDraw.ImageDraw,
    camera: Camera,
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    radius: float,
    color: Colour,
) -> None:
    """Draw a thick line with round ends."""
    r = radius * camera.scale
    first, last = camera.pixel(start), camera.pixel(end)
    draw.line((*first, *last), fill=color, width=max(1, round(2 * r)))
    for x, y in (first, last):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


def _mixed(color: Colour, other: Colour, part: float) -> Colour:
    """Return ``color`` with ``part`` of another one."""
    red, green, blue = (round(c + (o - c) * part) for c, o in zip(color, other, strict=True))
    return red, green, blue
