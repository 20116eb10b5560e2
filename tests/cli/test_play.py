"""``strl play``: windows, with doubles where there is no screen, and videos."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sb3_strl import PPO, make_vec
from sb3_strl.cli import play, window
from sb3_strl.cli.main import main
from sb3_strl.common.errors import StrlTypeError, StrlValueError

ROBOT = ("--env", "sb3_strl/Walker-v0", "--env-kwargs", "{image_size: [40, 60]}")
FRAME = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class FakeCV:
    """What is used of OpenCV; the window closes with the third picture."""

    WINDOW_NORMAL, WINDOW_KEEPRATIO, WND_PROP_VISIBLE = 0, 0, 4
    error = RuntimeError

    def __init__(self, key: int = -1, headless: bool = False) -> None:
        self.key, self.headless = key, headless
        self.shown: list[Any] = []
        self.waited: list[int] = []
        self.closed = 0

    def namedWindow(self, title: str, flags: int) -> None:  # noqa: N802
        if self.headless:
            raise self.error("not built with windows")

    def imshow(self, title: str, image: Any) -> None:
        self.shown.append(image)

    def waitKey(self, milliseconds: int) -> int:  # noqa: N802
        self.waited.append(milliseconds)
        return self.key

    def getWindowProperty(self, title: str, what: int) -> float:  # noqa: N802
        return 1.0 if len(self.shown) < 3 else 0.0

    def destroyAllWindows(self) -> None:  # noqa: N802
        self.closed += 1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "has_display", lambda: True)


def use(monkeypatch: pytest.MonkeyPatch, cv2: FakeCV) -> FakeCV:
    monkeypatch.setitem(sys.modules, "cv2", cv2)  # type: ignore[arg-type]
    found = {"cv2", "matplotlib"}
    monkeypatch.setattr(window, "find_spec", lambda name: name in found or None)
    return cv2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("mujoco")
    file = tmp_path_factory.mktemp("play") / "model.zip"
    env = make_vec("sb3_strl/Walker-v0", 1)
    PPO("MlpPolicy", env, n_steps=8, policy_kwargs={"net_arch": [4]}).save(file)
    return str(file)


def test_without_a_screen_a_film_is_proposed(
    monkeypatch: pytest.MonkeyPatch, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["play", model, *ROBOT, "--window", "--quiet"]) == 1
    assert "there is no screen. Expected a desktop session. Film it" in capsys.readouterr().err
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert window.has_display()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert window.has_display()


@pytest.mark.usefixtures("screen")
def test_opencv_shows_the_right_colours_at_the_right_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = use(monkeypatch, FakeCV())
    monkeypatch.setattr(window.time, "perf_counter", lambda: 5.0)
    shown = window.open_window(25.0)
    assert shown.show(FRAME)
    assert shown.show(FRAME)
    assert not shown.show(FRAME)
    np.testing.assert_array_equal(cv2.shown[0], FRAME[..., ::-1])
    assert cv2.waited == [40, 80, 120]  # the clock stands still
    shown.close()
    assert cv2.closed == 1


@pytest.mark.usefixtures("screen")
def test_q_and_escape_close_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (ord("q"), 27):
        use(monkeypatch, FakeCV(key))
        assert not window.open_window(1000.0).show(FRAME)


@pytest.mark.usefixtures("screen")
def test_matplotlib_shows_where_opencv_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    plots: Any = pytest.importorskip("matplotlib.pyplot")
    use(monkeypatch, FakeCV(headless=True))
    with pytest.raises(StrlTypeError, match=r"needs OpenCV or a Matplotlib .* pip install opencv"):
        window.open_window(30.0)  # Agg draws nothing on a screen
    monkeypatch.setattr(plots, "get_backend", lambda: "TkAgg")
    shown = window.open_window(1000.0)
    assert isinstance(shown, window.MatplotlibWindow)
    assert shown.show(FRAME)
    assert shown.show(255 - FRAME)
    (image,) = plots.gcf().axes[0].images
    np.testing.assert_array_equal(image.get_array(), 255 - FRAME)
    shown.close()
    assert not shown.show(FRAME)


@pytest.mark.usefixtures("screen")
def test_a_closed_window_ends_the_show(
    monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL.Image")
    cv2 = use(monkeypatch, FakeCV())
    given = ["play", model, *ROBOT, "--window", "--quiet", "--fps", "1000"]
    assert main(given) == 0
    assert "Shown: 3 steps" in capsys.readouterr().out
    assert cv2.closed == 1
    assert not Path("play.gif").exists()
    use(monkeypatch, FakeCV())
    assert main([*given, "--out", str(tmp_path / "too.gif")]) == 0
    assert "too.gif: 3 steps" in capsys.readouterr().out


def test_a_package_that_draws_is_named(
    monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # type: ignore[arg-type]  # hides it
    assert main(["play", str(run / "model.zip"), "--quiet", "--steps", "2"]) == 1
    text = capsys.readouterr().err
    assert "cannot be drawn without a package. Install it with pip install 'sb3_strl[video" in text
    assert "pygame is not installed" in text
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    assert "gymnasium[classic-control]" in setup["options.extras_require"]["video"]


def test_what_cannot_be_filmed_is_known_before_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL.Image")
    folder = tmp_path / "film.gif"
    folder.mkdir()
    assert main(["play", "no.zip", "--out", str(folder)]) == 1
    assert "film.gif, which is a folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["play", "no.zip", "--out", str(tmp_path / "file" / "a.gif")]) == 1
    assert "file is a file. Expected a file in a folder" in capsys.readouterr().err


def test_a_policy_of_something_else_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    assert main(["play", str(run / "model.zip"), *ROBOT, "--quiet"]) == 1
    assert "the policy observes Box of shape (3,), the env" in capsys.readouterr().err


def test_speeds_are_positive(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", model, *ROBOT, "--fps", "0"]) == 1
    assert "--fps is 0. Expected more than 0" in capsys.readouterr().err


def test_opencv_writes_videos_where_ffmpeg_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[Any] = []
    can_write = [True, False]
    writer = SimpleNamespace(
        isOpened=lambda: can_write.pop(0),
        write=written.append,
        release=lambda: written.append("released"),
    )
    opened: list[Any] = []

    def make(*given: Any) -> Any:
        opened.append(given)
        return writer

    cv2 = SimpleNamespace(VideoWriter=make, VideoWriter_fourcc=lambda *letters: "".join(letters))
    monkeypatch.setitem(sys.modules, "cv2", cv2)  # type: ignore[arg-type]
    monkeypatch.setattr(play, "find_spec", lambda name: None)
    odd = np.concatenate((FRAME, FRAME[:1]))
    play.write_film([odd, odd], tmp_path / "a.mp4", 25.0)
    assert opened == [(str(tmp_path / "a.mp4"), "mp4v", 25.0, (6, 4))]
    np.testing.assert_array_equal(written[0], FRAME[..., ::-1])
    assert written[2:] == ["released"]
    with pytest.raises(StrlTypeError, match=r"OpenCV cannot write .*b\.mp4"):
        play.write_film([FRAME], tmp_path / "b.mp4", 25.0)


def test_the_extra_for_videos_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    monkeypatch.setattr(play, "find_spec", lambda name: None)
    assert main(["play", model, "--out", "a.mp4"]) == 1
    assert "pip install 'sb3_strl[video]'" in capsys.readouterr().err


def test_messages_without_a_display_do_not_depend_on_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "has_display", lambda: False)
    with pytest.raises(StrlValueError, match="there is no screen"):
        window.open_window(30.0)
