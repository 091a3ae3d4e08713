"""``vidseg train``: a network of one's own, or the shipped ones once more."""

from __future__ import annotations

import enum
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console, say
from vidseg.cli.progress import duration
from vidseg.errors import MissingDependencyError

if TYPE_CHECKING:
    from vidseg.training.readers import Dataset
    from vidseg.training.recipe import Recipe
    from vidseg.training.trainer import Moment, Result

EXAMPLES = opt.example(
    "vidseg train --data data/ --out runs/mine",
    "vidseg train --data data/ --out runs/mine --resume",
    "vidseg train --data photos/ --data rooms/ --arch unet-m --init unet-s --steps 4000",
    "vidseg train --data street/ --classes auto --arch deeplabv3",
    "torchrun --nproc_per_node=2 -m vidseg train --data data/ --out runs/mine",
)
LINE_SECONDS = 20.0
_RUN, _RECIPE, _MACHINE = "The run", "The recipe", "The machine"


class Arch(enum.StrEnum):
    """The networks that have a name."""

    unet_s = "unet-s"
    unet_m = "unet-m"
    fcn = "fcn"
    deeplabv3 = "deeplabv3"


class Optimizer(enum.StrEnum):
    """What turns gradients into steps."""

    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"


class Strength(enum.StrEnum):
    """How much is done to the pictures."""

    none = "none"
    gentle = "gentle"
    standard = "standard"
    strong = "strong"


