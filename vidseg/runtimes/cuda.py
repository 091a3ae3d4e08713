"""What PyTorch says of an NVIDIA GPU: whether it works, why it failed, each as one line with the mend."""

from __future__ import annotations

import torch

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
