"""Small real servers on loopback: RTSP (H.264 in RTP over TCP), and Motion JPEG over HTTP."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np

FPS = 25


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def picture(luma: int, size: tuple[int, int], pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Return a grey picture."""
    frame = av.VideoFrame(size[1], size[0], pix_fmt)
    for plane, value in zip(frame.planes, (luma, 128, 128), strict=True):
        plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
    return frame


def jpeg(luma: int, size: tuple[int, int], pix_fmt: str = "yuvj422p") -> bytes:
    """Return a grey JPEG."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = size[1], size[0], pix_fmt, Fraction(1, FPS)
    encoder.options = {"qmin": "2", "qmax": "2"}
    return bytes((encoder.encode(picture(luma, size, pix_fmt)) + encoder.encode(None))[0])


class _Server:
    """Accepts connections until it is stopped, each on a thread; ``silent`` makes all of them say nothing more."""

    def __init__(self) -> None:
        self.silent = threading.Event()
        self.stopped = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._guarded, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _guarded(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(0.2)
            try:
                self.serve(connection)
            except OSError:
                return

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self.stopped.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)


class RTSP(_Server):
    """RFC 2326 as far as a player needs it, one H.264 stream in single NAL unit packets (RFC 6184)."""

    SIZE = (96, 160)

    def __init__(self, frames: int = 0) -> None:
        self._frames = frames
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        waiting, playing = b"", False
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = self.SIZE[1], self.SIZE[0], "yuv420p"
        encoder.time_base, encoder.gop_size = Fraction(1, FPS), 5
        encoder.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1"}
        index = sequence = 0
        while not self.stopped.is_set():
            connection.settimeout(0.001 if playing else 0.2)
            try:
                more = connection.recv(65536)
                if not more:
                    return
                waiting += more
            except TimeoutError:
                pass
            while waiting.startswith(b"$") and len(waiting) >= 4:  # the player's RTCP
                waiting = waiting[4 + int.from_bytes(waiting[2:4], "big") :]
            while not waiting.startswith(b"$") and b"\r\n\r\n" in waiting:
                request, waiting = waiting.split(b"\r\n\r\n", 1)
                answer, begins, ends = self._answer(request.decode())
                connection.sendall(answer)
                playing |= begins
                if ends:
                    return
            if playing and not self.silent.is_set():
                frame = picture(40 + index % 5 * 30, self.SIZE)
                frame.pts = index
                for packet in encoder.encode(frame):
                    units = [unit for unit in re.split(b"\0\0\0?\1", bytes(packet)) if unit]
                    for at, unit in enumerate(units):
                        mark = 0x80 if at == len(units) - 1 else 0
                        head = struct.pack(">BBHII", 0x80, mark | 96, sequence & 0xFFFF, index * 90000 // FPS, 7)
                        connection.sendall(struct.pack(">cBH", b"$", 0, len(head) + len(unit)) + head + unit)
                        sequence += 1
                index += 1
                if self._frames and index >= self._frames:
                    return
                time.sleep(1 / FPS)

    def _answer(self, request: str) -> tuple[bytes, bool, bool]:
        method = request.split(" ", 1)[0]
        number = re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)
        lines = ["RTSP/1.0 200 OK", f"CSeq: {number[1] if number else 0}"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
            )
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        else:
            lines.append("Session: 1")
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode(), method == "PLAY", method == "TEARDOWN"


class MotionJPEG(_Server):
    """A camera on the web: one JPEG after another."""

    SIZE = (96, 160)

    def serve(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=next\r\n\r\n")
        index = 0
        while not self.stopped.wait(1 / FPS):
            if self.silent.is_set():
                continue
            data = jpeg(40 + index % 5 * 30, self.SIZE)
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            connection.sendall(head + data + b"\r\n")
            index += 1


@contextmanager
def files(folder: str) -> Iterator[int]:
    """Serve the files of a folder by HTTP; yields the port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=folder)  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
