"""Explain a picture or a clip: everything is opened, looked at, drawn, and written whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from vidseg.color import planes_from_rgb, rgb_from_planes
from vidseg.compositor import Compositor
from vidseg.decoding import is_animated, to_depth
from vidseg.errors import OutputExistsError, SinkError, SourceError
from vidseg.explaining.drawing import sheet
from vidseg.explaining.evidence import Method, check_method, occlusion, target_of
from vidseg.explaining.explanation import Evidence, Explanation
from vidseg.explaining.looks import Onlooker, Rgb
from vidseg.explaining.page import page
from vidseg.frame import Alpha, Color, Frame, FullAlpha, StreamInfo
from vidseg.light import convert_light
from vidseg.pipeline import Progress
from vidseg.resize import shrink_planes
from vidseg.segmenter import SCALES, Segmenter
from vidseg.sinks import OutputOptions, open_sink
from vidseg.sinks.pictures import SUFFIXES, encode_picture, writing
from vidseg.sources import Source, open_source
from vidseg.sources.pictures import is_pictures

PAGES = (".html", ".htm")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm")
_LONG_SIDE = 1280
"""Pictures are explained at this size at most; networks see less."""
_PANEL = 640
_MOMENTS = 12
"""Most pictures of a clip on a page."""
_BT709 = Color("bt709", False, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Explained:
    """What was done.

    Attributes:
        output: What was written.
        model: Name of the model.
        runtime: What computed.
        method: How the evidence was found.
        target: What was asked about.
        size: Height and width of the picture, upright.
        frames: How many were looked at.
        seconds: How long it took.
        moments: Numbers of each picture that has its own evidence, see ``Explanation.numbers``.
    """

    output: str
    model: str
    runtime: str
    method: Method
    target: str
    size: tuple[int, int]
    frames: int
    seconds: float
    moments: tuple[dict[str, float], ...]


def default_output(source: str) -> str:
    """Return where the page goes if nothing is said: beside the input, or here if that is no file."""
    path = Path(source)
    name = f"{path.stem or 'input'}.explained.html"
    return str(path.with_name(name)) if path.exists() else name


def explain(
    source: str,
    output: str | None = None,
    *,
    model: str | Path = "unet-s",
    keep: Sequence[str] = (),
    runtime: str = "auto",
    threads: int | None = None,
    method: Method = "occlusion",
    at: tuple[float, float] | None = None,
    every: float = 1.0,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Explained:
    """Write what a model makes of ``source``, how sure it is, and what that hangs on.

    Args:
        source: A picture, or a video.
        output: ``.html``, or a picture (for a picture), or a video (for a video); None is ``default_output``.
        model: Shipped model's name, a folder with a manifest, or an ONNX file.
        keep: What stays, of a model that tells classes apart; none is ``person``.
        runtime: ``auto``, or one of ``vidseg doctor``'s list.
        threads: For the network; None chooses.
        method: How the evidence is found.
        at: The pixel that is asked about, x and y in the upright picture; None is the person.
        every: Of a video, seconds from one search for evidence to the next: it takes a hundred times longer than a
            look.
        overwrite: Whether ``output`` may be replaced.
        progress: Called after each frame.

    Raises:
        SourceError: It cannot be read, or ``at`` lies outside of it.
        SinkError: ``output`` cannot be written, or not in that form.
        EngineError: The model cannot be run, or has no gradients that were asked for.
    """
    begun = time.monotonic()
    output = output or default_output(source)
    alone = _check(source, output, overwrite)
    with ExitStack() as stack:
        onlooker = stack.enter_context(closing(Onlooker(model, runtime, threads, keep)))
        check_method(method, onlooker.spec)
        opened = stack.enter_context(open_source(source))
        examiner = _Examiner(onlooker, method, at)
        segmenter = stack.enter_context(closing(_segmenter(model, runtime, threads, keep, opened.info, alone)))
        examiner.attach(segmenter, opened.info, not alone)
        suffix = Path(output).suffix.lower()
        if suffix in VIDEOS:
            numbers, target = _video(opened, examiner, output, every, overwrite, progress, stack)
        else:
            shown = list(_moments(opened, examiner, every, alone, progress))
            numbers, target = [one.numbers for one in shown], shown[0].evidence.target
            if suffix in PAGES:
                data = page(Path(source).name, _facts(onlooker, shown), shown).encode("utf-8")
            else:
                data = encode_picture(suffix, sheet(shown[0], min(_PANEL, shown[0].rgb.shape[1])), name=output)
            _publish(output, data)
        return Explained(
            output,
            onlooker.spec.name,
            onlooker.runtime,
            method,
            target,
            examiner.size,
            examiner.frames,
            time.monotonic() - begun,
            tuple(numbers),
        )


def _check(source: str, output: str, overwrite: bool) -> bool:
    """Return whether ``source`` is one picture; refuse an output that cannot be."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if suffix not in (*PAGES, *VIDEOS, *SUFFIXES):
        raise SinkError(f"{output} cannot be written: name an .html, .png, .jpg, .webp, .mp4 or .mkv file", url=output)
    if os.path.isdir(source):
        raise SourceError(f"{source} is a folder: name one picture or one video in it", url=source)
    alone = os.path.isfile(source) and is_pictures(source) and not is_animated(source)
    if alone and suffix in VIDEOS:
        raise SinkError(f"{output} is a video, but {source} is one picture: name .html or .png", url=output)
    if not alone and suffix in SUFFIXES:
        raise SinkError(f"{output} is one picture, but {source} is none: name .html or .mp4", url=output)
    if not path.absolute().parent.is_dir():
        raise SinkError(f"{output} cannot be written: the folder {path.parent} does not exist", url=output)
    if path.is_dir():
        raise SinkError(f"{output} is a folder: choose another name", url=output)
    if path.exists() and os.path.exists(source) and path.samefile(source):
        raise SinkError(f"{output} is the input: choose another name", url=output)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{output} exists already: give --overwrite or another name", url=output)
    return alone


