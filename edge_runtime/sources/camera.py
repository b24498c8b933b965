"""Cameras: V4L2 devices and the CSI connector of a Jetson; and why one cannot be opened."""

import os
import re

import cv2

from edge_runtime.errors import MissingRequirement
from edge_runtime.machine import jetson

# The sensor's smallest common mode; the board's VIC halves it, which still covers the network's 299 x 299.
_CSI_PIPELINE = (
    "nvarguscamerasrc sensor-id=%d ! "
    "video/x-raw(memory:NVMM), width=(int)1280, height=(int)720, format=(string)NV12, framerate=(fraction)30/1 ! "
    "nvvidconv flip-method=0 ! video/x-raw, width=(int)640, height=(int)360, format=(string)BGRx ! "
    "videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=1 max-buffers=1 sync=false"
)


def open_camera(number):
    """Opens a V4L2 camera by its number. Returns a cv2.VideoCapture, which may not be open."""
    # No buffer size is set: the reading thread keeps OpenCV's four empty, and with one buffer cameras halve their rate.
    return cv2.VideoCapture(number, cv2.CAP_V4L2)


def open_csi(number):
    """Opens a Jetson's CSI camera. Returns a cv2.VideoCapture. Raises MissingRequirement without GStreamer."""
    if not re.search(r"GStreamer: +YES", cv2.getBuildInformation()):
        raise MissingRequirement(
            "csi: a camera on the CSI connector is read through GStreamer, which OpenCV %s here lacks.\n"
            "On a Jetson use JetPack's own OpenCV: pip uninstall opencv-python opencv-python-headless; "
            "python3 -m venv --system-site-packages VENV" % cv2.__version__
        )
    return cv2.VideoCapture(_CSI_PIPELINE % number, cv2.CAP_GSTREAMER)


def explain_camera(number):
    """Returns why a V4L2 camera may not open, and how to look."""
    device = f"/dev/video{number}"
    if not os.path.exists(device):
        there = ", ".join("%s (%s)" % camera for camera in jetson.cameras()) or "none"
        found = f"There is no {device}; cameras here: {there}"
    elif not os.access(device, os.R_OK | os.W_OK):
        found = f"This user may not use {device}: sudo usermod -aG video $USER, then log in again"
    else:
        found = f"{device} is there: another program may hold it (fuser -v {device}), or it gives no pictures"
    return f"{found}.\nTried with OpenCV's V4L2. To look: v4l2-ctl --list-devices"


def explain_csi(number):
    """Returns how to look for a CSI camera that does not open."""
    pipeline = _CSI_PIPELINE.replace("(memory:NVMM)", "'(memory:NVMM)'").rpartition(" ! ")[0] % number
    return (
        "Look at the camera's cable, at `sudo systemctl restart nvargus-daemon`, and at what GStreamer says:\n"
        f"gst-launch-1.0 {pipeline} ! fakesink"
    )
