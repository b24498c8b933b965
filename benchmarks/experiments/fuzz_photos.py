"""Decodes damaged photos: no crash, no hang, no more memory than the budget.

    python -m benchmarks.experiments.fuzz_photos --count 20000 --seed 0     # mutations of photos of many formats
    python -m benchmarks.experiments.fuzz_photos --memory                   # memory for large photos, and its estimate

Each mutation depends only on the seed and its number: `--only N` decodes one again in this process. Mutations run in a
child process; one that dies or takes longer than the limit is reported by its number, and a new child continues there.
"""

import argparse
import collections
import contextlib
import io
import os
import select
import subprocess
import sys
import tempfile
import time
import typing
import zlib

import cv2
import numpy as np
from PIL import Image

from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.errors import ImageError, PicnicError
from edge_runtime.photos import decode, memory_budget, spec

HANG_S = 5.0
BUDGET_MIB = 256
_SLACK_MIB = 48  # memory of the allocator and the libraries, beside the photo itself


def main(argv=None):
    """Runs the mutations. Exit code 1 after a crash, a hang, or a decode above the budget."""
    this = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.fuzz_photos",
        description=f"Decode damaged photos: no crash, no hang over {HANG_S:g} s, no decode above the memory budget.",
        epilog="example: python -m benchmarks.experiments.fuzz_photos --count 20000 --seed 0",
    )
    this.add_argument("--count", type=int, default=20000, metavar="N", help="mutations (default 20000)")
    this.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the mutations (default 0)")
    this.add_argument("--only", type=int, metavar="N", help="decode mutation N in this process")
    this.add_argument("--memory", action="store_true", help="measure large undamaged photos instead")
    this.add_argument("--child", type=int, metavar="START", help=argparse.SUPPRESS)
    options = this.parse_args(argv)
    if options.memory:
        _measure_memory()
        sys.stdout.flush()
        _measure_threads()
    elif options.only is not None:
        kind, data = mutation(base_photos(), options.seed, options.only)
        say(f"{kind}, {len(data)} bytes")
        print(_outcome(data))
    elif options.child is not None:
        _child(options.seed, options.child, options.count)
    else:
        _parent(options.seed, options.count)


