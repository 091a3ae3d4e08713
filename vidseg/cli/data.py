"""``vidseg data``: what training data is there, what is wrong with it, and what a network is shown of it."""

from __future__ import annotations

import enum
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line

if TYPE_CHECKING:
    from vidseg.training.readers import Dataset

EXAMPLES = opt.example(
    "vidseg data pictures/ rooms:empty-offices/",
    "vidseg data pictures/ --sheet samples.png --seed 3",
    "vidseg data VideoMatte240K/ rooms/ --sheet clips.png --frames 6",
    "vidseg data coco/ --no-read --json",
)
_SHEET = "Contact sheet"
_SHOWN = 20


class Strength(enum.StrEnum):
    """Named policies of augmentation."""

    none = "none"
    gentle = "gentle"
    standard = "standard"
    strong = "strong"


def data(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Folders; LAYOUT:PATH names the layout. See docs/training-data.md.",
            show_default=False,
        ),
    ],
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE.png",
            help="Write augmented samples, each above its alpha: what a network is shown.",
            rich_help_panel=_SHEET,
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", metavar="T", min=1, max=32, help="Clips of T frames.", rich_help_panel=_SHEET)
    ] = 1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of the samples.", rich_help_panel=_SHEET)
    ] = 0,
    augment: Annotated[
        Strength, typer.Option("--augment", help="How strongly samples are changed.", rich_help_panel=_SHEET)
    ] = Strength.standard,
    read: Annotated[bool, typer.Option("--read/--no-read", help="Read every picture, to find what is broken.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.png.", rich_help_panel=_SHEET)] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything is wrong with the data.")] = False,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Say what training data is in folders, and what is wrong with it; write a contact sheet of augmented samples."""
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise typer.BadParameter(f"{sheet} should end in .png", param_hint="'--sheet'")
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        from vidseg.errors import OutputExistsError
        from vidseg.training.readers import open_datasets

        if sheet is not None and sheet.exists() and not overwrite:
            raise OutputExistsError(f"{sheet} exists: choose another name, or use --overwrite", url=str(sheet))
        problems: list[str] = []
        datasets = open_datasets(paths, problems)
        for dataset in datasets:
            problems += dataset.problems
            if read:
                for _ in dataset.read(problems=problems):
                    pass
            _tell(console, dataset)
        for problem in problems[: None if verbose else _SHOWN]:
            console.note(problem)
        if len(problems) > _SHOWN and not verbose:
            console.note(f"and {len(problems) - _SHOWN} more problems; -v shows them all")
        if sheet is not None:
            _write_sheet(datasets, sheet, frames, seed, augment.value)
            console.answer(f"samples of seed {seed}: {one_line(str(sheet))}")
        told = {"datasets": [described(one) for one in datasets], "problems": problems, "sheet": sheet and str(sheet)}
        if problems and strict:
            raise console.fail(f"{len(problems)} things are wrong with the data, and --strict was given", **told)
        console.result(told)


def _tell(console: Console, dataset: Dataset) -> None:
    classes = f", classes {', '.join(dataset.classes)}" if dataset.classes else ""
    console.answer(f"{one_line(str(dataset.path))}  {dataset.layout}{classes}")
    for name, kind, split, entries, persons in _rows(dataset):
        who = f", {persons} persons" if kind in ("person", "cutout") else ""
        console.answer(f"    {name}  {kind}  {split}  {entries} pictures or clips{who}")


def _rows(dataset: Dataset) -> list[tuple[str, str, str, int, int]]:
    """Return set, kind, split, and how many entries and persons they have."""
    entries = Counter((e.set, e.kind, e.split) for e in dataset.entries)
    persons = Counter(key for key, _ in {((e.set, e.kind, e.split), e.person) for e in dataset.entries})
    return [(*key, count, persons[key]) for key, count in sorted(entries.items())]


def described(dataset: Dataset) -> dict[str, object]:
    """Return a data set as it is shown in JSON."""
    names = ("set", "kind", "split", "entries", "persons")
    return {
        "path": str(dataset.path),
        "layout": dataset.layout,
        "classes": list(dataset.classes),
        "sets": [dict(zip(names, row, strict=True)) for row in _rows(dataset)],
    }


def _write_sheet(datasets: list[Dataset], path: Path, frames: int, seed: int, strength: str) -> None:
    import importlib.util

    from vidseg.errors import MissingDependencyError, SinkError

    if any(importlib.util.find_spec(module) is None for module in ("torch", "torchvision")):
        raise MissingDependencyError("A contact sheet", "train")

    from vidseg.sinks.pictures import encode_picture
    from vidseg.training.augment import STRENGTHS
    from vidseg.training.bank import Bank
    from vidseg.training.samples import contact_sheet

    bank = Bank(datasets, problems=[])
    rows, columns = (6, 8) if frames == 1 else (8, 1)
    pixels = contact_sheet(bank, (144, 240), seed, rows, columns, frames, STRENGTHS[strength])
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(encode_picture(".png", pixels, name=str(path)))
        partial.replace(path)
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}", url=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
