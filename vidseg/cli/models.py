"""``vidseg models``: the networks that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidseg.cli import options as opt
from vidseg.cli.console import Console, one_line

if TYPE_CHECKING:
    from vidseg.engine import ModelSpec

EXAMPLES = opt.example("vidseg models", "vidseg models --json")


def models(as_json: opt.JsonOption = False, verbose: opt.VerboseOption = False) -> None:
    """List the networks that come with vidseg."""
    console = Console(as_json=as_json, verbose=verbose)
    with console.outcome():
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
