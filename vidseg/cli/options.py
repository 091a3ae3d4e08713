"""Options that several commands share."""

from __future__ import annotations

import enum
import re
from typing import Annotated

import typer

from vidseg.errors import VidsegError

CODECS = {
    "h264": "plays everywhere",
    "hevc": "smaller, 10 bit and HDR",
    "av1": "smallest, slow",
    "vp9": "WebM; carries alpha",
    "prores": "for editing; carries alpha (.mov)",
    "ffv1": "lossless (.mkv)",
}
BACKGROUNDS = {
    "blur": "the room itself, out of focus",
    "transparent": "no background: WebM, MOV (ProRes) or pictures",
}
CHOICES = "a picture, a video (looped), a colour ('#1e90ff', 'white'), blur, blur:STRENGTH (0 to 100), or transparent"
LIVE_CHOICES = "a picture, a video (looped), a colour, blur, blur:STRENGTH, or none, which shows the room"
# The scales of x264 and x265, SVT-AV1, libvpx; the others have no constant quality.
CRF_MOST = {"h264": 51, "hevc": 51, "av1": 63, "vp9": 63}


class Fit(enum.StrEnum):
    """How a background picture fills the frame."""

    cover = "cover"
    contain = "contain"
    stretch = "stretch"


class Runtime(enum.StrEnum):
    """What computes the network."""

    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"
    tensorrt = "tensorrt"
    onnxruntime_cuda = "onnxruntime-cuda"
    onnxruntime_directml = "onnxruntime-directml"
    onnxruntime_coreml = "onnxruntime-coreml"
    onnxruntime_migraphx = "onnxruntime-migraphx"
    onnxruntime_rocm = "onnxruntime-rocm"
    onnxruntime_openvino = "onnxruntime-openvino"


class Hwaccel(enum.StrEnum):
    """Whether a GPU decodes, and encodes what lies there."""

    auto = "auto"
    off = "off"


