"""What a file is, by its first bytes and its name: the photo formats that are read, and names for everything else."""

import shlex

# The formats that edge_runtime.photos.decode reads. HEIF and AVIF need the extra `heif` (AVIF: or Pillow 11.3).
SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".avif": "AVIF",
}
# Camera raw files. Most begin as a TIFF does, and a TIFF reader shows only their small preview.
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
CAMERA_RAW = "a camera raw file; convert it to JPEG"

START_BYTES = 512  # that format_of and kind_of want to see: there a tar archive has its mark
_HEAD_BYTES = 64  # of them in which everything else has its mark
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
# Suffixes, where the mark is, the mark, what it is, the command that unpacks it. Compressed data that is no archive has
# no suffixes here: a list of photos may be a .csv.gz.
_ARCHIVES = (
    ((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"), 257, b"ustar", "a tar archive", "tar -xf"),
    ((".zip",), 0, b"PK\x03\x04", "a zip archive (or an Office document)", "unzip"),
    ((".7z",), 0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    ((".rar",), 0, b"Rar!", "a RAR archive", "unrar x"),
    ((), 0, b"\x1f\x8b", "gzip data", "gunzip"),
    ((), 0, b"BZh", "bzip2 data", "bunzip2"),
    ((), 0, b"\xfd7zXZ\x00", "xz data", "unxz"),
)
ARCHIVE_SUFFIXES = tuple(suffix for archive in _ARCHIVES for suffix in archive[0])
_KINDS = (
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the photo itself; fetch it with: git lfs pull"),
    (b"8BPS", "a Photoshop document; export it as JPEG or PNG"),
    (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"\xff\x0a", "a JPEG XL picture; convert it to JPEG or PNG"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture; convert it to JPEG or PNG"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture; convert it to JPEG or PNG"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture; convert it to JPEG or PNG"),
    (b"FUJIFILMCCD-RAW", CAMERA_RAW),
    (b"PAR1", "a Parquet table"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"<?xml", "an XML or SVG document"),
    (b"<svg", "an SVG drawing; export it as PNG"),
    (b"<!DOCTYPE", "a web page (HTML)"),
    (b"<!doctype", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
    (b"\x00\x05\x16\x07", "a macOS resource file"),
)


def format_of(start):
    """Returns which of PHOTO_FORMATS a file is, "" for none.

    Args:
        start: its first START_BYTES bytes, or fewer. A file that is cut off behind its first marks is recognized.
    """
    start = start[:_HEAD_BYTES]
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:4] == b"\x89PNG":
        return "PNG"
    if start[:4] == b"GIF8":
        return "GIF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if start[4:8] == b"ftyp":
        brands = [start[place : place + 4] for place in [8] + list(range(16, len(start) - 3, 4))]
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "AVIF"
        if any(brand in _HEIF_BRANDS for brand in brands):
            return "HEIF"
    return ""


def kind_of(start, path="FILE"):
    """Returns what a file is that is no photo of SUFFIXES, and what to do with it; "" where that is not known.

    Args:
        start: its first START_BYTES bytes, or fewer.
        path: its name.

    Returns:
        such as "a PDF document" or "a zip archive; unpack it first: unzip photos.zip".
    """
    for suffixes, place, mark, kind, command in _ARCHIVES:
        if path.lower().endswith(suffixes) or start[place:].startswith(mark):
            return f"{kind}; unpack it first: {command} {shlex.quote(path)}"
    start = start[:_HEAD_BYTES]
    if start[:3] == b"\xef\xbb\xbf":
        start = start[3:]
    stripped = start.lstrip()
    for mark, kind in _KINDS:
        if start.startswith(mark) or stripped.startswith(mark):
            return kind
    if start[4:8] == b"ftyp":
        return CAMERA_RAW if start[8:12] == b"crx " else "a video (MP4 or QuickTime)"
    if start[:4] == b"RIFF":
        return "a video (AVI)" if start[8:12] == b"AVI " else "a RIFF file (sound?)"
    if start and not start.strip(b"\0"):
        return "empty space: its first bytes are all zero"
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "text"
    return ""
