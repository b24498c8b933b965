"""Reads what a video file states about itself: which frames it must have, and where it must end.

OpenCV passes over what it cannot decode (older versions without a sign), and its frame count is an estimate for files
without a table of frames. Only what the file itself states is read here, so that it can serve as proof.
"""

import io
import os
import re
import struct

import numpy as np

from edge_runtime.errors import ImageError
from edge_runtime.photos import jpeg

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")

_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"  # of Matroska: they contain the other elements

_IN_SEGMENT = {  # all that the standard allows in one: SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags
    bytes.fromhex(kind)
    for kind in ("114d9b74", "1549a966", "1654ae6b", "1f43b675", "1c53bb6b", "1941a469", "1043a770", "1254c367")
}

_IN_SEGMENT |= {b"\xec", b"\xbf"}  # padding, a checksum

_IN_CLUSTER = {b"\xe7", b"\x58\x54", b"\xa7", b"\xab", b"\xa3", b"\xa0", b"\xaf", b"\xec", b"\xbf"}
_PACKETS = 1 << 16  # of a transport stream that are checked at once
_MAX_BYTES = 64 << 20  # of an MP4's tables, which is more than a day of video; and of a JPEG
_ZEROS = 32  # bytes of zeros in a row that make a JPEG suspicious


def frame_times(file):
    """Returns when each frame of an MP4 or MOV is shown, from the file's own table.

    Args:
        file: open for reading, binary.

    Returns:
        float64 [frames], seconds, sorted, the first is 0. None where the table proves nothing: another format, a file
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


def missing_end(file):
    """Returns how a file that states its length (MP4, MOV, AVI, MKV, WebM) ends before that length; "" for all else."""
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 64)
    end = 0
    if head[:4] == b"RIFF":
        end = 8 + struct.unpack("<I", head[4:8])[0]
        end = 0 if end == 8 + 0xFFFFFFFF else end  # a recording that was never finished
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        segment = 4 + sum(_ebml_number(head[4:]))
        if head[segment : segment + 4] == _SEGMENT:
            width, length = _ebml_number(head[segment + 4 :])
            unknown = length == (1 << 7 * width) - 1
            end = 0 if unknown else segment + 4 + width + length
    else:
        end = max([0] + [box_end for _, _, box_end in _top_boxes(file, size)])
    return f"its header says {end} bytes, it has {size}" if end > size else ""


def damage(file):
    """Returns where an MKV, WebM, AVI, MPG or TS is overwritten between its frames, or (TS) lacks packets; else "".

    There ffmpeg silently looks for the next frame, and may find none.
    """
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 12)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        place = _damage_matroska(file, size)
    elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
        place = _damage_avi(file, size)
    elif head[:4] == b"\0\0\1\xba":
        place = _damage_program_stream(file, size)
    else:
        place = _damage_transport_stream(file)
    return "" if place is None else f"the file is damaged at byte {place}"


def _damage_matroska(file, size):
    place, end = 0, size  # end: of the segment; something may have been appended behind it
    cluster_end, allowed, has_length = 0, None, True
    while place < end - 12:
        if allowed is not None and place >= cluster_end:
            allowed = _IN_SEGMENT
        start, head = place, _read(file, place, 12)
        width = 9 - head[0].bit_length()
        length_width, length = _ebml_number(head[width:])
        unknown = length == (1 << 7 * length_width) - 1
        kind = head[:width]
        if width > 4 or not length_width or (allowed is not None and kind not in allowed):
            return start
        place += width + length_width
        if kind == _SEGMENT:
            allowed, has_length = _IN_SEGMENT, not unknown
            end = size if unknown else min(size, place + length)
        elif kind == _CLUSTER:  # one of unknown length ends at the next element of the segment
            allowed = _IN_CLUSTER | _IN_SEGMENT if unknown else _IN_CLUSTER
            cluster_end = end if unknown else place + length
        elif unknown:
            return start
        else:
            place += length
            within = cluster_end if start < cluster_end else end
            if place > within:  # beyond the end of a recording that was never finished: no proof
                return start if has_length or within < size else None
    return None  # missing_end finds out whether the file is complete


def _damage_program_stream(file, size):
    place = 0
    while place + 14 <= size:
        head = _read(file, place, 64)
        padding = len(head) - len(head.lstrip(b"\0")) - 2  # a video CD has 20 zeros in front of some packs
        place, head = place + max(0, padding), head[max(0, padding) :]
        if head[:3] != b"\0\0\1" or len(head) < 14:
            more = _read(file, place, 8 << 20)  # else something was appended
            return place if re.search(b"\0\0\1[\xba\xe0]", more) else None
        if head[3] == 0xBA:  # the start of a pack: of MPEG-2, with padding, or of MPEG-1
            place += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        elif head[3] > 0xBA:
            place += 6 + struct.unpack(">H", head[4:6])[0]
        else:
            return None if head[3] == 0xB9 else place  # 0xB9 is the end: what follows was appended
    return None


def _damage_transport_stream(file):
    # Each packet begins with 0x47, or with a time of four bytes before that. Some have a checksum behind them.
    head = _read(file, 0, 1024)
    layouts = [(step, first) for step, first in ((188, 0), (192, 4), (204, 0)) if head[first::step][:5] == b"GGGGG"]
    if not layouts:
        return None
    step, first = layouts[0]
    size = os.fstat(file.fileno()).st_size
    before, before_places = np.zeros((0, 6), np.uint8), np.zeros(0, int)  # the last packet of each kind
    lost = size  # where the first packet is missing; that is damage if others follow, else something was appended
    for start in range(first, size, step * _PACKETS):
        data = np.frombuffer(_read(file, start, step * _PACKETS), np.uint8)
        packets = data[: len(data) // step * step].reshape(-1, step)[:, :6]
        places = start + step * np.arange(len(packets))
        whole = packets[:, 0] == 0x47
        if lost == size and not whole.all():
            lost = int(places[~whole][0])
        packets, places = np.concatenate([before, packets[whole]]), np.concatenate([before_places, places[whole]])
        gaps, last = _gaps(packets)
        if gaps.any() or (len(places) and places[-1] > lost):
            return min([lost] + places[gaps].tolist())
        before, before_places = packets[last], places[last]
    return None


def _gaps(packets):
    """Finds gaps between the packets of a transport stream.

    Args:
        packets: uint8 [packets, 6], the first bytes of each.

    Returns:
        bool [packets]: a packet of its kind is missing before it, or it is itself damaged (at the start of a frame or a
        table nothing counts as missing, for recordings may be joined there);
        int [kinds]: which packets are the last of their kind.
    """
    flags, kinds = packets[:, 3], (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]
    restart = (flags & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)
    counted = np.flatnonzero((kinds != 0x1FFF) & (restart | (flags & 0x10 > 0)))  # 0x1fff: padding
    order = counted[np.argsort(kinds[counted], kind="mergesort")]
    same = np.diff(kinds[order]) == 0
    jumps = (np.diff(flags[order]) & 15 > 1) & ~(restart | (packets[:, 1] & 0x40 > 0))[order[1:]]  # 0: once more
    gaps = packets[:, 1] & 0x80 > 0
    gaps[order[1:][same & jumps]] = True
    return gaps, order[np.flatnonzero(np.append(~same, True)[: len(order)])]


def _damage_avi(file, size):
    return next((place for kind, place, _ in _chunks(file, size) if kind is None), None)


def _chunks(file, size):
    """Yields (kind, place, length) of an AVI's chunks; at the end a kind of None where the file is damaged."""
    place = end = 0  # end: of the RIFF that place is in; a large file has several
    while place + 8 <= size:
        kind, length = struct.unpack("<4sI", _read(file, place, 8))
        if kind == b"RIFF":
            end = place + 8 + length
        elif place >= end:
            return  # something was appended
        elif not all(32 <= letter < 127 for letter in kind):
            yield None, place, 0
            return
        if kind in (b"RIFF", b"LIST"):
            place += 12  # it has a name, and chunks in it
        else:
            yield kind, place, length
            place += 8 + length + length % 2


