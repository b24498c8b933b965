"""What the name of a source means: cameras, streams, videos, and names that are nearly one."""

import threading

import pytest

from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.sources import kinds, live
from tests.helpers import write_bytes


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
    "source, message",
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
def test_what_is_nearly_a_camera_or_a_stream_gets_help(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
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


@pytest.mark.parametrize(
    "source, kind",
    [
        ("-", kinds.STDIN),
        ("camera:0", kinds.CAMERA),
        ("7", kinds.CAMERA),
        ("csi:0", kinds.CSI),
        ("rtsp://cam/a", kinds.STREAM),
        ("shelf", kinds.FOLDER),
        ("shelf.mp4", kinds.FOLDER),
        ("labels.tsv", kinds.TABLE),
        ("clip.MP4", kinds.VIDEO),
        ("a.jpg", kinds.FILE),
        ("8", kinds.FILE),
        ("b[1].jpg", kinds.FILE),
        ("*.jpg", kinds.PATTERN),
        ("nowhere.jpg", kinds.MISSING),
    ],
)
def test_kinds(source, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("shelf", "shelf.mp4"):
        (tmp_path / folder).mkdir()
    for name in ("labels.tsv", "clip.MP4", "a.jpg", "8", "b[1].jpg"):
        write_bytes(tmp_path / name, b"")
    assert kinds.kind_of(source) == kind
