"""Where frames come from. ``Source`` is the contract; ``open_source`` finds the adapter for a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

from vidseg.frame import Frame, StreamInfo

Lent = Callable[[Any, Any, int], tuple[Any, Any, Any]]


class Source(Protocol):
    """Yields the frames of one stream, once, in order of presentation.

    Guaranteed to an implementation: one thread iterates, ``close`` is called at least once, perhaps from another
    thread while the first waits for a frame. Guaranteed by it: the iteration ends at the end of the stream or soon
    after ``close``; ``pts`` strictly increases; every frame has the size, depth and chroma of ``info``; a corrupt
    frame is counted and skipped; what cannot be read is a ``SourceError``. New sources are added to
    ``tests/test_sources.py``.
    """

    @property
    def info(self) -> StreamInfo:
        """What the stream promises."""
        ...

    @property
    def corrupt(self) -> int:
        """How many packets or frames could not be decoded so far."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether the stream ended before it said it would. Known once the iteration has ended."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, scaled or guessed, a sentence each."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Release everything. May be called again, and while another thread iterates."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_source(url: str, hwaccel: str | None = None, lent: Lent | None = None) -> Source:
    """Open a video file, URL, picture, folder of pictures, numbered sequence (``shot_%04d.png``) or ``-``.

    ``-`` is y4m on standard input, ``-:raw:1280x720:30:yuv420p`` bare samples there. ``hwaccel`` is a GPU that decodes
    videos, ``cuda:0``; None leaves it to the CPU. ``lent`` makes planes of pictures that stay there: of luma and pairs
    of chroma that know DLPack, and their depth; without it they come down.

    Raises:
        SourceNotFoundError: There is nothing under that name.
        SourceError: It is not a video or picture, or it cannot be decoded.
    """
    from vidseg.sources.pictures import PictureSource, is_pictures
    from vidseg.sources.pyav import PyAVSource
    from vidseg.sources.raw import RawSource, is_raw

    if is_raw(url):
        return RawSource(url)
    return PictureSource(url) if is_pictures(url) else PyAVSource(url, hwaccel=hwaccel, lent=lent)
