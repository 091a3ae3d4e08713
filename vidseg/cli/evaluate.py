"""``vidseg eval``: how near models come to the truth, by set and side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console
from vidseg.cli.progress import shown

if TYPE_CHECKING:
    from vidseg.evaluation.cases import CaseSet

EXAMPLES = opt.example(
    "vidseg eval --data data/ --peer data/models/rvm_mobilenetv3.onnx",
    "vidseg eval --data data/ --set webcam --set clips --sheet worst.png",
    "vidseg eval --set mine=pairs:photos/ --set empty=empty:rooms/ --output mine.md",
    "vidseg eval --set talks=clips:talks/ --model my-model/ --raw --json",
)
_DATA, _REPORT = "What to judge on", "Report"

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder with labelled/, backgrounds/ and pseudo/, of whose validation part sets are made: webcam, "
        "composites, composites-pseudo, clips, rooms and labelled.",
        rich_help_panel=_DATA,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME[=KIND:PATH]",
        help="A set of --data by name (all, if none is named), or a folder of your own: pairs (pictures with masks or "
        "alphas), index (index.csv), cutouts (RGBA), clips (with alphas), foregrounds (fgr/ and pha/) or empty "
        "(nobody in them). Can be given several times.",
        rich_help_panel=_DATA,
    ),
]
RoomsOption = Annotated[
    Path | None,
    typer.Option(
        "--rooms",
        metavar="DIR",
        help="Rooms to put cutouts and foregrounds before; by default the validation rooms of --data.",
        rich_help_panel=_DATA,
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="At most so many cases a set.", rich_help_panel=_DATA),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, help="Of everything drawn by chance.", rich_help_panel=_DATA),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="See 'vidseg models'; unet-s if none is given. Judged by the alpha that 'vidseg matte' writes. Can be "
        "given several times.",
        rich_help_panel="Network",
    ),
]
PeersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="MODEL",
        help="Another model, judged by its own alpha, resized and nothing more. Can be given several times.",
        rich_help_panel="Network",
    ),
]
RawOption = Annotated[bool, typer.Option("--raw", help="Judge each --model as a --peer is.", rich_help_panel="Network")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Write the report: .md or .json.", rich_help_panel=_REPORT),
]
SheetOption = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        help="Write the worst cases as one picture (.png, .webp or .jpg): picture, truth, alpha, difference.",
        rich_help_panel=_REPORT,
    ),
]
WorstOption = Annotated[
    int,
    typer.Option("--worst", metavar="N", min=1, max=50, help="Worst cases a model and set.", rich_help_panel=_REPORT),
]


def evaluate(
    data: DataOption = None,
    sets: SetOption = None,
    rooms: RoomsOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    models: ModelsOption = None,
    peers: PeersOption = None,
    raw: RawOption = False,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    output: OutputOption = None,
    sheet: SheetOption = None,
    worst: WorstOption = 3,
    overwrite: opt.OverwriteOption = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Measure models on pictures and clips whose true alpha is known.

    Masks by IoU, F1 and boundary F, mattes by MAD, MSE, Grad and Conn, clips also by dtSSD and flicker, rooms without
    people by how often somebody is seen there.
    """
    asked = _asked(sets, data)
    for path, suffixes in ((output, (".md", ".json")), (sheet, (".png", ".webp", ".jpg", ".jpeg"))):
        if path is not None and path.suffix.lower() not in suffixes:
            raise typer.BadParameter(f"{path} should end in {' or '.join(suffixes)}")
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.evaluation.judging import evaluate as judge
        from vidseg.evaluation.sheet import contact_sheet
        from vidseg.sinks.pictures import encode_picture

        for path in filter(None, (output, sheet)):
            _free(path, overwrite)
        found = _sets(asked, data, rooms, limit, seed)
        with shown(console, "eval") as progress:
            report = judge(
                models or ["unet-s"],
                found,
                peers=peers or [],
                runtime=runtime.value,
                raw=raw,
                threads=threads,
                worst=worst if sheet is not None else 0,
                progress=progress,
            )
        values, text = report.as_dict(), report.as_markdown()
        if sheet is not None:
            pixels = contact_sheet(report.worst)
            _write(sheet, encode_picture(sheet.suffix, pixels, name=str(sheet)))
        if output is not None:
            written = json.dumps(values, indent=1) + "\n" if output.suffix.lower() == ".json" else text
            _write(output, written.encode("utf-8"))
        console.answer(text.rstrip())
        console.result(values)


def _asked(sets: list[str] | None, data: Path | None) -> list[tuple[str, str, str]]:
    """Return ``(name, kind, path)`` for each set; kind and path are empty for one of ``--data``.

    Raises:
        typer.BadParameter: One is not to be understood.
    """
    from vidseg.evaluation.presets import KINDS, PRESETS

    if not sets:
        if data is None:
            raise typer.BadParameter("there is nothing to judge on; give --data DIR or --set NAME=KIND:PATH")
        return [(name, "", "") for name in PRESETS]
    asked = []
    for text in sets:
        name, equals, place = text.partition("=")
        kind, _, path = place.partition(":")
        if equals and (kind not in KINDS or not path or not name):
            raise typer.BadParameter(f"{text} is not NAME=KIND:PATH, KIND one of {', '.join(KINDS)}")
        if not equals and name not in PRESETS:
            raise typer.BadParameter(f"{name} is not one of {', '.join(PRESETS)}; a folder is NAME=KIND:PATH")
        if not equals and data is None:
            raise typer.BadParameter(f"{name} is made of data; give --data DIR too")
        asked.append((name, kind, path))
    return asked


def _sets(
    asked: list[tuple[str, str, str]], data: Path | None, rooms: Path | None, limit: int | None, seed: int
) -> list[CaseSet]:
    from vidseg.evaluation.presets import preset_sets, read_sets, validation_rooms
    from vidseg.sources.pictures import list_pictures

    before: list[Path] = []
    if any(kind in ("cutouts", "foregrounds") for _, kind, _ in asked):
        before = list_pictures(str(rooms)) if rooms is not None else validation_rooms(data) if data is not None else []
    found = []
    for name, kind, path in asked:
        if kind:
            found += read_sets(name, kind, Path(path), before, seed)
        elif data is not None:
            found += preset_sets(name, data, seed)
    return [cases.limited(limit) for cases in found]


def _free(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    from vidseg.errors import OutputExistsError, SinkError

    if path.is_dir():
        raise SinkError(f"{path} is a folder: name a file", url=str(path))
    if not path.absolute().parent.is_dir():
        raise SinkError(f"{path} cannot be written: the folder {path.parent} does not exist", url=str(path))
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists already: give --overwrite or another name", url=str(path))


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    from vidseg.sinks.pictures import writing

    hidden = path.with_name(f".{path.name}.partial")
    try:
        with writing(str(path)):
            hidden.write_bytes(content)
            os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
