"""Pictures with their label on them: legible, in their place, whole or not there."""

import os
import shutil
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from edge_runtime import files
from edge_runtime.annotate import drawing, show
from edge_runtime.annotate.annotator import open_annotator
from edge_runtime.annotate.folder import _inside
from edge_runtime.classifier import Prediction
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.photos import decode
from edge_runtime.sources.items import Frame, Item
from edge_runtime.sources.video import Video
from tests.helpers import COLOURS, NASTY_NAMES, content_of, encoded, photo, write_bytes, write_photo

NAMES = sorted(COLOURS)


def prediction_of(item, best=0, confidence=0.75, error=""):
    probabilities = np.full(len(NAMES), (1 - confidence) / (len(NAMES) - 1), np.float32)
    probabilities[best] = confidence
    name = "" if isinstance(item, np.ndarray) else item.name
    return Prediction(name, NAMES, None if error else probabilities, error, item)


def photo_item(folder, name, colour=(200, 30, 40)):
    path = os.path.join(str(folder), name)
    if not os.path.exists(path):
        write_bytes(path, encoded(photo(colour), "jpg"))
    return Item(name, path, "")


def frame(number, time_s, colour=(200, 30, 40)):
    return Frame("clip.mp4#%d" % number, photo(colour, number), 0.0, time_s)


def read(path):
    with open(str(path), "rb") as file:
        return decode.decode_large(file.read(), 4000)


# --- the drawing


@pytest.mark.parametrize("level", [0, 128, 255])
def test_the_picture_is_whole_and_the_band_is_below_it(level):
    rgb = np.full((400, 600, 3), level, np.uint8)
    drawn = drawing.draw_label(rgb, "red", 0.5)
    assert drawn.dtype == np.uint8 and drawn.shape[1] == 600 and 440 < drawn.shape[0] < 520
    assert np.array_equal(drawn[:400], rgb)
    band = drawn[400:]
    assert band[0].max() < 40 and band.max() == 255  # white on nearly black, whatever the picture is


def test_the_bar_is_as_long_as_the_confidence():
    lengths = []
    for confidence in (0.0, 0.25, 0.5, 1.0):
        band = drawing.draw_label(np.zeros((400, 600, 3), np.uint8), "red", confidence)[400:]
        lengths.append((band == np.array(drawing._BAR)).all(axis=2).any(axis=0).sum())
    room = lengths[-1]
    assert room > 500
    assert lengths == pytest.approx([0, room * 0.25, room * 0.5, room], abs=2)


def test_the_label_can_be_told_apart():
    blank = np.zeros((400, 600, 3), np.uint8)
    drawn = [drawing.draw_label(blank, label, 0.5).tobytes() for label in ("red", "green", "", "grün", "r" * 500)]
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("label", ["ünïcödé «»", "新鮮な牛乳", "Яблоко", "a\tb\nc\x00\u202e", "\udcff", "🍎", " "])
def test_any_label_is_drawn(label):
    assert drawing.draw_label(photo((20, 200, 30)), label, 0.5).shape[1] == 320


@pytest.fixture
def fresh_fonts():
    """No font is open before the test, and none that it opened after it."""
    caches = (drawing._open_font, drawing._system_font)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_any_label_is_drawn_without_a_font(fresh_fonts, monkeypatch, tmp_path):
    for name in ("PATH", "XDG_DATA_DIRS", "XDG_DATA_HOME", "HOME"):  # without fc-match, and without a font
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(OSError):
        drawing.ImageFont.truetype("DejaVuSans.ttf", 20)
    for label in ("plain", "grün", "新鮮な牛乳"):
        assert drawing.draw_label(photo((20, 200, 30)), label, 0.5).shape[1] == 320


@pytest.mark.parametrize("first", ["a", "\u4e00"], ids=["latin", "chinese"])
def test_a_thousand_labels_need_a_few_open_fonts(fresh_fonts, monkeypatch, first):
    opened = []
    real = drawing.ImageFont.truetype
    monkeypatch.setattr(drawing.ImageFont, "truetype", lambda *font: opened.append(font) or real(*font))
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: b"DejaVuSans.ttf")
    blank = np.zeros((299, 299, 3), np.uint8)
    for number in range(1000):
        drawing.draw_label(blank, "%s%d" % (chr(ord(first) + number % 20), number), number / 1000.0)
    assert len(opened) == len(set(opened)) <= 2


