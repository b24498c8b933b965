"""What kind of source a name means: a camera, a stream, a video, or a file."""

import difflib
import os
import re
import urllib.parse

from edge_runtime.errors import UsageError
from edge_runtime.files import suffix_of
from edge_runtime.photos import formats
from edge_runtime.secrets import is_address, shown_address
from edge_runtime.sources.names import VIDEO_SUFFIXES

# Addresses that are streams, with their ports where they say none.
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "srt": 0, "udp": 0}

_STREAMED = (".ts", ".flv", ".webm", ".ogv")  # also live, over http


def is_live(source):
    """Whether a source is a camera or a stream."""
    source = as_camera(source)
    return source.startswith(("camera:", "csi:")) or (is_address(source) and scheme_of(source) in PORTS)


def is_video(source):
    """Whether a source is named like a video file."""
    return source.lower().endswith(VIDEO_SUFFIXES) and not is_live(source)


def shown_name(source):
    """Returns a source's name as results and messages may show it: without the secrets of an address."""
    return shown_address(source) if is_address(source) else as_camera(source)


def check_name(source):
    """Looks at the name of a source that may be meant for a camera or a stream.

    Raises:
        UsageError: it is nearly one; says which, or what to do instead.
    """
    if os.path.lexists(source):
        return
    meant = re.match(r"(?i)(webcam|cam|camera|usb|usbcam|video|v4l2?|csi|csicam|mipi)[:_/ -]?(\d*)$", source)
    if meant and not re.match(r"(camera|csi):\d+$", source):
        kind = "csi" if meant.group(1).lower() in ("csi", "csicam", "mipi") else "camera"
        raise UsageError(f"{source}: no such file or folder; did you mean {kind}:{meant.group(2) or 0}?")
    if not is_address(source):
        return
    shown, scheme = shown_address(source), scheme_of(source)
    if scheme not in PORTS:
        near = difflib.get_close_matches(scheme, PORTS, 1)
        raise UsageError(
            "%s: expected a file, or an address that begins with %s%s"
            % (shown, ", ".join(f"{one}://" for one in PORTS), f"; did you mean {near[0]}://?" if near else "")
        )
    if scheme in ("http", "https"):
        suffix = suffix_of(urllib.parse.unquote(re.split("[?#]", shown)[0]))
        if suffix in formats.SUFFIXES or (suffix in VIDEO_SUFFIXES and suffix not in _STREAMED):
            raise UsageError(
                f"{shown}: is the address of a file, not of a camera; download it first: curl -o FILE{suffix} ADDRESS"
            )


def scheme_of(address):
    """Returns the scheme of an address, in small letters: "rtsp"."""
    return address.partition("://")[0].lower()


def as_camera(source):
    """Returns camera:N for the other names that a camera has: N, where no file has that name, and /dev/videoN."""
    if re.match(r"[0-9]{1,3}$", source) and not os.path.lexists(source):
        return f"camera:{source}"
    device = re.match(r"/dev/video(\d+)$", os.path.realpath(source)) if source.startswith("/dev/") else None
    return f"camera:{device.group(1)}" if device and not os.path.isfile(source) else source
