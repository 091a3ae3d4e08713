"""PyTorch and an NVIDIA GPU: whether it works, and why it failed, as one line; copies to it and from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.errors import EngineError


def check(what: str, otherwise: str = "") -> None:
    """Return if PyTorch can use an NVIDIA GPU here.

    Args:
        what: Wants one: the text begins with it.
        otherwise: What can be done instead: the text ends with it.

    Raises:
        EngineError: It cannot; the text says why, and what mends it.
    """
    try:
        torch.cuda.init()
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch that was built without CUDA
        mend = (
            "install PyTorch from a CUDA wheel (https://pytorch.org/get-started)"
            if torch.version.cuda is None
            else "install or update NVIDIA's driver"
        )
        raise EngineError(f"{what} ({reason_of(error)}): {mend}{otherwise}") from error


def reason_of(error: Exception) -> str:
    """Return why PyTorch failed, as one line for a person, with the mend where there is one."""
    first = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    if isinstance(error, torch.OutOfMemoryError):
        return f"{first}: end what else uses the GPU, or compute on the CPU"
    if "no kernel image" in first:
        return f"this PyTorch was built for other GPUs ({first}): install it from the wheel of another CUDA"
    if type(error).__name__ == "AcceleratorError":  # PyTorch 2.8 and later
        return f"the GPU is lost to this process ({first}): begin anew, and see what its driver says"
    return first


def to_device(array: npt.NDArray[np.float32], device: torch.device) -> Tensor:
    """Return a copy on ``device``, good on its current stream; nobody waits for it."""
    if device.type != "cuda":
        return torch.tensor(array, device=device)
    # Pinned memory is kept by PyTorch, and given out again once the copy is over: two buffers take turns.
    staging = torch.empty(array.shape, dtype=torch.float32, pin_memory=True)
    staging.numpy()[...] = array
    return staging.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Return a copy in the host's memory, once it is there."""
    if not tensor.is_cuda:
        return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return copy