def train(
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="[LAYOUT:]DIR",
            help="Pictures with masks or alphas, clips, rooms; see docs/training-data.md. Can be given several times.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the run is written.", rich_help_panel=_RUN)
    ] = Path("runs/mine"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_RUN)
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="WEIGHTS",
            help="Start from these: .safetensors, .pt, a model's folder or name; also of a narrower U-Net.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", help="TOML; every run leaves one in --out.", rich_help_panel=_RECIPE),
    ] = None,
    arch: Annotated[Arch | None, typer.Option("--arch", help="By default unet-s.", rich_help_panel=_RECIPE)] = None,
    gates: Annotated[
        int | None,
        typer.Option("--gates", metavar="N", help="Levels of a U-Net that are recurrent.", rich_help_panel=_RECIPE),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAME,…",
            help="Tell classes apart instead of an alpha; 'auto' takes the names from the data.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="Batches in all.", rich_help_panel=_RECIPE)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", min=1, help="Clips a batch.", rich_help_panel=_RECIPE)
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", min=1, help="Frames a clip; 1 is stills.", rich_help_panel=_RECIPE),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="The only size, 256x160 say.", rich_help_panel=_RECIPE),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", metavar="RATE", help="Highest learning rate.", rich_help_panel=_RECIPE)
    ] = None,
    optimizer: Annotated[Optimizer | None, typer.Option("--optimizer", rich_help_panel=_RECIPE)] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="NAME=WEIGHT,…",
            help="bce, l1, mse, dice, laplacian, temporal; for classes ce, dice. boundary=3 makes errors at edges "
            "count fourfold.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    augment: Annotated[
        Strength | None,
        typer.Option("--augment", help="How much is done to the pictures.", rich_help_panel=_RECIPE),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            metavar="N",
            min=0,
            help="End after so many validations without a better score; 0: never.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            "--validate-every",
            metavar="STEPS",
            min=1,
            help="Also how often a checkpoint is written.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, rich_help_panel=_RECIPE)] = None,
    amp: Annotated[
        bool | None,
        typer.Option("--amp/--no-amp", help="Compute in 16 bits where that is safe.", rich_help_panel=_RECIPE),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=0, help="Processes that draw samples.", rich_help_panel=_MACHINE),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of PyTorch.", rich_help_panel=_MACHINE)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="NAME", help="cpu, cuda or mps; the best if not given.", rich_help_panel=_MACHINE
        ),
    ] = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Train a network on pictures of your own.

    Writes checkpoints, averaged weights, log.csv, TensorBoard's files, curves.png and a grid of predictions to --out.
    Ctrl-C leaves a checkpoint; a run that was gone on with ends as one that was never cut off. Several GPUs or
    machines work together under torchrun.
    """
    if not data:
        raise typer.BadParameter("it is missing; give a folder of pictures with masks or alphas", param_hint="'--data'")
    others = os.environ.get("RANK", "0") != "0"  # of torchrun's processes only the first talks
    console = Console(quiet or others, as_json and not others, verbose)
    with console.outcome():
        for module in ("torch", "torchvision", "safetensors"):
            if importlib.util.find_spec(module) is None:
                raise MissingDependencyError("vidseg train", "train")

        from vidseg.training.bank import Bank
        from vidseg.training.feed import Drawn, policy_of
        from vidseg.training.readers import open_datasets
        from vidseg.training.trainer import prepared
        from vidseg.training.trainer import train as train_network
        from vidseg.training.validation import HeldBack

        problems: list[str] = []
        datasets = open_datasets(data, problems)
        try:
            plan = _planned(resume, out, recipe, arch, _classes(classes, datasets))
            if gates is not None:
                plan = replace(plan, architecture=plan.architecture | {"gates": gates})
            if frames is not None:
                plan = replace(plan, phases=tuple(replace(phase, frames=frames) for phase in plan.phases))
            plan = plan.scaled(steps, batch, _size(size), lr)
            given = {
                "optimizer": optimizer and optimizer.value,
                "loss": loss,
                "augmentation": augment and plan.augmentation | {"strength": augment.value},
                "patience": patience,
                "validate_every": validate_every,
                "seed": seed,
                "amp": amp,
            }
            plan = replace(plan, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
            policy = policy_of(plan.augmentation)
            plan = prepared(plan, out, resume)
        except ValueError as error:
            if isinstance(error, typer.BadParameter) or hasattr(error, "path"):
                raise
            raise typer.BadParameter(str(error), param_hint="'--recipe' or an option that changes it") from None
        for problem in problems[:10]:
            console.note(problem)
        if len(problems) > 10:
            console.note(f"and {len(problems) - 10} more; 'vidseg data' shows them all")
        bank = Bank(datasets, shares=plan.shares)
        if plan.classes != bank.classes:
            told = f"classes {', '.join(bank.classes)}" if bank.classes else "alphas"
            raise typer.BadParameter(f"the data is of {told}", param_hint="'--classes'")
        clips = any(phase.frames > 1 for phase in plan.phases)
        held_back = HeldBack(datasets, plan.phases[-1].sizes, plan.classes, clips=clips)
        if not held_back:
            console.note(
                "nothing is held back in the data, so there is no validation: name a split, or give more people"
            )
        try:
            with _shown(console, str(out)) as watch:
                result = train_network(
                    plan,
                    Drawn(bank, policy),
                    out,
                    validation=held_back or None,
                    init=_weights(init),
                    resume=resume,
                    workers=max(1, min(16, (os.cpu_count() or 1) // 2)) if workers is None else workers,
                    threads=threads,
                    device=device,
                    note=console.note,
                    watch=watch,
                )
        except KeyboardInterrupt as interrupt:
            if (out / "checkpoint.pt").exists():
                interrupt.kept = f"there is a checkpoint in {out}: go on with --resume"  # type: ignore[attr-defined]
            raise
        if not others:
            _tell(console, result)


def _planned(resume: bool, out: Path, path: Path | None, arch: Arch | None, classes: tuple[str, ...]) -> Recipe:
    """Return the recipe that the options change."""
    from vidseg.engine import load_spec
    from vidseg.errors import EngineError
    from vidseg.networks import PRESETS
    from vidseg.training.recipe import ALPHA_LOSS, CLASS_LOSS, Recipe, read_recipe

    name = (arch or Arch.unet_s).value
    if path is None and resume and (out / "recipe.toml").exists():
        path = out / "recipe.toml"
    elif path is None:
        try:
            shipped = load_spec(name).folder / "recipe.toml"
        except EngineError:  # this one is not shipped
            shipped = Path()
        path = shipped if shipped.is_file() else None
    recipe = read_recipe(path) if path else Recipe(PRESETS[name])
    if arch is not None:
        recipe = replace(recipe, architecture=dict(PRESETS[name]))
    if classes and classes != recipe.classes:
        loss = CLASS_LOSS if recipe.loss == ALPHA_LOSS or not recipe.classes else recipe.loss
        recipe = replace(recipe, classes=classes, loss=loss)
    return recipe


def _classes(text: str | None, datasets: list[Dataset]) -> tuple[str, ...]:
    if text is None:
        return ()
    if text != "auto":
        return tuple(name.strip() for name in text.split(","))
    found = next((dataset.classes for dataset in datasets if dataset.classes), ())
    if not found:
        raise typer.BadParameter("the data names no classes", param_hint="'--classes'")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if not found:
        raise typer.BadParameter(f"{text!r} is not a width and a height like 256x160", param_hint="'--size'")
    return int(found[2]), int(found[1])


def _weights(init: str | None) -> Path | None:
    """Return where the weights of ``--init`` lie, which may be the name of a model."""
    if init is None or Path(init).exists():
        return None if init is None else Path(init)
    from vidseg.engine import list_models

    return next((spec.folder for spec in list_models() if spec.name == init), Path(init))


def _tell(console: Console, result: Result) -> None:
    values = {
        "out": str(result.out),
        "weights": str(result.weights),
        "best": None if result.best is None else str(result.best),
        "step": result.step,
        "steps": result.steps,
        "score": result.score,
        "best_score": result.best_score,
        "measures": dict(result.measures),
        "early": result.early,
        "seconds": round(result.seconds, 1),
    }
    console.result(values)
    ended = "ended early, the score rises no more, " if result.early else ""
    console.answer(f"{result.weights}: {ended}{result.step} steps in {duration(result.seconds)}")
    if result.measures:
        console.answer("  " + measures_line(result.measures))


def measures_line(measures: object) -> str:
    """Return measures by name as one line."""
    assert isinstance(measures, dict)
    return "  ".join(f"{name} {value:.3f}" for name, value in measures.items())


@contextmanager
def _shown(console: Console, title: str) -> Iterator[Callable[[Moment], None]]:
    """Yield what the trainer reports to: a bar on a terminal, a line now and then elsewhere."""
    if console.quiet or sys.stderr is None:
        yield lambda moment: None
        return
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress as rich
    from rich.console import Console as Terminal
    from rich.markup import escape

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=None),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[loss]}"),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(compact=True),
    )
    with rich.Progress(*columns, console=Terminal(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(escape(title), total=None, loss="starting", rate="")
        said: object = {}

        def report(moment: Moment) -> None:
            nonlocal said
            rate = f"{moment.rate:.0f} pictures/s"
            bar.update(task, completed=moment.step, total=moment.steps, loss=f"loss {moment.loss:.4f}", rate=rate)
            if moment.measures and moment.measures is not said:
                said = moment.measures
                bar.console.print(escape(f"step {moment.step}  {measures_line(moment.measures)}"), highlight=False)

        yield report


class _Lines:
    """Says where a run is, at most every ``LINE_SECONDS``, and what each validation has found."""

    def __init__(self) -> None:
        self._said = time.monotonic() - LINE_SECONDS
        self._measures: object = {}

    def __call__(self, moment: Moment) -> None:
        now = time.monotonic()
        if moment.measures and moment.measures is not self._measures:
            self._measures = moment.measures
            say(f"step {moment.step}  {measures_line(moment.measures)}")
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            say(f"step {moment.step} of {moment.steps}, loss {moment.loss:.4f}, {moment.rate:.0f} pictures/s")
