"""PyTorch: the float32 reference on a CPU, float16 on an NVIDIA GPU, and Apple's GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidseg.engine import ModelSpec, Precision, State
from vidseg.errors import EngineError
from vidseg.frame import Size
from vidseg.networks import load
from vidseg.runtimes import blank_state, checked, checked_state
from vidseg.runtimes.cuda import reason_of, to_device, to_host
from vidseg.runtimes.replay import Replay

Net = TypeVar("Net", bound=nn.Module)
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BATCHES = (1, 2, 4, 8)
"""Pictures for which a GPU's launches are recorded; a batch between two is filled up, a larger one launched anew."""


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
        with self._errors():
            self._device = torch.empty(0, device=device or _device()).device  # with its number
        precision = precision or ("fp32" if self._device.type == "cpu" else "fp16")
        if precision not in _DTYPES:
            raise EngineError(f"runtime torch knows {', '.join(_DTYPES)}, not {precision}", runtime="torch")
        if precision == "fp16" and self._device.type == "cpu":
            raise EngineError("torch computes fp16 on a CPU 5 times slower than fp32: ask for fp32", runtime="torch")
        self.runtime = f"torch {precision} ({_device_name(self._device)})"
        self._dtype = _DTYPES[precision]
        self._threads = threads
        self._replays: dict[int, Replay] = {}
        net = load(spec.architecture, spec.read("weights"), spec.name)
        with self._errors():
            self._net: nn.Module | None = fuse(net.eval()).to(
                self._device,
                self._dtype,
                memory_format=torch.channels_last,  # type: ignore[call-overload]
            )
            if self._device.type == "cuda":  # recording takes longer than a frame of a live stream may
                with torch.inference_mode():
                    for batch in _BATCHES:
                        pictures = torch.zeros((batch, 3, *size), device=self._device)
                        self._replays[batch] = Replay(self._forward, pictures, *self._blank(batch))

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` for ``src`` ``(N, 3, h, w)``, and the state after it."""
        src, state = checked(src, self.size), checked_state(self.spec, state, len(src))
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # PyTorch knows one number for the whole process
        with self._errors():
            pictures, *before = (to_device(part, self._device) for part in (src, *state))
            alpha, after = self.infer_on_device(pictures, tuple(before))
            return to_host(alpha).numpy(), tuple(to_host(part).numpy() for part in after)

    def infer_on_device(self, src: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the same for tensors that lie on the device already, without a way over the host.

        Args:
            src: float32 ``(N, 3, h, w)``, as ``infer`` takes it.
            state: What the call before returned.

        Returns:
            Alpha ``(N, h, w)`` and the state, float32, of the caller and good on the current stream.
        """
        net = self._net
        if net is None:
            raise EngineError("the engine is closed", runtime=self.runtime)
        if src.device != self._device or src.shape[1:] != (3, *self.size):
            raise ValueError(
                f"this engine takes (N, 3, {self.size[0]}, {self.size[1]}) on {self._device}: "
                f"{tuple(src.shape)} on {src.device}"
            )
        with self._errors(), torch.inference_mode():
            count = len(src)
            # On a GPU a state is always given: a recording has as many inputs every time.
            before = state or (self._blank(count) if self._device.type == "cuda" else ())
            batch = next((batch for batch in _BATCHES if batch >= count), count)
            if self._device.type != "cuda" or batch > _BATCHES[-1]:
                alpha, *after = self._forward(src, *before)
                return alpha, tuple(after)
            if batch > count:
                src, *filled = (
                    torch.cat([part, part[:1].expand(batch - count, *part.shape[1:])]) for part in (src, *before)
                )
                before = tuple(filled)
            alpha, *after = (part[:count].clone() for part in self._replays[batch](src, *before))
            return alpha, tuple(after)

    def _forward(self, src: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return alpha and the state after it, float32."""
        assert self._net is not None
        pictures = src.to(self._dtype, memory_format=torch.channels_last)
        logits, after = self._net(pictures, tuple(part.to(self._dtype) for part in state))
        logits = logits.float()
        alpha = logits.softmax(1)[:, self.spec.kept].sum(1) if self.spec.classes else logits.sigmoid()[:, 0]
        return (alpha, *(part.float() for part in after))

    def _blank(self, count: int) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros((count, *part.shape[1:]), device=self._device) for part in blank_state(self.spec, self.size)
        )

    def close(self) -> None:
        """Release the network."""
        self._net = None
        self._replays.clear()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # out of memory, a lost device, an unknown kernel: all are RuntimeErrors
            raise EngineError(f"{self.spec.name} on torch: {reason_of(error)}", runtime="torch") from error


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
