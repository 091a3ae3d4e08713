"""Where frames go. ``Sink`` is the contract; ``open_sink`` finds the adapter for a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from vidseg.frame import Frame, StreamInfo

Codec = Literal["h264", "hevc", "av1", "vp9", "prores", "ffv1"]
Content = Literal["opaque", "transparent", "grey"]
Lent = Callable[[Frame], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How an output is written.

    Attributes:
        codec: ``h264`` …, or the name of an FFmpeg encoder (``h264_nvenc``); None chooses by file type and content.
        crf: Constant quality, in the encoder's own scale; None is its default.
        preset: Speed preset in the encoder's own words; None is vidseg's default (``veryfast`` for x264).
        overwrite: Whether an existing output may be replaced.
        content: ``opaque`` pictures, ``transparent`` ones (``Frame.alpha`` is written), or ``grey`` (luma only).
        audio: Whether the tracks, chapters and metadata of the source are kept.
        live: It is written while it happens: the encoder is light, and what is there can be played whatever happens,
            under the name ``NAME.partial.SUFFIX``.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    overwrite: bool = False
    content: Content = "opaque"
    audio: bool = True
    live: bool = False


class Sink(Protocol):
    """Takes frames in order of presentation.

    Guaranteed to an implementation: one thread at a time calls it; after ``commit`` or ``abort``, whether it failed or
    not, only ``abort`` is called. Guaranteed by it: nothing stands under the output's own name before ``commit`` has
    returned; an error is a ``SinkError``. New sinks are added to ``tests/test_sinks.py``.
    """

    def write(self, frame: Frame) -> None:
        """Write one frame. The frame is not kept after the call returns."""
        ...

    def commit(self) -> None:
        """Finish the output and give it its name."""
        ...

    def abort(self, keep_partial: bool = False) -> str | None:
        """End early and leave nothing behind; with ``keep_partial`` finish what is there under a ``.partial`` name.

        Does nothing to what was committed or kept before.

        Returns:
            The path of the partial output, or None if nothing was kept.
        """
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about this output, a sentence each (a re-encoded audio track, say)."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A sink whose ``write`` may wait for a reader for ever."""

    def interrupt(self) -> None:
        """Let a ``write`` that waits raise ``OutputClosedError`` soon. From any thread."""
        ...


def check_alpha(frame: Frame, content: Content) -> None:
    """Refuse a frame that ``content`` does not fit: without its alpha it might show the room.

    Raises:
        ValueError: It has an alpha and is to be opaque, or has none and is to be transparent.
    """
    if (frame.alpha is not None) != (content == "transparent"):
        raise ValueError(f"frame.alpha does not fit the content {content!r}")


def open_sink(
    url: str,
    info: StreamInfo,
    options: OutputOptions | None = None,
    *,
    source: str | None = None,
    device: str | None = None,
    lent: Lent | None = None,
) -> Sink:
    """Open an output: a video file, a folder or numbered pattern for pictures, or standard output.

    Args:
        url: The output. A name without suffix, or that ends in ``/``, is a folder of ``%06d.png``; ``-`` is y4m on
            standard output, ``-:raw`` bare samples.
        info: Of the frames that will be written.
        options: See ``OutputOptions``.
        source: File whose audio, subtitles, chapters and metadata are kept, or None.
        device: ``cuda:0``: an encoder of that GPU takes frames where they lie; the sink's ``device`` says whether.
        lent: Makes luma and pairs of chroma that know DLPack of such a frame.

    Raises:
        OutputExistsError: The output exists and ``options.overwrite`` is false.
        SinkError: It cannot be written there, or not in that form.
    """
    from vidseg.sinks.pictures import PictureSink, is_pictures
    from vidseg.sinks.pyav import PyAVSink
    from vidseg.sinks.raw import RawSink, is_raw

    if is_raw(url):
        return RawSink(url, info, (options or OutputOptions()).content)
    if is_pictures(url):
        return PictureSink(url, info, options or OutputOptions())
    return PyAVSink(url, info, options or OutputOptions(), source=source, device=device, lent=lent)
