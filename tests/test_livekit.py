"""BackgroundProcessor: LiveKit's own frames in and out, converted by LiveKit's own library."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from vidseg.convert import alike, to_frame
from vidseg.integrations.veil import Veil
from vidseg.segmenter import Segmenter
from vidseg.testing import FaultyEngine, SyntheticSource, person_share, room_share

rtc = pytest.importorskip("livekit.rtc", reason="livekit is not installed")

from vidseg.integrations.livekit import BackgroundProcessor  # noqa: E402

SIZE = 90, 160
CAMERA = SyntheticSource(0, SIZE)
TYPES = ("I420", "NV12", "RGBA", "BGRA", "ARGB", "RGB24")


def frame(index, kind="I420"):
    array = alike(CAMERA.draw(index), np.zeros((SIZE[0] * 3 // 2, SIZE[1]), np.uint8), "i420")
    if kind == "NV12":  # LiveKit takes it, but cannot make it
        y, (u, v) = array[: SIZE[0]], array[SIZE[0] :].reshape(2, -1)
        array = np.concatenate([y.reshape(-1), np.stack([u, v], axis=-1).reshape(-1)])
        return rtc.VideoFrame(SIZE[1], SIZE[0], rtc.VideoBufferType.NV12, array.tobytes())
    made = rtc.VideoFrame(SIZE[1], SIZE[0], rtc.VideoBufferType.I420, array.tobytes())
    return made if kind == "I420" else made.convert(getattr(rtc.VideoBufferType, kind))


def seen(given):
    """Return the shares of room and person in a frame of LiveKit, which converts it itself."""
    planar = given if given.type == rtc.VideoBufferType.I420 else given.convert(rtc.VideoBufferType.I420)
    shown = to_frame(np.frombuffer(planar.data, np.uint8).reshape(-1, planar.width), "i420")
    return room_share(shown), person_share(shown)


def processor(engine, wait=True):
    return BackgroundProcessor(veil=Veil("#00ff00", open_segmenter=lambda _: Segmenter(engine=engine), wait=wait))


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_comes_back_with_the_background(kind):
    async def go():
        making = processor(FaultyEngine())
        assert isinstance(making, rtc.FrameProcessor)
        given = frame(3, kind)
        before = bytes(given.data)
        assert seen(given)[0] > 0.6
        done = await making.process(given)
        await making.aclose()
        await making.aclose()
        assert bytes(given.data) == before
        assert (done.type, done.width, done.height) == (given.type, given.width, given.height)
        assert len(bytes(done.data)) == len(before)
        room, person = seen(done)
        # RGB goes through one more chroma of half the size, which mixes colours at the person's edge.
        assert room < (0.002 if kind in ("I420", "NV12") else 0.02)
        assert person > 0.1

    asyncio.run(asyncio.wait_for(go(), 60))


def test_the_background_alone_until_the_network_is_open_and_when_it_fails():
    async def go():
        opening, engine = threading.Event(), FaultyEngine()
        veil = Veil("#00ff00", open_segmenter=lambda _: opening.wait(60) and Segmenter(engine=engine))
        making = BackgroundProcessor(veil=veil)
        for index in range(3):
            assert seen(await making.process(frame(index))) == (0.0, 0.0)
        opening.set()
        while not veil.shown:
            index += 1
            await making.process(frame(index))
        for fault in ("raise", "nan", "inverted"):
            engine.fault = fault
            assert seen(await making.process(frame(index + 1)))[0] == 0
        await making.aclose()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_what_is_switched_off_lets_frames_through():
    async def go():
        making = processor(FaultyEngine())
        assert making.enabled
        making.enabled = False
        given = frame(1)
        assert await making.process(given) is given
        making.enabled = True
        await making.change("#ffffff")
        assert seen(await making.process(given))[0] < 0.002
        await making.aclose()
        with pytest.raises((ValueError, RuntimeError)):
            await making.process(given)

    asyncio.run(asyncio.wait_for(go(), 60))


def test_what_cannot_be_taken_is_refused():
    making = processor(FaultyEngine())
    with pytest.raises(ValueError, match="159x90"):
        making._process(rtc.VideoFrame(159, 90, rtc.VideoBufferType.I420, bytes(159 * 90 + 2 * 80 * 45)))
    with pytest.raises(ValueError, match="I444 is not taken"):
        making._process(rtc.VideoFrame(160, 90, rtc.VideoBufferType.I444, bytes(160 * 90 * 3)))
    asyncio.run(making.aclose())
