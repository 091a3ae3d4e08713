"""``vidseg webcam``: a camera in, a virtual camera out, with another background."""

from __future__ import annotations

import enum
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidseg.cli import options as opt
from vidseg.cli import signals
from vidseg.cli.console import Console, logged
from vidseg.cli.progress import LINE_SECONDS
from vidseg.errors import DeviceUnavailableError, redacted

if TYPE_CHECKING:
    from vidseg.frame import StreamInfo
    from vidseg.live.config import Config, Start
    from vidseg.live.demand import Demand
    from vidseg.live.session import LiveStatus
    from vidseg.live.settings import Settings
    from vidseg.sinks import Sink
    from vidseg.sources import Source

EXAMPLES = opt.example(
    "vidseg webcam --bg beach.jpg",
    "vidseg webcam --bg blur:70 --preview --mirror",
    "vidseg webcam --camera C920 --size 1920x1080 --pixel-format mjpeg --bg office.png --out virtual --out talk.mkv",
    "vidseg webcam --bg beach.jpg --max-cpu 0.5 --save-config",
    "vidseg webcam --camera talk.mp4 --bg '#1e90ff' --out - | ffplay -",
)


class PixelFormat(enum.StrEnum):
    """What a camera sends."""

    auto = "auto"
    mjpeg = "mjpeg"
    yuyv = "yuyv"
    nv12 = "nv12"


class OnFailure(enum.StrEnum):
    """What is shown while there is no mask."""

    background = "background"
    hold = "hold"
    stop = "stop"


class Sync(enum.StrEnum):
    """Whose mask a frame gets."""

    strict = "strict"
    fast = "fast"


class Subject(enum.StrEnum):
    """Who stays."""

    all = "all"
    largest = "largest"
    middle = "center"


_CAMERA, _PICTURE, _BUDGET, _SETUP = "Camera and output", "Picture", "Network and budget", "Configuration"


