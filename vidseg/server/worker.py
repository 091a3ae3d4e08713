"""What runs in a worker: ``python -m vidseg.server.worker live | pictures | job``. It reads and answers messages.

A worker is limited before it sees a visitor's bytes, and ends with the server, whatever it does at that moment.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vidseg.errors import SourceError, VidsegError
from vidseg.frame import Frame
from vidseg.server.wire import Header, packed, read

if TYPE_CHECKING:
    import numpy as np

    from vidseg.frame import Size
    from vidseg.pipeline import Progress
    from vidseg.segmenter import Segmenter
    from vidseg.server.backdrops import Rgb
    from vidseg.server.peers import Peers
    from vidseg.server.studio import Shot

log = logging.getLogger(__name__)

Message = tuple[Header, Any]
"""What is to be done, and its bytes; a frame of a peer comes decoded, from this process itself."""
_LARGEST_BACKDROP = 1080, 1920
_SILENCE = 2.0
"""Seconds between two reports of the load while frames come."""


class _Line:
    """The two pipes to the server; standard output belongs to the messages alone."""

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # what a library prints must not be taken for a message
        self._lock = threading.Lock()
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="vidseg-messages", daemon=True).start()

    def send(self, header: Header, payload: bytes = b"") -> None:
        data = memoryview(packed(header, payload))
        with self._lock:
            while data:
                data = data[self._out.write(data) :]

    def _read(self) -> None:
        try:
            while (message := read(sys.stdin.buffer)) is not None:
                self.messages.put(message)
        finally:
            os._exit(0)  # the server has gone, or wants this: nothing is worth finishing


def main(kind: str) -> None:
    """Do the work of one kind until the server ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = _Line()
    options, _ = line.messages.get()
    {"live": _live, "pictures": _pictures, "job": _job}[kind](line, options)


_COMPILED = 1 << 20
"""Bytes of a file in which Numba keeps a kernel; the first one to need it would fail if it could not be written."""


