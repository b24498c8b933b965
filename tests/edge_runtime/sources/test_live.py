"""Live sources: fake cameras that fail in every way, videos played like cameras, and a real RTSP server."""

import itertools
import re
import signal
import socket
import threading
import time

import cv2
import numpy as np
import pytest

from edge_runtime.errors import MissingRequirement
from edge_runtime.sources import camera, connection, live, newest, stream
from edge_runtime.sources.connection import Device
from tests.edge_runtime.sources import http_camera, rtsp_server
from tests.edge_runtime.sources.videos import SIZE, number_in, numbered, tells_places, with_damage, write_video


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
    captures = []

    def open_next():
        camera = cameras[min(len(captures), len(cameras) - 1)]
        captures.append(camera)
        if isinstance(camera, Exception):
            raise camera
        return camera

    device = Device("camera:9", open_next, lambda: "look here", is_sensor)
    limits = live.Limits(interval_s, seconds, frames)
    source = live.Live(device, stop or threading.Event(), limits, newest.Counts())
    source.captures = captures
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
    times = {"OPEN_S": 1.2, "SILENCE_S": 0.6, "FIRST_PAUSE_S": 0.02, "MAX_PAUSE_S": 0.1, "LOOK_S": 0.01}
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


# --- videos played like cameras


def test_a_damaged_video_played_like_a_camera_goes_on(tmp_path):
    path = with_damage(write_video(tmp_path / "a.mp4", [numbered(number) for number in range(20)]), 7)
    source = live.open_live(path, threading.Event())
    frames = taken_from(source)
    assert number_in(frames[-1].picture) == 19
    assert source.counts.captured == 19 and source.counts.damaged == (1 if tells_places() else 0)


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
    assert len(source.captures) == 1


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
    monkeypatch.setattr(connection, "FROZEN_S", 0.2)
    source = live_of([Camera(itertools.repeat(picture_of(0))), Camera(frames_from(5))], frames=2)
    frozen, new = taken_from(source)
    assert np.array_equal(frozen.picture[:, :, ::-1], picture_of(0))
    assert not np.array_equal(new.picture[:, :, ::-1], picture_of(0))
    assert source.counts.reconnects == 1
    assert "the same picture, to the byte" in capsys.readouterr().err


def test_a_frozen_sensor_s_picture_is_not_new_when_it_is_opened_again(monkeypatch, capsys):
    monkeypatch.setattr(connection, "FROZEN_S", 0.3)
    black = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    frozen = [Camera(itertools.chain([black] * 3, itertools.repeat(picture_of(0)))) for _ in range(3)]
    source = live_of(frozen + [Camera(frames_from(5))], frames=2, seconds=10)
    first, new = taken_from(source)
    assert np.array_equal(first.picture[:, :, ::-1], picture_of(0))
    assert not np.array_equal(new.picture[:, :, ::-1], picture_of(0))
    assert len(source.captures) == 4 and source.counts.reconnects == 1
    lost, back = capsys.readouterr().err.splitlines()
    assert "opening it again" in lost and "back after" in back


def test_a_sensor_that_is_stuck_on_black_is_opened_again(monkeypatch, capsys):
    monkeypatch.setattr(connection, "FROZEN_S", 0.1)
    black = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    cameras = [Camera(itertools.repeat(black)), Camera(itertools.repeat(black)), Camera(frames_from(5))]
    source = live_of(cameras, frames=1, seconds=5)
    assert len(taken_from(source)) == 1
    assert len(source.captures) == 3 and source.counts.reconnects == 1
    lost, back = capsys.readouterr().err.splitlines()
    assert "only blank frames" in lost and "back after" in back


def test_a_stream_of_a_still_picture_that_comes_back_is_back_and_not_new():
    source = live_of(
        [Camera([picture_of(0)] * 5 + ["fail"]), Camera(itertools.repeat(picture_of(0)))], is_sensor=False, seconds=1
    )
    assert len(taken_from(source)) == 1
    assert source.counts.reconnects == 1 and len(source.captures) == 2


def test_a_stream_of_a_still_picture_is_left_alone(monkeypatch):
    monkeypatch.setattr(connection, "FROZEN_S", 0.05)
    source = live_of([Camera(itertools.repeat(picture_of(0)))], is_sensor=False, seconds=0.4)
    assert len(taken_from(source)) == 1
    assert source.counts.reconnects == 0 and source.counts.repeated > 10 and len(source.captures) == 1


def test_a_frame_that_waited_too_long_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(newest, "STALE_S", 0.1)
    monkeypatch.setattr(connection, "SILENCE_S", 5)
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
    assert not source.captures[0].closed  # nobody closes it while it is being read
    Camera.released.set()
    for _ in range(500):
        if source.captures[0].closed:
            break
        time.sleep(0.01)
    assert source.captures[0].closed


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
    assert len(source.captures) <= connection.MAX_HANGING + 1


def test_a_driver_that_hangs_too_often_ends_the_run_for_a_supervisor(monkeypatch):
    monkeypatch.setattr(connection, "MAX_HANGING_S", 0.3)
    source = live_of([Camera([picture_of(0), "hang"])] + [Camera(["hang"]) for _ in range(20)], seconds=60)
    frames = []
    with source, pytest.raises(MissingRequirement, match="camera:9: .*3 attempts"):
        for frame in source:
            frames.append(frame)
    assert len(frames) == 1 and len(source.captures) == connection.MAX_HANGING


def test_a_driver_that_comes_back_in_time_is_opened_again(monkeypatch):
    monkeypatch.setattr(connection, "MAX_HANGING_S", 10)
    hanging = [Camera([picture_of(0), "hang"])] + [Camera(["hang"]) for _ in range(2)]
    source = live_of(hanging + [Camera(frames_from(5))], seconds=60, frames=2)
    with source:
        frames = iter(source)
        next(frames)
        threading.Thread(target=lambda: (wait_until(lambda: source.counts.hanging == 3), Camera.released.set())).start()
        next(frames)
    assert len(source.captures) == 4 and source.counts.reconnects == 1


def wait_until(condition):
    deadline = time.time() + 30
    while not condition() and time.time() < deadline:
        time.sleep(0.01)


def test_a_camera_that_is_only_away_is_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(connection, "MAX_HANGING_S", 0.05)
    source = live_of([Camera([picture_of(0), "fail"]), Camera([], opens=False)], seconds=1.0)
    assert len(taken_from(source)) == 1
    assert len(source.captures) > 5


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
    monkeypatch.setattr(connection, "STEADY_S", 1000)
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
    "address, message",
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
def test_what_is_said_of_a_stream_that_does_not_answer(address, message):
    text = stream.explain_stream(address)
    assert re.search(message, text)
    assert not re.search("Sec|ret1", text)


# --- a real MJPEG camera over http


def test_a_camera_over_http(monkeypatch):
    monkeypatch.setattr(connection, "OPEN_S", 15)
    monkeypatch.setattr(connection, "SILENCE_S", 5)
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
