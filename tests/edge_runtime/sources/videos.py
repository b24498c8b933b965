"""Small video files whose frames tell their numbers."""

import re

import cv2
import numpy as np

from tests.helpers import write_bytes

SIZE = (64, 48)


def write_video(path, pictures, fps=20.0, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, SIZE)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return str(path)


def numbered(number):
    """Returns a picture (BGR) whose brightness tells its number, 0..39, also after compression."""
    picture = np.full((SIZE[1], SIZE[0], 3), number * 6 + 10, np.uint8)
    picture[:, : SIZE[0] // 2] = (0, 0, 255)  # red on the left: tells BGR from RGB, and upright from turned
    return picture


def number_in(picture):
    return int(round((float(picture[:, SIZE[0] // 2 + 4 :].mean()) - 10) / 6))


def with_damage(path, *numbers):
    """Overwrites frames of a video of write_video (JPEGs) with zeros, so that they cannot be decoded."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    ends = starts[1:] + [data.rindex(b"\xff\xd9") + 2]
    for number in numbers:
        data[starts[number] : ends[number]] = bytes(ends[number] - starts[number])
    return write_bytes(path, bytes(data))


def tells_places():
    return hasattr(cv2, "CAP_PROP_ORIENTATION_AUTO")  # OpenCV before 4.5 passes over damage without a sign