def jpegs(file):
    """Yields (number, bytes) of the frames of an AVI of JPEGs, up to where it is damaged; nothing of another file."""
    size = os.fstat(file.fileno()).st_size
    head = _read(file, 0, 4096)
    stream = re.search(b"strh....(vids)(....)", head, re.DOTALL) if head[:4] == b"RIFF" else None
    if stream is None or head.find(b"strh") != stream.start() or stream.group(2).upper() != b"MJPG":
        return
    number = 0
    for kind, place, length in _chunks(file, size):
        if kind in (b"00dc", b"00db") and length:  # one of no bytes repeats the one before; OpenCV leaves it out
            if length > _MAX_BYTES:
                return
            yield number, _read(file, place + 8, length)
            number += 1


def jpeg_damage(data):
    """Returns how a frame that is a JPEG is damaged, "" if it is not: ffmpeg shows a part of another frame, or grey.

    Decoding every frame again would add a third to ffmpeg's time; only suspicious ones are.
    """
    try:
        facts = jpeg.read_facts(io.BytesIO(data))
        end = data.find(b"\xff\xd9", facts.scan_start)  # some cameras leave it out
        scan = data[facts.scan_start + 2 : end if end >= 0 else len(data)]
        if not facts.buffered and re.search(b"\xff[^\0\xd0-\xd7\xff]", scan):
            return "is damaged (JPEG: a marker in its data)"
        if end < 0 or bytes(_ZEROS) in scan:
            jpeg.decode(data + b"\xff\xd9", facts, 8)
    except ImageError as error:
        return str(error)
    return ""