def test_photos_of_all_sizes_leave_a_few_fonts_open(fresh_fonts):
    for height in range(160, 1200, 8):
        drawing.draw_label(np.zeros((height, 320, 3), np.uint8), "red", 0.5)
    assert 1 < drawing._open_font.cache_info().currsize <= 16


def test_what_the_system_has_for_a_script_is_used():
    if not shutil.which("fc-match"):
        pytest.skip("needs fontconfig's fc-match, which is not here")
    assert os.path.exists(drawing._system_font("Яблоко"))


@pytest.mark.parametrize("height, width", [(1, 1), (3, 1200), (2000, 4), (5000, 4000), (299, 299)])
def test_any_size_becomes_one_that_can_be_looked_at(height, width):
    drawn = drawing.draw_label(np.full((height, width, 3), 200, np.uint8), "red", 0.5)
    assert 320 <= max(drawn.shape[:2]) < 1500 and min(drawn.shape[:2]) >= 160


def test_the_caller_s_picture_is_not_drawn_on():
    rgb = photo((200, 30, 40))
    before = rgb.copy()
    drawing.draw_label(rgb, "red", 0.5)
    assert np.array_equal(rgb, before)


# --- a picture for people


def test_a_large_picture_keeps_its_proportions_and_stands_upright():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encoded(photo((200, 30, 40), height=600, width=900), "jpg", exif=exif)
    assert decode.decode_large(data, 300).shape == (300, 200, 3)
    assert decode.decode_large(data, 5000).shape == (900, 600, 3)


# --- a folder


def test_one_jpeg_per_input_under_its_own_name(tmp_path):
    with open_annotator(str(tmp_path / "out")) as annotator:
        for name in ("a.jpg", "sub/deep/b.JPEG"):
            annotator.write(prediction_of(photo_item(tmp_path / "in", name)))
        path = str(tmp_path / "in" / "c.png")
        write_photo(path, photo((20, 30, 220)))
        annotator.write(prediction_of(Item("c.png", path, "")))
        annotator.write(prediction_of(frame(7, 0.3)))
        annotator.write(prediction_of(photo((20, 30, 220))))
    assert sorted(content_of(tmp_path / "out")) == [
        *("a.jpg", "c.png.jpg", "clip.mp4#7.jpg", "frame-000001.jpg"),
        os.path.join("sub", "deep", "b.JPEG"),
    ]
    picture = read(tmp_path / "out" / "c.png.jpg")
    assert abs(picture[:200].mean(axis=(0, 1)) - np.array([20, 30, 220])).max() < 20


def test_unreadable_inputs_are_skipped_and_counted(tmp_path):
    with open_annotator(str(tmp_path / "out")) as annotator:
        annotator.write(prediction_of(Item("bad.jpg", "bad.jpg", ""), error="is truncated"))
        annotator.write(prediction_of(Item("gone.jpg", str(tmp_path / "gone.jpg"), "")))
        annotator.write(prediction_of(photo_item(tmp_path / "in", "a.jpg")))
    assert annotator.skipped == 2
    assert sorted(content_of(tmp_path / "out")) == ["a.jpg"]


@pytest.mark.parametrize("name", NASTY_NAMES + ["x" * 240 + ".jpg", "ä" * 120 + ".jpg"], ids=ascii)
def test_odd_names(tmp_path, name):
    item = Item(name, photo_item(tmp_path, "a.jpg").path, "")
    with open_annotator(str(tmp_path / "out")) as annotator:
        annotator.write(prediction_of(item))
    (written,) = sorted(content_of(tmp_path / "out"))
    assert written == name or len(os.fsencode(name)) > 200
    assert read(tmp_path / "out" / written).shape[1] == 320


