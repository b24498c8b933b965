"""What a source's name means: the one table of kinds.

kind     name                                        opened by
STDIN    -                                           stdin.standard_input_items
CAMERA   camera:N, N, /dev/videoN                    live.open_live, camera.open_camera
CSI      csi:N                                       live.open_live, camera.open_csi
STREAM   rtsp://... and the other schemes of PORTS   live.open_live, stream.open_stream
FOLDER   a folder                                    folder.folder_items
TABLE    a file named .tsv, .csv, .xlsx, ...         table.table_items
VIDEO    a file named .mp4, .avi, ...                video.Video; played like a camera: live.open_live, Playback
FILE     any other file                              registry (one Item)
PATTERN  *.jpg, photos/**                            pattern.pattern_items
MISSING  nothing of that name                        registry (an error)
"""

import difflib
import glob
import os
import re
import urllib.parse

from edge_runtime.errors import UsageError
from edge_runtime.files import suffix_of
from edge_runtime.photos import formats
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources import table_reader
from edge_runtime.sources.names import VIDEO_SUFFIXES

STDIN, CAMERA, CSI, STREAM = "stdin", "camera", "csi", "stream"
FOLDER, TABLE, VIDEO, FILE, PATTERN, MISSING = "folder", "table", "video", "file", "pattern", "missing"

# The schemes of streams, each with its default port.
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "srt": 0, "udp": 0}
_STREAMED = (".ts", ".flv", ".webm", ".ogv")  # video files that a live stream over http has, too


def kind_of(source):
    """Returns the kind of a source, from the table above. Addresses of other schemes count as STREAM."""
    if source == "-":
        return STDIN
    kind = _live_kind(source)
    if kind:
        return kind
    if os.path.isdir(source):
        return FOLDER
    if os.path.lexists(source):
        return TABLE if table_reader.is_table(source) else VIDEO if is_video(source) else FILE
    return PATTERN if glob.has_magic(source) else MISSING


def _live_kind(source):
    """Returns CAMERA, CSI, STREAM, or "" for all else."""
    source = camera_name(source)
    if source.startswith("camera:"):
        return CAMERA
    if source.startswith("csi:"):
        return CSI
    return STREAM if is_address(source) else ""


def is_live(source):
    """Whether a source is a camera or a stream."""
    kind = _live_kind(source)
    return kind in (CAMERA, CSI) or (kind == STREAM and scheme_of(source) in PORTS)


def is_video(source):
    """Whether a source is named like a video file; nothing of that name need exist."""
    return source.lower().endswith(VIDEO_SUFFIXES) and not is_live(source)


def shown_name(source):
    """Returns a source's name as results and messages may show it: without the secrets of an address."""
    return shown_address(source) if is_address(source) else camera_name(source)


def scheme_of(address):
    """Returns the scheme of an address, in small letters: "rtsp"."""
    return address.partition("://")[0].lower()


def camera_name(source):
    """Returns camera:N for a camera's other names (N, where no file has that name, and /dev/videoN); else source."""
    if re.match(r"[0-9]{1,3}$", source) and not os.path.lexists(source):
        return f"camera:{source}"
    device = re.match(r"/dev/video(\d+)$", os.path.realpath(source)) if source.startswith("/dev/") else None
    return f"camera:{device.group(1)}" if device and not os.path.isfile(source) else source


def check_name(source):
    """Checks the name of a source for a misspelt camera or stream.

    Raises:
        UsageError: it is nearly one; the message says which, or what to do instead.
    """
    if os.path.lexists(source):
        return
    camera = re.match(r"(?i)(webcam|cam|camera|usb|usbcam|video|v4l2?|csi|csicam|mipi)[:_/ -]?(\d*)$", source)
    if camera and not re.match(r"(camera|csi):\d+$", source):
        kind = CSI if camera.group(1).lower() in ("csi", "csicam", "mipi") else CAMERA
        raise UsageError(f"{source}: no such file or folder; did you mean {kind}:{camera.group(2) or 0}?")
    if not is_address(source):
        return
    safe_address, scheme = shown_address(source), scheme_of(source)
    if scheme not in PORTS:
        similar = difflib.get_close_matches(scheme, PORTS, 1)
        hint = f"; did you mean {similar[0]}://?" if similar else ""
        schemes = ", ".join(f"{scheme}://" for scheme in PORTS)
        raise UsageError(f"{safe_address}: expected a file, or an address that begins with {schemes}{hint}")
    if scheme in ("http", "https"):
        suffix = suffix_of(urllib.parse.unquote(re.split("[?#]", safe_address)[0]))
        if suffix in formats.SUFFIXES or (suffix in VIDEO_SUFFIXES and suffix not in _STREAMED):
            raise UsageError(
                f"{safe_address}: is the address of a file, not of a camera; "
                f"download it first: curl -o FILE{suffix} ADDRESS"
            )