def _ebml_number(data):
    """Returns (width in bytes, value) of the number at the start of Matroska data."""
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
            return _Boxes(_read(file, start, end - start)) if end <= size and end - start <= _MAX_BYTES else None
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
    """Returns when each frame of a video track is shown: float64 [frames], seconds. Raises ValueError: no proof."""
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
        first, last = _edit(track[b"edts"][b"elst"].data, scale / _scale(movie_header))
        if first > times.min() or last <= times.max():
            raise ValueError("an edit list that leaves frames out")
    times = np.sort(times[sizes > 0])  # a frame of no bytes repeats the one before
    return (times - times[0]) / scale


def _scale(header):
    """Returns the units per second in a mvhd or mdhd. Raises ValueError: none."""
    (scale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    if not scale:
        raise ValueError("no units")
    return scale


def _runs(data, kind, count):
    """Returns the values of a table of (how many, value), each as often as it says: int64 [count]."""
    entries = np.frombuffer(data, ">u4", 2 * struct.unpack_from(">I", data, 4)[0], 8).reshape(-1, 2)
    if int(entries[:, 0].sum(dtype=np.int64)) != count:  # or a wrong number would take all memory
        raise ValueError("tables of different lengths")
    return np.repeat(entries[:, 1].copy().view(kind).astype(np.int64), entries[:, 0].astype(np.int64))


def _edit(data, ratio):
    """Returns (from, to) of the part of a track that an edit list shows, in the track's units."""
    version, count = data[0], struct.unpack_from(">I", data, 4)[0]
    layout = struct.Struct(">Qqhh" if version else ">Iihh")
    edits = [layout.unpack_from(data, 8 + number * layout.size) for number in range(count)]
    parts = [edit for edit in edits if edit[1] >= 0]  # the others are a pause before the start
    if len(parts) != 1 or edits[-1] is not parts[0] or parts[0][2:] != (1, 0):
        raise ValueError("a video of several parts, or at another speed")
    duration, first = parts[0][:2]
    return first, first + duration * ratio if duration else float("inf")


def _read(file, place, count):
    return os.pread(file.fileno(), count, place)
