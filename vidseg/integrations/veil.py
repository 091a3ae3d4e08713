"""Veil: a frame in, the same with another background out, or the background alone; the room, never."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from vidseg.backgrounds import Background, BlurBackground, Fit, open_background
from vidseg.compositor import compose
from vidseg.engine import load_spec
from vidseg.errors import VidsegError
from vidseg.frame import Frame, FullAlpha, allocate
from vidseg.live.budget import Rung
from vidseg.live.card import draw_card
from vidseg.live.settings import Settings, SubjectName
from vidseg.live.sight import Sight
from vidseg.segmenter import Matte, Segmenter

log = logging.getLogger(__name__)

_RUNG = Rung()


class Veil:
    """Hides the room behind the people in the frames of one live stream.

    Fails closed: while the network is not open yet, when it fails, and when its mask cannot be true, the frame becomes
    the background alone; where the background is the room itself, out of focus, a plain card. It then tries again.

    One thread at a time calls; ``still`` and ``change`` may come from any other.

    Args:
        background: A picture, a video, ``#rrggbb``, ``blur`` or ``blur:STRENGTH``.
        fit: How a picture of another shape is fitted: ``cover``, ``contain`` or ``stretch``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        subject: Who is kept of several people: ``all``, ``largest`` or ``center``.
        smoothing: Time constant of the mask in seconds; 0 is none.
        threads: For the network.
        wait: Whether the first frame waits until the network is open; else a thread opens it, and until then there is
            the background alone.
        open_segmenter: Opens the network for frames like the given one, instead of ``model``.

    Raises:
        SourceError: There is no such background, or it cannot be read.
        EngineError: There is no such model.
        ValueError: The background is transparent, or an argument is out of its range.
    """

    def __init__(
        self,
        background: str = "blur",
        *,
        fit: Fit = "cover",
        model: str = "unet-s",
        subject: SubjectName = "all",
        smoothing: float = 0.12,
        threads: int = 1,
        wait: bool = False,
        open_segmenter: Callable[[Frame], Segmenter] | None = None,
    ) -> None:
        self._settings = Settings(background, fit, model, smoothing, subject=subject)
        self._threads, self._wait = threads, wait
        if open_segmenter is None:
            load_spec(model)
        self._open = open_segmenter or self._opened
        self._background = _open(background, fit)
        self._retired: list[Background] = []
        self._lock = threading.Lock()
        self._sight: Sight | None = None
        self._warming: threading.Thread | None = None
        self._alone: tuple[Background, Frame] | None = None
        self.shown = 0
        """Frames that show the people."""
        self.hidden = 0
        """Frames that became the background alone."""

    def __call__(self, frame: Frame) -> Frame:
        """Return a new frame, of the kind and time of ``frame``, which is not changed.

        Raises:
            VidsegError: The network cannot be opened, and the first frame waits for that.
        """
        with self._lock:
            background, settings = self._background, self._settings
            retired, self._retired = self._retired, []
        for old in retired:
            old.close()
        sight = self._sight
        if sight is None:
            sight = self._sight = Sight(lambda: self._open(frame))
            if self._wait:
                sight.warm(frame)
            else:
                self._warming = threading.Thread(
                    target=self._warm, args=(sight, frame), name="vidseg-veil", daemon=True
                )
                self._warming.start()
        try:
            if self._alone is None or self._alone[0] is not background or not _is_like(self._alone[1], frame):
                self._alone = background, _render(background, frame)
            if self._warming is not None and self._warming.is_alive():
                return self._hide(frame)
            seen = sight(frame, _RUNG, settings)
            done = compose(frame, Matte(seen.alpha, seen.guide), background)
        except Exception as error:
            if not isinstance(error, VidsegError):
                log.debug("A frame is not shown", exc_info=error)
            return self._hide(frame)
        self.shown += 1
        return done

    def still(self, frame: Frame) -> Frame:
        """Return the background alone, of the kind and time of ``frame``; a card before the first call."""
        alone = self._alone
        still = alone[1] if alone is not None and _is_like(alone[1], frame) else draw_card("One moment", frame)
        return replace(still, pts=frame.pts, time_base=frame.time_base, duration=frame.duration)

    def change(self, background: str, fit: Fit | None = None) -> None:
        """Show another background from the next frame on.

        Raises:
            SourceError: There is no such background, or it cannot be read; all stays as it was.
            ValueError: It is transparent.
        """
        fit = fit or self._settings.fit
        opened = _open(background, fit)
        with self._lock:
            self._retired.append(self._background)
            self._background = opened
            self._settings = replace(self._settings, background=background, fit=fit)

    def close(self) -> None:
        """Release everything. May be called again; not while a frame is made."""
        if self._warming is not None:
            self._warming.join()
        with self._lock:
            parts: list[Background | Sight] = [*self._retired, self._background]
        if self._sight is not None:
            parts.append(self._sight)
        for part in parts:
            part.close()

    def _hide(self, frame: Frame) -> Frame:
        self.hidden += 1
        return self.still(frame)

    def _warm(self, sight: Sight, frame: Frame) -> None:
        try:
            sight.warm(frame)
        except Exception as error:
            # A later frame tries again, and says it.
            log.debug("The network did not open", exc_info=error)

    def _opened(self, frame: Frame) -> Segmenter:
        return Segmenter(self._settings.model, threads=self._threads, size=frame.size)


def _open(background: str, fit: Fit) -> Background:
    if background.strip().lower() == "transparent":
        raise ValueError("a live picture cannot be transparent: give a picture, a video, a colour or blur")
    return open_background(background, fit)


def _is_like(one: Frame, other: Frame) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("size", "color", "depth", "subsampled"))


def _render(background: Background, frame: Frame) -> Frame:
    """Return ``background`` where there is nobody; a card for one that is made of the room."""
    if isinstance(background, BlurBackground):
        return draw_card("One moment", frame)
    alpha: FullAlpha = allocate(frame.size)[0]  # type: ignore[assignment]
    alpha[...] = 0
    return background.render(frame, alpha)
