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
from edge_runtime.photos import decode, jpeg, read
from edge_runtime.photos.header import read_header
from edge_runtime.photos.orientation import turn_upright, upright_size
from edge_runtime.photos.picture import check_picture
from edge_runtime.photos.resize import fit_image

SWITCH = "PICNIC_EDGE_JPEG"
_MIN_REDUCTION = 4  # smaller photos are quick to decode without it
_TIMEOUT_S = 5
_MAX_DIFFERENCE = 3.0  # mean over the test picture's pixels, of 255; a wrong colour range differs by 8 and more
_ELEMENTS = "nvjpegdec ! video/x-raw ! nvvidconv"


def open_decoder(input_spec):
    """Returns an open HardwareDecoder where PICNIC_EDGE_JPEG=hardware, else None.

    Args:
        input_spec: edge_runtime.photos.spec.InputSpec of the network.

    Raises:
        MissingRequirement: there is no such hardware, it decodes to other colours, or input_spec has a filter of
            Pillow's.
    """
    if os.environ.get(SWITCH) != "hardware":
        return None
    if input_spec.exact:
        raise MissingRequirement(
            f"{SWITCH}=hardware: the bundle's photos are resized with Pillow's {input_spec.filter} filter, which the "
            f"hardware does not have. Unset {SWITCH}"
        )
    return HardwareDecoder(input_spec)


class HardwareDecoder:
    """One open pipeline, for one photo at a time; threads wait for their turn.

    Attributes:
        failures: photos that the hardware did not decode within 5 s, and that were decoded without it.
    """

    def __init__(self, input_spec, elements=_ELEMENTS):
        """Opens the decoder and tests it with a drawn picture.

        Args:
            input_spec: edge_runtime.photos.spec.InputSpec of the network, its filter "area".
            elements: of GStreamer, that decode and resize.

        Raises:
            MissingRequirement: no GStreamer for Python, no such elements, or the picture comes out different.
        """
        self.failures = 0
        self._input_spec = input_spec
        self._elements = elements
        self._lock = threading.Lock()
        self._closed = False
        self._pipeline: typing.Any = None
        self._sizes: typing.Any = None  # of photo and picture, (width, height) each, that the pipeline is set up for
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
            uint8 array of the input spec's shape, RGB, upright.

        Raises:
            ImageError: not a photo, damaged, one colour, wholly transparent, or too large. MemoryError.
        """
        header = read_header(data)
        sideways = upright_size(1, 2, header.orientation) != (1, 2)
        stored_spec = self._input_spec.as_stored(False, sideways)
        height, width = stored_spec.scaled_size(header.height, header.width)
        if not _suits(header, height, width) or jpeg.find_end(data, header.facts) < 0:
            return decode.decode_image(data, self._input_spec)
        with self._lock:
            bgrx = None
            if not self._closed:  # else it would be opened again, and never closed
                bgrx = self._decode(data, (header.width, header.height), (2 * width, 2 * height))
                if bgrx is None:
                    self.failures += 1
                    self._stop()
        if bgrx is None:
            return decode.decode_image(data, self._input_spec)
        rgb = cv2.cvtColor(bgrx, cv2.COLOR_BGRA2RGB)
        picture = turn_upright(fit_image(rgb, stored_spec), header.orientation)
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

    def _decode(self, data, size, picture_size):
        """Returns the photo as uint8 [height, width, 4], BGRx; None where the hardware fails.

        Args:
            size, picture_size: (width, height) of the photo and of the result.
        """
        width, height = picture_size
        if self._pipeline is None or (size, picture_size) != self._sizes:
            # Another size in the same pipeline would be negotiated again; NVIDIA's elements differ in that.
            self._stop()
            self._start(size, picture_size)
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
        if pixels.size % height or pixels.size < height * width * 4:
            return None
        return pixels.reshape(height, -1)[:, : width * 4].reshape(height, width, 4)  # rows may be padded

    def _start(self, size, picture_size):
        pipeline = self._gst.parse_launch(
            f"appsrc name=photo format=time caps=image/jpeg ! jpegparse ! {self._elements} ! "
            f"video/x-raw, format=(string)BGRx, width=(int){picture_size[0]}, "
            f"height=(int){picture_size[1]} ! "
            "appsink name=picture sync=false max-buffers=1"
        )
        pipeline.set_state(self._gst.State.PLAYING)
        self._pipeline, self._sizes = pipeline, (size, picture_size)

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
        done, data = cv2.imencode(".jpg", _test_picture(self._input_spec), [cv2.IMWRITE_JPEG_QUALITY, 95])
        picture = self.decode_image(data.tobytes())
        if self.failures:
            raise MissingRequirement(f"{SWITCH}=hardware: {self._elements} decodes no JPEG here")
        difference = np.abs(picture.astype(int) - decode.decode_image(data.tobytes(), self._input_spec)).mean()
        if difference > _MAX_DIFFERENCE:
            raise MissingRequirement(
                f"{SWITCH}=hardware: {self._elements} decodes a test picture {difference:.1f} of 255 off on average "
                f"(at most {_MAX_DIFFERENCE:.1f}): labels would suffer. Unset {SWITCH}"
            )


def _suits(header, height, width):
    """Tells whether the hardware takes a photo that is to be resized to height x width."""
    return (
        header.format == "JPEG"
        and header.facts.components == 3
        and not header.facts.progressive
        and min(header.height / height, header.width / width) >= _MIN_REDUCTION
        and max(height, width) <= 4 * min(height, width)
    )


def _test_picture(input_spec):
    """Returns a BGR picture of all colours, dark to bright, from smooth to fine."""
    side = _MIN_REDUCTION * max(input_spec.scaled_size(1024, 1024))
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
