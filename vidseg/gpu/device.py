"""Which device a frame's whole path is computed on, if any, and whether it computes what a CPU does."""

from __future__ import annotations

import logging
from fractions import Fraction

import numpy as np
import torch

from vidseg.batching import Opener
from vidseg.compositing import composite
from vidseg.engine import Engine, ModelSpec, Precision, open_engine
from vidseg.errors import EngineError
from vidseg.frame import Frame, Size, allocate
from vidseg.gpu.compositing import blend, find_edges
from vidseg.gpu.pictures import Kind
from vidseg.gpu.refine import refine
from vidseg.gpu.resize import shrink
from vidseg.gpu.settling import settle
from vidseg.refine import refine as refine_on_cpu
from vidseg.resize import shrink as shrink_on_cpu
from vidseg.runtimes.cuda import check, reason_of, to_host
from vidseg.settling import settle as settle_on_cpu

log = logging.getLogger(__name__)


def probe(device: str = "cuda") -> str:
    """Return what ``device`` is, if the path of a frame can be computed on it.

    A picture of noise is refined and composited there and by the kernels of the CPU: a device, driver or PyTorch with
    which another picture comes out is not used.

    Raises:
        EngineError: It cannot; the text says why, and what mends it.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EngineError(f"there is no device {device!r}: write cpu, cuda or cuda:1", runtime=device) from error
    if chosen.type not in ("cuda", "cpu"):
        raise EngineError(f"frames are put together on CUDA devices only, not on {device}: use --device cpu")
    try:
        name = _cuda(chosen, device) if chosen.type == "cuda" else "the tensors of a CPU"
        steps = _difference(chosen)
    except RuntimeError as error:
        raise EngineError(f"{device} cannot be used: {reason_of(error)}", runtime=device) from error
    if not steps <= 1:  # also what is no number
        raise EngineError(
            f"{device} computes other pictures than a CPU (by {steps:g} steps of 255): update its driver and PyTorch, "
            "or use --device cpu",
            runtime=device,
        )
    return name


def opener(device: str) -> Opener:
    """Return what opens networks on ``device``: PyTorch's and TensorRT's are opened where CUDA's current device is."""
    if torch.device(device).type != "cuda":
        return open_engine

    def opened(spec: ModelSpec, runtime: str, size: Size, threads: int | None, precision: Precision | None) -> Engine:
        with torch.cuda.device(torch.device(device)):
            return open_engine(spec, runtime, size, threads, precision)

    return opened


def _cuda(chosen: torch.device, device: str) -> str:
    check(f"{device} cannot be used", ", or use --device cpu")
    count = torch.cuda.device_count()
    if chosen.index is not None and chosen.index >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "none"
        raise EngineError(f"there is no {device} here (there is {there}): use --device cpu", runtime=device)
    properties = torch.cuda.get_device_properties(chosen)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"


@torch.inference_mode()
def _difference(device: torch.device) -> float:
    """Return by how many steps a picture from ``device`` differs from that of the CPU, at most."""
    rng, size, small = np.random.default_rng(0), (90, 160), (32, 64)
    frames = []
    for _ in range(2):
        planes = allocate(size)
        for plane in planes:
            plane[...] = rng.integers(0, 256, plane.shape)
        frames.append(Frame(planes, 0, Fraction(1, 25)))
    front, back = frames
    rows, columns = np.mgrid[: small[0], : small[1]]
    alpha = np.clip(0.5 + (12 - np.hypot(rows - 16, columns - 32)) / 4, 0, 1).astype(np.float32)
    settled = settle_on_cpu(alpha)
    guide = shrink_on_cpu(front.planes[0], small)  # type: ignore[type-var]
    full = refine_on_cpu(settled, front, guide)  # type: ignore[arg-type]
    expected = composite(front, back, full)

    kind = Kind.of(front)
    over, under = (kind.split(kind.upload([frame], device)) for frame in frames)
    got_guide = shrink(over[0], small)
    got_settled, _ = settle(torch.tensor(alpha, device=device)[None])
    got_full = refine(got_settled, over[0], got_guide)
    # From the very alpha of the CPU: a step of alpha is more than one in a picture.
    given = torch.tensor(full, device=device)[None].float()
    got = blend(over, under, given, find_edges(given))
    pairs = [(got_guide, guide), (got_full, full), *zip(got, expected.planes, strict=True)]
    worst = [np.abs(to_host(tensor.float())[0].numpy() - truth.astype(np.float32)).max() for tensor, truth in pairs]
    return float(np.max([*worst, 255 * np.abs(to_host(got_settled)[0].numpy() - settled).max()]))


def choose(device: str, runtime: str = "auto") -> str | None:
    """Return the device to put frames together on, or None for the CPU's kernels.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; only ``auto`` is replaced by another.
        runtime: That of the network; one that computes elsewhere keeps ``auto`` on the CPU.

    Raises:
        EngineError: The device that was asked for cannot be used.
    """
    if device == "cpu":
        return None
    if device != "auto":
        probe(device)
        return device
    if runtime not in ("auto", "torch", "tensorrt"):
        return None
    try:
        log.info("frames are put together on cuda:0: %s", probe("cuda:0"))
    except EngineError as error:
        log.info("frames are put together on the CPU: %s", error)
        return None
    return "cuda:0"
