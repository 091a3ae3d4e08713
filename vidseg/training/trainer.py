"""The trainer: from a recipe and pictures to weights, in steps that can be cut off anywhere and gone on with."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import swa_utils

from vidseg.errors import OutputExistsError, SinkError, SourceError
from vidseg.networks import Weights, build, read_weights, write_weights
from vidseg.training.feed import Draw, batches
from vidseg.training.logs import Logs
from vidseg.training.losses import loss_of
from vidseg.training.ranks import Ranks, joined
from vidseg.training.recipe import Recipe, as_toml, parse_loss, read_recipe
from vidseg.training.samples import Batch
from vidseg.training.start import start_from
from vidseg.unet import State

MEAN = STD = 0.5
"""The network sees RGB in [-1, 1]."""
LOG_EVERY = 50
"""Steps; each entry waits for the GPU."""


def normalised(rgb: Tensor) -> Tensor:
    """uint8 RGB to the network's input, channels last."""
    return ((rgb.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


class Unrolled(nn.Module):
    """A network along clips: ``(N, T, 3, H, W)`` uint8 in, logits ``(N, T, K, H, W)`` out.

    One call a batch, however long the clips, is what ``DistributedDataParallel`` asks for.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rgb: Tensor) -> Tensor:
        """Return the logits of all frames; networks without state see them as so many stills."""
        clips, frames = rgb.shape[:2]
        if frames == 1 or not self.net.states:
            logits: Tensor = self.net(normalised(rgb.flatten(0, 1)))[0]
            return logits.view(clips, frames, *logits.shape[1:])
        state: State = ()
        steps = []
        for frame in rgb.unbind(1):
            logits, state = self.net(normalised(frame), state)
            steps.append(logits)
        return torch.stack(steps, 1)


class Validation(Protocol):
    """What weights are judged by."""

    def __call__(self, net: nn.Module, device: torch.device, picture: Path) -> dict[str, float]:
        """Return measures by name, ``score`` (higher is better) among them, and draw predictions into ``picture``."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run is.

    Attributes:
        step: Batches done.
        steps: Batches in all.
        loss: Running mean.
        rate: Pictures a second.
        measures: Of the last validation.
    """

    step: int
    steps: int
    loss: float
    rate: float
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has come to.

    Attributes:
        out: Its folder.
        weights: The averaged weights of the last step.
        best: Those with the best score; None without validation.
        step: Batches done.
        steps: Batches in all.
        score: Of ``weights``.
        best_score: Of ``best``.
        measures: Of ``weights``.
        early: Whether patience ended it.
        seconds: Of this call.
    """

    out: Path
    weights: Path
    best: Path | None
    step: int
    steps: int
    score: float | None
    best_score: float | None
    measures: Mapping[str, float]
    early: bool
    seconds: float


def prepared(recipe: Recipe | None, out: Path, resume: bool) -> Recipe:
    """Return the recipe that a run in ``out`` follows.

    Raises:
        OutputExistsError: There is a run already, and it is not to be gone on with.
        SourceError: There is none to go on with.
        ValueError: The recipe has another network than the run.
    """
    checkpoint, kept = out / "checkpoint.pt", out / "recipe.toml"
    if not resume:
        if checkpoint.exists():
            raise OutputExistsError(f"{out} holds a run already: go on with it (--resume), or choose another folder")
        if recipe is None:
            raise ValueError("a new run needs a recipe")
        return _checked(recipe)
    if not checkpoint.exists() or not kept.exists():
        raise SourceError(f"{out} holds no run to go on with: there is no checkpoint.pt with a recipe.toml")
    before = read_recipe(kept)
    if recipe is None:
        return before
    if recipe.network != before.network:
        raise ValueError(f"{out} holds the run of another network ({before.network}): choose another folder")
    return _checked(recipe)


def _checked(recipe: Recipe) -> Recipe:
    with torch.device("meta"):
        multiple = int(build(recipe.network).multiple)  # type: ignore[arg-type]
    for height, width in (size for phase in recipe.phases for size in phase.sizes):
        if height % multiple or width % multiple or not height * width:
            raise ValueError(f"width and height of a size are multiples of {multiple}: {width}x{height}")
    return recipe


class Trainer:
    """One run: the network, its averaged weights, the optimiser, and the step it is at."""

    def __init__(self, recipe: Recipe, ranks: Ranks) -> None:
        self.recipe, self.ranks, self.step = recipe, ranks, 0
        self.best, self.waited = -math.inf, 0
        self.terms = parse_loss(recipe.loss, bool(recipe.classes))
        torch.manual_seed(recipe.seed)
        self.net = build(recipe.network).to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.amp = _amp(recipe, ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.amp is torch.float16)
        self._finish()

    def _finish(self) -> None:
        """Make what depends on the values of the weights and not on their names only."""
        self.average = swa_utils.AveragedModel(self.net, multi_avg_fn=self._averaged, use_buffers=True)
        self.optimizer = _optimizer(self.net, self.recipe)
        self.unrolled: nn.Module = Unrolled(self.net)
        if self.ranks.world > 1:
            # torchrun's ranks start from the weights of rank 0, and take its running means before every step.
            device = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
            self.unrolled = DistributedDataParallel(self.unrolled, device_ids=device)

    def _averaged(
        self,
        averages: tuple[Tensor, ...] | list[Tensor],
        values: tuple[Tensor, ...] | list[Tensor],
        count: Tensor | int,
    ) -> None:
        # Early weights are soon forgotten; without that a short run would end near its random start.
        share = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        swa_utils.get_ema_multi_avg_fn(share)(averages, values, count)  # type: ignore[arg-type]

    @property
    def lost_patience(self) -> bool:
        """Whether the score has not risen for too long."""
        return 0 < self.recipe.patience <= self.waited

    def start(self, weights: Weights, name: str) -> list[str]:
        """Start from given weights; returns what is to be said about that."""
        notes = start_from(self.net, weights, name, self.recipe.seed)
        self._finish()
        return notes

    def learn(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Take one step; returns the loss and its terms, without waiting for the device."""
        device = self.ranks.device
        rgb, alpha, weight = (x.to(device, non_blocking=True) for x in batch)
        # What is random in a network (dropout) belongs to the step too.
        torch.manual_seed(self.recipe.seed + 1_000_003 * self.step + self.ranks.rank)
        rate = self.recipe.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.net.train()
        with torch.autocast(device.type, self.amp) if self.amp else nullcontext():
            logits = self.unrolled(rgb)
        truth = alpha.float() if self.recipe.classes else alpha.float() / 255
        loss, terms = loss_of(self.terms, logits.float(), truth, weight.float() / 255)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.net)
        self.step += 1
        return loss.detach(), terms

    # --- files --------------------------------------------------------------------------------------------------

    def weights(self) -> Weights:
        """Return the averaged weights."""
        state = {key: value.cpu() for key, value in self.average.module.state_dict().items()}
        return Weights(dict(self.recipe.network), state, self.recipe.classes, {"step": str(self.step)})

    def save(self, path: Path) -> None:
        """Write all that ``restore`` needs; the file under this name is replaced when all is there."""
        notes = {"architecture": json.dumps(self.recipe.network), "classes": json.dumps(list(self.recipe.classes))}
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "waited": self.waited,
            "notes": notes,
        }
        unfinished = path.with_suffix(".tmp")
        with open(unfinished, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def restore(self, path: Path) -> None:
        """Go on where ``save`` was called.

        Raises:
            SourceError: The file is not a checkpoint of such a run.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.net.load_state_dict(state["net"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.best, self.waited = state["step"], state["best"], state["waited"]
        except Exception as error:  # torch.load raises whatever its unpickler meets
            raise SourceError(f"{path} is not a checkpoint of this run: {error}", url=str(path)) from error


def train(
    recipe: Recipe,
    draw: Draw,
    out: Path,
    *,
    validation: Validation | None = None,
    init: Path | None = None,
    resume: bool = False,
    workers: int = 0,
    threads: int | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Result:
    """Train, with a checkpoint, a validation and pictures every ``recipe.validate_every`` steps.

    Ctrl-C and requests to end are heard after the step that is being taken; a checkpoint is left, and a call with
    ``resume`` ends with the same weights as a run that was never cut off.

    Args:
        recipe: What to do; see ``prepared`` for a run that is gone on with.
        draw: Draws the batches.
        out: Takes ``recipe.toml``, ``checkpoint.pt``, ``weights.safetensors`` (averaged), ``best.safetensors``,
            ``log.csv``, ``curves.png``, ``predictions-STEP.png`` and TensorBoard's files.
        validation: Judges the averaged weights.
        init: Weights to start from; see ``vidseg.training.start``.
        resume: Go on with the run in ``out``.
        workers: Processes that draw samples.
        threads: Of PyTorch; None leaves that to it.
        device: See ``vidseg.training.ranks.joined``.
        note: Takes sentences for a person.
        watch: Is told of every step.

    Raises:
        OutputExistsError, SourceError, ValueError: See ``prepared``.
        EngineError: ``init`` cannot be used.
        KeyboardInterrupt: It was asked to end; there is a checkpoint.
    """
    began = time.monotonic()
    recipe = prepared(recipe, out, resume)
    if recipe.patience and validation is None:
        raise ValueError("patience needs a validation: there are no pictures to judge by")
    if threads is not None:
        torch.set_num_threads(threads)
    with joined(device) as ranks:
        trainer = Trainer(recipe, ranks)
        if init is not None and not resume:
            for text in trainer.start(read_weights(init), str(init)):
                note(text)
        checkpoint = out / "checkpoint.pt"
        if resume:
            trainer.restore(checkpoint)
        ranks.wait()
        logs = None
        if ranks.first:
            try:
                out.mkdir(parents=True, exist_ok=True)
                unfinished = out / "recipe.toml.tmp"
                unfinished.write_text(as_toml(recipe), "utf-8")
                unfinished.replace(out / "recipe.toml")
            except OSError as error:
                raise SinkError(f"{out} cannot be written to: {error.strerror}", url=str(out)) from error
            logs = Logs(out, trainer.step, note)
        try:
            with postponed() as signals:
                result = _run(trainer, draw, out, validation if ranks.first else None, workers, logs, watch, signals)
        finally:
            if logs is not None:
                logs.close()
    score = result.get("score")
    return Result(
        out=out,
        weights=out / "weights.safetensors",
        best=out / "best.safetensors" if trainer.best > -math.inf else None,
        step=trainer.step,
        steps=recipe.steps,
        score=score,
        best_score=trainer.best if trainer.best > -math.inf else None,
        measures=result,
        early=trainer.step < recipe.steps,
        seconds=time.monotonic() - began,
    )


def _run(
    trainer: Trainer,
    draw: Draw,
    out: Path,
    validation: Validation | None,
    workers: int,
    logs: Logs | None,
    watch: Callable[[Moment], None],
    signals: list[int],
) -> dict[str, float]:
    """Take all steps that are left and return the measures of the last validation. Only the first rank has ``logs``."""
    recipe, ranks = trainer.recipe, trainer.ranks
    measures: dict[str, float] = {}
    end = 0
    for phase in recipe.phases:
        end += phase.steps
        first, started = trainer.step, time.monotonic()
        if first >= end or trainer.lost_patience:
            continue
        for _, batch in batches(draw, phase, recipe.seed, range(first, end), ranks, workers):
            loss, terms = trainer.learn(batch)
            step = trainer.step
            due = step % recipe.validate_every == 0 or step == recipe.steps
            if logs is not None:
                logs.add(loss, terms)
                seconds = time.monotonic() - started
                rate = (step - first) * phase.batch * phase.frames * ranks.world / max(seconds, 1e-9)
                if due or step % LOG_EVERY == 0:
                    mean = logs.write(step, recipe.rate(step - 1), rate)
                    watch(Moment(step, recipe.steps, mean, rate, measures))
                elif step < LOG_EVERY:  # that it has begun is good to see
                    watch(Moment(step, recipe.steps, float(loss), rate, measures))
                if due:
                    paused = time.monotonic()
                    measures = _judged(trainer, out, validation, logs)
                    watch(Moment(step, recipe.steps, mean, rate, measures))
                    started += time.monotonic() - paused
            # Among several ranks a word about signals costs a round of messages, so it is not asked for every time.
            stop = (ranks.world == 1 or due or step % 8 == 0) and ranks.agreed(bool(signals))
            if logs is not None and (due or stop):
                trainer.save(out / "checkpoint.pt")
            if due or stop:
                ranks.wait()
            if stop:
                raise KeyboardInterrupt
            if due and ranks.agreed(trainer.lost_patience):
                return measures
    return measures


def _judged(trainer: Trainer, out: Path, validation: Validation | None, logs: Logs) -> dict[str, float]:
    """Validate and write the averaged weights, and keep them apart if they are the best yet."""
    weights = trainer.weights()
    write_weights(out / "weights.safetensors", weights)
    measures: dict[str, float] = {}
    predictions = out / f"predictions-{trainer.step:06}.png"
    if validation is not None:
        measures = validation(trainer.average.module, trainer.ranks.device, predictions)
        if measures["score"] > trainer.best:
            trainer.best, trainer.waited = measures["score"], 0
            write_weights(out / "best.safetensors", weights)
        else:
            trainer.waited += 1
    logs.measured(trainer.step, measures, predictions)
    return measures


# --- device, optimiser, signals ---------------------------------------------------------------------------------


def _amp(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return in what convolutions compute."""
    if not recipe.amp or device.type == "mps":
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=0.0)
    return torch.optim.AdamW(groups, lr=0.0)


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Within the block a first SIGINT or SIGTERM is only noted in the list; after it whoever listened before hears it.

    A second one is not held back: somebody is impatient, and the last checkpoint is whole.
    """
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN}

    def tell(number: int, frame: FrameType | None) -> None:
        listener = before[signal.Signals(number)]
        if callable(listener):
            listener(number, frame)
        raise KeyboardInterrupt

    def hold(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            tell(number, frame)

    for number in before:
        signal.signal(number, hold)
    try:
        yield heard
    finally:
        for number, listener in before.items():
            signal.signal(number, listener)
        if len(heard) == 1:
            tell(heard[0], None)
