"""``vidseg doctor``: what works here, and what mends the rest."""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

import vidseg
from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.errors import VidsegError

EXAMPLES = opt.example("vidseg doctor", "vidseg doctor --json")

PACKAGES = (
    ("numpy", "numpy"),
    ("av", "av"),
    ("cv2", "opencv-python-headless"),
    ("PIL", "pillow"),
    ("numba", "numba"),
)
"""What the base installation stands on: name of the module, and of the package that brings it."""
HARDWARE = {
    "nvenc": "needs an NVIDIA GPU and its driver",
    "qsv": "needs an Intel GPU and its driver",
    "amf": "needs an AMD GPU and its driver",
    "videotoolbox": "needs macOS",
    "vaapi": "needs a GPU that /dev/dri shows, and its VA-API driver",
    "v4l2m2m": "needs an encoder that /dev/video* shows",
    "mf": "needs Windows and an encoder that its Media Foundation knows",
}
"""How the names of FFmpeg's hardware encoders end, and what mends one that does not open."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        kind: ``runtime``, ``model``, ``codec``, ``hardware`` or ``library``, ``cache``.
        name: Of the thing.
        usable: Whether it works.
        detail: On what it runs, or what mends it and why it does not run.
    """

    kind: str
    name: str
    usable: bool
    detail: str


def doctor(as_json: opt.JsonOption = False, verbose: opt.VerboseOption = False) -> None:
    """Show what works on this machine, and what mends the rest.

    Exits with 0 if videos can be processed, else with 1.
    """
    console = Console(as_json=as_json, verbose=verbose)
    with console.outcome():
        findings = [*libraries(), *runtimes(), *models(), *codecs(), *caches()]
        lacking = list(missing(findings))
        machine = {
            "vidseg": vidseg.__version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "processor": processor(),
            "cores": cores(),
        }
        console.result({**machine, "usable": not lacking, "findings": [asdict(finding) for finding in findings]})
        if not as_json:
            console.answer(_report(machine, findings, lacking))
        if lacking:
            raise typer.Exit(1)


def missing(findings: list[Finding]) -> Iterator[str]:
    """Yield what the main job lacks, a sentence each."""
    for finding in findings:
        if finding.kind == "library" and not finding.usable:
            yield f"{finding.name} cannot be loaded: {finding.detail}"
    if not any(finding.usable for finding in findings if finding.kind == "runtime"):
        yield "no runtime can compute the network: pip install 'vidseg[onnxruntime]'"
    if not any(finding.usable for finding in findings if finding.kind == "model"):
        yield "no model is whole: install vidseg again"
    if not any(finding.usable for finding in findings if finding.name == "h264"):
        yield "no H.264 encoder works: install PyAV again (pip install --force-reinstall av)"


def libraries() -> Iterator[Finding]:
    """Yield whether each library of the base installation can be imported."""
    import importlib

    for name, package in PACKAGES:
        try:
            module = importlib.import_module(name)
            yield Finding("library", name, True, str(getattr(module, "__version__", "")))
        except Exception as error:  # a broken binary raises whatever its loader ran into
            yield Finding("library", name, False, f"{error}; pip install --force-reinstall {package}")


def runtimes() -> Iterator[Finding]:
    """Yield what can compute a network."""
    from vidseg.engine import list_runtimes

    for name, usable, detail in list_runtimes():
        yield Finding("runtime", name, usable, detail)


def models() -> Iterator[Finding]:
    """Yield whether the files of each model are those that its manifest describes."""
    from vidseg.engine import list_models

    try:
        specs = list_models()
    except VidsegError as error:
        yield Finding("model", "?", False, str(error))
        return
    for spec in specs:
        try:
            size = sum(len(spec.read(role)) for role in spec.files)
            yield Finding("model", spec.name, True, f"{len(spec.files)} files, {size / 1e6:.1f} MB, checksums right")
        except VidsegError as error:
            yield Finding("model", spec.name, False, str(error))


