"""PyTorch: the float32 reference on a CPU, float16 on an NVIDIA GPU, and Apple's GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineError
from vidseg.frame import Size
from vidseg.networks import load
from vidseg.runtimes import checked, checked_state

Net = TypeVar("Net", bound=nn.Module)
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def probe() -> str:
    """Return what it runs on."""
    return f"torch {torch.__version__} ({_device_name(_device())})"


def open(spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> TorchEngine:
    """Load ``spec`` for one input size."""
    return TorchEngine(spec, size, threads, precision)


def fuse(net: Net) -> Net:
    """Fold each BatchNorm into the convolution before it, in place: a third fewer passes over memory."""
    for module in list(net.modules()):
        if isinstance(module, nn.Sequential):
            for at, (first, second) in enumerate(pairwise(list(module))):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    module[at], module[at + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return net


class TorchEngine:
    """A network in PyTorch, on the best device there is."""

    def __init__(
        self,
        spec: ModelSpec,
        size: Size,
        threads: int | None,
        precision: Precision | None,
        *,
        device: str | None = None,
    ) -> None:
        self.spec, self.size = spec, size
        self._device = torch.device(device) if device else _device()
        precision = precision or ("fp32" if self._device.type == "cpu" else "fp16")
        if precision not in _DTYPES:
            raise EngineError(f"runtime torch knows {', '.join(_DTYPES)}, not {precision}", runtime="torch")
        if precision == "fp16" and self._device.type == "cpu":
            raise EngineError("torch computes fp16 on a CPU 5 times slower than fp32: ask for fp32", runtime="torch")
        self.runtime = f"torch {precision} ({_device_name(self._device)})"
        self._dtype = _DTYPES[precision]
        self._threads = threads
        net = load(spec.architecture, spec.read("weights"), spec.name)
        with self._errors():
            self._net: nn.Module | None = fuse(net.eval()).to(
                self._device,
                self._dtype,
                memory_format=torch.channels_last,  # type: ignore[call-overload]
            )

    @torch.inference_mode()
    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it."""
        src, state = checked(src, self.size), checked_state(self.spec, state, len(src))
        if self._net is None:
            raise EngineError("the engine is closed", runtime=self.runtime)
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # PyTorch knows one number for the whole process
        with self._errors():
            before = tuple(torch.tensor(part).to(self._device, self._dtype) for part in state)
            tensor = torch.tensor(src).to(self._device, self._dtype)
            logits, after = self._net(tensor.contiguous(memory_format=torch.channels_last), before)
            logits = logits.float()
            alpha = logits.softmax(1)[:, self.spec.kept].sum(1) if self.spec.classes else logits.sigmoid()[:, 0]
            return alpha.cpu().numpy(), tuple(part.float().cpu().numpy() for part in after)

    def close(self) -> None:
        """Release the network."""
        self._net = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # out of memory, a lost device, an unknown kernel: all are RuntimeErrors
            raise EngineError(f"{self.spec.name} on torch: {error}", runtime="torch") from error


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
