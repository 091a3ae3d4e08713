"""``vidseg engines``: compiled networks of this machine, made, listed, checked and removed."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli import signals
from vidseg.cli.console import FAILED, Console, one_line, say

if TYPE_CHECKING:
    from vidseg.engine import ModelSpec, Precision
    from vidseg.frame import Size
    from vidseg.plans import Entry
    from vidseg.verifying import Verdict

EXAMPLES = opt.example(
    "vidseg engines build",
    "vidseg engines build --model unet-s --size 256x160 --precision int8",
    "vidseg engines list",
    "vidseg engines verify --json",
    "vidseg engines clear",
)


class Action(enum.StrEnum):
    """What to do."""

    build = "build"
    list = "list"
    verify = "verify"
    clear = "clear"


class Compiled(enum.StrEnum):
    """What a plan computes in."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def engines(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="build|list|verify|clear",
            help="build plans for TensorRT; list them; verify how right and how fast every runtime here is; clear: "
            "remove all plans.",
        ),
    ],
    model: opt.ModelOption = "unet-s",
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WIDTHxHEIGHT", help="Of the network's input. By default all of the model's (build)."
        ),
    ] = None,
    precision: Annotated[
        Compiled | None, typer.Option("--precision", help="What to build in. By default fp16.")
    ] = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Compile networks for this machine's GPU ahead of time, and see what every runtime here is worth.

    There is no need for it: on an NVIDIA GPU with TensorRT, plans are built while videos are processed already. They
    lie in your cache folder (VIDSEG_CACHE), for you alone.
    """
    console = Console(quiet, as_json, verbose)
    chosen = _parsed(size)
    with console.outcome():
        from vidseg.engine import load_spec
        from vidseg.plans import Plans

        plans = Plans()
        if action is Action.clear:
            count = plans.clear()
            console.note(f"{count} plan{'' if count == 1 else 's'} removed from {plans.folder}")
            console.result({"removed": count, "folder": str(plans.folder)})
        elif action is Action.list:
            found = plans.entries()
            console.result({"folder": str(plans.folder), "plans": [_listed(entry) for entry in found]})
            console.answer("\n".join(_line(entry) for entry in found) or f"There are no plans in {plans.folder}.")
        elif action is Action.build:
            spec = load_spec(model)
            built = list(_build(console, spec, chosen, precision.value if precision else None))
            console.result({"folder": str(plans.folder), "built": built})
        else:
            spec = load_spec(model).keeping()
            verdicts = list(_verified(console, spec, chosen or spec.sizes[0]))
            console.result({"model": spec.name, "verdicts": [asdict(verdict) for verdict in verdicts]})
            if any(verdict.usable and not verdict.right for verdict in verdicts):
                say("not every runtime says what the reference says")
                raise typer.Exit(FAILED)


def _parsed(text: str | None) -> Size | None:
    """Return ``(height, width)``.

    Raises:
        typer.BadParameter: It is no size.
    """
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, as in 256x160", param_hint="'--size'")
    return int(height), int(width)


def _checked(spec: ModelSpec, size: Size) -> Size:
    """Return ``size``.

    Raises:
        typer.BadParameter: The model does not take it.
    """
    from vidseg.engine import check_size

    try:
        check_size(spec, size)
    except ValueError as error:
        raise typer.BadParameter(str(error).partition(": size")[0], param_hint="'--size'") from None
    return size


def _build(console: Console, spec: ModelSpec, size: Size | None, precision: Precision | None) -> Iterator[str]:
    """Yield what was built, a line each."""
    from vidseg.building import open_compiled
    from vidseg.engine import compiler_module

    sizes = (_checked(spec, size),) if size else spec.sizes
    module = compiler_module()
    for wanted in sizes:
        title = f"{spec.name} {wanted[1]}x{wanted[0]}"
        with _progress(console, title) as report:
            engine = open_compiled(module, spec, wanted, precision, report=report)
        line = f"{title}: {engine.runtime}"
        engine.close()
        console.answer(line)
        yield line


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[float], None]]:
    """Yield what a build tells how far it is: a bar on a terminal, a line a quarter elsewhere."""

    def interrupted() -> None:
        if signals.heard():
            raise KeyboardInterrupt

    if console.quiet or sys.stderr is None:
        yield lambda share: interrupted()
        return
    if not sys.stderr.isatty():
        quarters = [0]

        def told(share: float) -> None:
            interrupted()
            if int(4 * share) > quarters[0]:
                quarters[0] = int(4 * share)
                say(f"{title}: {25 * quarters[0]} % built")

        yield told
        return
    from rich.console import Console as Terminal
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(title), total=1.0)

        def shown(share: float) -> None:
            interrupted()
            bar.update(task, completed=share)

        yield shown


def _verified(console: Console, spec: ModelSpec, size: Size) -> Iterator[Verdict]:
    """Yield what each runtime is worth, and say it as it is found."""
    from vidseg.verifying import verify

    _checked(spec, size)
    console.answer(
        f"{spec.name} {size[1]}x{size[0]}; the reference is float32 on the CPU\n"
        f"{'runtime':<18}{'':<8}{'largest':>8}{'mean':>8}  {'alone':>9}{'batch':>9}"
    )
    for verdict in verify(spec, size):
        name = f"{verdict.runtime} {verdict.precision}"
        if verdict.parity is None:
            console.answer(f"{name:<18}{'no use':<8}{one_line(verdict.detail)}")
        else:
            console.answer(
                f"{name:<18}{'right' if verdict.right else 'WRONG':<8}{verdict.parity.largest:>8.4f}"
                f"{verdict.parity.mean:>8.5f}  {verdict.alone:>6.2f} ms{verdict.batch:>6.2f} ms  {verdict.detail}"
            )
        yield verdict


def _line(entry: Entry) -> str:
    facts = entry.facts
    if facts is None or entry.damage:
        return f"{one_line(entry.path.name)}  not used: {entry.damage}"
    used = f"  not used: {one_line(entry.refused)}" if entry.refused else ""
    return (
        f"{facts.model} {facts.precision} {facts.size[1]}x{facts.size[0]}, 1 to {facts.batch} pictures, "
        f"{entry.bytes / 1e6:.1f} MB; {facts.runtime}, {facts.device}, driver {facts.driver}{used}"
    )


def _listed(entry: Entry) -> dict[str, object]:
    return {
        "path": str(entry.path),
        "bytes": entry.bytes,
        "facts": asdict(entry.facts) if entry.facts is not None else None,
        "damage": entry.damage,
        "refused": entry.refused,
    }
