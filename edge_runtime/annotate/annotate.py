"""Pictures with their label on them, for people: in a folder, in a video, in a window."""

import abc
import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
import typing
import zlib

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edge_runtime import files
from edge_runtime.errors import ImageError, MissingRequirement, UsageError
from edge_runtime.photos import images
from edge_runtime.sources import live
from edge_runtime.sources.sources import Frame, Item

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}  # that every OpenCV's ffmpeg writes
_LARGEST = 1280  # pixels of the longer side: for looking at, a photo of 12 megapixels is no better
_SMALLEST = 320  # below, a label would not be legible
_QUALITY = 90
_NAME_BYTES = 200  # of a file; file systems take 255, and a temporary name is longer
_FRAMES_PER_S, _PHOTOS_PER_S = 25.0, 1.0  # of a video
_LONGEST_GAP_S = 10  # of a camera that was away, in a video
_WINDOW_S = 1 / 30.0  # between two pictures in a window
_DEJAVU = "DejaVuSans.ttf"
_DEJAVU_LETTERS = 0x24F  # has them all up to here (Latin)
_BAND, _BAR, _BEHIND_BAR, _TEXT, _AROUND = (24, 24, 24), (94, 201, 98), (80, 80, 80), (255, 255, 255), (128, 128, 128)


def open_annotator(target, frames_per_second=None):
    """Opens a place for annotated pictures: a context manager with write(prediction) and the count `skipped`.

    Args:
        target: a folder (made if it is missing) for one JPEG per input, or a video file (.mp4, .avi).
        frames_per_second: of the video; default 25 for frames, which are shown for as long as they were the newest,
            and 1 for photos.

    What has an error is skipped and counted. A video appears under its name when the block ends well, whole.

    Raises:
        UsageError: the target cannot be written, here or on the way (a full disk).
        MissingRequirement: this OpenCV writes no such video; found at the first picture.
    """
    if target.lower().endswith(tuple(_CODECS)):
        return _Film(target, frames_per_second)
    if live.is_video(target) and not os.path.isdir(target):
        raise UsageError("--annotate %s: expected a folder, or a video in %s" % (target, " or ".join(sorted(_CODECS))))
    return _Folder(target)


def open_window(stop):
    """Opens a window that shows the newest annotated picture: a context manager with write(prediction).

    Args:
        stop: threading.Event that is set when q is pressed in the window, or it is closed.

    Raises:
        MissingRequirement: there is no display, or this OpenCV has no windows.
    """
    return _Window(stop)


