"""Video files through FFmpeg (PyAV): every timestamp, tag and track of the source is kept where the file type can."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.codec.hwaccel import HWAccel
from av.video.frame import CudaContext, VideoFrame
from av.video.reformatter import VideoReformatter

from vidseg.errors import OutputExistsError, SinkError
from vidseg.frame import Frame, FullAlpha, Mastering, Plane, Size, StreamInfo, chroma_size
from vidseg.sinks import Lent, OutputOptions, check_alpha
from vidseg.sinks.tracks import Tracks

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
}
"""FFmpeg's muxer for each file type that holds timestamps, tags and sound."""
ENCODERS = {
    "h264": ("libx264", "libopenh264", "h264_videotoolbox"),
    "hevc": ("libx265", "hevc_videotoolbox"),
    "av1": ("libsvtav1", "libaom-av1", "librav1e"),
    "vp9": ("libvpx-vp9",),
    "prores": ("prores_ks", "prores"),
    "ffv1": ("ffv1",),
}
"""Encoders for each codec, best first."""

_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "23"},
    "libx265": {"preset": "veryfast", "crf": "26"},
    "libsvtav1": {"preset": "10", "crf": "32"},
    "libaom-av1": {"cpu-used": "8", "row-mt": "1", "crf": "32"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "5", "row-mt": "1", "tile-columns": "2", "crf": "32"},
    "prores_ks": {"vendor": "apl0"},
    "ffv1": {"level": "3", "slicecrc": "1"},
}
# An encoder that keeps nothing back: after a crash no more is missing than the container holds.
_LIVE_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "tune": "zerolatency"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libsvtav1": {"preset": "12"},
}
# Containers that can be played up to any moment: all of Matroska and MPEG-TS, and MP4 in fragments, which FFmpeg makes
# a plain file at the end.
_LIVE_CONTAINERS = {
    "mp4": {"movflags": "+hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
    "mov": {"movflags": "+hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
    "matroska": {"cluster_time_limit": "1000", "flush_packets": "1"},
    "webm": {"cluster_time_limit": "1000", "flush_packets": "1"},
    "mpegts": {"flush_packets": "1"},
}
_LIVE_GOP = 2  # seconds between pictures that need no other
# Names under which an encoder takes what x264 calls crf and preset.
_CRF = {"_nvenc": "cq", "_qsv": "global_quality", "_vaapi": "qp"}
_PRESET = {"libaom-av1": "cpu-used", "librav1e": "speed"}
_ODD_SIZES = {"ffv1", "libvpx-vp9", "libaom-av1", "prores_ks", "prores"}
_SMALLEST = {"libx265": 16, "libsvtav1": 4}
_TURNED = {"mp4", "mov", "matroska", "webm"}
"""Muxers that write a display matrix."""
_DEPTHS = (8, 9, 10, 12, 14, 16)


class PyAVSink:
    """Encodes frames into a video file beside its target and gives it the name when it is whole.

    Args:
        url: The output.
        info: Of the frames that will be written.
        options: See ``OutputOptions``.
        source: File whose sound, subtitles, chapters and metadata are kept, or None.
        device: See ``open_sink``, as for ``lent``.
        lent: Of frames in 4:2:0 with chroma in pairs, behind luma in the same piece of memory.

    Raises:
        OutputExistsError: The output exists and may not be overwritten.
        SinkError: It cannot be written there, or not in that form.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        info: StreamInfo,
        options: OutputOptions | None = None,
        *,
        source: str | None = None,
        device: str | None = None,
        lent: Lent | None = None,
    ) -> None:
        self._name = os.fspath(url)
        self._info, self._options = info, options or OutputOptions()
        self._notes: list[str] = []
        self._format = _format(self._name)
        self._target = _target(self._name, self._options.overwrite, source)
        self._written = 0
        self._shift: Fraction | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._tracks: Tracks | None = None
        self._reformatter = VideoReformatter()
        self._turns = info.rotation // 90 if self._format not in _TURNED else 0
        self._mirrors = info.mirrored and self._format not in _TURNED
        encoder = self._choose_encoder()
        self._gpu = self._accelerator(encoder, device) if lent is not None and device is not None else None
        self._lent = lent if self._gpu is not None else None
        self._context = CudaContext(self._gpu.device_id) if self._gpu is not None else None
        if self._gpu is not None:
            self._pix_fmt = "nv12" if info.depth == 8 else "p010le"
        else:
            self._pix_fmt = self._choose_format(encoder)
        self._temporary = _create(self._target, self._name, hidden=not self._options.live)
        try:
            with self._writing():
                self._open(encoder, source)
        except BaseException:
            self._discard()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about this output, a sentence each."""
        return tuple(self._notes)

    @property
    def device(self) -> str | None:
        """The GPU on which frames may lie that ``write`` is given; it takes those of the host as well."""
        return f"cuda:{self._gpu.device_id}" if self._gpu is not None else None

    def write(self, frame: Frame) -> None:
        """Encode one frame. Its planes are read, never changed, and not needed any more after the call."""
        check_alpha(frame, self._options.content)
        if frame.size != self._info.size:
            raise ValueError(f"the frame has another size than the stream: {frame.size = }, {self._info.size = }")
        if self._stream is None:
            raise ValueError(f"{self._name} is closed already")
        with self._writing():
            self._mux(self._picture(frame))
        self._written += 1

    def commit(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OutputExistsError: Somebody else has put a file there meanwhile; the message says where this one is.
        """
        try:
            with self._writing():
                if not self._written:
                    raise SinkError(f"There was no frame to write to {self._name}", url=self._name)
                self._finish(whole=True)
                self._publish()
        except BaseException:
            self._discard()
            raise

    def abort(self, keep_partial: bool = False) -> str | None:
        """End early and leave nothing behind; with ``keep_partial`` finish what is there as ``<stem>.partial<suffix>``.

        Returns:
            The path of the partial output, or None if nothing was kept.
        """
        kept = None
        try:
            if keep_partial and self._written and self._container is not None:
                with suppress(SinkError, av.error.FFmpegError, OSError, ValueError), self._writing():
                    self._finish(whole=False)
                    kept = self._put_aside()
        finally:
            self._discard()
        return kept

    def __repr__(self) -> str:
        return f"PyAVSink({self._name!r})"

    # -- opening -------------------------------------------------------------------------------------------------

    def _choose_encoder(self) -> av.Codec:
        codec, content = self._options.codec, self._options.content
        if codec is None:
            codec = "vp9" if self._format == "webm" else "h264"
            if content == "transparent":
                codec = {"webm": "vp9", "mov": "prores", "matroska": "ffv1"}.get(self._format, "h264")
            elif content == "grey" and self._format == "matroska":
                codec = "ffv1"
        for name in ENCODERS.get(codec, (codec,)):
            with suppress(av.codec.codec.UnknownCodecError, ValueError):
                found = av.Codec(name, "w")
                if found.type == "video":
                    return found
        if codec in ENCODERS:
            message = f"The FFmpeg of this installation has no encoder for {codec}: choose another --codec"
        else:
            message = f"{codec} is no video encoder of this FFmpeg: choose one of {', '.join(ENCODERS)}"
        raise SinkError(message, url=self._name)

    def _accelerator(self, encoder: av.Codec, device: str) -> HWAccel | None:
        """Return what lets ``encoder`` take pictures from the GPU; None if it cannot."""
        info = self._info
        fit = info.subsampled and info.depth in (8, 10) and info.color.matrix != "rgb" and self._turns == 0
        even = info.size[0] % 2 == 0 and info.size[1] % 2 == 0
        if not encoder.name.endswith("_nvenc") or self._options.content != "opaque" or not fit or not even:
            return None
        if self._mirrors:
            return None
        gpu = HWAccel("cuda", device.partition(":")[2] or "0", is_hw_owned=True)
        try:
            # Tried on its own: a stream whose device cannot be opened would stay in its container.
            av.CodecContext.create(encoder.name, "w", gpu)
        except (av.error.FFmpegError, OSError, NotImplementedError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._notes.append(f"{encoder.name} gets its pictures over the host's memory, not from {device} ({reason})")
            return None
        return gpu

    def _choose_format(self, encoder: av.Codec) -> str:
        """Return the encoder's pixel format that loses least."""
        deep, content = self._info.depth > 8, self._options.content
        able = [form.name for form in encoder.video_formats or ()]
        if content == "transparent":
            wanted = ["yuva420p10le", "yuva444p10le"] if deep else ["yuva420p", "yuva444p10le"]
            wanted.append("yuva420p")
            if encoder.name not in ("ffv1", "libvpx-vp9", "prores_ks"):
                able = []
        elif content == "grey" and encoder.name == "ffv1":
            wanted = ["gray10le", "gray16le"] if self._info.depth == 10 else ["gray16le"] if deep else ["gray"]
        else:
            eight = ["yuv420p", "nv12", "yuv422p", "yuv444p"]
            wanted = ["yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le"]
            wanted = wanted + eight if deep else eight + wanted
            if encoder.name == "ffv1" and not self._info.subsampled and self._info.size != (1, 1):
                wanted.insert(0, "yuv444p10le" if deep else "yuv444p")
        if not able and content != "transparent":
            able = ["yuv420p"]
        for form in wanted:
            if form in able:
                if deep and "10" not in form and "16" not in form:
                    self._notes.append(f"{encoder.name} has no 10-bit form here: the pictures have 8 bits now")
                return form
        if content == "transparent":
            raise SinkError(
                f"{self._name} cannot hold transparency with {encoder.name}: "
                "write a .webm (VP9), a .mov (ProRes 4444), a .mkv (FFV1) or a folder of PNGs",
                url=self._name,
            )
        raise SinkError(f"{encoder.name} takes none of the pixel formats that vidseg makes", url=self._name)

    def _open(self, encoder: av.Codec, source: str | None) -> None:
        info, options = self._info, self._options
        if source is not None and options.audio:
            self._tracks = Tracks(source, self._format, self._notes)
        container_options = dict(self._tracks.container_options) if self._tracks else {}
        if self._format in ("mp4", "mov"):
            # The file's edit lists count in this unit: an offset of the pictures stays exact.
            container_options["movie_timescale"] = str(max(1000, info.time_base.denominator))
        if options.live:
            container_options.update(_LIVE_CONTAINERS[self._format])
        container = self._container = av.open(
            f"file:{self._temporary}",
            "w",
            format=self._format,
            container_options=container_options,
            metadata_errors="surrogateescape",
        )
        height, width = info.size if self._turns % 2 == 0 else info.size[::-1]
        self._size = _coded_size(encoder.name, (height, width))
        if self._size != (height, width):
            coded = f"{self._size[1]}x{self._size[0]}"
            self._notes.append(f"{encoder.name} cannot code {width}x{height}: the edge is repeated to {coded}")
        height, width = self._size
        try:
            stream = container.add_stream(encoder.name, rate=info.fps or Fraction(25), hwaccel=self._gpu)
        except ValueError as error:
            raise SinkError(
                f"A {Path(self._name).suffix} file cannot hold {encoder.name}: "
                "choose another --codec, or .mkv, which holds them all",
                url=self._name,
            ) from error
        self._stream = stream = cast("VideoStream", stream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self._pix_fmt
        context.time_base = info.time_base
        stream.time_base = info.time_base
        context.flags |= Flags.frame_duration
        if encoder.name.startswith("lib"):
            # Their own frame threads, which copy what they are given; FFmpeg's own would keep the caller's planes.
            context.thread_type = "AUTO"
        aspect = info.sample_aspect
        context.sample_aspect_ratio = 1 / aspect if self._turns % 2 else aspect
        # PyAV gives Matroska no aspect; some codecs carry it in their own headers.
        said_inside = encoder.canonical_name in ("h264", "hevc", "mpeg4", "mpeg2video")
        if aspect != 1 and self._format in ("matroska", "webm") and not said_inside:
            suffix, said = Path(self._name).suffix, f"{aspect.numerator}:{aspect.denominator}"
            self._notes.append(f"The pixel aspect {said} is lost: a {suffix} file with {encoder.name} cannot say it")
        color = info.color
        rgb = color.matrix == "rgb"
        self._tags = {
            "color_range": 1 if rgb else 2 if color.full_range else color.range_code,
            "colorspace": 1 if rgb else color.matrix_code,
            "color_primaries": color.primaries,
            "color_trc": color.transfer,
        }
        for key, value in self._tags.items():
            setattr(context, key, value)
        if encoder.canonical_name == "hevc" and self._format in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # players of Apple know no other
        if self._format in _TURNED:
            if info.rotation or info.mirrored:
                stream.set_display_rotation(info.rotation, hflip=info.mirrored)
        elif info.rotation or info.mirrored:
            suffix = Path(self._name).suffix
            self._notes.append(f"A {suffix} file has no rotation tag: the pictures are turned upright")
        if self._tracks is not None:
            self._tracks.attach(container, stream)
        self._open_encoder(encoder)
        self._last = float("-inf")
        if "hybrid" in container_options.get("movflags", ""):
            return  # it begins with the first packet: FFmpeg crashes when it ends such a file without any
        try:
            container.start_encoding()
        except av.error.ArgumentError as error:
            raise SinkError(
                f"FFmpeg cannot write {encoder.name} into a {Path(self._name).suffix} file: "
                "choose another --codec, or .mkv, which holds them all",
                url=self._name,
            ) from error

    def _open_encoder(self, encoder: av.Codec) -> None:
        assert self._stream is not None
        context, name = self._stream.codec_context, encoder.name
        given = {}
        if self._options.crf is not None:
            suffix = f"_{name.rpartition('_')[2]}"
            given[_CRF.get(suffix, "crf")] = f"{self._options.crf:g}"
        if self._options.preset is not None:
            preset, key = self._options.preset, _PRESET.get(name, "preset")
            if name == "libvpx-vp9":
                key = "cpu-used" if preset.lstrip("-").isdigit() else "deadline"
            given[key] = preset
        chosen = {**_DEFAULTS.get(name, {}), **given}
        if self._options.live:
            chosen = {**_DEFAULTS.get(name, {}), **_LIVE_DEFAULTS.get(name, {}), **given}
            context.gop_size = round(_LIVE_GOP * (self._info.fps or 25))
            context.thread_count = 2
        if name == "libvpx-vp9":
            context.bit_rate = 0  # constant quality
            if self._options.content == "transparent":
                chosen["auto-alt-ref"] = "0"  # libvpx cannot combine it with alpha
        elif name == "prores_ks":
            chosen.setdefault("profile", "4" if "444" in self._pix_fmt else "2")
        elif name == "ffv1" and min(self._size) < 16:
            chosen["slices"] = "1"  # the default number is more than there are rows
        elif name == "libx265":
            chosen["x265-params"] = ":".join(["log-level=error", *_hdr(self._info.mastering, name)])
        elif name == "libx264" and self._info.mastering:
            chosen["x264-params"] = ":".join(_hdr(self._info.mastering, name))
        elif name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes to the terminal itself
            if self._info.mastering:
                chosen["svtav1-params"] = ":".join(_hdr(self._info.mastering, name))
        context.options = chosen
        try:
            context.open()
        except av.error.FFmpegError as error:
            said = f" ({', '.join(f'{key} {value}' for key, value in given.items())})" if given else ""
            raise SinkError(
                f"{name} refuses {self._size[1]}x{self._size[0]} {self._pix_fmt}{said}: {error.strerror or error}",
                url=self._name,
            ) from error
        unknown = sorted(set(context.options) & set(given))
        if unknown:
            raise SinkError(f"{name} has no {' or '.join(unknown)} setting", url=self._name)

    # -- frames --------------------------------------------------------------------------------------------------

    def _picture(self, frame: Frame) -> VideoFrame:
        """Return what the encoder takes, without a copy where the planes are that already."""
        if self._lent is not None and not isinstance(frame.planes[0], np.ndarray):
            height, width = frame.size
            return self._timed(
                VideoFrame.from_dlpack(self._lent(frame), self._pix_fmt, width, height, cuda_context=self._context),
                frame,
            )
        form, planes = self._planes(frame)
        if self._turns or self._mirrors:
            # np.rot90 turns counter-clockwise, as ``rotation`` does.
            planes = [np.rot90(plane, self._turns) for plane in planes]
            if self._mirrors:
                planes = [plane[:, ::-1] for plane in planes]
        picture = wrap(planes, form, self._size)
        color = frame.color
        if form != self._pix_fmt:
            matrix = {"bt709": 1, "bt601": 5, "bt2020": 9, "rgb": 1}[color.matrix]
            rgb, code = color.matrix == "rgb", 2 if color.full_range else 1
            picture = self._reformatter.reformat(
                picture,
                format=self._pix_fmt,
                src_colorspace=None if rgb else matrix,
                dst_colorspace=matrix,
                src_color_range=2 if rgb else code,
                dst_color_range=1 if rgb else code,
                interpolation="BICUBIC",
                threads=1,
            )
        return self._timed(picture, frame)

    def _timed(self, picture: VideoFrame, frame: Frame) -> VideoFrame:
        """Return ``picture`` with the tags of the stream and the times of ``frame``."""
        for key, value in self._tags.items():
            setattr(picture, key, value)  # some encoders read the tags here, not in their context
        picture.pts, picture.time_base, picture.duration = frame.pts, frame.time_base, frame.duration
        if self._shift is None:
            self._shift = self._start(frame)
        if self._shift:
            picture.pts += round(self._shift / frame.time_base)
        return picture

    def _start(self, frame: Frame) -> Fraction:
        """Return by how much the output is later, and let the other tracks wait as long."""
        early = frame.pts * frame.time_base
        if early >= 0 or self._format not in ("mp4", "mov"):
            return Fraction(0)
        # Everything before 0 would be cut by the file's edit list.
        if self._tracks is not None:
            self._tracks.shift = -early
        self._notes.append(f"The pictures began {float(-early):.3g} s before 0: everything is that much later now")
        return -early

    def _planes(self, frame: Frame) -> tuple[str, list[Plane]]:
        """Return the name of a planar format and its planes."""
        depth, planes = frame.depth, list(frame.planes)
        if depth not in _DEPTHS:
            raise ValueError(f"no pixel format has that depth: {frame.depth = }")
        end = "" if depth == 8 else f"{depth}le"
        if self._options.content == "grey":
            if self._pix_fmt.startswith("gray"):
                return f"gray{end}", planes[:1]
            return f"yuv420p{end}", [planes[0], *self._neutral(depth)]
        if frame.color.matrix == "rgb":
            name = "gbr"
        else:
            sampling = "420" if self._info.subsampled or self._info.size == (1, 1) else "444"
            name = f"yuv{sampling}"
        if self._options.content == "transparent":
            alpha = cast("FullAlpha", frame.alpha)
            if depth > 8:
                top = (1 << depth) - 1
                planes.append(((alpha.astype(np.uint32) * top + 127) // 255).astype(np.uint16))
            else:
                planes.append(alpha)
            name = name.replace("yuv", "yuva").replace("gbr", "gbra")
        return f"{name}p{end}", planes

    def _neutral(self, depth: int) -> tuple[Plane, Plane]:
        dtype = np.uint8 if depth == 8 else np.uint16
        plane = cast(Plane, np.full(chroma_size(self._info.size), 1 << (depth - 1), dtype))
        return plane, plane

    def _mux(self, picture: VideoFrame | None) -> None:
        assert self._stream is not None
        assert self._container is not None
        # x265 learns its delay from the third picture; before, its decoding times are memory that nobody has set.
        untimed = self._stream.codec_context.name == "libx265" and self._written < 3
        for packet in self._stream.encode(picture):
            if untimed:
                packet.dts = None  # the muxer finds them
            time = packet.dts if packet.dts is not None else packet.pts
            if time is not None:
                now = float(time * packet.time_base)
                if self._tracks is not None:
                    self._tracks.copy_until(self._container, now)
            if packet.pts is not None:
                self._last = max(self._last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            self._container.mux(packet)

    # -- ending --------------------------------------------------------------------------------------------------

    def _finish(self, *, whole: bool) -> None:
        """Write what is left, of the tracks all or only up to the end of the pictures, and close the file."""
        assert self._container is not None
        self._mux(None)
        if self._tracks is not None:
            self._tracks.copy_until(self._container, None if whole else self._last)
            self._tracks.finish(self._container)
        container, self._container = self._container, None
        self._stream = None
        container.close()

    def _publish(self) -> None:
        if self._options.overwrite:
            os.replace(self._temporary, self._target)
            return
        try:
            _rename_new(self._temporary, self._target)
        except FileExistsError as error:
            kept = self._put_aside()
            raise OutputExistsError(
                f"{self._name} has appeared meanwhile: the finished video is {kept}", url=self._name
            ) from error

    def _put_aside(self) -> str:
        path = Path(self._target)
        if self._options.live:  # it has such a name from the start
            kept, self._temporary = self._temporary, ""
            return str(Path(self._name).with_name(Path(kept).name))
        for number in range(1, 1000):
            partial = _partial(path, number)
            try:
                _rename_new(self._temporary, str(partial))
            except FileExistsError:
                continue
            return str(Path(self._name).with_name(partial.name))
        raise SinkError(f"There are too many {path.stem}.partial files", url=self._name)

    def _discard(self) -> None:
        """Close everything and remove the temporary file if it is still there."""
        if self._tracks is not None:
            self._tracks.close()
        container, self._container = self._container, None
        self._stream = None
        if container is not None:
            with suppress(Exception):
                container.close()
        with suppress(OSError):
            os.unlink(self._temporary)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Map errors of FFmpeg and of the file system to one sentence."""
        try:
            yield
        except SinkError:
            raise
        except (av.error.FFmpegError, OSError) as error:
            raise _sink_error(self._name, error) from error


def _coded_size(encoder: str, size: Size) -> Size:
    """Return the next size that an encoder takes: 4:2:0 of most must be even."""
    step, least = (1 if encoder in _ODD_SIZES else 2), _SMALLEST.get(encoder, 1)
    height, width = (max(-(-length // step) * step, least) for length in size)
    return height, width


def _sink_error(name: str, error: Exception) -> SinkError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return SinkError(f"The disk is full: {name} could not be written", url=name)
    if number == errno.EFBIG:
        return SinkError(f"{name} grew larger than the file system allows", url=name)
    reason = getattr(error, "strerror", None) or str(error)
    return SinkError(f"{name} cannot be written: {reason}", url=name)


def _format(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise SinkError(f"{name}: {suffix or 'no suffix'} is no video type that vidseg writes; use {known}", url=name)
    return FORMATS[suffix]


def _target(name: str, overwrite: bool, source: str | None) -> str:
    """Return the path that will be written, links followed, after every check that needs no file."""
    path = os.path.realpath(name)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SinkError(f"The folder of {name} does not exist: make {os.path.dirname(name) or folder} first", url=name)
    if os.path.isdir(path):
        raise SinkError(f"{name} is a folder, not a file", url=name)
    if os.path.exists(path):
        if source is not None and os.path.exists(source) and os.path.samefile(path, source):
            raise SinkError(f"{name} is the input: choose another name for the output", url=name)
        if not overwrite:
            raise OutputExistsError(f"{name} exists already: give --overwrite or another name", url=name)
    return path


def _partial(path: Path, number: int) -> Path:
    """Return what a part of ``path`` is called: ``talk.partial.mp4``, ``talk.partial-2.mp4`` and so on."""
    return path.with_name(f"{path.stem}.partial{f'-{number}' if number > 1 else ''}{path.suffix}")


def _create(target: str, name: str, *, hidden: bool) -> str:
    """Create an empty file beside ``target`` under a name that nobody has, with the usual rights."""
    path = Path(target)
    for number in itertools.count(1):
        # A name may have 255 bytes: 40 characters have at most 160.
        unseen = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.partial{path.suffix}")
        created = unseen if hidden else _partial(path, number)
        try:
            os.close(os.open(created, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                message = f"{name} cannot be written: the folder {Path(name).parent} is read-only"
                raise SinkError(message, url=name) from error
            raise _sink_error(name, error) from error
        return str(created)
    raise AssertionError


def _rename_new(path: str, target: str) -> None:
    """Rename without replacing anything.

    Raises:
        FileExistsError: ``target`` exists.
    """
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError, AttributeError):
        # No hard links there (FAT, some network file systems): a tiny gap remains between check and rename.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(path, target)
        return
    os.unlink(path)


def wrap(planes: list[Plane], form: str, size: tuple[int, int]) -> VideoFrame:
    """Return a picture over ``planes``, without a copy if FFmpeg can read them where they are."""
    height, width = size
    if planes[0].shape == size and ((height % 2 == 0 and width % 2 == 0) or "420" not in form):
        item = planes[0].itemsize
        if all(plane.strides[1] == item and plane.strides[0] > 0 for plane in planes):
            with suppress(BufferError):  # a read-only array cannot be lent that way
                return VideoFrame.from_dlpack(tuple(planes), form, width, height)
    picture = VideoFrame(width, height, form)
    for index, plane in enumerate(planes):
        _fill(picture, index, plane)
    return picture


def _fill(picture: VideoFrame, index: int, plane: Plane) -> None:
    """Copy one plane; rows and columns that it lacks repeat its last."""
    to = picture.planes[index]
    view = np.ndarray(
        (to.height, to.width), plane.dtype, buffer=cast(Any, to), strides=(to.line_size, plane.dtype.itemsize)
    )
    rows, columns = plane.shape
    view[:rows, :columns] = plane
    view[rows:, :columns] = plane[-1:]
    view[:, columns:] = view[:, columns - 1 : columns]


def _hdr(mastering: Mastering | None, encoder: str) -> list[str]:
    """Return HDR metadata in the words of x264, x265 or SVT-AV1."""
    if mastering is None:
        return []
    words = []
    real = encoder == "libsvtav1"
    if mastering.primaries:

        def point(index: int) -> str:
            pair = mastering.primaries[2 * index : 2 * index + 2]
            return ",".join(f"{float(v):.5f}" if real else str(round(v * 50000)) for v in pair)

        low, high = mastering.luminance or (Fraction(0), Fraction(0))
        light = f"{float(high):.4f},{float(low):.4f}" if real else f"{round(high * 10000)},{round(low * 10000)}"
        key = {"libx265": "master-display"}.get(encoder, "mastering-display")
        words.append(f"{key}=G({point(1)})B({point(2)})R({point(0)})WP({point(3)})L({light})")
    if mastering.content_light:
        key = {"libx265": "max-cll", "libx264": "cll"}.get(encoder, "content-light")
        words.append(f"{key}={mastering.content_light[0]},{mastering.content_light[1]}")
    return words
