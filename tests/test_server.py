"""``vidseg serve`` as visitors meet it: a real server on loopback, well-meant and hostile requests, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
httpx = pytest.importorskip("httpx", reason="needs httpx, of the extra 'test'")
websocket = pytest.importorskip("websockets.sync.client", reason="needs the extra 'serve'")

from vidseg.server.backdrops import GALLERY, checked, draw, open_backdrop  # noqa: E402
from vidseg.server.gate import SECURITY, Gate  # noqa: E402
from vidseg.server.jpeg import JFIF, JpegReader, JpegWriter  # noqa: E402
from vidseg.server.limits import Rates  # noqa: E402
from vidseg.server.metrics import Metrics  # noqa: E402
from vidseg.server.studio import Shot, Studio  # noqa: E402

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "vidseg" / "demo" / "sample.mp4"
ROOM, FACE = (slice(0, 40), slice(-80, None)), (slice(70, 130), slice(215, 270))
"""Parts of the sample's first frames at 640x360 that are surely the room, and the person."""
GENEROUS = 180.0
"""Seconds after which what a test waits for will not come; the machine may be busy with other things."""


# --- a real server ----------------------------------------------------------------------------------------------


class Served:
    """A running ``vidseg serve``: its address, a client, and the folder that is all of the disk it may use."""

    def __init__(self, process, said, folder):
        self.process, self.said, self.folder = process, said, folder
        self.url = f"http://127.0.0.1:{said['port']}"
        token = {"authorization": f"Bearer {said['token']}"} if said["token"] else {}
        self.client = httpx.Client(base_url=self.url, timeout=GENEROUS, headers=token)

    def live(self, background="#00ff00", **options):
        url = f"{self.url.replace('http', 'ws')}/v1/live?background={background.replace('#', '%23')}"
        return websocket.connect(url, open_timeout=GENEROUS, compression=None, **options)

    def files(self):
        """What lies in the server's temporary folder, but for the folder and lock of the server itself."""
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != "lock"]


@contextlib.contextmanager
def served(tmp, *arguments, program=("-m", "vidseg")):
    environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, *program, "serve", "--port", "0", "--json", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        noise = []
        reader = threading.Thread(target=lambda: noise.extend(process.stderr), daemon=True)
        reader.start()
        try:
            line = process.stdout.readline()
            assert line, "".join(noise)
            server = Served(process, json.loads(line), tmp)
            with server.client:
                yield server
        finally:
            workers = children(process.pid)
            process.send_signal(signal.SIGTERM)
            status = process.wait(GENEROUS)
            reader.join(5)
        assert status == 128 + signal.SIGTERM
        assert not [pid for pid in workers if alive(pid)], "a worker has outlived the server"
        assert list(Path(tmp).iterdir()) == [], "something stays on disk"
        assert "Traceback" not in "".join(noise)


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), "--rate", "100") as running:
        until = time.monotonic() + GENEROUS
        while running.client.get("/healthz").json()["network"] != "ready":
            assert time.monotonic() < until, "the live worker does not start"
            time.sleep(0.2)
        yield running


@pytest.fixture(scope="module")
def frames():
    """The sample's frames as a page sends them, 640x360."""
    from vidseg.backgrounds import fit_frame
    from vidseg.frame import Frame, allocate
    from vidseg.sources import open_source

    write = JpegWriter()
    with open_source(str(SAMPLE)) as source:
        like = Frame(allocate((360, 640)), 0, source.info.time_base, JFIF)
        return [write(fit_frame(frame, like)) for frame, _ in zip(source, range(12), strict=False)]


