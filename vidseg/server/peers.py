"""Peers: visitors whose frames come and go by WebRTC. They live in the live worker, on a thread of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from vidseg.convert import alike, to_frame
from vidseg.frame import Frame

log = logging.getLogger(__name__)

_SMALLEST = 32
_UNREACHED = 120.0
"""Seconds after which a visitor whom no packet has reached is given up."""


class _Composites(MediaStreamTrack):
    """What a visitor is sent: the newest composite, once. Nothing, as long as there is none.

    Args:
        sent: Called when one was sent, with the moment at which its frame had come.
    """

    kind = "video"

    def __init__(self, sent: Callable[[float], None]) -> None:
        super().__init__()
        self._sent = sent
        self._newest: tuple[VideoFrame, float] | None = None
        self._sending: float | None = None
        self._came = asyncio.Event()

    def show(self, picture: VideoFrame, since: float) -> bool:
        """Send a picture; returns whether one that was not sent yet made way."""
        late, self._newest = self._newest is not None, (picture, since)
        self._came.set()
        return late

    async def recv(self) -> VideoFrame:
        if self._sending is not None:
            self._sent(self._sending)
            self._sending = None
        while self._newest is None:
            if self.readyState != "live":
                raise MediaStreamError
            self._came.clear()
            await self._came.wait()
        (picture, self._sending), self._newest = self._newest, None
        return picture

    def stop(self) -> None:
        super().stop()
        self._newest = None
        self._came.set()


@dataclass(slots=True, eq=False)
class _Peer:
    """One connection: at most one of its frames is worked on, and the newest of the others waits."""

    connection: RTCPeerConnection
    composites: _Composites
    under_way: tuple[VideoFrame, float] | None = None
    waiting: VideoFrame | None = None
    dropped: int = 0
    reading: asyncio.Task[None] | None = None


class Peers:
    """Connections of visitors by WebRTC.

    Only the address at which a visitor has reached this server is offered to them, and none of theirs is tried: their
    browser reaches us (RFC 8445, 7.3.1.3). So no packet goes to an address that somebody has made up, no name is looked
    up in the network, no STUN server is asked, and a server on 127.0.0.1 opens no port beyond it.

    Args:
        pixels: Of the largest frame.
        take: Called with a visitor and a frame that is to be composited; ``made`` is its answer. Returns at once.
        say: Called with a message for the server and its payload.
    """

    def __init__(
        self, pixels: int, take: Callable[[int, Frame], None], say: Callable[[dict[str, Any], bytes], None]
    ) -> None:
        self._pixels, self._take, self._say = pixels, take, say
        self._peers: dict[int, _Peer] = {}
        self._turn = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(2, "vidseg-encode"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="vidseg-peers", daemon=True)
        self._thread.start()

    def answer(self, visitor: int, offer: str, address: str) -> None:
        """Answer an offer by a message: ``answer``, with the session description as its payload, or with a reason.

        Args:
            visitor: An earlier connection of theirs ends.
            offer: Session description (RFC 8866) of one video.
            address: Of this machine, at which the visitor has reached us.
        """
        self._run(self._answered(visitor, offer, address))

    def made(self, visitor: int, composite: Frame | None) -> None:
        """Send what has become of the frame that was taken: nothing, where it is withheld."""
        self._loop.call_soon_threadsafe(self._made, visitor, composite)

    def leave(self, visitor: int) -> None:
        """End a visitor's connection, if they have one."""
        self._run(self._leave(visitor))

    def close(self) -> None:
        """End all connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        for visitor in list(self._peers):
            await self._leave(visitor)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _answered(self, visitor: int, offer: str, address: str) -> None:
        async with self._turn:
            await self._answer(visitor, offer, address)

    async def _answer(self, visitor: int, offer: str, address: str) -> None:
        await self._leave(visitor)
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer = self._peers[visitor] = _Peer(connection, _Composites(lambda since: self._sent(visitor, peer, since)))
        self._say({"peers": len(self._peers)}, b"")
        try:
            connection.on("track", lambda track: self._begin(visitor, peer, track))
            connection.on("connectionstatechange", lambda: self._changed(visitor, peer))
            await connection.setRemoteDescription(RTCSessionDescription(without_candidates(offer), "offer"))
            sender = connection.addTrack(peer.composites)
            _bind(sender.transport.transport.iceGatherer._connection, address)
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # of a description, anything may be wrong
            log.debug("An offer is not taken", exc_info=error)
            await self._leave(visitor)
            self._say({"visitor": visitor, "answer": f"the offer cannot be used: {error or type(error).__name__}"}, b"")
        else:
            self._say({"visitor": visitor, "answer": ""}, connection.localDescription.sdp.encode())
            self._loop.call_later(_UNREACHED, self._give_up, visitor, peer)

    async def _leave(self, visitor: int) -> None:
        peer = self._peers.pop(visitor, None)
        if peer is None:
            return
        self._say({"peers": len(self._peers)}, b"")
        if peer.reading is not None:
            peer.reading.cancel()
        peer.composites.stop()
        with suppress(Exception):  # it may have gone in any way
            await peer.connection.close()

    def _changed(self, visitor: int, peer: _Peer) -> None:
        """Hear of a connection that was lost: the browser has not answered for half a minute (RFC 7675), or said so."""
        if peer.connection.connectionState in ("failed", "closed"):
            self._lost(visitor, peer)

    def _give_up(self, visitor: int, peer: _Peer) -> None:
        if peer.connection.connectionState != "connected":
            self._lost(visitor, peer)

    def _lost(self, visitor: int, peer: _Peer) -> None:
        if self._peers.get(visitor) is peer:
            self._say({"visitor": visitor, "hung": "the connection is lost"}, b"")
            self._run(self._leave(visitor))

    def _begin(self, visitor: int, peer: _Peer, track: MediaStreamTrack) -> None:
        if track.kind == "video" and peer.reading is None:
            peer.reading = asyncio.ensure_future(self._read(visitor, peer, track))

    async def _read(self, visitor: int, peer: _Peer, track: MediaStreamTrack) -> None:
        """Keep the newest picture of a track, so that nothing waits in it."""
        with suppress(MediaStreamError):
            while True:
                picture = await track.recv()
                assert isinstance(picture, VideoFrame)
                height, width = picture.height, picture.width
                if height * width > self._pixels or min(height, width) < _SMALLEST:
                    reason = f"a frame of {width}x{height} pixels is too large or too small"
                    self._say({"visitor": visitor, "frame": None, "reason": reason, "fault": True}, b"")
                    continue
                peer.dropped += peer.waiting is not None
                peer.waiting = picture
                self._feed(visitor, peer)

    def _feed(self, visitor: int, peer: _Peer) -> None:
        if peer.under_way is None and peer.waiting is not None:
            picture, peer.waiting = peer.waiting, None
            peer.under_way = picture, time.monotonic()
            self._take(visitor, to_frame(picture))

    def _made(self, visitor: int, composite: Frame | None) -> None:
        peer = self._peers.get(visitor)
        if peer is None or peer.under_way is None:
            return
        (picture, since), peer.under_way = peer.under_way, None
        if composite is not None:
            peer.dropped += peer.composites.show(alike(composite, picture), since)
        self._feed(visitor, peer)

    def _sent(self, visitor: int, peer: _Peer, since: float) -> None:
        self._say({"visitor": visitor, "played": time.monotonic() - since, "dropped": peer.dropped}, b"")
        peer.dropped = 0


def without_candidates(offer: str) -> str:
    """Return a session description without the addresses that it names."""
    kept = [line for line in offer.splitlines() if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
    return "\r\n".join(kept) + "\r\n"


def _bind(ice: Any, address: str) -> None:
    """Let a connection of aioice, which knows no such option, use one of this machine's addresses only."""
    gather = ice.get_component_candidates
    ice.get_component_candidates = lambda component, addresses, timeout=5: gather(component, [address], timeout)