def annotated(rgb, label, confidence):
    """Draws a label, and a bar as long as its confidence, below a picture: nothing of it is hidden.

    Args:
        rgb: uint8 [height, width, 3]; not changed.
        label: text in any script.
        confidence: 0..1.

    Returns:
        uint8 [height, width, 3]: the picture with its longer side brought to 320 to 1280 pixels (a strip stands on
        grey), and the band below it.
    """
    picture = _fitted(rgb)
    height, width = picture.shape[:2]
    label = " ".join("".join(letter if letter.isprintable() else " " for letter in label).split())
    number = "%.1f %%" % (100 * confidence)
    size = max(14, min(height // 16, 40))
    margin = size // 2
    band = Image.new("RGB", (width, size * 5 // 2 + margin), _BAND)  # opaque: legible on anything
    draw = ImageDraw.Draw(band)
    font, number_font = _font(size, label), _font(size, number)
    number_left = width - margin - _length(number_font, number)
    draw.text((margin, margin // 2), _shortened(font, label, number_left - 2 * margin), font=font, fill=_TEXT)
    draw.text((number_left, margin // 2), number, font=number_font, fill=_TEXT)
    left, top, right, bottom = margin, size * 2, width - margin, size * 5 // 2
    draw.rectangle((left, top, right, bottom), fill=_BEHIND_BAR)
    filled = int(round((right - left) * min(1.0, max(0.0, confidence))))
    if filled:
        draw.rectangle((left, top, left + filled, bottom), fill=_BAR)
    return np.vstack([picture, np.asarray(band)])


def _fitted(rgb):
    height, width = rgb.shape[:2]
    longer = max(height, width)
    rgb = _resized(rgb, float(min(max(longer, _SMALLEST), _LARGEST)) / longer)
    return _padded(rgb, max(rgb.shape[0], _SMALLEST // 2), max(rgb.shape[1], _SMALLEST // 2))


def _resized(rgb, scale):
    size = tuple(max(1, int(round(length * scale))) for length in rgb.shape[1::-1])
    if size == rgb.shape[1::-1]:
        return rgb
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _shrunk(rgb, height, width):
    return _resized(rgb, min(1.0, float(height) / rgb.shape[0], float(width) / rgb.shape[1]))


def _padded(rgb, height, width):
    """Puts a picture onto the middle of a grey one of at least its size."""
    down, right = height - rgb.shape[0], width - rgb.shape[1]
    if not down and not right:
        return rgb
    edges = (down // 2, down - down // 2, right // 2, right - right // 2)
    return cv2.copyMakeBorder(rgb, *edges, borderType=cv2.BORDER_CONSTANT, value=_AROUND)


def _font(size, text):
    """Returns a font for a text: DejaVu, the system's for its script, or Pillow's own."""
    letters = "".join(sorted(set(text)))
    latin = letters[-1:] <= chr(_DEJAVU_LETTERS)
    for choose in (_dejavu, _system_font) if latin else (_system_font, _dejavu):
        font = _open_font(choose(letters), size)
        if font is not None:
            return font
    return _open_font(None, size)


@functools.lru_cache(maxsize=16)  # an open font takes a quarter of a megabyte, and there may be any number of labels
def _open_font(path, size):
    """Returns the font in a file, None where it cannot be opened; for None Pillow's own."""
    if path is None:
        return ImageFont.load_default()
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ImportError):  # no such font; a Pillow without FreeType
        return None


def _dejavu(_):
    return _DEJAVU


@functools.lru_cache(maxsize=1000)
def _system_font(letters):
    """Asks fontconfig for the file of the font that has most of the letters; "" where there is none."""
    codes = " ".join("%x" % ord(letter) for letter in letters)
    command = ["fc-match", "--format=%{file}", "sans:charset=%s" % codes]
    try:
        return os.fsdecode(subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=10))
    except (OSError, subprocess.SubprocessError):
        return ""


def _length(font, text):
    return int(font.getlength(text) if hasattr(font, "getlength") else font.getsize(text)[0])  # Pillow before 8


def _shortened(font, text, room):
    if isinstance(
        font, ImageFont.ImageFont
    ):  # Pillow's own old font has the letters of Western Europe, and fails on others
        text = text.encode("latin-1", "replace").decode("latin-1")
    if _length(font, text) <= room:
        return text
    while text and _length(font, text + "...") > room:
        text = text[:-1]
    return text + "..."


def _picture_of(item):
    """Returns the picture that a prediction is about. Raises ImageError."""
    if isinstance(item, Frame):
        return item.picture
    if isinstance(item, np.ndarray):
        return item
    path = item.path if isinstance(item, Item) else item
    return images.read_large(path, _LARGEST)


class _Target(abc.ABC):
    """What all have in common: skipping, and drawing."""

    def __init__(self):
        self.skipped = 0

    def write(self, prediction):
        """Draws and keeps what a Prediction is about."""
        if prediction.error:
            self.skipped += 1
            return
        try:
            picture = _picture_of(prediction.item)
        except ImageError:  # it went away meanwhile
            self.skipped += 1
            return
        self._keep(annotated(picture, prediction.label, prediction.confidence), prediction)

    @abc.abstractmethod
    def _keep(self, picture, prediction):
        """Keeps or shows an annotated picture."""

    @abc.abstractmethod
    def close(self, well):
        """Ends it; well: without an exception."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close(kind is None)


class _Folder(_Target):
    """A JPEG per input, below the folder under the input's own name, which is also in its comment."""

    def __init__(self, path):
        super().__init__()
        self._path = path
        self._unnamed = 0
        with self._explained():
            os.makedirs(path, exist_ok=True)

    def _keep(self, picture, prediction):
        name = prediction.name
        if not name:
            self._unnamed += 1
            name = "frame-%06d" % self._unnamed
        inside = _inside(name)
        with self._explained():
            try:
                os.makedirs(os.path.dirname(os.path.join(self._path, inside)), exist_ok=True)
            except (FileExistsError, NotADirectoryError):  # a.jpg/b.jpg, after a.jpg
                inside = inside.replace("/", "_")[-_NAME_BYTES // 4 :]
            path = self._free(os.path.join(self._path, inside), os.fsencode(name))
            with files.whole_file(path, binary=True, lasting=False) as file:
                file.write(_jpeg(picture, os.fsencode(name)))

    def _free(self, path, name):
        """Returns path, or one beside it if another input's picture, or another file, is there."""
        stem, suffix = os.path.splitext(path)
        number = 1
        while os.path.lexists(path) and _comment(path) != name:
            number += 1
            path = "%s~%d%s" % (stem, number, suffix)
        return path

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except OSError as error:
            raise UsageError("--annotate %s: cannot be written (%s)" % (self._path, error.strerror))

    def close(self, well):
        """Nothing is left to do."""


def _inside(name):
    """Returns a name as a path that stays inside a folder, and that file systems take."""
    if live.is_live(name):
        name = re.sub(r"[^\w.#/-]+", "_", name.replace("://", "_"))
    if not name.lower().endswith((".jpg", ".jpeg")):
        name += ".jpg"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else _cut(part) for part in parts)


def _cut(part):
    data = os.fsencode(part)
    if len(data) <= _NAME_BYTES:
        return part
    return os.fsdecode(data[: _NAME_BYTES - 20]) + "~%08x" % zlib.crc32(data) + os.path.splitext(part)[1][-5:]


def _jpeg(rgb, comment):
    """Returns a picture as a JPEG with a comment of at most 65,533 bytes."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    comment, data = comment[:65533], encoded.tobytes()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def _comment(path):
    """Returns the comment of a file of _jpeg, None for any other."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"\xff\xd8\xff\xfe":
                return file.read(int.from_bytes(file.read(2), "big") - 2)
    except OSError:  # a folder
        pass
    return None


class _Film(_Target):
    def __init__(self, path, frames_per_second):
        super().__init__()
        self._path = path
        self._frames_per_second = frames_per_second
        self._writer: typing.Any = None
        self._written = 0
        self._first_s = 0.0  # of the first frame
        self._before = None  # what is shown until the next one
        suffix = os.path.splitext(path)[1].lower()
        self._codec = _CODECS[suffix]
        if files.is_stream(path):
            raise UsageError("--annotate %s: is neither file nor folder, and a video is written whole" % path)
        with files.named("--annotate %s" % path):
            folder, name = os.path.split(os.path.abspath(files.target_of(path)))
            descriptor, self._temporary = tempfile.mkstemp(prefix=".%s." % name[:50], suffix=suffix, dir=folder)
        os.close(descriptor)

    def _keep(self, picture, prediction):
        time_s = prediction.item.time_s if isinstance(prediction.item, Frame) else None
        if self._writer is None:
            self._open(picture, time_s)
        height, width = self._size
        picture = _padded(_shrunk(picture, height, width), height, width)
        if time_s is not None:
            due = int(round((time_s - self._first_s) * self._frames_per_second))
            for _ in range(min(due - self._written, int(_LONGEST_GAP_S * self._frames_per_second))):
                self._write(self._before)
            if due > self._written:  # the gap was longer: the rest of it is left out, not made up for later
                self._first_s += (due - self._written) / self._frames_per_second
                due = self._written
            self._before = picture
            if due < self._written:  # they come faster than the video shows them
                return
        self._write(picture)

    def _open(self, picture, time_s):
        self._first_s = time_s or 0.0
        self._frames_per_second = self._frames_per_second or (_PHOTOS_PER_S if time_s is None else _FRAMES_PER_S)
        self._size = tuple((length + 1) // 2 * 2 for length in picture.shape[:2])  # codecs want even ones
        self._writer = cv2.VideoWriter(
            self._temporary,
            cv2.CAP_FFMPEG,
            int.from_bytes(self._codec.encode(), "little"),
            self._frames_per_second,
            self._size[::-1],
        )
        if not self._writer.isOpened():
            raise MissingRequirement(
                "--annotate %s: OpenCV %s here cannot write this video (codec %s, %s frames/s); "
                "give a folder, or a name that ends in %s"
                % (self._path, cv2.__version__, self._codec, self._frames_per_second, " or ".join(sorted(_CODECS)))
            )

    def _write(self, picture):
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1

    def close(self, well):
        """Gives the video its name if all went well; else it goes."""
        try:
            if self._writer is not None:
                self._writer.release()
                if well:
                    self._place()
        finally:
            self._writer = None
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _place(self):
        # OpenCV tells no error while it writes.
        with contextlib.closing(live.open_video(self._temporary)) as written:
            whole = written.frame_count >= self._written
        if not whole:
            raise UsageError("--annotate %s: could not be written whole; is the disk full?" % self._path)
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        files.put_in_place(self._temporary, self._path)


class _Window(_Target):
    _TITLE = "picnic-edge (q ends it)"

    def __init__(self, stop):
        super().__init__()
        self._stop = stop
        self._shown_s = None
        # In a process of its own: some builds end the process where there is no display.
        probe = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
        done = subprocess.run([sys.executable, "-c", probe], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [
                "it ended with %d" % done.returncode
            ]
            raise MissingRequirement(
                "--show: OpenCV %s cannot open a window here (%s).\n"
                "It needs a display (DISPLAY is %s) and an OpenCV with windows: JetPack's, that of "
                "`apt-get install python3-opencv`, or `pip uninstall opencv-python-headless; pip install opencv-python`"
                % (cv2.__version__, lines[-1].strip(), os.environ.get("DISPLAY") or "not set")
            )

    def write(self, prediction):
        """Shows what a Prediction is about, 30 times a second at most: the newest counts."""
        if self._shown_s is None or time.perf_counter() - self._shown_s >= _WINDOW_S:
            super().write(prediction)

    def _keep(self, picture, _):
        if self._stop.is_set():
            return
        if self._shown_s is None:
            cv2.namedWindow(self._TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self._TITLE, picture.shape[1], picture.shape[0])
        elif cv2.getWindowProperty(self._TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop.set()
            return
        cv2.imshow(self._TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._shown_s = time.perf_counter()
        if cv2.waitKey(1) & 0xFF == ord("q"):
            self._stop.set()

    def close(self, well):
        """Closes the window."""
        if self._shown_s is not None:
            with contextlib.suppress(cv2.error):  # it was closed by hand
                cv2.destroyWindow(self._TITLE)
            cv2.waitKey(1)
            self._shown_s = None
