"""Frames by WebRTC, between a real peer and the worker's part on loopback; an oracle looks for the room in them."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import threading
import time

import pytest

aiortc = pytest.importorskip("aiortc", reason="aiortc is not installed")

from tests.test_aiortc import CAMERA, LEAK, Camera, bind, relayed  # noqa: E402
from vidseg.convert import to_frame  # noqa: E402
from vidseg.frame import Frame  # noqa: E402
from vidseg.segmenter import Segmenter  # noqa: E402
from vidseg.server.backdrops import open_backdrop  # noqa: E402
from vidseg.server.peers import Peers, without_candidates  # noqa: E402
from vidseg.server.studio import Shot, Studio  # noqa: E402
from vidseg.testing import FaultyEngine, person_share, room_share  # noqa: E402

GENEROUS = 120.0
"""Seconds after which what a test waits for will not come."""


class Booth:
    """A worker without its process: peers, and a thread that composites what they take."""

    def __init__(self, engine, pixels=1280 * 720):
        self.engine, self.done = engine, 0
        self.studio = Studio(Segmenter(engine=engine, stream=False), pixels)
        self.studio.enter(0, open_backdrop("#00ff00"))
        self.studio([Shot(0, CAMERA.draw(0))])  # what is compiled at first use is, before anybody waits
        self.studio.leave(0)
        self.said = []
        self._answers = queue.SimpleQueue()
        self._frames = queue.SimpleQueue()
        self.peers = Peers(pixels, lambda *taken: self._frames.put(taken), self._say)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _say(self, message, payload):
        self.said.append(message)
        if "answer" in message:
            self._answers.put((message["answer"], payload.decode()))

    def _work(self):
        while (taken := self._frames.get()) is not None:
            visitor, frame = taken
            (shown,) = self.studio([Shot(visitor, frame)])
            self.peers.made(visitor, shown.data if isinstance(shown.data, Frame) else None)
            self.done += 1

    async def answer(self, visitor, offer):
        self.peers.answer(visitor, offer, "127.0.0.1")
        return await asyncio.to_thread(self._answers.get, timeout=GENEROUS)

    def said_of(self, word):
        return [message[word] for message in self.said if word in message]

    def close(self):
        self.peers.close()
        self._frames.put(None)
        self._thread.join()
        self.studio.close()


@pytest.fixture
def booth():
    made = []

    def make(**options):
        made.append(Booth(FaultyEngine(), **options))
        made[-1].studio.enter(1, open_backdrop("#00ff00"))
        return made[-1]

    before = set(threading.enumerate())
    yield make
    for one in made:
        one.close()
    until = time.monotonic() + 20
    while left := [t for t in set(threading.enumerate()) - before if t.name.startswith(("vidseg", "video"))]:
        assert time.monotonic() < until, left
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def visiting(booth, relay=False, camera=None):
    """Yield a visitor's connection, the composites that it gets, and the relay between if one is wanted."""
    connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
    camera = camera or Camera()
    came = asyncio.get_running_loop().create_future()
    connection.on("track", came.set_result)
    try:
        sender = connection.addTrack(camera)
        bind(sender)
        await connection.setLocalDescription(await connection.createOffer())
        reason, sdp = await booth.answer(1, connection.localDescription.sdp)
        assert reason == ""
        async with relayed(sdp) if relay else contextlib.nullcontext((sdp, None)) as (sdp, lossy):
            await connection.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "answer"))
            yield connection, await came, lossy
    finally:
        camera.stop()
        await connection.close()


async def look(composites, until):
    """Return what the oracle sees in each composite until a condition holds: shares of the room and of the person."""
    seen = []
    while not seen or not until(seen):
        frame = to_frame(await composites.recv())
        seen.append((room_share(frame), person_share(frame)))
    return seen


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, GENEROUS))


async def eventually(condition):
    while not condition():
        await asyncio.sleep(0.02)


def test_the_oracle_sees_the_room_that_is_sent():
    assert room_share(CAMERA.draw(0)) > 0.6


@pytest.mark.parametrize("fault", ["raise", "nan", "inverted", "frozen"])
def test_the_people_come_back_and_never_the_room(booth, fault):
    made = booth()

    async def call():
        async with visiting(made) as (_, composites, _):
            seen = await look(composites, lambda seen: seen[-1][1] > 0.05)
            made.engine.fault = fault
            done = made.done
            await eventually(lambda: made.done > done + 8)
            made.engine.fault = ""
            return seen + await look(composites, lambda seen: len(seen) > 5 and seen[-1][1] > 0.05)

    seen = run(call())
    assert max(room for room, _ in seen) < LEAK