def encoded(image, kind="JPEG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def green_share(rgb):
    return ((rgb[..., 1] > 150) & (rgb[..., 0] < 110) & (rgb[..., 2] < 110)).mean()


# --- pictures ---------------------------------------------------------------------------------------------------


def test_a_picture_gets_a_colour_behind_and_keeps_its_person(server, frames):
    answer = server.client.post("/v1/image", params={"background": "#00ff00"}, content=frames[0])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    before, after = pixels(frames[0]), pixels(answer.content)
    assert after.shape == before.shape
    assert 0.3 < green_share(after) < 0.8
    assert green_share(after[ROOM]) == 1
    assert np.abs(after[FACE] - before[FACE]).mean() < 8


def test_a_picture_is_cut_out(server, frames):
    answer = server.client.post("/v1/image?background=transparent", content=frames[0])
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.mode) == ("PNG", "RGBA")
    rgba = np.asarray(picture)
    assert (rgba[ROOM] == 0).all(), "the room is in the file, below alpha 0"
    assert (rgba[..., 3][FACE] == 255).all()
    assert server.client.post("/v1/image?background=transparent&format=jpg", content=frames[0]).status_code == 422


def test_an_upload_is_a_background_until_it_is_forgotten(server, frames):
    blue = encoded(Image.new("RGB", (333, 222), (10, 20, 230)), "PNG")
    kept = server.client.post("/v1/backgrounds", content=blue)
    assert kept.status_code == 201
    background = kept.json()["background"]
    after = pixels(server.client.post("/v1/image", params={"background": background}, content=frames[0]).content)
    assert np.abs(after[ROOM] - (10, 20, 230)).max() < 12
    assert server.client.delete(f"/v1/backgrounds/{background[7:]}").status_code == 204
    assert server.client.delete(f"/v1/backgrounds/{background[7:]}").status_code == 404
    gone = server.client.post("/v1/image", params={"background": background}, content=frames[0])
    assert gone.status_code == 422
    assert "upload it again" in gone.json()["detail"]
    assert server.files() == []


def bomb():
    """A PNG of 30000 x 30000 pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
DASH = (
    b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand'
    b':2011"><Period><AdaptationSet><Representation><BaseURL>file:///etc/passwd</BaseURL></Representation>'
    b"</AdaptationSet></Period></MPD>"
)
PLAYLIST = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("status", "make"),
    [
        pytest.param(422, lambda jpeg: b"", id="nothing"),
        pytest.param(415, lambda jpeg: SVG, id="svg"),
        pytest.param(415, lambda jpeg: b"GIF89a" + bytes(50), id="gif"),
        pytest.param(415, lambda jpeg: b"%!PS-Adobe-3.0 EPSF-3.0\n", id="eps"),
        pytest.param(415, lambda jpeg: PLAYLIST, id="playlist"),
        pytest.param(415, lambda jpeg: np.random.default_rng(1).bytes(5000), id="noise"),
        pytest.param(422, lambda jpeg: jpeg[:3000], id="truncated"),
        pytest.param(422, lambda jpeg: jpeg[:20], id="header only"),
        pytest.param(422, lambda jpeg: b"\x89PNG\r\n\x1a\n" + bytes(100), id="broken png"),
        pytest.param(413, lambda jpeg: bomb(), id="bomb"),
        pytest.param(
            413, lambda jpeg: encoded(Image.new("1", (9000, 9000)), "PNG"), id="81 megapixels in a few kilobytes"
        ),
        pytest.param(413, lambda jpeg: jpeg + bytes(21 << 20), id="too many bytes"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/image?background=%230000ff", "/v1/backgrounds"])
def test_hostile_pictures_get_their_status(server, frames, path, status, make):
    answer = server.client.post(path, content=make(frames[0]))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    detail = answer.json()["detail"]
    assert "/proc" not in detail
    assert str(server.folder) not in detail
    assert server.files() == []


def test_a_body_without_a_length_is_cut_off(server):
    def endless():
        while True:
            yield bytes(1 << 20)

    try:
        with server.client.stream("POST", "/v1/image", content=endless()) as answer:
            assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # it has stopped listening, and the answer is lost by that
    assert server.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x", "blur:0", "blur:9", "blur:101",
     "gallery:../beach", "upload:nobodyknowsthisone", "none", "#12345", "C:\\x", "", "\0", "blur:1e1", "x" * 3000],
)  # fmt: skip
def test_a_background_names_no_file_and_no_address(server, frames, name):
    answer = server.client.post("/v1/image", params={"background": name}, content=frames[0])
    assert answer.status_code == 422
    assert "root:" not in answer.text


def test_a_wrong_parameter_is_a_sentence(server, frames):
    answer = server.client.post("/v1/image?format=bmp&fit=x", content=frames[0])
    assert answer.status_code == 422
    assert re.fullmatch(r"format: .*'png'.*; fit: .*'cover'.*", answer.json()["detail"])


@pytest.mark.parametrize("path", ["/..%2f..%2fetc/passwd", "/v1/backgrounds/..%2fbeach.jpg", "/v1/backgrounds/x.jpg",
                                  "/v1/jobs/..%2fx", "/v1/jobs/nobody", "/static/app.py", "/app.py"])  # fmt: skip
def test_paths_lead_nowhere(server, path):
    assert server.client.get(path).status_code == 404


# --- videos -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Eight small frames of the sample."""
    from fractions import Fraction

    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(SAMPLE)) as source, av.open(str(path), "w") as sink:
        out = sink.add_stream("libx264", Fraction(30))
        out.width, out.height, out.pix_fmt = 320, 240, "yuv420p"
        for index, frame in zip(range(8), source.decode(video=0), strict=False):
            small = frame.reformat(320, 240, "yuv420p")
            small.pts, small.time_base = index, Fraction(1, 30)
            sink.mux(out.encode(small))
        sink.mux(out.encode())
    return path.read_bytes()