def base_photos():
    """Returns {kind: bytes} of small undamaged photos: every format, with variants that decoders treat differently."""
    rgb = _drawn(150, 200)
    picture = Image.fromarray(rgb)
    clear = Image.fromarray(np.dstack([rgb, rgb[..., 0]]))
    frames = [picture, Image.fromarray(rgb[::-1].copy()), Image.fromarray(255 - rgb)]
    deep = rgb.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    animated = {"save_all": True, "append_images": frames[1:], "duration": 50}
    photos = {
        "jpeg": _saved(picture, "JPEG", exif=exif.tobytes()),
        "jpeg progressive": _saved(picture, "JPEG", progressive=True),
        "jpeg restarts": cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes(),
        "jpeg cmyk": _saved(picture.convert("CMYK"), "JPEG"),
        "jpeg grey": _saved(picture.convert("L"), "JPEG", optimize=True),
        "jpeg mpo": _saved(frames[0], "MPO", save_all=True, append_images=frames[1:]),
        "png": _saved(picture, "PNG", exif=exif.tobytes()),
        "png rgba": _saved(clear, "PNG"),
        "png palette": _saved(picture.quantize(64), "PNG", transparency=3),
        "png grey alpha": _saved(clear.convert("LA"), "PNG"),
        "png 16 bit": cv2.imencode(".png", deep)[1].tobytes(),
        "png animated": _saved(frames[0], "PNG", default_image=True, **animated),
        "gif": _saved(frames[0], "GIF", **animated),
        "webp": _saved(picture, "WEBP", exif=exif.tobytes()),
        "webp lossless alpha": _saved(clear, "WEBP", lossless=True),
        "webp animated": _saved(frames[0], "WEBP", **animated),
        "bmp": _saved(picture, "BMP"),
        "bmp palette": _saved(picture.quantize(16), "BMP"),
        "bmp 32 bit": _saved(clear, "BMP"),
        "tiff": _saved(picture, "TIFF", tiffinfo={0x0112: 3}),
        "tiff lzw": _saved(clear, "TIFF", compression="tiff_lzw"),
        "tiff deflate 16 bit": _saved(Image.fromarray(deep[..., 0]), "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _saved(picture, "TIFF", compression="jpeg"),
        "tiff fax": _saved(picture.convert("1"), "TIFF", compression="group4"),
    }
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        getattr(pillow_heif, "register_avif_opener", lambda: None)()
    Image.init()
    photos.update({kind.lower(): _saved(picture, kind) for kind in ("HEIF", "AVIF") if kind in Image.SAVE})
    return photos


def _saved(picture, kind, **settings):
    file = io.BytesIO()
    try:
        picture.save(file, kind, **settings)
    except (KeyError, TypeError):  # an older Pillow without this kind
        return b""
    return file.getvalue()


def _drawn(height, width):
    down, right = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [127 + 120 * np.sin(right / (9 + n) + n) * np.cos(down / (13 - n)) for n in range(3)]
    noise = np.random.RandomState(1).randint(-9, 10, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)


def mutation(photos, seed, number):
    """Returns (kind, bytes) of one damaged photo.

    Args:
        photos: of base_photos.
        seed, number: which one.
    """
    random = np.random.RandomState([seed, number])
    kinds = sorted(kind for kind, data in photos.items() if data)
    kind = kinds[number % len(kinds)]
    data = bytearray(photos[kind])
    for _ in range(random.randint(1, 4)):
        _MUTATIONS[random.randint(len(_MUTATIONS))](data, random)
    if kind.startswith("png") and random.randint(2):
        _repair_checksums(data)
    return kind, bytes(data)


def _place(data, random):
    """Headers break decoders more than pixels do: half of the places are among the first bytes."""
    end = len(data) if random.randint(2) else min(len(data), 400)
    return random.randint(max(1, end))


def _flip(data, random):
    for _ in range(random.randint(1, 9)):
        if data:
            data[_place(data, random)] ^= 1 << random.randint(8)


def _overwrite(data, random):
    place, count = _place(data, random), random.randint(1, 64)
    data[place : place + count] = random.bytes(min(count, max(0, len(data) - place)))


def _extreme(data, random):
    place, size = _place(data, random), random.choice([1, 2, 4])
    value = random.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) & (256**size - 1)
    data[place : place + size] = int(value).to_bytes(int(size), ["big", "little"][random.randint(2)])


def _zero(data, random):
    place = _place(data, random) // 512 * 512
    data[place : place + 512] = bytes(len(data[place : place + 512]))


def _cut(data, random):
    del data[_place(data, random) :]


def _remove(data, random):
    place = _place(data, random)
    del data[place : place + random.randint(1, 200)]


def _insert(data, random):
    place = _place(data, random)
    data[place:place] = random.bytes(random.randint(1, 64))


def _repeat(data, random):
    place, other = _place(data, random), _place(data, random)
    data[place:place] = data[other : other + random.randint(1, 400)]


_MUTATIONS = (_flip, _overwrite, _extreme, _zero, _cut, _remove, _insert, _repeat)


def _repair_checksums(data):
    """A PNG's wrong checksums keep damage from its decoder: let it through."""
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4


def _outcome(data):
    try:
        decode.decode_image(data, spec.INCEPTION_V3)
        return "decoded"
    except ImageError as error:
        return f"refused: {str(error).split(' (')[0].split(',')[0][:40]}"
    except MemoryError:
        return "MemoryError"


# --- the child


def _child(seed, start, count):
    """Decodes mutations; writes a line before and after each."""
    os.environ[memory_budget.SETTING] = str(BUDGET_MIB)
    photos = base_photos()
    write = sys.stdout.write
    for number in range(start, count):
        kind, data = mutation(photos, seed, number)
        write(f"{number}\t{kind}\t")
        sys.stdout.flush()
        before = _peak_bytes(reset=True)
        try:
            outcome = _outcome(data)
        except PicnicError as error:
            outcome = f"{type(error).__name__}: {error}"
        except Exception as error:
            outcome = f"BUG {type(error).__name__}: {str(error)[:100]}"
        outcome = outcome.replace("\n", " ").replace("\t", " ")
        write(f"{outcome}\t{_peak_bytes() - before}\n")
        sys.stdout.flush()


