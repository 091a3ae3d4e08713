"""Everything of a source but its pictures: sound, subtitles, chapters and metadata, carried into an output."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
from av.stream import Discard, Disposition

from vidseg.sources.pyav import LIVE, open_container, scheme, video_streams

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream
    from av.video.stream import VideoStream

# What the muxer writes itself, or what would be wrong in a new file.
_CONTAINER_KEYS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
_STREAM_KEYS = {
    "encoder",
    "duration",
    "rotate",
    "vendor_id",
    "number_of_frames",
    "number_of_bytes",
    "bps",
    "alpha_mode",
}
# What an MP4 stores as it is; other keys need the muxer's ``use_metadata_tags``.
_MP4_KEYS = {
    *("title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping"),
    *("lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "episode_sort"),
    *("season_number", "media_type", "hd_video", "gapless_playback", "compilation", "track", "disc", "creation_time"),
    *("location", "location-eng"),
}
# Sound and text that players expect in each container; FFmpeg's muxers take more than anyone can read back. Matroska
# holds everything that its muxer takes.
_HELD = {
    "mp4": {"aac", "mp3", "mp2", "ac3", "eac3", "dts", "alac", "flac", "opus", "vorbis", "mov_text", "dvd_subtitle"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "amr_nb", "amr_wb", "adpcm_ima_qt", "qdm2", "mov_text"},
    "webm": {"opus", "vorbis", "webvtt"},
    "mpegts": {"aac", "aac_latm", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus", "dvb_subtitle"},
}
# QuickTime knows languages by their bibliographic codes only (ISO 639-2/B).
_QUICKTIME = {
    **{"deu": "ger", "nld": "dut", "swe": "sve", "ell": "gre", "isl": "ice", "zho": "chi", "sqi": "alb"},
    **{"hye": "arm", "kat": "geo", "bod": "tib", "mya": "bur", "msa": "may", "mkd": "mac", "fre": "fra"},
    **{"rum": "ron", "cze": "ces", "slo": "slk"},
}
_CHAPTERED = {"mp4", "mov", "matroska", "webm"}
_TEXT = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text", "ttml"}
_TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_AUDIO_CODEC = {"webm": "libopus"}


class Tracks:
    """Reads a source a second time, without its pictures, just ahead of the pictures that are written.

    Args:
        source: The file.
        format: Name of the output's muxer.
        notes: What cannot be kept as it is, is said here.
    """

    def __init__(self, source: str, format: str, notes: list[str]) -> None:
        self._format, self._notes = format, notes
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._waiting: Packet[Any] | None = None
        self._writers: dict[int, _Copy | _Recode | _Retext] = {}
        self._dropped = 0
        self.shift = Fraction(0)
        """Seconds by which everything is later in the output."""
        if scheme(source) in LIVE:
            notes.append("The sound of a live stream is not kept")
            return
        if not scheme(source) and not os.path.isfile(source):
            notes.append(f"{source} is read once only: its sound is not kept")
            return
        try:
            self._container = open_container(source)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            notes.append(f"Sound and metadata of {source} cannot be read: {getattr(error, 'strerror', None) or error}")

    @property
    def container_options(self) -> dict[str, str]:
        """Options of the muxer that keep the metadata of this source."""
        mp4 = self._format in ("mp4", "mov")
        return {"movflags": "use_metadata_tags"} if mp4 and set(self._metadata()) - _MP4_KEYS else {}

    def attach(self, output: OutputContainer, video: VideoStream) -> None:
        """Add the tracks, chapters and metadata to ``output``, whose video stream is there already."""
        container = self._container
        if container is None:
            return
        output.metadata.update(self._metadata())
        pictures = video_streams(container)
        if pictures:
            self._copy_properties(pictures[0], video)
        chapters = container.chapters()
        if chapters and self._format in _CHAPTERED:
            output.set_chapters(chapters)
        elif chapters:
            self._notes.append(f"The chapters are left out: {self._format} files have none")
        for stream in container.streams:
            # A chapter track is read as chapters; the demuxer has marked it as not to be read. That other moving
            # pictures are left out, is said by the source.
            unread = stream.discard == Discard.all or stream in pictures
            if unread or not self._attach(stream, output):
                stream.discard = Discard.all
        if self._writers:
            self._packets = container.demux([container.streams[index] for index in self._writers])
        else:
            self.close()

    def copy_until(self, output: OutputContainer, seconds: float | None) -> None:
        """Write the packets that begin before ``seconds``; None is all of them."""
        if not self._writers:
            return
        while True:
            packet = self._waiting
            if packet is None:
                packet = self._next()
                if packet is None:
                    return
            time = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and time is not None and float(time * packet.time_base) > seconds:
                self._waiting = packet
                return
            self._waiting = None
            self._mux(output, self._writers[packet.stream.index](packet))

    def finish(self, output: OutputContainer) -> None:
        """Write what encoders still hold."""
        for writer in self._writers.values():
            self._mux(output, writer.flush())
        if self._dropped:
            self._notes.append(f"{self._dropped} packets of the other tracks had impossible times and are left out")

    def _mux(self, output: OutputContainer, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            try:
                output.mux(packet)
            except av.error.ArgumentError:  # the muxer refuses one packet; the file is none the worse
                self._dropped += 1

    def close(self) -> None:
        """Close the source. May be called again."""
        container, self._container = self._container, None
        self._packets, self._waiting = iter(()), None
        self._writers.clear()
        if container is not None:
            container.close()

    def _next(self) -> Packet[Any] | None:
        errors = 0
        while errors < 100:
            try:
                packet = next(self._packets, None)
            except av.error.InvalidDataError:
                errors += 1
                container = cast("InputContainer", self._container)
                self._packets = container.demux([container.streams[index] for index in self._writers])
                continue
            except (av.error.FFmpegError, OSError):
                return None  # the pictures end there too, and say so
            if packet is None or packet.size:
                if packet is not None and self.shift:
                    shift = round(self.shift / packet.time_base)
                    packet.pts = None if packet.pts is None else packet.pts + shift
                    packet.dts = None if packet.dts is None else packet.dts + shift
                return packet
        return None

    def _note(self, text: str) -> None:
        if text not in self._notes:  # phones write several data tracks
            self._notes.append(text)

    def _metadata(self) -> dict[str, str]:
        if self._container is None:
            return {}
        return {key: value for key, value in self._container.metadata.items() if key.lower() not in _CONTAINER_KEYS}

    def _attach(self, stream: Stream, output: OutputContainer) -> bool:
        """Add one track; return whether its packets are to be read."""
        cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
        label = _label(stream)
        if cover and self._format not in ("mp4", "mov"):
            self._notes.append("The cover picture is left out")
            return False
        if stream.type == "data":
            if "timecode" not in stream.metadata:  # a timecode is metadata of the picture track too
                self._note(f"The data track {label}is left out")
            return False
        if stream.type == "attachment":
            if self._format == "matroska":
                output.add_stream_from_template(stream)
            else:
                self._notes.append(f"The attachment {label}is left out")
            return False
        if not self._holds(stream):
            return self._convert(stream, output, label)
        made = output.add_stream_from_template(stream, opaque=True)
        self._copy_properties(stream, made)
        self._writers[stream.index] = _Copy(made)
        return True

    def _copy_properties(self, stream: Stream, made: Any) -> None:
        made.metadata.update({key: value for key, value in stream.metadata.items() if _is_kept(key)})
        if self._format == "mov" and "language" in made.metadata:
            language = made.metadata["language"]
            made.metadata["language"] = _QUICKTIME.get(language, language)
        made.disposition = stream.disposition

    def _holds(self, stream: Stream) -> bool:
        """Whether the output can hold a track as it is: a header is written to see."""
        held, codec = _HELD.get(self._format), stream.codec_context.codec if stream.codec_context is not None else None
        if codec is None:
            return False
        name = codec.canonical_name
        fits = held is None or name in held or (self._format == "mov" and name.startswith("pcm_"))
        if not fits and stream.type != "video":
            return False
        try:
            with av.open(io.BytesIO(), "w", format=self._format) as trial:
                trial.add_stream_from_template(stream, opaque=True)
                trial.start_encoding()
        except (ValueError, av.error.FFmpegError):
            return False
        return True

    def _convert(self, stream: Stream, output: OutputContainer, label: str) -> bool:
        name = stream.codec_context.codec.canonical_name if stream.codec_context is not None else "this coding"
        kind = "sound" if stream.type == "audio" else "subtitle"
        try:
            if stream.type == "audio" and stream.codec_context is not None:
                codec = _AUDIO_CODEC.get(self._format, "aac")
                writer: _Recode | _Retext = _Recode(cast("AudioStream", stream), output, codec)
            elif stream.type == "subtitle" and name in _TEXT and self._format in _TEXT_CODEC:
                codec = _TEXT_CODEC[self._format]
                writer = _Retext(cast("SubtitleStream", stream), output, codec)
            else:
                raise ValueError(name)
        except (ValueError, av.error.FFmpegError):
            self._notes.append(f"The {kind} track {label}is left out: {self._format} files cannot hold {name}")
            return False
        self._copy_properties(stream, writer.made)
        self._writers[stream.index] = writer
        verb = "re-encoded to" if kind == "sound" else "converted to"
        self._notes.append(
            f"The {kind} track {label}is {verb} {codec.removeprefix('lib')}: {self._format} files cannot hold {name}"
        )
        return True


class _Copy:
    """Packets as they are; times are moved only where they would go back."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self._last: int | None = None
        self._offset = 0

    def __call__(self, packet: Packet[Any]) -> list[Packet[Any]]:
        dts = packet.dts if packet.dts is not None else packet.pts
        if dts is None:
            if self._last is not None:
                return []
            dts = packet.pts = 0  # a cover picture
        shift = self._offset
        if self._last is not None and dts + shift <= self._last:
            behind = self._last - dts - shift
            if behind * packet.time_base > 1:  # joined recordings set their clock back: go on from here
                shift = self._offset = self._last + max(packet.duration or 0, 1) - dts
            else:
                shift += behind + 1
        packet.dts = self._last = dts + shift
        if packet.pts is not None:
            packet.pts += shift
        packet.stream = self.made
        return [packet]

    def flush(self) -> list[Packet[Any]]:
        return []


