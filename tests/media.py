"""Real clips, made on the spot: every kind of video file that the tests need."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from vidseg.frame import chroma_size

FPS = Fraction(30)
PQ = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
BT709 = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}
BT601 = {"color_primaries": 6, "color_trc": 6, "colorspace": 6, "color_range": 1}
BT2020 = {"color_primaries": 9, "color_trc": 14, "colorspace": 9, "color_range": 1}
HDR10 = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400:hdr10=1"


def planes(index: int, size: tuple[int, int] = (48, 64), depth: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y', Cb and Cr of picture ``index``: a gradient that moves, with a bright square in it."""
    height, width = size
    top = (1 << depth) - 1
    dtype = np.uint8 if depth == 8 else np.uint16
    rows, columns = np.mgrid[0:height, 0:width]
    luma = 0.1 + 0.6 * ((columns + rows + 3 * index) % 64) / 64
    square = (abs(rows - height // 2) < height // 6) & (abs(columns - (5 * index) % max(width, 1)) < width // 6)
    luma[square] = 0.9
    rows, columns = np.mgrid[0 : (height + 1) // 2, 0 : (width + 1) // 2]
    blue = 0.3 + 0.4 * ((columns + index) % 32) / 32
    red = 0.3 + 0.4 * ((rows + 2 * index) % 32) / 32
    y, u, v = ((plane * top).round().astype(dtype) for plane in (luma, blue, red))
    return y, u, v


def sample_depth(pix_fmt: str) -> int:
    """Return the depth of the samples from which a picture in ``pix_fmt`` is made: 8 or 10."""
    return 10 if pix_fmt.endswith("le") else 8


def picture(index: int, size: tuple[int, int] = (48, 64), pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Return ``planes`` as a picture of PyAV, in ``pix_fmt``."""
    depth = sample_depth(pix_fmt)
    form = "yuv420p10le" if depth == 10 else "yuv420p"
    frame = av.VideoFrame(size[1], size[0], form)
    for plane, data in zip(frame.planes, planes(index, size, depth), strict=True):
        view = np.ndarray(data.shape, data.dtype, buffer=plane, strides=(plane.line_size, data.itemsize))
        view[:] = data
    return frame if form == pix_fmt else frame.reformat(format=pix_fmt)


def clip(
    path: Path | str,
    frames: int = 12,
    size: tuple[int, int] = (48, 64),
    *,
    fps: Fraction = FPS,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    color: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    sample_aspect: Fraction | None = None,
    interlaced: bool = False,
    audio: Sequence[tuple[str, str]] = (),
    subtitles: Sequence[tuple[str, str]] = (),
    chapters: Sequence[tuple[float, float, str]] = (),
    metadata: dict[str, str] | None = None,
    video_metadata: dict[str, str] | None = None,
    seconds: float | None = None,
) -> Path:
    """Write a clip.

    Args:
        path: Its suffix chooses the container.
        frames: How many pictures.
        size: ``(height, width)``.
        fps: Rate of the pictures, and of ``pts`` unless ``time_base`` is given.
        pts: Timestamps in ``time_base``; 0, 1, 2 … by default.
        time_base: Of ``pts``.
        codec: Encoder.
        pix_fmt: Of the stream.
        color: Tags, as PyAV calls them.
        options: Of the encoder.
        container_options: Of the muxer.
        rotation: Degrees counter-clockwise.
        mirrored: Mirror after turning.
        sample_aspect: Of a pixel.
        interlaced: Code it in fields.
        audio: Encoder and language of each sound track.
        subtitles: Codec and language of each subtitle track.
        chapters: Start and end in seconds, and title.
        metadata: Of the file.
        video_metadata: Of the video track.
        seconds: Length of the sound; that of the pictures by default.
    """
    path = Path(path)
    length = seconds if seconds is not None else float(frames / fps)
    # `file:` keeps names with a colon from being taken for a protocol.
    with av.open(f"file:{path}", "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(codec, rate=fps)
        context = stream.codec_context
        context.height, context.width = size
        context.pix_fmt = pix_fmt
        context.time_base = stream.time_base = time_base or 1 / fps
        options = dict(options or {})
        if codec == "libx264":
            options = {"preset": "ultrafast", "crf": "20", "bf": "2", **options}
        elif codec == "libx265":
            options = {"preset": "ultrafast", **options}
            options["x265-params"] = ":".join(filter(None, ["log-level=error", options.get("x265-params", "")]))
        context.options = options
        for key, value in (color or {}).items():
            setattr(context, key, value)
        if sample_aspect is not None:
            context.sample_aspect_ratio = sample_aspect
        if interlaced:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        stream.metadata.update(video_metadata or {})
        tracks = [_audio_track(container, *track) for track in audio]
        texts = [_text_track(container, *track) for track in subtitles]
        if chapters:
            container.set_chapters(
                [
                    {
                        "id": number,
                        "start": round(start * 1000),
                        "end": round(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for number, (start, end, title) in enumerate(chapters, 1)
                ]
            )
        container.start_encoding()
        for index in range(frames):
            frame = picture(index, size, pix_fmt)
            frame.pts = pts[index] if pts is not None else index
            frame.time_base = time_base or 1 / fps
            for key, value in (color or {}).items():
                setattr(frame, key, value)  # some encoders read the tags here
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for number, track in enumerate(tracks):
            _write_sound(container, track, length, 330 * (number + 1))
        for number, track in enumerate(texts):
            _write_text(container, track, length, number)
    return path


def _audio_track(container: Any, codec: str, language: str) -> Any:
    track = container.add_stream(codec, rate=48000)
    track.layout = "stereo"
    track.metadata["language"] = language
    return track


def _text_track(container: Any, codec: str, language: str) -> Any:
    track = container.add_stream(codec)
    header = (
        "[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
        "SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, "
        "Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\nStyle: Default,Arial,"
        "16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n\r\n[Events]\r\nFormat: Layer, Start, "
        "End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
    )
    track.codec_context.subtitle_header = header.encode()
    track.codec_context.time_base = track.time_base = Fraction(1, 1000)
    track.metadata["language"] = language
    return track


def _write_sound(container: Any, track: Any, seconds: float, pitch: float) -> None:
    rate, block = 48000, 1024
    for start in range(0, int(seconds * rate), block):
        time = (start + np.arange(block)) / rate
        wave = (0.2 * np.sin(2 * np.pi * pitch * time) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "s16", "stereo")
        frame.pts, frame.sample_rate, frame.time_base = start, rate, Fraction(1, rate)
        container.mux(track.encode(frame))
    container.mux(track.encode(None))


def _write_text(container: Any, track: Any, seconds: float, number: int) -> None:
    from av.subtitles.subtitle import SubtitleSet

    step = seconds / 4
    for line in range(3):
        text = f"{line},0,Default,,0,0,0,,Track {number}, line {line}".encode()
        packet = track.codec_context.encode_subtitle(SubtitleSet.create(text, 0, round(step * 900)))
        packet.stream = track
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = round(line * step * 1000)
        packet.duration = round(step * 900)
        container.mux(packet)


# -- the kinds ---------------------------------------------------------------------------------------------------------


def vfr(path: Path) -> Path:
    """Write a clip with uneven gaps, as phones and screen recorders make them."""
    return clip(path, pts=[0, 33, 67, 100, 250, 251, 400, 433, 900, 933, 967, 1500], time_base=Fraction(1, 1000))


def hdr(path: Path) -> Path:
    """Write PQ, 10 bits, with mastering metadata."""
    return clip(path, codec="libx265", pix_fmt="yuv420p10le", color=PQ, options={"x265-params": HDR10})


def no_index(path: Path) -> Path:
    """Write an MP4 whose end, and with it the index (moov), is lost."""
    data = clip(path, 30).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def cut(path: Path, keep: float = 0.5, frames: int = 60) -> Path:
    """Write an MP4 that has its index in front and is cut off in its middle."""
    clip(path, frames, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def corrupt(path: Path, frames: int = 60, broken: Sequence[int] = (20, 21, 40)) -> Path:
    """Write a clip in which some packets are noise."""
    clip(path, frames, options={"g": "5", "bf": "0"})
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    noise = random.Random(1)
    for index in broken:
        start, length = places[index]
        assert start is not None
        data[start : start + length] = noise.randbytes(length)
    path.write_bytes(bytes(data))
    return path


def no_frames(path: Path) -> Path:
    """Write a video file with a video track in which nothing is."""
    return clip(path, 0)


def sound_only(path: Path) -> Path:
    """Write a file with sound and no video."""
    with av.open(str(path), "w") as container:
        track = _audio_track(container, "aac", "eng")
        _write_sound(container, track, 0.5, 440)
    return path


def raw(path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), **kwargs: Any) -> Path:
    """Write an H.264 elementary stream: it has no timestamps."""
    return clip(path.with_suffix(".h264"), frames, size, options={"bf": "0"}, **kwargs)


def size_change(path: Path) -> Path:
    """Write a stream that starts with 64x48 and goes on with 96x80."""
    first, second = raw(path.with_name("first.h264"), 6), raw(path.with_name("second.h264"), 6, (80, 96))
    path.write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    second.unlink()
    return path


def odd_timestamps(path: Path, pts: Sequence[int]) -> Path:
    """Write pictures under any timestamps (milliseconds): negative, doubled, going back. ``path`` is a ``.mkv``."""
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, time in enumerate(pts):
            frame = picture(index)
            frame.pts, frame.time_base = index, Fraction(1, 1000)
            for packet in stream.encode(frame):
                # The muxer refuses a pts before its dts; Matroska stores none of these.
                packet.dts, packet.pts = index - 1_000_000, time
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


def still(path: Path, size: tuple[int, int] = (48, 64)) -> Path:
    """Write a clip of one picture."""
    return clip(path, 1, size)


def lossless(path: Path, frames: int = 6, size: tuple[int, int] = (48, 64), depth: int = 8, **kwargs: Any) -> Path:
    """Write FFV1 whose pictures are exactly ``planes``."""
    pix_fmt = "yuv420p" if depth == 8 else "yuv420p10le"
    options = {"slices": "1"} if min(size) < 16 else {}
    return clip(path, frames, size, codec="ffv1", pix_fmt=pix_fmt, options=options, **kwargs)


def rich(path: Path, audio: Sequence[tuple[str, str]] | None = None) -> Path:
    """Write a clip with two sound tracks, subtitles, chapters and metadata."""
    text = "mov_text" if path.suffix in (".mp4", ".mov") else "subrip"
    return clip(
        path,
        60,
        color=BT709,
        audio=audio or [("aac", "eng"), ("aac", "fra")],
        subtitles=[(text, "deu")],
        chapters=[(0, 1, "Hello"), (1, 2, "Good-bye")],
        metadata={"title": "A talk", "artist": "Someone", "comment": "Ünïcode"},
        video_metadata={"language": "eng"},
    )


def chroma(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of 4:2:0 chroma."""
    return chroma_size(size)
