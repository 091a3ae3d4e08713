"""``vidseg models``: the networks that are shipped, and whether somebody's own fits."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line
from vidseg.errors import VidsegError

if TYPE_CHECKING:
    from vidseg.checking import Report
    from vidseg.engine import ModelSpec
    from vidseg.foreign import Foreign

EXAMPLES = opt.example(
    "vidseg models",
    "vidseg models check my.onnx",
    "vidseg models check my.onnx --template > my.toml",
    "vidseg models check my.onnx --runtime onnxruntime --json",
)


class Action(enum.StrEnum):
    """What to do."""

    list = "list"
    check = "check"


def models(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="[list|check]", help="list what comes with vidseg; check a model, an .onnx file above all."
        ),
    ] = Action.list,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="What to check: an .onnx file, a folder or a name.")
    ] = None,
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    template: Annotated[
        bool, typer.Option("--template", help="Write nothing but a manifest for the .onnx file, to be filled in.")
    ] = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """List the networks that come with vidseg, or check whether your own fits.

    A check reads the .onnx file and the manifest beside it (my.toml for my.onnx), runs it on the clip that vidseg
    carries, and measures it beside unet-s. What a manifest may say: docs/models.md.
    """
    console = Console(as_json=as_json, verbose=verbose)
    if (action is Action.check) != (model is not None):
        raise typer.BadParameter("give a model to check, as in 'vidseg models check my.onnx'", param_hint="'MODEL'")
    with console.outcome():
        if model is None:
            _list(console)
        elif template:
            _template(console, Path(model))
        else:
            _check(console, model, runtime.value)


def _list(console: Console) -> None:
    from vidseg.engine import list_models

    found = list_models()
    console.result({"models": [described(spec) for spec in found]})
    for spec in found:
        sizes = ", ".join(f"{width}x{height}" for height, width in spec.sizes)
        console.answer(f"{spec.name}  {spec.summary}")
        console.answer(f"    input {sizes}; licence {spec.licence}; {one_line(str(spec.folder))}")
        if spec.classes:
            console.answer(f"    tells apart {', '.join(spec.classes)}")
    if not found:
        console.answer("This installation carries no models: install vidseg again.")


def _template(console: Console, path: Path) -> None:
    from vidseg.foreign import open_foreign, template

    text = template(open_foreign(path))
    console.result({"template": text})
    console.answer(text.rstrip())


def _check(console: Console, model: str, runtime: str) -> None:
    """Say what a model is, and what it does.

    Raises:
        EngineError, MissingDependencyError: It cannot be used here.
    """
    from vidseg.checking import NORMALISATIONS, check
    from vidseg.engine import load_spec
    from vidseg.foreign import open_foreign, template

    foreign = open_foreign(Path(model)) if Path(model).suffix.lower() == ".onnx" else None
    if foreign is not None:
        console.answer(_read(foreign))
    try:
        report = check(load_spec(model) if foreign is None else foreign, runtime)
    except (VidsegError, ValueError) as error:  # the latter: of all its classes none is a person
        if foreign is None:
            raise console.fail(str(error)) from error
        manifest = template(foreign)
        console.answer(f"\n{manifest}")
        raise console.fail(str(error), **_facts(foreign), template=manifest) from error
    manifest = template(foreign, NORMALISATIONS.get(report.better)) if foreign is not None else ""
    console.answer(_found(report))
    if foreign is not None and foreign.manifest is None and report.advice:
        console.answer(f"\n{manifest}")
    console.result(
        described(report.spec)
        | (_facts(foreign) if foreign is not None else {})
        | {
            "size": list(report.size),
            "runtime": report.runtime,
            "activation": report.spec.wiring.activation or "none",
            "share": round(report.share, 4),
            "agreement": round(report.agreement, 4),
            "milliseconds": round(report.milliseconds, 3),
            "unet_s_milliseconds": round(report.beside, 3),
            "times_unet_s": round(report.milliseconds / report.beside, 2),
            "tried": {name: round(value, 4) for name, value in report.tried.items()},
            "advice": report.advice,
            "template": manifest,
        }
    )


def _read(foreign: Foreign) -> str:
    """Return what is known of a file before it is run."""
    ends = [f"in   {name} {tensor}" for name, tensor in foreign.graph.inputs.items()]
    ends += [f"out  {name} {tensor}" for name, tensor in foreign.graph.outputs.items()]
    contract = "it could be anybody's: pictures are taken to be RGB from 0 to 1"
    if foreign.contract is not None:
        contract = f"used as {foreign.contract.name} ({foreign.contract.source})"
    if foreign.manifest is not None:
        contract = f"used as {one_line(str(foreign.manifest))} says"
    lines = [
        f"{one_line(str(foreign.path))}  {foreign.bytes / 1e6:.1f} MB, sha256 {foreign.sha256}",
        *(f"    {one_line(end)}" for end in ends),
        contract,
    ]
    return "\n".join(lines)


def _found(report: Report) -> str:
    """Return what was found by running it."""
    height, width = report.size
    norm = ", ".join(f"{name} {value:.2f}" for name, value in report.tried.items())
    activation = report.spec.wiring.activation
    lines = [
        f"input {width}x{height} on {report.runtime}; licence {one_line(report.spec.licence)}"
        + (f"; a {activation} is put behind it" if activation else "")
        + (f"; {len(report.spec.states)} states" if report.spec.states else ""),
        f"takes {report.share:.0%} of the clip for people, and agrees with unet-s by {report.agreement:.2f} (IoU)",
        f"{report.milliseconds:.2f} ms a picture, unet-s {report.beside:.2f} ms: "
        f"{report.milliseconds / report.beside:.1f} times as long",
    ]
    if norm:
        lines.append(f"agreement by what pictures are made of: {norm}")
    lines.append(report.advice or "It fits.")
    return "\n".join(lines)


def _facts(foreign: Foreign) -> dict[str, object]:
    return {
        "path": str(foreign.path),
        "bytes": foreign.bytes,
        "contract": foreign.contract.name if foreign.contract is not None else None,
        "contract_source": foreign.contract.source if foreign.contract is not None else None,
        "manifest": str(foreign.manifest) if foreign.manifest is not None else None,
        "inputs": {name: str(tensor) for name, tensor in foreign.graph.inputs.items()},
        "outputs": {name: str(tensor) for name, tensor in foreign.graph.outputs.items()},
    }


def described(spec: ModelSpec) -> dict[str, object]:
    """Return a model as it is shown in JSON; sizes are ``[height, width]``."""
    return {
        "name": spec.name,
        "summary": spec.summary,
        "licence": spec.licence,
        "sizes": [list(size) for size in spec.sizes],
        "classes": list(spec.classes),
        "recurrent": bool(spec.states),
        "folder": str(spec.folder),
        "files": spec.files,
        "sha256": spec.sha256,
    }
