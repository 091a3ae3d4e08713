"""The room is never shown by ``vidseg serve``: a real server whose network fails at random, and an oracle."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
aiortc = pytest.importorskip("aiortc", reason="aiortc is not installed")

from tests.test_aiortc import LEAK, Camera, bind  # noqa: E402
from tests.test_server import GENEROUS, ROOT, room, served, synthetic  # noqa: E402
from vidseg.convert import to_frame  # noqa: E402
from vidseg.testing import person_share, room_share  # noqa: E402

SEEDS = range(int(os.environ.get("VIDSEG_SEEDS", "1")))
COLOURS = ("#00ff00", "#0000ff", "#ffffff", "gallery:studio")


@pytest.fixture(scope="module", params=SEEDS)
def server(tmp_path_factory, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDSEG_SEED", str(request.param))
        folder = tmp_path_factory.mktemp("served")
        with served(folder, "--rate", "1000", program=(str(ROOT / "tests" / "faulty_server.py"),)) as running:
            running.rng = random.Random(request.param)
            yield running


def restarts(server):
    found = re.search(r"^vidseg_worker_restarts_total (.+)$", server.client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def test_by_the_websocket(server):
    """Until the worker has ended once, people are back, and a hundred composites were seen."""
    shots = [shot + bytes(4) for shot in synthetic(60)]
    assert room(shots[0]) > 0.5, "the oracle sees the room that is sent"
    before, began, worst, shown, people, refused = restarts(server), False, 0.0, 0, 0, 0
    until = time.monotonic() + GENEROUS
    with server.live() as socket:
        for number, shot in zip(itertools.count(), itertools.cycle(shots), strict=False):
            assert time.monotonic() < until
            socket.send(number.to_bytes(4, "big") + shot)
            message = socket.recv(timeout=GENEROUS)
            if isinstance(message, bytes):
                worst, shown = max(worst, room(message[4:])), shown + 1
                people += began
            elif json.loads(message)["type"] == "withheld":
                refused += 1
            if server.rng.random() < 0.05:
                socket.send(json.dumps({"background": server.rng.choice(COLOURS)}))
            began = began or (number % 8 == 0 and restarts(server) > before)
            if people > 20 and shown > 100:
                break
    assert worst < LEAK
    assert refused > 5


def test_by_webrtc(server):
    """The same, and a new connection where the old one has ended with its worker."""
    websockets = pytest.importorskip("websockets.asyncio.client", reason="needs the extra 'serve'")
    seen = []

    async def read(composites):
        while True:
            frame = to_frame(await composites.recv())
            seen.append((room_share(frame), person_share(frame)))

    async def visit():
        connections, cameras, tasks = [], [], []
        url = f"{server.url.replace('http', 'ws')}/v1/live?background=%2300ff00"
        try:
            async with websockets.connect(url, open_timeout=GENEROUS, compression=None) as socket:
                async for text in socket:
                    message = json.loads(text)
                    if message.get("webrtc"):
                        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
                        connections.append(connection)
                        since = len(seen)
                        cameras.append(Camera())
                        connection.on("track", lambda track: tasks.append(asyncio.ensure_future(read(track))))
                        bind(connection.addTrack(cameras[-1]))
                        await connection.setLocalDescription(await connection.createOffer())
                        await socket.send(json.dumps({"offer": connection.localDescription.sdp}))
                    elif message["type"] == "answer":
                        assert message["sdp"], message["reason"]
                        answer = aiortc.RTCSessionDescription(message["sdp"], "answer")
                        await connections[-1].setRemoteDescription(answer)
                    elif message["type"] == "stats":
                        await socket.send(json.dumps({"background": server.rng.choice(COLOURS)}))
                        if len(connections) > 1 and sum(person > 0.05 for _, person in seen[since:]) > 10:
                            return
        finally:
            for camera in cameras:
                camera.stop()
            for connection in connections:
                await connection.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(visit(), GENEROUS))
    assert max(room for room, _ in seen) < LEAK
