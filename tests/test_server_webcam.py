"""``vidseg serve --webcam``: a running session, which is a fake beneath its real socket, controlled by API and page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
httpx = pytest.importorskip("httpx", reason="needs httpx, of the extra 'test'")

from tests.test_control import CONFIG, FakeSession  # noqa: E402
from tests.test_server import GENEROUS, ROOT, served  # noqa: E402
from vidseg.live.config import ConfigWatch, read_config  # noqa: E402
from vidseg.live.control import Control  # noqa: E402
from vidseg.live.session import LiveStatus  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Webcam(FakeSession):
    """Says what a real one would."""

    def status(self):
        return LiveStatus(
            showing="card" if self.settings.paused else "people",
            camera="on",
            reason="",
            fps=29.97,
            frames=1,
            dropped=0,
            refused=0,
            failures=0,
            openings=1,
            latency={"added": {"p50": 14.2, "p95": 20.0, "p99": 30.0}},
            cpu=0.42,
            rung="full",
            wanted=True,
            outputs={"/dev/video10": "open"},
            model="unet-s",
            runtime="fake",
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        with served(tmp_path_factory.mktemp("served"), "--webcam", "--rate", "100", "--max-minutes", "0.05") as running:
            yield running


@pytest.fixture
def webcam(server, tmp_path):
    path = tmp_path / "vidseg.toml"
    path.write_text(CONFIG)
    session = Webcam()
    with Control(session, "video10", ConfigWatch(read_config(path))):
        yield session


def test_the_session_is_listed_and_changed(server, webcam, tmp_path):
    (listed,) = server.client.get("/v1/webcams").json()["sessions"]
    assert (listed["session"], listed["settings"]["background"]) == ("video10", "blur")
    assert listed["presets"] == ["evening", "room"]
    answer = server.client.post("/v1/webcams/video10", json={"do": "change", "values": {"mirror": True}})
    assert (answer.status_code, answer.json()["settings"]["mirror"], webcam.settings.mirror) == (200, True, True)
    assert server.client.post("/v1/webcams/video10", json={"do": "preset", "name": "evening"}).status_code == 200
    assert webcam.settings.background == "navy"
    server.client.post("/v1/webcams/video10", json={"do": "change", "values": {"background": "~/office.jpg"}})
    assert webcam.settings.background.endswith("/office.jpg")
    assert "~" not in webcam.settings.background
    server.client.post("/v1/webcams/video10", json={"do": "stop"})
    assert webcam.stopped.wait(GENEROUS)


@pytest.mark.parametrize(
    ("status", "session", "asked"),
    [
        (404, "video11", {"do": "change", "values": {}}),
        (404, "..%2fvideo10", {"do": "stop"}),
        (422, "video10", {"do": "change", "values": {"background": "/missing.jpg"}}),
        (422, "video10", {"do": "change", "values": {"scale": 100}}),
        (422, "video10", {"do": "change", "values": {"background": 3}}),
        (422, "video10", {"do": "change", "values": {"out": "x", "camera": []}}),
        (422, "video10", {"do": "preset", "name": "none"}),
        (422, "video10", {"do": "status"}),
        (422, "video10", ["stop"]),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(server, webcam, status, session, asked):
    before = webcam.settings
    answer = server.client.post(f"/v1/webcams/{session}", json=asked)
    assert answer.status_code == status, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert (webcam.settings, webcam.stopped.is_set()) == (before, False)


def test_nobody_else_may(server, webcam):
    """Another user of this machine has no token; another page has another origin."""
    stop = {"do": "stop"}
    assert httpx.get(f"{server.url}/v1/webcams").status_code == 401
    assert httpx.post(f"{server.url}/v1/webcams/video10", json=stop).status_code == 401
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert server.client.post("/v1/webcams/video10", json=stop, headers=headers).status_code in (403, 421)
    assert not webcam.stopped.is_set()


def test_beyond_this_machine_there_is_none():
    command = [sys.executable, "-m", "vidseg", "serve", "--webcam", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GENEROUS, cwd=ROOT)
    assert done.returncode == 2
    assert "from this machine only" in " ".join(done.stderr.replace("│", " ").split())


def test_a_connection_lasts_so_long_and_no_longer(server):
    from websockets.exceptions import ConnectionClosed

    answers = []

    def listen(socket):
        while True:
            answers.append(json.loads(socket.recv(timeout=GENEROUS)))

    with server.live(additional_headers={"cookie": f"vidseg_token={server.said['token']}"}) as socket:
        socket.send(json.dumps({"offer": "v=0\r\nm=audio 9 x 0\r\nm=video 9 x 0\r\n"}))
        with pytest.raises(ConnectionClosed) as closed:
            listen(socket)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "it may last 0.05 minutes; start again")
    (refused,) = [answer for answer in answers if answer["type"] == "answer"]
    assert (refused["sdp"], refused["reason"][:25]) == ("", "an offer is of one video,")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_page(server, webcam, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")

    def until(condition):
        end = time.monotonic() + GENEROUS
        while not condition():
            assert time.monotonic() < end
            page.wait_for_timeout(50)

    with playwright.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(1000 * GENEROUS)
        page.goto(f"{server.url}/?token={server.said['token']}")
        section = page.locator("#webcam")
        section.get_by_text("You are shown · camera on · 30.0 frames a second · 14 ms added").wait_for()
        section.get_by_label("Mirror").check()
        until(lambda: webcam.settings.mirror)
        section.get_by_role("button", name="evening").click()
        until(lambda: webcam.settings.background == "navy")
        section.get_by_label("Blur").fill("70")
        until(lambda: webcam.settings.background == "blur:70")
        section.get_by_label("To the right").fill("0.2")
        until(lambda: webcam.settings.position == (0.2, 0.0))
        section.get_by_label("Who stays").select_option("largest")
        until(lambda: webcam.settings.subject == "largest")
        section.get_by_label("How it fills the picture").select_option("contain")
        until(lambda: webcam.settings.fit == "contain")
        section.get_by_label("Network").fill("other.onnx")
        section.get_by_label("Network").press("Enter")
        until(lambda: webcam.settings.model.endswith("/other.onnx"))
        section.get_by_role("button", name="Pause").click()
        section.get_by_role("button", name="Show me again").wait_for()
        path = section.get_by_label("Picture or video on this computer")
        path.fill("/missing.jpg")
        path.press("Enter")
        section.get_by_text("does not exist").wait_for()
        section.get_by_role("button", name="End it").click()
        assert webcam.stopped.wait(GENEROUS)
        browser.close()
