"""Streams by address: RTSP, RTMP, HTTP and others; and why one cannot be opened."""

import os
import re
import socket

import cv2

from edge_runtime.secrets import shown_address
from edge_runtime.sources.kinds import PORTS, scheme_of
from edge_runtime.sources.video import QUIET

OPEN_S = 15  # within which a source that is opened must give its first frame
_READ_TIMEOUT_MS = 4000  # less than connection.py waits: where OpenCV has a time limit, no thread is left hanging


def open_stream(address):
    """Opens a stream with OpenCV's ffmpeg. Returns a cv2.VideoCapture, which may not be open."""
    settings = []
    # TCP: a lost UDP packet would smear the picture, and smeared pictures be classified, until the next key frame.
    options = "rtsp_transport;tcp" if scheme_of(address) in ("rtsp", "rtsps") else ""
    if hasattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC"):
        settings += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_S * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
    elif options:  # OpenCV before 4.5.2, with the ffmpeg of its time: the socket's own limit, in microseconds
        options += f"|stimeout;{_READ_TIMEOUT_MS * 1000}"
    if options:
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
    os.environ.setdefault(*QUIET)
    address = scheme_of(address) + address[address.index("://") :]  # ffmpeg knows no RTSP://
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, *([settings] if settings else []))


def explain_stream(address):
    """Returns why a stream may not open, and how to look: a connection to its host and port is tried."""
    scheme, safe_address = scheme_of(address), shown_address(address)
    rest = address.partition("://")[2]
    user, _, after = rest.rpartition("@")
    if ":" in user or not re.search("[/?#]", user):  # else the @ is in the path
        rest = after
    place = re.match(r"(?:\[([^]/?#]*)\]|([^:/?#]*))(?::(\d*))?(?=[/?#]|$)", rest)
    transport = "-rtsp_transport tcp " if scheme in ("rtsp", "rtsps") else ""
    advice = f".\nTried with OpenCV's ffmpeg. To look: ffprobe {transport}'{safe_address}'"
    if re.search("[/?#@%]", re.sub("%[0-9A-Fa-f]{2}", "", user)):
        return f"A password's / ? # @ % must be written as %2F %3F %23 %40 %25 in an address{advice}"
    if not place or int(place.group(3) or 0) > 65535:
        return f"The address is wrong: expected {scheme}://USER:PASSWORD@HOST:PORT/PATH{advice}"
    host, port = place.group(1) or place.group(2), int(place.group(3) or PORTS[scheme])
    if scheme in ("udp", "srt"):
        return f"Nothing came from {host or 'any host'} on port {port}{advice}"
    try:
        socket.create_connection((host, port), timeout=3).close()
        reason = f"{host} answers on port {port}: check the path, user and password"
    except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
        reason = f"{host} cannot be reached on port {port} ({getattr(error, 'strerror', None) or error})"
    return reason + advice
