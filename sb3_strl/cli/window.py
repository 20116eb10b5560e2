"""A window that shows pictures while a policy acts."""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sb3_strl.common.errors import StrlTypeError, StrlValueError

Image = npt.NDArray[np.uint8]

_TITLE = "strl play (q closes)"
_NO_SCREEN = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
_CLOSES = (ord("q"), 27)  # Esc


class Window(Protocol):
    """What shows pictures."""

    def show(self, frame: Image) -> bool:
        """Show ``(H, W, 3)``; return whether the window is still open."""

    def close(self) -> None:
        """Close it."""


def has_display() -> bool:
    """Whether this machine shows windows."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_window(fps: float) -> Window:
    """
    Open a window of OpenCV or Matplotlib, whichever is there.

    :param fps: pictures per second, at most
    :raises StrlValueError: if there is no display
    :raises StrlTypeError: if neither package can show a window
    """
    if not has_display():
        raise StrlValueError(
            "strl play: --window, but neither DISPLAY nor WAYLAND_DISPLAY is set, so there is no "
            "screen. Expected a desktop session. Film it instead: --out play.gif."
        )
    if find_spec("cv2") is not None:
        window = _open_cv(fps)
        if window is not None:
            return window
    if find_spec("matplotlib") is not None:
        plots: Any = import_module("matplotlib.pyplot")
        if plots.get_backend().lower() not in _NO_SCREEN:
            return MatplotlibWindow(plots, fps)
    raise StrlTypeError(
        "strl play: --window needs OpenCV or a Matplotlib that can open one (with Tk or Qt), and "
        "neither is there. Install one with pip install opencv-python, or film it: --out play.gif."
    )


def _open_cv(fps: float) -> Window | None:
    """Return ``None`` where OpenCV was built without windows, as opencv-python-headless is."""
    cv2: Any = import_module("cv2")
    try:
        cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    except cv2.error:
        return None
    return OpenCVWindow(cv2, fps)


class _Paced:
    """
    Waits until the next picture is due.

    :param fps: pictures per second, at most
    """

    def __init__(self, fps: float) -> None:
        self._each = 1.0 / fps
        self._due = time.perf_counter()

    def left(self) -> float:
        """Return the seconds until the next picture is due, a millisecond at least."""
        now = time.perf_counter()
        self._due = max(self._due + self._each, now)
        return max(self._due - now, 1e-3)


class OpenCVWindow:
    """
    A window of OpenCV.

    :param cv2: the package
    :param fps: pictures per second, at most
    """

    def __init__(self, cv2: Any, fps: float) -> None:
        self._cv2, self._pace = cv2, _Paced(fps)

    def show(self, frame: Image) -> bool:
        """Show a picture; return whether the window is still open."""
        self._cv2.imshow(_TITLE, np.ascontiguousarray(frame[..., ::-1]))
        key = self._cv2.waitKey(max(1, round(1000.0 * self._pace.left()))) & 0xFF
        seen = self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE)
        return key not in _CLOSES and seen >= 1

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()


class MatplotlibWindow:
    """
    A window of Matplotlib.

    :param plots: :mod:`matplotlib.pyplot`
    :param fps: pictures per second, at most
    """

    def __init__(self, plots: Any, fps: float) -> None:
        self._plots, self._pace = plots, _Paced(fps)
        self._figure = plots.figure(_TITLE)
        self._image: Any = None

    def show(self, frame: Image) -> bool:
        """Show a picture; return whether the window is still open."""
        if not self._plots.fignum_exists(self._figure.number):
            return False
        if self._image is None:
            axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
            axes.set_axis_off()
            self._image = axes.imshow(frame)
        else:
            self._image.set_data(frame)
        self._plots.pause(self._pace.left())
        return bool(self._plots.fignum_exists(self._figure.number))

    def close(self) -> None:
        """Close the window."""
        self._plots.close(self._figure)