def codecs() -> Iterator[Finding]:
    """Yield which encoders really open: a name in FFmpeg's list says nothing of the driver behind it."""
    try:
        import av

        from vidseg.sinks.pyav import ENCODERS
    except ImportError:
        return
    listed = av.codecs_available
    for codec, encoders in ENCODERS.items():
        tried = {encoder: _opens(encoder) for encoder in encoders if encoder in listed}
        works = [encoder for encoder, reason in tried.items() if not reason]
        reasons = "; ".join(f"{encoder}: {reason}" for encoder, reason in tried.items())
        none = f"{', '.join(encoders)} missing in this build of FFmpeg: install PyAV from its wheel"
        yield Finding("codec", codec, bool(works), works[0] if works else reasons or none)
    for encoder in sorted(listed):
        codec, _, kind = encoder.partition("_")
        if codec in opt.CODECS and kind in HARDWARE and _is_encoder(encoder):
            reason = _opens(encoder)
            yield Finding("hardware", encoder, not reason, f"{HARDWARE[kind]} ({reason})" if reason else "")


def _is_encoder(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "w").is_encoder)
    except ValueError:  # the list holds decoders too
        return False


def _opens(encoder: str) -> str:
    """Return why an encoder does not open, or nothing if it does."""
    import av
    from av import logging

    # SVT-AV1 and x265 write to standard error themselves, past FFmpeg's log.
    os.environ.setdefault("SVT_LOG", "1")
    quiet = {"x265-params": "log-level=none"} if encoder == "libx265" else {}
    level = logging.get_level()
    logging.set_level(logging.ERROR)
    with logging.Capture() as said:
        try:
            context = av.CodecContext.create(encoder, "w")
            assert isinstance(context, av.VideoCodecContext)
            formats = [format.name for format in context.codec.video_formats or ()]
            context.width, context.height, context.framerate = 640, 368, 30  # type: ignore[assignment]
            context.pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
            context.options = quiet
            context.open()
        except Exception as error:
            first = next((one_line(text) for _, _, text in said if text.strip()), "")
            return first.rstrip(".") or str(error)
        finally:
            logging.set_level(level)
    return ""


def caches() -> Iterator[Finding]:
    """Yield whether compiled kernels can be kept from one run to the next."""
    try:
        from vidseg import kernels

        folder = next(compiled.stats.cache_path for compiled in vars(kernels).values() if hasattr(compiled, "stats"))
    except Exception as error:
        yield Finding("cache", "kernels", False, str(error))
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        yield Finding("cache", "kernels", True, str(folder))
    except OSError as error:
        mend = "set NUMBA_CACHE_DIR to a folder that can be written, or every run takes seconds longer to start"
        yield Finding("cache", "kernels", False, f"{folder} cannot be written ({error.strerror}); {mend}")


def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report(machine: dict[str, object], findings: list[Finding], lacking: list[str]) -> str:
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    terminal = Terminal(
        file=io.StringIO(), force_terminal=on_terminal, highlight=False, width=None if on_terminal else 200
    )
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for kind in dict.fromkeys(finding.kind for finding in findings):
        table.add_row("")
        for finding in (finding for finding in findings if finding.kind == kind):
            state = Text("usable", "green") if finding.usable else Text("not usable", "yellow")
            table.add_row(Text(kind, "dim"), Text(finding.name), state, Text(one_line(finding.detail)))
    for name, value in machine.items():
        terminal.print(Text(f"{name:10} {value}"))
    terminal.print(table)
    terminal.print()
    for sentence in lacking:
        terminal.print(Text(sentence, "red"))
    terminal.print(Text("Videos can be processed here." if not lacking else "Videos cannot be processed here."))
    assert isinstance(terminal.file, io.StringIO)
    return "\n".join(line.rstrip() for line in terminal.file.getvalue().splitlines())
