"""What vidseg adds inside a call: `vidseg serve` in a real Chromium, and `BackgroundTrack`.

    python benchmarks/embedding.py [--seconds 20] [--visitors 3] [--only serve|track]

`serve`: the page's camera is a drawn picture of 640x360 at 30 frames a second with its number on the person's chest;
the page reads the number from the composite that it shows. So the delay is from the picture being drawn until its
composite is on the page: encoding, WebRTC both ways, the server, decoding. Beside it stands, in the same run, the same
page and server whose frames come back as they are. It also says how long a switch of background takes. Then several
visitors at once, in the same browser: the delay of the first half against the second, and what was dropped.

`track`: pictures of 1280x720 through a `BackgroundTrack`, from when they were given until they are had.

Needs Playwright's Python package and Chromium; everything shares this machine, the browser too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
import types
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from process import machine

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "vidseg" / "demo" / "sample.mp4"
WARM = 5.0
"""Seconds at the start that are not counted."""

CAMERA = """
(() => {
  const art = new Image(); art.src = PICTURE;
  const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
  const pen = canvas.getContext('2d'), times = new Map();
  const [X, Y, SIDE] = [190, 215, 16];
  let number = 0;
  setInterval(() => {
    number = (number + 1) % 256;
    pen.drawImage(art, 0, 0);
    for (let bit = 0; bit < 8; bit++) {
      pen.fillStyle = number >> bit & 1 ? '#fff' : '#000';
      pen.fillRect(X + bit % 4 * SIDE, Y + (bit >> 2) * SIDE, SIDE, SIDE);
    }
    times.set(number, performance.now());
  }, 1000 / 30);
  navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(30);
  window.delays = [];
  addEventListener('load', () => {
    const video = document.getElementById('result');
    const read = new OffscreenCanvas(4 * SIDE, 2 * SIDE).getContext('2d', { willReadFrequently: true });
    let last = -1;
    const look = () => {
      read.drawImage(video, X, Y, 4 * SIDE, 2 * SIDE, 0, 0, 4 * SIDE, 2 * SIDE);
      const { data } = read.getImageData(0, 0, 4 * SIDE, 2 * SIDE);
      let seen = 0;
      for (let bit = 0; bit < 8; bit++) {
        const at = 4 * ((bit >> 2) * SIDE + SIDE / 2) * 4 * SIDE + 4 * (bit % 4 * SIDE + SIDE / 2);
        seen |= (data[at + 1] > 127) << bit;
      }
      if (seen !== last && times.has(seen)) window.delays.push(performance.now() - times.get(seen));
      last = seen;
      video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
  });
})();
"""

SWITCH = """(name) => new Promise((done) => {
  const video = document.getElementById('result'), pen = new OffscreenCanvas(8, 8).getContext('2d');
  const corner = () => { pen.drawImage(video, 8, 8, 8, 8, 0, 0, 8, 8); return pen.getImageData(4, 4, 1, 1).data; };
  const before = corner(), start = performance.now();
  document.querySelector(`input[value="${name}"]`).click();
  const look = () => {
    if (corner().some((value, at) => Math.abs(value - before[at]) > 30)) done(performance.now() - start);
    else if (performance.now() - start > 20000) done(NaN);
    else video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
})"""
"""Chooses a background and returns the milliseconds until the composite's upper left corner shows it."""


def serve_as_it_is() -> None:
    """Run `vidseg serve` with workers that give frames back as they are."""
    from vidseg.cli.main import main
    from vidseg.server import processes

    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "python")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" --echo-worker "$3"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        processes.sys = types.SimpleNamespace(executable=str(program))  # type: ignore[assignment]
        raise SystemExit(main(["serve", "--port", "0", "--json"]))


def work_as_it_is(kind: str) -> None:
    """Run a worker that gives frames back as they are."""
    from vidseg.server import studio, worker

    studio.Studio.__call__ = lambda self, shots: [studio.Shown(shot.data) for shot in shots]  # type: ignore[method-assign]
    worker.main(kind)


@contextmanager
def serving(*command: str):
    """Yield the address of a server that is ready."""
    import urllib.request

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = json.loads(process.stdout.readline())["url"].replace("localhost", "127.0.0.1")
            while json.load(urllib.request.urlopen(f"{url}healthz"))["network"] != "ready":
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def picture() -> str:
    """Return the sample's first frame as 640x360, as a data URL."""
    with av.open(str(SAMPLE)) as container:
        first = next(container.decode(video=0)).to_image().crop((0, 60, 640, 420))
    data = io.BytesIO()
    first.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def watch(browser, url: str, visitors: int, seconds: float, switches: bool = False) -> list[dict[str, object]]:
    """Return, for each visitor: the delays of the first half and of the second in ms, and what the page says.

    Of the first one also how long switches took, if they are to be tried.
    """
    pages = []
    for _ in range(visitors):
        # The page's own policy would not let it have a drawn camera's picture.
        page = browser.new_context(viewport={"width": 800, "height": 600}, bypass_csp=True).new_page()
        page.set_default_timeout(180_000)
        page.add_init_script(CAMERA.replace("PICTURE", json.dumps(picture())))
        page.goto(url)
        page.get_by_label("Studio").check()
        page.get_by_role("button", name="Start the camera").click()
        pages.append(page)
    for page in pages:
        page.locator("#way").get_by_text("WebRTC").wait_for()
    time.sleep(WARM)
    for page in pages:
        page.evaluate("delays.length = 0")
    dropped = [int(page.locator("#dropped").inner_text()) for page in pages]
    time.sleep(seconds)
    found = []
    for page, before in zip(pages, dropped, strict=True):
        delays = page.evaluate("delays")
        half = len(delays) // 2
        more = int(page.locator("#dropped").inner_text()) - before
        found.append({"halves": (delays[:half], delays[half:]), "fps": len(delays) / seconds, "dropped": more})
    if switches:
        found[0]["switch"] = [pages[0].evaluate(SWITCH, name) for name in ("gallery:beach", "gallery:paper") * 3]
    for page in pages:
        page.context.close()
    return found


def serve(seconds: float, visitors: int) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-ui-for-media-stream",
        "--allow-loopback-in-peer-connection",
    ]
    with sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=chromium, args=arguments)
        p50 = {}
        for name, command in (("echo", (__file__, "--echo")), ("vidseg serve", ("-m", "vidseg", *SERVE))):
            with serving(*command) as url:
                (one,) = watch(browser, url, 1, seconds, switches=name == "vidseg serve")
                delays = sorted(one["halves"][0] + one["halves"][1])
                p50[name] = statistics.median(delays)
                p95 = delays[int(0.95 * len(delays))]
                print(
                    f"{name:14} p50 {p50[name]:6.1f} ms  p95 {p95:6.1f} ms  "
                    f"{one['fps']:.1f} fps  dropped {one['dropped']}"
                )
                if name == "vidseg serve":
                    switch = sorted(one["switch"])
                    print(f"another background is on the page after {switch[len(switch) // 2]:.0f} ms (at most 1000)")
                    many = watch(browser, url, visitors, seconds)
        browser.close()
    print(f"added by vidseg serve: p50 {p50['vidseg serve'] - p50['echo']:.1f} ms (at most 80)")
    for number, one in enumerate(many, 1):
        first, second = (statistics.median(half) for half in one["halves"])
        print(
            f"visitor {number} of {visitors}: p50 {first:.1f} ms, then {second:.1f} ms ({second / first:.2f} times); "
            f"{one['fps']:.1f} fps, dropped {one['dropped']}"
        )


