"""Still pictures: one, or a folder of them in all sizes, through the same path as video but without its time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from PIL import Image

from vidseg.backgrounds import Fit, TransparentBackground, open_background
from vidseg.compositor import Compositor
from vidseg.decoding import is_animated, picture_size, read_picture, to_depth
from vidseg.errors import OutputExistsError, SinkError, SourceError
from vidseg.frame import RGB, Frame, StreamInfo
from vidseg.pipeline import Pipeline, Progress, Stats
from vidseg.segmenter import Segmenter
from vidseg.sinks import Content, check_alpha
from vidseg.sinks.pictures import SUFFIXES, HiddenFolder, encode_picture, to_grey, to_rgb, writing
from vidseg.sources.pictures import is_pictures, list_pictures, to_frame

_INSTANT = Fraction(1, 10**9)  # seconds from one picture to the next: before a video, all of them get its beginning


def process_pictures(
    source: str,
    output: str,
    background: str | None,
    open_segmenter: Callable[[], Segmenter],
    *,
    fit: Fit = "cover",
    overwrite: bool = False,
    decontaminate: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Stats:
    """Write one picture, or each picture of a folder, with another background.

    Pictures keep their size and, in PNG, their 16 bits. Alpha that a picture has already is multiplied in.

    Args:
        source: A picture, a folder, a pattern (``shot_%04d.png``) or a glob.
        output: For one picture a PNG, WebP or JPEG file, or a folder; else a folder, in which every picture keeps its
            name. What is transparent or a matte becomes PNG there, and so does what has no format that can be written.
        background: As for ``process_video``; None writes the alpha itself, grey.
        open_segmenter: Called once, after all names were checked.
        fit: How a background of another shape is fitted.
        overwrite: Whether pictures that are there already may be replaced.
        decontaminate: Whether the old background's colour is taken out of soft edges.
        progress: Called about ten times a second.

    Returns:
        What was done; ``corrupt`` of the pictures of a folder could not be read, and ``notes`` names each of them.

    Raises:
        SourceNotFoundError: There is no such picture or folder.
        SourceError: None of the pictures can be read.
        OutputExistsError: A picture of that name is there, and ``overwrite`` is false.
        SinkError: It cannot be written there, or not in that form.
        Interrupted: Ctrl-C; what was done of a folder is in a ``.partial`` folder.
    """
    paths = list_pictures(source)
    if not is_pictures(source):
        raise SourceError(f"{source} is not a still picture: for a video use vidseg process", url=source)
    alone = os.path.isfile(source)
    with ExitStack() as stack:
        behind = None if background is None else stack.enter_context(closing(open_background(background, fit)))
        content: Content = "grey" if behind is None else "opaque"
        if isinstance(behind, TransparentBackground):
            content = "transparent"
        folder, names = _names(paths, alone, output, content)
        with writing(output):
            if folder.is_dir() and os.path.isdir(source) and folder.samefile(source):
                raise SinkError(f"{output} is the input: choose another folder", url=output)
            _check(paths, folder, names, output, overwrite)
        album = _Album(paths, source, alone)
        hidden = HiddenFolder(folder, output, overwrite=overwrite)
        stack.callback(hidden.discard)
        segmenter = stack.enter_context(closing(open_segmenter()))
        compositor = Compositor(behind, segmenter, smooth=False, decontaminate=decontaminate)
        sink = _Pages(paths, names, content, hidden, alone)
        stats = Pipeline(album, compositor, sink).run(progress, runtime=segmenter.runtime)
        written = _given(output, folder, names[0]) if alone else output
        return replace(stats, output=written, model=segmenter.model, runtime=segmenter.runtime)


def _names(paths: list[Path], alone: bool, output: str, content: Content) -> tuple[Path, list[str]]:
    """Return the folder of the output and the name of each picture in it."""
    path = Path(output).absolute()
    suffix = path.suffix.lower()
    into_folder = output.endswith(("/", os.sep)) or os.path.isdir(path) or not suffix
    if not into_folder and suffix not in SUFFIXES:
        raise SinkError(f"{output} cannot be written: name a .png, .webp or .jpg file, or a folder", url=output)
    if not into_folder and not alone:
        raise SinkError(f"{output} is one picture, and there are more to write: name a folder", url=output)
    if not into_folder:
        if content == "transparent" and suffix in (".jpg", ".jpeg"):
            raise SinkError(f"{output} cannot be transparent: JPEG has no alpha, write PNG or WebP", url=output)
        if not os.path.isdir(path.parent):
            raise SinkError(f"{output} cannot be written: the folder {Path(output).parent} does not exist", url=output)
        path = Path(os.path.realpath(path))  # a link stays a link to what is written
        return path.parent, [path.name]
    names: list[str] = []
    taken: set[str] = set()
    for picture in paths:
        kept = content == "opaque" and picture.suffix.lower() in SUFFIXES
        name = picture.name if kept else f"{picture.stem}.png"
        # Two that differ in their suffix only: a.jpg and a.png. Some file systems do not tell A from a.
        while name.lower() in taken:
            name = f"{picture.name}.png" if name != f"{picture.name}.png" else f"{Path(name).stem}_.png"
        taken.add(name.lower())
        names.append(name)
    return path, names


def _given(output: str, folder: Path, name: str) -> str:
    """Return the path of ``name`` in the words of whoever gave ``output``, which is that file or its folder."""
    return str(Path(output) / name) if folder == Path(output).absolute() else output


def _check(paths: list[Path], folder: Path, names: list[str], output: str, overwrite: bool) -> None:
    """Refuse to write over a source, and over what is there already."""
    sources = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    for name in names:
        target, given = folder / name, _given(output, folder, name)
        if not target.exists():
            continue
        status = target.stat()
        if (status.st_dev, status.st_ino) in sources:
            raise SinkError(f"{output} would replace {name}, which is read: name another output", url=output)
        if target.is_dir():
            raise SinkError(f"{given} is a folder: choose another name", url=output)
        if not overwrite:
            raise OutputExistsError(f"{given} exists already: give --overwrite or another name", url=output)


class _Album:
    """A source whose frames differ in size. ``pts`` is a picture's place in the list."""

    truncated = False

    def __init__(self, paths: list[Path], name: str, alone: bool) -> None:
        self._paths, self._alone, self._closed = paths, alone, False
        self._broken: list[str] = []
        # The size is that of the first one, for whoever asks; the stage looks at every frame's own.
        size = picture_size(paths[0]) if alone else (0, 0)
        self.info = StreamInfo(size, None, _INSTANT, RGB, subsampled=False, frames=len(paths), name=name)

    @property
    def corrupt(self) -> int:
        return len(self._broken)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"Left out: {text}" for text in self._broken)

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            if self._closed:
                return
            try:
                if is_animated(path):
                    raise SourceError(f"{path} moves: use vidseg process", url=str(path))
                yield to_frame(read_picture(path), index, _INSTANT)
            except SourceError as error:
                if self._alone:
                    raise
                self._broken.append(str(error))
        if len(self._broken) == len(self._paths):
            first = self._broken[0]
            raise SourceError(f"{self.info.name} holds no picture that can be read: {first}", url=self.info.name)

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> _Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pages:
    """A sink that gives each picture its own name and format."""

    notes: tuple[str, ...] = ()

    def __init__(
        self, paths: list[Path], names: list[str], content: Content, hidden: HiddenFolder, alone: bool
    ) -> None:
        self._paths, self._names, self._content, self._hidden, self._alone = paths, names, content, hidden, alone

    def write(self, frame: Frame) -> None:
        check_alpha(frame, self._content)
        name = self._names[frame.pts]
        pixels = to_grey(frame) if self._content == "grey" else to_rgb(frame)
        alpha = None if frame.alpha is None else to_depth(frame.alpha, frame.depth)
        # The decoder gives 8 bits in sRGB, but 16 bits as they are.
        profile = _profile(self._paths[frame.pts]) if frame.depth == 16 and self._content != "grey" else b""
        self._hidden.write(name, encode_picture(Path(name).suffix, pixels, alpha, profile=profile, name=name))

    def commit(self) -> None:
        self._hidden.publish()

    def abort(self, keep_partial: bool = False) -> str | None:
        if keep_partial and not self._alone:
            return self._hidden.keep()
        self._hidden.discard()
        return None


def _profile(path: Path) -> bytes:
    """Return the ICC profile of an RGB picture."""
    with warnings.catch_warnings(action="ignore"), suppress(Image.DecompressionBombError):  # only the header is read
        with Image.open(path) as image:
            profile = bytes(image.info.get("icc_profile") or b"")
        # A profile of grey samples is none of the RGB that was made of them (ICC.1, header bytes 16 to 19).
        return profile if profile[16:20] == b"RGB " else b""
    return b""
