"""Engines: one network loaded on one runtime. The contract, the models that are shipped, and the lazy registry."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import logging
import platform
import tomllib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from vidseg.errors import EngineError, MissingDependencyError, ModelMismatchError
from vidseg.frame import Size

log = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16", "int8"]

State = tuple[npt.NDArray[np.float32], ...]
"""What a recurrent network carries from frame to frame, ``(N, c, h, w)`` each; empty at the start of a clip."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number that goes into a graph with every picture.

    Attributes:
        name: Of the input.
        value: What goes in.
        kind: Its dtype.
        shape: Ones, as many as the input has axes.
    """

    name: str
    value: float
    kind: Literal["float32", "int32", "int64"]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """How the graph of an ONNX file is to be used; the defaults are those of the files that vidseg writes.

    Attributes:
        src: Name of the picture's input.
        answer: Name of the output that is the alpha, or the probabilities of the classes.
        channels_last: Pictures are ``(N, H, W, 3)``.
        answer_last: Classes are ``(N, H, W, c)``.
        bgr: Blue comes first.
        half: Picture and states are float16.
        states: Names of the input and the output of each state; without any they are ``r1i`` and ``r1o`` ….
        scalars: What else goes in.
        activation: What makes numbers from 0 to 1 of the answer. None: that is to be found out by a picture.
    """

    src: str = "src"
    answer: str = "pha"
    channels_last: bool = False
    answer_last: bool = False
    bgr: bool = False
    half: bool = False
    states: tuple[tuple[str, str], ...] = ()
    scalars: tuple[Scalar, ...] = ()
    activation: Literal["", "sigmoid", "softmax"] | None = ""


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
        classes: What the network tells apart, in its order; empty if it answers with an alpha.
        states: Channels and stride of each recurrent state; (0, 0) where only the graph knows.
        kept: Which of the classes, by index, are the alpha together.
        resizable: Whether it takes other sizes than ``sizes``.
        wiring: How its ONNX files are to be used.
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
    classes: tuple[str, ...] = ()
    states: tuple[tuple[int, int], ...] = ()
    kept: tuple[int, ...] = ()
    resizable: bool = True
    wiring: Wiring = Wiring()

    def keeping(self, keep: Sequence[str] = ()) -> ModelSpec:
        """Return the model with these classes as what stays; without any, with ``person`` if it knows that.

        Raises:
            ValueError: It does not know one of them, or has no classes, or none was named and ``person`` is not one.
        """
        if not self.classes:
            if keep:
                raise ValueError(f"{self.name} has no classes to choose from, it finds people: {keep = }")
            return self
        if not keep and self.kept:
            return self
        names = tuple(keep) or ("person",)
        if unknown := [name for name in names if name not in self.classes]:
            raise ValueError(f"{self.name} does not know {', '.join(unknown)}: choose of {', '.join(self.classes)}")
        return replace(self, kept=tuple(sorted({self.classes.index(name) for name in names})))

    @property
    def state_names(self) -> tuple[tuple[str, str], ...]:
        """Input and output of each state in an ONNX graph."""
        return self.wiring.states or tuple((f"r{n}i", f"r{n}o") for n in range(1, len(self.states) + 1))

    def size_for(self, size: tuple[float, float]) -> Size:
        """Return the input size whose aspect ratio is nearest to that of a frame of ``size``."""
        aspect = np.log(size[1] / size[0])
        return min(self.sizes, key=lambda s: abs(float(np.log(s[1] / s[0]) - aspect)))

    def read(self, role: str) -> bytes:
        """Return the whole file of ``role``, checked against its sha256.

        The bytes that were checked are the bytes that are loaded. ONNX files come with the weights that lie in other
        files of their folder.

        Raises:
            EngineError: The manifest names no such file, it cannot be read, or it has weights outside its folder.
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
        if not role.startswith("onnx"):
            return data
        from vidseg.onnx_graph import gathered

        try:
            return gathered(data, self.folder, self.sha256)
        except ValueError as error:
            raise EngineError(f"{path} cannot be loaded: {error}", path=str(path)) from error


