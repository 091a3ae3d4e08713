"""The page of ``vidseg serve`` in a real Chromium whose camera is a real clip."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("httpx", reason="needs httpx, of the extra 'test'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python package")

from tests.test_server import GENEROUS, SAMPLE, green_share, served  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")

READ = """(id) => { const drawn = document.getElementById('drawn');
  const from = id === 'result' && !drawn.hidden ? drawn : document.getElementById(id);
  const to = document.createElement('canvas');
  to.width = 320; to.height = 180; to.getContext('2d').drawImage(from, 0, 0, 320, 180);
  return to.toDataURL('image/png'); }"""
ROOM, FACE = (slice(0, 20), slice(-40, None)), (slice(35, 65), slice(108, 135))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), "--bg", "#00ff00") as running:
        until = time.monotonic() + GENEROUS
        while running.client.get("/healthz").json()["network"] != "ready":
            assert time.monotonic() < until
            time.sleep(0.2)
        picture = io.BytesIO()
        Image.new("RGB", (64, 64)).save(picture, "PNG")
        # So that the worker for pictures is there, too.
        kept = running.client.post("/v1/backgrounds", content=picture.getvalue()).json()["background"]
        running.client.delete(f"/v1/backgrounds/{kept[7:]}")
        yield running


def arguments(clip):
    """Return those of a Chromium with a clip as its camera."""
    return ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={clip}", "--disable-gpu", "--mute-audio",
            "--allow-loopback-in-peer-connection"]  # fmt: skip


@pytest.fixture(scope="module")
def player():
    with playwright.sync_playwright() as playing:
        yield playing


@pytest.fixture(scope="module")
def browser(player, tmp_path_factory):
    """Chromium with a still moment of the sample as its camera, small and slow, so that what a pixel shows is known."""
    import av

    clip = tmp_path_factory.mktemp("camera") / "camera.y4m"
    with av.open(str(SAMPLE)) as source:
        first = next(source.decode(video=0)).to_image().crop((0, 60, 640, 420)).resize((320, 180))
    picture = av.VideoFrame.from_image(first).reformat(format="yuv420p").to_ndarray().tobytes()
    clip.write_bytes(b"YUV4MPEG2 W320 H180 F10:1 Ip A1:1 C420\n" + (b"FRAME\n" + picture) * 10)
    chromium = player.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments(clip))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, server, request):
    options = getattr(request, "param", {"viewport": {"width": 800, "height": 600}})
    with browser.new_context(**options) as context:
        made = context.new_page()
        made.set_default_timeout(1000 * GENEROUS)
        made.said, made.asked = [], []
        made.on("console", lambda message: made.said.append(message.text) if message.type == "error" else None)
        made.on("pageerror", lambda error: made.said.append(str(error)))
        made.on("request", lambda asked: made.asked.append(asked.url))
        made.goto(server.url)
        yield made
        assert made.said == []
        assert all(url.startswith((server.url, "blob:")) for url in made.asked), made.asked


def shown(page, id="result"):
    data = base64.b64decode(page.evaluate(READ, id).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def start(page, way="WebRTC"):
    page.get_by_label("Plain").check()
    page.locator("#color").fill("#00ff00")
    page.get_by_role("button", name="Start the camera").click()
    page.locator("#cover").wait_for(state="hidden")
    page.locator("#way").get_by_text(way).wait_for()


def metric(server, name):
    return float(re.search(rf"^{name} (.+)$", server.client.get("/metrics").text, re.M)[1])


def until(page, condition, what):
    end = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < end, what
        page.wait_for_timeout(50)


def test_the_camera_comes_back_before_the_background_and_it_is_switched(page, server):
    start(page)
    until(page, lambda: green_share(shown(page)[ROOM]) > 0.99, "green has not come")
    composite, original = shown(page), shown(page, "camera")
    assert np.abs(composite[FACE] - original[FACE]).mean() < 15
    assert green_share(original) < 0.01
    page.get_by_label("Studio").check()
    until(page, lambda: green_share(shown(page)) < 0.01, "the studio has not come")
    room = shown(page)[ROOM]
    assert np.abs(room - original[ROOM]).mean() > 20, "the room is shown"
    page.get_by_label("Strength").fill("100")
    until(page, lambda: np.abs(shown(page)[ROOM] - room).mean() > 20, "the blur has not come")
    assert page.get_by_role("radio", name="Blur").is_checked()
    assert np.abs(shown(page)[ROOM].mean((0, 1)) - original[ROOM].mean((0, 1))).max() < 40, "that is another room"
    page.locator("#fps").get_by_text("–").wait_for(state="detached")
    assert float(page.locator("#cpu").inner_text()) >= 0
    until(page, lambda: page.locator("#latency").inner_text().endswith("ms"), "no latency is shown")
    assert metric(server, "vidseg_peers") == 1
    assert page.evaluate("document.getElementById('drawn').hidden"), "what is seen is the video of WebRTC"
    page.get_by_role("button", name="Stop the camera").click()
    assert page.locator("#cover").is_visible()
    until(page, lambda: not metric(server, "vidseg_visitors") and not metric(server, "vidseg_peers"), "it does not end")


def test_a_clip_that_moves_as_the_camera(player, server, tmp_path):
    """The sample as it is: whatever is read from the page shows the person, and no room."""
    import av

    clip = tmp_path / "camera.y4m"
    with av.open(str(SAMPLE)) as source, clip.open("wb") as out:
        out.write(b"YUV4MPEG2 W320 H180 F10:1 Ip A1:1 C420\n")
        for frame in source.decode(video=0):
            small = frame.to_image().crop((0, 60, 640, 420)).resize((320, 180))
            picture = av.VideoFrame.from_image(small).reformat(format="yuv420p")
            out.write(b"FRAME\n" + picture.to_ndarray().tobytes())
    browser = player.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments(clip))
    page = browser.new_page()
    page.set_default_timeout(1000 * GENEROUS)
    page.goto(server.url)
    start(page)
    until(page, lambda: green_share(shown(page)[ROOM]) > 0.99, "green has not come")
    seen = []
    for _ in range(30):
        seen.append(shown(page))
        page.wait_for_timeout(100)
    browser.close()
    assert all(green_share(picture[ROOM]) > 0.99 for picture in seen), "the room is shown"
    assert all(0.2 < 1 - green_share(picture) < 0.8 for picture in seen), "the person is not shown"
    assert np.abs(np.diff(seen, axis=0)).max((1, 2, 3)).max() > 50, "it stands still"


def test_without_webrtc_frames_go_by_the_websocket(page, server):
    page.add_init_script("delete window.RTCPeerConnection")
    page.reload()
    start(page, "WebSocket")
    until(page, lambda: green_share(shown(page)[ROOM]) > 0.99, "green has not come")
    assert metric(server, "vidseg_peers") == 0
    page.get_by_label("Studio").check()
    until(page, lambda: green_share(shown(page)) < 0.01, "the studio has not come")


def test_where_no_packet_arrives_frames_go_by_the_websocket(page, server):
    """WebRTC is offered and answered, but its packets go astray."""
    page.add_init_script("""const real = RTCPeerConnection.prototype.setRemoteDescription;
        RTCPeerConnection.prototype.setRemoteDescription = function (answer) {
          return real.call(this, { type: answer.type, sdp: answer.sdp.replace(/^a=candidate:.*\\r\\n/gm, '') }); };""")
    page.reload()
    start(page, "WebSocket")
    until(page, lambda: green_share(shown(page)[ROOM]) > 0.99, "green has not come")
    page.get_by_role("button", name="Record a clip").and_(page.locator(":enabled")).wait_for()
    until(page, lambda: metric(server, "vidseg_peers") == 0, "the attempt does not end")


def test_five_visitors_at_once_get_their_own_and_leave(browser, server):
    """One reloads, one goes elsewhere, the others close their page: all are forgotten."""
    colours = {"#ff0000": (255, 0, 0), "#0000ff": (0, 0, 255), "#ffffff": (255, 255, 255), "#00ff00": (0, 255, 0),
               "#000000": (0, 0, 0)}  # fmt: skip
    with browser.new_context(viewport={"width": 400, "height": 300}) as context:
        pages = {name: context.new_page() for name in colours}
        for name, page in pages.items():
            page.set_default_timeout(1000 * GENEROUS)
            page.goto(server.url)
            page.get_by_label("Plain").check()
            page.locator("#color").fill(name)
            page.get_by_role("button", name="Start the camera").click()
        for name, page in pages.items():
            page.bring_to_front()
            page.locator("#way").get_by_text("WebRTC").wait_for()
            until(page, lambda page=page, name=name: np.abs(shown(page)[ROOM] - colours[name]).max() < 30, name)
        assert (metric(server, "vidseg_visitors"), metric(server, "vidseg_peers")) == (5, 5)
        first, second, *others = pages.values()
        first.reload()
        second.goto("about:blank")
        for page in others:
            page.close()
        until(
            first, lambda: not metric(server, "vidseg_visitors") and not metric(server, "vidseg_peers"), "not all left"
        )
    assert server.files() == []


def test_an_own_picture_is_a_background_and_a_bad_one_says_why(page, server, tmp_path):
    start(page)
    own = tmp_path / "own.png"
    Image.new("RGB", (320, 180), (200, 0, 200)).save(own)
    page.get_by_label("Your own picture").set_input_files(own)
    until(page, lambda: np.abs(shown(page)[ROOM] - (200, 0, 200)).max() < 25, "it has not come")
    assert page.get_by_role("radio", name="Yours").is_checked()
    bad = tmp_path / "bad.png"
    bad.write_text("<svg/>")
    page.get_by_label("Your own picture").set_input_files(bad)
    page.get_by_text("this is no JPEG, PNG or WebP picture").wait_for()
    page.said.clear()  # Chromium itself says of each status above 400 that there was one
    page.reload()
    until(page, lambda: "vidseg_uploads 0" in server.client.get("/metrics").text, "it is kept after the page")


def test_a_browser_source_shows_nothing_but_the_composite(page, server):
    """As docs/embedding.md has it for OBS: it starts by itself, fills the source and is not mirrored."""
    page.set_viewport_size({"width": 640, "height": 360})
    page.goto("about:blank")
    page.goto(f"{server.url}/#only=%2300ff00")
    page.locator("#cover").wait_for(state="hidden")

    def screenshot():
        return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize((320, 180))).astype(int)

    until(page, lambda: green_share(screenshot()[ROOM]) > 0.99, "green has not come")
    seen = screenshot()
    assert np.abs(seen[FACE] - shown(page, "camera")[FACE]).mean() < 20
    for corner in (seen[:12, -12:], seen[-12:, -12:]):
        assert green_share(np.median(corner, (0, 1))) == 1
    assert page.get_by_role("button").count() == 0


def test_a_clip_is_recorded_in_the_browser(page, tmp_path):
    import av

    start(page)
    page.get_by_role("button", name="Record a clip").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop recording").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the clip").click()
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    with av.open(str(path)) as clip:
        last = list(clip.decode(video=0))[-1].to_ndarray(format="rgb24").astype(int)
    assert green_share(last[:30, -60:]) > 0.95


def test_files_are_worked_on(page, server, tmp_path):
    import av

    with av.open(str(SAMPLE)) as source:
        still = next(source.decode(video=0)).to_image().resize((320, 240))
    picture, video = tmp_path / "me.jpg", tmp_path / "me.mp4"
    still.save(picture)
    with av.open(str(video), "w") as sink:
        stream = sink.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(3):
            sink.mux(stream.encode(av.VideoFrame.from_image(still)))
        sink.mux(stream.encode())
    page.get_by_label("Plain").check()
    page.locator("#color").fill("#00ff00")
    for file, element in ((picture, "#file-result img"), (video, "#file-result video")):
        page.get_by_label("File", exact=True).set_input_files(file)
        page.get_by_role("button", name="Work on it").click()
        page.get_by_text("Done.").wait_for()
        page.locator(element).evaluate("one => { one.id = 'made'; }")
        page.locator("#made").scroll_into_view_if_needed()  # Chromium decodes no frame of a video that nobody sees
        until(page, lambda: green_share(shown(page, "made")[ROOM]) > 0.99, f"{element} does not show green")
    assert [path.name for path in server.files()] == ["result.mp4"]
    page.reload()
    until(page, lambda: server.files() == [], "the result is kept after the page")


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the controls"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "start"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Record a clip").and_(page.locator(":enabled")).wait_for()
    page.locator(".gallery img").nth(4).wait_for()
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"record", "mirror", "beside", "use-blur", "upload", "blur", "color", "file", "cut"} <= reached
    page.locator("#use-blur").focus()
    page.keyboard.press("ArrowUp")  # the next background of the group
    assert page.get_by_role("radio", name="Paper").is_checked()
    unnamed = page.evaluate("""[...document.querySelectorAll('input,button,video,canvas')].filter((one) =>
        !one.labels?.length && !one.textContent.trim() && !one.ariaLabel && !one.parentElement.ariaLabel)
        .map((one) => one.id)""")
    assert unnamed == []


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True},
        {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    ],
    indirect=True,
    ids=["phone", "phone-dark", "desktop", "desktop-dark"],
)
def test_it_fits_and_can_be_read(page, request, tmp_path):
    page.locator(".gallery img").nth(4).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    low = page.evaluate("""() => {
      const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paper = (one) => { for (; one; one = one.parentElement) { const c = getComputedStyle(one).backgroundColor;
        if (!c.startsWith('rgba(0, 0, 0, 0')) return c; } return 'rgb(255, 255, 255)'; };
      return [...document.querySelectorAll('h1,h2,p,label,legend,button:enabled,dt,dd,figcaption,a')]
        .filter((one) => one.checkVisibility() && one.textContent.trim())
        .map((one) => { const [a, b] = [light(getComputedStyle(one).color), light(paper(one))];
          return [one.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
        .filter(([, contrast]) => contrast < 4.5); }""")
    assert low == [], "WCAG 2.2, 1.4.3 asks for 4.5"
    small = page.evaluate("""[...document.querySelectorAll('button,input[type=checkbox]')].filter((one) =>
        one.checkVisibility() && (one.closest('label') ?? one).getBoundingClientRect().height < 24)
        .map((one) => one.id)""")
    assert small == [], "WCAG 2.2, 2.5.8"


def test_a_killed_browser_frees_its_place(server, player, tmp_path):
    """The server hears of a browser that says no goodbye by its closed connection."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream",
               "--use-fake-device-for-media-stream", "--allow-loopback-in-peer-connection",
               f"--user-data-dir={tmp_path}", "--remote-debugging-port=0",
               "about:blank"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening"))
        page = player.chromium.connect_over_cdp(address).contexts[0].new_page()
        page.set_default_timeout(1000 * GENEROUS)
        page.goto(server.url)
        page.get_by_role("button", name="Start the camera").click()
        until(page, lambda: metric(server, "vidseg_visitors") == metric(server, "vidseg_peers") == 1, "nobody comes")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    end = time.monotonic() + GENEROUS
    while metric(server, "vidseg_visitors") or metric(server, "vidseg_peers"):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.process.poll() is None