@pytest.mark.parametrize(
    "name, inside",
    [
        ("../../etc/a.jpg", "__/__/etc/a.jpg"),
        ("/abs/a.jpg", "abs/a.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("..", "...jpg"),
        ("rtsp://eva:***@cam:554/x#12", "rtsp_eva_cam_554/x#12.jpg"),
        ("camera:0#3", "camera_0#3.jpg"),
    ],
)
def test_names_do_not_leave_the_folder(tmp_path, name, inside):
    item = Item(name, photo_item(tmp_path, "a.jpg").path, "")
    with open_annotator(str(tmp_path / "out")) as annotator:
        annotator.write(prediction_of(item))
    assert len(content_of(tmp_path / "out")) == 1
    assert _inside(name) == inside


def test_inputs_of_one_name_here_do_not_overwrite_each_other(tmp_path):
    path = photo_item(tmp_path, "a.jpg").path
    names = ["__/a.jpg", "../a.jpg", "a.png", "a.png.jpg"]
    for _ in range(2):  # again, as after --resume: the same files
        with open_annotator(str(tmp_path / "out")) as annotator:
            for name in names:
                annotator.write(prediction_of(Item(name, path, "")))
    assert sorted(content_of(tmp_path / "out")) == ["__/a.jpg", "__/a~2.jpg", "a.png.jpg", "a.png~2.jpg"]


def test_a_file_that_is_not_ours_is_left_alone(tmp_path):
    mine = write_bytes(tmp_path / "out" / "a.jpg", encoded(photo((1, 2, 3)), "jpg"))
    with open_annotator(str(tmp_path / "out")) as annotator:
        annotator.write(prediction_of(photo_item(tmp_path, "a.jpg")))
    assert sorted(content_of(tmp_path / "out")) == ["a.jpg", "a~2.jpg"]
    with open(mine, "rb") as file:
        assert file.read() == encoded(photo((1, 2, 3)), "jpg")


@pytest.mark.parametrize("names", [["a.jpg", "a.jpg/b.jpg"], ["a.jpg/b.jpg", "a.jpg"]])
def test_a_folder_named_like_a_photo(tmp_path, names):
    path = photo_item(tmp_path, "x.jpg").path
    with open_annotator(str(tmp_path / "out")) as annotator:
        for name in names:
            annotator.write(prediction_of(Item(name, path, "")))
    assert len(content_of(tmp_path / "out")) == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(UsageError, match="--annotate .*file/x: "):
        open_annotator(str(tmp_path / "file" / "x"))


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with open_annotator(str(tmp_path / "out")) as annotator:
        monkeypatch.setattr(files, "atomic_file", full)
        with pytest.raises(UsageError, match="No space left on device"):
            annotator.write(prediction_of(photo_item(tmp_path, "a.jpg")))


# --- a video


@pytest.mark.parametrize("name", ["out.mp4", "out.AVI"])
def test_a_video_of_a_video_has_its_frames_and_its_rate(tmp_path, name):
    path = str(tmp_path / name)
    with open_annotator(path, 20) as annotator:
        for number in range(25):
            annotator.write(prediction_of(frame(number, number / 20.0, (5 * number + 60, 30, 40))))
            assert not os.path.exists(path)
        annotator.write(prediction_of(frame(25, 1.25), error="cannot be read"))
    video = Video(path)
    pictures = [one.picture for one in video]
    assert video.frames_per_second == pytest.approx(20)
    assert [int(picture[50:200, 50:270, 0].mean()) for picture in pictures] == pytest.approx(
        [5 * number + 60 for number in range(25)], abs=10
    )
    assert os.listdir(str(tmp_path)) == [name]
    assert annotator.skipped == 1


def test_a_camera_s_frames_are_shown_for_as_long_as_they_were_the_newest(tmp_path):
    path = str(tmp_path / "out.avi")
    with open_annotator(path, 10) as annotator:
        for number, time_s in enumerate([0.0, 0.1, 0.5, 0.52, 0.54, 0.6, 1.0]):  # 30 fps at times, none at others
            annotator.write(prediction_of(frame(number, time_s, (30 * number + 40, 30, 40))))
    shown = [int(round((one.picture[50:200, 50:270, 0].mean() - 40) / 30)) for one in Video(path)]
    assert shown == [0, 1, 1, 1, 1, 2, 5, 5, 5, 5, 6]


def test_a_long_gap_is_cut_short_once_and_not_made_up_for(tmp_path):
    path = str(tmp_path / "out.avi")
    with open_annotator(path, 10) as annotator:
        for number, time_s in enumerate([0.0, 0.1, 60.1, 60.2, 60.4, 130.4, 130.5]):
            annotator.write(prediction_of(frame(number, time_s, (30 * number + 40, 30, 40))))
    shown = [int(round((one.picture[50:200, 50:270, 0].mean() - 40) / 30)) for one in Video(path)]
    assert shown == [0, 1] + [1] * 100 + [2, 3, 3, 4] + [4] * 100 + [5, 6]  # 10 s each


def test_photos_of_any_size_go_into_a_video(tmp_path):
    path = str(tmp_path / "out.avi")
    with open_annotator(path) as annotator:
        for height, width in [(333, 501), (900, 200), (20, 700), (2000, 2000)]:
            annotator.write(prediction_of(photo((200, 30, 40), height=height, width=width)))
    video = Video(path)
    assert len(list(video)) == 4
    assert video.frames_per_second == 1


def test_a_video_that_is_not_finished_is_not_there(tmp_path):
    older = write_bytes(tmp_path / "out.mp4", b"older")
    with pytest.raises(ZeroDivisionError):
        with open_annotator(older) as annotator:
            annotator.write(prediction_of(frame(0, 0.0)))
            raise ZeroDivisionError
    assert os.listdir(str(tmp_path)) == ["out.mp4"]
    with open(older, "rb") as file:
        assert file.read() == b"older"


def test_a_video_of_nothing_is_none(tmp_path):
    with open_annotator(str(tmp_path / "out.mp4")):
        pass
    assert os.listdir(str(tmp_path)) == []


def test_a_video_that_was_cut_short_by_a_full_disk_is_refused(tmp_path):
    path = str(tmp_path / "out.avi")
    with pytest.raises(UsageError, match="disk full"):
        with open_annotator(path) as annotator:
            for number in range(30):
                annotator.write(prediction_of(frame(number, number / 25.0)))
            annotator._written += 10  # what OpenCV did not tell
    assert os.listdir(str(tmp_path)) == []


def test_a_video_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="--annotate .*: "):
        open_annotator(str(tmp_path / "none" / "out.mp4"))


