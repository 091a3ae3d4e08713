"""LiveSession: a camera in, pictures with another background out, for as long as somebody wants; never the room.

::

    camera ─ Intake ─→ newest frame ─→ worker: fit, Sight (Matter, Guard), compose ─→ Output ─→ each sink on its thread

The calling thread is the output's clock: whenever the worker has nothing to show it repeats the last picture for a
moment, then shows the background alone, or a card. Only two things are ever handed to the output: a picture that
``compose`` made of a frame and that frame's own mask (or the mask carried to it), and what was made without a frame.
With the background ``none``, and only then, a frame itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal

from vidseg.backgrounds import Background, BlurBackground, fit_frame, open_background
from vidseg.color import black
from vidseg.compositor import Restage, compose
from vidseg.engine import load_spec
from vidseg.errors import EngineError, OutputClosedError, SourceError, VidsegError
from vidseg.frame import Alpha, Color, Frame, Size, StreamInfo, allocate
from vidseg.framing import Framer
from vidseg.live.budget import Budget, Rung, ladder
from vidseg.live.card import draw_card
from vidseg.live.intake import Clock, Intake, Taken
from vidseg.live.latency import Latency
from vidseg.live.output import TIME_BASE, Outlet, Output
from vidseg.live.settings import Settings
from vidseg.live.sight import Sight
from vidseg.placement import WHOLE, crop, mirror, place
from vidseg.segmenter import Matte, Segmenter
from vidseg.sources import Source

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds for which the last picture is repeated before something is shown that says nobody is there."""
LATE = 1.0
"""Seconds after which a frame is too old to be shown."""
IDLE = 0.5
"""Seconds between two pictures while nobody looks or the session is paused: whoever comes soon gets one."""
_USUAL = 720, 1280
_SUSPENDED = 5.0
"""Seconds that a wait of half a second may seem to take before it counts as a jump of the clock."""

OnFailure = Literal["background", "hold", "stop"]


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What stays as it is for the whole of a session.

    Attributes:
        on_failure: What is shown while there is no mask to trust, or no camera: the ``background``, the last good
            picture (``hold``), or nothing any more: the session ends with an error (``stop``).
        sync: ``strict``: a frame is shown with its own mask. ``fast``: a mask may be carried to it by motion.
        target_fps: Rate of the output, and what the budget keeps.
        max_cpu: Cores; None is no limit.
        size: ``(h, w)`` of the output; None is the camera's, which is opened before the outputs then, and has to be
            there.
        color: Of the output where ``size`` is given.
        runtime: See ``open_engine``.
        threads: For the network; None is one, at which it costs least.
        keep: What stays, of a model that tells classes apart.
    """

    on_failure: OnFailure = "background"
    sync: Literal["strict", "fast"] = "strict"
    target_fps: float = 30.0
    max_cpu: float | None = None
    size: Size | None = None
    color: Color = field(default_factory=lambda: Color("bt601"))
    runtime: str = "auto"
    threads: int | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """How a session goes.

    Attributes:
        showing: ``people``, the ``background`` alone, a ``card``, the ``last`` good picture, or the ``room``.
        camera: ``off``, ``opening``, ``on`` or ``lost``.
        reason: Why there is no camera or no mask; empty if all is well.
        fps: Pictures of people a second, lately.
        frames: Pictures of people so far.
        dropped: Frames of the camera that were not used, because a newer one was there.
        refused: Masks that could not be of the people in their picture.
        failures: Times that the network failed.
        openings: Times that the camera was opened.
        latency: ``{stage: {"p50", "p95", "p99"}}`` in ms, of the last seconds. ``total`` is from the camera's time
            until the first output was written; ``added`` from when the frame was here.
        cpu: Cores that the process uses, lately.
        rung: What is spent on a frame.
        wanted: Whether somebody looks.
        outputs: ``open``, or why not.
        model, runtime: What computes; empty while nothing does.
    """

    showing: str
    camera: str
    reason: str
    fps: float
    frames: int
    dropped: int
    refused: int
    failures: int
    openings: int
    latency: Mapping[str, Mapping[str, float]]
    cpu: float
    rung: str
    wanted: bool
    outputs: Mapping[str, str]
    model: str
    runtime: str


@dataclass(frozen=True, slots=True)
class LiveStats:
    """What a finished session did; see ``LiveStatus``.

    Attributes:
        seconds: It took.
        shown: Pictures of any kind.
        stages: ``{stage: {"p50", "p95", "p99"}}`` in ms, of the whole session.
        notes: Sentences for a person.
    """

    frames: int
    shown: int
    seconds: float
    dropped: int
    refused: int
    failures: int
    openings: int
    stages: Mapping[str, Mapping[str, float]]
    model: str
    runtime: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What settings mean, opened. The next one shares what is the same in it.

    Attributes:
        settings: These.
        background: What is put behind people; None is the room itself.
        sight: What finds them.
        still: Shown where there are none: the background alone, or None where that would be the room.
    """

    settings: Settings
    background: Background | None
    sight: Sight
    still: Frame | None


