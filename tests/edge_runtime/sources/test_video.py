"""Video files: every frame in order, whatever is damaged."""

import errno
import os
import re
import struct
import threading

import cv2
import numpy as np
import pytest

from edge_runtime.errors import StorageLost, UsageError
from edge_runtime.sources import live, video_container
from edge_runtime.sources import video as sources_video
from edge_runtime.sources.video import Video
from tests.conftest import shared_path
from tests.edge_runtime.sources.videos import SIZE, number_in, numbered, tells_places, with_damage, write_video
from tests.helpers import write_bytes


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
            return video_container.damage(file)

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