def test_a_video_is_followed_fetched_and_taken_away(server, clip, tmp_path):
    import av

    made = server.client.post("/v1/jobs", params={"background": "#00ff00"}, content=clip)
    assert made.status_code == 201
    job = made.json()
    assert (job["video"]["width"], job["video"]["height"]) == (320, 240)
    early = server.client.get(f"/v1/jobs/{job['id']}/result").status_code
    assert early in (409, 200)
    events = []
    with server.client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
    assert events[-1]["state"] == "done", events[-1]
    assert events[-1]["progress"]["frames"] == 8
    result = server.client.get(events[-1]["result"])
    assert result.headers["content-type"] == "video/mp4"
    path = tmp_path / "result.mp4"
    path.write_bytes(result.content)
    with av.open(str(path)) as video:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert len(shown) == 8
    assert all(green_share(picture[:20, -40:]) == 1 for picture in shown)
    assert [path.name for path in server.files()] == ["result.mp4"], "the visitor's video is not kept"
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert server.files() == []


def test_a_video_that_is_taken_away_while_it_is_worked_on_leaves_nothing(server):
    job = server.client.post("/v1/jobs", content=SAMPLE.read_bytes()).json()
    assert len(server.files()) >= 1
    assert server.client.get(f"/v1/jobs/{job['id']}").json()["state"] in ("waiting", "running")
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert server.files() == []
    assert not any(b"worker\0job" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(server.process.pid))


