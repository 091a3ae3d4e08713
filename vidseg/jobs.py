"""Whole jobs: one call that opens everything, runs the pipeline and leaves either a whole output or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike

from vidseg.backgrounds import Fit, TransparentBackground, open_background
from vidseg.compositor import Compositor
from vidseg.images import process_pictures
from vidseg.pipeline import Pipeline, Progress, Stats
from vidseg.segmenter import SCALES, Segmenter
from vidseg.sinks import OutputOptions, open_sink
from vidseg.sinks.pictures import SUFFIXES
from vidseg.sinks.pictures import is_pictures as writes_pictures
from vidseg.sinks.raw import NAME as STANDARD_OUTPUT
from vidseg.sources import open_source
from vidseg.sources.pictures import is_pictures as reads_pictures
from vidseg.sources.raw import is_raw

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

    Raises:
        VidsegError: With one sentence for a person; nothing stands under ``output`` then.
        Interrupted: Ctrl-C; what was done is in a ``.partial`` file.
    """
    options = options or OutputOptions()
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source))
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
        segmenter = Segmenter(
            model,
            runtime,
            threads=threads,
            rotation=info.rotation,
            sample_aspect=info.sample_aspect,
            size=info.size,
            keep=keep,
        )
        stack.callback(segmenter.close)
        compositor = Compositor(behind, segmenter, smooth=smooth, decontaminate=decontaminate)
        soundless = reads_pictures(source) or is_raw(source) or writes_pictures(output)
        carried = None if soundless or not options.audio else source
        sink = open_sink(output, info, options, source=carried)
        stack.callback(sink.abort)  # an interrupt may come before the pipeline owns it
        batch = max(1, min(segmenter.batch, _BATCH_PIXELS // (info.size[0] * info.size[1])))
        stats = Pipeline(opened, compositor, sink, batch=batch).run(progress, runtime=segmenter.runtime)
        return replace(
            stats,
            output=STANDARD_OUTPUT if is_raw(output) else output,
            model=segmenter.model,
            runtime=segmenter.runtime,
        )


def matte_video(
    source: str,
    output: str,
    *,
    model: str = "unet-s",
    keep: Sequence[str] = (),
    runtime: str = "auto",
    threads: int | None = None,
    options: OutputOptions | None = None,
    smooth: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Stats:
    """Write the alpha of ``source`` to ``output`` as grey pictures; the arguments are those of ``process_video``."""
    return process_video(
        source,
        output,
        None,
        model=model,
        keep=keep,
        runtime=runtime,
        threads=threads,
        options=options,
        smooth=smooth,
        progress=progress,
    )
