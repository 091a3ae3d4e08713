"""Engines: one network loaded on one runtime. The contract, the models that are shipped, and the lazy registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidseg.frame import Size


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a manifest (``engines/NAME/manifest.toml``) says of a model.

    Attributes:
        name: ``unet-s``.
        folder: Where its files lie.
        files: File name by role: ``onnx-fp32``, ``onnx-int8``, ``weights``.
        sha256: Checksum by file name; checked before a file is loaded.
        mean, std: The network's input is ``(rgb / 255 - mean) / std`` with RGB in the picture's own transfer.
        multiple: Height and width of the input are multiples of this.
        sizes: The input sizes it was trained for.
        licence: SPDX name.
        summary: One line for ``vidseg models``.
        architecture: Arguments of the PyTorch network (``{"kind": "unet", "channels": [...], "head": 16}``).
    """

    name: str
    folder: Path
    files: dict[str, str]
    sha256: dict[str, str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int
    sizes: tuple[Size, ...]
    licence: str
    summary: str
    architecture: dict[str, object]

    def size_for(self, size: Size) -> Size:
        """Return the input size whose aspect ratio is nearest to that of a frame of ``size``."""
        aspect = np.log(size[1] / size[0])
        return min(self.sizes, key=lambda s: abs(float(np.log(s[1] / s[0]) - aspect)))


class Engine(Protocol):
    """One network loaded on one runtime for one input size.

    Not thread-safe. The array that ``infer`` returns belongs to the caller.
    New runtimes are added to ``tests/test_runtimes.py``.
    """

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        ...

    @property
    def size(self) -> Size:
        """``(h, w)`` of its input and of the alpha."""
        ...

    @property
    def runtime(self) -> str:
        """Name, precision and device for a person: ``openvino int8 (CPU)``."""
        ...

    def infer(self, src: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return alpha ``(N, h, w)`` in [0, 1] for ``src`` ``(N, 3, h, w)``, normalised RGB, any N >= 1."""
        ...

    def close(self) -> None:
        """Release the network. May be called again."""
        ...