def restrict(*, memory: int, written: int, cpu: float | None = None) -> None:
    """Take away from this process what it does not need. For good.

    Args:
        memory: Bytes of address space beyond what it has now.
        written: Bytes that any file may have that it writes.
        cpu: Seconds of processor time that are left, or None.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a visitor's picture
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        if cpu is not None:
            used = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + cpu), int(used + cpu) + 1))
    if sys.platform == "linux":
        no_new_privileges = 38  # PR_SET_NO_NEW_PRIVS of linux/prctl.h: no program that it starts may have more rights
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(no_new_privileges, 1, 0, 0, 0)


# --- live -------------------------------------------------------------------------------------------------------


def _live(line: _Line, options: Header) -> None:
    from vidseg.segmenter import Segmenter
    from vidseg.server.studio import Shot, Studio

    segmenter = Segmenter(options["model"], options["runtime"], threads=options["threads"], stream=False)
    studio = Studio(segmenter, options["pixels"])
    for size in ((480, 640), (360, 640), (640, 360)):
        _warm(segmenter, size)
    peers = _peers(line, options["pixels"])
    restrict(memory=options["memory"], written=_COMPILED)
    line.send({"ready": segmenter.runtime, "model": segmenter.model, "webrtc": peers is not None})
    load = _Load(line)
    while True:
        shots: list[tuple[Header, Shot]] = []
        waiting = _all(line.messages)
        for header, payload in waiting:
            visitor = int(header["visitor"])
            match header["do"]:
                case "background":
                    _dress(line, studio, visitor, header, payload)
                case "offer" if peers is not None:
                    peers.answer(visitor, payload.decode(), header["address"])
                case "hang up" | "leave":
                    if peers is not None:
                        peers.leave(visitor)
                    if header["do"] == "leave":
                        studio.leave(visitor)
                case "frame":
                    shots.append((header, Shot(visitor, payload)))
        while shots:  # of each visitor one at a time, in order
            seen: set[int] = set()
            batch = [shot for shot in shots if shot[1].visitor not in seen and not seen.add(shot[1].visitor)]  # type: ignore[func-returns-value]
            shots = [shot for shot in shots if shot not in batch]
            start = time.perf_counter()
            for (header, shot), shown in zip(batch, studio([shot for _, shot in batch]), strict=True):
                answer = {"visitor": shot.visitor, "frame": header["frame"], "reason": shown.reason}
                data = b"" if isinstance(shown.data, Frame) else shown.data
                if peers is not None and isinstance(shot.data, Frame):
                    peers.made(shot.visitor, shown.data if isinstance(shown.data, Frame) else None)
                    if not shown.reason:
                        continue
                seconds = time.perf_counter() - start
                line.send({**answer, "fault": shown.fault, "seconds": seconds, "batch": len(batch)}, data)
            load.tell(len(studio))


def _peers(line: _Line, pixels: int) -> Peers | None:
    """Return what takes frames by WebRTC, if the library is there."""
    try:
        from vidseg.server.peers import Peers
    except ImportError:
        return None

    def take(visitor: int, frame: Frame) -> None:
        line.messages.put(({"do": "frame", "visitor": visitor, "frame": None}, frame))

    return Peers(pixels, take, line.send)


def _all(messages: queue.SimpleQueue[Message]) -> list[Message]:
    """Return all messages that wait, at least one."""
    waiting = [messages.get()]
    with suppress(queue.Empty):
        while True:
            waiting.append(messages.get_nowait())
    return waiting


def _dress(line: _Line, studio: Any, visitor: int, header: Header, payload: bytes) -> None:
    """Give a visitor another background; if it cannot be opened, they keep the one they have."""
    from vidseg.server.backdrops import open_backdrop

    name = header["background"]
    try:
        studio.enter(visitor, open_backdrop(name, _decoded(payload) if payload else None))
    except VidsegError as error:
        line.send({"visitor": visitor, "refused": str(error)})
    else:
        line.send({"visitor": visitor, "background": name})


def _warm(segmenter: Segmenter, size: Size) -> None:
    """Open the network for pictures of a size, and compile what is compiled at first use."""
    from fractions import Fraction

    from vidseg.backgrounds import BlurBackground
    from vidseg.compositor import Compositor
    from vidseg.frame import allocate
    from vidseg.server.jpeg import JFIF

    planes = allocate(size)
    for plane in planes:
        plane[...] = 128
    compositor = Compositor(BlurBackground(50), segmenter)
    for pts in range(2):
        compositor([Frame(planes, pts, Fraction(1, 30), JFIF)])


class _Load:
    """Tells the server now and then how much of the machine this process uses."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._since = time.monotonic(), time.process_time()

    def tell(self, visitors: int) -> None:
        now, cpu = time.monotonic(), time.process_time()
        passed = now - self._since[0]
        if passed >= _SILENCE:
            self._line.send({"cpu": (cpu - self._since[1]) / passed, "visitors": visitors})
            self._since = now, cpu


# --- pictures ---------------------------------------------------------------------------------------------------


def _pictures(line: _Line, options: Header) -> None:
    from vidseg.segmenter import SCALES, Segmenter

    segmenter = Segmenter(options["model"], options["runtime"], threads=options["threads"], scales=SCALES, stream=False)
    _warm(segmenter, (480, 640))
    restrict(memory=options["memory"], written=options["bytes"])
    line.send({"ready": segmenter.runtime, "model": segmenter.model})
    while True:
        header, payload = line.messages.get()
        try:
            background = payload[header["bytes"] :]
            with _held(payload[: header["bytes"]]) as path:
                if header["do"] == "upload":
                    answer = _laundered(path, options["pixels"])
                else:
                    answer = _pictured(path, background, header, options["pixels"], segmenter)
        except _RefusedError as error:
            line.send({"status": error.status, "reason": str(error)})
        except SourceError as error:
            line.send({"status": 422, "reason": str(error).replace(path, "the picture")})
        except (MemoryError, VidsegError) as error:
            line.send({"status": 413 if isinstance(error, MemoryError) else 500, "reason": str(error) or "too large"})
        else:
            line.send({"status": 200}, answer)


