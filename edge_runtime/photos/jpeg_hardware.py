"""Decodes JPEGs with a Jetson's hardware (nvjpegdec, with the resize in its VIC), through GStreamer for Python.

NOT YET RUN ON A BOARD: written from NVIDIA's element names; the tests run it with GStreamer's own jpegdec in their
place. It is off unless the environment variable PICNIC_EDGE_JPEG is "hardware". Its pixels are close to those of
edge_runtime.photos.decode, not the same: the VIC shrinks a photo to twice the network's input, and only the last
halving is an average of all pixels. Before relying on it, compare the top-1 of `picnic-edge bench --labels` with and
without it.

Why not through OpenCV: cv2.VideoCapture takes no bytes, so each photo would need a file and a pipeline of its own,
which takes 12 ms to build (GStreamer 1.22, x86), while decoding takes 8 ms.
"""

import os
import threading
import typing

import cv2
import numpy as np

from edge_runtime.errors import MissingRequirement
from edge_runtime.photos import decode, jpeg, read, spec
from edge_runtime.photos.header import read_header
from edge_runtime.photos.picture import check_picture, fit_image, turn_upright

SWITCH = "PICNIC_EDGE_JPEG"
_TWICE = 2 * spec.SIDE
_MIN_SIDE = 2 * _TWICE  # smaller photos are quick to decode without it
_TIMEOUT_S = 5
_MAX_DIFFERENCE = 3.0  # mean over the test picture's pixels, of 255; a wrong colour range differs by 8 and more
_ELEMENTS = "nvjpegdec ! video/x-raw ! nvvidconv"


def open_decoder():
    """Returns an open HardwareDecoder where PICNIC_EDGE_JPEG=hardware, else None.

    Raises:
        MissingRequirement: there is no such hardware, or it decodes to other colours.
    """
    return HardwareDecoder() if os.environ.get(SWITCH) == "hardware" else None


