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
    # No buffer size is set: the reading thread keeps OpenCV's four buffers empty; with one, cameras halve their rate.
    return cv2.VideoCapture(number, cv2.CAP_V4L2)


def open_csi(number):
    """Opens a Jetson's CSI camera. Returns a cv2.VideoCapture. Raises MissingRequirement without GStreamer."""
    if not re.search(r"GStreamer: +YES", cv2.getBuildInformation()):
        raise MissingRequirement(
            "csi: a camera on the CSI connector is read through GStreamer, "
            f"which OpenCV {cv2.__version__} here lacks.\n"
            "On a Jetson use JetPack's own OpenCV: pip uninstall opencv-python opencv-python-headless; "
            "python3 -m venv --system-site-packages VENV"
        )
    return cv2.VideoCapture(_CSI_PIPELINE % number, cv2.CAP_GSTREAMER)


def explain_camera(number):
    """Returns why a V4L2 camera may not open, and how to look."""
    device = f"/dev/video{number}"
    if not os.path.exists(device):
        cameras = ", ".join(f"{path} ({name})" for path, name in jetson.cameras()) or "none"
        reason = f"There is no {device}; cameras here: {cameras}"
    elif not os.access(device, os.R_OK | os.W_OK):
        reason = f"This user may not use {device}: sudo usermod -aG video $USER, then log in again"
    else:
        reason = f"{device} exists: another program may be using it (fuser -v {device}), or it gives no pictures"
    return f"{reason}.\nTried with OpenCV's V4L2. To look: v4l2-ctl --list-devices"


def explain_csi(number):
    """Returns how to look for a CSI camera that does not open."""
    pipeline = _CSI_PIPELINE.replace("(memory:NVMM)", "'(memory:NVMM)'").rpartition(" ! ")[0] % number
    return (
        "Look at the camera's cable, at `sudo systemctl restart nvargus-daemon`, and at what GStreamer says:\n"
        f"gst-launch-1.0 {pipeline} ! fakesink"
    )
