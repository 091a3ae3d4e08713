"""``python -m vidseg.training --data DIR``: train ``unet-s`` from nothing; a second call goes on after a kill."""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vidseg.training.data import Bank, Samples, contact_sheet, read_labelled, read_rooms
from vidseg.training.losses import matting_loss
from vidseg.unet import UNet


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one picture area: progressive resizing, small and fast first.

    Attributes:
        sizes: ``(h, w)``; each batch has one of them.
        steps: How many batches.
        batch: Pictures in each.
        peak: A new cosine starts here, from this learning rate; None goes on with the one before.
        pasted: See ``draw_sample``.
    """

    sizes: tuple[tuple[int, int], ...]
    steps: int
    batch: int
    peak: float | None = None
    pasted: float = 0.0


PHASES = (
    Phase(((64, 128), (96, 96), (96, 128), (128, 96), (64, 96), (96, 64)), 4000, 48, peak=3e-3),
    Phase(((96, 160), (96, 160), (160, 96), (128, 128), (128, 160)), 3600, 32),
    Phase(((160, 256), (160, 256), (256, 160), (192, 224), (192, 192)), 2400, 24),
    Phase(((160, 256), (160, 256), (256, 160), (192, 224), (192, 192)), 1400, 24, peak=1e-3, pasted=0.5),
)
WARM_UP = 300
MEAN = STD = 0.5
"""The network sees RGB in [-1, 1]."""


def learning_rate(step: int, phases: Sequence[Phase] = PHASES) -> float:
    """Warm-up, then half a cosine; with warm restarts (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    cycles: list[tuple[float, int]] = []
    for phase in phases:
        if phase.peak is not None:
            cycles.append((phase.peak, phase.steps))
        else:
            cycles[-1] = cycles[-1][0], cycles[-1][1] + phase.steps
    while step >= cycles[0][1] and len(cycles) > 1:
        step -= cycles.pop(0)[1]
    peak, steps = cycles[0]
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    return peak * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (steps - WARM_UP))))


def normalised(rgb: Tensor) -> Tensor:
    """uint8 RGB to the network's input, channels last."""
    return ((rgb.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def validate(net: nn.Module, data: Path) -> dict[str, float]:
    """Mean IoU by set on whole validation pictures, and the share of empty rooms in which it sees somebody."""
    net.eval()
    report = {}

    def alpha_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        landscape = rgb.shape[1] > rgb.shape[0]
        small = cv2.resize(rgb, (256, 160) if landscape else (160, 256), interpolation=cv2.INTER_AREA)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(normalised(torch.from_numpy(small).permute(2, 0, 1)[None]))[0]
        return np.asarray(logits.float().sigmoid()[0, 0].numpy())

    for name, pictures in read_labelled(data, "val").items():
        scores = []
        for picture in pictures:
            height, width = picture.alpha.shape
            mask = cv2.resize(alpha_of(picture.rgb), (width, height)) > 0.5
            truth = picture.alpha > 127
            known = np.ones_like(truth) if picture.ignore is None else picture.ignore < 128
            scores.append((mask & truth & known).sum() / max(((mask | truth) & known).sum(), 1))
        report[name] = float(np.mean(scores))
    seen = [(alpha_of(room) > 0.5).mean() > 0.005 for room in read_rooms(data, "val")]
    report["empty"] = float(np.mean(seen))
    return report


def train(args: argparse.Namespace, phases: Sequence[Phase] = PHASES) -> None:
    """Run all ``phases``, with a checkpoint in ``args.out`` every few minutes; a second call goes on from there."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    bank = Bank(args.data)
    cv2.imwrite(str(args.out / "samples.png"), contact_sheet(bank, (160, 256), args.seed)[..., ::-1])
    net = UNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    # Weight decay on matrices only: shrinking a BatchNorm's scale regularises nothing.
    matrices = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}])
    step, checkpoint = 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    steps = sum(phase.steps for phase in phases)
    end = 0
    for phase in phases:
        end += phase.steps
        if step >= end:
            continue
        samples = Samples(bank, list(phase.sizes), phase.batch, args.seed + step, phase.pasted)
        loader = DataLoader(
            samples, batch_size=None, num_workers=args.workers, prefetch_factor=4 if args.workers else None
        )
        started, first, running = time.time(), step, 0.0
        for rgb, alpha, weight in loader:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, phases)
            net.train()
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(normalised(rgb))[0]
            loss = matting_loss(logits.float(), alpha.float() / 255, weight.float() / 255)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            average.update_parameters(net)
            step += 1
            running = loss.item() if step == first + 1 else 0.98 * running + 0.02 * loss.item()
            if step % 100 == 0:
                rate = (step - first) * phase.batch / (time.time() - started)
                print(f"step {step}/{steps}  loss {running:.4f}  {rate:.0f} pictures/s", flush=True)
            if step % 400 == 0 or step == end:
                state = {"net": net.state_dict(), "average": average.state_dict()}
                state |= {"optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
                report = validate(average.module, args.data)
                print(f"step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in report.items()), flush=True)
            if step >= end:
                break
    torch.save(average.module.state_dict(), args.out / "weights.pt")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m vidseg.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with labelled/, pseudo/ and backgrounds/")
    parser.add_argument("--out", type=Path, default=Path("runs/unet-s"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
