"""python -m docs.scripts.screenshots DEMO OUT: makes the pictures of the README and the docs from a run of the demo.

DEMO is the folder that `picnic-edge demo` wrote. OUT gets evaluation.png (the top of the page that
`picnic-edge evaluate --report` writes) and annotated.jpg (a frame of a video that `picnic-edge classify --annotate`
wrote). Needs chromium.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import cv2

VIDEO_SIZE = (800, 600)  # width, height in pixels
FRAMES_PER_S = 4
PHOTOS = slice(-4, None)  # of each class; training saw none of the last ones


def main(arguments=None):
    """Runs `evaluate` and `classify` and photographs what they made."""
    parser = argparse.ArgumentParser(prog="python -m docs.scripts.screenshots", description=__doc__.split("\n")[0])
    parser.add_argument("demo", help="folder that `picnic-edge demo` wrote")
    parser.add_argument("out", help="folder of the pictures")
    options = parser.parse_args(arguments)
    bundle, photos = os.path.join(options.demo, "bundle"), os.path.join(options.demo, "photos")
    with tempfile.TemporaryDirectory() as scratch:
        table = os.path.join(options.demo, "test.tsv")
        picnic_edge("evaluate", bundle, table, "--images", photos, "--engine", "onnxruntime", "--report", scratch)
        photograph(os.path.join(scratch, "evaluation.html"), os.path.join(options.out, "evaluation.png"))
        video = os.path.join(scratch, "belt.mp4")
        write_video(photos, video)
        annotated = os.path.join(scratch, "annotated.mp4")
        picnic_edge("classify", bundle, video, "--engine", "onnxruntime", "--annotate", annotated)
        frames = read_frames(annotated)
        picture = os.path.join(options.out, "annotated.jpg")
        cv2.imwrite(picture, frames[len(frames) // 2], [cv2.IMWRITE_JPEG_QUALITY, 85])


def picnic_edge(*arguments):
    """Runs a verb; ends this program where the verb fails."""
    subprocess.run([sys.executable, "-m", "picnic_edge", *arguments], check=True, stdout=subprocess.DEVNULL)


def photograph(page, picture, width=1080, height=1340, scale=1):
    """Writes a screenshot of the top of an HTML file; width and height in CSS pixels, scale device pixels for each."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise SystemExit("chromium is needed: sudo apt-get install chromium")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},{height}", f"--force-device-scale-factor={scale}"]
    command += [f"--screenshot={os.path.abspath(picture)}", f"file://{os.path.abspath(page)}"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def write_video(photos, path):
    """Writes a video of the drawn photos that have its proportions, each for one frame."""
    names = [
        os.path.join(photos, label, name)
        for label in sorted(os.listdir(photos))
        for name in sorted(os.listdir(os.path.join(photos, label)))[PHOTOS]
    ]
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), FRAMES_PER_S, VIDEO_SIZE)
    for name in names:
        photo = cv2.imread(name)
        if photo.shape[1] * VIDEO_SIZE[1] == photo.shape[0] * VIDEO_SIZE[0]:
            writer.write(cv2.resize(photo, VIDEO_SIZE))
    writer.release()


def read_frames(path):
    """Returns the frames of a video file, uint8 BGR."""
    video, frames = cv2.VideoCapture(path), []
    while True:
        there, frame = video.read()
        if not there:
            return frames
        frames.append(frame)


if __name__ == "__main__":
    main()