def odd_video(size=(64, 64), seconds=1):
    """Two frames so far apart."""
    from fractions import Fraction

    import av

    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as sink:
        stream = sink.add_stream("mpeg4", Fraction(10))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((size[0] * 3 // 2, size[1]), 128, np.uint8), "yuv420p")
            frame.pts, frame.time_base = index * 10 * seconds, Fraction(1, 10)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode())
    return data.getvalue()


@pytest.mark.parametrize(
    ("status", "make"),
    [
        pytest.param(413, lambda clip: odd_video(seconds=700), id="too long"),
        pytest.param(413, lambda clip: odd_video((2304, 4096)), id="too large"),
        pytest.param(422, lambda clip: b"", id="nothing"),
        pytest.param(415, lambda clip: PLAYLIST, id="playlist that names a file"),
        pytest.param(415, lambda clip: b"ffconcat version 1.0\nfile '/etc/passwd'\n", id="list of files"),
        pytest.param(415, lambda clip: b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", id="sdp"),
        pytest.param(415, lambda clip: DASH, id="dash"),
        pytest.param(415, lambda clip: b"    free" + DASH, id="dash that begins as mp4"),
        pytest.param(415, lambda clip: b"\x1a\x45\xdf\xa3\x81 webm" + DASH, id="dash that begins as webm"),
        pytest.param(415, lambda clip: b"RIFF    AVI " + DASH, id="dash that begins as avi"),
        pytest.param(415, lambda clip: SVG, id="svg"),
        pytest.param(422, lambda clip: clip[:400], id="truncated"),
        pytest.param(422, lambda clip: clip[:32] + bytes(2000), id="only its head is a video"),
    ],
)
def test_hostile_videos_get_their_status(server, clip, status, make):
    answer = server.client.post("/v1/jobs", params={"background": "blur:50"}, content=make(clip))
    assert answer.status_code == status, answer.text
    assert str(server.folder) not in answer.text
    assert server.files() == []


# --- live -------------------------------------------------------------------------------------------------------


def receive(socket, kind):
    """Return the next binary message, or the next text message of that type."""
    until = time.monotonic() + GENEROUS
    while time.monotonic() < until:
        message = socket.recv(timeout=GENEROUS)
        if isinstance(message, bytes):
            if kind == "frame":
                return int.from_bytes(message[:4], "big"), message[4:]
        elif json.loads(message)["type"] == kind:
            return json.loads(message)
    raise AssertionError(f"no {kind} has come")


def test_live_frames_come_back_before_the_background_and_it_is_switched(server, frames):
    with server.live("#00ff00") as socket:
        for number, frame in enumerate(frames[:4]):
            socket.send(number.to_bytes(4, "big") + frame)
            came, data = receive(socket, "frame")
            assert came == number
            rgb = pixels(data)
            assert rgb.shape == (360, 640, 3)
            assert green_share(rgb[ROOM]) == 1
            assert np.abs(rgb[FACE] - pixels(frame)[FACE]).mean() < 12
        socket.send(json.dumps({"background": "#0000ff"}))
        assert receive(socket, "background")["background"] == "#0000ff"
        socket.send((9).to_bytes(4, "big") + frames[4])
        assert np.abs(pixels(receive(socket, "frame")[1])[ROOM] - (0, 0, 255)).max() < 20
        stats = receive(socket, "stats")
        assert (stats["shown"], stats["withheld"], stats["visitors"]) == (5, 0, 1)
    assert server.files() == []


def test_several_visitors_at_once(server, frames):
    colours = {"#00ff00": (0, 255, 0), "#0000ff": (0, 0, 255), "#ffffff": (255, 255, 255)}
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(server.live(name)) for name in colours}
        for number, frame in enumerate(frames[:3]):
            for socket in sockets.values():
                socket.send(number.to_bytes(4, "big") + frame)
            for name, socket in sockets.items():
                came, data = receive(socket, "frame")
                assert came == number
                assert np.abs(pixels(data)[ROOM] - colours[name]).max() < 20
        assert "vidseg_visitors 3" in server.client.get("/metrics").text


@pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "mkv", "avi"])
def test_containers_that_are_taken(tmp_path, suffix):
    import av

    from vidseg.server.worker import _check_container

    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("libvpx" if suffix == "webm" else "mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        sink.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        sink.mux(stream.encode())
    _check_container(path)


def test_messages_that_mean_nothing_change_nothing(server, frames):
    with server.live("#00ff00") as socket:
        for text in ("{", "[]", '{"background": 3}', '{"background": "/etc/passwd"}', '{"background": "blur:0"}',
                     '{"background": "none"}', "[" * 5000):  # fmt: skip
            socket.send(text)
            assert receive(socket, "refused")["reason"]
        socket.send(bytes(4) + frames[0])
        assert green_share(pixels(receive(socket, "frame")[1])[ROOM]) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no picture", id="text"),
        pytest.param(encoded(Image.new("RGB", (4000, 3000))), id="too large"),
        pytest.param(encoded(Image.new("RGB", (101, 77))), id="odd"),
        pytest.param(encoded(Image.new("RGB", (64, 64)), "PNG"), id="png"),
        pytest.param(b"\xff\xd8" + bytes(500) + b"\xff\xd9", id="damaged"),
    ],
)
def test_what_is_no_frame_is_withheld_and_others_go_on(server, frames, data):
    with server.live() as bad, server.live() as good:
        bad.send(bytes(4) + data)
        assert receive(bad, "withheld")["frame"] == 0
        good.send(bytes(4) + frames[0])
        assert receive(good, "frame")[0] == 0
        bad.send((1).to_bytes(4, "big") + frames[0])
        assert receive(bad, "frame")[0] == 1