def _peak_bytes(reset=False):
    """Returns the peak resident size; with reset the peak becomes the present size first."""
    if reset:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


# --- the parent


def _parent(seed, count):
    started_s = time.perf_counter()
    outcomes: typing.Counter = collections.Counter()
    kinds: typing.Counter = collections.Counter()
    faults, slowest_s, most_bytes = [], 0.0, 0
    number = 0
    while number < count:
        for line, seconds in _lines_of_child(seed, number, count):
            fields = line.rstrip("\n").split("\t")
            number = int(fields[0]) + 1
            kinds[fields[1]] += 1
            if len(fields) < 4:
                faults.append(f"mutation {fields[0]} ({fields[1]}): {seconds}")
                continue
            slowest_s, most_bytes = max(slowest_s, seconds), max(most_bytes, int(fields[3]))
            outcomes[fields[2]] += 1
            if fields[2].startswith("BUG") or int(fields[3]) > (BUDGET_MIB + _SLACK_MIB) << 20:
                faults.append(f"mutation {fields[0]} ({fields[1]}): {fields[2]}, {int(fields[3]) >> 20} MiB")
    for outcome, times in outcomes.most_common():
        print(f"{times:7d}  {outcome}")
    elapsed_s = time.perf_counter() - started_s
    print(
        f"{sum(kinds.values())} mutations of {len(kinds)} kinds of photos, seed {seed}, in {elapsed_s:.0f} s; slowest "
        f"{slowest_s:.2f} s; most memory {most_bytes >> 20} MiB (budget {BUDGET_MIB} MiB)"
    )
    print(f"OpenCV {cv2.__version__}, Pillow {Image.__version__}, Python {sys.version.split()[0]}")
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"crashes, hangs and decodes above the budget: {len(faults)}")
    if faults:
        raise SystemExit(1)


