"""A real browser opens the virtual camera as a page of a conferencing tool does: ``getUserMedia``."""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vm import CAMERA

from tests.vm.test_webcam import SIZE, webcam

PAGE = b"""<!doctype html><video autoplay muted playsinline></video><script>
const tell = (what) => fetch("/said", {method: "POST", body: JSON.stringify(what)});
(async () => {
  const video = document.querySelector("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 36];
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const devices = await navigator.mediaDevices.enumerateDevices();
  const camera = devices.find((device) => device.label.startsWith("vidseg"));
  if (!camera) throw new Error("no camera called vidseg among " + devices.map((device) => device.label));
  video.srcObject = await navigator.mediaDevices.getUserMedia({video: {deviceId: {exact: camera.deviceId}}});
  for (;;) {
    await new Promise((next) => setTimeout(next, 1000));
    if (video.readyState < 2) continue;
    context.drawImage(video, 0, 0, 64, 36);
    const pixels = Array.from(context.getImageData(0, 0, 64, 36).data);
    await tell({label: camera.label, size: [video.videoHeight, video.videoWidth], pixels});
  }
})().catch((error) => tell({error: String(error)}));
</script>"""


class Browser:
    """Chromium, without a window, on a page that reads the only camera it is offered and says what it sees."""

    def __init__(self) -> None:
        said: queue.Queue[dict[str, Any]] = queue.Queue()

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(PAGE)

            def do_POST(self) -> None:
                said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.said = said
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                *(
                    "chromium",
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--no-first-run",
                    "--disable-extensions",
                ),
                *("--use-fake-ui-for-media-stream", "--disable-dev-shm-usage", "--disable-background-networking"),
                f"--user-data-dir={self._profile.name}",
                f"http://127.0.0.1:{self._server.server_port}/",
            ]
        )

    def next(self) -> dict[str, Any]:
        """Return what the page sees next."""
        while not self.said.empty():
            self.said.get()
        return self.said.get(timeout=600)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._profile.cleanup()


def shares(said: dict[str, Any]) -> float:
    """Return how much of what the page sees is the background."""
    assert "error" not in said, said
    rgb = [said["pixels"][channel::4] for channel in range(3)]
    near = [
        all(abs(value - wanted) <= 12 for value, wanted in zip(pixel, (30, 144, 255), strict=True))
        for pixel in zip(*rgb, strict=True)
    ]
    return sum(near) / len(near)


def test_a_page_sees_the_composite(network: Path) -> None:
    with webcam(network, "--camera", CAMERA, "--pixel-format", "yuyv", "--always-on") as running:
        running.wait_until(lambda: running.status()["frames"], "a composite")
        browser = Browser()
        try:
            seen = [browser.said.get(timeout=600), browser.next(), browser.next()]
        finally:
            browser.close()
        print([{**said, "pixels": ...} for said in seen])
        assert all(said["size"] == list(SIZE) for said in seen)
        assert all("vidseg" in said["label"] for said in seen)
        assert min(map(shares, seen)) > 0.98
        running.end()