class _Recode:
    """Sound, decoded and encoded anew."""

    def __init__(self, stream: AudioStream, output: OutputContainer, codec: str) -> None:
        self._stream = stream
        rate = stream.rate or 48000
        if codec == "libopus" and rate not in (8000, 12000, 16000, 24000, 48000):
            rate = 48000
        layout = _layout(codec, rate, stream)
        self.made = cast("AudioStream", output.add_stream(codec, rate=rate))
        self.made.layout = layout
        self.made.bit_rate = 80_000 * max(2, self.made.layout.nb_channels)
        self.made.codec_context.time_base = Fraction(1, rate)
        self.made.codec_context.open()

    def __call__(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        try:
            frames = self._stream.decode(packet)
        except (av.error.FFmpegError, ValueError):
            return
        for frame in frames:
            yield from self.made.encode(frame)

    def flush(self) -> Iterator[Packet[Any]]:
        try:
            frames = self._stream.decode(None)
        except (av.error.FFmpegError, ValueError):
            frames = []
        for frame in frames:
            yield from self.made.encode(frame)
        yield from self.made.encode(None)


def _layout(codec: str, rate: int, stream: AudioStream) -> str:
    """Return the channel layout nearest to a stream's that an encoder takes."""
    plain = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    for layout in (stream.layout.name, plain.get(stream.layout.nb_channels), "5.1", "stereo"):
        if layout is None or (layout == "5.1" and stream.layout.nb_channels < 6):
            continue
        trial = cast("AudioCodecContext", av.CodecContext.create(codec, "w"))
        try:
            trial.sample_rate = rate
            trial.layout = layout
            trial.format = (trial.codec.audio_formats or [av.AudioFormat("s16")])[0]
            trial.open()
        except (ValueError, av.error.FFmpegError):
            continue
        return layout
    raise ValueError(f"{codec} takes no layout near {stream.layout.name}")


class _Retext:
    """Text subtitles from one coding to another."""

    def __init__(self, stream: SubtitleStream, output: OutputContainer, codec: str) -> None:
        self._stream = stream
        context = stream.codec_context
        context.open(strict=False)
        self.made = cast("SubtitleStream", output.add_stream(codec))
        self.made.codec_context.subtitle_header = context.subtitle_header or _ASS_HEADER
        self.made.codec_context.time_base = Fraction(1, 1000)
        self.made.codec_context.open()
        self.made.time_base = Fraction(1, 1000)

    def __call__(self, packet: Packet[Any]) -> list[Packet[Any]]:
        try:
            text = self._stream.codec_context.decode2(packet)
            if text is None or not len(text):
                return []
            made = self.made.codec_context.encode_subtitle(text)
        except (av.error.FFmpegError, ValueError):
            return []
        start = cast(int, packet.pts if packet.pts is not None else packet.dts)
        made.stream = self.made
        made.time_base = Fraction(1, 1000)
        made.pts = made.dts = round(start * packet.time_base * 1000)
        made.duration = round((packet.duration or 0) * packet.time_base * 1000)
        return [made]

    def flush(self) -> list[Packet[Any]]:
        return []


_ASS_HEADER = (
    b"[Script Info]\r\nScriptType: v4.00+\r\nPlayResX: 384\r\nPlayResY: 288\r\n\r\n[V4+ Styles]\r\n"
    b"Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    b"Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, "
    b"MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n"
    b"\r\n[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


def _is_kept(key: str) -> bool:
    key = key.lower()
    return key not in _STREAM_KEYS and not key.startswith(("_statistics", "duration-", "bps-", "number_of_"))


def _label(stream: Stream) -> str:
    words = [stream.metadata.get("title"), stream.metadata.get("language"), stream.metadata.get("filename")]
    text = ", ".join(word for word in words if word and word != "und")
    return f"({text}) " if text else ""