class Engine(Protocol):
    """One network loaded on one runtime for one input size.

    Not thread-safe. It remembers nothing: what a recurrent network carries goes in and out. The arrays that ``infer``
    returns belong to the caller.
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

    def infer(self, src: npt.NDArray[np.float32], state: State = ()) -> tuple[npt.NDArray[np.float32], State]:
        """Return alpha ``(N, h, w)`` in [0, 1] for ``src`` ``(N, 3, h, w)``, normalised RGB, and the state after it.

        Args:
            src: N >= 1 pictures that have nothing to do with one another: of as many streams, if the network is
                recurrent. Frames of one stream are given one call after another.
            state: What the call for the frames before returned; empty at the start of a clip. Networks without
                recurrence take and return an empty one.

        Raises:
            ValueError: ``src`` or ``state`` has another shape.
            EngineError: The runtime failed.
        """
        ...

    def close(self) -> None:
        """Release the network. May be called again."""
        ...


# --- models -----------------------------------------------------------------------------------------------------


def load_spec(model: str | Path = "unet-s") -> ModelSpec:
    """Read a model: a shipped one by name, any folder with a ``manifest.toml``, or somebody's own ONNX file.

    Raises:
        EngineError: There is no such model, its manifest cannot be read, or the ONNX file fits no use.
    """
    if Path(model).suffix.lower() == ".onnx":
        from vidseg.foreign import read_foreign

        return read_foreign(Path(model))
    folder = _folder(model)
    path = folder / "manifest.toml"
    try:
        manifest = tomllib.loads(path.read_text("utf-8"))
        files = {str(role): str(name) for role, name in manifest["files"].items()}
        if any(Path(name).name != name for name in files.values()):
            raise ValueError("a file lies outside the folder")
        classes = tuple(str(name) for name in manifest.get("classes", ()))
        if len(set(classes)) != len(classes) or len(classes) == 1:
            raise ValueError("classes are two or more different names")
        return ModelSpec(
            name=manifest["name"],
            folder=folder,
            files=files,
            sha256=manifest["sha256"],
            mean=triple(manifest["mean"]),
            std=triple(manifest["std"]),
            multiple=int(manifest["multiple"]),
            sizes=tuple((int(h), int(w)) for h, w in manifest["sizes"]),
            licence=manifest["licence"],
            summary=manifest["summary"],
            architecture=manifest["architecture"],
            classes=classes,
            states=tuple((int(channels), int(stride)) for channels, stride in manifest.get("states", ())),
            wiring=Wiring(answer="classes" if classes else "pha"),
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
        "or give a folder with a manifest.toml or an .onnx file",
        path=str(model),
    )


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Return three floats, one for each of red, green and blue.

    Raises:
        ValueError: There are not three of them, or they are no numbers.
    """
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
        compiled: It has to compile a network first, on an NVIDIA GPU, which takes a minute: ``auto`` begins with
            another row and lets this one follow. Its module is a ``vidseg.building.Compiler``, too.
        provider: The adapter is this one of the module's ``PROVIDERS``; ``auto`` never takes it.
    """

    name: str
    module: str
    extra: str
    gpu_only: bool = False
    compiled: bool = False
    provider: str = ""


_RUNTIMES = (
    _Runtime("tensorrt", "vidseg.runtimes.tensorrt", "tensorrt", compiled=True),
    _Runtime("torch", "vidseg.runtimes.torch", "torch", gpu_only=True),
    _Runtime("openvino", "vidseg.runtimes.openvino", "openvino"),
    _Runtime("onnxruntime", "vidseg.runtimes.ort", "onnxruntime"),
    *(
        _Runtime(f"onnxruntime-{name}", "vidseg.runtimes.ort", "onnxruntime", provider=name)
        for name in ("cuda", "directml", "coreml", "migraphx", "rocm", "openvino")
    ),
)
"""In the order in which ``auto`` tries them; then once more without regard to ``gpu_only``."""


class _Adapter(Protocol):
    def probe(self) -> str: ...

    def open(self, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> Engine: ...


def _adapter(runtime: _Runtime) -> _Adapter:
    if runtime.compiled and not _gpu():
        raise EngineError(
            f"runtime {runtime.name} needs an NVIDIA GPU and its driver, and none works here", runtime=runtime.name
        )
    try:
        module = importlib.import_module(runtime.module)
        return cast(_Adapter, module.PROVIDERS[runtime.provider] if runtime.provider else module)
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
    keep: Sequence[str] = (),
) -> Engine:
    """Load a model on a runtime.

    Args:
        model: Name of a shipped model, a folder with a ``manifest.toml``, an ONNX file, or a spec.
        runtime: ``auto`` (the best that works here; its name is in ``Engine.runtime``), or one by name, which is never
            replaced by another.
        size: Input size; None is the model's first.
        threads: CPU threads, each for a picture of its own; None is all cores, four at most.
        precision: ``fp32``, ``int8`` …; None is the fastest of the runtime on this machine.
        keep: Of a model that tells classes apart, those that stay; none is ``person``. The alpha is the sum of their
            probabilities.

    Raises:
        ValueError: There is no such runtime or class, or the model cannot take this size.
        MissingDependencyError: The runtime's library is not installed.
        EngineError: It is, but it does not work, or the model cannot be loaded.
    """
    spec = (model if isinstance(model, ModelSpec) else load_spec(model)).keeping(keep)
    size = spec.sizes[0] if size is None else size
    check_size(spec, size)
    if threads is not None and threads < 1:
        raise ValueError(f"at least one thread is needed: {threads = }")
    if runtime != "auto":
        rows = [row for row in _RUNTIMES if row.name == runtime]
        if not rows:
            raise ValueError(f"{runtime = } is not one of auto, {', '.join(row.name for row in _RUNTIMES)}")
        return _opened(rows[0], spec, size, threads, precision)
    with_gpu, rows = _automatic()
    for row in with_gpu:
        try:
            engine = _opened_on_gpu(row, spec, size, threads, precision)
        except ModelMismatchError:
            raise  # a damaged model is not mended by another runtime
        except MissingDependencyError as error:
            log.info("runtime %s was skipped: %s", row.name, error)
        except EngineError as error:
            log.warning("The GPU is not used (%s); the CPU computes the network", error)
        else:
            from vidseg.handover import Backed

            return _followed(Backed(engine, lambda: _first_of(rows, spec, size, threads, precision)), precision)
    return _followed(_first_of(rows, spec, size, threads, precision), precision)


def _first_of(
    rows: Sequence[_Runtime], spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None
) -> Engine:
    """Return the engine of the first row that works.

    Raises:
        EngineError: None does.
    """
    reasons = []
    for row in rows:
        try:
            return _opened(row, spec, size, threads, precision)
        except ModelMismatchError:
            raise
        except (EngineError, MissingDependencyError) as error:
            log.info("runtime %s was skipped: %s", row.name, error)
            reasons.append(f"{row.name}: {error}")
    raise EngineError("no runtime can run the network here:\n" + "\n".join(reasons), path=str(spec.folder))


def _opened_on_gpu(
    row: _Runtime, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None
) -> Engine:
    """Return an engine of PyTorch on the GPU; left to itself, a PyTorch that cannot use it would take the CPU."""
    _adapter(row)
    from vidseg.runtimes.cuda import check

    check("PyTorch cannot use it")
    return _opened(row, spec, size, threads, precision)


def check_size(spec: ModelSpec, size: Size) -> None:
    """Return if ``spec`` takes pictures of ``size``.

    Raises:
        ValueError: It does not.
    """
    if not spec.resizable and size not in spec.sizes:
        raise ValueError(f"{spec.name} takes {' or '.join(map(str, spec.sizes))} and nothing else: {size = }")
    if min(size) < 1 or size[0] % spec.multiple or size[1] % spec.multiple:
        raise ValueError(f"{spec.name} takes heights and widths that are multiples of {spec.multiple}: {size = }")


def _followed(engine: Engine, precision: Precision | None) -> Engine:
    """Return ``engine``, or, where a faster one can be compiled here, one that goes over to that when it is made."""
    for row in _RUNTIMES:
        # Asked without loading the library: that takes seconds, and another thread does it later.
        if row.compiled and importlib.util.find_spec(row.name) is not None and _gpu():
            from vidseg.handover import followed

            return followed(engine, row.module, engine.spec, engine.size, precision)
    return engine


def _opened(row: _Runtime, spec: ModelSpec, size: Size, threads: int | None, precision: Precision | None) -> Engine:
    """Return an engine that a picture went through: what cannot run says so now, and the first frame is fast."""
    adapter = _adapter(row)
    if spec.wiring.activation is None:
        everything = replace(spec, kept=tuple(range(len(spec.classes))))
        with closing(adapter.open(everything, size, threads, precision)) as engine:
            answer, _ = engine.infer(_anything(spec, size))
        # The probabilities of all classes are 1 together, an alpha is something between 0 and 1.
        done = answer.min() > (0.99 if spec.classes else -0.01) and answer.max() < 1.01
        activation: Literal["sigmoid", "softmax"] = "softmax" if spec.classes else "sigmoid"
        if not done:
            log.warning("%s answers with numbers that are no alpha: a %s is put behind it", spec.name, activation)
        spec = replace(spec, wiring=replace(spec.wiring, activation="" if done else activation))
    engine = adapter.open(spec, size, threads, precision)
    try:
        alpha, state = engine.infer(np.zeros((1, 3, *size), np.float32))
        if (
            alpha.shape != (1, *size)
            or not (alpha.min() >= -0.01 and alpha.max() <= 1.01)
            or len(state) != len(spec.states)
        ):
            raise ModelMismatchError(
                f"{spec.folder} on {engine.runtime} does not return an alpha: its files are not the network that its "
                "manifest describes",
                path=str(spec.folder),
                runtime=engine.runtime,
            )
    except BaseException:
        engine.close()
        raise
    return engine


def _anything(spec: ModelSpec, size: Size) -> npt.NDArray[np.float32]:
    """Return pictures ``(3, 3, h, w)`` that make a network say something: noise, a wall, light beside dark."""
    rgb = np.random.default_rng(0).random((3, 3, *size), np.float32)
    rgb[1] = 0.9
    rgb[2, :, :, : size[1] // 2] = 0.1
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return np.asarray((rgb - mean) / std, np.float32)


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


def compiler_module(runtime: str = "tensorrt") -> str:
    """Return the module of a runtime that compiles: a ``vidseg.building.Compiler``.

    Raises:
        MissingDependencyError, EngineError: It is of no use here.
    """
    row = next(row for row in _RUNTIMES if row.compiled and row.name == runtime)
    _adapter(row).probe()
    return row.module


def _automatic() -> tuple[list[_Runtime], list[_Runtime]]:
    """Return what ``auto`` tries on the GPU that is there, and what it tries then."""
    rows = [row for row in _RUNTIMES if not row.compiled and not row.provider]
    on_gpu = [row for row in rows if row.gpu_only]
    return (on_gpu if _gpu() else []), [row for row in rows if row not in on_gpu] + on_gpu


def has_gpu() -> bool:
    """Return whether there is an NVIDIA GPU with a driver, without loading anything heavy."""
    return _gpu()


def _gpu() -> bool:
    """Whether an NVIDIA driver is installed: asked of the system, because importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
