"""A camera on the network that sends JPEGs over http without end (MJPEG), on this machine's loopback."""

import contextlib
import http.server
import itertools
import threading
import time


@contextlib.contextmanager
def serving(jpeg_of):
    """Runs the camera; yields "127.0.0.1:PORT". jpeg_of: function of the frame's number that returns a JPEG's bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):  # until nobody listens any more
                for number in itertools.count():
                    jpeg = jpeg_of(number)
                    head = "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.02)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1:%d" % server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