def _segmenter(
    model: str | Path, runtime: str, threads: int | None, keep: Sequence[str], info: StreamInfo, alone: bool
) -> Segmenter:
    return Segmenter(
        model,
        runtime,
        threads=threads,
        rotation=info.rotation,
        sample_aspect=info.sample_aspect,
        scales=SCALES if alone else (1.0,),
        keep=keep,
        stream=not alone,
    )


class _Examiner:
    """Turns frames into explanations; remembers the evidence that was found last."""

    def __init__(self, onlooker: Onlooker, method: Method, at: tuple[float, float] | None) -> None:
        self.onlooker, self.frames, self.size = onlooker, 0, (0, 0)
        self._method, self._at = method, at
        self._gradcam: Callable[..., Alpha] | None = None

    def attach(self, segmenter: Segmenter, info: StreamInfo, moving: bool) -> None:
        """Explain the frames of a stream with this ``info``."""
        self._compositor, self._info = Compositor(None, segmenter, smooth=moving), info

    def written(self, frame: Frame) -> FullAlpha:
        """Return the alpha that vidseg writes for ``frame``, upright."""
        self.frames += 1
        return self._upright(self._compositor([frame])[0].planes[0].astype(np.uint8, copy=False))

    def picture(self, frame: Frame) -> Rgb:
        """Return ``frame`` upright, as SDR R'G'B', at ``_LONG_SIDE`` at most."""
        height, width = frame.size[0], frame.size[1] * float(self._info.sample_aspect)
        share = min(1.0, _LONG_SIDE / max(height, width))
        planes = shrink_planes(frame, (max(round(height * share), 1), max(round(width * share), 1)))
        deep = rgb_from_planes(planes, frame.color, frame.depth, bits=16 if frame.depth > 8 else 8)
        rgb = to_depth(convert_light(deep, frame.color, Color()), 8)
        turned = self._info.rotation % 180 == 90
        self.size = (round(width), round(height)) if turned else (round(height), round(width))
        return np.ascontiguousarray(self._upright(cast("Rgb", rgb)))

    def _upright(self, pixels: Rgb) -> Rgb:
        turned = np.rot90(pixels, self._info.rotation // 90)
        return turned[:, ::-1] if self._info.mirrored else turned

    def __call__(self, frame: Frame, written: FullAlpha, evidence: Evidence | None = None) -> Explanation:
        """Explain ``frame``; without ``evidence`` that is searched for."""
        rgb = self.picture(frame)
        opinion = self.onlooker.opinion(rgb)
        found = evidence or self._search(rgb, opinion.first, frame.time)
        return Explanation(rgb, opinion, found, written, frame.time)

    def _search(self, rgb: Rgb, alpha: Alpha, moment: float) -> Evidence:
        height, width = self.size
        if self._at is not None and not (0 <= self._at[0] < width and 0 <= self._at[1] < height):
            x, y = (f"{part:g}" for part in self._at)
            name = self._info.name or "the picture"
            raise SourceError(f"the point {x},{y} lies outside {name}, which is {width}x{height}", url=name)
        at = None if self._at is None else (self._at[0] / width, self._at[1] / height)
        pixels, target = target_of(alpha, at)
        src = self.onlooker.input(rgb, alpha.shape)
        if self._method == "occlusion":
            return Evidence(occlusion(self.onlooker.alphas, src, pixels), target, pixels, "occlusion", moment)
        if self._gradcam is None:
            from vidseg.explaining.gradcam import GradCam

            self._gradcam = GradCam(self.onlooker.spec)
        return Evidence(self._gradcam(src, pixels), target, pixels, "gradcam", moment)


class _Reporter:
    def __init__(self, opened: Source, examiner: _Examiner, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._examiner, self._progress = opened.info.frames, examiner, progress
        self._start = time.monotonic()

    def __call__(self, frame: Frame) -> None:
        if self._progress is not None:
            done, seconds = self._examiner.frames, time.monotonic() - self._start
            runtime = self._examiner.onlooker.runtime
            self._progress(Progress(done, self._total, done / max(seconds, 1e-9), frame.time, runtime))


def _moments(
    opened: Source, examiner: _Examiner, every: float, alone: bool, progress: Callable[[Progress], None] | None
) -> Iterator[Explanation]:
    """Yield explanations of a clip, evenly over it and at most ``_MOMENTS``, or the one of a picture."""
    report = _Reporter(opened, examiner, progress)
    chosen: list[tuple[Frame, FullAlpha]] = []
    gap, due = every, -1.0
    for frame in opened:
        written = examiner.written(frame)
        if frame.time >= due:
            chosen.append((frame, written))
            due = frame.time + gap - 1e-6
            if len(chosen) > _MOMENTS:  # twice as far apart
                chosen, gap = chosen[::2], 2 * gap
                due = chosen[-1][0].time + gap - 1e-6
        report(frame)
        if alone:
            break
    if not chosen:
        raise SourceError(f"{opened.info.name} has no frame that can be read", url=opened.info.name)
    for frame, written in chosen:
        yield examiner(frame, written)
        report(frame)


def _video(
    opened: Source,
    examiner: _Examiner,
    output: str,
    every: float,
    overwrite: bool,
    progress: Callable[[Progress], None] | None,
    stack: ExitStack,
) -> tuple[list[dict[str, float]], str]:
    """Write the sheet of every frame; returns the numbers of those that have their own evidence, and its target."""
    report = _Reporter(opened, examiner, progress)
    sink, evidence, due = None, None, -1.0
    numbers: list[dict[str, float]] = []
    for frame in opened:
        fresh = evidence is None or frame.time >= due
        one = examiner(frame, examiner.written(frame), None if fresh else evidence)
        if fresh:
            evidence, due = one.evidence, frame.time + every - 1e-6
            numbers.append(one.numbers)
        pixels = sheet(one, min(_PANEL, one.rgb.shape[1] // 2 * 2))
        if sink is None:
            info = StreamInfo(
                (pixels.shape[0], pixels.shape[1]), opened.info.fps, frame.time_base, _BT709, name=opened.info.name
            )
            sink = open_sink(output, info, OutputOptions(overwrite=overwrite, audio=False))
            stack.callback(sink.abort)
        planes = planes_from_rgb(pixels, _BT709)
        sink.write(Frame(planes, frame.pts, frame.time_base, _BT709, duration=frame.duration))
        report(frame)
    if sink is None or evidence is None:
        raise SourceError(f"{opened.info.name} has no frame that can be read", url=opened.info.name)
    sink.commit()
    return numbers, evidence.target


def _facts(onlooker: Onlooker, shown: Sequence[Explanation]) -> dict[str, str]:
    height, width = shown[0].opinion.alpha.shape
    found = shown[0].evidence
    methods = {"occlusion": "occlusion (Zeiler and Fergus 2014)", "gradcam": "Grad-CAM (Selvaraju et al. 2017)"}
    return {
        "Model": f"{onlooker.spec.name}: {onlooker.spec.summary}",
        "Runtime": onlooker.runtime,
        "Input": f"{width}x{height}",
        "Looks": "plain, mirrored, three quarters and one and a half of the size, moved up, down, left and right"
        if onlooker.spec.resizable
        else "plain, mirrored, moved up, down, left and right",
        "Evidence": f"{methods[found.method]}, about {found.target}",
        "Outline": "the alpha that vidseg writes, at one half",
    }


def _publish(output: str, data: bytes) -> None:
    """Write a whole file or none."""
    path = Path(output)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(output):
            hidden.write_bytes(data)
            os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
