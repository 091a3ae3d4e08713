"""Whole jobs: one call that opens everything, runs the pipeline and leaves either a whole output or none."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack
from urllib.parse import unquote, urlsplit

from vidseg.backgrounds import Fit, TransparentBackground, open_background
from vidseg.batching import Opener, SharedEngines
from vidseg.compositor import Compositor
from vidseg.engine import has_gpu
from vidseg.errors import MissingDependencyError, SinkError, SourceError
from vidseg.images import process_pictures
from vidseg.pipeline import Interrupted, Pipeline, Progress, Stats
from vidseg.segmenter import SCALES, Segmenter
from vidseg.sinks import OutputOptions, open_sink
from vidseg.sinks.pictures import SUFFIXES, writing
from vidseg.sinks.pictures import is_pictures as writes_pictures
from vidseg.sinks.pyav import FORMATS
from vidseg.sinks.raw import NAME as STANDARD_OUTPUT
from vidseg.sources import open_source
from vidseg.sources.pictures import is_pictures as reads_pictures
from vidseg.sources.raw import is_raw

if TYPE_CHECKING:
    from vidseg.gpu.compositor import GpuCompositor

_BATCH_PIXELS = 17_000_000
"""A batch of frames waits in memory as a whole: eight of 1080p, two of 4K."""


def remove_background(
    source: str | PathLike[str],
    output: str | PathLike[str],
    background: str = "transparent",
    *,
    fit: Fit = "cover",
    model: str = "unet-s",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Stats:
    """Put another background behind the people in a video, a picture or a folder of pictures.

    ::

        vidseg.remove_background("talk.mp4", "out.mp4", background="beach.jpg")
        vidseg.remove_background("portrait.jpg", "portrait.png")

    Args:
        source: A video file or URL, a picture, or a folder of pictures.
        output: A file of the same kind, a folder for pictures.
        background: Picture, video, ``#rrggbb``, ``blur``, ``blur:STRENGTH`` or ``transparent``, which PNG, WebP, WebM
            and MOV can hold, and MP4 and JPEG cannot.
        fit: How a background of another shape is fitted: ``cover``, ``contain`` or ``stretch``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        overwrite: Whether ``output`` may be replaced.
        progress: Called about ten times a second.

    Raises:
        VidsegError: With one sentence for a person; nothing stands under ``output`` then.
        Interrupted: Ctrl-C; what was done is in a ``.partial`` file.
    """
    source, output = os.fspath(source), os.fspath(output)
    if are_pictures(source, output):
        return process_pictures(
            source,
            output,
            background,
            lambda: Segmenter(model, scales=SCALES, stream=False),
            fit=fit,
            overwrite=overwrite,
            progress=progress,
        )
    options = OutputOptions(overwrite=overwrite)
    return process_video(source, output, background, fit=fit, model=model, options=options, progress=progress)


def are_pictures(source: str, output: str) -> bool:
    """Return whether pictures become pictures, each by itself, and not the frames of a video."""
    numbered = "%" in os.path.basename(output)
    still = os.path.splitext(output)[1].lower() in SUFFIXES
    return reads_pictures(source) and not numbered and (still or writes_pictures(output))


class Choices(TypedDict, total=False):
    """What else can be chosen for a video; see ``process_video``."""

    fit: Fit
    model: str
    keep: Sequence[str]
    runtime: str
    threads: int | None
    options: OutputOptions | None
    smooth: bool
    decontaminate: bool
    device: str
    hwaccel: str


def process_video(
    source: str,
    output: str,
    background: str | None,
    *,
    fit: Fit = "cover",
    model: str = "unet-s",
    keep: Sequence[str] = (),
    runtime: str = "auto",
    threads: int | None = None,
    options: OutputOptions | None = None,
    smooth: bool = True,
    decontaminate: bool = True,
    progress: Callable[[Progress], None] | None = None,
    opener: Opener | None = None,
    device: str = "auto",
    hwaccel: str = "auto",
) -> Stats:
    """Write ``source`` to ``output`` with another background.

    Args:
        source: Video file, URL, folder of pictures, numbered sequence, or ``-`` for standard input.
        output: Video file, folder or numbered pattern for pictures, or ``-`` for standard output.
        background: Picture, video, ``#rrggbb``, ``blur``, ``blur:STRENGTH`` or ``transparent``; None writes the
            alpha itself, grey.
        fit: How a background of another shape is fitted.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        keep: What stays, of a model that tells classes apart; none is ``person``.
        runtime: ``auto``, or one of ``vidseg doctor``'s list.
        threads: For the network; None chooses.
        options: How the output is written.
        smooth: Whether the alpha is steadied in time.
        decontaminate: Whether the old background's colour is taken out of soft edges.
        progress: Called about ten times a second.
        opener: Opens engines, as for ``Segmenter``; frames are put together on the CPU then.
        device: Where frames are put together: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` takes an NVIDIA GPU where one
            works, and goes on on the CPU if it fails.
        hwaccel: Whether that GPU decodes, too, and hands frames to an encoder of its own: ``auto`` (what it can) or
            ``off``.

    Raises:
        VidsegError: With one sentence for a person; nothing stands under ``output`` then.
        Interrupted: Ctrl-C; what was done is in a ``.partial`` file.
    """
    options = options or OutputOptions()
    chosen = chosen_device(device, runtime) if opener is None else None
    with ExitStack() as stack:
        if chosen is None:
            opened = stack.enter_context(open_source(source))
        else:
            from vidseg.gpu.codecs import from_decoder, to_encoder
            from vidseg.gpu.uploads import Uploads

            decoder = chosen if hwaccel == "auto" else None
            opened = Uploads(stack.enter_context(open_source(source, decoder, from_decoder)), chosen)
        info = opened.info
        behind = None
        if background is not None:
            behind = open_background(
                background, fit, rotation=info.rotation, sample_aspect=info.sample_aspect, mirrored=info.mirrored
            )
            stack.callback(behind.close)
            transparent = isinstance(behind, TransparentBackground)
            options = replace(options, content="transparent" if transparent else "opaque")
        else:
            options = replace(options, content="grey", audio=False)

        def find(opener: Opener | None) -> Segmenter:
            segmenter = Segmenter(
                model,
                runtime,
                threads=threads,
                rotation=info.rotation,
                sample_aspect=info.sample_aspect,
                size=info.size,
                keep=keep,
                opener=opener,
            )
            stack.callback(segmenter.close)
            return segmenter

        soundless = reads_pictures(source) or is_raw(source) or writes_pictures(output)
        carried = None if soundless or not options.audio else source
        if chosen is None or hwaccel != "auto":
            sink = open_sink(output, info, options, source=carried)
        else:
            sink = open_sink(output, info, options, source=carried, device=chosen, lent=to_encoder)
        stack.callback(sink.abort)  # an interrupt may come before the pipeline owns it
        stage: Compositor | GpuCompositor
        if chosen is None:
            segmenter = find(opener)
            stage = Compositor(behind, segmenter, smooth=smooth, decontaminate=decontaminate)
            most = segmenter.batch
        else:
            from vidseg.gpu.compositor import BATCH, GpuCompositor
            from vidseg.gpu.device import opener as on_device

            def otherwise() -> Compositor:
                return Compositor(behind, find(None), smooth=smooth, decontaminate=decontaminate)

            segmenter = find(on_device(chosen))
            stage = GpuCompositor(
                behind,
                segmenter,
                device=chosen,
                smooth=smooth,
                decontaminate=decontaminate,
                leave=getattr(sink, "device", None) is not None,
                otherwise=otherwise if device == "auto" else None,
            )
            stack.callback(stage.close)
            most = BATCH
        batch = max(1, min(most, _BATCH_PIXELS // (info.size[0] * info.size[1])))
        stats = Pipeline(opened, stage, sink, batch=batch).run(progress, runtime=segmenter.runtime)
        return replace(
            stats,
            notes=(*stats.notes, *getattr(stage, "notes", ())),
            output=STANDARD_OUTPUT if is_raw(output) else output,
            model=segmenter.model,
            runtime=segmenter.runtime,
        )


def chosen_device(device: str, runtime: str = "auto") -> str | None:
    """Return the device that frames are put together on, or None for the CPU; see ``process_video``.

    Raises:
        EngineError: The device that was asked for cannot be used.
        MissingDependencyError: PyTorch, which it takes, is not installed.
    """
    if device == "cpu" or (device == "auto" and not has_gpu()):
        return None
    try:
        from vidseg.gpu.device import choose
    except ModuleNotFoundError as error:
        if device == "auto":
            return None
        raise MissingDependencyError(f"device {device}", "torch") from error
    return choose(device, runtime)


def matte_video(
    source: str,
    output: str,
    *,
    progress: Callable[[Progress], None] | None = None,
    **choices: Unpack[Choices],
) -> Stats:
    """Write the alpha of ``source`` to ``output`` as grey pictures; the arguments are those of ``process_video``."""
    return process_video(source, output, None, progress=progress, **choices)


# --- many videos ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of one of many videos: ``stats``, or the ``error`` that ended it.

    Attributes:
        source, output: Its names.
    """

    source: str
    output: str
    stats: Stats | None = None
    error: Exception | None = None


def process_videos(
    sources: Sequence[str],
    folder: str,
    background: str | None,
    *,
    at_once: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    finished: Callable[[Finished], None] | None = None,
    **choices: Unpack[Choices],
) -> list[Finished]:
    """Write each of ``sources`` into ``folder``, several at once, through one network that they share.

    Each comes out as ``process_video`` would write it alone; one that fails does not stop the others. It keeps its
    name, and its type where that can be written. Where a GPU puts the frames together, each fills batches by itself.

    Args:
        sources: Video files, URLs, folders of pictures or numbered sequences.
        folder: Made if it is not there; its parent is.
        background: As for ``process_video``.
        at_once: So many are worked on at the same time; None chooses by the number of cores.
        progress: Called about ten times a second, with the sum of all videos.
        finished: Is told of each as it ends. Both are called on this thread.
        choices: As for ``process_video``, for each.

    Returns:
        What became of each, in the order of ``sources``.

    Raises:
        SinkError: There can be no such folder, or two videos would have one name in it.
        EngineError: The device that was asked for cannot be used.
        ValueError: ``at_once`` is less than 1.
        Interrupted: Ctrl-C; what was done of those that were worked on is in ``.partial`` files.
    """
    if at_once is None:
        at_once = min(max(2, (os.cpu_count() or 1) // 4), 8)
    if at_once < 1:
        raise ValueError(f"at least one video is worked on at a time: {at_once = }")
    outputs = _names(sources, folder, transparent=background == "transparent")
    made, parent = not os.path.isdir(folder), Path(folder).parent
    if not parent.is_dir():
        raise SinkError(f"{folder} cannot be written: the folder {parent} does not exist", url=folder)
    with writing(folder):
        Path(folder).mkdir(exist_ok=True)
    try:
        on_gpu = chosen_device(choices.get("device", "auto"), choices.get("runtime", "auto")) is not None
        with SharedEngines() as engines:

            def work(source: str, output: str, report: Callable[[Progress], None]) -> Stats:
                return process_video(
                    source,
                    output,
                    background,
                    progress=report,
                    opener=None if on_gpu else engines.opener(live=False),
                    **choices,
                )

            crew = _Crew(work, list(zip(sources, outputs, strict=True)), at_once)
            return crew.run(progress, finished)
    finally:
        if made:
            with suppress(OSError):  # not empty: that is how it should be
                os.rmdir(folder)


def _names(sources: Sequence[str], folder: str, *, transparent: bool) -> list[str]:
    """Return where each of ``sources`` goes.

    Raises:
        SinkError: Two of them would be one file.
        SourceError: One is standard input.
    """
    outputs: list[str] = []
    taken: dict[str, str] = {}
    for source in sources:
        if is_raw(source):
            raise SourceError("standard input has no name that it could keep: give INPUT and OUTPUT", url=source)
        path = Path(unquote(urlsplit(source).path) if "://" in source else source)
        suffix = path.suffix.lower()
        if suffix not in FORMATS or (transparent and FORMATS[suffix] not in ("webm", "mov", "matroska")):
            suffix = ".webm" if transparent else ".mp4"
        stem = path.stem.partition("%")[0].rstrip("_-. ") or "video"
        output = os.path.join(folder, stem + suffix)
        if (other := taken.setdefault(output.lower(), source)) is not source or output in outputs:
            # Some file systems do not tell A from a.
            raise SinkError(f"{other} and {source} would both become {output}: give them in two runs", url=output)
        outputs.append(output)
    return outputs


class _Crew:
    """Threads that take one video after another.

    Args:
        work: Does one: ``(source, output, report) -> stats``.
        jobs: Source and output of each.
        hands: How many threads.
    """

    def __init__(
        self,
        work: Callable[[str, str, Callable[[Progress], None]], Stats],
        jobs: Sequence[tuple[str, str]],
        hands: int,
    ) -> None:
        self._work, self._jobs = work, jobs
        self._left = deque(range(len(jobs)))
        self._reports: dict[int, Progress] = {}
        self._ended: queue.SimpleQueue[tuple[int, Finished]] = queue.SimpleQueue()
        self._partial: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"vidseg-video-{number}", daemon=True)
            for number in range(min(hands, len(jobs)))
        ]

    def run(
        self, progress: Callable[[Progress], None] | None, finished: Callable[[Finished], None] | None
    ) -> list[Finished]:
        """Do all; see ``process_videos``."""
        start = time.perf_counter()
        done: dict[int, Finished] = {}
        try:
            for thread in self._threads:
                thread.start()
            while len(done) < len(self._jobs):
                with suppress(queue.Empty):
                    index, end = self._ended.get(timeout=0.1)
                    done[index] = end
                    if finished is not None:
                        finished(end)
                if progress is not None:
                    progress(self._sum(len(done), time.perf_counter() - start))
        except KeyboardInterrupt:
            self._end()
            kept = f"what was done can be played: {' and '.join(sorted(self._partial))}" if self._partial else ""
            raise Interrupted(*sorted(self._partial)[:1] or (None,), kept=kept) from None
        finally:
            self._end()
        return [done[index] for index in range(len(self._jobs))]

    def _sum(self, done: int, seconds: float) -> Progress:
        reports = list(self._reports.values())
        frames = sum(report.frames for report in reports)
        begun = len(reports) == len(self._jobs) and all(report.total for report in reports)
        return Progress(
            frames=frames,
            total=sum(report.total for report in reports) if begun else 0,
            fps=frames / max(seconds, 1e-6),
            seconds=sum(report.seconds for report in reports),
            runtime=f"{done} of {len(self._jobs)} videos",
        )

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                index = self._left.popleft()
            except IndexError:
                return
            source, output = self._jobs[index]

            def report(progress: Progress, index: int = index) -> None:
                self._reports[index] = progress
                if self._stop.is_set():
                    raise KeyboardInterrupt  # how a pipeline is told to keep what it has

            try:
                end = Finished(source, output, stats=self._work(source, output, report))
            except Interrupted as error:
                if error.partial is not None:
                    self._partial.append(error.partial)
                return
            except Exception as error:
                end = Finished(source, output, error=error)
            self._ended.put((index, end))