def test_frames_that_are_too_large_end_the_connection(server):
    from websockets.exceptions import ConnectionClosed

    with server.live() as socket:
        socket.send(bytes((1 << 20) + 100))
        with pytest.raises(ConnectionClosed) as closed:
            receive(socket, "frame")
        assert closed.value.rcvd.code == 1009


def test_a_flood_is_dropped_and_counted(server, frames):
    with server.live() as socket:
        for number in range(60):
            socket.send(number.to_bytes(4, "big") + frames[number % len(frames)])
        newest = -1
        while newest < 59:  # the last one is never dropped
            newest, _ = receive(socket, "frame")
        stats = receive(socket, "stats")
    assert stats["shown"] + stats["dropped"] == 60
    assert stats["dropped"] > 0


def test_the_worker_is_started_again_and_shows_nothing_meanwhile(server, frames):
    with server.live("#00ff00") as socket:
        socket.send(bytes(4) + frames[0])
        receive(socket, "frame")
        for pid in children(server.process.pid):
            if b"live" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        assert "starting" in receive(socket, "withheld")["reason"]
        socket.send((1).to_bytes(4, "big") + frames[1])
        number, data = receive(socket, "frame")
        assert number == 1
        assert green_share(pixels(data)[ROOM]) == 1
    assert "vidseg_worker_restarts_total 1" in server.client.get("/metrics").text


