"""What a video file says of itself: which frames there must be, and where it must end.

OpenCV passes over what it cannot decode (older ones without a sign), and the frame count that it gives is a guess for
files without a table of frames. Here only what the file itself states is read, so that it can serve as proof.
"""

import os
import struct

import numpy as np

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"  # of Matroska: what holds the others
_MOST_BYTES = 64 << 20  # of an MP4's tables that are read: more than a day of video


def frame_times(file):
    """Returns when each frame of an MP4 or MOV is shown, by the file's own table.

    Args:
        file: open for reading, binary.

    Returns:
        float64 [frames], seconds, sorted, the first is 0. None where nothing sure can be said: another format, a file
        in fragments, several video tracks, an edit list that leaves frames out.
    """
    try:
        movie = _movie(file)
        if movie is None or b"mvex" in movie:  # what is in fragments is not in the table
            return None
        tracks = [_Boxes(track) for kind, track in movie if kind == b"trak"]
        videos = [track for track in tracks if track[b"mdia"][b"hdlr"].data[8:12] == b"vide"]
        return _times(videos[0], movie[b"mvhd"].data) if len(videos) == 1 else None
    except (KeyError, IndexError, ValueError, struct.error):  # a damaged table proves nothing
        return None


def cut_short(file):
    """Returns "" or how a file of a kind that states its length (MP4, MOV, AVI, MKV, WebM) ends before that length."""
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 64)
    end = 0
    if head[:4] == b"RIFF":
        end = 8 + struct.unpack("<I", head[4:8])[0]
        end = 0 if end == 8 + 0xFFFFFFFF else end  # a recording that nobody ended
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        segment = 4 + sum(_ebml_number(head[4:]))
        if head[segment : segment + 4] == _SEGMENT:
            width, length = _ebml_number(head[segment + 4 :])
            unknown = length == (1 << 7 * width) - 1
            end = 0 if unknown else segment + 4 + width + length
    else:
        end = max([0] + [box_end for _, _, box_end in _top_boxes(file, size)])
    return "its header says %d bytes, %d are there" % (end, size) if end > size else ""


def broken(file):
    """Returns "" or where an MKV, WebM or AVI is overwritten between its frames: ffmpeg looks for the next one there
    without a word, and may find none."""
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 12)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        place = _broken_matroska(file, size)
    elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
        place = _broken_avi(file, size)
    else:
        place = None
    return "" if place is None else "the file is damaged at byte %d" % place


def _broken_matroska(file, size):
    place, end = 0, size  # the latter of the segment; something may have been appended behind it
    while place < end - 12:
        head = _read(file, place, 12)
        width = 9 - head[0].bit_length()
        length_width, length = _ebml_number(head[width:])
        unknown = length == (1 << 7 * length_width) - 1
        if width > 4 or not length_width:
            return place
        place += width + length_width
        if head[:width] == _SEGMENT:
            end = size if unknown else min(size, place + length)
        elif head[:width] != _CLUSTER:
            if unknown:
                return place
            place += length
    return None  # whether all is there says cut_short


def _broken_avi(file, size):
    place = end = 0  # the latter of the RIFF that place is in; a large file has several
    while place + 8 <= size:
        kind, length = struct.unpack("<4sI", _read(file, place, 8))
        if kind == b"RIFF":
            end = place + 8 + length
        elif place >= end:
            return None  # something was appended
        elif not all(32 <= letter < 127 for letter in kind):
            return place
        # A list has a name, and more of the same in it.
        place += 12 if kind in (b"RIFF", b"LIST") else 8 + length + length % 2
    return None


def _ebml_number(data):
    """Returns (how many bytes it takes, value) of the number at the start of Matroska's data."""
    first = data[0] if data else 0
    width = 9 - first.bit_length()
    if not 1 <= width <= 8 or len(data) < width:
        return 0, 0
    return width, int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)