def test_another_background_while_it_runs(booth):
    made = booth()

    async def call():
        async with visiting(made) as (_, composites, _):
            await look(composites, lambda seen: seen[-1][1] > 0.05)
            made.studio.enter(1, open_backdrop("#0000ff"))
            while to_frame(await composites.recv()).planes[1][:4, :4].mean() < 200:  # Cb of blue is 240
                pass

    run(call())


def test_lost_packets_cost_frames_and_show_nothing(booth):
    made = booth()

    async def call():
        async with visiting(made, relay=True) as (_, composites, relay):
            seen = await look(composites, lambda seen: seen[-1][1] > 0.05)
            relay.loss = 0.05
            seen += await look(composites, lambda seen: relay.lost > 20 and len(seen) > 20)
            relay.loss = 0.0
            return seen + await look(composites, lambda seen: len(seen) > 5 and seen[-1][1] > 0.05)

    assert max(room for room, _ in run(call())) < LEAK


def test_a_visitor_who_leaves_is_forgotten_by_both_ends(booth):
    made = booth()

    async def call():
        async with visiting(made) as (connection, composites, _):
            await look(composites, lambda seen: seen[-1][1] > 0.05)
            made.peers.leave(1)
            await eventually(lambda: connection.connectionState in ("closed", "failed"))
        assert made.said_of("peers") == [1, 0]

        async with visiting(made) as (_, composites, _):
            await look(composites, lambda seen: seen[-1][1] > 0.05)
        await eventually(lambda: made.said_of("peers")[-1] == 0)  # the browser has said goodbye
        assert len(made.said_of("hung")) == 1

    run(call())


def test_a_second_offer_replaces_the_first(booth):
    made = booth()

    async def call():
        async with visiting(made) as (first, composites, _):
            await look(composites, lambda seen: seen[-1][1] > 0.05)
            async with visiting(made) as (_, composites, _):
                await eventually(lambda: first.connectionState in ("closed", "failed"))
                await look(composites, lambda seen: seen[-1][1] > 0.05)

    run(call())


def test_frames_that_are_too_large_are_not_taken(booth):
    made = booth(pixels=100 * 100)

    async def call():
        async with visiting(made):
            await eventually(lambda: True in made.said_of("fault"))

    run(call())
    assert "320x180" in made.said_of("reason")[0]


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param("", id="nothing"),
        pytest.param("hello", id="no description"),
        pytest.param("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", id="half of one"),
        pytest.param("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF x\r\na=mid:\xff\r\na=ssrc:-1\r\n", id="nonsense"),
        pytest.param("m=" * 10_000, id="long"),
    ],
)
def test_what_is_no_offer_is_answered_with_a_reason(booth, offer):
    made = booth()

    async def ask():
        reason, sdp = await made.answer(1, offer)
        assert (reason != "", sdp) == (True, "")
        await eventually(lambda: made.said_of("peers")[-1] == 0)

    run(ask())


def test_no_address_of_an_offer_is_tried_and_only_one_is_told(booth):
    """Neither a stranger's address, nor a name that would be looked up in the network."""
    made = booth()

    async def ask():
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        sender = connection.addTrack(Camera())
        bind(sender)
        await connection.setLocalDescription(await connection.createOffer())
        offer = connection.localDescription.sdp + (
            "a=candidate:1 1 udp 2130706431 192.0.2.77 9 typ host\r\n"
            "a=candidate:2 1 udp 2130706431 0b9e0a3c-1c3d-4d28-9f37-0b1a35a1a3a2.local 9 typ host\r\n"
        )
        _, sdp = await made.answer(1, offer)
        ice = made.peers._peers[1].connection.getSenders()[0].transport.transport._connection
        await connection.close()
        return offer, sdp, ice

    offer, sdp, ice = run(ask())
    assert "192.0.2.77" in offer
    assert "candidate" not in without_candidates(offer)
    assert ice.remote_candidates == []
    assert (ice.stun_server, ice.turn_server) == (None, None)
    assert re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+)", sdp) == ["127.0.0.1"]