# --- who may come in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:80"}, 421),
        ({"host": "127.0.0.1.nip.io"}, 421),
        ({"host": "localhost:1234"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_host_and_origin(server, headers, status):
    answer = server.client.get("/v1/backgrounds", headers=headers)
    assert answer.status_code == status
    for name, value in SECURITY.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_no_other_page_opens_a_websocket(server, headers):
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused, server.live(additional_headers=headers):
        pass
    assert refused.value.response.status_code == 403


def test_no_page_asks_for_anything_elsewhere(server):
    """The page, its script, its style and the API's documentation name no address but this server's."""
    for path in ("/", "/app.js", "/style.css", "/docs", "/icon.svg"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        assert "unsafe" not in answer.headers["content-security-policy"]
        named = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"'<]*", answer.text))
        assert named <= {"http://www.w3.org/2000/svg"}, named
        assert not re.search(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=", answer.text), "not by this policy"


def test_what_the_documentation_says_is_there(server):
    schema = server.client.get("/openapi.json").json()
    assert set(schema["paths"]) >= {"/v1/image", "/v1/jobs", "/v1/jobs/{id}/events", "/healthz", "/metrics"}
    page = server.client.get("/docs").text
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    assert {"413", "415", "422", "429", "503"} <= set(schema["paths"]["/v1/image"]["post"]["responses"])


def test_metrics_count_what_was_asked(server, frames):
    def number(name):
        text = server.client.get("/metrics").text
        return float(re.search(rf"^{re.escape(name)} (.+)$", text, re.M)[1]) if name in text else 0.0

    before = number('vidseg_pictures_total{status="200"}'), number('vidseg_pictures_total{status="415"}')
    server.client.post("/v1/image", content=frames[0])
    server.client.post("/v1/image", content=SVG)
    after = number('vidseg_pictures_total{status="200"}'), number('vidseg_pictures_total{status="415"}')
    assert after == (before[0] + 1, before[1] + 1)
    assert number('vidseg_frame_seconds_bucket{le="+Inf"}') == number("vidseg_frame_seconds_count")


def gated(token="", rates=None, secure=False, hosts=()):
    """A gate before something that always says yes."""

    async def yes(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})

    rates = rates or Rates(1e6, 10**6)
    gate = Gate(yes, token=token, hosts=hosts, rates=rates, metrics=Metrics(), secure=secure)

    def ask(method, path, **headers):
        async def asked():
            transport = httpx.ASGITransport(gate, client=("192.0.2.7", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.1:8008") as client:
                return await client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})

        return asyncio.run(asked())

    return ask


def test_the_token():
    ask = gated("a-long-token-of-ours")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}, {"cookie": "vidseg_token=no"}):
        answer = ask("GET", "/v1/backgrounds", **headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert ask("GET", "/healthz").status_code == 200
    assert ask("GET", "/metrics").status_code == 401
    assert ask("GET", "/v1/x", authorization="Bearer a-long-token-of-ours").status_code == 200
    assert ask("GET", "/v1/x", cookie="other=1; vidseg_token=a-long-token-of-ours").status_code == 200
    assert ask("GET", "/v1/x?token=a-long-token-of-ours").status_code == 401, "only the page's address takes it"
    entered = ask("GET", "/?token=a-long-token-of-ours")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in entered.headers["set-cookie"]
    assert "Secure" not in entered.headers["set-cookie"]
    assert (
        "; Secure"
        in gated("a-long-token-of-ours", secure=True)("GET", "/?token=a-long-token-of-ours").headers["set-cookie"]
    )


def test_names_that_were_allowed():
    ask = gated(hosts=["Studio.example"])
    assert ask("GET", "/", host="studio.example:8008").status_code == 200
    assert ask("GET", "/", host="other.example").status_code == 421


def test_rates():
    now = [0.0]
    rates = Rates(0.5, 3, clock=lambda: now[0])
    ask = gated(rates=rates)
    assert [ask("POST", "/v1/image").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert ask("POST", "/v1/image").headers["retry-after"] == "2"
    assert ask("GET", "/").status_code == 200
    now[0] = 2.0
    assert [ask("POST", "/v1/image").status_code for _ in range(2)] == [200, 429]
    assert rates.wait("192.0.2.8") == 0, "another address"
    guessing = gated("a-long-token-of-ours", Rates(0.5, 2, clock=lambda: 0.0))
    tried = [guessing("GET", "/v1/x", authorization=f"Bearer guess{n}").status_code for n in range(4)]
    assert tried == [401, 401, 429, 429]


def test_beyond_this_machine_a_token_is_made_up(tmp_path):
    with served(tmp_path, "--host", "0.0.0.0") as reached:
        assert len(reached.said["token"]) >= 24
        assert reached.said["token"] in reached.said["url"]
        assert httpx.get(f"{reached.url}/v1/backgrounds").status_code == 401
        assert reached.client.get("/v1/backgrounds").status_code == 200


def test_full_and_too_many_are_said(tmp_path, frames, clip):
    from websockets.exceptions import ConnectionClosed

    with served(tmp_path, "--visitors", "0", "--jobs", "0", "--rate", "0.1") as full:
        with full.live() as socket, pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=GENEROUS)
        assert closed.value.rcvd.code == 1013
        answer = full.client.post("/v1/jobs", content=clip)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        last = full.client.post("/v1/jobs", content=clip)
        while last.status_code == 503:
            last = full.client.post("/v1/jobs", content=clip)
        assert (last.status_code, int(last.headers["retry-after"]) > 0) == (429, True)


def test_a_queue_that_is_full_and_work_that_takes_too_long_are_said():
    from vidseg.server.desk import Desk, RefusedError
    from vidseg.server.limits import Limits
    from vidseg.server.processes import Network

    async def ask(limits):
        desk = Desk(Network(), limits)
        try:
            with pytest.raises(RefusedError) as refused:
                await desk.ask({"do": "upload"}, encoded(Image.new("RGB", (3000, 3000))))
        finally:
            await desk.close()
        return refused.value.status, str(refused.value)

    assert asyncio.run(ask(Limits(pictures=0))) == (503, "too many pictures wait: try again soon")
    assert asyncio.run(ask(Limits(patience=0))) == (503, "it took longer than 0 s")


def test_a_body_that_does_not_arrive_is_given_up():
    from fastapi import HTTPException, Request

    from vidseg.server.app import _chunks

    parts = iter([{"type": "http.request", "body": b"slow", "more_body": True}])

    async def receive():
        for part in parts:
            return part
        return await asyncio.Event().wait()

    async def read():
        return [chunk async for chunk in _chunks(Request({"type": "http", "headers": []}, receive), 100, 0.05)]

    with pytest.raises(HTTPException) as refused:
        asyncio.run(read())
    assert refused.value.status_code == 408


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that has signed itself, and its key."""
    import datetime
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509", reason="comes with aiortc")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vidseg")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    made = made.add_extension(names, False).sign(key, hashes.SHA256())
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_by_tls(tmp_path, certificate):
    import ssl

    cert, key = certificate
    with served(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as safe:
        assert safe.said["url"].startswith("https://")
        trusted = ssl.create_default_context(cafile=str(cert))
        url = f"https://127.0.0.1:{safe.said['port']}"
        assert httpx.get(f"{url}/healthz", verify=trusted, timeout=GENEROUS).json()["status"] == "ok"
        with websocket.connect(f"{url.replace('http', 'ws')}/v1/live", ssl=trusted, open_timeout=GENEROUS) as socket:
            assert json.loads(socket.recv(timeout=GENEROUS))["type"] == "hello"


@pytest.mark.parametrize(("which", "text"), [("missing", "there is no file"), ("swapped", "PEM"), ("no PEM", "PEM")])
def test_tls_that_cannot_be_had_is_one_sentence(tmp_path, certificate, which, text):
    cert, key = certificate
    (tmp_path / "no.pem").write_text("no PEM")
    files = {"missing": (tmp_path / "gone.pem", key), "swapped": (key, cert), "no PEM": (tmp_path / "no.pem",) * 2}
    command = [sys.executable, "-m", "vidseg", "serve", "--port", "0"]
    for option, path in zip(("--tls-cert", "--tls-key"), files[which], strict=True):
        command += [option, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GENEROUS, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert text in done.stderr


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "vidseg", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GENEROUS, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "choose another --port" in done.stderr


# --- the studio, where faults can be injected -------------------------------------------------------------------


@pytest.fixture
def studio():
    """A studio whose network is a fake that sees the synthetic person, and fails in any way that is wished."""
    from vidseg.segmenter import Segmenter
    from vidseg.testing import FaultyEngine

    engine = FaultyEngine()
    made = Studio(Segmenter(engine=engine, stream=False), 1280 * 720)
    yield made, engine
    made.close()


def synthetic(count, size=(90, 160)):
    """Frames with the watermarked room, as a page would send them."""
    from vidseg.backgrounds import fit_frame
    from vidseg.frame import Frame, allocate
    from vidseg.testing import SyntheticSource

    write, source = JpegWriter(), SyntheticSource(count, size)
    like = Frame(allocate(size), 0, source.info.time_base, JFIF)
    return [write(fit_frame(frame, like)) for frame in source]


def room(data):
    """The share of a JPEG that is as red as the synthetic room."""
    rgb = pixels(data)
    return ((rgb[..., 0] > 140) & (rgb[..., 1] < 90) & (rgb[..., 2] < 90)).mean()


@pytest.mark.parametrize("fault", ["raise", "crash", "nan", "huge", "ones", "inverted", "frozen"])
@pytest.mark.parametrize("background", ["#00ff00", "gallery:studio"])
def test_no_fault_of_the_network_shows_the_room(studio, fault, background):
    made, engine = studio
    made.enter(1, open_backdrop(background))
    shots = synthetic(24)
    assert room(shots[0]) > 0.5, "the oracle sees the room that is sent"
    people = 0
    for index, data in enumerate(shots):
        engine.fault = fault if 8 <= index < 16 else ""
        (shown,) = made([Shot(1, data)])
        if shown.data:
            # The rim of the person is a mixture in JPEG's chroma blocks.
            assert room(shown.data) < 0.01
            people += 1
        else:
            assert 8 <= index < 18
            assert shown.reason
            assert not shown.fault
    assert people >= 14


def test_visitors_share_a_batch_and_get_their_own(studio):
    made, engine = studio
    made.enter(1, open_backdrop("#00ff00"))
    made.enter(2, open_backdrop("#0000ff"))
    made.enter(3, open_backdrop("#ffffff"))
    shots = synthetic(3)
    calls = engine.calls
    shown = made([Shot(1, shots[0]), Shot(2, shots[1]), Shot(3, b"no picture"), Shot(4, shots[0])])
    assert engine.calls == calls + 1
    corners = [pixels(one.data)[:10, :10].mean((0, 1)) for one in shown[:2]]
    assert np.abs(corners[0] - (0, 255, 0)).max() < 12
    assert np.abs(corners[1] - (0, 0, 255)).max() < 12
    assert (shown[2].fault, shown[2].data, shown[3].data) == (True, b"", b"")
    made.leave(2)
    assert len(made) == 2
    assert made([Shot(2, shots[2])])[0].reason == "the visitor has left"


def test_a_phone_may_be_turned(studio):
    made, _ = studio
    made.enter(1, open_backdrop("#00ff00"))
    for size in ((90, 160), (160, 90), (90, 160)):
        (shown,) = made([Shot(1, synthetic(1, size)[0])])
        assert pixels(shown.data).shape == (*size, 3)
        assert room(shown.data) < 0.01


def test_jpeg_keeps_the_samples():
    from fractions import Fraction

    data = synthetic(1)[0]
    frame = JpegReader(160 * 90)(data, 7, Fraction(1, 30))
    assert (frame.size, frame.pts, frame.color) == ((90, 160), 7, JFIF)
    again = JpegReader(160 * 90)(JpegWriter()(frame), 0, Fraction(1))
    for one, other in zip(frame.planes, again.planes, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2


@pytest.mark.parametrize("name", GALLERY)
def test_the_gallery_is_drawn(name):
    picture = draw(name)
    assert (picture.shape, picture.dtype) == ((720, 1280, 3), np.uint8)
    assert picture.std() > 8, "it shows something"
    assert checked(f"gallery:{name}") == f"gallery:{name}"


def test_a_worker_may_not_write_nor_grow(tmp_path):
    """The limits hold in a real process: a file of more bytes than allowed, and memory beyond the allowance."""
    code = f"""
from vidseg.server.worker import restrict
restrict(memory=200 << 20, written=1000)
open({str(tmp_path / "small")!r}, "wb").write(bytes(900))
try:
    with open({str(tmp_path / "large")!r}, "wb") as file:
        file.write(bytes(5000))
    print("wrote")
except OSError as error:
    print(error.errno)
try:
    bytes(400 << 20)
    print("grew")
except MemoryError:
    print("no memory")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.split("\n")[:2] == ["27", "no memory"]  # EFBIG
    assert (tmp_path / "small").stat().st_size == 900


def test_folders_of_killed_servers_are_taken_away(tmp_path, monkeypatch):
    import tempfile

    from vidseg.server.jobs import Jobs
    from vidseg.server.limits import Limits
    from vidseg.server.processes import Network

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "vidseg-serve-killed"
    (left / "job").mkdir(parents=True)
    (left / "lock").touch()
    (left / "job" / "input").write_bytes(b"somebody's video")
    living = Jobs(Network(), Limits())
    assert not left.exists()
    another = Jobs(Network(), Limits())
    assert living.folder.exists(), "that one is in use"
    asyncio.run(another.close())
    asyncio.run(living.close())
    assert list(tmp_path.iterdir()) == []