class HardwareDecoder:
    """One open pipeline, for one photo at a time; threads wait for their turn.

    Attributes:
        failures: photos that the hardware did not decode within 5 s, and that were decoded without it.
    """

    def __init__(self, elements=_ELEMENTS):
        """Opens the decoder and tests it with a drawn picture.

        Raises:
            MissingRequirement: no GStreamer for Python, no such elements, or the picture comes out different.
        """
        self.failures = 0
        self._elements = elements
        self._lock = threading.Lock()
        self._closed = False
        self._pipeline: typing.Any = None
        self._size: typing.Optional[typing.Tuple[int, int]] = None  # of the photos that the pipeline is set up for
        self._number = 0
        self._gst = _gstreamer()
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def decode_image(self, data):
        """Decodes an encoded photo for the network.

        Large baseline JPEGs in colour go through the hardware, all else (and what it fails on) through
        decode.decode_image. The hardware notices damage only where the end of a JPEG is missing.

        Args:
            data: the bytes of the file.

        Returns:
            uint8 array [299, 299, 3], RGB, upright.

        Raises:
            ImageError: not a photo, damaged, one colour, wholly transparent, or too large. MemoryError.
        """
        header = read_header(data)
        if not _suits(header) or jpeg.find_end(data, header.facts) < 0:
            return decode.decode_image(data)
        with self._lock:
            bgrx = None
            if not self._closed:  # else it would be opened again, and never closed
                bgrx = self._decode(data, (header.width, header.height))
                if bgrx is None:
                    self.failures += 1
                    self._stop()
        if bgrx is None:
            return decode.decode_image(data)
        rgb = cv2.cvtColor(bgrx, cv2.COLOR_BGRA2RGB)
        picture = turn_upright(fit_image(rgb), header.orientation)
        check_picture(picture)
        return picture

    def read_image(self, path):
        """Reads a photo for the network from its path. Returns and raises what read.read_image does."""
        return self.decode_image(read.read_bytes(path))

    def close(self):
        """Frees the hardware; photos are decoded without it from now on. May be called any number of times."""
        with self._lock:
            self._closed = True
            self._stop()

    def _decode(self, data, size):
        """Returns the photo as uint8 [598, 598, 4], BGRx; None where the hardware fails."""
        if self._pipeline is None or size != self._size:
            # Another size in the same pipeline would be negotiated again; NVIDIA's elements differ in that.
            self._stop()
            self._start(size)
        gst = self._gst
        self._number += 1
        photo = gst.Buffer.new_wrapped(data)
        photo.pts = self._number * gst.MSECOND
        self._pipeline.get_by_name("photo").emit("push-buffer", photo)
        sample = self._pipeline.get_by_name("picture").emit("try-pull-sample", _TIMEOUT_S * gst.SECOND)
        if sample is None:
            return None
        picture = sample.get_buffer()
        if picture.pts != photo.pts:  # another photo's picture
            return None
        pixels = np.frombuffer(picture.extract_dup(0, picture.get_size()), np.uint8)
        if pixels.size % _TWICE or pixels.size < _TWICE * _TWICE * 4:
            return None
        return pixels.reshape(_TWICE, -1)[:, : _TWICE * 4].reshape(_TWICE, _TWICE, 4)  # rows may be padded

    def _start(self, size):
        pipeline = self._gst.parse_launch(
            f"appsrc name=photo format=time caps=image/jpeg ! jpegparse ! {self._elements} ! "
            f"video/x-raw, format=(string)BGRx, width=(int){_TWICE}, height=(int){_TWICE} ! "
            "appsink name=picture sync=false max-buffers=1"
        )
        pipeline.set_state(self._gst.State.PLAYING)
        self._pipeline, self._size = pipeline, size

    def _stop(self):
        if self._pipeline is not None:
            self._pipeline.set_state(self._gst.State.NULL)
            self._pipeline = None

    def _check(self):
        names = [part.split()[0] for part in self._elements.split(" ! ") if "/" not in part]
        missing = [
            name for name in ["appsrc", "jpegparse", "appsink"] + names if not self._gst.ElementFactory.find(name)
        ]
        if missing:
            raise MissingRequirement(
                f"{SWITCH}=hardware: GStreamer here has no {', '.join(missing)}; NVIDIA's come with JetPack. "
                f"Unset {SWITCH} to decode without"
            )
        done, data = cv2.imencode(".jpg", _test_picture(), [cv2.IMWRITE_JPEG_QUALITY, 95])
        picture = self.decode_image(data.tobytes())
        if self.failures:
            raise MissingRequirement(f"{SWITCH}=hardware: {self._elements} decodes no JPEG here")
        difference = np.abs(picture.astype(int) - decode.decode_image(data.tobytes())).mean()
        if difference > _MAX_DIFFERENCE:
            raise MissingRequirement(
                f"{SWITCH}=hardware: {self._elements} decodes a test picture {difference:.1f} of 255 off on average "
                f"(at most {_MAX_DIFFERENCE:.1f}): labels would suffer. Unset {SWITCH}"
            )


def _suits(header):
    return (
        header.format == "JPEG"
        and header.facts.components == 3
        and not header.facts.progressive
        and min(header.width, header.height) >= _MIN_SIDE
    )


def _test_picture():
    """Returns a BGR picture of all colours, dark to bright, from smooth to fine."""
    side = _MIN_SIDE
    down, right = np.mgrid[0:side, 0:side].astype(np.float32) / side
    waves = 40 * np.sin(right * 60) * np.sin(down * 40)
    picture = np.stack([255 * right, 255 * down, 255 * (1 - right)], axis=2) + waves[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _gstreamer():
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError) as error:
        raise MissingRequirement(
            f"{SWITCH}=hardware: GStreamer for Python cannot be imported ({error}).\n"
            "To get it: sudo apt-get install python3-gi gir1.2-gstreamer-1.0, and a virtual environment with "
            f"--system-site-packages. Unset {SWITCH} to decode without"
        )
    Gst.init(None)
    return Gst