def _lines_of_child(seed, start, count):
    """Yields (line, seconds) of a child; for a mutation that ended it (line without an outcome, what happened)."""
    command = [sys.executable, "-m", "benchmarks.experiments.fuzz_photos", "--seed", str(seed), "--count", str(count)]
    child = subprocess.Popen(command + ["--child", str(start)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    descriptor, text, since_s = child.stdout.fileno(), "", time.perf_counter() + 60  # until it has started
    try:
        while True:
            ready = select.select([descriptor], [], [], max(0.0, since_s + HANG_S - time.perf_counter()))[0]
            if not ready:
                if not text:
                    raise RuntimeError("the child does not start")
                yield text, f"took longer than {HANG_S:g} s"
                return
            data = os.read(descriptor, 1 << 16)
            if not data:
                if child.wait() != 0 and text:
                    yield text, f"ended the process with {child.returncode}"
                elif child.returncode:
                    raise RuntimeError(f"the child ended with {child.returncode}")
                return
            *lines, text = (text + data.decode("utf-8", "replace")).split("\n")
            now_s = time.perf_counter()
            for line in lines:
                yield line, max(0.0, now_s - since_s)
            if lines or text:
                since_s = now_s
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# --- memory


def _measure_threads():
    """Prints the peak memory of threads that each decode the largest PNG allowed."""
    side = int(spec.MAX_PIXELS**0.5)
    code = (
        "import sys, warnings\nfrom concurrent.futures import ThreadPoolExecutor\nwarnings.simplefilter('ignore')\n"
        "from benchmarks.experiments import fuzz_photos\n"
        "from edge_runtime.photos import decode, memory_budget, read, spec\n"
        "def read_one(_):\n"
        "    try:\n        read.read_image(sys.argv[2], spec.INCEPTION_V3)\n        return 'decoded'\n"
        "    except read.ImageError as error:\n        return str(error)\n"
        "with ThreadPoolExecutor(int(sys.argv[1])) as pool:\n"
        "    outcomes = ', '.join(set(pool.map(read_one, range(int(sys.argv[1])))))\n"
        "budget_mib = memory_budget.decode_budget().size_bytes >> 20\n"
        "print(f'{sys.argv[1]:>6}  {budget_mib:7d}  {fuzz_photos._peak_bytes() >> 20:7d}  {outcomes}')"
    )
    print(f"\nPNGs of {side} x {side} pixels, one for each thread\nthreads  budget  peak MiB")
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("RGB", "RGBA"):
            path = os.path.join(folder, mode + ".png")
            picture = Image.new(mode, (side, side), (200, 30, 30, 255)[: len(mode)])
            picture.paste((20, 200, 90, 128)[: len(mode)], (0, 0, side // 2, side))
            picture.save(path)
            del picture
            print(f"{mode}, a file of {os.path.getsize(path) >> 10} KiB")
            for threads in (2, 6):
                for setting in ("", "2048"):
                    environment = dict(os.environ, **{memory_budget.SETTING: setting})
                    subprocess.run([sys.executable, "-c", code, str(threads), path], env=environment, check=False)


def _measure_memory():
    """Prints for large photos the memory that decoding used and reserved, each in a process of its own."""
    code = (
        "import sys\nfrom benchmarks.experiments import fuzz_photos\n"
        "from edge_runtime.photos import decode, memory_budget, read, spec\n"
        "drawn = fuzz_photos.Image.fromarray(fuzz_photos._drawn(99, 99))\n"
        "decode.decode_image(fuzz_photos._saved(drawn, 'JPEG'), spec.INCEPTION_V3)\n"
        "before = fuzz_photos._peak_bytes(reset=True)\nread.read_image(sys.argv[1], spec.INCEPTION_V3)\n"
        "print(fuzz_photos._peak_bytes() - before, memory_budget.decode_budget().peak_bytes)"
    )
    rgb = cv2.resize(_drawn(1000, 1500), (6000, 4000))
    picture = Image.fromarray(rgb)
    clear = Image.fromarray(np.dstack([rgb, rgb[..., 0]]))
    large = {
        "jpeg": _saved(picture, "JPEG"),
        "jpeg progressive": _saved(picture, "JPEG", progressive=True),
        "jpeg progressive 4:4:4": _saved(picture, "JPEG", progressive=True, subsampling=0),
        "jpeg cmyk": _saved(picture.convert("CMYK"), "JPEG"),
        "png": _saved(picture, "PNG", compress_level=1),
        "png rgba": _saved(clear, "PNG", compress_level=1),
        "png palette": _saved(picture.quantize(64), "PNG", transparency=3),
        "png 16 bit": cv2.imencode(".png", rgb.astype(np.uint16) * 257, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(),
        "gif": _saved(picture.quantize(64), "GIF"),
        "webp": _saved(picture, "WEBP", method=0),
        "webp lossless": _saved(picture, "WEBP", lossless=True, method=0, quality=1),
        "webp alpha": _saved(clear, "WEBP", method=0),
        "webp animated": _saved(picture, "WEBP", save_all=True, append_images=[picture.rotate(180)], method=0),
        "bmp": _saved(picture, "BMP"),
        "bmp 32 bit": _saved(clear, "BMP"),
        "tiff": _saved(picture, "TIFF"),
        "tiff deflate": _saved(clear, "TIFF", compression="tiff_adobe_deflate"),
    }
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    large.update({kind.lower(): _saved(picture, kind) for kind in ("HEIF", "AVIF") if kind in Image.SAVE})
    print(f"{'24 megapixels':<24} {'file MiB':>9} {'used B/pixel':>12} {'reserved':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, data in large.items():
            path = os.path.join(folder, "photo")
            with open(path, "wb") as file:
                file.write(data)
            process = subprocess.run(
                [sys.executable, "-c", code, path],
                stdout=subprocess.PIPE,
                env=dict(os.environ, **{memory_budget.SETTING: "4096"}),
                check=False,
            )
            used, reserved = (int(word) / 24e6 for word in process.stdout.split() or (0, 0))
            print(f"{kind:<24} {len(data) / 2.0**20:9.1f} {used:12.1f} {reserved:12.1f}{'  MORE' * (used > reserved)}")


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