class _RefusedError(Exception):
    """What was sent is not taken; ``status`` says why in HTTP's words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@contextmanager
def _held(data: bytes) -> Iterator[str]:
    """Yield a name under which bytes can be read as a file: of memory where the system has that."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as named:
            named.write(data)
            named.flush()
            yield named.name
        return
    with os.fdopen(os.memfd_create("picture"), "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _sized(path: str, pixels: int) -> None:
    """Refuse what is not a JPEG, PNG or WebP of so many pixels at most."""
    from vidseg.decoding import picture_size

    with open(path, "rb") as file:
        head = file.read(16)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if not (head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or webp):
        raise _RefusedError(415, "this is no JPEG, PNG or WebP picture")
    try:
        height, width = picture_size(path)
    except SourceError as error:
        status = 413 if "megapixels" in str(error) else 422
        raise _RefusedError(status, str(error).replace(path, "the picture")) from error
    if height * width > pixels:
        raise _RefusedError(413, f"the picture has {width}x{height} pixels; {pixels // 1_000_000} million are the most")


def _laundered(path: str, pixels: int) -> bytes:
    """Return a picture as a JPEG that we have written, no larger than any frame needs it."""
    from vidseg.backgrounds import fit_frame
    from vidseg.decoding import read_picture
    from vidseg.frame import allocate
    from vidseg.server.jpeg import JFIF, JpegWriter
    from vidseg.sources.pictures import to_frame

    _sized(path, pixels)
    frame = to_frame(read_picture(path, at_least=_LARGEST_BACKDROP))
    share = min(1.0, _LARGEST_BACKDROP[0] / min(frame.size), _LARGEST_BACKDROP[1] / max(frame.size))
    height, width = (max(32, round(side * share / 2) * 2) for side in frame.size)
    like = Frame(allocate((height, width)), 0, frame.time_base, JFIF)
    return JpegWriter()(fit_frame(frame, like, "stretch"))


def _decoded(jpeg: bytes) -> Rgb:
    """Return a picture that ``_laundered`` has written, RGB."""
    from fractions import Fraction

    from vidseg.color import rgb_from_planes
    from vidseg.server.jpeg import JFIF, JpegReader

    frame = JpegReader(_LARGEST_BACKDROP[1] ** 2)(jpeg, 0, Fraction(1))
    rgb: np.ndarray[Any, Any] = rgb_from_planes(frame.planes, JFIF)
    return rgb


def _pictured(path: str, upload: bytes, header: Header, pixels: int, segmenter: Segmenter) -> bytes:
    """Return a picture with another background, encoded."""
    from vidseg.backgrounds import TransparentBackground
    from vidseg.compositor import Compositor
    from vidseg.decoding import read_picture
    from vidseg.server.backdrops import open_backdrop
    from vidseg.sinks.pictures import encode_picture, to_rgb
    from vidseg.sources.pictures import to_frame

    _sized(path, pixels)
    with closing(open_backdrop(header["background"], _decoded(upload) if upload else None, header["fit"])) as behind:
        frame = Compositor(behind, segmenter, smooth=False)([to_frame(read_picture(path))])[0]
        if isinstance(behind, TransparentBackground) != (frame.alpha is not None):
            raise VidsegError("the picture could not be made")
        return encode_picture(f".{header['format']}", to_rgb(frame), frame.alpha)


# --- one video --------------------------------------------------------------------------------------------------


def _job(line: _Line, options: Header) -> None:
    """Say what a video is, wait, and work on it."""
    from vidseg.sources import open_source

    os.nice(5)  # whoever is live comes first
    seconds = options["seconds"] * options["slack"] * (os.cpu_count() or 1)
    restrict(memory=2 * options["memory"], written=options["bytes"], cpu=seconds)
    source = options["source"]
    try:
        _check_container(Path(source))
        with open_source(source) as opened:
            info = opened.info
            height, width = info.size
            if height * width > options["pixels"]:
                raise _RefusedError(413, f"the video has {width}x{height} pixels; {options['pixels']} are the most")
            if info.duration > options["seconds"]:
                reason = f"the video lasts {info.duration:.0f} s; {options['seconds']:g} s are the most"
                raise _RefusedError(413, reason)
            if next(iter(opened), None) is None:
                raise _RefusedError(422, "no picture of the video can be decoded")
    except _RefusedError as error:
        line.send({"status": error.status, "reason": str(error)})
        return
    except (VidsegError, MemoryError) as error:
        line.send({"status": 422, "reason": str(error).replace(source, "the video")})
        return
    line.send({"status": 201, "width": width, "height": height, "seconds": info.duration, "frames": info.frames})
    line.messages.get()
    _, upload = line.messages.get()
    try:
        _run(line, options, upload)
    except (VidsegError, MemoryError) as error:
        text = str(error).replace(source, "the video").replace(options["output"], "the result")
        line.send({"failed": text or "it needs too much memory"})


def _run(line: _Line, options: Header, upload: bytes) -> None:
    from vidseg.jobs import process_video
    from vidseg.server.backdrops import draw
    from vidseg.sinks import OutputOptions
    from vidseg.sinks.pictures import encode_picture

    name, output = options["background"], Path(options["output"])
    if name.startswith("gallery:"):
        upload = encode_picture(".jpg", draw(name[8:]))
    if upload:
        picture = output.with_name("background.jpg")
        picture.write_bytes(upload)
        name = str(picture)
    told = 0.0

    def report(progress: Progress) -> None:
        nonlocal told
        if progress.seconds > options["seconds"]:
            raise SourceError(f"the video lasts longer than {options['seconds']:g} s")
        now = time.monotonic()
        if now - told >= 0.4:
            told = now
            line.send({"progress": {key: value for key, value in asdict(progress).items() if key != "runtime"}})

    stats = process_video(
        options["source"],
        str(output),
        name,
        model=options["model"],
        runtime=options["runtime"],
        threads=options["threads"],
        options=OutputOptions(overwrite=True),
        progress=report,
    )
    line.send({"done": {"frames": stats.frames, "seconds": stats.seconds, "notes": list(stats.notes)}})


def _check_container(path: Path) -> None:
    """Refuse all but MP4, MOV, WebM, Matroska and AVI.

    FFmpeg would open anything, also play lists, which name other files and addresses that it then opens. It looks for
    most of them as text anywhere before the first zero byte (dashdec.c, sdp.c), so a right beginning is not enough:
    that byte has to come before there is room for such a text, or the type has to be beyond doubt.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    if head[:1] == b"\0" and head[4:8] in boxes:  # ISO/IEC 14496-12, 4.2: the size of the first box
        return
    if head[:4] == b"RIFF" and head[8:16] == b"AVI LIST" and head[20:32] == b"hdrlavih8\0\0\0":
        return
    if head[:4] == b"\x1a\x45\xdf\xa3":
        # RFC 8794, 4: the size of the header is a number of as many bytes as the first one has zero bits, and one.
        width = 9 - (head[4:5] or b"\0")[0].bit_length()
        size = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        header = head[4 + width : 4 + width + size]
        if b"\x42\x82\x84webm" in header or b"\x42\x82\x88matroska" in header:
            return
    raise _RefusedError(415, "this is no MP4, MOV, WebM, Matroska or AVI video")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="vidseg: %(message)s")
    main(sys.argv[1])