class LiveSession:
    """One camera, its pictures with another background, one or more outputs. ``run`` blocks; the rest is for others.

    Args:
        open_camera: Opens it, as often as needed.
        outlets: Where the pictures go.
        settings: What is shown at first.
        options: What stays.
        wanted: Whether somebody looks: while not, the camera is closed and nothing is computed. Asked often, so it has
            to be cheap; ``wake`` makes it be asked at once.
        note: Takes a sentence for a person, on any thread.
        open_segmenter: Opens the network that settings name; for tests.
        clock: Seconds, of ``time.monotonic`` unless this is a test.
    """

    def __init__(
        self,
        open_camera: Callable[[], Source],
        outlets: Sequence[Outlet],
        settings: Settings,
        options: LiveOptions | None = None,
        *,
        wanted: Callable[[], bool] = lambda: True,
        note: Callable[[str], None] = log.info,
        open_segmenter: Callable[[Settings], Segmenter] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._options = options or LiveOptions()
        self._outlets, self._wanted, self._note, self._clock = outlets, wanted, note, clock
        self._open_segmenter = open_segmenter or self._opened
        self._settings = settings
        self._timings = Latency()
        self._intake = Intake(open_camera, clock, self._timings)
        self._budget = Budget(
            self._options.max_cpu, self._options.target_fps, ladder(self._options.sync), self._stepped
        )
        self._framer = Framer()
        self._interval = 1 / self._options.target_fps
        self._like: Frame | None = None  # the kind of picture that goes out
        self._output: Output | None = None
        self._look: _Look | None = None
        self._retired: list[Background | Sight] = []
        self._changing = threading.Lock()  # one change at a time
        self._swap = threading.Lock()  # a look is not changed while a picture of it is handed over
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._ready = threading.Event()  # to use frames
        self._error: BaseException | None = None
        self._composite: Frame | None = None
        self._composed_at = -1.0
        self._cards: dict[str, Frame] = {}
        self._showing = "background"
        self._was_wanted = False
        self._frames = self._refused = self._failures = 0
        self._late = 0
        self._due = 0.0
        self._seen: StreamInfo | None = None  # of the camera that the last frame came from
        self._rates = _Rates()
        self._notes: tuple[str, ...] = ()

    # --- for other threads --------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return self._settings

    def stop(self) -> None:
        """End the run, soon. From any thread, and from a signal handler."""
        self._stop.set()
        self._woken.set()

    def wake(self) -> None:
        """Ask ``wanted`` now."""
        self._woken.set()

    def change(self, settings: Settings) -> None:
        """Show something else from the next frame on; what is shown until then stays.

        Raises:
            VidsegError, ValueError: It cannot be opened; then all stays as it is.
        """
        with self._changing:
            _check(settings)
            before = self._look
            if before is None or self._like is None:  # not running yet
                self._settings = settings
                return
            look = self._looked(settings, before, before.sight)
            try:
                # That of the look before is not in use while the room is shown.
                if look.sight is not before.sight or (before.background is None and not look.sight.is_open):
                    look.sight.warm(self._like)
            except BaseException:
                self._close_parts(look, before)
                raise
            with self._swap:
                if settings.paused or before.background is None:
                    self._composite = None
                self._look, self._settings = look, settings
                self._retired += [part for part in _parts(before) if part not in _parts(look)]
            self._woken.set()

    def status(self) -> LiveStatus:
        """Return how it goes."""
        look, output, intake = self._look, self._output, self._intake
        failing = look.sight.failing if look is not None else None
        return LiveStatus(
            showing=self._showing,
            camera=intake.state,
            reason=intake.reason or (str(failing) if failing else ""),
            fps=round(self._rates.fps, 1),
            frames=self._frames,
            dropped=intake.frames.dropped + self._late,
            refused=self._refused + (look.sight.refused if look is not None else 0),
            failures=self._failures + (look.sight.failures if look is not None else 0),
            openings=intake.openings,
            latency=self._timings.recent(),
            cpu=round(self._rates.cpu, 3),
            rung=str(self._budget.rung),
            wanted=self._was_wanted,
            outputs=output.states() if output is not None else {},
            model=look.sight.model if look is not None else "",
            runtime=look.sight.runtime if look is not None else "",
        )

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[LiveStatus], None] | None = None) -> LiveStats:
        """Run until ``stop``, or until every output was closed by whoever looked.

        Args:
            progress: Called twice a second, on this thread.

        Raises:
            KeyboardInterrupt: After all was closed in order.
            VidsegError: An output, the background or the network cannot be opened; all outputs have failed; or
                something failed and ``on_failure`` is ``stop``.
        """
        began, settings = self._clock(), self._settings
        sight = Sight(partial(self._open_segmenter, settings), self._clock)
        worker = threading.Thread(target=self._work, args=(sight,), name="vidseg-worker", daemon=True)
        try:
            _check(settings)
            # The network is opened while the camera is.
            worker.start()
            self._intake.start()
            info = self._promise()
            if info is not None:
                with self._changing:
                    self._like = _blank(info)
                    self._look = self._looked(settings, None, sight)
                    later, self._settings = self._settings, settings
                if later is not settings:  # changed meanwhile
                    self.change(later)
                self._output = Output(self._outlets, info, self._clock, self._timings)
                self._fill(self._output, began)
                self._ready.set()
                self._tick(self._output, progress)
        finally:
            leftover = self._close(worker, sight)
        if self._error is not None and not isinstance(self._error, OutputClosedError):
            raise self._error
        if leftover:
            raise leftover[0]
        return self._stats(self._clock() - began)

    def _promise(self) -> StreamInfo | None:
        """Return what the output is like, for which the camera may have to be opened; None if it is stopped first."""
        size, color = self._options.size, self._options.color
        if size is None:
            self._intake.want(True)
            while not self._intake.wait(0.1):
                if self._stop.is_set() or self._error is not None:
                    return None
            info = self._intake.info
            if info is None:
                raise self._intake.error or SourceError("the camera was not opened")
            height, width = info.size if info.rotation % 180 == 0 else info.size[::-1]
            # 4:2:0 of even size is what virtual cameras and encoders take.
            size, color = (max(height // 2 * 2, 2), max(width // 2 * 2, 2)), info.color
            if color.matrix == "rgb" or color.transfer not in (1, 2, 6, 13, 14, 15):  # virtual cameras are SDR
                color = self._options.color
        fps = Fraction(self._options.target_fps).limit_denominator(1001)
        return StreamInfo(size, fps, TIME_BASE, color, live=True, name="vidseg")

    def _tick(self, output: Output, progress: Callable[[LiveStatus], None] | None) -> None:
        """Be the output's clock, and look after everything, until the end."""
        told = before = self._clock()
        while not self._stop.is_set():
            now = self._clock()
            if not 0 <= now - before < _SUSPENDED:
                self._intake.forgive()
            before = now
            wanted = self._wanted() and self._error is None
            paused = self._settings.paused
            self._look_after(wanted, paused)
            interval = self._interval if wanted and not paused else IDLE
            # A frame that is a little late is worth waiting for.
            patience = 1.5 * interval if self._showing in ("people", "room") else interval
            if now - output.last >= patience or now < output.last:
                self._fill(output, now)
                patience = interval
            if output.failed is not None:
                self._error = self._error or output.failed
            if self._error is not None:
                return
            if progress is not None and not 0 <= now - told < 0.5:
                told = now
                progress(self.status())
            self._woken.wait(min(max(output.last + patience - self._clock(), 0.001), IDLE))
            self._woken.clear()

    def _look_after(self, wanted: bool, paused: bool) -> None:
        """See to camera and failures."""
        if wanted != self._was_wanted:
            self._was_wanted = wanted
            self._budget.restart()
        self._intake.want(wanted and not paused)
        self._intake.watch()
        self._rates.update(self._frames)
        if not wanted or paused:
            with self._swap:  # whoever comes next is not shown somebody who may have left
                self._composite = None
            return
        if self._options.on_failure != "stop" or not self._frames or self._clock() - self._composed_at <= PATIENCE:
            return
        look = self._look
        error = look.sight.failing if look is not None else None
        if self._intake.state == "lost":
            error = self._intake.error or SourceError("the camera is lost")
        if error is not None:
            self._error = error if isinstance(error, VidsegError) else EngineError(f"the network failed: {error}")

    def _fill(self, output: Output, now: float) -> None:
        """Show something that needs no frame."""
        last = output.last
        with self._swap:
            look = self._look
            assert look is not None
            composite, age = self._composite, now - self._composed_at
            hold = self._options.on_failure == "hold"
            if composite is not None and not look.settings.paused and (0 <= age < PATIENCE or hold):
                people = "room" if look.background is None else "people"
                picture, showing = composite, people if 0 <= age < PATIENCE else "last"
            elif look.still is not None and not look.settings.paused:
                picture, showing = look.still, "background"
            else:
                picture, showing = self._card(look.settings.paused), "card"
            if output.show(picture, unless_since=last):
                self._showing = showing

    def _card(self, paused: bool) -> Frame:
        """Return a card that says why nobody is shown."""
        if paused:
            text = "Paused"
        elif self._intake.state == "lost":
            text = "No camera"
        elif self._intake.state == "on" and self._frames:
            text = "One moment"
        else:
            text = "Starting"
        if text not in self._cards:
            assert self._like is not None
            self._cards[text] = draw_card(text, self._like)
        return self._cards[text]

    def _close(self, worker: threading.Thread, sight: Sight) -> list[Exception]:
        """End all threads and close everything; returns what failed in that."""
        self._stop.set()
        ended = self._intake.close()
        self._ready.set()
        if worker.ident is not None:
            worker.join(5)
            ended &= not worker.is_alive()
        if not ended:
            log.error("A thread does not end: the camera or the network blocks it")
        failed: list[Exception] = []
        if self._output is not None:
            failed = self._output.close()
            self._notes = (*self._intake.notes, *self._output.notes())
        if not worker.is_alive():  # what a thread still uses is left to the end of the process
            for part in {sight, *self._retired, *(_parts(self._look) if self._look is not None else ())}:
                part.close()
        for error in failed:
            log.warning("An output was not finished: %s", error)
        return failed

    def _stats(self, seconds: float) -> LiveStats:
        status = self.status()
        return LiveStats(
            frames=self._frames,
            shown=self._output.shown if self._output is not None else 0,
            seconds=round(seconds, 3),
            dropped=status.dropped,
            refused=status.refused,
            failures=status.failures,
            openings=status.openings,
            stages=self._timings.percentiles(),
            model=status.model,
            runtime=status.runtime,
            notes=self._notes,
        )

    # --- looks --------------------------------------------------------------------------------------------------

    def _looked(self, settings: Settings, before: _Look | None, sight: Sight) -> _Look:
        """Return what ``settings`` mean, with all that is the same taken from the look before.

        Args:
            settings: New ones.
            before: None if there is none.
            sight: Of the model that was there before.
        """
        like = self._like
        assert like is not None
        old = before.settings if before is not None else None
        if before is not None and old is not None and (old.background, old.fit) == (settings.background, settings.fit):
            background, still = before.background, before.still
        else:
            background = None if _is_room(settings) else open_background(settings.background, settings.fit)
            still = None
            if background is not None and not isinstance(background, BlurBackground):
                alpha = allocate(like.size)[0]
                alpha[...] = 0
                still = background.render(like, alpha)  # type: ignore[arg-type]
        if old is not None and old.model != settings.model:
            sight = Sight(partial(self._open_segmenter, settings), self._clock)
        return _Look(settings, background, sight, still)

    def _opened(self, settings: Settings) -> Segmenter:
        """Open the network that settings name, for the output's frames."""
        options = self._options
        return Segmenter(settings.model, options.runtime, threads=options.threads or 1, keep=options.keep)

    def _close_parts(self, look: _Look, but: _Look) -> None:
        for part in _parts(look):
            if part not in _parts(but):
                part.close()

    # --- the worker ---------------------------------------------------------------------------------------------

    def _work(self, sight: Sight) -> None:
        try:
            if not _is_room(self._settings):
                # Most cameras are of this shape, and then it is the very network that is needed.
                sight.warm(_blank(StreamInfo(self._options.size or _USUAL, None, TIME_BASE)))
            self._ready.wait()
            while not self._intake.frames.closed:
                for taken in self._intake.frames.take(1, timeout=1.0):
                    self._use(taken)
                self._bury()
        except BaseException as error:
            self._error = self._error or error
            self._woken.set()

    def _bury(self) -> None:
        """Close what the last change has replaced; nobody uses it now."""
        with self._swap:
            retired, self._retired = self._retired, []
        for part in retired:
            if isinstance(part, Sight):
                self._refused += part.refused
                self._failures += part.failures
            part.close()

    def _use(self, taken: Taken) -> None:
        """Show one frame of the camera, if it is due and can be shown."""
        rung, at = self._budget.rung, taken.frame.time
        # Cameras are not punctual, and one of twice the rate sends a frame in the middle.
        interval = self._interval * rung.take
        if 0.4 * interval < self._due - at < 1:
            self._late += 1
            return
        self._due = max(self._due + interval, at) if abs(at - self._due) < 1 else at + interval
        look = self._look
        assert look is not None
        if look.settings.paused:  # the camera takes a moment to close
            return
        if taken.info is not self._seen:
            self._seen = taken.info
            look.sight.forget()
        start = self._clock()
        self._timings.add("wait", start - taken.arrived)
        try:
            picture = self._made(look, taken, rung)
        except Exception as error:
            if not isinstance(error, VidsegError):
                log.debug("A frame is not shown", exc_info=error)
            return
        finally:
            now = self._clock()
            self._budget(now, time.process_time(), now - start)
        now = self._clock()
        if not 0 <= now - taken.arrived <= LATE:
            self._late += 1
            return
        output = self._output
        assert output is not None
        with self._swap:
            if look is not self._look or self._stop.is_set() or not self._was_wanted:
                return  # something else is to be shown by now
            self._composite, self._composed_at = picture, now
            self._frames += 1
            self._showing = "people" if look.background is not None else "room"
            output.show(picture, at, taken.arrived)

    def _made(self, look: _Look, taken: Taken, rung: Rung) -> Frame:
        """Return the picture that a frame becomes.

        Raises:
            Exception: Whatever hinders that; then nothing of the frame may be shown.
        """
        settings, info, like = look.settings, taken.info, self._like
        assert like is not None
        with self._timings.measure("fit"):
            frame = fit_frame(taken.frame, like, "cover", info.rotation, info.sample_aspect, mirrored=info.mirrored)
        if look.background is None:
            if not settings.mirror:
                return frame
            return mirror(frame, allocate(frame.size)[0])[0]  # type: ignore[arg-type]
        with self._timings.measure("matte"):
            seen = look.sight(frame, rung, settings)
        moved: Restage | None = None
        if (settings.scale, settings.position) != (1.0, (0.0, 0.0)):
            moved = partial(place, scale=settings.scale, position=settings.position)
        reframe = self._reframing(settings, seen.alpha, frame.time)
        matte = Matte(seen.alpha, seen.guide)
        return compose(frame, matte, look.background, rung.refined, self._timings, reframe=reframe, place=moved)

    def _reframing(self, settings: Settings, alpha: Alpha, time: float) -> Restage | None:
        """Return how the picture is cropped and mirrored, or None if it is not."""
        window = WHOLE
        if settings.auto_frame:
            window = self._framer(alpha, time)
        else:
            self._framer.reset()
        if window == WHOLE:
            return mirror if settings.mirror else None
        if not settings.mirror:
            return partial(crop, window=window)
        return lambda frame, full: mirror(*crop(frame, full, window))

    def _stepped(self, rung: Rung, reason: str) -> None:
        self._note(f"{rung}: {reason}")


class _Rates:
    """Frames and CPU seconds a second, over the last two to four seconds."""

    def __init__(self) -> None:
        self._marks = [(time.monotonic(), 0, time.process_time())] * 2
        self.fps = self.cpu = 0.0

    def update(self, frames: int) -> None:
        now = time.monotonic()
        if now - self._marks[1][0] < 2 and now - self._marks[0][0] < 0.5:
            return
        began, count, cpu = self._marks[0]
        passed = max(now - began, 0.5)
        self.fps, self.cpu = (frames - count) / passed, (time.process_time() - cpu) / passed
        if now - self._marks[1][0] >= 2:
            self._marks = [self._marks[1], (now, frames, time.process_time())]


def _parts(look: _Look) -> list[Background | Sight]:
    return [look.sight] if look.background is None else [look.background, look.sight]


def _is_room(settings: Settings) -> bool:
    return settings.background.strip().lower() == "none"


def _check(settings: Settings) -> None:
    """Refuse what can be known to be wrong without opening anything.

    Raises:
        EngineError: There is no such model.
        ValueError: The background is transparent.
    """
    if settings.background.strip().lower() == "transparent":
        raise ValueError("a live picture cannot be transparent: give a picture, a colour, blur or none")
    load_spec(settings.model)


def _blank(info: StreamInfo) -> Frame:
    """Return a black frame of the kind that ``info`` promises."""
    planes = allocate(info.size)
    for plane, sample in zip(planes, black(info.color), strict=True):
        plane[...] = sample
    return Frame(planes, 0, info.time_base, info.color)
