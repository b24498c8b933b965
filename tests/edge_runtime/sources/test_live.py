"""Videos and live sources: fake cameras that fail in every way, real video files, and a real RTSP server."""

import errno
import itertools
import os
import re
import signal
import socket
import struct
import threading
import time

import cv2
import numpy as np
import pytest

from edge_runtime.errors import MissingRequirement, StorageLost, UsageError
from edge_runtime.sources import camera, connection, kinds, live, newest, stream, video_container
from edge_runtime.sources import video as sources_video
from edge_runtime.sources.connection import Device
from edge_runtime.sources.delay import _JUDGED_FRAMES, Delay
from edge_runtime.sources.video import Video
from tests.conftest import shared_path
from tests.edge_runtime.sources import http_camera, rtsp_server
from tests.helpers import write_bytes

SIZE = (64, 48)


def picture_of(number):
    """Returns a small noisy picture (BGR) that is its number's own."""
    return np.random.RandomState(number).randint(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)


class Camera:
    """A fake cv2.VideoCapture: gives what its script says, frame by frame; then the last entry for ever.

    Entries: an array (a frame), "fail" (reading fails), "hang" (a read that does not return until `released`), "raise".
    """

    released = threading.Event()

    def __init__(self, script, period_s=0.002, opens=True):
        self.script = iter(script)
        self.period_s = period_s
        self.opens = opens
        self.closed = False
        self.entry = "fail"

    def isOpened(self):  # noqa: N802
        return self.opens

    def grab(self):
        assert not self.closed
        time.sleep(self.period_s)
        self.entry = next(self.script, self.entry)
        if isinstance(self.entry, str) and self.entry == "hang":
            self.released.wait(20)
        elif isinstance(self.entry, str) and self.entry == "raise":
            raise cv2.error("the driver broke")
        return not isinstance(self.entry, str)

    def retrieve(self):
        return True, self.entry

    def get(self, _):
        return 0.0

    def release(self):
        self.closed = True


def frames_from(number):
    return (picture_of(seed) for seed in itertools.count(number))


def live_of(cameras, stop=None, frames=float("inf"), seconds=20, interval_s=0.0, is_sensor=True):
    """Returns a Live that opens these cameras one after the other (an exception is raised instead), the last again."""
    opened = []

    def open_next():
        camera = cameras[min(len(opened), len(cameras) - 1)]
        opened.append(camera)
        if isinstance(camera, Exception):
            raise camera
        return camera

    device = Device("camera:9", open_next, lambda: "look here", is_sensor)
    limits = live.Limits(interval_s, seconds, frames)
    source = live.Live(device, stop or threading.Event(), limits, newest.Counts())
    source.opened = opened
    return source


def taken_from(source):
    with source:
        frames = list(source)
    counts = source.counts
    assert counts.captured == counts.taken + counts.dropped + counts.blank + counts.repeated
    assert counts.taken == len(frames)
    return frames


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    """Everything is quick, and no thread stays."""
    times = {"OPEN_S": 1.2, "_SILENCE_S": 0.6, "_FIRST_PAUSE_S": 0.02, "_MAX_PAUSE_S": 0.1, "LOOK_S": 0.01}
    for name, value in times.items():
        monkeypatch.setattr(connection, name, value)
    Camera.released = threading.Event()
    before = set(threading.enumerate())
    yield
    Camera.released.set()
    deadline = time.time() + 10
    while set(threading.enumerate()) - before and time.time() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


def write_video(path, pictures, fps=20.0, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, SIZE)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return str(path)