def _top_boxes(file, size):
    """Yields (kind, start of the content, end) of an MP4's boxes; nothing for another format."""
    place = 0
    while place + 8 <= size:
        head = _read(file, place, 16)
        length, kind = struct.unpack(">I4s", head[:8])
        begin = 8
        if length == 1 and len(head) == 16:
            length, begin = struct.unpack(">Q", head[8:])[0], 16
        length = length or size - place  # 0: to the end of the file
        known = all(32 <= letter < 127 for letter in kind) if place else kind in _FIRST_BOXES
        if length < begin or not known:  # another format, or what was appended behind the last box
            return
        yield kind, place + begin, place + length
        place += length


def _movie(file):
    """Returns the _Boxes of an MP4's table of contents, None where there is none."""
    size = os.fstat(file.fileno()).st_size
    for kind, start, end in _top_boxes(file, size):
        if kind == b"moov":
            return _Boxes(_read(file, start, end - start)) if end <= size and end - start <= _MOST_BYTES else None
    return None


class _Boxes:
    """The boxes inside a box: iterating gives (kind, bytes), [kind] the first of that kind as _Boxes."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        place = 0
        while place + 8 <= len(self.data):
            length, kind = struct.unpack_from(">I4s", self.data, place)
            if not 8 <= length <= len(self.data) - place:
                return
            yield kind, self.data[place + 8 : place + length]
            place += length

    def __contains__(self, wanted):
        return any(kind == wanted for kind, _ in self)

    def __getitem__(self, wanted):
        for kind, data in self:
            if kind == wanted:
                return _Boxes(data)
        raise KeyError(wanted)


def _times(track, movie_header):
    """Returns the times of a video track, as frame_times. Raises ValueError where they are not sure."""
    media = track[b"mdia"]
    table = media[b"minf"][b"stbl"]
    scale = _scale(media[b"mdhd"].data)
    same_size, count = struct.unpack_from(">II", table[b"stsz"].data, 4)
    if same_size or not count:
        raise ValueError("no frames, or frames of one size")
    sizes = np.frombuffer(table[b"stsz"].data, ">u4", count, 12)
    decoded_at = np.cumsum(_runs(table[b"stts"].data, ">u4", count))
    times = np.concatenate([[0], decoded_at[:-1]])
    if b"ctts" in table:
        times = times + _runs(table[b"ctts"].data, ">i4", count)
    if b"edts" in track:
        first, last = _edit(track[b"edts"][b"elst"].data, float(scale) / _scale(movie_header))
        if first > times.min() or last <= times.max():
            raise ValueError("an edit list that leaves frames out")
    times = np.sort(times[sizes > 0])  # a frame of no bytes is the one before, once more
    return (times - times[0]) / float(scale)


def _scale(header):
    """Returns the units per second in a mvhd or mdhd. Raises ValueError: none."""
    (scale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    if not scale:
        raise ValueError("no units")
    return scale


def _runs(data, kind, count):
    """Returns the values of a table of (how many, value), each as often as it says: int64 [count]."""
    entries = np.frombuffer(data, ">u4", 2 * struct.unpack_from(">I", data, 4)[0], 8).reshape(-1, 2)
    if int(entries[:, 0].sum(dtype=np.int64)) != count:  # or a false number would take all memory
        raise ValueError("tables of different lengths")
    return np.repeat(entries[:, 1].copy().view(kind).astype(np.int64), entries[:, 0].astype(np.int64))


def _edit(data, ratio):
    """Returns (from, to) of the part of a track that an edit list shows, in the track's units."""
    version, count = data[0], struct.unpack_from(">I", data, 4)[0]
    layout = struct.Struct(">Qqhh" if version else ">Iihh")
    edits = [layout.unpack_from(data, 8 + number * layout.size) for number in range(count)]
    shown = [edit for edit in edits if edit[1] >= 0]  # the others are a pause before the start
    if len(shown) != 1 or edits[-1] is not shown[0] or shown[0][2:] != (1, 0):
        raise ValueError("a film of several parts, or at another speed")
    duration, first = shown[0][:2]
    return first, first + duration * ratio if duration else float("inf")


def _read(file, place, count):
    return os.pread(file.fileno(), count, place)