SERVE = ("serve", "--port", "0", "--json")


def track(seconds: float) -> None:
    """Print what a `BackgroundTrack` adds to a picture of 1280x720."""
    from aiortc import MediaStreamTrack

    from vidseg.integrations.aiortc import BackgroundTrack

    with av.open(str(SAMPLE)) as container:
        pictures = [frame.reformat(1280, 720, "yuv420p") for frame in container.decode(video=0)][:60]

    class Camera(MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self.index, self.began, self.given = 0, time.monotonic(), {}

        async def recv(self) -> av.VideoFrame:
            self.index += 1
            await asyncio.sleep(max(self.began + self.index / 30 - time.monotonic(), 0))
            frame = av.VideoFrame.from_ndarray(pictures[self.index % len(pictures)].to_ndarray(), "yuv420p")
            frame.pts, frame.time_base = self.index * 3000, Fraction(1, 90_000)
            self.given[frame.pts] = time.perf_counter()
            return frame

    async def run() -> None:
        for background in ("#00ff00", "blur"):
            camera = Camera()
            shown = BackgroundTrack(camera, background)
            while shown.shown < 30:
                await shown.recv()
            dropped, cpu, start, delays = shown.dropped, time.process_time(), time.monotonic(), []
            while time.monotonic() - start < seconds / 2:
                frame = await shown.recv()
                delays.append(1e3 * (time.perf_counter() - camera.given[frame.pts]))
            cores = (time.process_time() - cpu) / (time.monotonic() - start)
            delays.sort()
            print(
                f"BackgroundTrack, 720p, {background}: p50 {statistics.median(delays):.1f} ms (at most 12), "
                f"p95 {delays[int(0.95 * len(delays))]:.1f} ms, {cores:.2f} cores, dropped {shown.dropped - dropped}"
            )
            shown.stop()
            camera.stop()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--visitors", type=int, default=3)
    parser.add_argument("--only", choices=("serve", "track"))
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--echo-worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.echo_worker:
        work_as_it_is(given.echo_worker)
    elif given.echo:
        serve_as_it_is()
    else:
        print(machine())
        if given.only != "serve":
            track(given.seconds)
        if given.only != "track":
            serve(given.seconds, given.visitors)


if __name__ == "__main__":
    main()