def numbered(number):
    """Returns a picture (BGR) whose brightness tells its number, 0..39, also after compression."""
    picture = np.full((SIZE[1], SIZE[0], 3), number * 6 + 10, np.uint8)
    picture[:, : SIZE[0] // 2] = (0, 0, 255)  # red on the left: tells BGR from RGB, and upright from turned
    return picture


def number_in(picture):
    return int(round((float(picture[:, SIZE[0] // 2 + 4 :].mean()) - 10) / 6))


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.avi", [numbered(number) for number in range(40)])


# --- what is what


@pytest.mark.parametrize(
    "source",
    ["rtsp://10.0.0.7/a", "camera:0", "csi:1", "0", "12", "/dev/video0", "RTSP://10.0.0.7/a", "rtsps://cam/a"]
    + ["rtmp://cam/a", "http://cam:8080/video.mjpg", "https://cam/live.m3u8", "srt://cam:9000", "udp://@:5000"]
    + ["http://cam/a.mp4"],
)
def test_live_sources(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kinds.is_live(source) and not kinds.is_video(source)


@pytest.mark.parametrize("source", ["a.jpg", "0", "1234", "ftp://cam/a", "C:/photos", "camera", "-", "/dev/null"])
def test_what_is_not_live(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    assert not kinds.is_live(source)


def test_a_camera_s_other_names():
    assert kinds.shown_name("3") == "camera:3"
    assert kinds.shown_name("/dev/video63") == "camera:63"
    with pytest.raises(MissingRequirement, match="/dev/video63"):
        live.open_live("/dev/video63", threading.Event()).__enter__()


@pytest.mark.parametrize(
    "source, told",
    [
        ("webcam", r"did you mean camera:0\?"),
        ("usb:0", r"did you mean camera:0\?"),
        ("camera0", r"did you mean camera:0\?"),
        ("cam1", r"did you mean camera:1\?"),
        ("Camera:2", r"did you mean camera:2\?"),
        ("camera:", r"did you mean camera:0\?"),
        ("csi0", r"did you mean csi:0\?"),
        ("CSI:1", r"did you mean csi:1\?"),
        ("rtps://eva:secret1@cam/a", r"^rtps://eva:\*\*\*@cam/a: .*rtsp"),
        ("s3://shelf/photos", "^s3://shelf/photos: .*rtsp://"),
        ("http://cam/photo.JPG?x=1", r"curl -o FILE\.jpg"),
        ("https://cam/film.mp4", r"curl -o FILE\.mp4"),
    ],
)
def test_what_is_nearly_a_camera_or_a_stream_gets_help(tmp_path, monkeypatch, source, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        kinds.check_name(source)
    if "/" not in source:
        (tmp_path / source).mkdir()
        kinds.check_name(source)  # it is there


@pytest.mark.parametrize(
    "source",
    ["camera:0", "csi:1", "0", "/dev/video0", "rtsp://cam/a.mp4", "http://cam/a.mjpg", "http://cam/b.ts", "a.jpg", "-"]
    + ["camera:x", "folder/*.jpg", "video.mp4", "https://cam/live.m3u8?token=a.jpg"],
)
def test_a_name_that_needs_no_help(source):
    kinds.check_name(source)


@pytest.mark.parametrize("source", ["a.mp4", "dir/b.MOV", "c.avi", "d.mkv", "camera.webm"])
def test_videos(source):
    assert kinds.is_video(source) and not kinds.is_live(source)


@pytest.mark.parametrize("source", ["a.jpg", "a.tsv", "folder", "-", "mp4", "rtsp://10.0.0.7/a.mp4"])
def test_what_is_no_video(source):
    assert not kinds.is_video(source)


@pytest.mark.parametrize(
    "address, shown",
    [
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("rtsp://cam:8554/live", "rtsp://cam:8554/live"),
        ("rtsp://eva:secret@cam:8554/live", "rtsp://eva:***@cam:8554/live"),
        ("rtsp://eva:se@cr:et@cam/live", "rtsp://eva:***@cam/live"),
        ("rtsp://eva:12345@cam/live", "rtsp://eva:***@cam/live"),
        ("rtsp://eva@cam/live", "rtsp://eva@cam/live"),
        ("rtsp://cam/user=eva&password=secret&channel=1", "rtsp://cam/user=eva&password=***&channel=1"),
        ("camera:0", "camera:0"),
    ],
)
def test_a_password_is_not_shown(address, shown):
    assert kinds.shown_name(address) == shown


@pytest.mark.parametrize("source", ["camera:", "camera:x", "csi:/dev/video0", "a.jpg", "camera:-1"])
def test_a_source_that_is_none_is_refused(source):
    with pytest.raises(UsageError, match="expected camera:N|did you mean camera:0"):
        live.open_live(source, threading.Event())


# --- video files


def test_a_video_gives_every_frame_in_order(clip):
    with Video(clip) as video:
        frames = list(video)
    assert [frame.name for frame in frames] == ["%s#%d" % (clip, number) for number in range(40)]
    assert [number_in(frame.picture) for frame in frames] == list(range(40))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20.0 for number in range(40)], abs=0.005)
    assert video.frames_per_second == pytest.approx(20)
    assert video.damaged == 0 and not any(frame.problem for frame in frames)


def test_a_video_s_frames_are_rgb(clip):
    with Video(clip) as video:
        frame = next(video)
    assert frame.picture.dtype == np.uint8 and frame.picture.shape == (SIZE[1], SIZE[0], 3)
    red, green, blue = frame.picture[:, :20].mean(axis=(0, 1))
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(
    "name", [b"two words.avi", b"rtmp:x.avi", b"%03d.avi", b"-x.avi", b"new\nline.avi", b"\xff.avi"]
)
def test_odd_names_of_videos(tmp_path, clip, name):
    path = os.path.join(str(tmp_path), os.fsdecode(name))
    os.rename(clip, path)
    assert len(list(Video(path))) == 40


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\x00\x00\x00\x18ftypmp42" + bytes(400)])
def test_a_video_that_cannot_be_read_is_named(tmp_path, content):
    path = write_bytes(tmp_path / "bad.mp4", content)
    with pytest.raises(UsageError, match=r"bad\.mp4: .*video"):
        Video(path)
    with pytest.raises(UsageError, match=r"bad\.mp4"):
        live.open_live(path, threading.Event()).__enter__()


def test_a_video_that_is_missing_or_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.mp4: .*No such file"):
        Video(str(tmp_path / "gone.mp4"))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UsageError, match="regular file"):
        Video(str(tmp_path / "folder.mp4"))


def test_a_video_that_ends_early_gives_what_there_is_and_says_so(tmp_path, clip, capsys):
    with open(clip, "rb") as file:
        data = file.read()
    path = write_bytes(tmp_path / "torn.avi", data[: len(data) // 2])
    with Video(path) as video:
        *frames, torn, last = video
    numbers = [number_in(frame.picture) for frame in frames]
    assert 5 < len(numbers) < 36
    assert numbers == list(range(len(numbers)))
    assert torn.picture is None and torn.problem.startswith("is damaged (JPEG: ")  # ffmpeg fills it up
    assert last.name == "%s#%d" % (path, len(numbers) + 1) and last.picture is None and video.damaged == 2
    assert "the file is cut short: its header says %d bytes" % len(data) in last.problem
    assert "torn.avi: no picture for 2 of its frames" in capsys.readouterr().err


# --- damaged videos


def with_damage(path, *numbers):
    """Overwrites frames of a video of write_video (JPEGs) with zeros, so that they cannot be decoded."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    ends = starts[1:] + [data.rindex(b"\xff\xd9") + 2]
    for number in numbers:
        data[starts[number] : ends[number]] = bytes(ends[number] - starts[number])
    return write_bytes(path, bytes(data))


def tells_places():
    return hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO")  # OpenCV before 4.5 passes over damage without a sign


@pytest.mark.parametrize("holes", [(7,), (0,), (19,), (5, 6, 7), (1, 2, 9, 18, 19)])
def test_frames_behind_a_damaged_one_are_given_and_it_has_its_place(tmp_path, capsys, holes):
    path = with_damage(write_video(tmp_path / "hole.mp4", [numbered(number) for number in range(20)]), *holes)
    with Video(path) as video:
        frames = list(video)
    assert len(frames) == 20 and video.damaged == len(holes)
    assert [frame.name for frame in frames] == ["%s#%d" % (path, number) for number in range(20)]
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20.0 for number in range(20)])
    shown = [number_in(frame.picture) for frame in frames if not frame.problem]
    assert shown == [number for number in range(20) if number not in holes]
    assert "hole.mp4: no picture for %d of its frames" % len(holes) in capsys.readouterr().err
    lost = [number for number, frame in enumerate(frames) if frame.problem]
    if tells_places():
        assert lost == list(holes)
        assert all(frame.problem == "cannot be decoded (damaged packet)" for frame in frames if frame.problem)
    else:
        assert lost == list(range(20 - len(holes), 20))
        assert all("does not tell which" in frame.problem for frame in frames if frame.problem)


def test_pictures_that_come_late_behind_damage_add_no_frames(tmp_path, monkeypatch):
    """As ffmpeg gives an H.264 MP4 with a hole: 5 and 6 come between the frames behind the hole."""
    path = write_video(tmp_path / "late.mp4", [numbered(number) for number in range(20)])
    shown_as = [0, 1, 2, 3, 4, 9, 5, 10, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19]

    class Capture:
        """Gives the frames of a video in another order."""

        def __init__(self):
            capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
            self.frames = []
            while capture.grab():
                self.frames.append((capture.retrieve(), capture.get(cv2.CAP_PROP_POS_MSEC)))
            self.get = lambda _: 20.0
            self.left = list(shown_as)

        def grab(self):
            number = self.left.pop(0) if self.left else None
            if number is None:
                return False
            self.retrieve = lambda: self.frames[number][0]
            self.get = lambda what: number * 50.0 if what == cv2.CAP_PROP_POS_MSEC else 20.0
            return True

        def release(self):
            pass

    monkeypatch.setattr(sources_video, "open_capture", lambda *_: Capture())
    with Video(path) as video:
        frames = list(video)
    assert [frame.name for frame in frames] == ["%s#%d" % (path, number) for number in range(20)]
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20.0 for number in range(20)])
    assert [number for number, frame in enumerate(frames) if frame.problem] == [5, 6, 7, 8] and video.damaged == 4
    assert [number_in(frame.picture) for frame in frames[9:]] == list(range(9, 20))


def test_the_video_with_a_hole_gives_29_of_30_frames():
    with Video(shared_path("data", "hard", "video_hole.mp4")) as video:
        frames = list(video)
    assert len(frames) == 30 and video.damaged == 1
    (lost,) = [number for number, frame in enumerate(frames) if frame.problem]
    assert lost == (16 if tells_places() else 29)  # ffmpeg says so, too
    assert [frame.time_s for frame in frames] == pytest.approx([number / 5.0 for number in range(30)])


def test_a_video_whose_end_is_gone_has_a_row_for_each_frame_of_its_table(tmp_path, capsys):
    path = write_video(tmp_path / "whole.mp4", [numbered(number) for number in range(20)])
    with open(path, "rb") as file:
        data = file.read()
    # As phones and web servers have it: the table first.
    start = data.index(b"moov") - 4
    moov = bytearray(data[start : start + struct.unpack(">I", data[start : start + 4])[0]])
    place = moov.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", moov, place)
    for number in range(count):
        offset = place + 4 + 4 * number
        struct.pack_into(">I", moov, offset, struct.unpack_from(">I", moov, offset)[0] + len(moov))
    head = struct.unpack(">I", data[:4])[0]
    whole = data[:head] + bytes(moov) + data[head:start]
    with Video(write_bytes(tmp_path / "front.mp4", whole)) as video:
        assert len(list(video)) == 20 and video.damaged == 0
    cut = write_bytes(tmp_path / "cut.mp4", whole[: len(moov) + (len(whole) - len(moov)) // 2])
    with Video(cut) as video:
        frames = list(video)
    assert len(frames) == 20 and 5 < video.damaged < 15
    assert all("the file is cut short" in frame.problem for frame in frames[-5:])
    assert "cut.mp4: no picture for %d of its frames" % video.damaged in capsys.readouterr().err


def varying_webm(path):
    """Writes a Matroska file by hand: 30 JPEGs, the second half at a third of the rate."""

    def element(kind, body):
        return bytes.fromhex(kind) + struct.pack(">Q", len(body) | 1 << 56) + body

    def number(kind, value):
        return element(kind, struct.pack(">I", value))

    video = element("e0", number("b0", SIZE[0]) + number("ba", SIZE[1]))
    track = number("d7", 1) + number("73c5", 1) + number("83", 1) + element("86", b"V_MJPEG")
    track += number("23e383", 50000000) + video  # 20 frames a second, it says
    times = [50 * place for place in range(15)] + [750 + 150 * place for place in range(15)]
    blocks = b""
    for place, time_ms in enumerate(times):
        jpeg = cv2.imencode(".jpg", numbered(place))[1].tobytes()
        blocks += element("a3", b"\x81" + struct.pack(">hB", time_ms, 0x80) + jpeg)
    info = number("2ad7b1", 1000000) + element("4489", struct.pack(">d", times[-1] + 150.0))
    body = element("1549a966", info) + element("1654ae6b", element("ae", track))
    body += element("1f43b675", number("e7", 0) + blocks)
    head = element("1a45dfa3", element("4282", b"matroska"))
    write_bytes(path, head + element("18538067", body))
    return [time_ms / 1000.0 for time_ms in times]


def varying_ts(path):
    """Writes a transport stream of 30 frames, and sets the times of the second half to a third of the rate."""
    write_video(path, [numbered(place) for place in range(30)], codec="MPG2")
    with open(str(path), "rb") as file:
        data = bytearray(file.read())
    first = None
    for start in range(0, len(data), 188):
        place = data.find(b"\x00\x00\x01\xe0", start, start + 188)
        if place < 0 or not data[start + 1] & 0x40:
            continue
        for field in range(1 + (data[place + 7] >> 6 == 3)):  # PTS, and DTS where there is one
            at = place + 9 + 5 * field
            ticks = (data[at] >> 1 & 7) << 30 | data[at + 1] << 22 | data[at + 2] >> 1 << 15
            ticks |= data[at + 3] << 7 | data[at + 4] >> 1
            first = ticks if first is None else first
            ticks += 2 * max(0, ticks - first - 15 * 4500)
            data[at] = data[at] & 0xF1 | ticks >> 29 & 0xE
            data[at + 1 : at + 5] = struct.pack(">HH", (ticks >> 14 & 0xFFFE) | 1, (ticks << 1 & 0xFFFE) | 1)
    write_bytes(path, bytes(data))
    return [place / 20.0 for place in range(15)] + [0.75 + 0.15 * place for place in range(15)]


@pytest.mark.parametrize("write, name", [(varying_webm, "a.webm"), (varying_webm, "a.mkv"), (varying_ts, "a.ts")])
def test_a_sound_video_of_varying_rate_is_not_said_to_be_damaged(tmp_path, capfd, write, name):
    times = write(tmp_path / name)
    capfd.readouterr()
    with Video(str(tmp_path / name)) as video:
        assert video.frame_count > 40  # a guess
        frames = list(video)
    assert len(frames) == 30 and video.damaged == 0
    assert capfd.readouterr().err == ""
    if tells_places():
        assert [frame.time_s for frame in frames] == pytest.approx(times, abs=0.051)


def test_a_webm_that_is_cut_short(tmp_path):
    varying_webm(tmp_path / "a.webm")
    with open(str(tmp_path / "a.webm"), "rb") as file:
        data = file.read()
    path = write_bytes(tmp_path / "cut.webm", data[: len(data) // 2])
    with Video(path) as video:
        frames = list(video)
    assert video.damaged == 1 and "cut short" in frames[-1].problem


@pytest.mark.parametrize("name", ["a.webm", "a.avi"])
def test_a_video_that_is_overwritten_between_its_frames_has_a_row_that_says_so(tmp_path, name):
    path = str(tmp_path / name)
    if name == "a.webm":
        varying_webm(path)
    else:
        write_video(path, [numbered(number) for number in range(30)])
    with open(path, "rb") as file:
        data = bytearray(file.read())
    write_bytes(path, bytes(data) + bytes(500))  # appended to a sound one
    with Video(path) as video:
        assert len(list(video)) == 30 and video.damaged == 0
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    data[starts[12] - 20 : starts[14]] = bytes(starts[14] - starts[12] + 20)
    with Video(write_bytes(path, bytes(data))) as video:
        *frames, last = video
    assert video.damaged == 1 and len(frames) < 30
    assert last.picture is None and "the file is damaged at byte" in last.problem


def noise(count):
    return np.random.RandomState(7).bytes(count)


def busy_pictures():
    return [np.random.RandomState(number).randint(0, 255, (SIZE[1], SIZE[0], 3), np.uint8) for number in range(30)]


@pytest.mark.parametrize("fill", [bytes, noise])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mpg"])
def test_a_video_that_is_overwritten_in_its_middle_has_a_row_that_says_so(tmp_path, name, fill):
    path = str(tmp_path / name)
    if name == "a.mkv":
        varying_webm(path)
    else:
        write_video(path, busy_pictures(), fps=25.0, codec="MPG2" if name == "a.ts" else "MPG1")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    write_bytes(path, bytes(data) + bytes(500))  # appended to a sound one
    with Video(path) as video:
        assert len(list(video)) == 30 and video.damaged == 0
    middle = len(data) // 2
    data[middle : middle + 5000] = fill(5000)
    with Video(write_bytes(path, bytes(data))) as video:
        *frames, last = video
    assert video.damaged == 1 and last.picture is None and "the file is damaged at byte" in last.problem
    assert not any(frame.problem for frame in frames)


@pytest.mark.parametrize("fill", [bytes(1500), 15 * (98 * b"Z" + b"\xff\x17")])
def test_a_frame_of_an_avi_of_jpegs_that_is_overwritten_has_no_label(tmp_path, fill):
    path = str(tmp_path / "a.avi")
    write_video(path, [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * 3 + busy_pictures())  # black: many zeros
    with open(path, "rb") as file:
        data = bytearray(file.read())
    with Video(path) as video:
        assert len(list(video)) == 33 and video.damaged == 0
    start = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)][12]
    data[start + 1000 : start + 2500] = fill
    with Video(write_bytes(path, bytes(data))) as video:
        frames = list(video)
    assert [frame.name for frame in frames] == ["%s#%d" % (path, number) for number in range(33)]
    assert [number for number, frame in enumerate(frames) if frame.problem] == [12] and video.damaged == 1
    assert frames[12].picture is None and frames[12].problem.startswith("is damaged (JPEG: ")


def packets_of(path):
    with open(str(path), "rb") as file:
        data = file.read()
    return [data[place : place + 188] for place in range(0, len(data), 188)]


@pytest.mark.parametrize("timed", [b"", b"time"])  # as .m2ts has it before each packet
def test_a_transport_stream_that_lacks_packets_or_was_joined(tmp_path, timed):
    write_video(tmp_path / "a.ts", busy_pictures(), fps=25.0, codec="MPG2")
    packets = packets_of(tmp_path / "a.ts")
    inner = [number for number, packet in enumerate(packets) if not packet[1] & 0x40 and packet[3] & 0x30 == 0x10]
    lacking = inner[len(inner) // 2]
    padding = b"\x47\x1f\xff\x10" + bytes(184)
    failed = bytearray(packets[lacking])
    failed[1] |= 0x80  # the receiver could not repair it

    def broken(*packets):
        path = write_bytes(tmp_path / "b.ts", b"".join(timed + packet for packet in packets))
        with open(path, "rb", buffering=0) as file:
            return video_container.broken(file)

    before, behind = packets[:lacking], packets[lacking + 1 :]
    at = "the file is damaged at byte %d" % (lacking * (188 + len(timed)) + len(timed))
    assert broken(*packets) == ""
    assert broken(*(before + behind)) == at
    assert broken(*(before + [bytes(failed)] + behind)) == at
    assert broken(*(before + [packets[lacking]] * 2 + behind)) == ""  # sent twice, which is allowed
    assert broken(*(before + [padding] + [packets[lacking]] + behind)) == ""
    assert broken(*(packets[:-9] + packets)) == ""  # two recordings joined
    many = packets * (1 + 140000 // len(packets))  # more than are looked at at once
    assert broken(*many) == ""
    assert broken(*(many + before + behind)) != ""


@pytest.mark.parametrize("name", ["clip.avi", "hole.mp4"])
def test_a_disk_that_fails_is_neither_the_end_nor_damage(tmp_path, monkeypatch, name):
    path = write_video(tmp_path / name, [numbered(number) for number in range(20)])
    if name == "hole.mp4":
        with_damage(path, 7)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    frames = []
    with Video(path) as video, pytest.raises(StorageLost, match="Input/output"):
        for frame in video:
            frames.append(frame)
            monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(StorageLost, match="Input/output"):
        Video(path)
    monkeypatch.undo()
    assert len(frames) == (1 if name == "clip.avi" else 7 if tells_places() else 19)  # an AVI's JPEGs are looked at
    assert not any(frame.problem for frame in frames)


def test_a_video_that_somebody_writes_to_meanwhile(clip):
    with Video(clip) as video, pytest.raises(StorageLost, match="written"):
        for number, _ in enumerate(video):
            if number == 3:
                with open(clip, "ab") as file:
                    file.write(b"more")


def test_what_a_hostile_table_says_takes_no_memory(tmp_path):
    path = write_video(tmp_path / "a.mp4", [numbered(number) for number in range(20)])
    with open(path, "rb") as file:
        data = file.read()
    for kind, offset in ((b"stts", 4), (b"stts", 8), (b"stts", 12), (b"stsz", 12), (b"elst", 8), (b"mdhd", 16)):
        for value in (0, 0xFFFFFFFF, 0x7FFFFFFF):
            torn = bytearray(data)
            struct.pack_into(">I", torn, torn.index(kind) + offset, value)
            with open(write_bytes(tmp_path / "b.mp4", bytes(torn)), "rb") as file:
                times = video_container.frame_times(file)
            assert times is None or (len(times) == 20 and np.isfinite(times).all())


def test_a_damaged_video_played_like_a_camera_goes_on(tmp_path):
    path = with_damage(write_video(tmp_path / "a.mp4", [numbered(number) for number in range(20)]), 7)
    source = live.open_live(path, threading.Event())
    frames = taken_from(source)
    assert number_in(frames[-1].picture) == 19
    assert source.counts.captured == 19 and source.counts.damaged == (1 if tells_places() else 0)


def test_a_video_that_was_filmed_upright_is_turned(tmp_path):
    if not hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO"):
        pytest.skip("OpenCV %s turns no video" % cv2.__version__)
    path = write_video(tmp_path / "phone.mp4", [numbered(5)] * 3, codec="mp4v")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[1] << 16, 0, 1 << 30)
    write_bytes(path, bytes(data))
    with Video(path) as video:
        frame = next(video)
    assert frame.picture.shape == (SIZE[0], SIZE[1], 3)
    assert frame.picture[:20, :, 0].mean() > 200  # red was on the left, and is on the top after a turn to the right
    assert frame.picture[44:, :, 0].mean() < 100


def test_opening_and_closing_videos_leaves_nothing(clip):
    def handles():
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))

    with Video(clip) as video:
        next(video)
    before = handles()
    for number in range(100):
        video = Video(clip)
        for _ in range(number % 3):
            next(video)
        video.close()
        video.close()
        assert list(video) == []
    assert handles() == before


def test_a_video_played_like_a_camera_comes_at_its_own_rate_and_ends(clip):
    source = live.open_live(clip, threading.Event())
    started_s = time.perf_counter()
    frames = taken_from(source)
    assert time.perf_counter() - started_s > 38 / 20.0
    assert [number_in(frame.picture) for frame in frames] == [int(frame.name.split("#")[1]) for frame in frames]
    assert source.counts.captured == 40
    assert source.counts.reconnects == 0


def test_a_slow_taker_of_a_video_played_like_a_camera_loses_frames_not_time(clip):
    frames = []
    with live.open_live(clip, threading.Event()) as source:
        for frame in source:
            frames.append(frame)
            time.sleep(0.3)
    assert len(frames) < 12
    assert source.counts.dropped == 40 - len(frames)
    for frame in frames:  # the newest there was: its place in the film is its place in time
        assert frame.time_s == pytest.approx(number_in(frame.picture) / 20.0, abs=0.15)


# --- cameras


def test_frames_are_rgb_with_name_and_time():
    source = live_of([Camera([picture_of(3)] + ["hang"])], frames=1)
    (frame,) = taken_from(source)
    assert frame.name == "camera:9#0"
    assert np.array_equal(frame.picture, picture_of(3)[:, :, ::-1])
    assert frame.time_s == 0 and 0 <= time.perf_counter() - frame.captured_s < 10


def test_the_newest_frame_wins():
    source = live_of([Camera(frames_from(0))], frames=5)
    with source:
        for frame in source:
            time.sleep(0.05)
            number = int(frame.name.split("#")[1])
            assert np.array_equal(frame.picture[:, :, ::-1], picture_of(number))
    assert source.counts.taken == 5
    assert source.counts.dropped > 20
    assert source.counts.captured == source.counts.taken + source.counts.dropped


def test_a_frame_is_never_handed_out_twice():
    names = [frame.name for frame in taken_from(live_of([Camera(frames_from(0), period_s=0.01)], frames=20))]
    assert len(set(names)) == 20


def test_max_fps_caps_what_is_taken():
    source = live_of([Camera(frames_from(0))], seconds=1.0, interval_s=0.1)
    assert 3 <= len(taken_from(source)) <= 11


def test_seconds_end_it_although_the_camera_is_away():
    source = live_of([Camera([picture_of(0)] + ["fail"])] + [Camera([], opens=False)], seconds=0.5)
    assert len(taken_from(source)) == 1


def test_stop_ends_it():
    stop = threading.Event()
    source = live_of([Camera([picture_of(0)] + ["hang"])], stop, seconds=60)
    with source:
        frames = iter(source)
        next(frames)
        threading.Timer(0.05, stop.set).start()
        assert list(frames) == []


def test_closing_ends_the_iterating_of_another_thread():
    source = live_of([Camera([picture_of(0), "hang"]), Camera(frames_from(1))], seconds=60, interval_s=0.0)
    with source:
        frames = iter(source)
        next(frames)
        rest = []
        other = threading.Thread(target=lambda: rest.extend(frames))
        other.start()
    other.join(10)
    assert not other.is_alive()
    assert len(source.opened) == 1


def test_stop_ends_the_waiting_for_the_first_frame():
    stop = threading.Event()
    stop.set()
    assert taken_from(live_of([Camera(["hang"])], stop)) == []


# --- what is no picture of now


@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 135, 0), (128, 128, 128), (255, 255, 255)])
def test_frames_of_one_colour_are_not_handed_out(colour):
    blank = np.full((SIZE[1], SIZE[0], 3), colour, np.uint8)
    source = live_of([Camera([blank, blank, picture_of(1), blank, picture_of(2), blank, blank, "hang"])], frames=2)
    with source:
        frames = [frame.name for frame in source]
    assert frames[-1] == "camera:9#4"
    assert source.counts.blank >= 3


def test_frames_that_repeat_themselves_are_not_handed_out():
    same = picture_of(0)
    source = live_of([Camera([same, same, same, picture_of(1), picture_of(1), same, "hang"], period_s=0.03)], frames=3)
    assert [frame.name for frame in taken_from(source)] == ["camera:9#0", "camera:9#3", "camera:9#5"]
    assert source.counts.repeated == 3


def test_a_sensor_that_is_frozen_is_opened_again(monkeypatch, capsys):
    monkeypatch.setattr(connection, "_FROZEN_S", 0.2)
    source = live_of([Camera(itertools.repeat(picture_of(0))), Camera(frames_from(5))], frames=2)
    frozen, new = taken_from(source)
    assert np.array_equal(frozen.picture[:, :, ::-1], picture_of(0))
    assert not np.array_equal(new.picture[:, :, ::-1], picture_of(0))
    assert source.counts.reconnects == 1
    assert "the same picture, to the byte" in capsys.readouterr().err


def test_a_frozen_sensor_s_picture_is_not_new_when_it_is_opened_again(monkeypatch, capsys):
    monkeypatch.setattr(connection, "_FROZEN_S", 0.3)
    black = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    frozen = [Camera(itertools.chain([black] * 3, itertools.repeat(picture_of(0)))) for _ in range(3)]
    source = live_of(frozen + [Camera(frames_from(5))], frames=2, seconds=10)
    first, new = taken_from(source)
    assert np.array_equal(first.picture[:, :, ::-1], picture_of(0))
    assert not np.array_equal(new.picture[:, :, ::-1], picture_of(0))
    assert len(source.opened) == 4 and source.counts.reconnects == 1
    lost, back = capsys.readouterr().err.splitlines()
    assert "opening it again" in lost and "back after" in back


def test_a_sensor_that_is_stuck_on_black_is_opened_again(monkeypatch, capsys):
    monkeypatch.setattr(connection, "_FROZEN_S", 0.1)
    black = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    cameras = [Camera(itertools.repeat(black)), Camera(itertools.repeat(black)), Camera(frames_from(5))]
    source = live_of(cameras, frames=1, seconds=5)
    assert len(taken_from(source)) == 1
    assert len(source.opened) == 3 and source.counts.reconnects == 1
    lost, back = capsys.readouterr().err.splitlines()
    assert "only blank frames" in lost and "back after" in back


def test_a_stream_of_a_still_picture_that_comes_back_is_back_and_not_new():
    source = live_of(
        [Camera([picture_of(0)] * 5 + ["fail"]), Camera(itertools.repeat(picture_of(0)))], is_sensor=False, seconds=1
    )
    assert len(taken_from(source)) == 1
    assert source.counts.reconnects == 1 and len(source.opened) == 2


def test_a_stream_of_a_still_picture_is_left_alone(monkeypatch):
    monkeypatch.setattr(connection, "_FROZEN_S", 0.05)
    source = live_of([Camera(itertools.repeat(picture_of(0)))], is_sensor=False, seconds=0.4)
    assert len(taken_from(source)) == 1
    assert source.counts.reconnects == 0 and source.counts.repeated > 10 and len(source.opened) == 1


def test_a_frame_that_waited_too_long_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(newest, "STALE_S", 0.1)
    monkeypatch.setattr(connection, "_SILENCE_S", 5)
    monkeypatch.setattr(connection, "OPEN_S", 5)

    class Stalls(Camera):
        def grab(self):
            if isinstance(self.entry, np.ndarray) and np.array_equal(self.entry, picture_of(1)):
                time.sleep(0.5)
            return super().grab()

    source = live_of([Stalls([picture_of(0), picture_of(1), picture_of(2), "hang"], period_s=0.01)], frames=2)
    with source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.3)  # the camera gave another meanwhile, and then stalled
        second = next(frames)
    assert (first.name, second.name) in [("camera:9#0", "camera:9#2"), ("camera:9#1", "camera:9#2")]


# --- the delay of a stream, told by its clock


def stale_frames(times, frames_per_second=25.0):
    """Returns the numbers of the frames of [(our clock, stream's clock)] that are stale."""
    delay = Delay(frames_per_second)
    return [number for number, (read_s, place_s) in enumerate(times) if delay.is_stale(read_s, place_s)]


def test_what_piled_up_while_a_stream_was_opened_is_stale():
    burst = [(100 + 0.0004 * number, 0.04 * number) for number in range(25)]
    steady = [(100 + 0.04 * number, 1.0 + 0.04 * number) for number in range(1, 200)]
    assert stale_frames(burst + steady) == list(range(28))
    burst[12:] = [(read_s + 0.05, place_s) for read_s, place_s in burst[12:]]  # one took long to decode
    assert stale_frames(burst + steady) == list(range(28))


def test_a_stream_whose_first_places_jump_about():
    start = [(100.0, 0.0), (100.001, -0.234), (100.002, -0.19), (100.003, -0.12)]
    burst = [(100.004 + 0.0004 * number, 0.04 * number) for number in range(25)]
    steady = [(100 + 0.04 * number, 1.0 + 0.04 * number) for number in range(1, 50)]
    assert stale_frames(start + burst + steady) == list(range(32))


def test_jitter_and_drift_are_no_delay():
    random = np.random.RandomState(0)
    times = [
        (100 + 0.04 * number * 1.0002 + random.exponential(0.03), 0.0123 + 0.04 * number) for number in range(20000)
    ]
    assert [number for number in stale_frames(times) if number > 20] == []


def test_a_decoder_that_falls_behind_gives_stale_frames():
    times = [(100 + 0.05 * number, 0.0123 + 0.04 * number) for number in range(400)]
    stale = stale_frames(times)
    assert stale[-1] == 399
    assert [number for number in stale if number > 3][0] == pytest.approx(200, abs=5)  # 2 s behind


def test_after_a_stall_what_piled_up_is_stale_until_the_stream_is_of_now_again():
    before = [(100 + 0.04 * number, 0.0123 + 0.04 * number) for number in range(100)]
    piled = [(110 + 0.0004 * number, 4.0123 + 0.04 * number) for number in range(150)]
    after = [(110 + 0.04 * number, 10.0123 + 0.04 * number) for number in range(1, 50)]
    stale = [number for number in stale_frames(before + piled + after) if number > 3]
    assert stale == list(range(100, 202))  # the rest is no older than 2 s


@pytest.mark.parametrize("place", [lambda number: (number + 1) / 25.0, lambda _: float("inf"), lambda _: float("nan")])
def test_an_opencv_that_only_counts_frames_judges_none_for_long(place):
    times = [(100 + 0.05 * number, place(number)) for number in range(1000)]  # the camera is slower than it says
    assert [number for number in stale_frames(times) if number > _JUDGED_FRAMES] == []


# --- outages


def test_a_camera_that_fails_is_opened_again_and_both_are_said_once(capsys):
    cameras = [
        Camera([picture_of(0), "fail"]),
        Camera([], opens=False),
        OSError("no such device"),
        Camera(frames_from(9)),
    ]
    source = live_of(cameras, frames=3)
    frames = taken_from(source)
    assert np.array_equal(frames[1].picture[:, :, ::-1], picture_of(8 + int(frames[1].name.split("#")[1])))
    assert source.counts.reconnects == 1
    assert all(camera.closed for camera in cameras if isinstance(camera, Camera))
    lost, back = capsys.readouterr().err.splitlines()
    assert lost == "camera:9: reading failed; opening it again until it is back"
    assert back.startswith("camera:9: back after ")


def test_an_exception_of_the_driver_is_an_outage():
    source = live_of([Camera([picture_of(0), "raise"]), Camera(frames_from(1))], frames=2)
    assert len(taken_from(source)) == 2
    assert source.counts.reconnects == 1


def test_a_read_that_hangs_is_given_up(capsys):
    source = live_of([Camera([picture_of(0), "hang"]), Camera(frames_from(5))], frames=4)
    with source:
        frames = list(source)
        assert source.counts.hanging == 1
    assert len(frames) == 4 and source.counts.reconnects == 1
    assert "no frame for" in capsys.readouterr().err
    assert not source.opened[0].closed  # nobody closes it while it is being read
    Camera.released.set()
    for _ in range(500):
        if source.opened[0].closed:
            break
        time.sleep(0.01)
    assert source.opened[0].closed


def test_what_a_hung_read_gives_in_the_end_is_not_handed_out():
    class Late(Camera):
        def grab(self):
            done = super().grab()
            if not done:
                self.entry = picture_of(77)
            return True

    source = live_of([Late([picture_of(0), "hang"]), Camera(frames_from(5), period_s=0.02)], frames=12)
    with source:
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 4:
                Camera.released.set()
    assert not any(np.array_equal(frame.picture[:, :, ::-1], picture_of(77)) for frame in frames)


def test_no_more_than_a_few_threads_hang():
    source = live_of([Camera([picture_of(0), "hang"])] + [Camera(["hang"]) for _ in range(20)], seconds=4)
    assert len(taken_from(source)) == 1
    assert len(source.opened) <= connection._MAX_HANGING + 1


def test_a_driver_that_hangs_too_often_ends_the_run_for_a_supervisor(monkeypatch):
    monkeypatch.setattr(connection, "_MAX_HANGING_S", 0.3)
    source = live_of([Camera([picture_of(0), "hang"])] + [Camera(["hang"]) for _ in range(20)], seconds=60)
    frames = []
    with source, pytest.raises(MissingRequirement, match="camera:9: .*3 attempts"):
        for frame in source:
            frames.append(frame)
    assert len(frames) == 1 and len(source.opened) == connection._MAX_HANGING


def test_a_driver_that_comes_back_in_time_is_opened_again(monkeypatch):
    monkeypatch.setattr(connection, "_MAX_HANGING_S", 10)
    hanging = [Camera([picture_of(0), "hang"])] + [Camera(["hang"]) for _ in range(2)]
    source = live_of(hanging + [Camera(frames_from(5))], seconds=60, frames=2)
    with source:
        frames = iter(source)
        next(frames)
        threading.Thread(target=lambda: (wait_until(lambda: source.counts.hanging == 3), Camera.released.set())).start()
        next(frames)
    assert len(source.opened) == 4 and source.counts.reconnects == 1


def wait_until(condition):
    deadline = time.time() + 30
    while not condition() and time.time() < deadline:
        time.sleep(0.01)


def test_a_camera_that_is_only_away_is_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(connection, "_MAX_HANGING_S", 0.05)
    source = live_of([Camera([picture_of(0), "fail"]), Camera([], opens=False)], seconds=1.0)
    assert len(taken_from(source)) == 1
    assert len(source.opened) > 5


def test_a_frame_from_before_the_outage_is_not_handed_out():
    class Fails(Camera):
        def grab(self):
            done = super().grab()
            if not done:
                failed.set()
            return done

    failed = threading.Event()
    source = live_of([Fails([picture_of(0), picture_of(1), picture_of(2), "fail"]), Camera(frames_from(50))], frames=1)
    with source:
        assert failed.wait(10)
        # The reader ended with a frame in the mailbox; whoever comes later than it is lost gets a new one.
        with source._changed:
            source._connection.check(time.perf_counter())
        (frame,) = list(source)
    assert np.array_equal(frame.picture[:, :, ::-1], picture_of(47 + int(frame.name.split("#")[1])))


def test_the_pauses_grow_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(connection, "_STEADY_S", 1000)
    times = []

    class Timed(Camera):
        def isOpened(self):  # noqa: N802
            times.append(time.perf_counter())
            return False

    taken_from(live_of([Camera([picture_of(0), "fail"])] + [Timed([]) for _ in range(30)], seconds=1.0))
    pauses = np.diff(times)
    assert 6 <= len(times) <= 14
    assert all(pauses > 0.035) and all(pauses[3:] > 0.09)


# --- a first opening that fails


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(camera.jetson, "cameras", lambda: [("/dev/video4", "UVC Camera")])
    with pytest.raises(MissingRequirement) as failed:
        live.open_live("camera:77", threading.Event()).__enter__()
    assert "camera:77: cannot be opened" in str(failed.value)
    assert "no /dev/video77; cameras here: /dev/video4 (UVC Camera)" in str(failed.value)
    assert "v4l2-ctl --list-devices" in str(failed.value)


def test_a_camera_that_gives_nothing_at_first():
    with pytest.raises(MissingRequirement, match="camera:9: .*\nlook here"):
        taken_from(live_of([Camera(["hang"])]))


def test_a_camera_that_fails_at_first_closes_it():
    camera = Camera(["fail"])
    with pytest.raises(MissingRequirement, match="camera:9: "):
        taken_from(live_of([camera]))
    assert camera.closed


def test_a_csi_camera_without_gstreamer(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:   NO\n")
    with pytest.raises(MissingRequirement, match="GStreamer.*OpenCV(.|\n)*Jetson"):
        live.open_live("csi:0", threading.Event()).__enter__()


def test_a_csi_camera_s_pipeline(monkeypatch):
    opened = []
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:   YES (1.14.5)\n")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: opened.append(arguments) or Camera(frames_from(0)))
    source = live.open_live("csi:1", threading.Event(), frames=2)
    assert len(taken_from(source)) == 2
    (pipeline, backend) = opened[0]
    assert backend == cv2.CAP_GSTREAMER
    assert pipeline == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=(int)1280, height=(int)720, "
        "format=(string)NV12, framerate=(fraction)30/1 ! nvvidconv flip-method=0 ! video/x-raw, width=(int)640, "
        "height=(int)360, format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! "
        "appsink drop=1 max-buffers=1 sync=false"
    )


def test_a_stream_that_is_not_there(monkeypatch):
    monkeypatch.setattr(connection, "OPEN_S", 5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        port = unused.getsockname()[1]
        with pytest.raises(MissingRequirement) as failed:
            live.open_live("rtsp://eva:secret@127.0.0.1:%d/camera" % port, threading.Event()).__enter__()
    assert "127.0.0.1 cannot be reached on port %d (Connection refused)" % port in str(failed.value)
    assert "ffprobe -rtsp_transport tcp 'rtsp://eva:***@127.0.0.1" in str(failed.value)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "address, told",
    [
        ("rtsp://eva:Sec#ret1@127.0.0.1:1/a", "must be written as %2F"),
        ("rtsp://eva:Sec/ret1@127.0.0.1:1/a", "must be written as %2F"),
        ("rtsp://eva:Sec@ret1@127.0.0.1:1/a", "must be written as %2F"),
        ("rtsp://eva:Sec%ret1@127.0.0.1:1/a", "must be written as %2F"),
        ("rtsp://eva:Sec%23ret1@127.0.0.1:1/a", r"127.0.0.1 cannot be reached on port 1 "),
        ("RTSP://eva:Secret1@[::1]:1/a", r"::1 cannot be reached on port 1 "),
        ("rtsp://eva:Secret1@127.0.0.1:99999/a", "The address is wrong: expected rtsp://USER:PASSWORD@HOST:PORT/PATH"),
        ("rtsp://eva:Secret1", "The address is wrong"),
        ("rtsp://127.0.0.1:1/a@2", r"127.0.0.1 cannot be reached on port 1 |must be written"),
        ("http://127.0.0.1:1/a?token=Secret1", r"127.0.0.1 cannot be reached on port 1 "),
        ("udp://@:5000", "Nothing came from any host on port 5000"),
    ],
)
def test_what_is_said_of_a_stream_that_does_not_answer(address, told):
    text = stream.explain_stream(address)
    assert re.search(told, text)
    assert not re.search("Sec|ret1", text)


# --- a real MJPEG camera over http


def test_a_camera_over_http(monkeypatch):
    monkeypatch.setattr(connection, "OPEN_S", 15)
    monkeypatch.setattr(connection, "_SILENCE_S", 5)
    with http_camera.serving(lambda number: cv2.imencode(".jpg", picture_of(number))[1].tobytes()) as place:
        address = "HTTP://%s/video.mjpg?token=Secret1" % place
        frames = taken_from(live.open_live(address, threading.Event(), frames=5, seconds=30))
    assert len(frames) == 5
    assert all(re.match(r"HTTP://127\.0\.0\.1:\d+/video\.mjpg\?token=\*\*\*#\d+$", frame.name) for frame in frames)


# --- a real RTSP server


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


@pytest.fixture
def serve(monkeypatch):
    """serve(port, picture) starts an RTSP server; skips the test where there is none."""
    monkeypatch.undo()  # the real waiting times
    started = []

    def serve(port, picture="clock"):
        server = rtsp_server.start(port, picture)
        if server is None:
            pytest.skip("needs GStreamer's RTSP server for Python; %s says how to get it" % rtsp_server.__file__)
        started.append(server)
        return server

    yield serve
    for server in started:
        if server.poll() is None:
            rtsp_server.stop(server)


def test_what_piled_up_while_a_real_stream_was_opened_is_not_handed_out(serve):
    port = free_port()
    serve(port)
    source = live.open_live("rtsp://127.0.0.1:%d/camera" % port, threading.Event(), frames=25)
    with source:
        made_s = [rtsp_server.read_stamp(frame.picture) for frame in source]
    assert made_s == sorted(made_s)
    assert made_s[-1] <= time.monotonic()
    assert source.counts.dropped > 5  # ffmpeg holds back a second's frames while it opens a stream


def test_a_stream_that_ends_and_comes_back_gives_no_frame_from_before(serve, capsys):
    port = free_port()
    server = serve(port)
    source = live.open_live("rtsp://127.0.0.1:%d/camera" % port, threading.Event(), seconds=40)
    with source:
        for count, frame in enumerate(source):
            made_s = rtsp_server.read_stamp(frame.picture)
            if count == 5:
                rtsp_server.stop(server)
                ended_s = time.monotonic()
                server = serve(port)
            if source.counts.reconnects:
                break
        assert made_s > ended_s
    assert source.counts.reconnects == 1
    lost, back = capsys.readouterr().err.splitlines()
    assert "opening it again" in lost and "back after" in back


@pytest.mark.slow
def test_a_stream_that_stalls_is_opened_again(serve):
    port = free_port()
    server = serve(port)
    source = live.open_live("rtsp://127.0.0.1:%d/camera" % port, threading.Event(), seconds=60)
    with source:
        for count, frame in enumerate(source):
            made_s = rtsp_server.read_stamp(frame.picture)
            if count == 5:
                server.send_signal(signal.SIGSTOP)
                stopped_s = time.monotonic()
                threading.Timer(8, server.send_signal, [signal.SIGCONT]).start()
            if source.counts.reconnects:
                break
        assert made_s > stopped_s + 5
    assert source.counts.reconnects == 1


def test_a_stream_of_a_still_picture_is_handed_out(serve):
    port = free_port()
    serve(port, "still")
    source = live.open_live("rtsp://127.0.0.1:%d/camera" % port, threading.Event(), seconds=2)
    frames = taken_from(source)
    assert frames and frames[0].picture.shape == (240, 320, 3)
    assert source.counts.reconnects == 0


def test_a_black_stream_gives_nothing(serve):
    port = free_port()
    serve(port, "black")
    source = live.open_live("rtsp://127.0.0.1:%d/camera" % port, threading.Event(), seconds=3)
    assert taken_from(source) == []
    assert source.counts.blank > 0