def example(*lines: str) -> str:
    """Return the epilog of a command's help: one example a line."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  [cyan]{line}[/cyan]" for line in lines)])


def _models() -> list[str]:
    from vidseg.engine import list_models

    return [spec.name for spec in list_models()]


def _classes(context: typer.Context, incomplete: str) -> list[str]:
    from vidseg.engine import load_spec

    *chosen, started = incomplete.split(",")
    try:
        classes = load_spec(context.params.get("model") or "unet-s").classes
    except VidsegError:
        return []
    return [",".join([*chosen, name]) for name in classes if name.startswith(started) and name not in chosen]


def _codecs(incomplete: str) -> list[tuple[str, str]]:
    return [choice for choice in CODECS.items() if choice[0].startswith(incomplete)]


def _backgrounds(incomplete: str) -> list[tuple[str, str]]:
    return [choice for choice in BACKGROUNDS.items() if choice[0].startswith(incomplete)]


def _threads(number: int | None) -> int | None:
    if number is not None and not 1 <= number <= 1024:
        raise typer.BadParameter(f"{number} is not between 1 and 1024")
    return number


_OUTPUT, _NETWORK, _MESSAGES = "Output", "Network", "Messages"

BackgroundOption = Annotated[
    str | None,
    typer.Option("--bg", metavar="BACKGROUND", help=f"What to put behind: {CHOICES}.", autocompletion=_backgrounds),
]
FitOption = Annotated[
    Fit, typer.Option("--fit", help="How a picture or video of another shape fills the frame.", show_default=True)
]
CodecOption = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="CODEC",
        help=f"{', '.join(CODECS)}, or an encoder by its FFmpeg name (h264_nvenc). By default what suits OUTPUT.",
        autocompletion=_codecs,
        rich_help_panel=_OUTPUT,
    ),
]
CrfOption = Annotated[
    float | None,
    typer.Option(
        "--crf",
        metavar="QUALITY",
        help="Constant quality, lower is better and larger (h264 and hevc 0 to 51, av1 and vp9 0 to 63).",
        rich_help_panel=_OUTPUT,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="PRESET",
        help="The encoder's own word for its speed (veryfast, slow; 0 to 13 for av1).",
        rich_help_panel=_OUTPUT,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.", rich_help_panel=_OUTPUT)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="See 'vidseg models'; or a folder with a manifest.toml, or an .onnx file.",
        autocompletion=_models,
        rich_help_panel=_NETWORK,
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="CLASSES",
        help="What stays, of a model that tells classes apart: person,chair. By default person.",
        autocompletion=_classes,
        rich_help_panel=_NETWORK,
    ),
]
RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        "--runtime",
        metavar="RUNTIME",
        help="auto (the best that works here), openvino, onnxruntime, torch, tensorrt; or a device of ONNX Runtime: "
        "onnxruntime-cuda, -directml, -coreml, -migraphx, -rocm, -openvino. See 'vidseg doctor'.",
        rich_help_panel=_NETWORK,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        callback=_threads,
        help="Threads for the network.",
        rich_help_panel=_NETWORK,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where frames are put together: cpu, cuda or cuda:1; auto takes an NVIDIA GPU where one works.",
        rich_help_panel=_NETWORK,
    ),
]
HwaccelOption = Annotated[
    Hwaccel,
    typer.Option(
        "--hwaccel",
        help="Whether that GPU decodes, too, and hands frames to its own encoder: auto (what it can) or off.",
        rich_help_panel=_NETWORK,
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A configuration (TOML) other than the one in your own folder.",
        rich_help_panel="Configuration",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit with 1 if a part of INPUT could not be read.", rich_help_panel=_MESSAGES)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=_MESSAGES)]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON object to standard output.", rich_help_panel=_MESSAGES)
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show timings, and tracebacks of errors.", rich_help_panel=_MESSAGES)
]


def checked_background(text: str | None) -> str:
    """Return what ``--bg`` was given.

    Raises:
        typer.BadParameter: It was not given, or is empty.
    """
    if text is None or not text.strip():
        found = "it is missing" if text is None else "it is empty"
        raise typer.BadParameter(f"{found}; give {CHOICES}", param_hint="'--bg'")
    return text


def checked_device(device: str) -> str:
    """Return what ``--device`` was given.

    Raises:
        typer.BadParameter: It is no name of a device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise typer.BadParameter(f"{device!r} is not auto, cpu, cuda or cuda:1", param_hint="'--device'")
    return device


def checked_crf(crf: float | None, codec: str | None) -> float | None:
    """Return what ``--crf`` was given.

    Raises:
        typer.BadParameter: The codec has no such quality.
    """
    if crf is None:
        return None
    if codec in CODECS and codec not in CRF_MOST:
        raise typer.BadParameter(f"{codec} has no constant quality; leave it out", param_hint="'--crf'")
    most = CRF_MOST.get(codec or "", max(CRF_MOST.values()))
    if not 0 <= crf <= most:  # also refuses nan
        raise typer.BadParameter(f"{crf:g} is not between 0 and {most}", param_hint="'--crf'")
    return crf


def checked_keep(keep: str | None, model: str) -> tuple[str, ...]:
    """Return the names that ``--keep`` was given.

    Raises:
        typer.BadParameter: The model does not know one of them, or has no classes, or has no ``person`` to keep.
        EngineError: There is no such model.
    """
    from vidseg.engine import load_spec

    names = tuple(name.strip() for name in (keep or "").split(",") if name.strip())
    if keep is not None and not names:
        raise typer.BadParameter("it is empty; name what stays: person,chair", param_hint="'--keep'")
    try:
        load_spec(model).keeping(names)
    except ValueError as error:
        if isinstance(error, VidsegError):
            raise
        raise typer.BadParameter(str(error), param_hint="'--keep'") from error
    return names
