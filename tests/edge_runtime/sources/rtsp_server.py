"""A camera on the network: an RTSP server on this machine's loopback, for tests and for trying things out.

    /usr/bin/python3 tests/edge_runtime/sources/rtsp_server.py --port 8554 [--picture clock|still|black] [--fps 25]

It prints "ready" when it can be connected to, and serves rtsp://127.0.0.1:PORT/camera as H.264 until it is ended.
"clock" pictures carry the time of their making (see stamp and read_stamp): whoever receives one knows how old it is.
Run it with the Python that has GStreamer: on Debian or Ubuntu
    apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
"""

import argparse
import subprocess
import sys
import time

import numpy as np

WIDTH, HEIGHT, _CELL, _BITS = 320, 240, 16, 32


def stamp(seconds):
    """Returns a picture, uint8 [240, 320, 3], with seconds (a time.monotonic()) as 32 bits of milliseconds in it."""
    milliseconds = int(seconds * 1000) % (1 << _BITS)
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(_BITS):
        row, column = divmod(bit, WIDTH // _CELL)
        level = 235 if milliseconds >> bit & 1 else 20
        picture[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL] = level
    place = milliseconds // 10 % (WIDTH - 40)
    picture[120:160, place : place + 40] = 200  # something that moves
    return picture


def read_stamp(picture):
    """Returns the seconds in a picture of stamp, also after compression."""
    milliseconds = 0
    for bit in range(_BITS):
        row, column = divmod(bit, WIDTH // _CELL)
        cell = picture[row * _CELL + 4 : row * _CELL + 12, column * _CELL + 4 : column * _CELL + 12]
        milliseconds |= int(cell.mean() > 128) << bit
    return milliseconds / 1000.0


def start(port, picture="clock", fps=25):
    """Starts the server as a process of its own and waits until it is ready.

    Returns:
        the subprocess.Popen, or None where the system's Python cannot serve.
    """
    command = ["/usr/bin/python3", __file__, "--port", str(port), "--picture", picture, "--fps", str(fps)]
    try:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    if server.stdout.readline().strip() == b"ready":
        return server
    stop(server)
    return None


def stop(server):
    """Ends a server of start, as a camera that loses its power."""
    server.kill()
    server.wait()
    server.stdout.close()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=8554)
    options.add_argument("--picture", choices=("clock", "still", "black"), default="clock")
    options.add_argument("--fps", type=int, default=25)
    options = options.parse_args()
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    fixed = np.zeros((HEIGHT, WIDTH, 3), np.uint8) if options.picture == "black" else stamp(12345.678)

    def configure(_, media):
        source = media.get_element().get_by_name("source")
        ended = []
        media.connect("unprepared", ended.append)

        def tick():
            picture = stamp(time.monotonic()) if options.picture == "clock" else fixed
            source.emit("push-buffer", Gst.Buffer.new_wrapped(picture.tobytes()))
            return not ended

        GLib.timeout_add(1000 // options.fps, tick)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time "
        "caps=video/x-raw,format=RGB,width=%d,height=%d,framerate=%d/1 ! videoconvert ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=%d bitrate=2000 ! rtph264pay name=pay0 pt=96 )"
        % (WIDTH, HEIGHT, options.fps, options.fps)
    )
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit("port %d is taken" % options.port)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