def webcam(
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            "-c",
            metavar="CAMERA",
            help="A number, a name or part of one (see 'vidseg devices'), /dev/videoN, a URL (rtsp, rtmp, srt, http), "
            "screen, or a file played in real time. By default the first camera.",
            rich_help_panel=_CAMERA,
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="As in 1280x720.", rich_help_panel=_CAMERA)
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option("--fps", metavar="RATE", help="Frames a second, 30 or 30000/1001.", rich_help_panel=_CAMERA),
    ] = None,
    pixel_format: Annotated[
        PixelFormat | None,
        typer.Option("--pixel-format", help="What the camera is to send.", rich_help_panel=_CAMERA),
    ] = None,
    loop: Annotated[
        bool | None,
        typer.Option("--loop/--no-loop", help="Start a file again at its end.", rich_help_panel=_CAMERA),
    ] = None,
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="virtual (the first virtual camera), /dev/videoN, preview, a recording (talk.mkv), rtmp:// srt:// "
            "rtsp://, or - (raw video on standard output). May be given several times. By default the first virtual "
            "camera, else the preview.",
            rich_help_panel=_CAMERA,
        ),
    ] = None,
    preview: Annotated[
        bool | None,
        typer.Option("--preview/--no-preview", help="Show a window as well.", rich_help_panel=_CAMERA),
    ] = None,
    always_on: Annotated[
        bool | None,
        typer.Option(
            "--always-on/--on-demand",
            help="Keep the camera open while nobody looks at the virtual camera.",
            rich_help_panel=_CAMERA,
        ),
    ] = None,
    bg: Annotated[
        str | None,
        typer.Option("--bg", metavar="BACKGROUND", help=f"What to put behind: {opt.LIVE_CHOICES}. By default blur."),
    ] = None,
    fit: Annotated[
        opt.Fit | None,
        typer.Option("--fit", help="How a picture of another shape fills the frame.", rich_help_panel=_PICTURE),
    ] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Left to right.", rich_help_panel=_PICTURE)
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", metavar="FACTOR", help="Your size.", rich_help_panel=_PICTURE)
    ] = None,
    position: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--position",
            metavar="RIGHT DOWN",
            help="Shift you, in shares of width and height.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    subject: Annotated[
        Subject | None,
        typer.Option("--subject", help="Who stays when somebody walks past.", rich_help_panel=_PICTURE),
    ] = None,
    auto_frame: Annotated[
        bool | None,
        typer.Option("--auto-frame/--no-auto-frame", help="Crop so that you stay framed.", rich_help_panel=_PICTURE),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option("--smoothing", metavar="SECONDS", help="How much the mask is steadied.", rich_help_panel=_PICTURE),
    ] = None,
    on_failure: Annotated[
        OnFailure | None,
        typer.Option(
            "--on-failure",
            help="What is shown while there is no mask to trust: the background, the last picture, or nothing more. "
            "Never the room.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="See 'vidseg models'; or a folder with a manifest.toml, or an .onnx file.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    runtime: Annotated[
        opt.Runtime | None,
        typer.Option("--runtime", metavar="RUNTIME", help="See 'vidseg doctor'.", rich_help_panel=_BUDGET),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="For the network.", rich_help_panel=_BUDGET)
    ] = None,
    sync: Annotated[
        Sync | None,
        typer.Option(
            "--sync",
            help="strict: each frame with its own mask. fast: the last one may be carried forward.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    max_cpu: Annotated[
        float | None,
        typer.Option("--max-cpu", metavar="CORES", help="Use no more, as in 0.5.", rich_help_panel=_BUDGET),
    ] = None,
    target_fps: Annotated[
        float | None,
        typer.Option("--target-fps", metavar="RATE", help="Keep this rate by doing less.", rich_help_panel=_BUDGET),
    ] = None,
    config: opt.ConfigOption = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="A preset of the configuration.", rich_help_panel=_SETUP),
    ] = None,
    save_config: Annotated[
        bool,
        typer.Option("--save-config", help="Keep what is given here for the next time.", rich_help_panel=_SETUP),
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Show rate, delay by stage and load while it runs.", rich_help_panel=_SETUP)
    ] = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Be in a call before another background: a camera goes in, a virtual camera comes out.

    The room is never shown, whatever fails, unless you ask for it: --bg none.

    While it runs, 'vidseg ctl' and the preview's keys (? shows them) change it.
    """
    given = {
        "camera": camera, "size": size, "fps": fps, "pixel_format": _word(pixel_format), "loop": loop,
        "out": tuple(out) if out else None, "preview": preview, "always_on": always_on, "on_failure": _word(on_failure),
        "sync": _word(sync), "max_cpu": max_cpu, "target_fps": target_fps, "runtime": _word(runtime),
        "threads": threads, "background": bg, "fit": _word(fit), "mirror": mirror, "scale": scale,
        "position": position, "subject": _word(subject), "auto_frame": auto_frame, "smoothing": smoothing,
        "model": model,
    }  # fmt: skip
    console = Console(quiet, as_json, verbose)
    if as_json and any(name == "-" or name.startswith("-:") for name in out or ()):
        raise typer.BadParameter(
            "standard output cannot carry both; leave one out", param_hint="'--json' and '--out -'"
        )
    with console.outcome():
        given = {name: value for name, value in given.items() if value is not None}
        file, values = _gathered(given, config, preset, save_config)
        start, settings = _checked(values)
        if as_json and any(name == "-" or name.startswith("-:") for name in start.out):
            raise typer.BadParameter("standard output can carry one of them", param_hint="'--json' and '--out -'")
        if save_config:
            from vidseg.live.config import save_config as save

            save(file.path, values)
            console.note(f"{file.path} keeps this for the next time")
        _run(console, file, start, settings, stats)


def _word(choice: enum.StrEnum | None) -> str | None:
    return choice.value if choice is not None else None


def _gathered(
    given: Mapping[str, Any], config: str | None, preset: str | None, saving: bool
) -> tuple[Config, dict[str, Any]]:
    """Return the configuration, and what it says with the preset and then the command line laid over it.

    Raises:
        ConfigError: The configuration is wrong, or has no such preset.
    """
    from vidseg.live.config import Config, read_config, resolved

    path = Path(config).absolute() if config is not None else None
    file = Config(path) if path is not None and saving and not path.exists() else read_config(path)
    chosen = file.preset(preset) if preset is not None else {}
    return file, {**file.values, **chosen, **resolved(given, Path.cwd())}


def _checked(values: Mapping[str, Any]) -> tuple[Start, Settings]:
    """Return what the run is started with.

    Raises:
        typer.BadParameter: A value of the command line is out of its range; a file's were looked at before.
    """
    from vidseg.live.config import SETTINGS, STARTS, Start
    from vidseg.live.settings import Settings

    try:
        start = Start.from_dict({name: value for name, value in values.items() if name in STARTS})
        settings = Settings.from_dict({name: value for name, value in values.items() if name in SETTINGS})
    except (TypeError, ValueError) as error:
        name = str(error).split(" ")[0]
        option = "--bg" if name == "background" else f"--{name.replace('_', '-')}"
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None
    if settings.background.strip().lower() == "transparent":
        raise typer.BadParameter(f"a call has nothing to see through to; give {opt.LIVE_CHOICES}", param_hint="'--bg'")
    return start, settings


def _outputs(console: Console, start: Start) -> tuple[str, ...]:
    """Return where the picture goes: what was asked for, else the first virtual camera, else a window."""
    chosen = start.out
    if not chosen:
        from vidseg.devices import list_devices

        virtual = [device.path for device in list_devices(details=False) if device.kind == "virtual"]
        chosen = (virtual[0],) if virtual else ("preview",)
        if not virtual:
            console.note(f"there is no virtual camera, so a window shows the result; to get one: {_mend()}")
    if start.preview and "preview" not in chosen:
        chosen = (*chosen, "preview")
    return chosen


def _mend() -> str:
    """Return how to get a virtual camera on this system."""
    from vidseg.devices import LOOPBACK_MEND
    from vidseg.sinks.live import OBS_MEND

    return LOOPBACK_MEND if sys.platform == "linux" else OBS_MEND


def _run(console: Console, file: Config, start: Start, settings: Settings, stats: bool) -> None:
    """Run until somebody ends it, and say how it went.

    Raises:
        SystemExit: A signal ended it; all was closed in order.
        VidsegError: It could not start, or could not go on.
    """
    from vidseg.live.config import ConfigWatch
    from vidseg.live.control import Control, session_name
    from vidseg.live.output import Outlet
    from vidseg.live.session import LiveOptions, LiveSession
    from vidseg.sinks.live import open_live_sink
    from vidseg.sources.camera import Camera, CameraMode

    outs = _outputs(console, start)
    names = [redacted(out) for out in outs]
    with Display(console, stats) as display, ExitStack() as stack:
        camera = Camera(
            start.camera, CameraMode(start.wanted_size(), start.wanted_fps(), start.pixel_format), loop=start.loop
        )
        modes: set[str] = set()

        def open_camera() -> Source:
            source = camera()
            for text in (_mode(source.info), *source.notes):
                if text not in modes:  # it may be opened often
                    modes.add(text)
                    display.note(text)
            return source

        resting = not start.always_on and all(map(_is_virtual, outs))
        demands: dict[str, Demand] = {}

        def opener(out: str) -> Callable[[StreamInfo], Sink]:
            def open_out(info: StreamInfo) -> Sink:
                sink = open_live_sink(out, info, on_key=control.press)
                path = getattr(sink, "path", None)
                if resting and path is not None and path not in demands:
                    from vidseg.live.demand import Demand

                    try:
                        demands[path] = stack.enter_context(Demand(path, lambda wanted: session.wake()))
                    except DeviceUnavailableError as error:
                        display.note(f"the camera stays on, since nobody tells whether it is looked at: {error}")
                return sink

            return open_out

        rate = start.target_fps or start.wanted_fps() or 30
        session = LiveSession(
            open_camera,
            [Outlet(name, opener(out), again=_comes_back(out)) for name, out in zip(names, outs, strict=True)],
            settings,
            LiveOptions(
                on_failure=start.on_failure,
                sync=start.sync,
                target_fps=float(rate),
                max_cpu=start.max_cpu,
                # A camera that nobody looks at is not switched on to see how large its pictures are.
                size=start.wanted_size() or (camera.peek() if resting else None),
                runtime=start.runtime,
                threads=start.threads,
            ),
            wanted=lambda: not demands or any(demand.wanted for demand in demands.values()),
            note=display.note,
        )
        control = stack.enter_context(Control(session, session_name(outs[0]), ConfigWatch(file), display.note))
        stack.enter_context(signals.as_requests(session.stop))
        done = session.run(display.show)
    for text in done.notes:
        if text not in modes:
            console.note(text)
    console.note(f"{' and '.join(names)}: {done.frames} frames in {done.seconds:.0f} s, {done.dropped} dropped")
    status = signals.status() if signals.heard() else 0
    console.result({**asdict(done), "outputs": names, "settings": session.settings.to_dict(), "status": status})
    if status:
        raise SystemExit(status)


def _mode(info: StreamInfo) -> str:
    """Return what a camera gives, in a line."""
    height, width = info.size
    rate = f" at {float(info.fps):.4g} frames a second" if info.fps else ""
    return f"{info.name}: {width}x{height}{rate}"


def _is_virtual(out: str) -> bool:
    """Whether an output is a virtual camera that tells if somebody reads it."""
    return sys.platform == "linux" and (out == "virtual" or out.startswith("/dev/"))


def _comes_back(out: str) -> bool:
    """Whether it makes sense to open an output again after it has failed: a recording would begin anew."""
    return "://" in out or out.startswith("/dev/") or out == "virtual"


class Display:
    """Says how a session goes: a line that is kept up to date on a terminal, or a line now and then with ``--stats``.

    What the package logs, and what others note, is said between, from any thread.
    """

    def __init__(self, console: Console, stats: bool) -> None:
        self._console, self._stats = console, stats
        stream = sys.stderr
        alive = stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._in_place = alive and not console.quiet
        self._lock = threading.Lock()
        self._said = time.monotonic()
        self._logged = logged(self.note, console.verbose)

    def __enter__(self) -> Display:
        self._logged.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._logged.__exit__(None, None, None)
        with self._lock:
            self._clear()

    def note(self, text: str) -> None:
        """Say something above the line."""
        with self._lock:
            self._clear()
            self._console.note(text)

    def show(self, status: LiveStatus) -> None:
        """Say how it goes."""
        text = line(status, self._stats)
        with self._lock:
            if self._in_place:
                columns = shutil.get_terminal_size().columns
                with suppress(OSError, ValueError):
                    sys.stderr.write(f"\r\x1b[2K{text[: columns - 1]}")
                    sys.stderr.flush()
            elif self._stats and time.monotonic() - self._said >= LINE_SECONDS:
                self._said = time.monotonic()
                self._console.note(text)

    def _clear(self) -> None:
        if self._in_place:
            with suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()


_SHOWN = {
    "people": "you",
    "background": "the background alone",
    "card": "a card",
    "last": "the last picture of you",
    "room": "YOUR ROOM",
}

_STAGES = ("capture", "wait", "fit", "matte", "refine", "background", "composite", "write")


def line(status: LiveStatus, stats: bool) -> str:
    """Return how a session goes as a line."""
    parts = [f"{_SHOWN.get(status.showing, status.showing)} {'is' if status.showing != 'people' else 'are'} shown"]
    if not status.wanted:
        parts = ["nobody looks, so the camera is off"]
    elif status.camera != "on":
        parts.append(f"camera {status.camera}{f': {status.reason}' if status.reason else ''}")
    elif status.reason:
        parts.append(status.reason)
    total = status.latency.get("total")
    parts.append(f"{status.fps:.0f} fps, {status.cpu:.2f} cores")
    if total is not None:
        parts.append(f"delay {total['p50']:.0f} ms (p99 {total['p99']:.0f})")
    if status.dropped:
        parts.append(f"{status.dropped} dropped")
    if stats:
        parts.append(status.rung)
        stages = [name for name in _STAGES if name in status.latency]
        parts.append(" ".join(f"{name} {status.latency[name]['p50']:.1f}" for name in stages))
    return ", ".join(parts)
