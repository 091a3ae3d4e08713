"""Engines: one network loaded on one runtime. The contract, the models that are shipped, and the lazy registry."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from vidseg.errors import EngineError, MissingDependencyError, ModelMismatchError
from vidseg.frame import Size

log = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16", "int8"]


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

    def size_for(self, size: tuple[float, float]) -> Size:
        """Return the input size whose aspect ratio is nearest to that of a frame of ``size``."""
        aspect = np.log(size[1] / size[0])
        return min(self.sizes, key=lambda s: abs(float(np.log(s[1] / s[0]) - aspect)))

    def read(self, role: str) -> bytes:
        """Return the whole file of ``role``, checked against its sha256.

        The bytes that were checked are the bytes that are loaded; the files are a few megabytes.

        Raises:
            EngineError: The manifest names no such file, or it cannot be read.
            ModelMismatchError: It is not the file that the manifest describes.
        """
        if role not in self.files:
            raise EngineError(f"model {self.name} has no {role} file: its manifest lists {', '.join(self.files)}")
        path = self.folder / self.files[role]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise EngineError(
                f"{path} cannot be read ({error.strerror}): install the model again", path=str(path)
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256.get(path.name):
            raise ModelMismatchError(
                f"{path} is not the file that {self.folder / 'manifest.toml'} describes (sha256 differs): "
                "install the model again, or export it anew",
                path=str(path),
            )
        return data


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
        """Return alpha ``(N, h, w)`` in [0, 1] for ``src`` ``(N, 3, h, w)``, normalised RGB, any N >= 1.

        Raises:
            ValueError: ``src`` has another shape.
            EngineError: The runtime failed.
        """
        ...

    def close(self) -> None:
        """Release the network. May be called again."""
        ...


# --- models -----------------------------------------------------------------------------------------------------


def load_spec(model: str | Path = "unet-s") -> ModelSpec:
    """Read the manifest of a shipped model, by name, or of any folder with a ``manifest.toml``.

    Raises:
        EngineError: There is no such model, or its manifest cannot be read.
    """
    folder = _folder(model)
    path = folder / "manifest.toml"
    try:
        manifest = tomllib.loads(path.read_text("utf-8"))
        files = {str(role): str(name) for role, name in manifest["files"].items()}
        if any(Path(name).name != name for name in files.values()):
            raise ValueError("a file lies outside the folder")
        return ModelSpec(
            name=manifest["name"],
            folder=folder,
            files=files,
            sha256=manifest["sha256"],
            mean=_triple(manifest["mean"]),
            std=_triple(manifest["std"]),
            multiple=int(manifest["multiple"]),
            sizes=tuple((int(h), int(w)) for h, w in manifest["sizes"]),
            licence=manifest["licence"],
            summary=manifest["summary"],
            architecture=manifest["architecture"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{path} is not a model's manifest ({error!r}): export the model anew", path=str(path)
        ) from error


def list_models() -> list[ModelSpec]:
    """Return the shipped models, by name."""
    return [load_spec(path.parent) for root in _roots() for path in sorted(root.glob("*/manifest.toml"))]


def _roots() -> list[Path]:
    """Return where models are shipped: inside an installed package, or beside it in a checkout. The first wins."""
    package = Path(__file__).resolve().parent
    return [root for root in (package / "engines", package.parent / "engines") if root.is_dir()][:1]


def _folder(model: str | Path) -> Path:
    for root in _roots():
        if isinstance(model, str) and (root / model / "manifest.toml").is_file() and Path(model).name == model:
            return root / model
    if (Path(model) / "manifest.toml").is_file():
        return Path(model)
    names = ", ".join(path.parent.name for root in _roots() for path in sorted(root.glob("*/manifest.toml")))
    raise EngineError(
        f"there is no model {str(model)!r}: choose one of {names or 'none (this installation carries no models)'}, "
        "or give a folder with a manifest.toml",
        path=str(model),
    )


def _triple(values: list[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


# --- runtimes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Runtime:
    """One row of the registry.

    Attributes:
        name: What ``--runtime`` takes.
        module: Adapter with ``probe() -> str`` (what it runs on; ``ImportError`` if its library is not installed,
            ``EngineError`` if it is of no use here) and ``open(spec, size, threads, precision) -> Engine``.
        extra: ``pip install 'vidseg[extra]'`` mends a missing library.
        gpu_only: ``auto`` takes it only where there is a GPU: on a CPU another row is faster.
    """

    name: str
    module: str
    extra: str
    gpu_only: bool = False


_RUNTIMES = (
    # TensorRT goes here, first: where it is usable, nothing is faster.
    _Runtime("torch", "vidseg.runtimes.torch", "torch", gpu_only=True),
    _Runtime("openvino", "vidseg.runtimes.openvino", "openvino"),
    _Runtime("onnxruntime", "vidseg.runtimes.ort", "onnxruntime"),
)
"""In the order in which ``auto`` tries them; then once more without regard to ``gpu_only``."""


class _Adapter(Protocol):
    def probe(self) -> str: ...

    def open(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> Engine: ...


def _adapter(runtime: _Runtime) -> _Adapter:
    try:
        return cast(_Adapter, importlib.import_module(runtime.module))
    except ImportError as error:
        # A library that is there but broken (a missing libc symbol, say) must not be reported as not installed.
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("vidseg"):
            raise MissingDependencyError(f"runtime {runtime.name}", runtime.extra) from error
        raise EngineError(f"runtime {runtime.name} cannot be loaded: {error}", runtime=runtime.name) from error


def open_engine(
    model: str | Path | ModelSpec = "unet-s",
    runtime: str = "auto",
    size: Size | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
) -> Engine:
    """Load a model on a runtime.

    Args:
        model: Name of a shipped model, a folder with a ``manifest.toml``, or a spec.
        runtime: ``auto`` (the best that works here; its name is in ``Engine.runtime``), or one by name, which is never
            replaced by another.
        size: Input size; None is the model's first.
        threads: CPU threads, each for a picture of its own; None is all cores, four at most.
        precision: ``fp32``, ``int8`` …; None is the fastest of the runtime on this machine.

    Raises:
        ValueError: There is no such runtime, or the model cannot take this size.
        MissingDependencyError: The runtime's library is not installed.
        EngineError: It is, but it does not work, or the model cannot be loaded.
    """
    spec = model if isinstance(model, ModelSpec) else load_spec(model)
    size = spec.sizes[0] if size is None else size
    if min(size) < 1 or size[0] % spec.multiple or size[1] % spec.multiple:
        raise ValueError(f"{spec.name} takes heights and widths that are multiples of {spec.multiple}: {size = }")
    if threads is not None and threads < 1:
        raise ValueError(f"at least one thread is needed: {threads = }")
    if runtime != "auto":
        rows = [row for row in _RUNTIMES if row.name == runtime]
        if not rows:
            raise ValueError(f"{runtime = } is not one of auto, {', '.join(row.name for row in _RUNTIMES)}")
        return _proved(_adapter(rows[0]).open(spec, size, threads, precision))
    reasons = []
    for row in _automatic():
        try:
            return _proved(_adapter(row).open(spec, size, threads, precision))
        except ModelMismatchError:
            raise  # a damaged model is not mended by another runtime
        except (EngineError, MissingDependencyError) as error:
            log.info("runtime %s was skipped: %s", row.name, error)
            reasons.append(f"{row.name}: {error}")
    raise EngineError("no runtime can run the network here:\n" + "\n".join(reasons), path=str(spec.folder))


def _proved(engine: Engine) -> Engine:
    """Return ``engine`` once a picture went through it: what cannot run says so now, and the first frame is fast."""
    try:
        alpha = engine.infer(np.zeros((1, 3, *engine.size), np.float32))
        if alpha.shape != (1, *engine.size) or not (alpha.min() >= -0.01 and alpha.max() <= 1.01):
            raise ModelMismatchError(
                f"{engine.spec.folder} on {engine.runtime} does not return an alpha: its files are not the network "
                "that its manifest describes",
                path=str(engine.spec.folder),
                runtime=engine.runtime,
            )
    except BaseException:
        engine.close()
        raise
    return engine


def list_runtimes() -> list[tuple[str, bool, str]]:
    """Return ``(name, usable, detail)`` for every runtime; the detail is what it runs on, or the reason and the mend.

    Loads every runtime's library, which may take seconds.
    """
    rows = []
    for runtime in _RUNTIMES:
        try:
            rows.append((runtime.name, True, _adapter(runtime).probe()))
        except (EngineError, MissingDependencyError) as error:
            rows.append((runtime.name, False, str(error)))
    return rows


def _automatic() -> list[_Runtime]:
    fast = [row for row in _RUNTIMES if not row.gpu_only or _gpu()]
    return fast + [row for row in _RUNTIMES if row not in fast]


def _gpu() -> bool:
    """Whether an NVIDIA driver is installed: asked of the system, because importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
