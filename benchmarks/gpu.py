"""The whole path of a frame on a GPU, and the network alone beside the floor that its arithmetic and bytes set.

720p frames lie on the GPU already, a picture is the background; times are the GPU's own (CUDA events), medians of many
rounds; then frames come from the host's memory and go back, by the clock. The floor is what the chip's arithmetic or
its memory needs at least, whichever is more: multiplications are counted by the shapes of the layers, bytes by what
each layer has to read and to write once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from fractions import Fraction

import numpy as np

SIZE = (720, 1280)
TARGETS = {1: 1.2, 8: 0.5}
"""Milliseconds a frame by batch, of the whole path on an H200."""
FLOOR = 3.0
"""So many times its floor the network alone may take."""
CHIPS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "L40": (181e12, 0.864e12)}
"""float16 operations and bytes a second, dense, by the makers' data sheets; T4 and others are given by hand."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", default="unet-s")
    parser.add_argument("--runtime", default="torch", help="torch or tensorrt")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--chip", type=float, nargs=2, metavar=("TFLOPS", "TBPS"), help="of a chip that is not listed")
    options = parser.parse_args()
    try:
        import torch

        from vidseg.errors import VidsegError
        from vidseg.gpu.device import probe
    except ImportError as error:
        sys.exit(f"nothing was measured: {error.name} is not installed (pip install 'vidseg[torch]')")
    try:
        found = probe(options.device)
        if torch.device(options.device).type != "cuda":
            sys.exit("nothing was measured: --device takes a CUDA device")
    except VidsegError as error:
        sys.exit(f"nothing was measured: {error}")
    print(f"{found}, torch {torch.__version__}, {SIZE[1]}x{SIZE[0]}, {options.runtime}")
    torch.cuda.set_device(options.device)
    for batch in options.batch:
        measure(options, batch, chip_of(found, options.chip))


def chip_of(found: str, given: list[float] | None) -> tuple[float, float] | None:
    if given:
        return given[0] * 1e12, given[1] * 1e12
    return next((numbers for name, numbers in CHIPS.items() if name in found), None)


def measure(options: argparse.Namespace, batch: int, chip: tuple[float, float] | None) -> None:
    import torch

    from vidseg.backgrounds import open_background
    from vidseg.engine import load_spec
    from vidseg.gpu.compositor import GpuCompositor
    from vidseg.gpu.device import opener
    from vidseg.segmenter import Segmenter

    segmenter = Segmenter(options.model, options.runtime, opener=opener(options.device))
    frames = [resident(frame, options.device) for frame in pictures(batch)]
    compositor = GpuCompositor(open_background("#336699"), segmenter, device=options.device)
    parts = compositor.steps(frames)
    spec = load_spec(options.model)
    engine = segmenter.engine_for(SIZE)
    src = torch.zeros((batch, 3, *engine.size), device=options.device)
    alone = milliseconds(lambda: engine.infer_on_device(src), options.rounds) / batch
    whole = milliseconds(parts, options.rounds) / batch
    target = (
        f", target {TARGETS[batch]:g}: {'reached' if whole <= TARGETS[batch] else 'missed'}" if batch in TARGETS else ""
    )
    print(f"batch {batch}: whole path {whole:.3f} ms a frame{target}")
    operations, moved = cost_of(spec, engine.size, batch)
    needs = f"{operations / batch / 1e9:.2f} GFLOP, {moved / batch / 1e6:.1f} MB"
    text = f"         network alone {alone:.3f} ms a frame; {needs}"
    if chip is not None:
        floor = 1000 * max(operations / chip[0], moved / chip[1]) / batch
        text += f", floor {floor:.4f} ms: {alone / floor:.1f} times it (at most {FLOOR:g})"
    print(text)
    compositor.reset()
    near = pictures(batch)
    for name, ahead in (("one after the other", False), ("the next batch on its way up", True)):
        took = from_host(compositor, near, options, ahead)
        print(f"         from the host's memory and back, {name}: {took:.3f} ms a frame")
    compositor.close()
    segmenter.close()


def pictures(count: int) -> list:
    from vidseg.frame import Frame, allocate

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    frames = []
    for index in range(count):
        planes = allocate(SIZE)
        person = np.hypot((rows - 450) / 1.6, columns - 640 - 4 * index) < 220
        planes[0][...] = np.where(person, 170, 70) + rng.integers(0, 12, SIZE)
        planes[1][...], planes[2][...] = 118, 140
        frames.append(Frame(planes, index, Fraction(1, 30)))
    return frames


def resident(frame, device):
    from dataclasses import replace

    import torch

    return replace(frame, planes=tuple(torch.from_numpy(plane).to(device) for plane in frame.planes))


def milliseconds(call, rounds: int) -> float:
    """Return the median of what ``call`` takes on the GPU."""
    import torch

    for _ in range(10):
        call()
    torch.cuda.synchronize()
    took = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        took.append(begin.elapsed_time(end))
    return statistics.median(took)


def from_host(compositor, frames: list, options: argparse.Namespace, ahead: bool) -> float:
    """Return milliseconds a frame, upload and download included; ``ahead`` is what ``vidseg process`` does."""
    import threading
    import time

    from vidseg.gpu.uploads import Lift
    from vidseg.pipeline import Channel

    lift = Lift(options.device) if ahead else lambda frame: frame
    channel: Channel = Channel(len(frames))

    def read() -> None:
        for _ in range(options.rounds + 10):
            for frame in frames:
                channel.put(lift(frame))
        channel.close()

    reader = threading.Thread(target=read)
    reader.start()
    start = 0.0
    try:
        for done in range(options.rounds + 10):
            if done == 10:
                start = time.perf_counter()
            compositor.reset()
            compositor(channel.take(len(frames)))
        seconds = time.perf_counter() - start
    finally:
        channel.close(discard=True)
        reader.join()
    return 1000 * seconds / options.rounds / len(frames)


def cost_of(spec, size: tuple[int, int], batch: int) -> tuple[float, float]:
    """Return operations and bytes of a batch: two for each multiplication, and every tensor of a layer once, float16.

    Weights are read once a batch. What is between a convolution and the next, an activation, is counted to the first.
    """
    import torch

    from vidseg.networks import load
    from vidseg.runtimes.torch import fuse

    counted = {"operations": 0.0, "bytes": 0.0}

    def count(module, inputs, output) -> None:
        height, width = output.shape[2:]
        weights = module.weight.numel()
        counted["operations"] += 2 * weights * height * width
        counted["bytes"] += 2 * (inputs[0].numel() + output.numel()) + 2 * weights / batch

    net = fuse(load(spec.architecture, spec.read("weights"), spec.name).eval())
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        net(torch.zeros((1, 3, *size)))
    return batch * counted["operations"], batch * counted["bytes"]


if __name__ == "__main__":
    main()