# --- a window


def test_no_window_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(MissingRequirement, match="window") as failed:
        show.WindowAnnotator(threading.Event())
    assert "DISPLAY is not set" in str(failed.value)


class Windows:
    """Stands for OpenCV's windows."""

    def __init__(self, monkeypatch, keys=(), closed_after=10**6):
        self.shown = []
        self.keys = iter(keys)
        self.closed_after = closed_after
        for name in ("namedWindow", "resizeWindow", "destroyWindow"):
            monkeypatch.setattr(cv2, name, lambda *_: None, raising=False)
        monkeypatch.setattr(cv2, "imshow", lambda _, picture: self.shown.append(picture), raising=False)
        monkeypatch.setattr(cv2, "waitKey", lambda _: ord(next(self.keys, "\xff")), raising=False)
        monkeypatch.setattr(
            cv2, "getWindowProperty", lambda *_: float(len(self.shown) < self.closed_after), raising=False
        )
        monkeypatch.setattr(show, "INTERVAL_S", 0)
        done = subprocess.CompletedProcess([], 0)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


@pytest.mark.parametrize("ending", [{"keys": "x?q"}, {"closed_after": 3}], ids=["q", "closed"])
def test_q_or_closing_the_window_stops_the_run(monkeypatch, ending):
    windows, stop = Windows(monkeypatch, **ending), threading.Event()
    with show.WindowAnnotator(stop) as opened:
        for number in range(10):
            opened.write(prediction_of(frame(number, 0.0)))
    assert stop.is_set()
    assert len(windows.shown) == 3
    assert windows.shown[0][100, 160, 2] > 150  # OpenCV shows BGR


def test_a_window_shows_the_newest_at_a_rate_that_can_be_seen(monkeypatch):
    windows = Windows(monkeypatch)
    monkeypatch.setattr(show, "INTERVAL_S", 1000)
    with show.WindowAnnotator(threading.Event()) as opened:
        for number in range(10):
            opened.write(prediction_of(frame(number, 0.0)))
    assert len(windows.shown) == 1


def test_a_real_window(tmp_path):
    """With an OpenCV that has windows, on a display that is none."""
    code = (
        "import threading, numpy as np; from edge_runtime.annotate.show import WindowAnnotator\n"
        "from tests.edge_runtime.annotate.test_annotate import frame, prediction_of\n"
        "stop = threading.Event()\n"
        "with WindowAnnotator(stop) as window:\n"
        "    [window.write(prediction_of(frame(number, 0.0))) for number in range(5)]\n"
        "print('shown')\n"
    )
    probe = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", "import cv2; cv2.namedWindow('x')"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) if shutil.which("xvfb-run") else None  # fmt: skip
    if probe is None or probe.returncode:
        pytest.skip("needs xvfb-run and an OpenCV with windows (this is %s)" % cv2.__version__)
    done = subprocess.run(["xvfb-run", "-a", sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert done.stdout == b"shown\n"
